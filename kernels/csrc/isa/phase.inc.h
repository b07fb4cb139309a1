// Computation of one tile through a layer. Included once per instruction set.
#pragma once

struct Buffers {
  float* context;
  float* wide;
  float* sum;
  std::uint8_t* planar;
  std::uint8_t* blocks;
  float* scores;
  float* near;
  float* token;
  const Profile* profile;
};

SPARSERVE_INLINE Buffers buffers(const Scratch& layout, std::uint8_t* scratch, const Profile* profile) {
  const auto floats = [&](std::size_t offset) { return reinterpret_cast<float*>(scratch + offset); };
  return {floats(layout.context),         floats(layout.wide),   floats(layout.sum), scratch + layout.bytes_planar,
          scratch + layout.bytes_blocks, floats(layout.scores), floats(layout.near), floats(layout.token), profile};
}

template <int V>
SPARSERVE_INLINE Input<V> input_of(const float* x, const Buffers& b) {
  return {x, b.planar, b.blocks, b.token, b.profile};
}

// Store finished rows times a factor, in tile order.
template <int V>
struct StoreScaled {
  float* out;
  float factor;
  void operator()(std::uint32_t row, const F32 (&y)[V]) const {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v)
      store(out + std::size_t{row} * V * kLanes + v * kLanes, mul(y[v], broadcast(factor)));
  }
  SPARSERVE_MEMBER void prefetch(std::uint32_t) const {}
};

template <int V>
struct StoreActivated {
  float* out;
  std::uint32_t activation;
  bool coarse;  // the result is quantized next
  bool gated;   // `out` holds factors
  // The usual case is inlined: a call for each row would take as long as its GELU.
  SPARSERVE_MEMBER void operator()(std::uint32_t row, const F32 (&y)[V]) const {
    if (activation != 1 || !coarse || gated) return store_any(row, y);
    F32 a[V];
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) a[v] = y[v];
    coarse_gelu(a);
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) store(out + std::size_t{row} * V * kLanes + v * kLanes, a[v]);
  }
  SPARSERVE_MEMBER void prefetch(std::uint32_t) const {}
  void store_any(std::uint32_t row, const F32 (&y)[V]) const {
    F32 a[V];
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) a[v] = y[v];
    activate(a, activation, coarse);
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) {
      float* to = out + std::size_t{row} * V * kLanes + v * kLanes;
      store(to, gated ? mul(a[v], load(to)) : a[v]);
    }
  }
};

// Add finished rows to the residual stream, in place.
template <int V>
struct AddTo {
  float* stream;
  void operator()(std::uint32_t row, const F32 (&y)[V]) const {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) {
      float* to = stream + std::size_t{row} * V * kLanes + v * kLanes;
      store(to, add(load(to), y[v]));
    }
  }
  SPARSERVE_MEMBER void prefetch(std::uint32_t row) const {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; v += 64 / (4 * kLanes)) __builtin_prefetch(stream + (std::size_t{row} * V + v) * kLanes, 1);
  }
};

// Store keys or values: each vector goes to the buffer of its sequence.
template <int V>
struct StoreToSequences {
  float* to[V];
  std::size_t stride[V];
  void operator()(std::uint32_t row, const F32 (&y)[V]) const {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) store(to[v] + row * stride[v], y[v]);
  }
  SPARSERVE_MEMBER void prefetch(std::uint32_t row) const {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) __builtin_prefetch(to[v] + row * stride[v], 1);
  }
};

SPARSERVE_INLINE std::uint32_t sequence_of(const Run& run, std::uint32_t vector, std::uint32_t sequence) {
  while (vector >= run.sequences[sequence].first_vector + run.sequences[sequence].stride / kLanes) ++sequence;
  return sequence;
}

// Call visit(vector, sequence, position of its first lane) for every vector of the tile.
template <int V, class Visit>
SPARSERVE_INLINE void each_vector(const Run& run, const Tile& tile, Visit visit) {
  std::uint32_t s = tile.first_sequence;
  for (std::uint32_t v = 0; v < V; ++v) {
    s = sequence_of(run, tile.first_vector + v, s);
    const Sequence& sequence = run.sequences[s];
    visit(v, sequence, (tile.first_vector + v - sequence.first_vector) * kLanes);
  }
}

// Row-major input [tokens, hidden] into the tile's [hidden][V * kLanes]; lanes after a sequence's end are zero.
template <int V>
void read_input(const Run& run, const Tile& tile, float* x) {
  const Stopwatch watch(run.profile, kLayoutStage);
  each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence& sequence, std::uint32_t position) {
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      float* to = x + v * kLanes + lane;
      if (position + lane < sequence.tokens) {
        const float* from = run.input + (sequence.batch_index * run.length + position + lane) * run.hidden;
        for (std::uint32_t f = 0; f < run.hidden; ++f) to[std::size_t{f} * V * kLanes] = from[f];
      } else {
        for (std::uint32_t f = 0; f < run.hidden; ++f) to[std::size_t{f} * V * kLanes] = 0.0F;
      }
    }
  });
}

template <int V>
void write_output(const Run& run, const Tile& tile, const float* x) {
  const Stopwatch watch(run.profile, kLayoutStage);
  each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence& sequence, std::uint32_t position) {
    for (std::uint32_t lane = 0; lane < kLanes && position + lane < sequence.tokens; ++lane) {
      const float* from = x + v * kLanes + lane;
      float* to = run.output + (sequence.batch_index * run.length + position + lane) * run.hidden;
      for (std::uint32_t f = 0; f < run.hidden; ++f) to[f] = from[std::size_t{f} * V * kLanes];
    }
  });
}

// The tables of relative positions of the head that begins at feature `row`; null stays null.
SPARSERVE_INLINE Relative of_head(const Relative& relative, std::size_t row) {
  if (relative.keys == nullptr) return relative;
  const std::size_t at = row * relative.stride;
  return {relative.keys + at, relative.queries + at, relative.stride};
}

// Return true if a layer's attention is computed in bytes; with bands or relative positions it is in floats.
SPARSERVE_INLINE bool in_bytes(const Run& run, std::uint32_t index) {
  const PackedLayer& layer = run.layers[index];
  const bool plain = layer.band == kNoBand && layer.relative.keys == nullptr && layer.relative.queries == nullptr;
  return run.int8_attention && plain && !(run.first_token_only && index + 1 == run.layer_count);
}

template <int V>
void attention_tile(const Run& run, std::uint32_t layer, const Tile& tile, const float* queries, const Buffers& b) {
  const Stopwatch watch(run.profile, kAttentionStage);
  const std::uint32_t heads = run.layers[layer].query.rows / run.head_dim;
  const std::uint32_t band = run.layers[layer].band;
  const int parity = layer & 1;
  constexpr std::size_t stride = V * kLanes;
  // Head by head: the queries of a tile find a head's keys and values in a near cache.
  for (std::uint32_t h = 0; h < heads; ++h) {
    const std::size_t row = std::size_t{h} * run.head_dim;
    const Relative relative = of_head(run.layers[layer].relative, row);
    std::uint32_t s = tile.first_sequence;
    std::uint32_t n = 0;
    for (std::uint32_t v = 0; v < V; v += n) {
      s = sequence_of(run, tile.first_vector + v, s);
      const Sequence& sequence = run.sequences[s];
      const std::uint32_t here = tile.first_vector + v - sequence.first_vector;
      const std::uint32_t left = sequence.stride / kLanes - here;
      n = V - v < left ? V - v : left;
      if (n > static_cast<std::uint32_t>(kAttentionVectors)) n = kAttentionVectors;
      const std::uint32_t position = here * kLanes;
      const float* q = queries + row * stride + v * kLanes;
      const float* k = run.keys[parity] + sequence.buffer * run.max_width + row * sequence.stride;
      const float* w = run.values[parity] + sequence.buffer * run.max_width + row * sequence.stride;
      const float* bias = nullptr;
      if (run.position_bias != nullptr)
        bias = run.position_bias + sequence.batch_index * run.position_bias_batch_stride +
               std::size_t{h} * run.length * run.length + position;
      const auto bias_queries = static_cast<std::uint32_t>(run.length - position);
      float* out = b.context + row * stride + v * kLanes;
      const auto with = [&]<int N>() {
        if (in_bytes(run, layer)) {
          // The linears' interleaved bytes are not in use now.
          attend_bytes<N>(q, stride, k, w, sequence, run.head_dim, bias, run.length, bias_queries, out, b.scores,
                          b.blocks);
        } else {
          const Reach reach{position, N * kLanes, band};
          attend<N>(q, stride, k, w, sequence, run.head_dim, reach, relative, run.positions - 1, bias, run.length,
                    bias_queries, out, b.scores, b.near);
        }
      };
      switch (n) {
        case 1: with.template operator()<1>(); break;
        case 2: with.template operator()<2>(); break;
        case 3: if constexpr (kAttentionVectors > 2) with.template operator()<3>(); break;
        default: if constexpr (kAttentionVectors > 2) with.template operator()<4>(); break;
      }
    }
  }
}

// LayerNorm of `x` [hidden][V * kLanes], in place.
template <int V>
void normalize(const Run& run, const PackedNorm& norm, float* x) {
  const Stopwatch watch(run.profile, kNormStage);
  layer_norm<V>(x, x, run.hidden, norm.weight, norm.bias, run.epsilon);
}

// Return the activations that the linears behind the residual stream `x` read: `x`, or its norm in `scratch`.
template <int V>
const float* read_stream(const Run& run, const PackedNorm& norm, const float* x, float* scratch) {
  if (!run.pre_norm || norm.weight == nullptr) return x;
  const Stopwatch watch(run.profile, kNormStage);
  layer_norm<V>(x, scratch, run.hidden, norm.weight, norm.bias, run.epsilon);
  return scratch;
}

// After attention: output projection and feed-forward with their norms; `x` [hidden][V * kLanes] in place.
template <int V>
void finish_layer(const Run& run, const PackedLayer& layer, float* x, const Buffers& b) {
  Input<V> context = input_of<V>(b.context, b);
  linear<V>(layer.attention_output, context, b.sum, kAttentionOutputStage, AddTo<V>{x});
  if (!run.pre_norm) normalize<V>(run, layer.attention_norm, x);
  Input<V> hidden = input_of<V>(read_stream<V>(run, layer.output_norm, x, b.context), b);
  const bool gated = layer.gate.rows != 0;
  if (gated) linear<V>(layer.gate, hidden, b.sum, kIntermediateStage, StoreScaled<V>{b.wide, 1.0F});
  linear<V>(layer.intermediate, hidden, b.sum, kIntermediateStage,
            StoreActivated<V>{b.wide, run.activation, is_int(layer.output), gated});
  Input<V> wide = input_of<V>(b.wide, b);
  linear<V>(layer.output, wide, b.sum, kOutputStage, AddTo<V>{x});
  if (!run.pre_norm) normalize<V>(run, layer.output_norm, x);
}

// Keys and values of a tile in bytes; the feed-forward's buffer is free and holds them in floats.
template <int V>
void project_bytes(const Run& run, std::uint32_t index, const Tile& tile, Input<V>& in, float* queries,
                   const Buffers& b) {
  const PackedLayer& layer = run.layers[index];
  constexpr std::size_t stride = V * kLanes;
  const auto each_head = [&](float* buffer, auto store_head) {
    const Stopwatch watch(b.profile, kQuantizeStage);
    each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence& sequence, std::uint32_t position) {
      for (std::size_t row = 0; row < layer.key.rows; row += run.head_dim)
        store_head(b.wide + row * stride + v * kLanes, stride, run.head_dim,
                   buffer + sequence.buffer * run.max_width + row * sequence.stride, sequence.stride, position);
    });
  };
  linear<V>(layer.key, in, b.sum, kProjectStage, StoreScaled<V>{b.wide, 1.0F});
  if (layer.rotary.cosines != nullptr) {
    each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence&, std::uint32_t position) {
      float* const both[] = {queries, b.wide};
      for (float* x : both)
        rotate(x + v * kLanes, stride, layer.key.rows, run.head_dim, layer.rotary, position);
    });
  }
  each_head(run.keys[index & 1], [](auto... a) { store_byte_keys(a...); });
  linear<V>(layer.value, in, b.sum, kProjectStage, StoreScaled<V>{b.wide, 1.0F});
  each_head(run.values[index & 1], [](auto... a) { store_byte_values(a...); });
}

template <int V>
void project(const Run& run, std::uint32_t index, const Tile& tile, const float* x, float* queries, const Buffers& b,
             bool with_queries) {
  const PackedLayer& layer = run.layers[index];
  Input<V> in = input_of<V>(read_stream<V>(run, layer.attention_norm, x, b.context), b);
  if (with_queries) linear<V>(layer.query, in, b.sum, kProjectStage, StoreScaled<V>{queries, run.query_factor});
  if (in_bytes(run, index)) return project_bytes<V>(run, index, tile, in, queries, b);
  StoreToSequences<V> keys{}, values{};
  each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence& sequence, std::uint32_t position) {
    const std::size_t at = sequence.buffer * run.max_width + position;
    keys.to[v] = run.keys[index & 1] + at;
    values.to[v] = run.values[index & 1] + at;
    keys.stride[v] = values.stride[v] = sequence.stride;
  });
  linear<V>(layer.key, in, b.sum, kProjectStage, keys);
  linear<V>(layer.value, in, b.sum, kProjectStage, values);
  if (layer.rotary.cosines == nullptr) return;
  const Stopwatch watch(run.profile, kProjectStage);
  each_vector<V>(run, tile, [&](std::uint32_t v, const Sequence&, std::uint32_t position) {
    rotate(keys.to[v], keys.stride[v], layer.key.rows, run.head_dim, layer.rotary, position);
    if (with_queries) rotate(queries + v * kLanes, V * kLanes, layer.query.rows, run.head_dim, layer.rotary, position);
  });
}

template <int V>
void phase_tile(const Run& run, std::uint32_t phase, std::uint32_t index, const Scratch& layout,
                std::uint8_t* scratch) {
  const Tile& tile = run.tiles[index];
  const Buffers b = buffers(layout, scratch, run.profile);
  float* x = run.states + std::size_t{tile.first_vector} * kLanes * run.hidden;
  float* queries = run.queries + std::size_t{tile.first_vector} * kLanes * run.max_width;
  if (phase == 0) {
    read_input<V>(run, tile, x);
  } else {
    attention_tile<V>(run, phase - 1, tile, queries, b);
    finish_layer<V>(run, run.layers[phase - 1], x, b);
  }
  if (phase == run.layer_count) {
    if (run.final_norm.weight != nullptr) normalize<V>(run, run.final_norm, x);
    write_output<V>(run, tile, x);
  } else {
    project<V>(run, phase, tile, x, queries, b, !(run.first_token_only && phase + 1 == run.layer_count));
  }
}

// The last layer when only each sequence's first token is read; keys and values of all tokens are known.
template <int V>
void first_tokens_tile(const Run& run, std::uint32_t first, std::uint32_t count, const Scratch& layout,
                       std::uint8_t* scratch) {
  const Buffers b = buffers(layout, scratch, run.profile);
  constexpr std::size_t stride = V * kLanes;
  const std::uint32_t index = run.layer_count - 1;
  const PackedLayer& layer = run.layers[index];
  const std::uint32_t heads = layer.query.rows / run.head_dim;
  // The feed-forward's buffer is free until finish_layer and holds the queries; the gathered states follow `token`.
  float* x = b.token + 2 * stride;
  float* queries = b.wide;
  for (std::uint32_t lane = 0; lane < stride; ++lane) {
    const float* state = nullptr;
    std::size_t tile_stride = 0;
    if (lane < count) {
      const std::uint32_t vector = run.sequences[first + lane].first_vector;
      std::uint32_t t = 0;
      while (run.tiles[t].first_vector + run.tiles[t].vectors <= vector) ++t;
      tile_stride = std::size_t{run.tiles[t].vectors} * kLanes;
      state = run.states + std::size_t{run.tiles[t].first_vector} * kLanes * run.hidden +
              (vector - run.tiles[t].first_vector) * kLanes;
    }
    for (std::uint32_t f = 0; f < run.hidden; ++f)
      x[f * stride + lane] = state != nullptr ? state[f * tile_stride] : 0.0F;
  }
  // No rotation: the first position's angles are zero.
  Input<V> in = input_of<V>(read_stream<V>(run, layer.attention_norm, x, b.context), b);
  linear<V>(layer.query, in, b.sum, kProjectStage, StoreScaled<V>{queries, run.query_factor});
  for (std::uint32_t lane = 0; lane < stride; ++lane) {
    if (lane >= count) {
      for (std::uint32_t row = 0; row < layer.query.rows; ++row) b.context[row * stride + lane] = 0.0F;
      continue;
    }
    const Sequence& sequence = run.sequences[first + lane];
    for (std::uint32_t h = 0; h < heads; ++h) {
      const std::size_t row = std::size_t{h} * run.head_dim;
      const std::size_t at = sequence.buffer * run.max_width + row * sequence.stride;
      const float* bias = nullptr;
      if (run.position_bias != nullptr)
        bias = run.position_bias + sequence.batch_index * run.position_bias_batch_stride +
               std::size_t{h} * run.length * run.length;
      attend_one(queries + row * stride + lane, stride, run.keys[index & 1] + at, run.values[index & 1] + at, sequence,
                 run.head_dim, layer.band, of_head(layer.relative, row), bias, run.length,
                 b.context + row * stride + lane, b.scores);
    }
  }
  finish_layer<V>(run, layer, x, b);
  if (run.final_norm.weight != nullptr) normalize<V>(run, run.final_norm, x);
  for (std::uint32_t lane = 0; lane < count; ++lane) {
    float* to = run.output + std::size_t{run.sequences[first + lane].batch_index} * run.hidden;
    for (std::uint32_t f = 0; f < run.hidden; ++f) to[f] = x[f * stride + lane];
  }
}

template <int V>
void linear_tile(const PackedMatrix& m, const float* input, float* output, std::uint32_t tokens, const Scratch& layout,
                 std::uint8_t* scratch) {
  const Buffers b = buffers(layout, scratch, nullptr);
  constexpr std::size_t stride = V * kLanes;
  for (std::uint32_t lane = 0; lane < stride; ++lane)
    for (std::uint32_t f = 0; f < m.columns; ++f)
      b.context[f * stride + lane] = lane < tokens ? input[std::size_t{lane} * m.columns + f] : 0.0F;
  Input<V> in = input_of<V>(b.context, b);
  linear<V>(m, in, b.sum, kProjectStage, StoreScaled<V>{b.wide, 1.0F});
  for (std::uint32_t token = 0; token < tokens; ++token)
    for (std::uint32_t row = 0; row < m.rows; ++row)
      output[std::size_t{token} * m.rows + row] = b.wide[row * stride + token];
}

// Call `with<V>()` for the number of vectors known at run time.
template <int V = 1, class Function>
SPARSERVE_INLINE void for_vectors(std::uint32_t vectors, const Function& with) {
  if (vectors == V) return with.template operator()<V>();
  if constexpr (V < kMaxVectors) for_vectors<V + 1>(vectors, with);
}

void phase_any(const Run& run, std::uint32_t phase, std::uint32_t tile, const Scratch& layout, std::uint8_t* scratch) {
  for_vectors(run.tiles[tile].vectors, [&]<int V>() { phase_tile<V>(run, phase, tile, layout, scratch); });
}

void first_tokens_any(const Run& run, std::uint32_t first, std::uint32_t count, const Scratch& layout,
                      std::uint8_t* scratch) {
  for_vectors((count + kLanes - 1) / kLanes,
              [&]<int V>() { first_tokens_tile<V>(run, first, count, layout, scratch); });
}

void linear_any(const PackedMatrix& m, const float* input, float* output, std::uint32_t tokens, const Scratch& layout,
                std::uint8_t* scratch) {
  for_vectors((tokens + kLanes - 1) / kLanes,
              [&]<int V>() { linear_tile<V>(m, input, output, tokens, layout, scratch); });
}

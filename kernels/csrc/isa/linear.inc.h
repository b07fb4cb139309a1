// One linear over a tile of tokens: y[row] = sum over entries of weight * x[column], rows of V vectors of tokens.
// Included once per instruction set.
#pragma once

// Shared input of linears that read the same activations: floats, and bytes once one of them needs them.
template <int V>
struct Input {
  const float* x;        // [features][V * kLanes]
  std::uint8_t* planar;  // [features][kTile] bytes
  std::uint8_t* blocks;  // [features / 4][V * kLanes][4] bytes
  float* token;          // [2][V * kLanes]: scale, and scale * zero point
  const Profile* profile;
  bool has_planar = false;
  bool has_blocks = false;
};

constexpr int kTile = kLanes * kMaxVectors;

// Add the time since construction to a stage.
class Stopwatch {
 public:
  SPARSERVE_MEMBER Stopwatch(const Profile* profile, Stage stage)
      : profile_(profile), stage_(stage), begin_(profile != nullptr ? profile->now() : 0) {}
  SPARSERVE_MEMBER ~Stopwatch() {
    if (profile_ != nullptr) profile_->add(stage_, profile_->now() - begin_);
  }

 private:
  const Profile* profile_;
  Stage stage_;
  std::uint64_t begin_;
};

// Asymmetric 8-bit quantization with one scale per token: x ~ scale * (byte - zero point); zero is exact.
template <int V>
void quantize_tile(Input<V>& in, std::uint32_t features) {
  constexpr int stride = V * kLanes;
  // Few vectors have several chains of minima, maxima and sums: one would wait for its own latency.
  constexpr int chains = kMaxVectors / V;
  F32 low[chains][V], high[chains][V], nan[chains][V], inverse[V], zero_point[V];
  SPARSERVE_UNROLL
  for (int k = 0; k < chains; ++k) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) low[k][v] = high[k][v] = nan[k][v] = zero();
  }
  const auto include = [&](int k, const float* row) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) {
      const F32 x = load(row + v * kLanes);
      low[k][v] = min(low[k][v], x);
      high[k][v] = max(high[k][v], x);
      nan[k][v] = fma(x, zero(), nan[k][v]);  // minimum and maximum may lose NaN and infinity
    }
  };
  const std::uint32_t whole = features / chains * chains;
  for (std::uint32_t f = 0; f < whole; f += chains) {
    SPARSERVE_UNROLL
    for (int k = 0; k < chains; ++k) include(k, in.x + (f + k) * stride);
  }
  for (std::uint32_t f = whole; f < features; ++f) include(0, in.x + f * stride);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    SPARSERVE_UNROLL
    for (int k = 1; k < chains; ++k) {
      low[0][v] = min(low[0][v], low[k][v]);
      high[0][v] = max(high[0][v], high[k][v]);
      nan[0][v] = add(nan[0][v], nan[k][v]);
    }
    // The smallest range keeps 255 / range finite; activations below it are zero to every following LayerNorm.
    const F32 range = max(sub(high[0][v], low[0][v]), broadcast(1e-30F));
    inverse[v] = div(broadcast(255.0F), range);
    zero_point[v] = round(mul(sub(zero(), low[0][v]), inverse[v]));
    const F32 scale = fma(range, broadcast(1.0F / 255), nan[0][v]);
    store(in.token + v * kLanes, scale);
    store(in.token + stride + v * kLanes, mul(scale, zero_point[v]));
  }
  for (std::uint32_t f = 0; f < features; ++f)
    quantize<V>(in.x + f * stride, inverse, zero_point, in.planar + f * kTile);
  in.has_planar = true;
}

template <int V>
void interleave_tile(Input<V>& in, std::uint32_t features) {
  for (std::uint32_t f = 0; f < features; f += kBlock)
    interleave_rows<V>(in.planar + f * kTile, in.blocks + f * V * kLanes);
  in.has_blocks = true;
}

template <int V>
SPARSERVE_INLINE void dequantize(const PackedMatrix& m, const Input<V>& in, std::uint32_t row, const I32 (&acc)[V],
                                 F32 (&y)[V]) {
  constexpr int stride = V * kLanes;
  const F32 scale = broadcast(m.scales[row]), bias = broadcast(m.bias[row]);
  const F32 zero_term = broadcast(-m.zero_terms[row]);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    const F32 shifted = fma(zero_term, load(in.token + stride + v * kLanes), bias);
    y[v] = fma(mul(to_float(acc[v]), scale), load(in.token + v * kLanes), shifted);
  }
}

// A run of few tokens is through with its weights as fast as they are read. Processors prefetch streams themselves, but
// stop at the end of each page of 4 KiB. For more tokens this gains nothing (docs/explanation/sparse-runtime.md).
template <int V>
SPARSERVE_INLINE void prefetch_weights(const std::uint16_t* column, const std::int8_t* weight) {
  if constexpr (V * kLanes <= 16) {
    __builtin_prefetch(column + 512);
    __builtin_prefetch(column + 544);
    __builtin_prefetch(weight + 1024);
  }
}

// Emit: `void operator()(row, F32 (&y)[V])` receives a finished row, `void prefetch(row)` fetches the memory that it
// will be added or written to, if that may be far away. Between panels rows are kept in `spill`.
template <int V, bool First, bool Last, bool Block, class Emit>
void sparse_float_panel(const PackedMatrix& m, const Panel& panel, const float* x, float* spill, Emit& emit) {
  constexpr int stride = V * kLanes;
  x += panel.first_column * stride;
  const std::uint16_t* column = panel.column;
  const float* weight = panel.floats;
  for (std::uint32_t r = 0; r < m.rows; ++r) {
    const RowSpan span = panel.spans[r];
    if constexpr (Last) emit.prefetch(panel.spans[r + kSpansAhead].row);
    // Two chains of additions: one would wait for its own latency when a row has few vectors.
    F32 acc[V], odd[V];
    if constexpr (First) {
      const F32 bias = broadcast(m.bias[span.row]);
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) acc[v] = bias;
    } else {
      const float* partial = spill + std::size_t{span.row} * stride;
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) acc[v] = load(partial + v * kLanes);
    }
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) odd[v] = zero();
    if constexpr (Block) {
      for (std::uint32_t e = 0; e < span.count; ++e, ++column, weight += kBlock) {
        const float* a = x + std::size_t{*column} * stride;
        SPARSERVE_UNROLL
        for (int k = 0; k < static_cast<int>(kBlock); k += 2) {
          const F32 w0 = broadcast(weight[k]), w1 = broadcast(weight[k + 1]);
          SPARSERVE_UNROLL
          for (int v = 0; v < V; ++v) {
            acc[v] = fma(w0, load(a + k * stride + v * kLanes), acc[v]);
            odd[v] = fma(w1, load(a + (k + 1) * stride + v * kLanes), odd[v]);
          }
        }
      }
    } else {
      std::uint32_t left = span.count;
      for (; left >= 2; left -= 2, column += 2, weight += 2) {
        const F32 w0 = broadcast(weight[0]), w1 = broadcast(weight[1]);
        const float* a0 = x + std::size_t{column[0]} * stride;
        const float* a1 = x + std::size_t{column[1]} * stride;
        SPARSERVE_UNROLL
        for (int v = 0; v < V; ++v) {
          acc[v] = fma(w0, load(a0 + v * kLanes), acc[v]);
          odd[v] = fma(w1, load(a1 + v * kLanes), odd[v]);
        }
      }
      if (left != 0) {
        const F32 w0 = broadcast(*weight++);
        const float* a0 = x + std::size_t{*column++} * stride;
        SPARSERVE_UNROLL
        for (int v = 0; v < V; ++v) acc[v] = fma(w0, load(a0 + v * kLanes), acc[v]);
      }
    }
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) acc[v] = add(acc[v], odd[v]);
    if constexpr (Last) {
      emit(span.row, acc);
    } else {
      float* partial = spill + std::size_t{span.row} * stride;
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) store(partial + v * kLanes, acc[v]);
    }
  }
}

template <int V, bool First, bool Last, bool Block, class Emit>
void sparse_int_panel(const PackedMatrix& m, const Panel& panel, const Input<V>& in, std::int32_t* spill, Emit& emit) {
  const std::uint8_t* x = Block ? in.blocks + std::size_t{panel.first_column} * V * kLanes
                                : in.planar + std::size_t{panel.first_column} * kTile;
  const std::uint16_t* column = panel.column;
  const std::int8_t* weight = panel.ints;
  for (std::uint32_t r = 0; r < m.rows; ++r) {
    const RowSpan span = panel.spans[r];
    if constexpr (Last) emit.prefetch(panel.spans[r + kSpansAhead].row);
    prefetch_weights<V>(column, weight);
    I32 acc[V];
    if constexpr (First) {
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) acc[v] = zero_int();
    } else {
      const std::int32_t* partial = spill + std::size_t{span.row} * V * kLanes;
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) acc[v] = load_int(partial + v * kLanes);
    }
    for (std::uint32_t e = 0; e < span.count; ++e, weight += 4) {
      if constexpr (Block) {
        block<V>(acc, x + std::size_t{*column} * V * kLanes, weight);
        ++column;
      } else {
        quad<V>(acc, x + column[0], x + column[1], x + column[2], x + column[3], weight);
        column += 4;
      }
    }
    if constexpr (Last) {
      F32 y[V];
      dequantize<V>(m, in, span.row, acc, y);
      emit(span.row, y);
    } else {
      std::int32_t* partial = spill + std::size_t{span.row} * V * kLanes;
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) store_int(partial + v * kLanes, acc[v]);
    }
  }
}

// Dense weights, kDenseRows rows at a time; N vectors of the tile from vector `first`.
template <int V, int N, class Emit>
void dense_float(const PackedMatrix& m, const float* x, int first, float* spill, Emit& emit) {
  constexpr int stride = V * kLanes;
  for (std::uint32_t row = 0; row < m.rows; row += kDenseRows) {
    F32 acc[kDenseRows][N];
    const std::uint32_t rows = m.rows - row < kDenseRows ? m.rows - row : kDenseRows;
    SPARSERVE_UNROLL
    for (int r = 0; r < static_cast<int>(kDenseRows); ++r) {
      const F32 bias = broadcast(static_cast<std::uint32_t>(r) < rows ? m.bias[row + r] : 0.0F);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) acc[r][n] = bias;
    }
    const float* weight = m.dense_floats + std::size_t{row} * m.columns;
    const float* a = x + first * kLanes;
    for (std::uint32_t c = 0; c < m.columns; ++c, weight += kDenseRows, a += stride) {
      F32 b[N];
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) b[n] = load(a + n * kLanes);
      SPARSERVE_UNROLL
      for (int r = 0; r < static_cast<int>(kDenseRows); ++r) {
        const F32 w = broadcast(weight[r]);
        SPARSERVE_UNROLL
        for (int n = 0; n < N; ++n) acc[r][n] = fma(w, b[n], acc[r][n]);
      }
    }
    // A row's vectors are finished in several passes and collected in `spill`, [rows][V * kLanes].
    SPARSERVE_UNROLL
    for (int r = 0; r < static_cast<int>(kDenseRows); ++r) {
      if (static_cast<std::uint32_t>(r) >= rows) continue;
      if constexpr (N == V) {
        emit(row + r, acc[r]);
      } else {
        float* to = spill + std::size_t{row + r} * stride + first * kLanes;
        SPARSERVE_UNROLL
        for (int n = 0; n < N; ++n) store(to + n * kLanes, acc[r][n]);
      }
    }
  }
}

template <int V, class Emit>
void dense_float_tile(const PackedMatrix& m, const float* x, float* spill, Emit& emit) {
  constexpr int N = kAttentionVectors < V ? kAttentionVectors : V;
  for (int first = 0; first + N <= V; first += N) dense_float<V, N>(m, x, first, spill, emit);
  if constexpr (V % N != 0) dense_float<V, V % N>(m, x, V - V % N, spill, emit);
  if constexpr (N != V) {
    for (std::uint32_t row = 0; row < m.rows; ++row) {
      F32 y[V];
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) y[v] = load(spill + std::size_t{row} * V * kLanes + v * kLanes);
      emit(row, y);
    }
  }
}

template <int V, class Emit>
void dense_int(const PackedMatrix& m, const Input<V>& in, std::int32_t* spill, Emit& emit) {
  const std::uint32_t groups = (m.columns + kBlock - 1) / kBlock;
  for (std::uint32_t row = 0; row < m.rows; row += kDenseRows) {
    const std::uint32_t rows = m.rows - row < kDenseRows ? m.rows - row : kDenseRows;
    const std::int8_t* weights = m.dense_ints + std::size_t{row} * groups * kBlock;
    for (int v = 0; v < V; ++v) {
      I32 acc[kDenseRows][1];
      SPARSERVE_UNROLL
      for (int r = 0; r < static_cast<int>(kDenseRows); ++r) acc[r][0] = zero_int();
      const std::uint8_t* a = in.blocks + v * kLanes * kBlock;
      const std::int8_t* weight = weights;
      for (std::uint32_t g = 0; g < groups; ++g, a += V * kLanes * kBlock) {
        SPARSERVE_UNROLL
        for (int r = 0; r < static_cast<int>(kDenseRows); ++r, weight += kBlock) block<1>(acc[r], a, weight);
      }
      SPARSERVE_UNROLL
      for (int r = 0; r < static_cast<int>(kDenseRows); ++r) store_int(spill + (r * V + v) * kLanes, acc[r][0]);
    }
    for (std::uint32_t r = 0; r < rows; ++r) {
      I32 acc[V];
      F32 y[V];
      SPARSERVE_UNROLL
      for (int v = 0; v < V; ++v) acc[v] = load_int(spill + (r * V + v) * kLanes);
      dequantize<V>(m, in, row + r, acc, y);
      emit(row + r, y);
    }
  }
}

template <int V, bool Int, bool Block, class Emit>
void panels(const PackedMatrix& m, const Input<V>& in, float* spill, Emit& emit) {
  const auto pass = [&]<bool First, bool Last>(const Panel& panel) {
    if constexpr (Int) {
      sparse_int_panel<V, First, Last, Block>(m, panel, in, reinterpret_cast<std::int32_t*>(spill), emit);
    } else {
      sparse_float_panel<V, First, Last, Block>(m, panel, in.x, spill, emit);
    }
  };
  const std::uint32_t last = m.panel_count - 1;
  if (last == 0) return pass.template operator()<true, true>(m.panels[0]);
  pass.template operator()<true, false>(m.panels[0]);
  for (std::uint32_t p = 1; p < last; ++p) pass.template operator()<false, false>(m.panels[p]);
  pass.template operator()<false, true>(m.panels[last]);
}

SPARSERVE_INLINE bool is_int(const PackedMatrix& m) {
  return m.storage == Storage::kSparseI8 || m.storage == Storage::kBlockI8 || m.storage == Storage::kDenseI8;
}

// `spill` has room for the matrix's rows, [rows][V * kLanes] of 4 bytes, and overlaps neither `emit`'s nor `in`'s data.
template <int V, class Emit>
void linear(const PackedMatrix& m, Input<V>& in, float* spill, Stage stage, Emit emit) {
  if (is_int(m)) {
    const Stopwatch watch(in.profile, kQuantizeStage);
    if (!in.has_planar) quantize_tile<V>(in, m.columns);
    if (m.storage != Storage::kSparseI8 && !in.has_blocks) interleave_tile<V>(in, m.columns);
  }
  const Stopwatch watch(in.profile, stage);
  switch (m.storage) {
    case Storage::kDenseF32: return dense_float_tile<V>(m, in.x, spill, emit);
    case Storage::kSparseF32: return panels<V, false, false>(m, in, spill, emit);
    case Storage::kBlockF32: return panels<V, false, true>(m, in, spill, emit);
    case Storage::kDenseI8: return dense_int<V>(m, in, reinterpret_cast<std::int32_t*>(spill), emit);
    case Storage::kSparseI8: return panels<V, true, false>(m, in, spill, emit);
    case Storage::kBlockI8: return panels<V, true, true>(m, in, spill, emit);
  }
}

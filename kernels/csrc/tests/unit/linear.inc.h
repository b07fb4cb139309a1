// Tests of the linears and of the quantization ahead of them. Included once per instruction set.
#pragma once

// Buffers of a tile of `features` activations x [features][V * kLanes].
template <int V>
Input<V> tile_of(const float* x, std::uint32_t features) {
  const std::size_t whole = (features + kBlock - 1) / kBlock * kBlock;
  return {x, unit::bytes(whole * kTile), unit::bytes(whole * V * kLanes), unit::floats(2 * V * kLanes), nullptr};
}

// The activation that a token's byte stands for.
template <int V>
double dequantized(const Input<V>& in, std::uint32_t feature, int token) {
  const std::uint32_t block = feature / kBlock * V * kLanes + static_cast<std::uint32_t>(token);
  const int byte = in.blocks[block * kBlock + feature % kBlock];
  return double{in.token[token]} * byte - in.token[V * kLanes + token];
}

template <int V>
void quantized_tiles_of() {
  constexpr int tokens = V * kLanes;
  constexpr std::uint32_t features = 37;
  float* x = unit::random_floats(features * tokens, -3, 5);
  for (std::uint32_t f = 0; f < features; ++f) {
    x[f * tokens] = 0;                                  // a token of zeros
    x[f * tokens + 1] = 2 + x[f * tokens + 1] * 1e-3F;  // one far from zero
    if constexpr (kLanes > 4) x[f * tokens + 4] *= 1e-35F;
  }
  x[5 * tokens + 2] = __builtin_nanf("");
  x[6 * tokens + 3] = -__builtin_inff();
  Input<V> in = tile_of<V>(x, features);
  quantize_tile<V>(in, features);
  interleave_tile<V>(in, features);
  for (int t = 0; t < tokens; ++t) {
    if (t == 2 || t == 3) {
      near("scale of NaN", in.token[t], __builtin_nan(""), 0);
      continue;
    }
    float low = 0, high = 0;
    for (std::uint32_t f = 0; f < features; ++f) {
      low = x[f * tokens + t] < low ? x[f * tokens + t] : low;
      high = x[f * tokens + t] > high ? x[f * tokens + t] : high;
    }
    const double step = __builtin_fmax(double{high} - double{low}, 1e-30) / 255;
    near("scale", in.token[t], step, 1e-6 * step);
    for (std::uint32_t f = 0; f < features; ++f)
      near("quantize_tile", dequantized<V>(in, f, t), x[f * tokens + t], 0.5001 * step);
  }
  // Sums of bytes become floats.
  I32 sums[V];
  F32 y[V];
  for (int v = 0; v < V; ++v) sums[v] = broadcast_int(-12345);
  const float scale = 0.25F, bias = 3, zero_term = 0.5F;
  PackedMatrix m{};
  m.scales = &scale;
  m.bias = &bias;
  m.zero_terms = &zero_term;
  dequantize<V>(m, in, 0, sums, y);
  for (int v = 0; v < V; ++v) {
    float got[kLanes];
    store(got, y[v]);
    for (int i = 0; i < kLanes; ++i) {
      const int t = v * kLanes + i;
      const double expected = -12345 * 0.25 * double{in.token[t]} + 3 - 0.5 * double{in.token[tokens + t]};
      near("dequantize", got[i], expected, 1e-6 * (__builtin_fabs(expected) + 3));
    }
  }
}

void quantized_tiles() {
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) for_vectors(v, []<int V>() { quantized_tiles_of<V>(); });
}

template <Storage S, int V>
void linear_of(std::uint32_t rows, std::uint32_t columns) {
  constexpr int tokens = V * kLanes;
  const unit::Sample sample = unit::sample_matrix(S, kTable.traits, rows, columns);
  const float* x = unit::random_floats(std::size_t{columns} * tokens, -1, 2);
  float* spill = unit::floats((rows > kDenseRows ? rows : kDenseRows) * tokens);
  float* out = unit::floats(rows * tokens);
  Input<V> in = tile_of<V>(x, columns);
  linear<V>(sample.packed, in, spill, kProjectStage, StoreScaled<V>{out, 2.0F});
  same("is_int", is_int(sample.packed), S == Storage::kDenseI8 || S == Storage::kSparseI8 || S == Storage::kBlockI8);
  if (is_int(sample.packed) && !in.has_blocks) interleave_tile<V>(in, columns);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (int t = 0; t < tokens; ++t) {
      double expected = sample.bias[row], size = __builtin_fabs(expected);
      for (std::uint32_t c = 0; c < columns; ++c) {
        const double weight = sample.weights[std::size_t{row} * columns + c];
        if (weight == 0) continue;
        const double activation =
            is_int(sample.packed) ? dequantized<V>(in, c, t) : double{x[std::size_t{c} * tokens + t]};
        expected += weight * activation;
        size += __builtin_fabs(weight) * (__builtin_fabs(activation) + 1);
      }
      near("linear", out[row * tokens + t], 2 * expected, 2e-6 * size);
    }
  }
}

// One panel and several; whole groups of rows and a rest; columns that are no multiple of a block where they may be.
template <Storage S>
void linears() {
  constexpr bool block = S == Storage::kBlockF32 || S == Storage::kBlockI8;
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) {
    for_vectors(v, []<int V>() {
      linear_of<S, V>(1, block ? kBlock : 1);
      linear_of<S, V>(kDenseRows + 1, block ? 6 * kBlock : 21);
      if (V == 1 || V == kMaxVectors) linear_of<S, V>(3, 2600);
    });
  }
}

// Attention in bytes, with the running maximum and sum of attention.inc.h. Included once per instruction set.
//
// Queries and keys have one scale per token and head, so that an answer depends on its own sequence only. A key is an
// unsigned byte with offset 128 (127 steps), a query a signed one of 64 steps: their products cannot saturate
// `vpmaddubsw`, and all instruction sets compute the same integers. A value has 64 steps and a scale per token too, of
// which the logarithm is added to the key's score: the byte of a probability is then relative to the largest
// contribution, not to a key with a large probability whose value is almost zero (as separators have).
//
// A head's keys in a sequence's buffer: [head_dim / 4][stride] words of four bytes, then the scales [stride]. Its
// values: [head_dim][stride] bytes, then [stride] logarithms (base 2) and [stride] inverses of the scales. Scores are in
// units of ln 2. head_dim is a multiple of four.
#pragma once

constexpr float kQuerySteps = 64.0F, kKeySteps = 127.0F, kValueSteps = 64.0F, kWeightSteps = 255.0F;
constexpr float kKeyOffset = 128.0F;
constexpr float kLog2E = 1.44269504F, kLn2 = 0.693147181F;
constexpr float kSmallestRange = 1e-20F;      // of a token's values; smaller ones are zero to what follows
constexpr float kToInteger = 12582912.0F;     // 1.5 * 2^23: a float's last bits are the rounded integer after adding it
constexpr int kByteRows = kSaturates ? 4 : 6;  // rows of accumulators; saturating products need two more registers

// Put four rows' integers of 0..255 into the bytes of each lane, the first lowest. kToInteger was added to the rows.
SPARSERVE_INLINE I32 bytes_of(F32 a, F32 b, F32 c, F32 d) {
  I32 word = add_int(bits_of(a), shift_left<8>(bits_of(b)));
  word = add_int(word, add_int(shift_left<16>(bits_of(c)), shift_left<24>(bits_of(d))));
  constexpr std::uint32_t offset = 0x4B400000U * 0x01010101U;  // of the four sums' own bits
  return add_int(word, broadcast_int(static_cast<std::int32_t>(0U - offset)));
}

// 2^x to 1e-4 relative, for x <= 0; below -126 about 1e-38. NaN stays NaN: `max` gives its second operand then.
SPARSERVE_INLINE F32 coarse_exp2(F32 x) {
  x = max(broadcast(-126.0F), x);
  const F32 sum = add(x, broadcast(kToInteger));
  const F32 f = sub(x, sub(sum, broadcast(kToInteger)));
  F32 p = broadcast(0.0551716691F);
  p = fma(p, f, broadcast(0.242611122F));
  p = fma(p, f, broadcast(0.693260985F));
  p = fma(p, f, broadcast(0.999928074F));
  return from_bits(add_int(bits_of(p), shift_left<23>(bits_of(sum))));
}

// The largest magnitude of each token's features of one head, [head_dim][stride]; `spoiled` becomes NaN with any NaN or
// infinity, else zero. It is the plain NaN, whose last bits are zero: `coarse_exp2` shifts them into the exponent. Four
// chains: one would wait for its own latency.
SPARSERVE_INLINE F32 largest_magnitude(const float* x, std::size_t stride, std::uint32_t head_dim, F32& spoiled) {
  F32 low[4], high[4], sum[4];
  SPARSERVE_UNROLL
  for (int k = 0; k < 4; ++k) low[k] = high[k] = sum[k] = zero();
  for (std::uint32_t d = 0; d < head_dim; d += 4) {
    SPARSERVE_UNROLL
    for (int k = 0; k < 4; ++k) {
      const F32 row = load(x + (d + k) * stride);
      low[k] = min(low[k], row);
      high[k] = max(high[k], row);
      sum[k] = fma(row, zero(), sum[k]);
    }
  }
  const F32 lowest = min(min(low[0], low[1]), min(low[2], low[3]));
  const I32 sums = bits_of(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
  spoiled = from_bits(sums & broadcast_int(static_cast<std::int32_t>(0xFFC00000U)));
  return max(max(max(high[0], high[1]), max(high[2], high[3])), sub(zero(), lowest));
}

// One vector of tokens of one head: x [head_dim][stride] into `keys` at the tokens' position (see above).
SPARSERVE_INLINE void store_byte_keys(const float* x, std::size_t stride, std::uint32_t head_dim, float* keys,
                                      std::size_t key_stride, std::size_t position) {
  F32 spoiled;
  const F32 largest = max(largest_magnitude(x, stride, head_dim, spoiled), broadcast(kSmallestRange));
  const F32 inverse = div(broadcast(kKeySteps), largest), offset = broadcast(kKeyOffset + kToInteger);
  auto* words = reinterpret_cast<std::int32_t*>(keys);
  for (std::uint32_t d = 0; d < head_dim; d += 4) {
    const float* row = x + d * stride;
    store_int(words + d / 4 * key_stride + position,
              bytes_of(fma(load(row), inverse, offset), fma(load(row + stride), inverse, offset),
                       fma(load(row + 2 * stride), inverse, offset), fma(load(row + 3 * stride), inverse, offset)));
  }
  store(keys + head_dim / 4 * key_stride + position, fma(largest, broadcast(1.0F / kKeySteps), spoiled));
}

SPARSERVE_INLINE void store_byte_values(const float* x, std::size_t stride, std::uint32_t head_dim, float* values,
                                        std::size_t key_stride, std::size_t position) {
  F32 spoiled;
  const F32 largest = max(largest_magnitude(x, stride, head_dim, spoiled), broadcast(kSmallestRange));
  // A float's bits are its logarithm, linear between powers of two and there at most 0.0861 too low. The scale is the
  // power of this logarithm, not the largest magnitude itself: both agree, and no value exceeds its steps.
  const F32 logarithm = fma(to_float(bits_of(mul(largest, broadcast(1.0F / kValueSteps)))), broadcast(0x1p-23F),
                            broadcast(0.0861F - 127.0F));
  const F32 inverse = exponential(mul(logarithm, broadcast(-kLn2)));
  auto* bytes = reinterpret_cast<std::uint8_t*>(values);
  for (std::uint32_t d = 0; d < head_dim; ++d) {
    const F32 sum = fma(load(x + d * stride), inverse, broadcast(kToInteger));
    store_bytes(bytes + d * key_stride + position, add_int(bits_of(sum), broadcast_int(-0x4B400000)));
  }
  float* scales = values + head_dim / 4 * key_stride + position;
  store(scales, logarithm);
  store(scales + key_stride, add(inverse, spoiled));
}

// Scores of M keys with N vectors of queries, in units of ln 2; `highest` becomes their maximum.
template <int M, int N>
SPARSERVE_INLINE void byte_scores(const std::int32_t* keys, std::size_t key_stride, const std::int32_t* queries,
                                  std::uint32_t groups, const I32 (&start)[N], const F32 (&query_scale)[N],
                                  const float* key_scale, const float* shift, float* scores, F32 (&highest)[N]) {
  I32 acc[M][N];
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) acc[m][n] = start[n];
  }
  for (std::uint32_t g = 0; g < groups; ++g, keys += key_stride, queries += N * kLanes) {
    I32 row[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) row[n] = load_int(queries + n * kLanes);
    SPARSERVE_UNROLL
    for (int m = 0; m < M; ++m) {
      const I32 key = broadcast_int(keys[m]);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] = dot(acc[m][n], key, row[n]);
    }
  }
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    const F32 scale = broadcast(key_scale[m]), more = broadcast(shift[m]);
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) {
      const F32 score = fma(mul(to_float(acc[m][n]), query_scale[n]), scale, more);
      store(scores + (m * N + n) * kLanes, score);
      highest[n] = max(highest[n], score);
    }
  }
}

// M features of the block's weighted values: out [M][stride], added to what is there times `keep` unless `First`.
template <int M, int N, bool First>
SPARSERVE_INLINE void byte_context(const std::int8_t* values, std::size_t value_stride, const std::int32_t* weights,
                                   std::uint32_t groups, float* out, std::size_t stride, const F32 (&keep)[N]) {
  I32 acc[M][N];
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) acc[m][n] = zero_int();
  }
  for (std::uint32_t g = 0; g < groups; ++g, values += 4, weights += N * kLanes) {
    I32 row[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) row[n] = load_int(weights + n * kLanes);
    SPARSERVE_UNROLL
    for (int m = 0; m < M; ++m) {
      const I32 value = weights_of(values + m * value_stride);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] = dot(acc[m][n], row[n], value);
    }
  }
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) {
      float* to = out + m * stride + n * kLanes;
      const F32 sum = to_float(acc[m][n]);
      store(to, First ? sum : fma(load(to), keep[n], sum));
    }
  }
}

// Call with<M>(row) for groups of kByteRows, then two rows, then one.
template <class Function>
SPARSERVE_INLINE void for_rows(std::uint32_t rows, const Function& with) {
  std::uint32_t row = 0;
  for (; row + kByteRows <= rows; row += kByteRows) with.template operator()<kByteRows>(row);
  for (; row + 2 <= rows; row += 2) with.template operator()<2>(row);
  for (; row < rows; ++row) with.template operator()<1>(row);
}

// One head, like `attend`; `keys` and `values` in the bytes above, `bytes` is scratch of head_dim bytes per query, and
// `scores` of kKeyBlock floats per query.
template <int N>
void attend_bytes(const float* queries, std::size_t stride, const float* keys, const float* values,
                  const Sequence& sequence, std::uint32_t head_dim, const float* bias, std::size_t bias_row,
                  std::uint32_t bias_queries, float* out, float* scores, std::uint8_t* bytes) {
  constexpr std::size_t width = N * kLanes;
  const std::uint32_t groups = head_dim / 4;
  auto* query_words = reinterpret_cast<std::int32_t*>(bytes);
  auto* weights = reinterpret_cast<std::int32_t*>(scores);  // of four keys in the place of the first of their scores
  const auto* key_words = reinterpret_cast<const std::int32_t*>(keys);
  const auto* value_bytes = reinterpret_cast<const std::int8_t*>(values);
  const float* key_scales = keys + std::size_t{groups} * sequence.stride;
  const float* logarithms = values + std::size_t{groups} * sequence.stride;
  const float* inverses = logarithms + sequence.stride;

  F32 highest[N], total[N], keep[N], query_scale[N];
  I32 start[N];
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) {
    const float* x = queries + n * kLanes;
    F32 spoiled;
    const F32 largest = max(largest_magnitude(x, stride, head_dim, spoiled), broadcast(kSmallestRange));
    const F32 inverse = div(broadcast(kQuerySteps), largest), offset = broadcast(kKeyOffset + kToInteger);
    query_scale[n] = fma(largest, broadcast(kLog2E / kQuerySteps), spoiled);
    // The keys' offset adds 128 times the query's sum to a score: sums of minus the query begin there.
    I32 sum = zero_int();
    const I32 flip = broadcast_int(static_cast<std::int32_t>(0x80808080U)), ones = broadcast_int(0x01010101);
    for (std::uint32_t g = 0; g < groups; ++g, x += 4 * stride) {
      const I32 word = bytes_of(fma(load(x), inverse, offset), fma(load(x + stride), inverse, offset),
                                fma(load(x + 2 * stride), inverse, offset), fma(load(x + 3 * stride), inverse, offset));
      sum = dot(sum, word, ones);
      store_int(query_words + g * width + n * kLanes, word ^ flip);
    }
    start[n] = add_int(broadcast_int(static_cast<std::int32_t>(head_dim * 128 * 128)),
                       add_int(~shift_left<7>(sum), broadcast_int(1)));
    highest[n] = broadcast(kMasked);
    total[n] = zero();
  }
  for (std::uint32_t begin = 0; begin < sequence.tokens; begin += kKeyBlock) {
    const std::uint32_t left = sequence.tokens - begin;
    const std::uint32_t count = left < kKeyBlock ? left : kKeyBlock;
    float masked[kKeyBlock];
    const float* shift = logarithms + begin;
    if (sequence.key_bias != nullptr) {
      for (std::uint32_t j = 0; j < count; ++j) masked[j] = shift[j] + sequence.key_bias[begin + j];
      shift = masked;
    }
    F32 block_highest[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) block_highest[n] = highest[n];
    for_rows(count, [&]<int M>(std::uint32_t j) {
      byte_scores<M, N>(key_words + begin + j, sequence.stride, query_words, groups, start, query_scale,
                        key_scales + begin + j, shift + j, scores + j * width, block_highest);
    });
    if (bias != nullptr) {
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) block_highest[n] = highest[n];
      for (std::uint32_t j = 0; j < count; ++j) {
        SPARSERVE_UNROLL
        for (int n = 0; n < N; ++n) {
          float row[kLanes] = {};
          for (int i = 0; i < kLanes && n * kLanes + i < static_cast<int>(bias_queries); ++i)
            row[i] = bias[(begin + j) * bias_row + static_cast<std::size_t>(n * kLanes + i)];
          float* at = scores + j * width + n * kLanes;
          const F32 score = fma(load(row), broadcast(kLog2E), load(at));
          store(at, score);
          block_highest[n] = max(block_highest[n], score);
        }
      }
    }
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) {
      keep[n] = exponential(mul(sub(highest[n], block_highest[n]), broadcast(kLn2)));
      highest[n] = block_highest[n];
      total[n] = mul(total[n], keep[n]);
    }
    for (std::uint32_t j = 0; j < count; j += 4) {
      const std::uint32_t four = count - j < 4 ? count - j : 4;
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) {
        F32 weight[4];
        SPARSERVE_UNROLL
        for (std::uint32_t k = 0; k < 4; ++k) {
          weight[k] = broadcast(kToInteger);
          if (k >= four) continue;
          const F32 w = coarse_exp2(sub(load(scores + (j + k) * width + n * kLanes), highest[n]));
          total[n] = fma(w, broadcast(inverses[begin + j + k]), total[n]);
          weight[k] = fma(w, broadcast(kWeightSteps), broadcast(kToInteger));
        }
        store_int(weights + j / 4 * width + n * kLanes, bytes_of(weight[0], weight[1], weight[2], weight[3]));
      }
    }
    for_rows(head_dim, [&]<int M>(std::uint32_t d) {
      const std::int8_t* from = value_bytes + std::size_t{d} * sequence.stride + begin;
      if (begin == 0) {
        byte_context<M, N, true>(from, sequence.stride, weights, (count + 3) / 4, out + d * stride, stride, keep);
      } else {
        byte_context<M, N, false>(from, sequence.stride, weights, (count + 3) / 4, out + d * stride, stride, keep);
      }
    });
  }
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) {
    const F32 inverse = div(broadcast(1.0F / kWeightSteps), total[n]);
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      float* at = out + d * stride + n * kLanes;
      store(at, mul(load(at), inverse));
    }
  }
}

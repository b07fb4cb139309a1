// Attention of a few vectors of queries over one sequence's keys and values, in blocks of keys with a running maximum
// and sum (Milakov & Gimelshein 2018, as in FlashAttention): the score matrix exists 128 keys at a time.
// Queries are lanes, so that softmax needs no operation across a vector. Included once per instruction set.
#pragma once

constexpr int kRows = 6;  // of accumulators

// out[m][n] = sum over k of a(m, k) * b[k][n], for M rows and N vectors; or on top of out's values times `keep`.
template <int M, int N, bool Onto>
SPARSERVE_INLINE void multiply(const float* a, std::size_t a_row, std::size_t a_step, const float* b,
                               std::size_t b_step, std::uint32_t depth, float* out, std::size_t out_row,
                               const F32* keep) {
  F32 acc[M][N];
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) {
      if constexpr (Onto) {
        acc[m][n] = mul(load(out + m * out_row + n * kLanes), keep[n]);
      } else {
        acc[m][n] = zero();
      }
    }
  }
  for (std::uint32_t k = 0; k < depth; ++k) {
    F32 row[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) row[n] = load(b + k * b_step + n * kLanes);
    SPARSERVE_UNROLL
    for (int m = 0; m < M; ++m) {
      const F32 one = broadcast(a[m * a_row + k * a_step]);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) acc[m][n] = fma(one, row[n], acc[m][n]);
    }
  }
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) store(out + m * out_row + n * kLanes, acc[m][n]);
  }
}

// The same for any number of rows.
template <int N, bool Onto>
void multiply_rows(const float* a, std::size_t a_row, std::size_t a_step, const float* b, std::size_t b_step,
                   std::uint32_t depth, float* out, std::size_t out_row, std::uint32_t rows, const F32* keep) {
  std::uint32_t m = 0;
  for (; m + kRows <= rows; m += kRows)
    multiply<kRows, N, Onto>(a + m * a_row, a_row, a_step, b, b_step, depth, out + m * out_row, out_row, keep);
  for (; m + 2 <= rows; m += 2)
    multiply<2, N, Onto>(a + m * a_row, a_row, a_step, b, b_step, depth, out + m * out_row, out_row, keep);
  for (; m < rows; ++m)
    multiply<1, N, Onto>(a + m * a_row, a_row, a_step, b, b_step, depth, out + m * out_row, out_row, keep);
}

// One head. queries [head_dim][stride] (scaled already), keys and values [head_dim][sequence.stride], out like queries;
// scores is scratch of kKeyBlock * N vectors; bias [key][bias_row] for this head and these queries, or null.
template <int N>
void attend(const float* queries, std::size_t stride, const float* keys, const float* values,
            const Sequence& sequence, std::uint32_t head_dim, const float* bias, std::size_t bias_row,
            std::uint32_t bias_queries, float* out, float* scores) {
  constexpr std::size_t width = N * kLanes;
  F32 highest[N], total[N], keep[N];
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) {
    highest[n] = broadcast(kMasked);
    total[n] = zero();
  }
  for (std::uint32_t begin = 0; begin < sequence.tokens; begin += kKeyBlock) {
    const std::uint32_t left = sequence.tokens - begin;
    const std::uint32_t count = left < kKeyBlock ? left : kKeyBlock;
    multiply_rows<N, false>(keys + begin, 1, sequence.stride, queries, stride, head_dim, scores, width, count, nullptr);
    F32 block_highest[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) block_highest[n] = highest[n];
    if (bias != nullptr || sequence.key_bias != nullptr) {
      for (std::uint32_t j = 0; j < count; ++j) {
        const F32 key_bias = broadcast(sequence.key_bias != nullptr ? sequence.key_bias[begin + j] : 0.0F);
        SPARSERVE_UNROLL
        for (int n = 0; n < N; ++n) {
          F32 score = add(load(scores + j * width + n * kLanes), key_bias);
          if (bias != nullptr) {
            float row[kLanes] = {};
            for (int i = 0; i < kLanes && n * kLanes + i < static_cast<int>(bias_queries); ++i)
              row[i] = bias[(begin + j) * bias_row + static_cast<std::size_t>(n * kLanes + i)];
            score = add(score, load(row));
          }
          store(scores + j * width + n * kLanes, score);
        }
      }
    }
    for (std::uint32_t j = 0; j < count; ++j) {
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) block_highest[n] = max(block_highest[n], load(scores + j * width + n * kLanes));
    }
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) {
      keep[n] = exponential(sub(highest[n], block_highest[n]));
      highest[n] = block_highest[n];
      total[n] = mul(total[n], keep[n]);
    }
    for (std::uint32_t j = 0; j < count; ++j) {
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) {
        const F32 p = exponential(sub(load(scores + j * width + n * kLanes), highest[n]));
        store(scores + j * width + n * kLanes, p);
        total[n] = add(total[n], p);
      }
    }
    if (begin == 0) {
      multiply_rows<N, false>(values, sequence.stride, 1, scores, width, count, out, stride, head_dim, nullptr);
    } else {
      multiply_rows<N, true>(values + begin, sequence.stride, 1, scores, width, count, out, stride, head_dim, keep);
    }
  }
  F32 inverse[N];
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) inverse[n] = div(broadcast(1.0F), total[n]);
  for (std::uint32_t d = 0; d < head_dim; ++d) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n)
      store(out + d * stride + n * kLanes, mul(load(out + d * stride + n * kLanes), inverse[n]));
  }
}

// One head of one query: query[d * stride] (scaled already); out[d * stride] is written; scores is scratch of the
// sequence's stride. Lanes are keys here.
SPARSERVE_INLINE void attend_one(const float* query, std::size_t stride, const float* keys, const float* values,
                                 const Sequence& sequence, std::uint32_t head_dim, const float* bias,
                                 std::size_t bias_row, float* out, float* scores) {
  float highest = 2 * kMasked;
  for (std::uint32_t j = 0; j < sequence.stride; j += kLanes) {
    F32 score = zero();
    for (std::uint32_t d = 0; d < head_dim; ++d)
      score = fma(broadcast(query[d * stride]), load(keys + std::size_t{d} * sequence.stride + j), score);
    store(scores + j, score);
  }
  for (std::uint32_t j = 0; j < sequence.stride; ++j) {
    if (sequence.key_bias != nullptr && j < sequence.tokens) scores[j] += sequence.key_bias[j];
    if (bias != nullptr && j < sequence.tokens) scores[j] += bias[j * bias_row];
    if (j >= sequence.tokens) scores[j] = 2 * kMasked;
    highest = scores[j] > highest ? scores[j] : highest;
  }
  for (std::uint32_t j = 0; j < sequence.stride; j += kLanes)
    store(scores + j, exponential(sub(load(scores + j), broadcast(highest))));
  // Whole vectors, then the rest one by one: the values after the last token are undefined.
  const std::uint32_t whole = sequence.tokens / kLanes * kLanes;
  float total = 0.0F;
  F32 sum = zero();
  for (std::uint32_t j = 0; j < whole; j += kLanes) sum = add(sum, load(scores + j));
  float lanes[kLanes];
  store(lanes, sum);
  for (float lane : lanes) total += lane;
  for (std::uint32_t j = whole; j < sequence.tokens; ++j) total += scores[j];
  for (std::uint32_t d = 0; d < head_dim; ++d) {
    const float* row = values + std::size_t{d} * sequence.stride;
    F32 dot = zero();
    for (std::uint32_t j = 0; j < whole; j += kLanes) dot = fma(load(scores + j), load(row + j), dot);
    store(lanes, dot);
    float result = 0.0F;
    for (float lane : lanes) result += lane;
    for (std::uint32_t j = whole; j < sequence.tokens; ++j) result += scores[j] * row[j];
    out[d * stride] = result / total;
  }
}

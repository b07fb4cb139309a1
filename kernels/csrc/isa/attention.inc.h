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

// Scores with relative positions (He et al. 2021, DeBERTa): out[m][n] = sum over d of q k + q p_k + k p_q for M keys and
// N vectors of queries, with the positions' features p of each pair's distance. `relative` begins at the distance of the
// first query from the first key. The whole costs three products a pair, and needs neither gathers nor a table of scores.
template <int M, int N>
SPARSERVE_INLINE void relative_scores(const float* keys, std::size_t key_stride, const float* queries,
                                      std::size_t stride, std::uint32_t head_dim, const Relative& relative,
                                      float* out) {
  F32 acc[M][N];
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) acc[m][n] = zero();
  }
  for (std::uint32_t d = 0; d < head_dim; ++d) {
    const float* key_row = relative.keys + d * relative.stride;
    const float* query_row = relative.queries + d * relative.stride;
    F32 query[N];
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) query[n] = load(queries + d * stride + n * kLanes);
    SPARSERVE_UNROLL
    for (int m = 0; m < M; ++m) {
      const F32 key = broadcast(keys[d * key_stride + m]);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) {
        const int at = n * kLanes - m;  // the distance falls from key to key
        acc[m][n] = fma(key, add(query[n], load(query_row + at)), acc[m][n]);
        acc[m][n] = fma(query[n], load(key_row + at), acc[m][n]);
      }
    }
  }
  SPARSERVE_UNROLL
  for (int m = 0; m < M; ++m) {
    SPARSERVE_UNROLL
    for (int n = 0; n < N; ++n) store(out + (m * N + n) * kLanes, acc[m][n]);
  }
}

// A block of keys of one head, [head_dim][stride], and the positions' features of its distances from some queries.
struct NearKeys {
  const float* keys;
  std::size_t key_stride;
  Relative relative;  // begins at the distance of the first query from the first key
};

// Copy both to `to` (near_floats), because the scores need a few columns of every feature at a time: those of a long
// sequence, and of the tables, share their places in a near cache. `column` is that of the first query's distance from
// the first of the `count` keys.
template <int N>
SPARSERVE_INLINE NearKeys near_keys(const float* keys, std::size_t key_stride, const Relative& relative,
                                    std::size_t column, std::uint32_t head_dim, std::uint32_t count, float* to) {
  // The strides are odd numbers of vectors, or nearly so, which spreads the features over a cache.
  constexpr std::size_t stride = kKeyBlock + N * kLanes + kLanes, near_key_stride = kKeyBlock + kLanes;
  const std::size_t first = column - (count - 1), begin = first / kLanes * kLanes, end = column + N * kLanes;
  float* const tables[] = {to, to + head_dim * stride};
  const float* const sources[] = {relative.keys, relative.queries};
  for (int table = 0; table < 2; ++table) {
    for (std::size_t at = begin; at < end;) {
      const std::size_t limit = (at / kDistanceBlock + 1) * kDistanceBlock, until = end < limit ? end : limit;
      const float* from = sources[table] + distance_at(head_dim, 0, at);
      float* out = tables[table] + (at - begin);
      for (std::uint32_t d = 0; d < head_dim; ++d, from += kDistanceBlock, out += stride)
        for (std::size_t c = 0; c < until - at; c += kLanes) store(out + c, load(from + c));
      at = limit;
    }
  }
  float* copies = to + 2 * head_dim * stride;
  for (std::uint32_t d = 0; d < head_dim; ++d)
    for (std::uint32_t c = 0; c < count; c += kLanes)
      store(copies + d * near_key_stride + c, load(keys + d * key_stride + c));
  const std::size_t zero_at = column - begin;
  return {copies, near_key_stride, {tables[0] + zero_at, tables[1] + zero_at, stride}};
}

// `relative_scores` for any number of keys.
template <int N>
void relative_score_rows(const float* keys, std::size_t key_stride, const float* queries, std::size_t stride,
                         std::uint32_t head_dim, Relative relative, float* out, std::uint32_t count) {
  constexpr int rows = 4;  // of accumulators; the products need more registers than `multiply`
  const auto some = [&]<int M>() {
    relative_scores<M, N>(keys, key_stride, queries, stride, head_dim, relative, out);
    keys += M;
    relative.keys -= M;
    relative.queries -= M;
    out += M * N * kLanes;
  };
  for (; count >= rows; count -= rows) some.template operator()<rows>();
  for (; count > 0; --count) some.template operator()<1>();
}

// Neighbouring queries of one sequence and the keys within `band` of any of them.
struct Reach {
  std::uint32_t position;  // of the first query
  std::uint32_t queries;
  std::uint32_t band;

  SPARSERVE_MEMBER std::uint32_t first_key() const { return position > band ? position - band : 0; }
  SPARSERVE_MEMBER std::uint32_t end_key(std::uint32_t tokens) const {
    const std::uint32_t end = position + queries + band;
    return end < tokens ? end : tokens;
  }
  // True if a key is within the band of some of the queries only.
  SPARSERVE_MEMBER bool is_edge(std::uint32_t key) const {
    return key + band + 1 < position + queries || key > position + band;
  }
  // 1 for those of the queries at `positions` that attend to an edge key, else 0
  SPARSERVE_MEMBER F32 attends(std::uint32_t key, F32 positions) const {
    const F32 ahead = sub(broadcast(static_cast<float>(key)), positions);
    const F32 distance = max(ahead, sub(zero(), ahead));
    return max(min(sub(broadcast(static_cast<float>(band) + 1.0F), distance), broadcast(1.0F)), zero());
  }
};

// One head. queries [head_dim][stride] (scaled already), keys and values [head_dim][sequence.stride], out like queries;
// scores is scratch of kKeyBlock * N vectors; bias [key][bias_row] for this head and these queries, or null; relative of
// this head, with the column of distance 0, or null; scratch for it (near_keys).
//
// A query's result must not depend on the queries that are computed with it. So blocks of keys begin at multiples of
// kKeyBlock, and a key out of a query's band counts exactly nothing, as if it had been left out.
template <int N>
void attend(const float* queries, std::size_t stride, const float* keys, const float* values,
            const Sequence& sequence, std::uint32_t head_dim, const Reach& reach, const Relative& relative,
            std::size_t distance_zero, const float* bias, std::size_t bias_row, std::uint32_t bias_queries, float* out,
            float* scores, float* scratch) {
  constexpr std::size_t width = N * kLanes;
  const std::uint32_t first = reach.first_key(), end = reach.end_key(sequence.tokens);
  F32 positions[N];
  float lanes[width];
  for (std::uint32_t i = 0; i < width; ++i) lanes[i] = static_cast<float>(reach.position + i);
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) positions[n] = load(lanes + n * kLanes);
  F32 highest[N], total[N], keep[N];
  SPARSERVE_UNROLL
  for (int n = 0; n < N; ++n) {
    highest[n] = broadcast(kMasked);
    total[n] = zero();
  }
  for (std::uint32_t begin = first, next = 0; begin < end; begin = next) {
    next = (begin / kKeyBlock + 1) * kKeyBlock;
    const std::uint32_t count = (next < end ? next : end) - begin;
    if (relative.keys != nullptr) {
      const NearKeys block = near_keys<N>(keys + begin, sequence.stride, relative,
                                          distance_zero + reach.position - begin, head_dim, count, scratch);
      relative_score_rows<N>(block.keys, block.key_stride, queries, stride, head_dim, block.relative, scores, count);
    } else {
      multiply_rows<N, false>(keys + begin, 1, sequence.stride, queries, stride, head_dim, scores, width, count,
                              nullptr);
    }
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
      if (reach.is_edge(begin + j)) {
        SPARSERVE_UNROLL
        for (int n = 0; n < N; ++n) {
          const F32 out_of_band = sub(broadcast(1.0F), reach.attends(begin + j, positions[n]));
          float* score = scores + j * width + n * kLanes;
          store(score, fma(out_of_band, broadcast(kMasked), load(score)));
        }
      }
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
      const bool edge = reach.is_edge(begin + j);
      SPARSERVE_UNROLL
      for (int n = 0; n < N; ++n) {
        F32 p = exponential(sub(load(scores + j * width + n * kLanes), highest[n]));
        if (edge) p = mul(p, reach.attends(begin + j, positions[n]));
        store(scores + j * width + n * kLanes, p);
        total[n] = add(total[n], p);
      }
    }
    if (begin == first) {
      multiply_rows<N, false>(values + begin, sequence.stride, 1, scores, width, count, out, stride, head_dim, nullptr);
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

// One head of the first token: query[d * stride] (scaled already); out[d * stride] is written; scores is scratch of the
// sequence's stride. Lanes are keys here.
SPARSERVE_INLINE void attend_one(const float* query, std::size_t stride, const float* keys, const float* values,
                                 const Sequence& sequence, std::uint32_t head_dim, std::uint32_t band,
                                 const Relative& relative, const float* bias, std::size_t bias_row, float* out,
                                 float* scores) {
  const std::uint32_t tokens = band < sequence.tokens ? band + 1 : sequence.tokens;
  const std::uint32_t padded = (tokens + kLanes - 1) / kLanes * kLanes;
  float highest = 2 * kMasked;
  for (std::uint32_t j = 0; j < padded; j += kLanes) {
    F32 score = zero();
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      F32 key = load(keys + std::size_t{d} * sequence.stride + j);
      if (relative.keys != nullptr) {
        score = fma(key, load(relative.queries + d * relative.stride + j), score);
        key = add(key, load(relative.keys + d * relative.stride + j));
      }
      score = fma(broadcast(query[d * stride]), key, score);
    }
    store(scores + j, score);
  }
  for (std::uint32_t j = 0; j < padded; ++j) {
    if (sequence.key_bias != nullptr && j < tokens) scores[j] += sequence.key_bias[j];
    if (bias != nullptr && j < tokens) scores[j] += bias[j * bias_row];
    if (j >= tokens) scores[j] = 2 * kMasked;
    highest = scores[j] > highest ? scores[j] : highest;
  }
  for (std::uint32_t j = 0; j < padded; j += kLanes)
    store(scores + j, exponential(sub(load(scores + j), broadcast(highest))));
  // Whole vectors, then the rest one by one: the values after the last token are undefined.
  const std::uint32_t whole = tokens / kLanes * kLanes;
  float total = 0.0F;
  F32 sum = zero();
  for (std::uint32_t j = 0; j < whole; j += kLanes) sum = add(sum, load(scores + j));
  float lanes[kLanes];
  store(lanes, sum);
  for (float lane : lanes) total += lane;
  for (std::uint32_t j = whole; j < tokens; ++j) total += scores[j];
  for (std::uint32_t d = 0; d < head_dim; ++d) {
    const float* row = values + std::size_t{d} * sequence.stride;
    F32 dot = zero();
    for (std::uint32_t j = 0; j < whole; j += kLanes) dot = fma(load(scores + j), load(row + j), dot);
    store(lanes, dot);
    float result = 0.0F;
    for (float lane : lanes) result += lane;
    for (std::uint32_t j = whole; j < tokens; ++j) result += scores[j] * row[j];
    out[d * stride] = result / total;
  }
}

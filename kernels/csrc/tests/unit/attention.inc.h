// Tests of attention in floats. Included once per instruction set.
#pragma once

// One head of N vectors of queries, and one sequence whose last vector is partly beyond its end.
struct Head {
  std::uint32_t head_dim, tokens, queries, stride;
  float *query, *key, *value;
  Sequence sequence;
};

// The keys' and values' tails hold `tail`.
Head head_of(std::uint32_t head_dim, std::uint32_t tokens, std::uint32_t queries, float tail) {
  Head head{};
  head.head_dim = head_dim;
  head.tokens = tokens;
  head.queries = queries;
  head.stride = (tokens + kLanes - 1) / kLanes * kLanes;
  head.query = unit::random_floats(std::size_t{head_dim} * queries, -1, 1);
  head.key = unit::random_floats(std::size_t{head_dim} * head.stride, -2, 2);
  head.value = unit::random_floats(std::size_t{head_dim} * head.stride, -1, 3);
  for (std::uint32_t d = 0; d < head_dim; ++d)
    for (std::uint32_t t = tokens; t < head.stride; ++t)
      head.key[d * head.stride + t] = head.value[d * head.stride + t] = tail;
  head.sequence.tokens = tokens;
  head.sequence.stride = head.stride;
  return head;
}

double* shifts(std::size_t count) { return reinterpret_cast<double*>(unit::bytes(count * sizeof(double))); }

// Mask of a sequence with holes: every third key from the second on.
float* holes(std::uint32_t tokens) {
  float* mask = unit::floats(tokens);
  for (std::uint32_t t = 0; t < tokens; ++t) mask[t] = t % 3 == 1 ? kMasked : 0;
  return mask;
}

void compare_heads(const char* what, const Head& head, const double* shift, const float* out, double tolerance) {
  auto* expected = shifts(std::size_t{head.head_dim} * head.queries);
  unit::attention(head.query, head.queries, head.queries, head.key, head.value, head.stride, head.tokens, head.head_dim,
                  shift, expected);
  for (std::size_t i = 0; i < std::size_t{head.head_dim} * head.queries; ++i)
    near(what, out[i], expected[i], tolerance);
}

// Call with<N>() for every number of vectors of queries.
template <class Function>
void for_attention_vectors(const Function& with) {
  with.template operator()<1>();
  with.template operator()<2>();
  if constexpr (kAttentionVectors > 2) {
    with.template operator()<3>();
    with.template operator()<4>();
  }
}

// Shorter and longer than a block of keys, with and without masked keys and a position bias.
void masked_attention() {
  for_attention_vectors([]<int N>() {
    constexpr std::uint32_t queries = N * kLanes;
    const std::uint32_t token_counts[] = {1U, 13U, kKeyBlock + 9};
    for (const std::uint32_t tokens : token_counts) {
      const bool choices[] = {false, true};
      for (const bool special : choices) {
        Head head = head_of(8, tokens, queries, __builtin_nanf(""));
        auto* shift = shifts(std::size_t{tokens} * queries);
        const std::uint32_t bias_queries = queries - 1;  // the last query has none
        const float* bias = special ? unit::random_floats(std::size_t{tokens} * queries, -1, 1) : nullptr;
        if (special) head.sequence.key_bias = holes(tokens);
        for (std::uint32_t j = 0; j < tokens; ++j)
          for (std::uint32_t i = 0; i < queries; ++i)
            if (special)
              shift[j * queries + i] =
                  double{head.sequence.key_bias[j]} + (i < bias_queries ? bias[j * queries + i] : 0);
        float* out = unit::floats(std::size_t{head.head_dim} * queries);
        float* scores = unit::floats(kKeyBlock * queries);
        attend<N>(head.query, queries, head.key, head.value, head.sequence, head.head_dim, {0, queries, kNoBand}, {},
                  0, bias, queries, bias_queries, out, scores, nullptr);
        compare_heads("attend", head, shift, out, 1e-5);
      }
    }
  });
}

void banded_attention() {
  for_attention_vectors([]<int N>() {
    constexpr std::uint32_t queries = N * kLanes, tokens = kKeyBlock + 30;
    const std::uint32_t bands[] = {0U, 3U, 100U};
    for (const std::uint32_t band : bands) {
      const std::uint32_t places[] = {0U, 64U, tokens - queries};
      for (const std::uint32_t position : places) {
        const Head head = head_of(8, tokens, queries, __builtin_nanf(""));
        auto* shift = shifts(std::size_t{tokens} * queries);
        for (std::uint32_t j = 0; j < tokens; ++j)
          for (std::uint32_t i = 0; i < queries; ++i) {
            const std::uint32_t query = position + i, distance = query > j ? query - j : j - query;
            shift[j * queries + i] = distance > band ? -1e30 : 0;
          }
        float* out = unit::floats(std::size_t{head.head_dim} * queries);
        float* scores = unit::floats(kKeyBlock * queries);
        attend<N>(head.query, queries, head.key, head.value, head.sequence, head.head_dim, {position, queries, band},
                  {}, 0, nullptr, 0, queries, out, scores, nullptr);
        compare_heads("attend", head, shift, out, 1e-5);
      }
    }
  });
}

// Tables of `columns` columns, one feature after the other.
Relative random_distances(std::uint32_t head_dim, std::size_t columns) {
  return {unit::random_floats(head_dim * columns, -1, 1), unit::random_floats(head_dim * columns, -1, 1), columns};
}

// The same table in blocks of columns; what is beyond the columns is not a number.
const float* in_blocks(const float* table, std::uint32_t head_dim, std::size_t columns, std::size_t padded) {
  float* blocks = unit::floats(head_dim * padded);
  for (std::uint32_t d = 0; d < head_dim; ++d)
    for (std::size_t column = 0; column < padded; ++column)
      blocks[distance_at(head_dim, d, column)] =
          column < columns ? table[d * columns + column] : __builtin_nanf("");
  return blocks;
}

// The score that relative positions add, of the column that belongs to the query's distance from the key.
double relative_shift(const Head& head, const Relative& relative, std::uint32_t i, std::uint32_t j,
                      std::size_t column) {
  double sum = 0;
  for (std::uint32_t d = 0; d < head.head_dim; ++d) {
    sum += double{head.query[d * head.queries + i]} * relative.keys[d * relative.stride + column];
    sum += double{head.key[d * head.stride + j]} * relative.queries[d * relative.stride + column];
  }
  return sum;
}

void relative_attention() {
  for_attention_vectors([]<int N>() {
    constexpr std::uint32_t queries = N * kLanes, tokens = kKeyBlock + 2 * queries - 3, positions = tokens + 4;
    const std::uint32_t places[] = {0U, queries};
    for (const std::uint32_t position : places) {
      const Head head = head_of(8, tokens, queries, __builtin_nanf(""));
      const std::size_t columns = 2 * positions - 1 + kLanes;
      const Relative relative = random_distances(head.head_dim, columns);
      auto* shift = shifts(std::size_t{tokens} * queries);
      for (std::uint32_t j = 0; j < tokens; ++j)
        for (std::uint32_t i = 0; i < queries; ++i)
          shift[j * queries + i] = relative_shift(head, relative, i, j, positions - 1 + position + i - j);
      float* out = unit::floats(std::size_t{head.head_dim} * queries);
      float* scores = unit::floats(kKeyBlock * queries);
      const std::size_t padded = (columns + 2 * kLanes + kDistanceBlock - 1) / kDistanceBlock * kDistanceBlock;
      const Relative blocks{in_blocks(relative.keys, head.head_dim, columns, padded),
                            in_blocks(relative.queries, head.head_dim, columns, padded), padded};
      attend<N>(head.query, queries, head.key, head.value, head.sequence, head.head_dim, {position, queries, kNoBand},
                blocks, positions - 1, nullptr, 0, queries, out, scores,
                unit::floats(near_floats(head.head_dim, kLanes, queries)));
      compare_heads("attend", head, shift, out, 2e-5);
    }
  });
}

void first_token_attention() {
  const std::uint32_t token_counts[] = {1U, 13U, kKeyBlock + 9};
  for (const std::uint32_t tokens : token_counts) {
    const std::uint32_t bands[] = {kNoBand, 5U};
    for (const std::uint32_t band : bands) {
      const bool choices[] = {false, true};
      for (const bool special : choices) {
        Head head = head_of(8, tokens, 1, __builtin_nanf(""));
        const float* bias = special ? unit::random_floats(std::size_t{tokens} * 3, -1, 1) : nullptr;
        Relative relative{};
        if (special) {
          head.sequence.key_bias = holes(tokens);
          relative = random_distances(head.head_dim, head.stride + kLanes);
        }
        auto* shift = shifts(tokens);
        for (std::uint32_t j = 0; j < tokens; ++j) {
          shift[j] = j > band ? -1e30 : 0;
          if (special)
            shift[j] +=
                double{head.sequence.key_bias[j]} + bias[3 * j] + relative_shift(head, relative, 0, j, j);
        }
        float* out = unit::floats(head.head_dim);
        float* scores = unit::floats(head.stride);
        attend_one(head.query, 1, head.key, head.value, head.sequence, head.head_dim, band, relative, bias, 3, out,
                   scores);
        compare_heads("attend_one", head, shift, out, 1e-5);
      }
    }
  }
}

// A NaN among the scores of a query makes its answer NaN: an early key's, in a later block, the last one's.
void spoiled_attention() {
  const std::uint32_t keys[] = {2U, kKeyBlock + 1, kKeyBlock + 8};
  for (const std::uint32_t key : keys) {
    Head head = head_of(8, kKeyBlock + 9, kLanes, 0);
    head.key[3 * head.stride + key] = __builtin_nanf("");
    head.query[5 * kLanes + 1] = __builtin_inff();  // of the first query's neighbour: infinite scores of both signs
    float* out = unit::floats(std::size_t{head.head_dim} * kLanes);
    float* scores = unit::floats(kKeyBlock * kLanes + head.stride);
    attend<1>(head.query, kLanes, head.key, head.value, head.sequence, head.head_dim, {0, kLanes, kNoBand}, {}, 0,
              nullptr, 0, kLanes, out, scores, nullptr);
    for (std::size_t i = 0; i < std::size_t{head.head_dim} * kLanes; ++i) near("attend", out[i], __builtin_nan(""), 0);
    attend_one(head.query, kLanes, head.key, head.value, head.sequence, head.head_dim, kNoBand, {}, nullptr, 0, out,
               scores);
    for (std::uint32_t d = 0; d < head.head_dim; ++d)
      near("attend_one", out[std::size_t{d} * kLanes], __builtin_nan(""), 0);
    head.key[3 * head.stride + key] = 0;
    attend<1>(head.query, kLanes, head.key, head.value, head.sequence, head.head_dim, {0, kLanes, kNoBand}, {}, 0,
              nullptr, 0, kLanes, out, scores, nullptr);
    for (std::uint32_t d = 0; d < head.head_dim; ++d)
      for (std::uint32_t i = 0; i < kLanes; ++i)
        same("attend, a spoiled query", out[d * kLanes + i] != out[d * kLanes + i], i == 1);
  }
}

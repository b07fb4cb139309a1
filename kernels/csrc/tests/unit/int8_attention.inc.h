// Tests of attention in bytes. Included once per instruction set.
#pragma once

void packed_bytes() {
  for (int round_number = 0; round_number < 20; ++round_number) {
    float rows[4][kLanes];
    std::int32_t got[kLanes];
    F32 x[4];
    for (int k = 0; k < 4; ++k) {
      for (float& value : rows[k]) value = round_number == 0 ? 255.0F : static_cast<float>(unit::random_below(256));
      x[k] = add(load(rows[k]), broadcast(kToInteger));
    }
    store_int(got, bytes_of(x[0], x[1], x[2], x[3]));
    for (int i = 0; i < kLanes; ++i)
      for (int k = 0; k < 4; ++k)
        same("bytes_of", static_cast<std::uint32_t>(got[i]) >> (8 * k) & 255U, static_cast<int>(rows[k][i]));
  }
}

void powers() {
  for (double x = -125.9; x <= 0; x += 0.0173) {
    const double expected = __builtin_exp2(double{static_cast<float>(x)});
    SPARSERVE_LANES("coarse_exp2", coarse_exp2(broadcast(static_cast<float>(x))), expected, 1e-4 * expected);
  }
  const float arguments[] = {-127.0F, -1e30F, -__builtin_inff()};
  for (const float x : arguments)
    SPARSERVE_LANES("coarse_exp2", coarse_exp2(broadcast(x)), 0, 2e-38);
  SPARSERVE_LANES("coarse_exp2", coarse_exp2(broadcast(__builtin_nanf(""))), __builtin_nan(""), 0);
}

// A head's keys and values in bytes, in buffers as large as those of floats.
struct ByteHead {
  float *keys, *values;
};

ByteHead bytes_of_head(const Head& head) {
  const std::size_t size = std::size_t{head.head_dim} * head.stride;
  const ByteHead result{unit::floats(size), unit::floats(size)};
  for (std::uint32_t position = 0; position < head.stride; position += kLanes) {
    store_byte_keys(head.key + position, head.stride, head.head_dim, result.keys, head.stride, position);
    store_byte_values(head.value + position, head.stride, head.head_dim, result.values, head.stride, position);
  }
  return result;
}

double largest_of(const float* x, std::size_t stride, std::uint32_t features) {
  double largest = 0;
  for (std::uint32_t d = 0; d < features; ++d) largest = __builtin_fmax(largest, __builtin_fabs(double{x[d * stride]}));
  return largest;
}

void stored_bytes() {
  Head head = head_of(12, 2 * kLanes, kLanes, 0);
  for (std::uint32_t d = 0; d < head.head_dim; ++d) head.key[d * head.stride + 1] = head.value[d * head.stride + 1] = 0;
  head.key[5 * head.stride + 2] = head.value[6 * head.stride + 2] = __builtin_nanf("");
  head.key[5 * head.stride + 3] = head.value[6 * head.stride + 3] = __builtin_inff();
  const ByteHead stored = bytes_of_head(head);
  const auto* key_bytes = reinterpret_cast<const std::uint8_t*>(stored.keys);
  const auto* value_bytes = reinterpret_cast<const std::int8_t*>(stored.values);
  const float* key_scales = stored.keys + head.head_dim / 4 * head.stride;
  const float* logarithms = stored.values + head.head_dim / 4 * head.stride;
  const float* inverses = logarithms + head.stride;
  for (std::uint32_t t = 0; t < head.tokens; ++t) {
    if (t == 2 || t == 3) {
      near("scale of NaN", key_scales[t], __builtin_nan(""), 0);
      near("inverse of NaN", inverses[t], __builtin_nan(""), 0);
      continue;
    }
    const double step = __builtin_fmax(largest_of(head.key + t, head.stride, head.head_dim), 1e-20) / 127;
    near("scale", key_scales[t], step, 1e-6 * step);
    for (std::uint32_t d = 0; d < head.head_dim; ++d) {
      const int byte = key_bytes[(d / 4 * head.stride + t) * 4 + d % 4];
      near("store_byte_keys", (byte - 128) * step, head.key[d * head.stride + t], 0.501 * step);
      near("store_byte_values", value_bytes[d * head.stride + t],
           head.value[d * head.stride + t] * double{inverses[t]}, 0.51);
    }
    near("inverse", __builtin_log2(double{inverses[t]}), -double{logarithms[t]}, 1e-5);
    // The largest value has 58 to 64 steps.
    if (t != 1) near("steps", largest_of(head.value + t, head.stride, head.head_dim) * double{inverses[t]}, 62, 2.5);
  }
}

void byte_attention() {
  for_attention_vectors([]<int N>() {
    constexpr std::uint32_t queries = N * kLanes;
    const std::uint32_t token_counts[] = {1U, 14U, kKeyBlock + 9};
    for (const std::uint32_t tokens : token_counts) {
      const bool choices[] = {false, true};
      for (const bool special : choices) {
        Head head = head_of(16, tokens, queries, 0);
        auto* shift = shifts(std::size_t{tokens} * queries);
        const float* bias = special ? unit::random_floats(std::size_t{tokens} * queries, -1, 1) : nullptr;
        if (special) head.sequence.key_bias = holes(tokens);
        for (std::uint32_t j = 0; j < tokens; ++j)
          for (std::uint32_t i = 0; i < queries; ++i)
            shift[j * queries + i] = special ? double{head.sequence.key_bias[j]} + bias[j * queries + i] : 0;
        const ByteHead stored = bytes_of_head(head);
        float* out = unit::floats(std::size_t{head.head_dim} * queries);
        float* scores = unit::floats(kKeyBlock * queries);
        attend_bytes<N>(head.query, queries, stored.keys, stored.values, head.sequence, head.head_dim, bias, queries,
                        queries, out, scores, unit::bytes(std::size_t{head.head_dim} * queries));
        compare_heads("attend_bytes", head, shift, out, 0.08);  // of values up to 3
      }
    }
  });
}

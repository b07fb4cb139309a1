// Tests of the vector type. Included once per instruction set.
#pragma once

// Compare each lane of a vector with `expected`, in which `i` is the lane.
#define SPARSERVE_LANES(what, vector, expected, tolerance) \
  do {                                                     \
    float lanes_[kLanes];                                  \
    store(lanes_, vector);                                 \
    for (int i = 0; i < kLanes; ++i) near(what, lanes_[i], expected, tolerance); \
  } while (false)

void float_operations() {
  const float infinity = __builtin_inff(), nan = __builtin_nanf("");
  for (int round_number = 0; round_number < 30; ++round_number) {
    float a[kLanes], b[kLanes], c[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      a[i] = unit::random_between(-100, 100);
      b[i] = unit::random_between(-100, 100);
      c[i] = unit::random_between(-100, 100);
    }
    const F32 x = load(a), y = load(b), z = load(c);
    SPARSERVE_LANES("load, store", x, a[i], 0);
    SPARSERVE_LANES("add", add(x, y), a[i] + b[i], 0);
    SPARSERVE_LANES("sub", sub(x, y), a[i] - b[i], 0);
    SPARSERVE_LANES("mul", mul(x, y), a[i] * b[i], 0);
    SPARSERVE_LANES("div", div(x, y), a[i] / b[i], 0);
    // Fused, or two roundings
    SPARSERVE_LANES("fma", fma(x, y, z), double{a[i]} * b[i] + c[i],
                    1.2e-7 * (__builtin_fabs(double{a[i]} * b[i]) + __builtin_fabs(c[i])));
    SPARSERVE_LANES("min", min(x, y), a[i] < b[i] ? a[i] : b[i], 0);
    SPARSERVE_LANES("max", max(x, y), a[i] > b[i] ? a[i] : b[i], 0);
    SPARSERVE_LANES("sqrt", sqrt(mul(x, x)), __builtin_sqrtf(a[i] * a[i]), 0);
    SPARSERVE_LANES("round", round(x), __builtin_rintf(a[i]), 0);
    const float power = __builtin_rintf(unit::random_between(-110, 110));
    SPARSERVE_LANES("scale2", scale2(x, broadcast(power)), __builtin_ldexpf(a[i], static_cast<int>(power)), 0);
  }
  SPARSERVE_LANES("zero", zero(), 0, 0);
  const float values[] = {-2.5F, -1.5F, -0.5F, 0.5F, 1.5F, 2.5F, 8388609.0F, -3e38F, infinity, nan};
  for (const float value : values)
    SPARSERVE_LANES("round", round(broadcast(value)), __builtin_rintf(value), 0);
  // NaN in the second place stays.
  SPARSERVE_LANES("max of NaN", max(zero(), broadcast(nan)), nan, 0);
  SPARSERVE_LANES("min of NaN", min(zero(), broadcast(nan)), nan, 0);
  SPARSERVE_LANES("scale2 of NaN", scale2(broadcast(nan), zero()), nan, 0);
}

void integer_operations() {
  for (int round_number = 0; round_number < 30; ++round_number) {
    std::int32_t a[kLanes], b[kLanes], got[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      a[i] = static_cast<std::int32_t>(unit::random_below(0xFFFFFFFFU));
      b[i] = static_cast<std::int32_t>(unit::random_below(0xFFFFFFFFU));
    }
    const I32 x = load_int(a);
    store_int(got, add_int(x, load_int(b)));
    for (int i = 0; i < kLanes; ++i)
      same("add_int", got[i], static_cast<std::int32_t>(std::uint32_t(a[i]) + std::uint32_t(b[i])));
    store_int(got, shift_left<7>(x));
    for (int i = 0; i < kLanes; ++i)
      same("shift_left", got[i], static_cast<std::int32_t>(static_cast<std::uint32_t>(a[i]) << 7));
    store_int(got, bits_of(from_bits(x)));
    for (int i = 0; i < kLanes; ++i) same("bits_of", got[i], a[i]);
    SPARSERVE_LANES("to_float", to_float(x), static_cast<float>(a[i]), 0);
    store_int(got, broadcast_int(a[0]));
    for (int i = 0; i < kLanes; ++i) same("broadcast_int", got[i], a[0]);
    const std::int8_t four[4] = {static_cast<std::int8_t>(a[0]), -128, 127, static_cast<std::int8_t>(b[0])};
    std::int32_t word;
    __builtin_memcpy(&word, four, 4);
    store_int(got, weights_of(four));
    for (int i = 0; i < kLanes; ++i) same("weights_of", got[i], word);
    for (int i = 0; i < kLanes; ++i) a[i] = static_cast<std::int32_t>(unit::random_below(256)) - 128;
    std::uint8_t* stored = unit::bytes(kLanes);
    store_bytes(stored, load_int(a));
    for (int i = 0; i < kLanes; ++i) same("store_bytes", stored[i], a[i] & 255);
  }
  std::int32_t got[kLanes];
  store_int(got, zero_int());
  for (int i = 0; i < kLanes; ++i) same("zero_int", got[i], 0);
}

// Four weights of which neighbours fit the 16 bits of a saturating product; the first case is the largest.
void random_weights(std::int8_t (&w)[4], bool largest) {
  for (int k = 0; k < 4; k += 2) {
    const int first = largest ? 127 : static_cast<int>(unit::random_below(128));
    const int second = largest ? 1 : static_cast<int>(unit::random_below(static_cast<std::uint32_t>(129 - first)));
    w[k] = static_cast<std::int8_t>(unit::random_below(2) != 0 ? first : -first);
    w[k + 1] = static_cast<std::int8_t>((w[k] < 0) == largest ? -second : second);
    if (!largest && unit::random_below(2) != 0) w[k + 1] = static_cast<std::int8_t>(-w[k + 1]);
  }
}

void dot_products() {
  for (int round_number = 0; round_number < 50; ++round_number) {
    std::int8_t w[4];
    random_weights(w, round_number == 0);
    std::uint8_t* a = unit::bytes(4 * kLanes);
    std::int32_t start[kLanes], got[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      start[i] = static_cast<std::int32_t>(unit::random_below(1U << 24)) - (1 << 23);
      for (int k = 0; k < 4; ++k)
        a[4 * i + k] = round_number == 0 ? 255 : static_cast<std::uint8_t>(unit::random_below(256));
    }
    store_int(got, dot(load_int(start), load_int(reinterpret_cast<std::int32_t*>(a)), weights_of(w)));
    for (int i = 0; i < kLanes; ++i) {
      int expected = start[i];
      for (int k = 0; k < 4; ++k) expected += a[4 * i + k] * w[k];
      same("dot", got[i], expected);
    }
  }
}

// Whole numbers in [low, high] for each of the V vectors' tokens, by their floats: a row of a tile.
template <int V>
float* whole_row(int low, int high) {
  float* row = unit::floats(V * kLanes);
  for (int t = 0; t < V * kLanes; ++t)
    row[t] = static_cast<float>(low + static_cast<int>(unit::random_below(static_cast<std::uint32_t>(high - low + 1))));
  return row;
}

template <int V>
void quantized_rows_of() {
  F32 inverse[V], zero_point[V];
  for (int v = 0; v < V; ++v) {
    inverse[v] = broadcast(0.5F);
    zero_point[v] = broadcast(100.25F);
  }
  constexpr int kTileTokens = kLanes * kMaxVectors;
  std::uint8_t* planar = unit::bytes(4 * kTileTokens);
  std::uint8_t* blocks = unit::bytes(4 * V * kLanes);
  const float* rows[4];
  for (int k = 0; k < 4; ++k) {
    rows[k] = whole_row<V>(-300, 500);
    quantize<V>(rows[k], inverse, zero_point, planar + k * kTileTokens);
  }
  interleave_rows<V>(planar, blocks);
  for (int t = 0; t < V * kLanes; ++t) {
    for (int k = 0; k < 4; ++k) {
      const double value = __builtin_rint(0.5 * rows[k][t] + 100.25);
      same("quantize", blocks[4 * t + k], static_cast<int>(value < 0 ? 0 : value > 255 ? 255 : value));
    }
  }
}

template <int V>
void byte_products_of() {
  F32 inverse[V], zero_point[V];
  for (int v = 0; v < V; ++v) {
    inverse[v] = broadcast(1.0F);
    zero_point[v] = zero();
  }
  constexpr int kTileTokens = kLanes * kMaxVectors;
  for (int round_number = 0; round_number < 20; ++round_number) {
    std::int8_t w[4];
    random_weights(w, round_number == 0);
    std::uint8_t* planar = unit::bytes(4 * kTileTokens);
    std::uint8_t* blocks = unit::bytes(4 * V * kLanes);
    const float* rows[4];
    for (int k = 0; k < 4; ++k) {
      rows[k] = whole_row<V>(round_number == 0 ? 255 : 0, 255);
      quantize<V>(rows[k], inverse, zero_point, planar + k * kTileTokens);
    }
    interleave_rows<V>(planar, blocks);
    I32 by_quad[V], by_block[V];
    for (int v = 0; v < V; ++v) by_quad[v] = by_block[v] = broadcast_int(round_number);
    quad<V>(by_quad, planar, planar + kTileTokens, planar + 2 * kTileTokens, planar + 3 * kTileTokens, w);
    block<V>(by_block, blocks, w);
    for (int v = 0; v < V; ++v) {
      std::int32_t quads[kLanes], whole_blocks[kLanes];
      store_int(quads, by_quad[v]);
      store_int(whole_blocks, by_block[v]);
      for (int i = 0; i < kLanes; ++i) {
        int expected = round_number;
        for (int k = 0; k < 4; ++k) expected += static_cast<int>(rows[k][v * kLanes + i]) * w[k];
        same("quad", quads[i], expected);
        same("block", whole_blocks[i], expected);
      }
    }
  }
}

void quantized_rows() {
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) for_vectors(v, []<int V>() { quantized_rows_of<V>(); });
}

void byte_products() {
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) for_vectors(v, []<int V>() { byte_products_of<V>(); });
}

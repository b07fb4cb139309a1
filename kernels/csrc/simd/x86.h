// Operations shared by AVX2 and AVX-512 on vectors of different width. The including file defines F32, I32, kLanes,
// kAttentionVectors and the spelling of the intrinsics; SPARSERVE_VNNI selects byte dot products.
#pragma once

constexpr int kMaxVectors = 4;
#ifdef SPARSERVE_VNNI
constexpr bool kSaturates = false;
#else
constexpr bool kSaturates = true;
#endif

SPARSERVE_INLINE F32 load(const float* p) { return MM(loadu_ps)(p); }
SPARSERVE_INLINE void store(float* p, F32 a) { MM(storeu_ps)(p, a); }
SPARSERVE_INLINE F32 broadcast(float a) { return MM(set1_ps)(a); }
SPARSERVE_INLINE F32 zero() { return MM(setzero_ps)(); }
SPARSERVE_INLINE F32 add(F32 a, F32 b) { return MM(add_ps)(a, b); }
SPARSERVE_INLINE F32 sub(F32 a, F32 b) { return MM(sub_ps)(a, b); }
SPARSERVE_INLINE F32 mul(F32 a, F32 b) { return MM(mul_ps)(a, b); }
SPARSERVE_INLINE F32 div(F32 a, F32 b) { return MM(div_ps)(a, b); }
SPARSERVE_INLINE F32 fma(F32 a, F32 b, F32 c) { return MM(fmadd_ps)(a, b, c); }
SPARSERVE_INLINE F32 min(F32 a, F32 b) { return MM(min_ps)(a, b); }
SPARSERVE_INLINE F32 max(F32 a, F32 b) { return MM(max_ps)(a, b); }
SPARSERVE_INLINE F32 sqrt(F32 a) { return MM(sqrt_ps)(a); }
SPARSERVE_INLINE F32 round(F32 a) { return MM_ROUND(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for a whole n that keeps the result normal
SPARSERVE_INLINE F32 scale2(F32 a, F32 n) {
  const I32 shifted = MM(slli_epi32)(MM(cvtps_epi32)(n), 23);
  return (F32)(MM(add_epi32)((I32)a, shifted));
}

SPARSERVE_INLINE I32 zero_int() { return MM_INT(setzero)(); }
SPARSERVE_INLINE I32 load_int(const std::int32_t* p) {
  return MM_INT(loadu)(reinterpret_cast<const I32*>(p));
}
SPARSERVE_INLINE void store_int(std::int32_t* p, I32 a) { MM_INT(storeu)(reinterpret_cast<I32*>(p), a); }
SPARSERVE_INLINE F32 to_float(I32 a) { return MM(cvtepi32_ps)(a); }
SPARSERVE_INLINE I32 broadcast_int(std::int32_t a) { return MM(set1_epi32)(a); }
SPARSERVE_INLINE I32 add_int(I32 a, I32 b) { return MM(add_epi32)(a, b); }
template <int N>
SPARSERVE_INLINE I32 shift_left(I32 a) {
  return MM(slli_epi32)(a, N);
}
SPARSERVE_INLINE I32 bits_of(F32 a) { return (I32)a; }
SPARSERVE_INLINE F32 from_bits(I32 a) { return (F32)a; }

SPARSERVE_INLINE I32 weights_of(const std::int8_t* w) {
  std::int32_t four;
  __builtin_memcpy(&four, w, 4);
  return MM(set1_epi32)(four);
}

// acc + the dot products of each four neighbouring bytes
SPARSERVE_INLINE I32 dot(I32 acc, I32 activations, I32 weights) {
#ifdef SPARSERVE_VNNI
  return MM_DPBUSD(acc, activations, weights);
#else
  const I32 pairs = MM(maddubs_epi16)(activations, weights);
  return MM(add_epi32)(acc, MM(madd_epi16)(pairs, MM(set1_epi16)(1)));
#endif
}

// Interleave four rows of bytes: vector v holds the four rows' bytes for each of its tokens. Packing (below) and the
// unpacks both work within 128-bit lanes: their orders cancel, and vector v holds its tokens in order.
template <int V>
SPARSERVE_INLINE void interleave(const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                                 const std::uint8_t* a3, I32 (&out)[V]) {
  const I32 r0 = MM_INT(load)(reinterpret_cast<const I32*>(a0));
  const I32 r1 = MM_INT(load)(reinterpret_cast<const I32*>(a1));
  const I32 r2 = MM_INT(load)(reinterpret_cast<const I32*>(a2));
  const I32 r3 = MM_INT(load)(reinterpret_cast<const I32*>(a3));
  const I32 low01 = MM(unpacklo_epi8)(r0, r1);
  const I32 low23 = MM(unpacklo_epi8)(r2, r3);
  out[0] = MM(unpacklo_epi16)(low01, low23);
  if constexpr (V > 1) out[1] = MM(unpackhi_epi16)(low01, low23);
  if constexpr (V > 2) {
    const I32 high01 = MM(unpackhi_epi8)(r0, r1);
    const I32 high23 = MM(unpackhi_epi8)(r2, r3);
    out[2] = MM(unpacklo_epi16)(high01, high23);
    if constexpr (V > 3) out[3] = MM(unpackhi_epi16)(high01, high23);
  }
}

template <int V>
SPARSERVE_INLINE void quad(I32 (&acc)[V], const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                           const std::uint8_t* a3, const std::int8_t* w) {
  I32 rows[V];
  interleave<V>(a0, a1, a2, a3, rows);
  const I32 weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) acc[v] = dot(acc[v], rows[v], weights);
}

template <int V>
SPARSERVE_INLINE void block(I32 (&acc)[V], const std::uint8_t* interleaved, const std::int8_t* w) {
  const I32 weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v)
    acc[v] = dot(acc[v], MM_INT(load)(reinterpret_cast<const I32*>(interleaved) + v), weights);
}

// One feature's activations as bytes: round(x * inverse + zero), saturated to 0..255
template <int V>
SPARSERVE_INLINE void quantize(const float* x, const F32 (&inverse)[V], const F32 (&zero_point)[V], std::uint8_t* out) {
  I32 q[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) q[v] = MM(cvtps_epi32)(fma(load(x + v * kLanes), inverse[v], zero_point[v]));
  const I32 words01 = MM(packs_epi32)(q[0], q[1]);
  const I32 words23 = MM(packs_epi32)(q[2], q[3]);
  MM_INT(store)(reinterpret_cast<I32*>(out), MM(packus_epi16)(words01, words23));
}

template <int V>
SPARSERVE_INLINE void interleave_rows(const std::uint8_t* planar, std::uint8_t* out) {
  constexpr int stride = kLanes * kMaxVectors;
  I32 rows[V];
  interleave<V>(planar, planar + stride, planar + 2 * stride, planar + 3 * stride, rows);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) MM_INT(store)(reinterpret_cast<I32*>(out) + v, rows[v]);
}

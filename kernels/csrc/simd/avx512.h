// The vector type over AVX-512 (F, BW, DQ, VL): 16 floats; with SPARSERVE_VNNI also the dot product of AVX512_VNNI.
#pragma once

#include <immintrin.h>

using F32 = __m512;
using I32 = __m512i;

constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;
constexpr int kAttentionVectors = 4;  // 6 rows x 4 vectors of accumulators leave registers for their operands
#ifdef SPARSERVE_VNNI
constexpr bool kSaturates = false;
#else
constexpr bool kSaturates = true;
#endif

SPARSERVE_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
SPARSERVE_INLINE void store(float* p, F32 a) { _mm512_storeu_ps(p, a); }
SPARSERVE_INLINE F32 broadcast(float a) { return _mm512_set1_ps(a); }
SPARSERVE_INLINE F32 zero() { return _mm512_setzero_ps(); }
SPARSERVE_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
SPARSERVE_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
SPARSERVE_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
SPARSERVE_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
SPARSERVE_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
SPARSERVE_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
SPARSERVE_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
SPARSERVE_INLINE F32 sqrt(F32 a) { return _mm512_sqrt_ps(a); }
SPARSERVE_INLINE F32 round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for a whole n that keeps the result normal
SPARSERVE_INLINE F32 scale2(F32 a, F32 n) {
  const __m512i shifted = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), shifted));
}

SPARSERVE_INLINE I32 zero_int() { return _mm512_setzero_si512(); }
SPARSERVE_INLINE I32 load_int(const std::int32_t* p) {
  return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(p));
}
SPARSERVE_INLINE void store_int(std::int32_t* p, I32 a) { _mm512_storeu_si512(reinterpret_cast<__m512i*>(p), a); }
SPARSERVE_INLINE F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }

SPARSERVE_INLINE __m512i weights_of(const std::int8_t* w) {
  std::int32_t four;
  __builtin_memcpy(&four, w, 4);
  return _mm512_set1_epi32(four);
}

// acc + the dot products of each four neighbouring bytes
SPARSERVE_INLINE I32 dot(I32 acc, __m512i activations, __m512i weights) {
#ifdef SPARSERVE_VNNI
  return _mm512_dpbusd_epi32(acc, activations, weights);
#else
  const __m512i pairs = _mm512_maddubs_epi16(activations, weights);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

// Four rows of bytes, interleaved: vector v has, for each of its tokens, the four rows' bytes. Packing (below) works
// within 128-bit lanes and so do the unpacks: they undo each other's order, and vector v holds tokens 16v to 16v+15.
template <int V>
SPARSERVE_INLINE void interleave(const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                                 const std::uint8_t* a3, __m512i (&out)[V]) {
  const __m512i r0 = _mm512_load_si512(reinterpret_cast<const __m512i*>(a0));
  const __m512i r1 = _mm512_load_si512(reinterpret_cast<const __m512i*>(a1));
  const __m512i r2 = _mm512_load_si512(reinterpret_cast<const __m512i*>(a2));
  const __m512i r3 = _mm512_load_si512(reinterpret_cast<const __m512i*>(a3));
  const __m512i low01 = _mm512_unpacklo_epi8(r0, r1);
  const __m512i low23 = _mm512_unpacklo_epi8(r2, r3);
  out[0] = _mm512_unpacklo_epi16(low01, low23);
  if constexpr (V > 1) out[1] = _mm512_unpackhi_epi16(low01, low23);
  if constexpr (V > 2) {
    const __m512i high01 = _mm512_unpackhi_epi8(r0, r1);
    const __m512i high23 = _mm512_unpackhi_epi8(r2, r3);
    out[2] = _mm512_unpacklo_epi16(high01, high23);
    if constexpr (V > 3) out[3] = _mm512_unpackhi_epi16(high01, high23);
  }
}

template <int V>
SPARSERVE_INLINE void quad(I32 (&acc)[V], const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                           const std::uint8_t* a3, const std::int8_t* w) {
  __m512i rows[V];
  interleave<V>(a0, a1, a2, a3, rows);
  const __m512i weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) acc[v] = dot(acc[v], rows[v], weights);
}

template <int V>
SPARSERVE_INLINE void block(I32 (&acc)[V], const std::uint8_t* interleaved, const std::int8_t* w) {
  const __m512i weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v)
    acc[v] = dot(acc[v], _mm512_load_si512(reinterpret_cast<const __m512i*>(interleaved) + v), weights);
}

// One feature's activations as bytes: round(x * inverse + zero), saturated to 0..255
template <int V>
SPARSERVE_INLINE void quantize(const float* x, const F32 (&inverse)[V], const F32 (&zero_point)[V], std::uint8_t* out) {
  __m512i q[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) q[v] = _mm512_cvtps_epi32(fma(load(x + v * kLanes), inverse[v], zero_point[v]));
  const __m512i words01 = _mm512_packs_epi32(q[0], q[1]);
  const __m512i words23 = _mm512_packs_epi32(q[2], q[3]);
  _mm512_store_si512(reinterpret_cast<__m512i*>(out), _mm512_packus_epi16(words01, words23));
}

template <int V>
SPARSERVE_INLINE void interleave_rows(const std::uint8_t* planar, std::uint8_t* out) {
  constexpr int stride = kLanes * kMaxVectors;
  __m512i rows[V];
  interleave<V>(planar, planar + stride, planar + 2 * stride, planar + 3 * stride, rows);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) _mm512_store_si512(reinterpret_cast<__m512i*>(out) + v, rows[v]);
}

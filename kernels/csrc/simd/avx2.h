// The vector type over AVX2 and FMA: 8 floats; with SPARSERVE_VNNI also the 256-bit dot product of AVX-VNNI.
#pragma once

#include <immintrin.h>

using F32 = __m256;
using I32 = __m256i;

constexpr int kLanes = 8;
constexpr int kMaxVectors = 4;
constexpr int kAttentionVectors = 2;  // 6 rows x 2 vectors of accumulators leave registers for their operands
#ifdef SPARSERVE_VNNI
constexpr bool kSaturates = false;
#else
constexpr bool kSaturates = true;
#endif

SPARSERVE_INLINE F32 load(const float* p) { return _mm256_loadu_ps(p); }
SPARSERVE_INLINE void store(float* p, F32 a) { _mm256_storeu_ps(p, a); }
SPARSERVE_INLINE F32 broadcast(float a) { return _mm256_set1_ps(a); }
SPARSERVE_INLINE F32 zero() { return _mm256_setzero_ps(); }
SPARSERVE_INLINE F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
SPARSERVE_INLINE F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
SPARSERVE_INLINE F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
SPARSERVE_INLINE F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
SPARSERVE_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
SPARSERVE_INLINE F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
SPARSERVE_INLINE F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
SPARSERVE_INLINE F32 sqrt(F32 a) { return _mm256_sqrt_ps(a); }
SPARSERVE_INLINE F32 round(F32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for a whole n that keeps the result normal
SPARSERVE_INLINE F32 scale2(F32 a, F32 n) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), shifted));
}

SPARSERVE_INLINE I32 zero_int() { return _mm256_setzero_si256(); }
SPARSERVE_INLINE I32 load_int(const std::int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
SPARSERVE_INLINE void store_int(std::int32_t* p, I32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
SPARSERVE_INLINE F32 to_float(I32 a) { return _mm256_cvtepi32_ps(a); }

SPARSERVE_INLINE __m256i weights_of(const std::int8_t* w) {
  std::int32_t four;
  __builtin_memcpy(&four, w, 4);
  return _mm256_set1_epi32(four);
}

// acc + the dot products of each four neighbouring bytes
SPARSERVE_INLINE I32 dot(I32 acc, __m256i activations, __m256i weights) {
#ifdef SPARSERVE_VNNI
  return _mm256_dpbusd_avx_epi32(acc, activations, weights);
#else
  const __m256i pairs = _mm256_maddubs_epi16(activations, weights);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// Four rows of bytes, interleaved: vector v has, for each of its tokens, the four rows' bytes. Packing (below) works
// within 128-bit lanes and so do the unpacks: they undo each other's order, and vector v holds tokens 8v to 8v+7.
template <int V>
SPARSERVE_INLINE void interleave(const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                                 const std::uint8_t* a3, __m256i (&out)[V]) {
  const __m256i r0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(a0));
  const __m256i r1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(a1));
  const __m256i r2 = _mm256_load_si256(reinterpret_cast<const __m256i*>(a2));
  const __m256i r3 = _mm256_load_si256(reinterpret_cast<const __m256i*>(a3));
  const __m256i low01 = _mm256_unpacklo_epi8(r0, r1);
  const __m256i low23 = _mm256_unpacklo_epi8(r2, r3);
  out[0] = _mm256_unpacklo_epi16(low01, low23);
  if constexpr (V > 1) out[1] = _mm256_unpackhi_epi16(low01, low23);
  if constexpr (V > 2) {
    const __m256i high01 = _mm256_unpackhi_epi8(r0, r1);
    const __m256i high23 = _mm256_unpackhi_epi8(r2, r3);
    out[2] = _mm256_unpacklo_epi16(high01, high23);
    if constexpr (V > 3) out[3] = _mm256_unpackhi_epi16(high01, high23);
  }
}

template <int V>
SPARSERVE_INLINE void quad(I32 (&acc)[V], const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                           const std::uint8_t* a3, const std::int8_t* w) {
  __m256i rows[V];
  interleave<V>(a0, a1, a2, a3, rows);
  const __m256i weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) acc[v] = dot(acc[v], rows[v], weights);
}

template <int V>
SPARSERVE_INLINE void block(I32 (&acc)[V], const std::uint8_t* interleaved, const std::int8_t* w) {
  const __m256i weights = weights_of(w);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v)
    acc[v] = dot(acc[v], _mm256_load_si256(reinterpret_cast<const __m256i*>(interleaved) + v), weights);
}

// One feature's activations as bytes: round(x * inverse + zero), saturated to 0..255
template <int V>
SPARSERVE_INLINE void quantize(const float* x, const F32 (&inverse)[V], const F32 (&zero_point)[V], std::uint8_t* out) {
  __m256i q[4] = {zero_int(), zero_int(), zero_int(), zero_int()};
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) q[v] = _mm256_cvtps_epi32(fma(load(x + v * kLanes), inverse[v], zero_point[v]));
  const __m256i words01 = _mm256_packs_epi32(q[0], q[1]);
  const __m256i words23 = _mm256_packs_epi32(q[2], q[3]);
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_packus_epi16(words01, words23));
}

template <int V>
SPARSERVE_INLINE void interleave_rows(const std::uint8_t* planar, std::uint8_t* out) {
  constexpr int stride = kLanes * kMaxVectors;
  __m256i rows[V];
  interleave<V>(planar, planar + stride, planar + 2 * stride, planar + 3 * stride, rows);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) _mm256_store_si256(reinterpret_cast<__m256i*>(out) + v, rows[v]);
}

// The vector type over AVX-512 (F, BW, DQ, VL): 16 floats; with SPARSERVE_VNNI also the dot product of AVX512_VNNI.
#pragma once

#include <immintrin.h>

using F32 = __m512;
using I32 = __m512i;

constexpr int kLanes = 16;
constexpr int kAttentionVectors = 4;  // 6 rows x 4 vectors of accumulators leave registers for their operands

#define MM(name) _mm512_##name
#define MM_INT(name) _mm512_##name##_si512
#define MM_ROUND _mm512_roundscale_ps
#define MM_DPBUSD _mm512_dpbusd_epi32
#include "x86.h"

// The lanes' integers, each within a signed byte, as bytes
SPARSERVE_INLINE void store_bytes(std::uint8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}

// The vector type over AVX2 and FMA: 8 floats; with SPARSERVE_VNNI also the 256-bit dot product of AVX-VNNI.
#pragma once

#include <immintrin.h>

using F32 = __m256;
using I32 = __m256i;

constexpr int kLanes = 8;
constexpr int kAttentionVectors = 2;  // 6 rows x 2 vectors of accumulators leave registers for their operands

#define MM(name) _mm256_##name
#define MM_INT(name) _mm256_##name##_si256
#define MM_ROUND _mm256_round_ps
#define MM_DPBUSD _mm256_dpbusd_avx_epi32
#include "x86.h"

// The lanes' integers, each within a signed byte, as bytes
SPARSERVE_INLINE void store_bytes(std::uint8_t* p, I32 a) {
  const I32 words = _mm256_packs_epi32(a, a);
  const I32 bytes = _mm256_packs_epi16(words, words);
  const std::int32_t halves[2] = {_mm_cvtsi128_si32(_mm256_castsi256_si128(bytes)),
                                  _mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1))};
  __builtin_memcpy(p, halves, sizeof halves);
}

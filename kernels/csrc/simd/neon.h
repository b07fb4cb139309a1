// The vector type over 64-bit Arm's NEON: 4 floats. Tested only under an emulator; its speed has not been measured.
#pragma once

#include <arm_neon.h>

using F32 = float32x4_t;
using I32 = int32x4_t;

constexpr int kLanes = 4;
constexpr int kMaxVectors = 8;
constexpr int kAttentionVectors = 4;
constexpr bool kSaturates = false;

SPARSERVE_INLINE F32 load(const float* p) { return vld1q_f32(p); }
SPARSERVE_INLINE void store(float* p, F32 a) { vst1q_f32(p, a); }
SPARSERVE_INLINE F32 broadcast(float a) { return vdupq_n_f32(a); }
SPARSERVE_INLINE F32 zero() { return vdupq_n_f32(0.0F); }
SPARSERVE_INLINE F32 add(F32 a, F32 b) { return vaddq_f32(a, b); }
SPARSERVE_INLINE F32 sub(F32 a, F32 b) { return vsubq_f32(a, b); }
SPARSERVE_INLINE F32 mul(F32 a, F32 b) { return vmulq_f32(a, b); }
SPARSERVE_INLINE F32 div(F32 a, F32 b) { return vdivq_f32(a, b); }
SPARSERVE_INLINE F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
SPARSERVE_INLINE F32 min(F32 a, F32 b) { return vminq_f32(a, b); }
SPARSERVE_INLINE F32 max(F32 a, F32 b) { return vmaxq_f32(a, b); }
SPARSERVE_INLINE F32 sqrt(F32 a) { return vsqrtq_f32(a); }
SPARSERVE_INLINE F32 round(F32 a) { return vrndnq_f32(a); }
SPARSERVE_INLINE F32 scale2(F32 a, F32 n) {
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
}

SPARSERVE_INLINE I32 zero_int() { return vdupq_n_s32(0); }
SPARSERVE_INLINE I32 load_int(const std::int32_t* p) { return vld1q_s32(p); }
SPARSERVE_INLINE void store_int(std::int32_t* p, I32 a) { vst1q_s32(p, a); }
SPARSERVE_INLINE F32 to_float(I32 a) { return vcvtq_f32_s32(a); }
SPARSERVE_INLINE I32 broadcast_int(std::int32_t a) { return vdupq_n_s32(a); }
SPARSERVE_INLINE I32 add_int(I32 a, I32 b) { return vaddq_s32(a, b); }
template <int N>
SPARSERVE_INLINE I32 shift_left(I32 a) {
  return vshlq_n_s32(a, N);
}
SPARSERVE_INLINE I32 bits_of(F32 a) { return vreinterpretq_s32_f32(a); }
SPARSERVE_INLINE F32 from_bits(I32 a) { return vreinterpretq_f32_s32(a); }
// The lanes' integers, each within a signed byte, as bytes
SPARSERVE_INLINE void store_bytes(std::uint8_t* p, I32 a) {
  const int16x4_t words = vmovn_s32(a);
  vst1_lane_s32(reinterpret_cast<std::int32_t*>(p), vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
}
SPARSERVE_INLINE I32 weights_of(const std::int8_t* w) {
  std::int32_t four;
  __builtin_memcpy(&four, w, 4);
  return vdupq_n_s32(four);
}

// acc + the dot products of each four neighbouring bytes, unsigned times signed
SPARSERVE_INLINE I32 dot(I32 acc, I32 unsigned_bytes, I32 signed_bytes) {
  const uint8x16_t a = vreinterpretq_u8_s32(unsigned_bytes);
  const int8x16_t b = vreinterpretq_s8_s32(signed_bytes);
  const int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), vmovl_s8(vget_low_s8(b)));
  const int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(a))), vmovl_s8(vget_high_s8(b)));
  return vpadalq_s16(acc, vpaddq_s16(low, high));
}

// Rows are not interleaved: a widening multiply-add takes one weight and four tokens.
template <int V>
SPARSERVE_INLINE void quad(I32 (&acc)[V], const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                           const std::uint8_t* a3, const std::int8_t* w) {
  const std::uint8_t* const rows[4] = {a0, a1, a2, a3};
  SPARSERVE_UNROLL
  for (int k = 0; k < 4; ++k) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; v += 2) {
      const int16x8_t wide = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(rows[k] + v * kLanes)));
      acc[v] = vmlal_n_s16(acc[v], vget_low_s16(wide), w[k]);
      if (v + 1 < V) acc[v + 1] = vmlal_n_s16(acc[v + 1], vget_high_s16(wide), w[k]);
    }
  }
}

template <int V>
SPARSERVE_INLINE void block(I32 (&acc)[V], const std::uint8_t* interleaved, const std::int8_t* w) {
  const int16_t four[4] = {w[0], w[1], w[2], w[3]};
  const int16x4_t weights = vld1_s16(four);
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    const uint8x16_t bytes = vld1q_u8(interleaved + v * kLanes * 4);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
    const int32x4_t t01 = vpaddq_s32(vmull_s16(vget_low_s16(low), weights), vmull_s16(vget_high_s16(low), weights));
    const int32x4_t t23 = vpaddq_s32(vmull_s16(vget_low_s16(high), weights), vmull_s16(vget_high_s16(high), weights));
    acc[v] = vaddq_s32(acc[v], vpaddq_s32(t01, t23));
  }
}

template <int V>
SPARSERVE_INLINE void quantize(const float* x, const F32 (&inverse)[V], const F32 (&zero_point)[V], std::uint8_t* out) {
  SPARSERVE_UNROLL
  for (int v = 0; v < V; v += 2) {
    const int32x4_t first = vcvtnq_s32_f32(fma(load(x + v * kLanes), inverse[v], zero_point[v]));
    int32x4_t second = zero_int();
    if (v + 1 < V) second = vcvtnq_s32_f32(fma(load(x + (v + 1) * kLanes), inverse[v + 1], zero_point[v + 1]));
    vst1_u8(out + v * kLanes, vqmovun_s16(vcombine_s16(vqmovn_s32(first), vqmovn_s32(second))));
  }
}

template <int V>
SPARSERVE_INLINE void interleave_rows(const std::uint8_t* planar, std::uint8_t* out) {
  constexpr int stride = kLanes * kMaxVectors;
  for (int t = 0; t < V * kLanes; ++t)
    for (int k = 0; k < 4; ++k) out[4 * t + k] = planar[k * stride + t];
}

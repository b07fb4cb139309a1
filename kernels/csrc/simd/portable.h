// The vector type over the compiler's generic vectors, for any machine: the reference of the other instruction
// sets. 8 floats, which the compiler splits as the machine requires.
#pragma once

typedef float F32 __attribute__((vector_size(32)));
typedef std::int32_t I32 __attribute__((vector_size(32)));

constexpr int kLanes = 8;
constexpr int kMaxVectors = 2;
constexpr int kAttentionVectors = 2;
constexpr bool kSaturates = false;

SPARSERVE_INLINE F32 load(const float* p) {
  F32 a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
SPARSERVE_INLINE void store(float* p, F32 a) { __builtin_memcpy(p, &a, sizeof a); }
SPARSERVE_INLINE F32 zero() { return F32{}; }
SPARSERVE_INLINE F32 broadcast(float a) { return zero() + a; }
SPARSERVE_INLINE F32 add(F32 a, F32 b) { return a + b; }
SPARSERVE_INLINE F32 sub(F32 a, F32 b) { return a - b; }
SPARSERVE_INLINE F32 mul(F32 a, F32 b) { return a * b; }
SPARSERVE_INLINE F32 div(F32 a, F32 b) { return a / b; }
SPARSERVE_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
SPARSERVE_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }
SPARSERVE_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }
SPARSERVE_INLINE F32 sqrt(F32 a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
// Round to the nearest integer if the value fits an int; other values are unchanged.
SPARSERVE_INLINE F32 round(F32 a) {
  const F32 magic = broadcast(12582912.0F);  // 1.5 * 2^23: adding it leaves no room for a fraction
  const F32 rounded = (a + magic) - magic;
  return ((a < broadcast(4194304.0F)) & (a > broadcast(-4194304.0F))) ? rounded : a;
}
SPARSERVE_INLINE I32 to_int(F32 a) {
  // NaN and values that no int holds become 0, because their conversion is undefined.
  const F32 safe = ((a < broadcast(2e9F)) & (a > broadcast(-2e9F))) ? a : zero();
  return __builtin_convertvector(safe, I32);
}
SPARSERVE_INLINE F32 scale2(F32 a, F32 n) {
  typedef std::uint32_t Bits __attribute__((vector_size(32)));
  return (F32)((Bits)a + ((Bits)to_int(n) << 23));
}

SPARSERVE_INLINE I32 zero_int() { return I32{}; }
SPARSERVE_INLINE I32 load_int(const std::int32_t* p) {
  I32 a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
SPARSERVE_INLINE void store_int(std::int32_t* p, I32 a) { __builtin_memcpy(p, &a, sizeof a); }
SPARSERVE_INLINE F32 to_float(I32 a) { return __builtin_convertvector(a, F32); }
SPARSERVE_INLINE I32 broadcast_int(std::int32_t a) { return I32{} + a; }
SPARSERVE_INLINE I32 add_int(I32 a, I32 b) {
  typedef std::uint32_t Bits __attribute__((vector_size(32)));
  return (I32)((Bits)a + (Bits)b);
}
template <int N>
SPARSERVE_INLINE I32 shift_left(I32 a) {
  typedef std::uint32_t Bits __attribute__((vector_size(32)));
  return (I32)((Bits)a << N);
}
SPARSERVE_INLINE I32 bits_of(F32 a) { return (I32)a; }
SPARSERVE_INLINE F32 from_bits(I32 a) { return (F32)a; }
// The lanes' integers, each within a signed byte, as bytes
SPARSERVE_INLINE void store_bytes(std::uint8_t* p, I32 a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(a[i]);
}
SPARSERVE_INLINE I32 weights_of(const std::int8_t* w) {
  std::int32_t four;
  __builtin_memcpy(&four, w, 4);
  return broadcast_int(four);
}
// acc + the dot products of each four neighbouring bytes, unsigned times signed
SPARSERVE_INLINE I32 dot(I32 acc, I32 unsigned_bytes, I32 signed_bytes) {
  for (int k = 0; k < 4; ++k)
    acc += ((unsigned_bytes >> (8 * k)) & 255) * (shift_left<24>(signed_bytes >> (8 * k)) >> 24);
  return acc;
}

SPARSERVE_INLINE I32 bytes_at(const std::uint8_t* p) {
  typedef std::uint8_t Bytes __attribute__((vector_size(8)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, I32);
}

template <int V>
SPARSERVE_INLINE void quad(I32 (&acc)[V], const std::uint8_t* a0, const std::uint8_t* a1, const std::uint8_t* a2,
                           const std::uint8_t* a3, const std::int8_t* w) {
  for (int v = 0; v < V; ++v) {
    const int t = v * kLanes;
    acc[v] += bytes_at(a0 + t) * w[0] + bytes_at(a1 + t) * w[1] + bytes_at(a2 + t) * w[2] + bytes_at(a3 + t) * w[3];
  }
}

template <int V>
SPARSERVE_INLINE void block(I32 (&acc)[V], const std::uint8_t* interleaved, const std::int8_t* w) {
  for (int v = 0; v < V; ++v) {
    const std::uint8_t* a = interleaved + v * kLanes * 4;
    for (int i = 0; i < kLanes; ++i, a += 4) acc[v][i] += a[0] * w[0] + a[1] * w[1] + a[2] * w[2] + a[3] * w[3];
  }
}

template <int V>
SPARSERVE_INLINE void quantize(const float* x, const F32 (&inverse)[V], const F32 (&zero_point)[V], std::uint8_t* out) {
  for (int v = 0; v < V; ++v) {
    const I32 q = to_int(min(max(round(fma(load(x + v * kLanes), inverse[v], zero_point[v])), zero()), broadcast(255)));
    for (int i = 0; i < kLanes; ++i) out[v * kLanes + i] = static_cast<std::uint8_t>(q[i]);
  }
}

template <int V>
SPARSERVE_INLINE void interleave_rows(const std::uint8_t* planar, std::uint8_t* out) {
  constexpr int stride = kLanes * kMaxVectors;
  for (int t = 0; t < V * kLanes; ++t)
    for (int k = 0; k < 4; ++k) out[4 * t + k] = planar[k * stride + t];
}

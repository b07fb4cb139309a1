// The peak of byte dot products on one core: independent chains of the instruction that the kernels use, on registers.
// benchmarks.kernels.peaks compiles it with the flags of one instruction set and SPARSERVE_SIMD, its vector type.
#include <cstddef>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#include "kernels.h"

#define SPARSERVE_INLINE static inline __attribute__((always_inline))
#define SPARSERVE_MEMBER inline __attribute__((always_inline))
#define SPARSERVE_UNROLL _Pragma("GCC unroll 16")

namespace sparserve {
namespace {

#include SPARSERVE_SIMD

// An operand that the compiler must take for another one at every use; otherwise it would hoist the products.
#if defined(__x86_64__)
#define SPARSERVE_RENEW(value) __asm__ volatile("" : "+v"(value))
#else
#define SPARSERVE_RENEW(value) __asm__ volatile("" : "+w"(value))
#endif

constexpr int kChains = 10;  // enough to hide the latency, few enough for sixteen registers

// Compute `rounds` x kChains dot products; return the multiply-adds in them.
std::uint64_t byte_products(std::uint64_t rounds, std::int32_t* sink) {
  I32 sums[kChains];
  for (int chain = 0; chain < kChains; ++chain) sums[chain] = zero_int();
  I32 activations = broadcast_int(0x01010101), weights = broadcast_int(0x01010101);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    SPARSERVE_UNROLL
    for (int chain = 0; chain < kChains; ++chain) {
      SPARSERVE_RENEW(activations);
      sums[chain] = dot(sums[chain], activations, weights);
    }
  }
  I32 total = zero_int();
  for (int chain = 0; chain < kChains; ++chain) total = add_int(total, sums[chain]);
  store_int(sink, total);
  return rounds * kChains * static_cast<std::uint64_t>(kLanes) * 4;
}

}  // namespace
}  // namespace sparserve

extern "C" std::uint64_t sparserve_byte_products(std::uint64_t rounds, std::int32_t* sink) {
  return sparserve::byte_products(rounds, sink);
}

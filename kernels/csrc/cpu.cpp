#include "cpu.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sparserve {
namespace {

struct Features {
  bool avx2 = false, avx_vnni = false, avx512 = false, avx512_vnni = false;
};

#if defined(__x86_64__)
__attribute__((target("xsave"))) unsigned long long enabled_state() { return __builtin_ia32_xgetbv(0); }

Features detect() {
  Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!(c & bit_OSXSAVE) || !(c & bit_AVX)) return found;
  const unsigned long long state = enabled_state();
  if ((state & 0x6) != 0x6) return found;  // the operating system saves the upper halves of ymm
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = fma && f16c && (b & bit_AVX2);
  if (found.avx2 && (state & 0xE6) == 0xE6) {  // and zmm and the mask registers
    found.avx512 = (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512DQ) && (b & bit_AVX512VL);
    found.avx512_vnni = found.avx512 && (c & bit_AVX512VNNI);
  }
  if (found.avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx_vnni = a & (1U << 4);
  return found;
}
#else
Features detect() { return {}; }
#endif

struct Candidate {
  const KernelTable* table;
  bool supported;
};

}  // namespace

const KernelTable& choose_kernels() {
  const Features features = detect();
  const Candidate candidates[] = {
      {avx512_vnni_kernels(), features.avx512_vnni},
      {avx512_kernels(), features.avx512},
      {avx2_vnni_kernels(), features.avx2 && features.avx_vnni},
      {avx2_kernels(), features.avx2},
      {neon_kernels(), true},
      {portable_kernels(), true},
  };
  const char* wanted = std::getenv("SPARSERVE_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    for (const Candidate& candidate : candidates)
      if (candidate.table != nullptr && candidate.supported && std::string_view(wanted) == candidate.table->traits.name)
        return *candidate.table;
    throw std::runtime_error("SPARSERVE_ISA=" + std::string(wanted) + " is not available on this machine");
  }
  for (const Candidate& candidate : candidates)
    if (candidate.table != nullptr && candidate.supported) return *candidate.table;
  throw std::runtime_error("no kernels were compiled in");
}

std::size_t panel_bytes(bool ints) {
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
  static const long level1 = sysconf(_SC_LEVEL1_DCACHE_SIZE), level2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  constexpr long level1 = 0, level2 = 0;
#endif
  // Byte panels fit the first-level cache with room for weights and indexes. Float panels that fit there would be so
  // narrow that the overhead of their short rows costs more than the latency of the second level.
  if (ints) return static_cast<std::size_t>(std::clamp(level1, 32L << 10, 128L << 10)) * 3 / 4;
  return static_cast<std::size_t>(std::clamp(level2, 256L << 10, 4096L << 10)) / 5;
}

}  // namespace sparserve

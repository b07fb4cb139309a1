#include "kernels.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#define SPARSERVE_SIMD "simd/avx512.h"
#define SPARSERVE_NAME "avx512-vnni"
#define SPARSERVE_ENTRY avx512_vnni_kernels
#define SPARSERVE_VNNI
#include "isa/all_kernels.inc.h"
#else
const sparserve::KernelTable* sparserve::avx512_vnni_kernels() { return nullptr; }
#endif

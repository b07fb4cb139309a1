#include "kernels.h"

#ifdef __AVX2__
#include <immintrin.h>
#define SPARSERVE_SIMD "simd/avx2.h"
#define SPARSERVE_NAME "avx2"
#define SPARSERVE_ENTRY avx2_kernels
#include "isa/all_kernels.inc.h"
#else
const sparserve::KernelTable* sparserve::avx2_kernels() { return nullptr; }
#endif

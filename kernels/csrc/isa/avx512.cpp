#include "kernels.h"

#ifdef __AVX512BW__
#include <immintrin.h>
#define SPARSERVE_SIMD "simd/avx512.h"
#define SPARSERVE_NAME "avx512"
#define SPARSERVE_ENTRY avx512_kernels
#include "isa/all_kernels.inc.h"
#else
const sparserve::KernelTable* sparserve::avx512_kernels() { return nullptr; }
#endif

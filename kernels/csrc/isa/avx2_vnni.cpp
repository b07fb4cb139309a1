#include "kernels.h"

#ifdef __AVXVNNI__
#include <immintrin.h>
#define SPARSERVE_SIMD "simd/avx2.h"
#define SPARSERVE_NAME "avx2-vnni"
#define SPARSERVE_ENTRY avx2_vnni_kernels
#define SPARSERVE_VNNI
#include "isa/all_kernels.inc.h"
#else
const sparserve::KernelTable* sparserve::avx2_vnni_kernels() { return nullptr; }
#endif

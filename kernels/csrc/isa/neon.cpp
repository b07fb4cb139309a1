#include "kernels.h"

#ifdef __aarch64__
#include <arm_neon.h>
#define SPARSERVE_SIMD "simd/neon.h"
#define SPARSERVE_NAME "neon"
#define SPARSERVE_ENTRY neon_kernels
#include "isa/all_kernels.inc.h"
#else
const sparserve::KernelTable* sparserve::neon_kernels() { return nullptr; }
#endif

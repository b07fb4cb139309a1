#define SPARSERVE_SIMD "simd/portable.h"
#define SPARSERVE_NAME "portable"
#define SPARSERVE_ENTRY portable_kernels
#include "isa/all_kernels.inc.h"

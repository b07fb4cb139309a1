// All kernels, compiled once per instruction set: a .cpp file names one and its vector type, and includes this.
//
// Everything lives in an unnamed namespace and uses no library templates, so that no function compiled for one
// instruction set can be linked in place of another's.
#include <cstddef>
#include <cstdint>

#include "kernels.h"

#define SPARSERVE_INLINE static inline __attribute__((always_inline))
#define SPARSERVE_MEMBER inline __attribute__((always_inline))
#define SPARSERVE_UNROLL _Pragma("GCC unroll 8")
#define SPARSERVE_UNROLL16 _Pragma("GCC unroll 16")

namespace sparserve {
namespace {

#include SPARSERVE_SIMD
#include "isa/elementwise.inc.h"
#include "isa/linear.inc.h"
#include "isa/attention.inc.h"
#include "isa/rotary.inc.h"
#include "isa/int8_attention.inc.h"
#include "isa/phase.inc.h"

constexpr KernelTable kTable = {
    {SPARSERVE_NAME, kLanes, kMaxVectors, kSaturates}, phase_any, first_tokens_any, linear_any,
};

}  // namespace

const KernelTable* SPARSERVE_ENTRY() { return &kTable; }

}  // namespace sparserve

#ifdef SPARSERVE_UNIT_TESTS
#include "tests/unit/rows.inc.h"
#endif

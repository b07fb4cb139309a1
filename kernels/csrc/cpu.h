// Choice of kernels for this machine, and the share of its caches that a panel may use.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace sparserve {

// Return the best kernels that processor and operating system support, or those named by the environment variable
// SPARSERVE_ISA. Throws std::runtime_error if these are unknown, not compiled in, or not supported here.
const KernelTable& choose_kernels();

// Return the bytes of activations that a panel of int8 (`ints`) or float32 columns may use.
std::size_t panel_bytes(bool ints);

}  // namespace sparserve

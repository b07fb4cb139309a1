// Which kernels this machine runs, and how much of its caches a panel may take.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace sparserve {

// The best that the processor and the operating system support, or the one named by the environment variable
// SPARSERVE_ISA. Throws std::runtime_error if that one is unknown, not compiled in, or not supported here.
const KernelTable& choose_kernels();

// Bytes of activations that a panel of int8 (`ints`) or of float32 columns may take.
std::size_t panel_bytes(bool ints);

}  // namespace sparserve

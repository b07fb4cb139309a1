// Tests of every kernel, for each instruction set of this machine.
//
//   unit           run all rows
//   unit --list    print instruction set, row and functions of each
//
// Then it prints the number of rows that passed and failed; the exit status is 1 if one failed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "cpu.h"
#include "tests/unit/checks.h"

namespace sparserve {

// Defined in the files of the instruction sets that were compiled in.
__attribute__((weak)) unit::Rows portable_kernels_rows();
__attribute__((weak)) unit::Rows avx2_kernels_rows();
__attribute__((weak)) unit::Rows avx2_vnni_kernels_rows();
__attribute__((weak)) unit::Rows avx512_kernels_rows();
__attribute__((weak)) unit::Rows avx512_vnni_kernels_rows();
__attribute__((weak)) unit::Rows neon_kernels_rows();

namespace {

bool is_supported(const KernelTable& table) {
  setenv("SPARSERVE_ISA", table.traits.name, 1);
  try {
    return &choose_kernels() == &table;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace
}  // namespace sparserve

int main(int count, char** arguments) {
  using namespace sparserve;
  const bool list = count == 2 && std::strcmp(arguments[1], "--list") == 0;
  std::size_t passed = 0, failed = 0;
  for (const auto rows_of : {portable_kernels_rows, avx2_kernels_rows, avx2_vnni_kernels_rows, avx512_kernels_rows,
                             avx512_vnni_kernels_rows, neon_kernels_rows}) {
    if (rows_of == nullptr) continue;
    const unit::Rows rows = rows_of();
    const bool supported = is_supported(*rows.table);
    if (!list && !supported) std::printf("%s: not on this machine\n", rows.table->traits.name);
    for (std::size_t i = 0; i < rows.count; ++i) {
      const unit::Row& row = rows.rows[i];
      if (list) std::printf("%s\t%s\t%s\n", rows.table->traits.name, row.name, row.kernels);
      if (list || !supported) continue;
      unit::begin_row();
      row.run();
      ++(unit::failures() == 0 ? passed : failed);
      if (unit::failures() != 0)
        std::printf("%s, %s: %zu checks failed\n", rows.table->traits.name, row.name, unit::failures());
    }
    if (supported && !list) std::printf("%s: %zu rows\n", rows.table->traits.name, rows.count);
  }
  if (!list) std::printf("%zu passed, %zu failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

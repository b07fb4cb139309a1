// Decoded matrices (blob.h) brought into the order in which one instruction set reads them (kernels.h).
#pragma once

#include <memory>
#include <vector>

#include "blob.h"
#include "kernels.h"

namespace sparserve {

// Owns what PackedMatrix points to.
class MatrixPacker {
 public:
  explicit MatrixPacker(const Traits& traits) : traits_(traits) {}
  PackedMatrix pack(Matrix&& matrix);
  const float* keep(std::vector<float>&& values);

 private:
  void pack_dense(const Matrix& matrix, PackedMatrix& packed);
  void pack_sparse(const Matrix& matrix, PackedMatrix& packed);
  template <class T>
  T* allocate(std::size_t count);

  Traits traits_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
};

}  // namespace sparserve

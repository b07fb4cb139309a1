// Decoded matrices (blob.h) brought into the order in which one instruction set reads them (kernels.h).
#pragma once

#include <memory>
#include <vector>

#include "packed/blob.h"
#include "kernels.h"

namespace sparserve {

// Owns what PackedMatrix points to.
class MatrixPacker {
 public:
  explicit MatrixPacker(const Traits& traits) : traits_(traits) {}
  // `by_length`: rows with as many nonzeros follow each other, so that the end of the inner loop is predicted. That is
  // for outputs in the cache; where rows go far away, their natural order is worth more: it can be prefetched.
  PackedMatrix pack(Matrix&& matrix, bool by_length);
  const float* keep(std::vector<float>&& values);

 private:
  void pack_dense(const Matrix& matrix, PackedMatrix& packed);
  void pack_sparse(const Matrix& matrix, PackedMatrix& packed, bool by_length);
  template <class T>
  T* allocate(std::size_t count);

  Traits traits_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
};

}  // namespace sparserve

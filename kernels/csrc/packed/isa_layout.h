// Conversion of decoded matrices (blob.h) into the order in which one instruction set reads them (kernels.h).
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
  // `by_length` orders rows by their number of nonzeros, so that the end of the inner loop is predicted. It suits
  // outputs in the cache; for rows written far apart the natural order is better, because it can be prefetched.
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

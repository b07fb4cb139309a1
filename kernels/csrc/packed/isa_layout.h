// Conversion of decoded matrices (blob.h) into the order in which one instruction set reads them (kernels.h).
#pragma once

#include <memory>
#include <new>
#include <vector>

#include "packed/blob.h"
#include "kernels.h"

namespace sparserve {

// Owns what PackedMatrix points to, in few large pieces of memory on huge pages: a run for a short text is bound by
// reading the weights, and with small pages by looking up their addresses.
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
  struct Free {
    std::align_val_t alignment;
    void operator()(std::byte* p) const;
  };
  std::vector<std::unique_ptr<std::byte, Free>> chunks_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
  std::size_t last_chunk_ = 16 << 10;
};

}  // namespace sparserve

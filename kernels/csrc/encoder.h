// A packed encoder or linear that is ready to run; a run is divided into tiles and phases.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "packed/blob.h"
#include "kernels.h"
#include "packed/isa_layout.h"

namespace sparserve {

// The caller's thread pool: runs task(data, i) once for each i in [0, count) and returns when all are done.
struct Parallel {
  void* context;
  void (*run)(void* context, void (*task)(void*, std::size_t), std::size_t count, void* data);
  std::uint32_t threads;
};

// Pool of reusable buffers: no allocation once there are as many as are used at the same time. Thread-safe.
class BufferPool {
 public:
  // Unused buffers are kept: at most `keep` of at most `keep_bytes` each.
  BufferPool(std::size_t keep, std::size_t keep_bytes) : keep_(keep), keep_bytes_(keep_bytes) {
    free_.reserve(keep);  // returning a buffer must not fail
  }

  class Lease {
   public:
    Lease(BufferPool& pool, std::size_t bytes);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    std::uint8_t* data() const { return data_.get(); }

   private:
    friend class BufferPool;
    struct Free {
      void operator()(std::uint8_t* p) const;
    };
    BufferPool& pool_;
    std::size_t bytes_ = 0;
    std::unique_ptr<std::uint8_t, Free> data_;
  };

 private:
  struct Buffer {
    std::size_t bytes;
    std::unique_ptr<std::uint8_t, Lease::Free> data;
  };
  std::size_t keep_;
  std::size_t keep_bytes_;
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

class Encoder {
 public:
  // Throws BlobError if int8 attention is asked of heads whose size is not a multiple of four.
  Encoder(Blob&& blob, const KernelTable& kernels, bool first_token_only, bool int8_attention = false);

  std::uint32_t hidden() const { return hidden_; }
  bool first_token_only() const { return first_token_only_; }
  std::uint32_t heads(std::size_t layer) const { return layers_[layer].query.rows / head_dim_; }
  std::size_t layers() const { return layers_.size(); }
  // The longest sequence; 0 if there is no limit.
  std::uint32_t positions() const { return positions_; }

  // input [batch, length, hidden]; mask [batch, length], 0 or not; position_bias [1 or batch, heads, key, query] or
  // null; output [batch, length (or 1), hidden]. Tokens after a row's last unmasked token, and rows without any, give
  // zeros. Outputs do not depend on the rest of the batch or on the number of threads. Thread-safe. Throws
  // std::invalid_argument if a sequence is longer than `positions`.
  void run(const float* input, const std::int64_t* mask, const float* position_bias, bool bias_per_row, float* output,
           std::size_t batch, std::size_t length, const Parallel& parallel) const;

 private:
  void run_chunk(Run& run, const std::vector<Sequence>& sequences, std::uint32_t vectors,
                 const Parallel& parallel) const;
  PackedNorm keep(Norm&& norm);
  Rotary rotary_of(const std::vector<float>& frequencies);
  Relative relative_of(const Layer& layer, const RelativePositions& relative, bool first_token_only);
  std::size_t distance_columns(const RelativePositions& relative, bool first_token_only) const;
  const float* project_distances(const Matrix& projection, const RelativePositions& relative, bool first_token_only,
                                 float factor);

  const KernelTable& kernels_;
  MatrixPacker packer_;
  std::vector<PackedLayer> layers_;
  std::vector<std::pair<std::vector<float>, Rotary>> rotaries_;  // tables by frequencies: few layers have their own
  std::uint32_t hidden_;
  std::uint32_t head_dim_;
  std::uint32_t max_width_ = 0;
  std::uint32_t max_intermediate_ = 0;
  std::uint32_t activation_;
  float epsilon_;
  bool pre_norm_;
  PackedNorm final_norm_{};
  std::uint32_t positions_;
  float query_factor_;
  bool first_token_only_;
  bool int8_attention_;
  mutable BufferPool scratch_;
  mutable BufferPool workspaces_;
};

// Return the nanoseconds of each Stage since the last call, over all encoders; `on` turns measuring on or off.
void profile(bool on, std::uint64_t* nanoseconds);

class Linear {
 public:
  Linear(Blob&& blob, const KernelTable& kernels);
  std::uint32_t rows() const { return matrix_.rows; }
  std::uint32_t columns() const { return matrix_.columns; }
  // input [tokens, columns] to output [tokens, rows]. Thread-safe.
  void run(const float* input, float* output, std::size_t tokens, const Parallel& parallel) const;

 private:
  const KernelTable& kernels_;
  MatrixPacker packer_;
  PackedMatrix matrix_;
  mutable BufferPool scratch_;
};

}  // namespace sparserve

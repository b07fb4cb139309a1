// The stored packed weights of an encoder or of one linear (format: docs/reference/packed-format.md).
//
// A blob comes from an untrusted file: `parse` checks every size, offset, count and value before use and reports the
// first fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "kernels.h"

namespace sparserve {

struct BlobError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Kind : std::uint32_t { kEncoder = 1, kLinear = 2 };
enum class Activation : std::uint32_t { kNone = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3, kSilu = 4 };
enum class Layout : std::uint8_t { kDense = 0, kUnstructured = 1, kBlock1x4 = 2 };
enum class ValueType : std::uint8_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };

inline constexpr std::uint32_t kFormatVersion = 2;  // the newest; all from 1 on are read
inline constexpr std::uint32_t kMaxWidth = 65535;    // rows or columns of a matrix
inline constexpr std::uint32_t kMaxLayers = 256;
inline constexpr std::uint32_t kMaxPositions = 1U << 20;
inline constexpr int kMaxPairMagnitude = 128;        // |w0| + |w1| of two int8 weights that are multiplied together

// One matrix [rows, columns] with its bias, decoded: entries in row order, columns ascending.
struct Matrix {
  Layout layout = Layout::kDense;
  ValueType type = ValueType::kFloat32;  // kFloat16 was converted to kFloat32
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  std::vector<std::uint32_t> row_begin;  // [rows + 1], in entries; an entry is a weight, or a block of four
  std::vector<std::uint16_t> column;     // of an entry's first weight; empty if dense
  std::vector<float> floats;             // values, if float
  std::vector<std::int8_t> ints;         // values, if int8
  std::vector<float> scales;             // [rows], if int8
  std::vector<float> bias;               // [rows]

  std::uint32_t width() const { return layout == Layout::kBlock1x4 ? kBlock : 1; }  // columns of an entry
};

struct Norm {
  std::vector<float> weight, bias;  // [hidden]; empty where there is no norm
};

struct Layer {
  Matrix query, key, value, attention_output, intermediate, output;
  Matrix gate;                // no rows where the feed-forward has no gate
  Norm attention_norm, output_norm;
  std::vector<float> rotary;  // frequencies [head_dim / 2]; empty without rotary positions
  std::uint32_t band = kNoBand;
};

// Embeddings of distances (DeBERTa).
struct RelativePositions {
  Matrix table;                     // [rows, hidden], dense floats; no rows if there are none
  std::vector<std::uint32_t> rows;  // of the table, for each distance of a query from a key, from -(positions - 1) on
};

struct Blob {
  Kind kind = Kind::kEncoder;
  std::uint32_t hidden = 0;
  std::uint32_t head_dim = 0;
  Activation activation = Activation::kGelu;
  float epsilon = 0;
  bool pre_norm = false;
  std::uint32_t positions = 0;  // the longest sequence; 0 if there is no limit
  std::vector<Layer> layers;    // of an encoder
  Norm final_norm;
  RelativePositions relative;
  Matrix linear;              // of a linear
};

// Throws BlobError.
Blob parse(std::span<const std::uint8_t> bytes);

}  // namespace sparserve

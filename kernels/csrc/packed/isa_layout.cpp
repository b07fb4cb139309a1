#include "packed/isa_layout.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "cpu.h"

namespace sparserve {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLargestChunk = 16 * kHugePage;
constexpr std::size_t kSortedRows = 64;  // of neighbouring rows: outputs are written near each other
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPARSERVE_SEPARATE
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SPARSERVE_SEPARATE)
constexpr bool kSeparate = true;  // so that the sanitizer sees where an array ends
#else
constexpr bool kSeparate = false;
#endif

struct Weight {
  std::uint16_t column;  // relative to the panel
  std::int8_t value;
};

// Order a row's int8 weights in fours. If the byte product saturates, pair the largest with the smallest, or with a zero
// if even that sum is too large: 255 * (|w0| + |w1|) then fits 16 bits.
std::vector<Weight> in_quads(std::vector<Weight> row, bool saturates) {
  std::vector<Weight> ordered;
  if (saturates) {
    std::stable_sort(row.begin(), row.end(),
                     [](Weight a, Weight b) { return std::abs(int{a.value}) > std::abs(int{b.value}); });
    std::size_t low = 0;
    std::size_t high = row.size();
    while (low < high) {
      const Weight large = row[low++];
      ordered.push_back(large);
      if (low < high && std::abs(int{large.value}) + std::abs(int{row[high - 1].value}) <= kMaxPairMagnitude) {
        ordered.push_back(row[--high]);
      } else {
        ordered.push_back({large.column, 0});
      }
    }
  } else {
    ordered = std::move(row);
  }
  while (ordered.size() % 4 != 0) ordered.push_back({ordered.back().column, 0});
  return ordered;
}

}  // namespace

void MatrixPacker::Free::operator()(std::byte* p) const { ::operator delete[](p, alignment); }

template <class T>
T* MatrixPacker::allocate(std::size_t count) {
  constexpr std::size_t line = kSeparate ? 1 : kCacheLine;
  const std::size_t bytes = (std::max<std::size_t>(count, 1) * sizeof(T) + line - 1) / line * line;
  if (bytes > left_) {
    std::size_t chunk = std::max(bytes, kSeparate ? std::size_t{1} : std::min(2 * last_chunk_, kLargestChunk));
    if (chunk >= kHugePage) chunk = (chunk + kHugePage - 1) / kHugePage * kHugePage;
    const std::align_val_t alignment{chunk >= kHugePage ? kHugePage : kCacheLine};
    chunks_.emplace_back(new (alignment) std::byte[chunk], Free{alignment});
    next_ = chunks_.back().get();
    left_ = last_chunk_ = chunk;
#ifdef MADV_HUGEPAGE
    if (chunk >= kHugePage) madvise(next_, chunk, MADV_HUGEPAGE);  // a wish: without it only speed is lost
#endif
  }
  std::byte* const begin = next_;
  next_ += bytes;
  left_ -= bytes;
  std::memset(begin, 0, bytes);
  return reinterpret_cast<T*>(begin);
}

const float* MatrixPacker::keep(std::vector<float>&& values) {
  float* kept = allocate<float>(values.size());
  std::copy(values.begin(), values.end(), kept);
  return kept;
}

PackedMatrix MatrixPacker::pack(Matrix&& matrix) {
  PackedMatrix packed{};
  packed.rows = matrix.rows;
  packed.columns = matrix.columns;
  if (matrix.type == ValueType::kInt8) {
    const std::size_t width = matrix.width();
    std::vector<float> zero_terms(matrix.rows);
    for (std::uint32_t row = 0; row < matrix.rows; ++row) {
      const auto begin = matrix.ints.begin();
      const int sum = std::accumulate(begin + static_cast<std::ptrdiff_t>(matrix.row_begin[row] * width),
                                      begin + static_cast<std::ptrdiff_t>(matrix.row_begin[row + 1] * width), 0);
      zero_terms[row] = matrix.scales[row] * static_cast<float>(sum);
    }
    packed.zero_terms = keep(std::move(zero_terms));
    packed.scales = keep(std::move(matrix.scales));
  }
  packed.bias = keep(std::move(matrix.bias));
  if (matrix.layout == Layout::kDense) {
    pack_dense(matrix, packed);
  } else {
    pack_sparse(matrix, packed);
  }
  matrix = Matrix{};
  return packed;
}

void MatrixPacker::pack_dense(const Matrix& matrix, PackedMatrix& packed) {
  const std::size_t row_groups = (matrix.rows + kDenseRows - 1) / kDenseRows;
  if (matrix.type == ValueType::kInt8) {
    packed.storage = Storage::kDenseI8;
    const std::size_t column_groups = (matrix.columns + kBlock - 1) / kBlock;
    auto* to = allocate<std::int8_t>(row_groups * kDenseRows * column_groups * kBlock);
    for (std::uint32_t row = 0; row < matrix.rows; ++row)
      for (std::uint32_t c = 0; c < matrix.columns; ++c)
        to[((row / kDenseRows * column_groups + c / kBlock) * kDenseRows + row % kDenseRows) * kBlock + c % kBlock] =
            matrix.ints[std::size_t{row} * matrix.columns + c];
    packed.dense_ints = to;
    return;
  }
  packed.storage = Storage::kDenseF32;
  auto* to = allocate<float>(row_groups * kDenseRows * matrix.columns);
  for (std::uint32_t row = 0; row < matrix.rows; ++row)
    for (std::uint32_t c = 0; c < matrix.columns; ++c)
      to[(std::size_t{row} / kDenseRows * matrix.columns + c) * kDenseRows + row % kDenseRows] =
          matrix.floats[std::size_t{row} * matrix.columns + c];
  packed.dense_floats = to;
}

void MatrixPacker::pack_sparse(const Matrix& matrix, PackedMatrix& packed) {
  const bool ints = matrix.type == ValueType::kInt8;
  const bool blocks = matrix.layout == Layout::kBlock1x4;
  if (ints) {
    packed.storage = blocks ? Storage::kBlockI8 : Storage::kSparseI8;
  } else {
    packed.storage = blocks ? Storage::kBlockF32 : Storage::kSparseF32;
  }
  const std::size_t feature_bytes = ints ? traits_.int_row_bytes() : traits_.float_row_bytes();
  std::size_t panel = std::max<std::size_t>(panel_bytes(ints), 4 * kBlock * feature_bytes);
  if (ints) panel = std::min<std::size_t>(panel, 65536);  // offsets of unstructured int8 entries are 16 bits of bytes
  const auto limit = static_cast<std::uint32_t>(panel / feature_bytes);
  packed.panel_count = (matrix.columns + limit - 1) / limit;
  const std::uint32_t share = (matrix.columns + packed.panel_count - 1) / packed.panel_count;
  const std::uint32_t panel_columns = (share + kBlock - 1) / kBlock * kBlock;
  packed.panel_count = (matrix.columns + panel_columns - 1) / panel_columns;
  auto* panels = allocate<Panel>(packed.panel_count);
  packed.panels = panels;

  const std::size_t width = matrix.width();
  std::vector<std::uint32_t> next(matrix.row_begin.begin(), matrix.row_begin.end() - 1);
  struct Row {
    std::vector<std::uint16_t> columns;
    std::vector<float> floats;
    std::vector<std::int8_t> ints;
    std::uint32_t count = 0;
  };
  std::vector<Row> rows(matrix.rows);
  std::vector<std::uint16_t> order(matrix.rows);
  for (std::uint32_t p = 0; p < packed.panel_count; ++p) {
    const std::uint32_t first = p * panel_columns;
    std::size_t columns_total = 0;
    std::size_t values_total = 0;
    for (std::uint32_t r = 0; r < matrix.rows; ++r) {
      Row& row = rows[r];
      row = {};
      std::uint32_t& entry = next[r];
      std::vector<Weight> weights;
      for (; entry < matrix.row_begin[r + 1] && matrix.column[entry] < first + panel_columns; ++entry) {
        const auto column = static_cast<std::uint16_t>(matrix.column[entry] - first);
        if (ints && !blocks) {
          if (matrix.ints[entry] != 0) weights.push_back({column, matrix.ints[entry]});
          continue;
        }
        row.columns.push_back(column);
        for (std::size_t k = 0; k < width; ++k) {
          if (ints) {
            row.ints.push_back(matrix.ints[entry * width + k]);
          } else {
            row.floats.push_back(matrix.floats[entry * width + k]);
          }
        }
      }
      if (!weights.empty()) {
        for (const Weight weight : in_quads(std::move(weights), traits_.saturates)) {
          row.columns.push_back(static_cast<std::uint16_t>(weight.column * traits_.int_row_bytes()));
          row.ints.push_back(weight.value);
        }
      }
      row.count = static_cast<std::uint32_t>(ints && !blocks ? row.columns.size() / 4 : row.columns.size());
      columns_total += row.columns.size();
      values_total += row.floats.size() + row.ints.size();
    }
    std::iota(order.begin(), order.end(), std::uint16_t{0});
    // Rows of similar length follow each other, so that the processor predicts the end of the inner loop. Alternately
    // falling and rising: a group begins with the lengths at which the last one ended.
    for (std::size_t begin = 0; begin < order.size(); begin += kSortedRows) {
      const bool falling = begin / kSortedRows % 2 == 0;
      const std::size_t end = std::min(begin + kSortedRows, order.size());
      std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                       order.begin() + static_cast<std::ptrdiff_t>(end), [&](std::uint16_t a, std::uint16_t b) {
                         return falling ? rows[a].count > rows[b].count : rows[a].count < rows[b].count;
                       });
    }
    auto* spans = allocate<RowSpan>(matrix.rows + kSpansAhead);
    auto* columns = allocate<std::uint16_t>(columns_total);
    auto* floats = ints ? nullptr : allocate<float>(values_total);
    auto* bytes = ints ? allocate<std::int8_t>(values_total) : nullptr;
    panels[p] = {first, spans, columns, floats, bytes};
    for (const std::uint16_t r : order) {
      const Row& row = rows[r];
      *spans++ = {r, static_cast<std::uint16_t>(row.count)};
      columns = std::copy(row.columns.begin(), row.columns.end(), columns);
      if (ints) {
        bytes = std::copy(row.ints.begin(), row.ints.end(), bytes);
      } else {
        floats = std::copy(row.floats.begin(), row.floats.end(), floats);
      }
    }
  }
}

}  // namespace sparserve

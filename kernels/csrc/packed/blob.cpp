#include "packed/blob.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "packed/blob_bytes.h"

static_assert(std::endian::native == std::endian::little, "blobs are little-endian");

namespace sparserve {
namespace {

constexpr std::size_t kRecordBytes = 80;
constexpr std::size_t kChecksummedFrom = 32;
constexpr std::array<char, 8> kMagic = {'S', 'P', 'A', 'R', 'S', 'R', 'V', '\x01'};
constexpr std::uint32_t kRecordsPerLayer1 = 10;  // in version 1
constexpr std::uint32_t kRecordsPerLayer = 12;
constexpr std::uint32_t kEncoderRecords = 4;     // after the layers', since version 2
constexpr std::uint32_t kPreNorm = 1;            // a flag

enum class Coding : std::uint8_t { kNone = 0, kBitmap = 1, kDelta = 2 };
constexpr std::uint8_t kVector = 3;   // in the layout field: floats [rows] alone
constexpr std::uint8_t kNothing = 4;  // and nothing at all

struct Header {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t kind;
  std::uint64_t bytes;
  std::uint32_t checksum;
  std::uint32_t reserved0;
  std::uint32_t records;
  std::uint32_t layers;
  std::uint32_t hidden;
  std::uint32_t head_dim;
  std::uint32_t activation;
  float epsilon;
  std::uint32_t flags;      // since version 2
  std::uint32_t positions;  // since version 2
};
static_assert(sizeof(Header) == kHeaderBytes);

struct Record {
  std::uint8_t layout;
  std::uint8_t type;
  std::uint8_t coding;
  std::uint8_t has_bias;
  std::uint32_t rows;
  std::uint32_t columns;
  std::uint32_t window;  // of a layer's positions: keys closer than this are attended to; 0: all keys
  std::uint64_t entries;
  std::uint64_t counts;  // offsets in the blob
  std::uint64_t index;
  std::uint64_t index_bytes;
  std::uint64_t values;
  std::uint64_t scales;
  std::uint64_t bias;
  std::uint64_t reserved1;
};
static_assert(sizeof(Record) == kRecordBytes);

void decode_bitmap(std::span<const std::uint8_t> coded, Matrix& m, const std::string& name) {
  const std::uint32_t slots = m.columns / m.width();
  const std::size_t row_bytes = (slots + 7) / 8;
  if (coded.size() != row_bytes * m.rows) fail(name + ": the bitmap has the wrong size");
  for (std::uint32_t row = 0; row < m.rows; ++row) {
    const auto bits = coded.subspan(row * row_bytes, row_bytes);
    std::uint32_t found = 0;
    const std::uint32_t wanted = m.row_begin[row + 1] - m.row_begin[row];
    for (std::uint32_t byte = 0; byte < row_bytes; ++byte) {
      for (std::uint32_t left = bits[byte]; left != 0; left &= left - 1) {
        const std::uint32_t slot = byte * 8 + static_cast<std::uint32_t>(std::countr_zero(left));
        if (slot >= slots || found == wanted) fail(name + ": the bitmap disagrees with the row counts");
        m.column.push_back(static_cast<std::uint16_t>(slot * m.width()));
        ++found;
      }
    }
    if (found != wanted) fail(name + ": the bitmap disagrees with the row counts");
  }
}

// A column is coded as its distance from the one before it, less one (the first: from -1); each byte of 255 adds 255.
void decode_delta(std::span<const std::uint8_t> coded, Matrix& m, const std::string& name) {
  const std::uint32_t slots = m.columns / m.width();
  std::size_t at = 0;
  for (std::uint32_t row = 0; row < m.rows; ++row) {
    std::uint32_t next = 0;
    for (std::uint32_t entry = m.row_begin[row]; entry < m.row_begin[row + 1]; ++entry) {
      std::uint32_t slot = next;
      std::uint8_t byte = 255;
      while (byte == 255) {
        if (at == coded.size()) fail(name + ": the column indexes end early");
        byte = coded[at++];
        slot += byte;
        if (slot >= slots) fail(name + ": a column index is out of range");
      }
      m.column.push_back(static_cast<std::uint16_t>(slot * m.width()));
      next = slot + 1;
    }
  }
  if (at != coded.size()) fail(name + ": bytes are left over after the column indexes");
}

// Some instructions add the products of two neighbouring weights in 16 bits, which must not saturate (see
// docs/reference/packed-format.md). Unstructured weights are paired when packed for the machine; these keep their order.
void check_pairs(const Matrix& m, const std::string& name) {
  if (m.layout == Layout::kUnstructured) return;
  const std::size_t width = m.width();
  for (std::uint32_t row = 0; row < m.rows; ++row) {
    const std::size_t end = m.row_begin[row + 1] * width;
    for (std::size_t i = m.row_begin[row] * width; i + 1 < end; i += 2)
      if (std::abs(int{m.ints[i]}) + std::abs(int{m.ints[i + 1]}) > kMaxPairMagnitude)
        fail(name + ": neighbouring int8 weights of row " + std::to_string(row) + " exceed the pair bound");
  }
}

Matrix read_matrix(Reader& reader, const Record& r, const std::string& name) {
  if (r.layout > 2) fail(name + " is not a matrix");
  if (r.type > 2 || r.has_bias > 1 || r.window != 0 || r.reserved1 != 0) fail(name + ": unknown field values");
  if (r.rows == 0 || r.columns == 0 || r.rows > kMaxWidth || r.columns > kMaxWidth)
    fail(name + ": the shape is out of range");
  reader.count_places(std::uint64_t{r.rows} * r.columns);
  Matrix m;
  m.layout = static_cast<Layout>(r.layout);
  m.type = static_cast<ValueType>(r.type);
  m.rows = r.rows;
  m.columns = r.columns;
  const std::uint64_t width = m.width();
  if (m.layout == Layout::kBlock1x4 && r.columns % kBlock != 0) fail(name + ": columns are not a multiple of four");
  const std::uint64_t slots = r.columns / width;
  if (r.entries > slots * r.rows) fail(name + ": more entries than the matrix has places");
  const std::uint64_t value_bytes = m.type == ValueType::kFloat32 ? 4 : m.type == ValueType::kFloat16 ? 2 : 1;
  const auto values = reader.section(r.values, r.entries * width * value_bytes, name + ": the values");

  m.row_begin.resize(r.rows + 1);
  if (m.layout == Layout::kDense) {
    if (r.coding != static_cast<std::uint8_t>(Coding::kNone) || r.entries != slots * r.rows)
      fail(name + ": a dense matrix must hold every value");
    for (std::uint32_t row = 0; row <= r.rows; ++row) m.row_begin[row] = row * r.columns;
  } else {
    const auto counts = reader.array<std::uint16_t>(r.counts, r.rows, name + ": the row counts");
    std::uint64_t sum = 0;
    for (std::uint32_t row = 0; row < r.rows; ++row) {
      if (counts[row] > slots) fail(name + ": a row count is larger than the row");
      sum += counts[row];
      m.row_begin[row + 1] = static_cast<std::uint32_t>(sum);
    }
    if (sum != r.entries) fail(name + ": the row counts do not add up to the entries");
    const auto coded = reader.section(r.index, r.index_bytes, name + ": the column indexes");
    m.column.reserve(static_cast<std::size_t>(r.entries));
    if (r.coding == static_cast<std::uint8_t>(Coding::kBitmap)) {
      decode_bitmap(coded, m, name);
    } else if (r.coding == static_cast<std::uint8_t>(Coding::kDelta)) {
      decode_delta(coded, m, name);
    } else {
      fail(name + ": unknown index coding");
    }
  }

  const auto count = static_cast<std::size_t>(r.entries * width);
  switch (m.type) {
    case ValueType::kFloat32:
      m.floats = copy_of<float>(values);
      expect_finite(m.floats, name + ": the values");
      break;
    case ValueType::kFloat16:
      m.floats.resize(count);
      for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t half;
        std::memcpy(&half, values.data() + 2 * i, 2);
        m.floats[i] = from_half(half);
      }
      expect_finite(m.floats, name + ": the values");
      m.type = ValueType::kFloat32;
      break;
    case ValueType::kInt8:
      m.ints = copy_of<std::int8_t>(values);
      m.scales = reader.floats(r.scales, r.rows, name + ": the scales");
      check_pairs(m, name);
      break;
  }
  m.bias = r.has_bias ? reader.floats(r.bias, r.rows, name + ": the bias") : std::vector<float>(r.rows, 0.0F);
  return m;
}

std::vector<float> read_vector(Reader& reader, const Record& r, std::uint32_t length, const std::string& name) {
  if (r.layout != kVector || r.type != 0 || r.rows != length || r.columns != 1 || r.entries != length)
    fail(name + " is not a vector of " + std::to_string(length) + " floats");
  return reader.floats(r.values, length, name);
}

void expect_shape(const Matrix& m, std::uint32_t rows, std::uint32_t columns, const std::string& name) {
  if (m.rows != rows || m.columns != columns)
    fail(name + " has the shape [" + std::to_string(m.rows) + ", " + std::to_string(m.columns) + "], not [" +
         std::to_string(rows) + ", " + std::to_string(columns) + "]");
}

bool is_nothing(const Record& r, const std::string& name) {
  if (r.layout != kNothing) return false;
  const std::uint64_t set = std::uint64_t{r.type} | r.coding | r.has_bias | r.rows | r.columns | r.entries | r.counts |
                            r.index | r.index_bytes | r.values | r.scales | r.bias | r.reserved1;
  if (set != 0) fail(name + ": unknown field values");
  return true;
}

// `optional`: both records may be nothing.
Norm read_norm(Reader& reader, std::span<const Record> records, std::uint32_t hidden, bool optional,
               const std::string& name) {
  if (optional && is_nothing(records[0], name + " weight")) {
    if (!is_nothing(records[1], name + " bias")) fail(name + ": a bias without a weight");
    return {};
  }
  auto weight = read_vector(reader, records[0], hidden, name + " weight");
  return {std::move(weight), read_vector(reader, records[1], hidden, name + " bias")};
}

// How positions act in a layer's attention: rotary frequencies or nothing, and the window.
void read_positions(Reader& reader, const Record& r, const Header& header, Layer& layer, const std::string& name) {
  if (r.window > kNoBand) fail(name + ": the window is out of range");
  if (r.window != 0) layer.band = r.window - 1;
  if (is_nothing(r, name)) return;
  if (header.head_dim % 2 != 0) fail(name + ": heads of an odd size have no rotary positions");
  if (header.positions == 0) fail(name + ": rotary positions need a number of positions");
  reader.count_angles(std::uint64_t{header.positions} * (header.head_dim / 2));
  layer.rotary = read_vector(reader, r, header.head_dim / 2, name);
}

RelativePositions read_relative(Reader& reader, std::span<const Record> records, const Header& header) {
  RelativePositions relative;
  const std::string name = "relative positions";
  if (is_nothing(records[0], name) && is_nothing(records[1], name)) return relative;
  if (header.positions == 0) fail(name + " need a number of positions");
  relative.table = read_matrix(reader, records[0], name);
  expect_shape(relative.table, relative.table.rows, header.hidden, name);
  if (relative.table.layout != Layout::kDense || relative.table.type != ValueType::kFloat32 || records[0].has_bias)
    fail(name + ": the table must be dense floats");
  for (const float row : read_vector(reader, records[1], 2 * header.positions - 1, name + ": the rows")) {
    if (!(row >= 0 && row < static_cast<float>(relative.table.rows)) || row != std::floor(row))
      fail(name + ": a row is out of range");
    relative.rows.push_back(static_cast<std::uint32_t>(row));
  }
  return relative;
}

Layer read_layer(Reader& reader, std::span<const Record> records, const Header& header, std::uint32_t index) {
  const std::string prefix = "layer " + std::to_string(index) + ", ";
  Layer layer;
  layer.query = read_matrix(reader, records[0], prefix + "query");
  const std::uint32_t width = layer.query.rows;
  if (width % header.head_dim != 0) fail(prefix + "query: rows are not a multiple of the head size");
  expect_shape(layer.query, width, header.hidden, prefix + "query");
  layer.key = read_matrix(reader, records[1], prefix + "key");
  expect_shape(layer.key, width, header.hidden, prefix + "key");
  layer.value = read_matrix(reader, records[2], prefix + "value");
  expect_shape(layer.value, width, header.hidden, prefix + "value");
  layer.attention_output = read_matrix(reader, records[3], prefix + "attention output");
  expect_shape(layer.attention_output, header.hidden, width, prefix + "attention output");
  layer.intermediate = read_matrix(reader, records[4], prefix + "intermediate");
  expect_shape(layer.intermediate, layer.intermediate.rows, header.hidden, prefix + "intermediate");
  layer.output = read_matrix(reader, records[5], prefix + "output");
  expect_shape(layer.output, header.hidden, layer.intermediate.rows, prefix + "output");
  const bool pre_norm = header.version > 1 && (header.flags & kPreNorm) != 0;
  layer.attention_norm = read_norm(reader, records.subspan(6), header.hidden, pre_norm, prefix + "attention norm");
  layer.output_norm = read_norm(reader, records.subspan(8), header.hidden, pre_norm, prefix + "output norm");
  if (header.version == 1) return layer;
  if (!is_nothing(records[10], prefix + "gate")) {
    layer.gate = read_matrix(reader, records[10], prefix + "gate");
    expect_shape(layer.gate, layer.intermediate.rows, header.hidden, prefix + "gate");
  }
  read_positions(reader, records[11], header, layer, prefix + "positions");
  return layer;
}

}  // namespace

Blob parse(std::span<const std::uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes) fail("shorter than a header");
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) fail("this is not a blob of packed weights (bad magic)");
  if (header.version == 0 || header.version > kFormatVersion)
    fail("format version " + std::to_string(header.version) + " is unknown; this library reads versions 1 to " +
         std::to_string(kFormatVersion));
  if (header.bytes != bytes.size())
    fail("the header says " + std::to_string(header.bytes) + " bytes, but there are " + std::to_string(bytes.size()));
  if (header.checksum != crc32(bytes.subspan(kChecksummedFrom))) fail("the checksum is wrong: the blob is damaged");
  const std::uint32_t known_flags = header.version == 1 ? 0 : kPreNorm;
  if (header.reserved0 != 0 || (header.flags & ~known_flags) != 0 || (header.version == 1 && header.positions != 0))
    fail("unknown header fields are set");
  const std::uint32_t last_activation = header.version == 1 ? 3 : 4;  // SiLU since version 2
  if (header.activation > last_activation) fail("unknown activation");

  const bool encoder = header.kind == static_cast<std::uint32_t>(Kind::kEncoder);
  if (!encoder && header.kind != static_cast<std::uint32_t>(Kind::kLinear)) fail("unknown kind");
  if (encoder) {
    if (header.layers == 0 || header.layers > kMaxLayers) fail("the number of layers is out of range");
    if (header.hidden == 0 || header.hidden > kMaxWidth) fail("the hidden size is out of range");
    if (header.head_dim == 0 || header.head_dim > kMaxWidth) fail("the head size is out of range");
    if (!(header.epsilon >= 0) || !std::isfinite(header.epsilon)) fail("the LayerNorm epsilon is out of range");
    if (header.positions > kMaxPositions) fail("the number of positions is out of range");
  }
  const std::uint32_t per_layer = header.version == 1 ? kRecordsPerLayer1 : kRecordsPerLayer;
  const std::uint32_t shared = header.version == 1 ? 0 : kEncoderRecords;
  const std::uint64_t wanted = encoder ? std::uint64_t{header.layers} * per_layer + shared : 1;
  if (header.records != wanted) fail("the number of records is wrong");
  Reader reader(bytes);
  const auto records = reader.array<Record>(kHeaderBytes, header.records, "the record table");

  Blob blob;
  blob.kind = static_cast<Kind>(header.kind);
  blob.hidden = header.hidden;
  blob.head_dim = header.head_dim;
  blob.activation = static_cast<Activation>(header.activation);
  blob.epsilon = header.epsilon;
  blob.pre_norm = (header.flags & kPreNorm) != 0;
  blob.positions = header.positions;
  if (encoder) {
    for (std::uint32_t index = 0; index < header.layers; ++index) {
      const auto mine = std::span(records).subspan(std::size_t{index} * per_layer, per_layer);
      blob.layers.push_back(read_layer(reader, mine, header, index));
    }
    if (shared != 0) {
      const auto mine = std::span(records).last(shared);
      blob.final_norm = read_norm(reader, mine, header.hidden, true, "final norm");
      blob.relative = read_relative(reader, mine.subspan(2), header);
      if (blob.relative.table.rows != 0)
        for (const Layer& layer : blob.layers)
          reader.count_distances(std::uint64_t{2} * layer.query.rows *
                                 std::max<std::size_t>(blob.relative.rows.size(), blob.relative.table.rows));
    }
  } else {
    blob.linear = read_matrix(reader, records[0], "linear");
  }
  return blob;
}

}  // namespace sparserve

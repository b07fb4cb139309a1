// libFuzzer target: any bytes as packed weights. Blobs that parse are packed and run by every instruction set of this
// machine, so that hostile but well-formed blobs also reach the kernels. Commands: tests/attacks/README.md.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "cpu.h"
#include "encoder.h"

namespace sparserve {
namespace {

constexpr std::size_t kSizeAt = 8 + 4 + 4;  // of the header: the blob's size, then its checksum
constexpr std::size_t kChecksumAt = kSizeAt + 8;
constexpr std::size_t kChecksummedFrom = 32;
constexpr std::size_t kHeaderBytes = 64;
constexpr std::size_t kBatch = 2, kLength = 5;
constexpr std::size_t kMostFeatures = 4096;        // rows + columns of one matrix,
constexpr std::size_t kMostFeaturesOfAll = 16384;  // of all of them: a run stays far below 50 ms
constexpr std::uint32_t kMostPositions = 64;

std::uint32_t crc32(const std::uint8_t* bytes, std::size_t size) {
  std::uint32_t c = ~0U;
  for (std::size_t i = 0; i < size; ++i) {
    c ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xEDB88320U : 0);
  }
  return ~c;
}

std::vector<const KernelTable*> supported_kernels() {
  std::vector<const KernelTable*> tables;
  for (const char* name : {"portable", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "neon"}) {
    setenv("SPARSERVE_ISA", name, 1);
    try {
      tables.push_back(&choose_kernels());
    } catch (const std::runtime_error&) {
    }
  }
  return tables;
}

// The tasks of a phase may run in any order: here first to last, or last to first.
const Parallel kForwards = {nullptr,
                            [](void*, void (*task)(void*, std::size_t), std::size_t count, void* data) {
                              for (std::size_t i = 0; i < count; ++i) task(data, i);
                            },
                            1};
const Parallel kBackwards = {nullptr,
                             [](void*, void (*task)(void*, std::size_t), std::size_t count, void* data) {
                               for (std::size_t i = count; i > 0; --i) task(data, i - 1);
                             },
                             3};

void expect_same(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0 || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    std::fprintf(stderr, "value %zu depends on the number of threads: %g, %g\n", i, a[i], b[i]);
    std::abort();
  }
}

std::vector<float> random_floats(std::size_t count, std::uint32_t seed) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525U + 1013904223U;
    values[i] = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-30F;
  }
  if (seed % 8 == 0 && count > 7) {
    values[1] = std::nanf("");
    values[count / 2] = INFINITY;
    values[count - 3] = -3e38F;
  }
  return values;
}

bool is_small(const Blob& blob) {
  std::size_t total = 0;
  const auto fits = [&](const Matrix& m) {
    total += m.rows + m.columns;
    return m.rows + m.columns <= kMostFeatures && total <= kMostFeaturesOfAll;
  };
  if (blob.kind == Kind::kLinear) return fits(blob.linear);
  if (blob.positions > kMostPositions) return false;
  for (const Layer& layer : blob.layers)
    for (const Matrix* m : {&layer.query, &layer.key, &layer.value, &layer.attention_output, &layer.intermediate,
                            &layer.output, &layer.gate})
      if (!fits(*m)) return false;
  return fits(blob.relative.table);
}

void run_encoder(const Blob& blob, const KernelTable& kernels, bool first_token_only, bool int8_attention,
                 std::uint32_t seed) {
  const Encoder encoder(Blob(blob), kernels, first_token_only, int8_attention);
  if (encoder.positions() != 0 && encoder.positions() < kLength) return;
  const auto input = random_floats(kBatch * kLength * encoder.hidden(), seed);
  const std::int64_t mask[kBatch * kLength] = {1, 1, 1, 1, 1, 1, 0, 1, 1, 0};
  bool same_heads = true;
  for (std::size_t layer = 1; layer < encoder.layers(); ++layer)
    same_heads = same_heads && encoder.heads(layer) == encoder.heads(0);
  std::vector<float> bias;
  if (same_heads && seed % 4 == 1) bias = random_floats(encoder.heads(0) * kLength * kLength, seed + 1);
  std::vector<float> output(kBatch * (first_token_only ? 1 : kLength) * encoder.hidden()), again(output.size());
  const float* position_bias = bias.empty() ? nullptr : bias.data();
  encoder.run(input.data(), mask, position_bias, false, output.data(), kBatch, kLength, kForwards);
  encoder.run(input.data(), mask, position_bias, false, again.data(), kBatch, kLength, kBackwards);
  expect_same(output, again);
}

void run_linear(const Blob& blob, const KernelTable& kernels, std::uint32_t seed) {
  const Linear linear(Blob(blob), kernels);
  for (const std::size_t tokens : {kBatch * kLength, std::size_t{70}}) {
    if (tokens * linear.columns() > 8 * kMostFeatures) continue;
    const auto input = random_floats(tokens * linear.columns(), seed);
    std::vector<float> output(tokens * linear.rows()), again(output.size());
    linear.run(input.data(), output.data(), tokens, kForwards);
    linear.run(input.data(), again.data(), tokens, kBackwards);
    expect_same(output, again);
  }
}

bool parses(std::span<const std::uint8_t> bytes, Blob& blob) {
  try {
    blob = parse(bytes);
    return true;
  } catch (const BlobError&) {
    return false;
  }
}

}  // namespace
}  // namespace sparserve

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sparserve;
  static const auto tables = supported_kernels();
  Blob blob;
  // Try the bytes unchanged, and with corrected size and checksum, which no mutation would get right.
  if (!parses({data, size}, blob)) {
    if (size < kHeaderBytes) return 0;
    std::vector<std::uint8_t> mended(data, data + size);
    const std::uint64_t bytes = size;
    std::memcpy(mended.data() + kSizeAt, &bytes, sizeof bytes);
    const std::uint32_t checksum = crc32(data + kChecksummedFrom, size - kChecksummedFrom);
    std::memcpy(mended.data() + kChecksumAt, &checksum, sizeof checksum);
    if (!parses(mended, blob)) return 0;
  }
  if (!is_small(blob)) return 0;
  const std::uint32_t seed = crc32(data + kChecksummedFrom, size - kChecksummedFrom);
  for (const KernelTable* kernels : tables) {
    if (blob.kind == Kind::kLinear) {
      run_linear(blob, *kernels, seed);
    } else {
      for (const bool first_token_only : {false, true}) {
        run_encoder(blob, *kernels, first_token_only, false, seed);
        if (blob.head_dim % kBlock == 0) run_encoder(blob, *kernels, first_token_only, true, seed);
      }
    }
  }
  return 0;
}

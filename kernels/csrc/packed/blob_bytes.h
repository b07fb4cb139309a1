// Bytes of a blob: checksum, and a reader that returns no byte twice.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "packed/blob.h"

namespace sparserve {

inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::uint64_t kMaxPlaces = std::uint64_t{1} << 32;  // rows times columns of all matrices
inline constexpr std::uint64_t kMaxDistances = std::uint64_t{1} << 27;  // values of all tables of relative positions
inline constexpr std::uint64_t kMaxAngles = std::uint64_t{1} << 25;  // positions times rotary frequencies of all layers

[[noreturn]] inline void fail(const std::string& what) { throw BlobError("packed weights: " + what); }

inline std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  static const auto table = [] {
    std::array<std::array<std::uint32_t, 256>, 8> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xEDB88320U : 0);
      t[0][i] = c;
    }
    for (std::uint32_t i = 0; i < 256; ++i)
      for (std::size_t s = 1; s < 8; ++s) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 255];
    return t;
  }();
  std::uint32_t c = ~0U;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    word ^= c;
    c = 0;
    for (std::size_t s = 0; s < 8; ++s) c ^= table[7 - s][(word >> (8 * s)) & 255];
  }
  for (; i < bytes.size(); ++i) c = (c >> 8) ^ table[0][(c ^ bytes[i]) & 255];
  return ~c;
}

inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 31U;
  const std::uint32_t fraction = half & 1023U;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

template <class T>
std::vector<T> copy_of(std::span<const std::uint8_t> raw) {
  std::vector<T> values(raw.size() / sizeof(T));
  if (!raw.empty()) std::memcpy(values.data(), raw.data(), raw.size());
  return values;
}

inline void expect_finite(const std::vector<float>& values, const std::string& what) {
  for (float value : values)
    if (!std::isfinite(value)) fail(what + " holds a value that is not finite");
}

// Reader of the blob's sections with accounting: together they must not be larger than the blob, nor the matrices larger
// than kMaxPlaces. Otherwise a small file could share its bytes among so many matrices that memory runs out.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : bytes_(bytes), bytes_left_(bytes.size() - kHeaderBytes) {}

  std::span<const std::uint8_t> section(std::uint64_t offset, std::uint64_t size, const std::string& what) {
    if (offset < kHeaderBytes || offset > bytes_.size() || size > bytes_.size() - offset)
      fail(what + " lies outside the blob");
    if (size > bytes_left_) fail(what + " makes the sections larger than the blob");  // sections share bytes
    bytes_left_ -= size;
    return bytes_.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
  }

  template <class T>
  std::vector<T> array(std::uint64_t offset, std::uint64_t count, const std::string& what) {
    return copy_of<T>(section(offset, count * sizeof(T), what));
  }

  std::vector<float> floats(std::uint64_t offset, std::uint64_t count, const std::string& what) {
    auto values = array<float>(offset, count, what);
    expect_finite(values, what);
    return values;
  }

  void count_places(std::uint64_t places) {
    if (places > places_left_) fail("the matrices are too large together");
    places_left_ -= places;
  }

  void count_angles(std::uint64_t angles) {
    if (angles > angles_left_) fail("the tables of rotary positions are too large together");
    angles_left_ -= angles;
  }

  void count_distances(std::uint64_t values) {
    if (values > distances_left_) fail("the tables of relative positions are too large together");
    distances_left_ -= values;
  }

 private:
  std::span<const std::uint8_t> bytes_;
  std::uint64_t bytes_left_;
  std::uint64_t places_left_ = kMaxPlaces;
  std::uint64_t angles_left_ = kMaxAngles;
  std::uint64_t distances_left_ = kMaxDistances;
};

}  // namespace sparserve

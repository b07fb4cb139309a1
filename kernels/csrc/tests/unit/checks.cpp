#include "tests/unit/checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace sparserve::unit {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::size_t kMostMessages = 5;  // of one row

struct Free {
  void operator()(std::uint8_t* p) const { ::operator delete[](p, kAlignment); }
};

// What the running row has been given.
struct State {
  std::uint32_t seed = 0;
  std::size_t failures = 0;
  std::vector<std::unique_ptr<std::uint8_t, Free>> memory;
};

State& state() {
  static State state;
  return state;
}

void fail(const char* what, double actual, double expected) {
  if (++state().failures <= kMostMessages) std::printf("    %s: %.9g, expected %.9g\n", what, actual, expected);
}

std::uint32_t next_random() {
  std::uint32_t& seed = state().seed;
  seed = seed * 1664525U + 1013904223U;
  return seed ^ seed >> 16;
}

template <class T>
T* allocate(std::size_t count) {
  auto& memory = state().memory;
  memory.emplace_back(new (kAlignment) std::uint8_t[std::max<std::size_t>(count, 1) * sizeof(T)]());
  return reinterpret_cast<T*>(memory.back().get());
}

}  // namespace

void near(const char* what, double actual, double expected, double tolerance) {
  if (actual == expected || (std::isnan(actual) && std::isnan(expected))) return;
  if (!(std::fabs(actual - expected) <= tolerance)) fail(what, actual, expected);
}

void same(const char* what, long long actual, long long expected) {
  if (actual != expected) fail(what, static_cast<double>(actual), static_cast<double>(expected));
}

std::size_t failures() { return state().failures; }

float random_between(float low, float high) {
  return low + (high - low) * static_cast<float>(next_random() >> 8) * 0x1p-24F;
}

std::uint32_t random_below(std::uint32_t limit) {
  return static_cast<std::uint32_t>(std::uint64_t{next_random()} * limit >> 32);
}

float* floats(std::size_t count) { return allocate<float>(count); }
std::uint8_t* bytes(std::size_t count) { return allocate<std::uint8_t>(count); }

float* random_floats(std::size_t count, float low, float high) {
  float* values = floats(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = random_between(low, high);
  return values;
}

void begin_row() {
  state().seed = 7;
  state().failures = 0;
  state().memory.clear();
}

double gelu(double x) { return x / 2 * std::erfc(-x / std::sqrt(2.0)); }

double gelu_tanh(double x) {
  return x / (1 + std::exp(-2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

void attention(const float* queries, std::size_t query_stride, std::uint32_t count, const float* keys,
               const float* values, std::size_t key_stride, std::uint32_t tokens, std::uint32_t head_dim,
               const double* shift, double* out) {
  std::vector<double> weights(tokens);
  for (std::uint32_t i = 0; i < count; ++i) {
    double highest = -INFINITY, total = 0;
    for (std::uint32_t j = 0; j < tokens; ++j) {
      weights[j] = shift[std::size_t{j} * count + i];
      for (std::uint32_t d = 0; d < head_dim; ++d)
        weights[j] += double{queries[d * query_stride + i]} * keys[d * key_stride + j];
      highest = std::max(highest, weights[j]);
    }
    for (double& weight : weights) {
      weight = std::exp(weight - highest);
      total += weight;
    }
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      double sum = 0;
      for (std::uint32_t j = 0; j < tokens; ++j)
        if (weights[j] != 0) sum += weights[j] * values[d * key_stride + j];
      out[std::size_t{d} * count + i] = sum / total;
    }
  }
}

}  // namespace sparserve::unit

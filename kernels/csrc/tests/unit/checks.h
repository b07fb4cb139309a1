// Checks, random numbers and references for the kernels' tests. All are plain functions, defined once in checks.cpp and
// samples.cpp: the code of an instruction set must not instantiate anything with external linkage (kernels.h), and so
// uses no function of the standard library that is defined in a header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace sparserve::unit {

// One row of the list of kernels: the names of the functions that it tests, separated by spaces, and the test.
struct Row {
  const char* name;
  const char* kernels;
  void (*run)();
};

// The rows of one instruction set.
struct Rows {
  const KernelTable* table;
  const Row* rows;
  std::size_t count;
};

// Report a failure of the running row unless the values differ by at most `tolerance`; NaN equals NaN.
void near(const char* what, double actual, double expected, double tolerance);
void same(const char* what, long long actual, long long expected);
std::size_t failures();

// Deterministic numbers; each row begins with the same seed.
float random_between(float low, float high);
std::uint32_t random_below(std::uint32_t limit);

// Memory for the running row, aligned to 64 bytes and of exactly this size for sanitizers.
float* floats(std::size_t count);
float* random_floats(std::size_t count, float low, float high);
std::uint8_t* bytes(std::size_t count);
void begin_row();

double gelu(double x);
double gelu_tanh(double x);

// A random matrix in one storage: packed, and its weights [rows][columns] and bias as the kernels see them.
struct Sample {
  PackedMatrix packed;
  const double* weights;
  const float* bias;
};
Sample sample_matrix(Storage storage, const Traits& traits, std::uint32_t rows, std::uint32_t columns);

// Encoders as BERT has them; with ModernBERT's parts; with DeBERTa's relative positions.
enum class SampleEncoder { kPlain, kModern, kRelative };

// Compare the encoder of a kernel table with the portable one, with itself on other tiles and, if it is plain, with
// float64; its linears in floats and in int8.
void compare_encoders(const KernelTable& table, SampleEncoder kind, bool first_token_only, bool int8_attention);
void compare_linear(const KernelTable& table);

// One head: queries [head_dim][query_stride], keys and values [head_dim][key_stride], shift [tokens][queries] added to
// the scores, or null; out [head_dim][queries].
void attention(const float* queries, std::size_t query_stride, std::uint32_t count, const float* keys,
               const float* values, std::size_t key_stride, std::uint32_t tokens, std::uint32_t head_dim,
               const double* shift, double* out);

}  // namespace sparserve::unit

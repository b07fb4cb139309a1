// Random matrices and encoders for the kernels' tests.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <iterator>
#include <utility>
#include <vector>

#include "encoder.h"
#include "packed/isa_layout.h"
#include "tests/unit/checks.h"

namespace sparserve::unit {
namespace {

bool holds_ints(Storage storage) {
  return storage == Storage::kDenseI8 || storage == Storage::kSparseI8 || storage == Storage::kBlockI8;
}

struct Random {
  Matrix matrix;
  std::vector<double> weights;  // [rows][columns]
};

// About a fifth of the weights, or all if dense; the second row of a sparse matrix is empty.
Random random_matrix(Storage storage, std::uint32_t rows, std::uint32_t columns) {
  const bool ints = holds_ints(storage);
  const bool block = storage == Storage::kBlockF32 || storage == Storage::kBlockI8;
  const bool dense = storage == Storage::kDenseF32 || storage == Storage::kDenseI8;
  Random random;
  random.weights.resize(std::size_t{rows} * columns);
  Matrix& matrix = random.matrix;
  matrix.layout = dense ? Layout::kDense : block ? Layout::kBlock1x4 : Layout::kUnstructured;
  matrix.type = ints ? ValueType::kInt8 : ValueType::kFloat32;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.row_begin.push_back(0);
  for (std::uint32_t row = 0; row < rows; ++row) {
    if (ints) matrix.scales.push_back(random_between(0.5F, 1.5F) / 64);
    matrix.bias.push_back(random_between(-1, 1));
    std::uint32_t entries = 0;
    for (std::uint32_t c = 0; c < columns; c += matrix.width()) {
      if (!dense && (row == 1 || (random_below(5) != 0 && c != 0))) continue;
      ++entries;
      if (!dense) matrix.column.push_back(static_cast<std::uint16_t>(c));
      for (std::uint32_t k = c; k < c + matrix.width(); ++k) {
        double& weight = random.weights[std::size_t{row} * columns + k];
        if (ints) {
          // Neighbours fit the 16 bits of a saturating product (kMaxPairMagnitude).
          const int magnitude = static_cast<int>(random_below(63)) + 1;
          matrix.ints.push_back(static_cast<std::int8_t>(random_below(2) != 0 ? magnitude : -magnitude));
          weight = matrix.ints.back() * double{matrix.scales.back()};
        } else {
          matrix.floats.push_back(random_between(-1, 1));
          weight = double{matrix.floats.back()};
        }
      }
    }
    matrix.row_begin.push_back(matrix.row_begin.back() + entries);
  }
  return random;
}

constexpr std::uint32_t kHidden = 20, kHeadDim = 4, kWidth = 12, kUnits = 28, kPositions = 80;
constexpr float kEpsilon = 1e-3F;

Norm random_norm() {
  Norm norm;
  for (std::uint32_t f = 0; f < kHidden; ++f) {
    norm.weight.push_back(random_between(0.8F, 1.2F));
    norm.bias.push_back(random_between(-0.2F, 0.2F));
  }
  return norm;
}

// An encoder and the weights of its linears in the order of Layer, one layer after the other.
struct RandomEncoder {
  Blob blob;
  std::vector<std::vector<double>> weights;
};

RandomEncoder random_encoder(SampleEncoder kind, Storage storage) {
  RandomEncoder encoder;
  Blob& blob = encoder.blob;
  blob.hidden = kHidden;
  blob.head_dim = kHeadDim;
  blob.activation = Activation::kGelu;
  blob.epsilon = kEpsilon;
  const auto linear = [&](std::uint32_t rows, std::uint32_t columns) {
    Random random = random_matrix(storage, rows, columns);
    encoder.weights.push_back(std::move(random.weights));
    return std::move(random.matrix);
  };
  for (std::uint32_t index = 0; index < 2; ++index) {
    Layer layer;
    layer.query = linear(kWidth, kHidden);
    layer.key = linear(kWidth, kHidden);
    layer.value = linear(kWidth, kHidden);
    layer.attention_output = linear(kHidden, kWidth);
    layer.intermediate = linear(kUnits, kHidden);
    layer.output = linear(kHidden, kUnits);
    layer.attention_norm = random_norm();
    layer.output_norm = random_norm();
    if (kind == SampleEncoder::kModern) {
      layer.gate = linear(kUnits, kHidden);
      layer.rotary = {1.0F, 0.1F};
      if (index == 1) layer.band = 5;
    }
    blob.layers.push_back(std::move(layer));
  }
  if (kind != SampleEncoder::kPlain) blob.positions = kPositions;
  if (kind == SampleEncoder::kModern) {
    blob.pre_norm = true;
    blob.final_norm = random_norm();
  }
  if (kind == SampleEncoder::kRelative) {
    blob.relative.table = random_matrix(Storage::kDenseF32, 9, kHidden).matrix;
    for (std::uint32_t distance = 0; distance < 2 * kPositions - 1; ++distance)
      blob.relative.rows.push_back(random_below(9));
  }
  return encoder;
}

// y[row] = weights x + bias for one token.
std::vector<double> apply(const std::vector<double>& weights, const std::vector<float>& bias,
                          const std::vector<double>& x) {
  std::vector<double> y(bias.begin(), bias.end());
  for (std::size_t row = 0; row < y.size(); ++row)
    for (std::size_t c = 0; c < x.size(); ++c) y[row] += weights[row * x.size() + c] * x[c];
  return y;
}

std::vector<double> normed(const Norm& norm, std::vector<double> x) {
  double mean = 0, variance = 0;
  for (const double value : x) mean += value / static_cast<double>(x.size());
  for (const double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
  for (std::size_t f = 0; f < x.size(); ++f)
    x[f] = (x[f] - mean) / std::sqrt(variance + double{kEpsilon}) * norm.weight[f] + norm.bias[f];
  return x;
}

void add(std::vector<double>& x, const std::vector<double>& y) {
  for (std::size_t f = 0; f < x.size(); ++f) x[f] += y[f];
}

using States = std::vector<std::vector<double>>;

// The plain encoder in float64: states [tokens][hidden] of one sequence without masked tokens.
States plain_reference(const RandomEncoder& encoder, States states) {
  const std::size_t tokens = states.size();
  for (std::size_t index = 0; index < encoder.blob.layers.size(); ++index) {
    const Layer& layer = encoder.blob.layers[index];
    const auto* weights = &encoder.weights[index * 6];
    std::vector<float> queries(kWidth * tokens), keys(queries.size()), values(queries.size());
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto q = apply(weights[0], layer.query.bias, states[t]), k = apply(weights[1], layer.key.bias, states[t]);
      const auto v = apply(weights[2], layer.value.bias, states[t]);
      for (std::size_t row = 0; row < kWidth; ++row) {
        queries[row * tokens + t] = static_cast<float>(q[row] / std::sqrt(double{kHeadDim}));
        keys[row * tokens + t] = static_cast<float>(k[row]);
        values[row * tokens + t] = static_cast<float>(v[row]);
      }
    }
    std::vector<double> context(queries.size());
    const std::vector<double> shift(tokens * tokens);
    const auto count = static_cast<std::uint32_t>(tokens);
    for (std::size_t row = 0; row < kWidth; row += kHeadDim)
      attention(&queries[row * tokens], tokens, count, &keys[row * tokens], &values[row * tokens], tokens, count,
                kHeadDim, shift.data(), &context[row * tokens]);
    for (std::size_t t = 0; t < tokens; ++t) {
      std::vector<double> mine(kWidth);
      for (std::size_t row = 0; row < kWidth; ++row) mine[row] = context[row * tokens + t];
      add(states[t], apply(weights[3], layer.attention_output.bias, mine));
      states[t] = normed(layer.attention_norm, states[t]);
      auto wide = apply(weights[4], layer.intermediate.bias, states[t]);
      for (double& value : wide) value = gelu(value);
      add(states[t], apply(weights[5], layer.output.bias, wide));
      states[t] = normed(layer.output_norm, states[t]);
    }
  }
  return states;
}

// The caller's thread is the pool; `threads` decides how a run is cut into tiles.
Parallel cut_for(std::uint32_t threads) {
  return {nullptr,
          [](void*, void (*task)(void*, std::size_t), std::size_t count, void* data) {
            for (std::size_t i = count; i > 0; --i) task(data, i - 1);
          },
          threads};
}

std::deque<MatrixPacker>& packers() {
  static std::deque<MatrixPacker> packers;
  return packers;
}

}  // namespace

Sample sample_matrix(Storage storage, const Traits& traits, std::uint32_t rows, std::uint32_t columns) {
  Random random = random_matrix(storage, rows, columns);
  auto* weights = reinterpret_cast<double*>(bytes(random.weights.size() * sizeof(double)));
  std::copy(random.weights.begin(), random.weights.end(), weights);
  float* bias = floats(rows);
  std::copy(random.matrix.bias.begin(), random.matrix.bias.end(), bias);
  packers().clear();
  packers().emplace_back(traits);
  return {packers().back().pack(std::move(random.matrix)), weights, bias};
}

void compare_encoders(const KernelTable& table, SampleEncoder kind, bool first_token_only, bool int8_attention) {
  const std::size_t lengths[] = {3, 1, 37, 70}, batch = std::size(lengths), longest = 70;
  for (const Storage storage : {Storage::kSparseF32, Storage::kSparseI8}) {
    const RandomEncoder random = random_encoder(kind, storage);
    const float* input = random_floats(batch * longest * kHidden, -2, 2);
    std::vector<std::int64_t> mask(batch * longest);
    for (std::size_t row = 0; row < batch; ++row) std::fill_n(&mask[row * longest], lengths[row], 1);
    const std::size_t out_length = first_token_only ? 1 : longest;
    const auto run = [&](const KernelTable& kernels, std::uint32_t threads) {
      std::vector<float> output(batch * out_length * kHidden);
      const Encoder encoder(Blob(random.blob), kernels, first_token_only, int8_attention);
      encoder.run(input, mask.data(), nullptr, false, output.data(), batch, longest, cut_for(threads));
      return output;
    };
    const auto output = run(table, 1), in_small_tiles = run(table, 100);
    for (std::size_t i = 0; i < output.size(); ++i) near("other tiles", in_small_tiles[i], output[i], 0);
    const bool ints = holds_ints(storage) || int8_attention;
    const auto portable = run(*portable_kernels(), 1);
    for (std::size_t i = 0; i < output.size(); ++i)
      near("portable kernels", output[i], portable[i], ints ? 0.05 : 1e-4);
    if (kind != SampleEncoder::kPlain) continue;
    for (std::size_t row = 0; row < batch; ++row) {
      States states(lengths[row]);
      for (std::size_t t = 0; t < lengths[row]; ++t)
        states[t].assign(input + (row * longest + t) * kHidden, input + (row * longest + t + 1) * kHidden);
      const auto expected = plain_reference(random, states);
      for (std::size_t t = 0; t < std::min(lengths[row], out_length); ++t)
        for (std::size_t f = 0; f < kHidden; ++f)
          near("encoder", output[(row * out_length + t) * kHidden + f], expected[t][f], ints ? 0.1 : 1e-4);
    }
  }
}

void compare_linear(const KernelTable& table) {
  constexpr std::uint32_t rows = 9, columns = 30;
  constexpr std::size_t tokens = 150;
  Random random = random_matrix(Storage::kSparseF32, rows, columns);
  Blob blob;
  blob.kind = Kind::kLinear;
  blob.linear = std::move(random.matrix);
  const std::vector<float> bias = blob.linear.bias;
  const Linear linear(std::move(blob), table);
  const float* input = random_floats(tokens * columns, -1, 1);
  std::vector<float> output(tokens * rows);
  linear.run(input, output.data(), tokens, cut_for(1));
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto expected = apply(random.weights, bias, {input + t * columns, input + (t + 1) * columns});
    for (std::size_t row = 0; row < rows; ++row) near("linear", output[t * rows + row], expected[row], 1e-5);
  }
}

}  // namespace sparserve::unit

// Tests of the elementwise functions. Included once per instruction set.
#pragma once

// The bound of coarse_gelu.
double coarse_gelu_error(double x) { return 3.2e-4 * __builtin_fmin(1, __builtin_fabs(x)) + 1e-7 * __builtin_fabs(x); }

void exponentials() {
  for (double x = -87.2; x < 88; x += 0.0917) {
    const double expected = __builtin_exp(double{static_cast<float>(x)});
    SPARSERVE_LANES("exponential", exponential(broadcast(static_cast<float>(x))), expected, 3e-7 * expected);
  }
  const float arguments[] = {-88.0F, -1e4F, -1e30F, -__builtin_inff()};
  for (const float x : arguments)
    SPARSERVE_LANES("exponential", exponential(broadcast(x)), 0, 2e-38);
  const float nans[] = {__builtin_nanf(""), -__builtin_nanf("1")};
  for (const float x : nans) SPARSERVE_LANES("exponential", exponential(broadcast(x)), __builtin_nan(""), 0);
}

double activated(double x, std::uint32_t activation) {
  switch (activation) {
    case 1: return unit::gelu(x);
    case 2: return unit::gelu_tanh(x);
    case 3: return x < 0 ? 0 : x;
    case 4: return x / (1 + __builtin_exp(-x));
    default: return x;
  }
}

// All activations of V vectors, from tiny to huge.
template <int V>
void activations_of() {
  const float infinity = __builtin_inff(), nan = __builtin_nanf("");
  for (std::uint32_t activation = 0; activation < 5; ++activation) {
    const bool accuracies[] = {false, true};
    for (const bool coarse : accuracies) {
      for (float magnitude = 1e-20F; magnitude < 1e7F;
           magnitude *= magnitude < 0.01F || magnitude > 10 ? 3.1F : 1.013F) {
        const float arguments[] = {magnitude, -magnitude};
        for (const float x : arguments) {
          F32 values[V];
          for (int v = 0; v < V; ++v) values[v] = broadcast(v % 2 == 0 ? x : x / 2);
          activate(values, activation, coarse);
          for (int v = 0; v < V; ++v) {
            const double argument = v % 2 == 0 ? x : x / 2;
            const double tolerance = coarse && activation == 1
                                         ? coarse_gelu_error(argument)
                                         : 5e-7 * __builtin_fmax(1, __builtin_fabs(argument));
            SPARSERVE_LANES("activate", values[v], activated(argument, activation), tolerance);
          }
        }
      }
      const float arguments[] = {nan, infinity, -infinity};
      for (const float x : arguments) {
        F32 values[V];
        for (int v = 0; v < V; ++v) values[v] = broadcast(x);
        activate(values, activation, coarse);
        // A negative infinity must not become an ordinary number, except with ReLU.
        const float expected = x == -infinity && activation == 1 ? nan : static_cast<float>(activated(x, activation));
        for (int v = 0; v < V; ++v) {
          if (x != -infinity || (activation != 2 && activation != 4))
            SPARSERVE_LANES("activate", values[v], expected, 0);
        }
      }
    }
  }
}

void activations() {
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) for_vectors(v, []<int V>() { activations_of<V>(); });
}

template <int V>
void norms_of() {
  constexpr int tokens = V * kLanes;
  constexpr std::uint32_t features = 37;
  const float epsilon = 1e-3F;
  const float* x = unit::random_floats(features * tokens, -3, 5);
  const float* weight = unit::random_floats(features, 0.5F, 1.5F);
  const float* bias = unit::random_floats(features, -1, 1);
  float* apart = unit::floats(features * tokens);
  layer_norm<V>(x, apart, features, weight, bias, epsilon);
  float* in_place = unit::floats(features * tokens);
  __builtin_memcpy(in_place, x, features * tokens * sizeof(float));
  layer_norm<V>(in_place, in_place, features, weight, bias, epsilon);
  for (int t = 0; t < tokens; ++t) {
    double mean = 0, variance = 0;
    for (std::uint32_t f = 0; f < features; ++f) mean += x[f * tokens + t] / double{features};
    for (std::uint32_t f = 0; f < features; ++f)
      variance += (x[f * tokens + t] - mean) * (x[f * tokens + t] - mean) / double{features};
    for (std::uint32_t f = 0; f < features; ++f) {
      const double normed = (x[f * tokens + t] - mean) / __builtin_sqrt(variance + double{epsilon});
      near("layer_norm", apart[f * tokens + t], normed * weight[f] + bias[f], 3e-6);
      near("layer_norm in place", in_place[f * tokens + t], apart[f * tokens + t], 0);
    }
  }
}

void norms() {
  for (std::uint32_t v = 1; v <= kMaxVectors; ++v) for_vectors(v, []<int V>() { norms_of<V>(); });
}

void rotations() {
  constexpr std::uint32_t head_dim = 6, rows = 12, position = 5;
  const std::size_t stride = 2 * kLanes, table = kLanes + position + 3;
  float* x = unit::random_floats(rows * stride, -2, 2);
  float* before = unit::floats(rows * stride);
  __builtin_memcpy(before, x, rows * stride * sizeof(float));
  const float* angles = unit::random_floats(head_dim / 2 * table, 0, 3);
  float* cosines = unit::floats(head_dim / 2 * table);
  float* sines = unit::floats(head_dim / 2 * table);
  for (std::size_t i = 0; i < head_dim / 2 * table; ++i) {
    cosines[i] = static_cast<float>(__builtin_cos(double{angles[i]}));
    sines[i] = static_cast<float>(__builtin_sin(double{angles[i]}));
  }
  rotate(x, stride, rows, head_dim, {cosines, sines, table}, position);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::size_t t = 0; t < stride; ++t) {
      const std::uint32_t within = row % head_dim, i = within % (head_dim / 2);
      const bool low = within < head_dim / 2;
      const std::size_t at = row * stride + t, apart = head_dim / 2 * stride, other = low ? at + apart : at - apart;
      double expected = before[at];
      if (t < kLanes) {
        const double angle = angles[i * table + position + t];
        expected = before[at] * __builtin_cos(angle) + (low ? -1 : 1) * before[other] * __builtin_sin(angle);
      }
      near("rotate", x[at], expected, 1e-6);
    }
  }
}

// Elementwise functions on vectors of tokens: exponential, activations, LayerNorm. Included once per instruction set.
#pragma once

// exp(x) to about 2e-7 relative; x below -87.3 gives about 1e-38. NaN stays NaN: `min` and `max` give their second
// operand then.
SPARSERVE_INLINE F32 exponential(F32 x) {
  x = max(broadcast(-87.3F), min(broadcast(88.0F), x));
  const F32 n = round(mul(x, broadcast(1.44269504F)));
  F32 r = fma(n, broadcast(-0.693145752F), x);  // ln 2 in two parts
  r = fma(n, broadcast(-1.42860677e-6F), r);
  F32 p = broadcast(1.0F / 5040);
  p = fma(p, r, broadcast(1.0F / 720));
  p = fma(p, r, broadcast(1.0F / 120));
  p = fma(p, r, broadcast(1.0F / 24));
  p = fma(p, r, broadcast(1.0F / 6));
  p = fma(p, r, broadcast(0.5F));
  p = fma(p, r, broadcast(1.0F));
  p = fma(p, r, broadcast(1.0F));
  return scale2(p, n);
}

// x / 2 * (1 + erf(x / sqrt 2)), with an error of at most 4e-7 of max(1, |x|). erf(z) / z is a polynomial in z^2 on
// |z| <= 3.92, beyond which erf is +-1 to half a float's last digit: a weighted least-squares fit in t = z^2 / (3.92^2
// / 2) - 1, where its coefficients do not cancel. In place for V vectors at once, even and odd powers apart: one chain
// of additions would wait for its own latency.
template <int V>
SPARSERVE_INLINE void gelu(F32 (&x)[V]) {
  constexpr int N = 14;
  constexpr float coefficients[N] = {0.36073703F,   -0.18010822F,  0.13406372F,   -0.1091858F,   0.09094576F,
                                     -0.07403132F,  0.05622229F,   -0.04303078F,  0.03611048F,   -0.0217559F,
                                     0.0045437454F, -0.0044540022F, 0.0091172177F, -0.0040723013F};
  F32 z[V], t[V], square[V], even[V], odd[V];
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    z[v] = max(min(mul(x[v], broadcast(0.707106781F)), broadcast(3.92F)), broadcast(-3.92F));
    t[v] = fma(mul(z[v], z[v]), broadcast(0.130154102F), broadcast(-1.0F));
    square[v] = mul(t[v], t[v]);
    even[v] = broadcast(coefficients[(N - 1) / 2 * 2]);
    odd[v] = broadcast(coefficients[(N - 2) / 2 * 2 + 1]);
  }
  SPARSERVE_UNROLL16
  for (int i = (N - 1) / 2 * 2 - 2; i >= 0; i -= 2) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) even[v] = fma(even[v], square[v], broadcast(coefficients[i]));
  }
  SPARSERVE_UNROLL16
  for (int i = (N - 2) / 2 * 2 - 1; i >= 0; i -= 2) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) odd[v] = fma(odd[v], square[v], broadcast(coefficients[i]));
  }
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    const F32 half = mul(x[v], broadcast(0.5F));
    x[v] = fma(half, mul(z[v], fma(odd[v], t[v], even[v])), half);
  }
}

// GELU for activations that are quantized next, with an error of at most 3.2e-4 of min(1, |x|): a fraction of one of
// 255 steps (docs/explanation/sparse-runtime.md). It is x / 2 + |x| S(|x|). S(a), the normal distribution between 0 and
// a, is a polynomial, minimax by a linear program, that exceeds its limit of 1/2 from about 4 on. It is cut there: far
// from zero the result is exact. NaN stays NaN, minus infinity becomes NaN, as above.
template <int V>
SPARSERVE_INLINE void coarse_gelu(F32 (&x)[V]) {
  constexpr int N = 7;
  constexpr float coefficients[N] = {0.000306527974F, 0.390224218F,    0.0404512733F,  -0.136452571F,
                                     0.0557244085F,   -0.00950116385F, 0.000607464928F};
  F32 a[V], s[V];
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) {
    a[v] = from_bits(bits_of(x[v]) & broadcast_int(0x7FFFFFFF));
    s[v] = broadcast(coefficients[N - 1]);
  }
  SPARSERVE_UNROLL
  for (int i = N - 2; i >= 0; --i) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) s[v] = fma(s[v], a[v], broadcast(coefficients[i]));
  }
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) x[v] = fma(a[v], min(broadcast(0.5F), s[v]), mul(x[v], broadcast(0.5F)));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as x * sigmoid of twice the argument
SPARSERVE_INLINE F32 gelu_tanh(F32 x) {
  const F32 cubic = mul(mul(x, x), x);
  const F32 argument = mul(fma(cubic, broadcast(0.044715F), x), broadcast(-1.59576912F));
  return div(x, add(broadcast(1.0F), exponential(argument)));
}

// x * sigmoid(x)
SPARSERVE_INLINE F32 silu(F32 x) {
  return div(x, add(broadcast(1.0F), exponential(mul(x, broadcast(-1.0F)))));
}

template <int V>
SPARSERVE_INLINE void activate(F32 (&x)[V], std::uint32_t activation, bool coarse) {
  if (activation == 1) {
    if (coarse) {
      coarse_gelu(x);
    } else {
      gelu(x);
    }
  } else if (activation == 2) {
    for (int v = 0; v < V; ++v) x[v] = gelu_tanh(x[v]);
  } else if (activation == 3) {
    for (int v = 0; v < V; ++v) x[v] = max(zero(), x[v]);  // NaN stays
  } else if (activation == 4) {
    for (int v = 0; v < V; ++v) x[v] = silu(x[v]);
  }
}

// LayerNorm over the features of each token: x and out are [features][V * kLanes]; out may be x.
template <int V>
void layer_norm(const float* x, float* out, std::uint32_t features, const float* weight, const float* bias,
                float epsilon) {
  constexpr int stride = V * kLanes;
  const F32 share = broadcast(1.0F / static_cast<float>(features));
  F32 mean[V], scale[V];
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) mean[v] = scale[v] = zero();
  for (std::uint32_t f = 0; f < features; ++f) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) mean[v] = add(mean[v], load(x + f * stride + v * kLanes));
  }
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v) mean[v] = mul(mean[v], share);
  for (std::uint32_t f = 0; f < features; ++f) {
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) {
      const F32 centred = sub(load(x + f * stride + v * kLanes), mean[v]);
      scale[v] = fma(centred, centred, scale[v]);
    }
  }
  SPARSERVE_UNROLL
  for (int v = 0; v < V; ++v)
    scale[v] = div(broadcast(1.0F), sqrt(fma(scale[v], share, broadcast(epsilon))));
  for (std::uint32_t f = 0; f < features; ++f) {
    const F32 w = broadcast(weight[f]), b = broadcast(bias[f]);
    SPARSERVE_UNROLL
    for (int v = 0; v < V; ++v) {
      const F32 centred = sub(load(x + f * stride + v * kLanes), mean[v]);
      store(out + f * stride + v * kLanes, fma(mul(centred, scale[v]), w, b));
    }
  }
}

// What happens to one vector of tokens at a time: exponential, activations, LayerNorm. Included once per instruction set.
#pragma once

// exp(x) to about 2e-7 relative; x below -87.3 gives about 1e-38.
SPARSERVE_INLINE F32 exponential(F32 x) {
  x = max(min(x, broadcast(88.0F)), broadcast(-87.3F));
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

// x / 2 * (1 + erf(x / sqrt 2)). erf is z P(z^2) / Q(z^2) on |z| <= 3.92 (a weighted least-squares fit, 4.6e-7
// relative); beyond, erf is +-1 to half a float's last digit.
SPARSERVE_INLINE F32 gelu(F32 x) {
  const F32 z = max(min(mul(x, broadcast(0.707106781F)), broadcast(3.92F)), broadcast(-3.92F));
  const F32 u = mul(z, z);
  F32 p = broadcast(-1.62522872e-06F);
  p = fma(p, u, broadcast(2.89170625e-04F));
  p = fma(p, u, broadcast(1.14653204e-02F));
  p = fma(p, u, broadcast(7.63860121e-02F));
  p = fma(p, u, broadcast(3.93120974e-01F));
  p = fma(p, u, broadcast(1.12837899e+00F));
  F32 q = broadcast(2.70405924e-03F);
  q = fma(q, u, broadcast(3.06865294e-02F));
  q = fma(q, u, broadcast(1.94984883e-01F));
  q = fma(q, u, broadcast(6.81719660e-01F));
  q = fma(q, u, broadcast(1.0F));
  const F32 half = mul(x, broadcast(0.5F));
  return fma(half, div(mul(z, p), q), half);
}

// x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as x * sigmoid of twice the argument
SPARSERVE_INLINE F32 gelu_tanh(F32 x) {
  const F32 cubic = mul(mul(x, x), x);
  const F32 argument = mul(fma(cubic, broadcast(0.044715F), x), broadcast(-1.59576912F));
  return div(x, add(broadcast(1.0F), exponential(argument)));
}

SPARSERVE_INLINE F32 activate(F32 x, std::uint32_t activation) {
  switch (activation) {
    case 1: return gelu(x);
    case 2: return gelu_tanh(x);
    case 3: return max(x, zero());
    default: return x;
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

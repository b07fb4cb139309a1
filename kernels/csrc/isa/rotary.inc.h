// Rotary positions (Su et al. 2021, RoFormer). Included once per instruction set.
#pragma once

// Turn the features i and i + head_dim / 2 of every head by each token's angle. `x` is one vector of tokens, the first
// of them at `position`: `rows` features, `stride` floats apart.
SPARSERVE_INLINE void rotate(float* x, std::size_t stride, std::uint32_t rows, std::uint32_t head_dim,
                             const Rotary& rotary, std::uint32_t position) {
  const std::uint32_t half = head_dim / 2;
  for (std::uint32_t i = 0; i < half; ++i) {
    const F32 cosine = load(rotary.cosines + i * rotary.stride + position);
    const F32 sine = load(rotary.sines + i * rotary.stride + position);
    for (std::uint32_t row = i; row < rows; row += head_dim) {
      float* low = x + row * stride;
      float* high = low + half * stride;
      const F32 a = load(low), b = load(high);
      store(low, sub(mul(a, cosine), mul(b, sine)));
      store(high, fma(b, cosine, mul(a, sine)));
    }
  }
}

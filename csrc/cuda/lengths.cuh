// Lengths of vectors of any magnitude in float32, and sums over many terms.
#pragma once

#include "../common/geometry.h"
#include "../common/half.h"
#include "launch.h"

namespace fastalign::cuda {

template <int count>
FASTALIGN_DEVICE void fill(float (&values)[count], float value) {
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = value;
  }
}

constexpr float kLowSquare = 0x1p-60f, kHighSquare = 0x1p60f;

FASTALIGN_DEVICE bool in_range(float square) {
  return square >= kLowSquare && square <= kHighSquare;
}

FASTALIGN_DEVICE float inverse_length(float square) {
  return square == 0.0f ? 0.0f : 1.0f / sqrtf(square);
}

// The larger of two sizes; a NaN wins.
FASTALIGN_DEVICE float larger_or_nan(float a, float b) { return b > a || b != b ? b : a; }

// The power of two that brings `largest` near 1; 1 for zero, infinity and NaN.
FASTALIGN_DEVICE float power_of_two_scale(float largest) {
  if (!(largest > 0.0f) || !(largest - largest == 0.0f)) {
    return 1.0f;
  }
  const int exponent = static_cast<int>(float_to_bits(largest) >> 23);
  return bits_to_float(static_cast<uint32_t>(clamp_between(254 - exponent, 1, 253)) << 23);
}

// Infinity, from a vector too short for float32 to hold its inverse length, as the largest number.
FASTALIGN_DEVICE float finite(float inverse) { return fminf(inverse, 0x1.fffffep127f); }

// Sums over steps. Without vectors the steps can be many: runs of them fold in, so that rounding
// does not grow with their number.
template <int V, int N>
struct Folded {
  float sum[N], part[N];

  FASTALIGN_DEVICE Folded() {
    fill<N>(sum, 0.0f);
    fill<N>(part, 0.0f);
  }
  FASTALIGN_DEVICE void add(const float (&values)[N], int k) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      part[n] += values[n];
      if (V == 1 && k % 16 == 15) {
        sum[n] += part[n];
        part[n] = 0.0f;
      }
    }
  }
  FASTALIGN_DEVICE void total(float (&values)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] = V == 1 ? sum[n] + part[n] : part[n];
    }
  }
};

}  // namespace fastalign::cuda

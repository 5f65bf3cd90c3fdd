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

// 1 / sqrt(x) to about two units in the last place, in one instruction; x is no subnormal number.
FASTALIGN_DEVICE float inverse_root(float x) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
#else
  return rsqrtf(x);
#endif
}

// The same to one unit, by a step of Newton's: a fraction of a square root and a division. 0 for 0.
FASTALIGN_DEVICE float inverse_length(float square) {
  const float inverse = inverse_root(square);
  const float error = fmaf(-square * inverse, inverse, 1.0f);
  return square == 0.0f ? 0.0f : fmaf(0.5f * inverse, error, inverse);
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

// A sum of many terms, in runs of 16 that fold in: rounding grows with the square root at most.
struct FoldedSum {
  float sum = 0.0f, part = 0.0f;

  FASTALIGN_DEVICE void add(float value, int index) {
    part += value;
    if (index % 16 == 15) {
      sum += part;
      part = 0.0f;
    }
  }
  FASTALIGN_DEVICE float total() const { return sum + part; }
};

}  // namespace fastalign::cuda

// Norms of packed images.
//
// Range. A vector whose squared norm leaves [2^-60, 2^60] (2^+-400 in double) is multiplied in
// scratch by the power of two that brings its largest component near 1. The cosine does not
// change and the gradient takes the same factor at the end, so neither squares nor inverse
// norms under- or overflow. The test costs two comparisons per vector of norms.
#pragma once

#include "dense_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

template <class A>
struct Range;
template <>
struct Range<float> {
  static constexpr float low = 0x1p-60f, high = 0x1p60f;
  static constexpr int limit = 126;
};
template <>
struct Range<double> {
  static constexpr double low = 0x1p-400, high = 0x1p400;
  static constexpr int limit = 1022;
};

// The power of two that brings `largest` into [1, 2), as far as both it and its inverse are
// normal; 1 for zero, infinity and NaN.
template <class A>
A power_of_two_scale(A largest) {
  if (!(largest > A(0)) || !(largest - largest == A(0))) {
    return A(1);
  }
  int exponent = 0;
  (void)__builtin_frexp(static_cast<double>(largest), &exponent);
  const int power = smaller(larger(1 - exponent, -Range<A>::limit), Range<A>::limit);
  return static_cast<A>(__builtin_ldexp(1.0, power));
}

// Rescales the pixels of one packed image whose squared norm is out of range and redoes their
// norms; true if any was.
template <class Lanes, class A>
__attribute__((noinline)) bool rescale_pixels(const DenseTile<A>& t, A* packed, A* squared,
                                              A* scale) {
  const int64_t c_step = Lanes::channel_step(t), i_step = Lanes::pixel_step(t);
  bool any = false;
  for (int64_t i = 0; i < t.count; ++i) {
    if (squared[i] >= Range<A>::low && squared[i] <= Range<A>::high) {
      continue;
    }
    A* pixel = packed + i * i_step;
    A largest = 0;
    for (int64_t c = 0; c < t.channels; ++c) {
      const A v = pixel[c * c_step];
      const A magnitude = v < 0 ? -v : v;
      largest = magnitude > largest || magnitude != magnitude ? magnitude : largest;
    }
    const A factor = power_of_two_scale(largest);
    if (factor == A(1)) {
      continue;
    }
    A total = 0;
    for (int64_t c = 0; c < t.channels; ++c) {
      const A v = pixel[c * c_step] * factor;
      pixel[c * c_step] = v;
      total += v * v;
    }
    squared[i] = total;
    scale[i] = factor;
    any = true;
  }
  return any;
}

// Turns squared norms into inverse norms; false, and nothing done, where one is out of range: a
// vector that has to be rescaled, zero, or not finite.
template <class A>
bool invert_norms(const DenseTile<A>& t, A* squared) {
  bool outside = false;
  for (int64_t i = 0; i < t.width; i += kLanes<A>) {
    const Vec<A> n = load(squared + i);
    const auto inside = (n >= splat<A>(Range<A>::low)) & (n <= splat<A>(Range<A>::high));
    outside |= any_lane(~inside);
  }
  if (outside) {
    return false;
  }
  for (int64_t i = 0; i < t.width; i += kLanes<A>) {
    store(squared + i, splat<A>(1) / sqrt_of(load(squared + i)));
  }
  return true;
}

// Turns squared norms into inverse norms, 0 for zero vectors, after rescaling where the range
// demands it.
template <class Lanes, class A>
bool finish_norms(const DenseTile<A>& t, A* packed, A* squared, A* scale) {
  bool outside = false;
  for (int64_t i = 0; i < t.width; i += kLanes<A>) {
    const Vec<A> n = load(squared + i);
    const auto inside = (n >= splat<A>(Range<A>::low)) & (n <= splat<A>(Range<A>::high));
    outside |= any_lane(~inside);
    store(scale + i, splat<A>(1));
  }
  const bool scaled = outside && rescale_pixels<Lanes>(t, packed, squared, scale);
  for (int64_t i = 0; i < t.width; i += kLanes<A>) {
    const Vec<A> n = load(squared + i);
    const Vec<A> inverse = splat<A>(1) / sqrt_of(n);
    store(squared + i, n == Vec<A>{} ? Vec<A>{} : inverse);
  }
  return scaled;
}

// One channel: the unit vector is a sign. The product of a value and its inverse norm would miss 1
// by its last bit, and sums of signs that cancel would leave it.
template <class A>
void to_signs(const DenseTile<A>& t, A* packed, int64_t pixel_step, A* inverse) {
  for (int64_t i = 0; i < t.count; ++i) {
    A& value = packed[i * pixel_step];
    if (value != A(0) && value - value == A(0)) {
      value = value > A(0) ? A(1) : A(-1);
      inverse[i] = A(1);
    }
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

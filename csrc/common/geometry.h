// Affine sampling geometry in pixel units: what affine_grid and grid_sample compute, without
// the grid. Free of torch and of any kernel, shared by CPU and CUDA.
#pragma once

#include <cstdint>

#include "macros.h"

namespace fastalign {

enum class Interpolation : int32_t { bilinear, nearest };
enum class Padding : int32_t { zeros, border, reflection };

// Source position of output pixel (ox, oy): x = xx*ox + xy*oy + x0, y = yx*ox + yy*oy + y0.
struct AffinePixels {
  double xx, xy, x0;
  double yx, yy, y0;
};

// One row of the map from output pixels to source pixels along an axis of `source` pixels.
// With align_corners the ends -1 and 1 are pixel centres, otherwise pixel borders; an output
// axis of one pixel sits at coordinate 0, as in affine_grid. The terms are grouped so that the
// identity on equal sizes gives the offset 0 exactly.
FASTALIGN_HD void affine_row(double t0, double t1, double t2, int64_t out_w, int64_t out_h,
                             int64_t source, bool align_corners, double* step_x, double* step_y,
                             double* offset) {
  const double n = static_cast<double>(source);
  if (align_corners) {
    const double half = 0.5 * (n - 1.0);
    *step_x = out_w > 1 ? t0 * (n - 1.0) / static_cast<double>(out_w - 1) : 0.0;
    *step_y = out_h > 1 ? t1 * (n - 1.0) / static_cast<double>(out_h - 1) : 0.0;
    const double start = (out_w > 1 ? -t0 : 0.0) + (out_h > 1 ? -t1 : 0.0);
    *offset = ((start + 1.0) + t2) * half;
  } else {
    *step_x = t0 * (n / static_cast<double>(out_w));
    *step_y = t1 * (n / static_cast<double>(out_h));
    *offset = 0.5 * (((*step_x - t0 * n) + (n - 1.0)) + ((*step_y - t1 * n) + t2 * n));
  }
}

// theta: the six entries of a [2, 3] matrix from output to input normalised coordinates.
FASTALIGN_HD AffinePixels affine_pixels(const double* theta, int64_t in_h, int64_t in_w,
                                        int64_t out_h, int64_t out_w, bool align_corners) {
  AffinePixels map;
  affine_row(theta[0], theta[1], theta[2], out_w, out_h, in_w, align_corners, &map.xx, &map.xy,
             &map.x0);
  affine_row(theta[3], theta[4], theta[5], out_w, out_h, in_h, align_corners, &map.yx, &map.yy,
             &map.y0);
  return map;
}

// The inverse of a [2, 3] matrix; not finite where there is none.
FASTALIGN_HD void inverse_affine(const double* theta, double* inverse) {
  const double area = theta[0] * theta[4] - theta[1] * theta[3];
  inverse[0] = theta[4] / area;
  inverse[1] = -theta[1] / area;
  inverse[2] = (theta[1] * theta[5] - theta[4] * theta[2]) / area;
  inverse[3] = -theta[3] / area;
  inverse[4] = theta[0] / area;
  inverse[5] = (theta[3] * theta[2] - theta[0] * theta[5]) / area;
}

// Normalised coordinate of output index i on an axis of `count` pixels: slope * i + start.
FASTALIGN_HD void normalised_axis(int64_t count, bool align_corners, double* slope, double* start) {
  if (count <= 1) {
    *slope = 0.0;
    *start = 0.0;
  } else if (align_corners) {
    *slope = 2.0 / static_cast<double>(count - 1);
    *start = -1.0;
  } else {
    *slope = 2.0 / static_cast<double>(count);
    *start = 1.0 / static_cast<double>(count) - 1.0;
  }
}

// d(pixel coordinate) / d(normalised coordinate) on a source axis.
FASTALIGN_HD double pixels_per_unit(int64_t source, bool align_corners) {
  return 0.5 * static_cast<double>(align_corners ? source - 1 : source);
}

template <class T>
FASTALIGN_HD T clamp_between(T value, T low, T high) {
  return value < low ? low : (value > high ? high : value);
}

template <class T>
FASTALIGN_HD T floor_of(T value) {
#if defined(__CUDACC__)
  return floor(value);
#else
  return sizeof(T) == 4 ? static_cast<T>(__builtin_floorf(static_cast<float>(value)))
                        : static_cast<T>(__builtin_floor(static_cast<double>(value)));
#endif
}

// Position after padding, and the factor its derivative takes (0, 1 or -1).
template <class T>
struct Padded {
  T position;
  T slope;
};

// Border: clamp to the pixel centres; on or beyond them the position does not move.
template <class T>
FASTALIGN_HD Padded<T> pad_border(T position, int64_t size) {
  const T last = static_cast<T>(size - 1);
  if (!(position > T(0))) {
    return {T(0), T(0)};
  }
  if (!(position < last)) {
    return {last, T(0)};
  }
  return {position, T(1)};
}

// Reflection about the pixel centres (align_corners) or the pixel borders, then a clamp.
template <class T>
FASTALIGN_HD Padded<T> pad_reflection(T position, int64_t size, bool align_corners) {
  const T low = align_corners ? T(0) : T(-0.5);
  const T span = static_cast<T>(align_corners ? size - 1 : size);
  if (!(span > T(0))) {
    return {T(0), T(0)};
  }
  T slope = T(1);
  T distance = position - low;
  if (distance < T(0)) {
    slope = T(-1);
    distance = -distance;
  }
  const T flips = floor_of(distance / span);
  const T extra = clamp_between(distance - flips * span, T(0), span);
  const T half_flips = floor_of(flips * T(0.5));
  const bool even = half_flips * T(2) == flips;
  const Padded<T> inner = pad_border(even ? extra + low : (span - extra) + low, size);
  return {inner.position, inner.slope * (even ? slope : -slope)};
}

template <class T>
FASTALIGN_HD Padded<T> pad_position(T position, int64_t size, Padding padding, bool align_corners) {
  switch (padding) {
    case Padding::border:
      return pad_border(position, size);
    case Padding::reflection:
      return pad_reflection(position, size, align_corners);
    default:
      // Two pixels outside nothing is sampled: a clamp there keeps the integer conversion safe.
      return {clamp_between(position, T(-2), static_cast<T>(size) + T(1)), T(1)};
  }
}

}  // namespace fastalign

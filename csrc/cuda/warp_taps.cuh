// Where output pixels of a warp sample, in fixed-point arithmetic.
//
// Positions are 64-bit integers, pixels in the upper word and fractions of 2^-32 in the lower:
// x = xx*ox + xy*oy + x0. Such sums are exact whatever pixel they start from, so forward and
// backward agree to the bit on which pixel a sample belongs to, and steps to a neighbour are
// integer additions; floor() is a register, and no float64 work is left per pixel (1/64 of the
// rate on consumer chips). The coefficients come from doubles, once per block. Maps whose
// positions leave +-2^30 pixels (runaway training) take doubles per pixel instead; maps that are
// not finite answer NaN.
#pragma once

#include "../common/geometry.h"
#include "launch.h"
#include "launchers.h"
#include "values.h"

namespace fastalign::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int64_t kOnePixel = int64_t{1} << 32;
constexpr int64_t kHalfPixel = kOnePixel / 2;
constexpr int kChannelBlock = 4;              // channels whose loads are in flight together
constexpr double kFixedRange = 1073741824.0;  // pixels; axes are shorter than this

enum class MapKind : int32_t { fixed, wide, not_finite };

// x = xx*ox + xy*oy + x0 in fixed point.
struct FixedRow {
  int64_t by_x, by_y, offset;

  // Of an output pixel; unsigned factors take one multiplication less.
  FASTALIGN_DEVICE int64_t at(int32_t x, int32_t y) const {
    return by_x * static_cast<uint32_t>(x) + by_y * static_cast<uint32_t>(y) + offset;
  }
};

struct WarpMap {
  FixedRow x, y;
  AffinePixels exact;
  MapKind kind;
};

// What positions depend on besides the map.
struct WarpFrame {
  int32_t height, width;          // of the source
  int32_t out_height, out_width;  // of the output
  Interpolation mode;
  Padding padding;
  bool align_corners;
};

inline WarpFrame frame_of(const View4& x, const View4& out, Interpolation mode, Padding padding,
                          bool align_corners) {
  return {static_cast<int32_t>(x.height()),
          static_cast<int32_t>(x.width()),
          static_cast<int32_t>(out.height()),
          static_cast<int32_t>(out.width()),
          mode,
          padding,
          align_corners};
}

inline Error check_axes(const View4& x, const View4& out) {
  const int64_t limit = static_cast<int64_t>(kFixedRange);
  const bool fits =
      x.height() < limit && x.width() < limit && out.height() < limit && out.width() < limit;
  return fits ? nullptr : "warp_affine: an axis has 2^30 pixels or more";
}

FASTALIGN_DEVICE double magnitude(double value) { return value < 0 ? -value : value; }

FASTALIGN_DEVICE int64_t to_fixed(double pixels) {
  return static_cast<int64_t>(floor_of(pixels * 4294967296.0 + 0.5));
}

FASTALIGN_DEVICE FixedRow fixed_row(double by_x, double by_y, double offset) {
  return {to_fixed(by_x), to_fixed(by_y), to_fixed(offset)};
}

// How far from 0 positions along one axis of the source can come.
FASTALIGN_DEVICE double farthest(double by_x, double by_y, double offset, const WarpFrame& frame) {
  return magnitude(by_x) * frame.out_width + magnitude(by_y) * frame.out_height + magnitude(offset);
}

FASTALIGN_DEVICE MapKind kind_of(double bound) {
  // Written so that NaN is not finite. Beyond 1e300, sums could overflow.
  return bound < kFixedRange ? MapKind::fixed
                             : (bound < 1e300 ? MapKind::wide : MapKind::not_finite);
}

FASTALIGN_DEVICE double theta_entry(const Theta& theta, int64_t image, int row, int column) {
  const int64_t at = image * theta.stride[0] + row * theta.stride[1] + column * theta.stride[2];
  return theta.dtype == DType::float64
             ? static_cast<const double*>(theta.data)[at]
             : static_cast<double>(static_cast<const float*>(theta.data)[at]);
}

// Prepares one axis of the map: `axis` 0 is x, 1 is y; gives the bound of its positions.
FASTALIGN_DEVICE double prepare_axis(const Theta& theta, int64_t image, const WarpFrame& frame,
                                     int axis, WarpMap* map) {
  double* steps = axis == 0 ? &map->exact.xx : &map->exact.yx;
  double by_x, by_y, offset;
  affine_row(theta_entry(theta, image, axis, 0), theta_entry(theta, image, axis, 1),
             theta_entry(theta, image, axis, 2), frame.out_width, frame.out_height,
             axis == 0 ? frame.width : frame.height, frame.align_corners, &by_x, &by_y, &offset);
  steps[0] = by_x;
  steps[1] = by_y;
  steps[2] = offset;
  const double bound = farthest(by_x, by_y, offset, frame);
  if (bound < kFixedRange) {
    (axis == 0 ? map->x : map->y) = fixed_row(by_x, by_y, offset);
  }
  return bound;
}

// The map of one image into shared memory, by the first warp of the block, all of whose lanes call
// this; other warps see it after a barrier.
FASTALIGN_DEVICE void map_by_warp(const Theta& theta, int64_t image, const WarpFrame& frame,
                                  WarpMap* map) {
  double bound = 0;
  if (threadIdx.x < 2) {
    bound = prepare_axis(theta, image, frame, static_cast<int>(threadIdx.x), map);
  }
  const double other = __shfl_xor_sync(kAllLanes, bound, 1);
  if (threadIdx.x == 0) {
    map->kind = kind_of(bound + other);
  }
}

// The same; all threads of the block call this, and it ends with the barrier that makes the map
// visible.
FASTALIGN_DEVICE void prepare_map(const Theta& theta, int64_t image, const WarpFrame& frame,
                                  WarpMap* map) {
  if (threadIdx.x < 32) {
    map_by_warp(theta, image, frame, map);
  }
  __syncthreads();
}

// A position after padding, its derivative (0, 1, -1), and which mirror image it came from.
struct PaddedFixed {
  int64_t position;
  float slope;
  int32_t fold;
};

FASTALIGN_DEVICE PaddedFixed hold_at_border(int64_t position, int32_t size) {
  const int64_t last = static_cast<int64_t>(size - 1) * kOnePixel;
  if (position <= 0) {
    return {0, 0.0f, 0};
  }
  if (position >= last) {
    return {last, 0.0f, 0};
  }
  return {position, 1.0f, 0};
}

FASTALIGN_DEVICE PaddedFixed mirror(int64_t position, int32_t size, bool align_corners) {
  const int64_t low = align_corners ? 0 : -kHalfPixel;
  const uint32_t span = static_cast<uint32_t>(align_corners ? size - 1 : size);
  if (span == 0) {
    return {0, 0.0f, 0};
  }
  int64_t distance = position - low;
  const bool before = distance < 0;
  distance = before ? -distance : distance;
  const uint32_t whole = static_cast<uint32_t>(distance >> 32);
  const uint32_t flips = whole / span;
  const bool odd = (flips & 1u) != 0;
  const int64_t extra = (static_cast<int64_t>(whole - flips * span) << 32) |
                        static_cast<int64_t>(static_cast<uint32_t>(distance));
  const int64_t inner = odd ? static_cast<int64_t>(span) * kOnePixel - extra : extra;
  PaddedFixed padded = hold_at_border(inner + low, size);
  padded.slope = odd != before ? -padded.slope : padded.slope;
  padded.fold = before ? -1 - static_cast<int32_t>(flips) : static_cast<int32_t>(flips);
  return padded;
}

FASTALIGN_DEVICE PaddedFixed pad_fixed(int64_t position, int32_t size, const WarpFrame& frame) {
  if (frame.padding == Padding::border) {
    return hold_at_border(position, size);
  }
  if (frame.padding == Padding::reflection) {
    return mirror(position, size, frame.align_corners);
  }
  return {position, 1.0f, 0};
}

// One axis of a sample: the lower pixel of the two that it lies between, the share of the upper,
// and the slope of padding. Nearest: the pixel, and share is its weight (1 or NaN).
struct AxisSample {
  int32_t pixel;
  float share, slope;
  int32_t fold;
};

FASTALIGN_DEVICE float fraction(int64_t position) {
  return static_cast<float>(static_cast<uint32_t>(position)) * 2.3283064365386963e-10f;
}

FASTALIGN_DEVICE int32_t whole_pixels(int64_t position) {
  return static_cast<int32_t>(position >> 32);
}

// Rounds halves to the even pixel.
FASTALIGN_DEVICE int32_t nearest_pixel(int64_t position) {
  const int64_t raised = position + kHalfPixel;
  const int32_t pixel = whole_pixels(raised);
  return static_cast<uint32_t>(raised) == 0 ? pixel & ~1 : pixel;
}

FASTALIGN_DEVICE AxisSample fixed_axis(int64_t position, int32_t size, const WarpFrame& frame) {
  const PaddedFixed padded = pad_fixed(position, size, frame);
  if (frame.mode == Interpolation::nearest) {
    return {nearest_pixel(padded.position), 1.0f, 0.0f, padded.fold};
  }
  return {whole_pixels(padded.position), fraction(padded.position), padded.slope, padded.fold};
}

FASTALIGN_DEVICE AxisSample wide_axis(double position, int32_t size, const WarpFrame& frame) {
  const Padded<double> padded = pad_position(position, size, frame.padding, frame.align_corners);
  const double lower =
      frame.mode == Interpolation::nearest ? rint(padded.position) : floor_of(padded.position);
  const float share =
      frame.mode == Interpolation::nearest ? 1.0f : static_cast<float>(padded.position - lower);
  return {static_cast<int32_t>(lower), share, static_cast<float>(padded.slope), 0};
}

struct WarpSample {
  AxisSample x, y;
};

// The sample of output pixel (ox, oy), padded; taps may still lie outside (zeros).
FASTALIGN_DEVICE WarpSample sample_at(const WarpMap& map, const WarpFrame& frame, int32_t ox,
                                      int32_t oy) {
  if (map.kind == MapKind::fixed) {
    return {fixed_axis(map.x.at(ox, oy), frame.width, frame),
            fixed_axis(map.y.at(ox, oy), frame.height, frame)};
  }
  if (map.kind == MapKind::wide) {
    const double x = ox, y = oy;
    const AffinePixels& m = map.exact;
    return {wide_axis(m.xx * x + (m.xy * y + m.x0), frame.width, frame),
            wide_axis(m.yx * x + (m.yy * y + m.y0), frame.height, frame)};
  }
  const float nan = bits_to_float(0x7fc00000u);
  return {{0, nan, nan, 0}, {0, nan, nan, 0}};
}

// Which of the four taps exist: columns pixel, pixel + 1; rows likewise.
struct TapsInside {
  bool left, right, top, low;

  FASTALIGN_DEVICE bool all() const { return left && right && top && low; }
  // In the order of the taps.
  FASTALIGN_DEVICE void each(bool (&exists)[4]) const {
    exists[0] = top && left;
    exists[1] = top && right;
    exists[2] = low && left;
    exists[3] = low && right;
  }
};

FASTALIGN_DEVICE bool on_axis(int32_t pixel, int32_t size) {
  return static_cast<uint32_t>(pixel) < static_cast<uint32_t>(size);
}

FASTALIGN_DEVICE TapsInside taps_inside(int32_t column, int32_t row, const WarpFrame& frame) {
  return {on_axis(column, frame.width), on_axis(column + 1, frame.width),
          on_axis(row, frame.height), on_axis(row + 1, frame.height)};
}

// An input that nobody writes: such loads may overtake stores.
template <class T>
FASTALIGN_DEVICE float load_float(const T* from) {
  return load_vec<1, Cache::readonly>(from).as_float(0);
}

// Zeros where the tap does not exist.
template <int N, class T>
FASTALIGN_DEVICE Vec<T, N> load_where(bool exists, const T* from) {
  if (exists) {
    return load_vec<N, Cache::readonly>(from);
  }
  Vec<T, N> none;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    none[i] = T{};
  }
  return none;
}

// How the four taps of a sample lie in memory, in bytes: upper left, upper right, lower left,
// lower right. `Unit`: neighbouring columns are neighbours in memory.
template <class T, bool Unit>
struct QuadSteps {
  int64_t right, below, plane;

  explicit FASTALIGN_DEVICE QuadSteps(const View4& x)
      : right(Unit ? sizeof(T) : x.stride[3] * static_cast<int64_t>(sizeof(T))),
        below(x.stride[2] * static_cast<int64_t>(sizeof(T))),
        plane(x.stride[1] * static_cast<int64_t>(sizeof(T))) {}
};

// The taps of up to kChannelBlock channels; zeros where a tap does not exist, unless all do.
template <class T, bool Nearest, bool Checked, bool Unit>
FASTALIGN_DEVICE void load_quads(const char* corner, const QuadSteps<T, Unit>& steps,
                                 const bool (&exists)[4], int32_t count,
                                 float (&values)[kChannelBlock][4]) {
  const char* top = corner;
  const char* low = corner + steps.below;
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    const char* const at[4] = {top, top + (Unit ? static_cast<int64_t>(sizeof(T)) : steps.right),
                               low, low + (Unit ? static_cast<int64_t>(sizeof(T)) : steps.right)};
#pragma unroll
    for (int k = 0; k < (Nearest ? 1 : 4); ++k) {
      values[c][k] = 0.0f;
      if (c < count && (!Checked || exists[k])) {
        values[c][k] = load_float(reinterpret_cast<const T*>(at[k]));
      }
    }
    top += steps.plane;
    low += steps.plane;
  }
}

template <class T>
FASTALIGN_DEVICE T* plane_at(const View4& view, int64_t image, int64_t channel) {
  return static_cast<T*>(view.data) + image * view.stride[0] + channel * view.stride[1];
}

}  // namespace fastalign::cuda

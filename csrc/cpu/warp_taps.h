// The general form of a warp: every output pixel is a short list of source taps.
//
// Serves all dtypes, layouts, modes and paddings; warp_lanes.h is the fast special case. Positions
// are computed in double from the pixel map, in one expression that forward and backward share, so
// that both agree on which pixel a nearest sample or a border belongs to.
#pragma once

#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kRun = 64;  // output pixels prepared at a time

struct Position {
  double x, y;
};

FASTALIGN_INLINE Position position_of(const AffinePixels& map, int64_t ox, int64_t oy) {
  const double x = static_cast<double>(ox), y = static_cast<double>(oy);
  return {map.xx * x + (map.xy * y + map.x0), map.yx * x + (map.yy * y + map.y0)};
}

// Within the pixel centres of the source: padding leaves such a sample alone.
FASTALIGN_INLINE bool is_inside(const Position& at, int64_t height, int64_t width) {
  return at.x >= 0 && at.x <= static_cast<double>(width - 1) && at.y >= 0 &&
         at.y <= static_cast<double>(height - 1);
}

FASTALIGN_INLINE bool is_finite(const AffinePixels& m) {
  const double sum = m.xx + m.xy + m.x0 + m.yx + m.yy + m.y0;
  return sum - sum == 0;
}

struct Sampling {
  int64_t height, width;  // of the source
  Interpolation mode;
  Padding padding;
  bool align_corners;
};

// Up to four taps: row and column in the source, weight, and its derivatives by position.
template <class A>
struct Taps {
  int count;
  int64_t row[4], column[4];
  A weight[4], by_x[4], by_y[4];
};

template <class A>
FASTALIGN_INLINE void add_tap(Taps<A>& taps, const Sampling& s, int64_t row, int64_t column,
                              double weight, double by_x, double by_y) {
  if (row < 0 || row >= s.height || column < 0 || column >= s.width) {
    return;
  }
  const int n = taps.count++;
  taps.row[n] = row;
  taps.column[n] = column;
  taps.weight[n] = static_cast<A>(weight);
  taps.by_x[n] = static_cast<A>(by_x);
  taps.by_y[n] = static_cast<A>(by_y);
}

template <class A>
FASTALIGN_INLINE Taps<A> taps_at(const Position& at, const Sampling& s) {
  Taps<A> taps;
  taps.count = 0;
  if (!(at.x - at.x == 0 && at.y - at.y == 0)) {  // NaN or infinity shows in the result
    const double nan = __builtin_nan("");
    add_tap(taps, s, 0, 0, nan, nan, nan);
    return taps;
  }
  const Padded<double> x = pad_position(at.x, s.width, s.padding, s.align_corners);
  const Padded<double> y = pad_position(at.y, s.height, s.padding, s.align_corners);
  if (s.mode == Interpolation::nearest) {
    add_tap(taps, s, static_cast<int64_t>(__builtin_nearbyint(y.position)),
            static_cast<int64_t>(__builtin_nearbyint(x.position)), 1.0, 0.0, 0.0);
    return taps;
  }
  const double left = floor_of(x.position), top = floor_of(y.position);
  const double right_share = x.position - left, low_share = y.position - top;
  const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
  add_tap(taps, s, row, column, (1 - low_share) * (1 - right_share), -x.slope * (1 - low_share),
          -y.slope * (1 - right_share));
  add_tap(taps, s, row, column + 1, (1 - low_share) * right_share, x.slope * (1 - low_share),
          -y.slope * right_share);
  add_tap(taps, s, row + 1, column, low_share * (1 - right_share), -x.slope * low_share,
          y.slope * (1 - right_share));
  add_tap(taps, s, row + 1, column + 1, low_share * right_share, x.slope * low_share,
          y.slope * right_share);
  return taps;
}

// A weighted list of elements for each pixel of a run, in the order of summation.
template <class A>
struct Entry {
  int64_t offset;
  A weight;
};

// Sums entries into one run of pixels for channels [begin, end): pixel i takes
// entries[start[i] .. start[i + 1]).
template <class S>
void sum_entries(const S* from, int64_t from_channel, const Entry<Acc<S>>* entries,
                 const int32_t* start, int64_t pixels, S* to, int64_t to_channel, int64_t to_pixel,
                 int64_t begin, int64_t end) {
  using A = Acc<S>;
  if (from_channel == 1 && to_channel == 1) {
    for (int64_t i = 0; i < pixels; ++i) {
      S* out = to + i * to_pixel;
      int64_t c = begin;
      for (; c + kLanes<A> <= end; c += kLanes<A>) {
        Vec<A> sum{};
        for (int32_t e = start[i]; e < start[i + 1]; ++e) {
          sum += load_acc(from + entries[e].offset + c) * splat(entries[e].weight);
        }
        store_acc(out + c, sum);
      }
      for (; c < end; ++c) {
        A sum = 0;
        for (int32_t e = start[i]; e < start[i + 1]; ++e) {
          sum += to_acc(from[entries[e].offset + c]) * entries[e].weight;
        }
        out[c] = from_acc<S>(sum);
      }
    }
    return;
  }
  for (int64_t c = begin; c < end; ++c) {
    const S* plane = from + c * from_channel;
    S* out = to + c * to_channel;
    for (int64_t i = 0; i < pixels; ++i) {
      A sum = 0;
      for (int32_t e = start[i]; e < start[i + 1]; ++e) {
        sum += to_acc(plane[entries[e].offset]) * entries[e].weight;
      }
      out[i * to_pixel] = from_acc<S>(sum);
    }
  }
}

// Warps `count` <= kRun output pixels of one row.
template <class S>
void warp_run(const WarpAffineArgs& args, int64_t image, int64_t oy, int64_t ox, int64_t count) {
  using A = Acc<S>;
  const Sampling s{args.x.height(), args.x.width(), args.mode, args.padding, args.align_corners};
  const int64_t row_stride = args.x.stride[2], pixel_stride = args.x.stride[3];
  Entry<A> entries[4 * kRun];
  int32_t start[kRun + 1];
  int32_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    start[i] = n;
    const Taps<A> taps = taps_at<A>(position_of(args.maps[image], ox + i, oy), s);
    for (int k = 0; k < taps.count; ++k) {
      entries[n++] = {taps.row[k] * row_stride + taps.column[k] * pixel_stride, taps.weight[k]};
    }
  }
  start[count] = n;
  sum_entries<S>(
      plane_of<S>(args.x, image, 0), args.x.stride[1], entries, start, count,
      plane_of<S>(args.out, image, 0) + oy * args.out.stride[2] + ox * args.out.stride[3],
      args.out.stride[1], args.out.stride[3], 0, args.x.channels());
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

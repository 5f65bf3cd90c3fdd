// Gradient of a warp to pixels that many output pixels may touch, or of maps without an inverse.
//
// Idea. A warp of lanes per pixel and block of channels. Along an output row the position is
// linear, so the output pixels that may touch a pixel are one interval of each row, for singular
// and runaway maps too. Four rows of eight lanes go through the intervals, every candidate is
// judged by the forward's own arithmetic, and the lanes' sums are added in a fixed order. With
// reflection each mirrored copy of the image has its intervals; if the copies are too many to
// count, all output pixels are candidates.
//
// Used for the outer pixels under border padding, on which all that lies outside lands, and under
// reflection, and for whole images whose map the gathering kernels leave out. With nothing to sweep
// the kernel reads one number and ends.
//
// Bytes: grad once per candidate, mostly from caches; dx once. A fallback that has to be right for
// every map and bounded in time rather than fast: per pixel it costs the output rows within reach,
// and with copies that cannot be counted the whole output, seconds for a megapixel. The intervals,
// and the positions of runaway maps, are the only float64 work per row or candidate of a warp.

#pragma once

#include "warp_plan.cuh"

namespace fastalign::cuda {

constexpr int kSweepThreads = 128;
constexpr int kSweepChannels = 8;
constexpr int kSweepRows = 4, kSweepColumns = 8;  // of lanes

// Positions along one axis that reach a pixel.
struct Reach {
  double low, high;
};

FASTALIGN_DEVICE Reach reach_of(int32_t pixel, int32_t fold, int32_t size, double low, double high,
                                const WarpPlan& plan, const WarpFrame& frame) {
  const Reach all{low - 1, high + 1};
  const int32_t span = fold_span(size, frame.align_corners);
  const bool folded = frame.padding == Padding::reflection;
  if (folded && (plan.folds_counted == 0 || span == 0)) {
    return all;
  }
  const double at = static_cast<double>(folded ? unfolded(pixel, fold, size, span) : pixel);
  const double slack = 1e-6 + 2.4e-10 * (static_cast<double>(frame.out_width) + frame.out_height);
  const bool border = frame.padding == Padding::border;
  Reach reach{at - 1 - slack, at + 1 + slack};
  reach.low = border && pixel == 0 ? all.low : greater(reach.low, all.low);
  reach.high = border && pixel == size - 1 ? all.high : lesser(reach.high, all.high);
  return reach;
}

struct Interval {
  double first, last;
};

// Narrows an interval to the integers i near which low < slope * i + start < high.
FASTALIGN_DEVICE void narrow(double slope, double start, const Reach& reach, Interval* interval) {
  const double slack = 1e-12 * magnitude(start);
  const double low = reach.low - start - slack, high = reach.high - start + slack;
  if (slope == 0) {
    if (!(low < 0 && high > 0)) {
      interval->last = interval->first;
    }
    return;
  }
  const double one = low / slope, other = high / slope;
  interval->first = greater(interval->first, floor_of(lesser(one, other)) - 1);
  interval->last = lesser(interval->last, floor_of(greater(one, other)) + 3);
}

// Output rows outside of which nothing reaches: corners of the reach under the inverse.
FASTALIGN_DEVICE Interval rows_of(const AffinePixels& m, const Reach& x, const Reach& y,
                                  const WarpFrame& frame) {
  Interval rows{0, static_cast<double>(frame.out_height)};
  if (!well_conditioned(m)) {
    return rows;
  }
  const double determinant = determinant_of(m);
  const double left = m.yx * (x.low - m.x0), right = m.yx * (x.high - m.x0);
  const double top = m.xx * (y.low - m.y0), low = m.xx * (y.high - m.y0);
  const double one = (lesser(top, low) - greater(left, right)) / determinant;
  const double other = (greater(top, low) - lesser(left, right)) / determinant;
  rows.first = greater(rows.first, floor_of(lesser(one, other)) - 2);
  rows.last = lesser(rows.last, floor_of(greater(one, other)) + 3);
  return rows;
}

struct SweptPixel {
  int32_t column, row;
  int64_t image;
  int32_t channel, count;  // of channels, up to kSweepChannels
};

template <class T>
FASTALIGN_DEVICE void sweep_rows(const WarpBackwardParams& p, const WarpPlan& plan,
                                 const SweptPixel& pixel, Folds fold, const Interval& rows,
                                 const Reach& x, const Reach& y, float (&sums)[kSweepChannels]) {
  const bool nearest = p.frame.mode == Interpolation::nearest;
  const bool folded = p.frame.padding == Padding::reflection && plan.folds_counted != 0;
  const AffinePixels& m = plan.map.exact;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T* grad = plane_at<const T>(p.grad, pixel.image, pixel.channel);
  const int32_t end = static_cast<int32_t>(rows.last);
  for (int32_t oy = static_cast<int32_t>(rows.first) + lane / kSweepColumns; oy < end;
       oy += kSweepRows) {
    Interval columns{0, static_cast<double>(p.frame.out_width)};
    narrow(m.xx, m.xy * oy + m.x0, x, &columns);
    narrow(m.yx, m.yy * oy + m.y0, y, &columns);
    if (!(columns.first < columns.last)) {
      continue;
    }
    const int32_t last = static_cast<int32_t>(columns.last);
    for (int32_t ox = static_cast<int32_t>(columns.first) + lane % kSweepColumns; ox < last;
         ox += kSweepColumns) {
      const WarpSample s = sample_at(plan.map, p.frame, ox, oy);
      const float weight = share_of(s.x, pixel.column, nearest) * share_of(s.y, pixel.row, nearest);
      const bool here = !folded || (s.x.fold == fold.first && s.y.fold == fold.last);
      if (here && weight > 0.0f) {
        const T* from = grad + (oy * p.grad.stride[2] + ox * p.grad.stride[3]);
#pragma unroll
        for (int c = 0; c < kSweepChannels; ++c) {
          if (c < pixel.count) {
            sums[c] = fmaf(to_float(from[c * p.grad.stride[1]]), weight, sums[c]);
          }
        }
      }
    }
  }
}

template <class T>
FASTALIGN_DEVICE void sweep_pixel(const WarpBackwardParams& p, const WarpPlan& plan,
                                  const SweptPixel& pixel) {
  float sums[kSweepChannels] = {};
  if (plan.map.kind == MapKind::not_finite) {
    // Shows at the first pixel of its image only.
    const bool first = pixel.column == 0 && pixel.row == 0;
    sums[0] = first ? bits_to_float(0x7fc00000u) : 0.0f;
#pragma unroll
    for (int c = 1; c < kSweepChannels; ++c) {
      sums[c] = sums[0];
    }
  } else {
    for (int32_t fold_y = plan.folds_y.first; fold_y <= plan.folds_y.last; ++fold_y) {
      const Reach y =
          reach_of(pixel.row, fold_y, p.frame.height, plan.low_y, plan.high_y, plan, p.frame);
      for (int32_t fold_x = plan.folds_x.first; fold_x <= plan.folds_x.last; ++fold_x) {
        const Reach x =
            reach_of(pixel.column, fold_x, p.frame.width, plan.low_x, plan.high_x, plan, p.frame);
        if (!(x.low < x.high && y.low < y.high)) {
          continue;  // the output stays away from the pixel
        }
        const Interval rows = rows_of(plan.map.exact, x, y, p.frame);
        if (rows.first < rows.last) {
          sweep_rows<T>(p, plan, pixel, {fold_x, fold_y}, rows, x, y, sums);
        }
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int c = 0; c < kSweepChannels; ++c) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sums[c] += __shfl_xor_sync(kAllLanes, sums[c], step);
    }
  }
  if (threadIdx.x % 32 == 0) {
    T* to = plane_at<T>(p.dx, pixel.image, pixel.channel) +
            (pixel.row * p.dx.stride[2] + pixel.column * p.dx.stride[3]);
#pragma unroll
    for (int c = 0; c < kSweepChannels; ++c) {
      if (c < pixel.count) {
        to[c * p.dx.stride[1]] = from_float<T>(sums[c]);
      }
    }
  }
}

// Number of outer pixels of an image, and one of them: the first row, the last, then the sides.
FASTALIGN_DEVICE int64_t ring_size(const WarpFrame& f) {
  const int64_t all = static_cast<int64_t>(f.width) * f.height;
  return f.width <= 2 || f.height <= 2 ? all : 2 * (static_cast<int64_t>(f.width) + f.height) - 4;
}

FASTALIGN_DEVICE TilePlace ring_pixel(int64_t index, const WarpFrame& f) {
  if (f.width <= 2 || f.height <= 2 || index < f.width) {
    return {static_cast<int32_t>(index % f.width), static_cast<int32_t>(index / f.width)};
  }
  index -= f.width;
  if (index < f.width) {
    return {static_cast<int32_t>(index), f.height - 1};
  }
  index -= f.width;
  return {(index & 1) != 0 ? f.width - 1 : 0, static_cast<int32_t>(1 + index / 2)};
}

template <class T>
FASTALIGN_KERNEL(kSweepThreads, 3)
sweep(const WarpBackwardParams p) {
  if (static_cast<const PlanHeader*>(p.scratch)->any_swept == 0) {
    return;
  }
  const WarpPlan* plans = plans_of(p.scratch);
  const int32_t channels = static_cast<int32_t>(p.dx.size[1]);
  const int32_t chunks = (channels + kSweepChannels - 1) / kSweepChannels;
  constexpr int kWarps = kSweepThreads / 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t image = 0; image < p.dx.size[0]; ++image) {
    const WarpPlan& plan = plans[image];
    const bool ring = plan.gathered != 0;
    if (ring && p.frame.padding == Padding::zeros) {
      continue;
    }
    const int64_t pixels =
        ring ? ring_size(p.frame) : static_cast<int64_t>(p.frame.width) * p.frame.height;
    for (int64_t task = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
         task < pixels * chunks; task += step) {
      const int64_t index = task / chunks;
      const TilePlace at = ring ? ring_pixel(index, p.frame)
                                : TilePlace{static_cast<int32_t>(index % p.frame.width),
                                            static_cast<int32_t>(index / p.frame.width)};
      const int32_t channel = static_cast<int32_t>(task % chunks) * kSweepChannels;
      sweep_pixel<T>(p, plan, {at.x, at.y, image, channel, channels - channel});
    }
  }
}

}  // namespace fastalign::cuda

// What the backward kernels know of each map before they look at pixels: its fixed-point rows, its
// inverse, and which of the two ways the gradient of the image goes.
//
// Usual maps are gathered (warp_gather.cuh): the output pixels that touch a pixel lie in a small
// box around its image under the inverse map. Reflection unfolds the plane into mirrored copies of
// the image, each with its own box. The rest is swept (warp_sweep.cuh): singular, runaway or
// extremely magnifying maps, and with border padding or reflection the outer pixels of every image,
// on which samples from outside are held.
#pragma once

#include "warp_tiles.cuh"

namespace fastalign::cuda {

// Copies of the image along one axis that positions fall into, first and last.
struct Folds {
  int32_t first, last;
};

struct WarpPlan {
  WarpMap map;
  FixedRow column, row;                 // output column and row of a position
  int64_t half_width, half_height;      // of the box of output pixels that touch a pixel
  double low_x, high_x, low_y, high_y;  // positions of the whole output
  Folds folds_x, folds_y;
  int32_t box_width, box_height;  // pixels across and down that hold any such box
  int32_t boxed;          // every candidate lies in the one box, and near enough for 32 bits
  int32_t gathered;       // pixels are gathered, but the outer ones unless padded with zeros
  int32_t folds_counted;  // the folds are few enough to be walked through
};

constexpr int32_t kUsualBox = 3;      // pixels across and down at scale 1, whatever the turn
constexpr double kNearEnough = 31.0;  // pixels from one that is touched
constexpr double kFewFolds = 64.0;
constexpr double kMostCandidates = 1024.0;   // of a pixel; beyond, lanes share a pixel
constexpr int32_t kLargestGathered = 65536;  // output axes: coordinates are stored in 16 bits

// The first bytes of scratch, before the plans.
struct PlanHeader {
  int32_t any_swept;
};
constexpr int64_t kPlanHeaderBytes = 256;

inline int64_t plans_bytes(int64_t batch) {
  return kPlanHeaderBytes + ceil_div(batch * static_cast<int64_t>(sizeof(WarpPlan)), 256) * 256;
}

FASTALIGN_DEVICE double lesser(double a, double b) { return a < b ? a : b; }
FASTALIGN_DEVICE double greater(double a, double b) { return a > b ? a : b; }

FASTALIGN_DEVICE int32_t fold_span(int32_t size, bool align_corners) {
  return align_corners ? size - 1 : size;
}

// Where pixel `pixel` of the image lies in copy `fold`, odd copies being mirrored.
FASTALIGN_DEVICE int32_t unfolded(int32_t pixel, int32_t fold, int32_t size, int32_t span) {
  const int32_t start = fold * span;
  return start + ((fold & 1) != 0 ? size - 1 - pixel : pixel);
}

// Whether they can be counted at all.
FASTALIGN_DEVICE bool count_folds(double low, double high, int32_t size, const WarpFrame& frame,
                                  Folds* folds) {
  *folds = {0, 0};
  const int32_t span = fold_span(size, frame.align_corners);
  if (frame.padding != Padding::reflection || span == 0) {
    return true;
  }
  const double start = frame.align_corners ? 0.0 : -0.5, slack = 1e-4;
  const double first = floor_of((low - start - slack) / span);
  const double last = floor_of((high - start + slack) / span);
  // Copies of the plane stay below 2^30 pixels.
  if (!(first > -1e6 && last < 1e6 && magnitude(first - 1) * span < kFixedRange &&
        magnitude(last + 1) * span < kFixedRange)) {
    return false;
  }
  *folds = {static_cast<int32_t>(first), static_cast<int32_t>(last)};
  return true;
}

FASTALIGN_DEVICE void extent(double by_x, double by_y, double offset, const WarpFrame& frame,
                             double* low, double* high) {
  const double across = by_x * (frame.out_width - 1), down = by_y * (frame.out_height - 1);
  *low = offset + (lesser(across, 0.0) + lesser(down, 0.0));
  *high = offset + (greater(across, 0.0) + greater(down, 0.0));
}

FASTALIGN_DEVICE double determinant_of(const AffinePixels& m) { return m.xx * m.yy - m.xy * m.yx; }

// The inverse is good enough to find candidates by it.
FASTALIGN_DEVICE bool well_conditioned(const AffinePixels& m) {
  const double size = (m.xx * m.xx + m.xy * m.xy) + (m.yx * m.yx + m.yy * m.yy);
  return magnitude(determinant_of(m)) > 1e-6 * size;
}

// Fills in the inverse; false if pixels cannot be gathered by it.
FASTALIGN_DEVICE bool invert(const WarpFrame& frame, bool gatherable, WarpPlan* plan) {
  const AffinePixels& m = plan->map.exact;
  const bool small = frame.height <= (1 << 20) && frame.width <= (1 << 20) &&
                     frame.out_height <= kLargestGathered && frame.out_width <= kLargestGathered;
  if (!gatherable || plan->map.kind != MapKind::fixed || !plan->folds_counted || !small ||
      !well_conditioned(m)) {
    return false;
  }
  const double determinant = determinant_of(m);
  const double xx = m.yy / determinant, xy = -m.xy / determinant;
  const double yx = -m.yx / determinant, yy = m.xx / determinant;
  const double x0 = -(xx * m.x0 + xy * m.y0), y0 = -(yx * m.x0 + yy * m.y0);
  const double reach = frame.mode == Interpolation::nearest ? 0.5 : 1.0, slack = 1.0 / 256;
  const double half_width = (magnitude(xx) + magnitude(xy)) * reach + slack;
  const double half_height = (magnitude(yx) + magnitude(yy)) * reach + slack;
  const double far_x = greater(magnitude(plan->low_x), magnitude(plan->high_x)) + 2.0 * frame.width;
  const double far_y =
      greater(magnitude(plan->low_y), magnitude(plan->high_y)) + 2.0 * frame.height;
  // Rounding of the inverse must stay within the slack.
  const double far = (magnitude(xx) + magnitude(yx)) * far_x +
                     (magnitude(xy) + magnitude(yy)) * far_y + (magnitude(x0) + magnitude(y0));
  if (!(far < 16777216.0 && 4 * half_width * half_height < kMostCandidates)) {
    return false;
  }
  plan->column = fixed_row(xx, xy, x0);
  plan->row = fixed_row(yx, yy, y0);
  plan->half_width = to_fixed(half_width);
  plan->half_height = to_fixed(half_height);
  plan->box_width = greater(static_cast<int32_t>(2 * half_width) + 1, kUsualBox);
  plan->box_height = greater(static_cast<int32_t>(2 * half_height) + 1, kUsualBox);
  const double across = half_width + 1, down = half_height + 1;
  const bool near = magnitude(m.xx) * across + magnitude(m.xy) * down < kNearEnough &&
                    magnitude(m.yx) * across + magnitude(m.yy) * down < kNearEnough;
  const bool flat = plan->folds_x.first == 0 && plan->folds_x.last == 0 &&
                    plan->folds_y.first == 0 && plan->folds_y.last == 0;
  plan->boxed = near && flat ? 1 : 0;
  return true;
}

FASTALIGN_DEVICE void make_plan(const Theta& theta, int64_t image, const WarpFrame& frame,
                                bool gatherable, WarpPlan* plan) {
  const double bound = prepare_axis(theta, image, frame, 0, &plan->map) +
                       prepare_axis(theta, image, frame, 1, &plan->map);
  plan->map.kind = kind_of(bound);
  const AffinePixels& m = plan->map.exact;
  extent(m.xx, m.xy, m.x0, frame, &plan->low_x, &plan->high_x);
  extent(m.yx, m.yy, m.y0, frame, &plan->low_y, &plan->high_y);
  const bool counted_x = count_folds(plan->low_x, plan->high_x, frame.width, frame, &plan->folds_x);
  const bool counted_y =
      count_folds(plan->low_y, plan->high_y, frame.height, frame, &plan->folds_y);
  const double copies = static_cast<double>(plan->folds_x.last - plan->folds_x.first + 1) *
                        (plan->folds_y.last - plan->folds_y.first + 1);
  // Walking through the copies must be less than walking through the output.
  const bool few =
      copies <= kFewFolds || 16 * copies <= static_cast<double>(frame.out_width) * frame.out_height;
  plan->folds_counted = plan->map.kind == MapKind::fixed && counted_x && counted_y && few ? 1 : 0;
  if (plan->folds_counted == 0) {
    plan->folds_x = plan->folds_y = {0, 0};
  }
  plan->gathered = invert(frame, gatherable, plan) ? 1 : 0;
}

FASTALIGN_DEVICE WarpPlan* plans_of(void* scratch) {
  return reinterpret_cast<WarpPlan*>(static_cast<unsigned char*>(scratch) + kPlanHeaderBytes);
}

constexpr int kPlanThreads = 128;

// One block: a thread per image, and whether any image is swept.
FASTALIGN_KERNEL(kPlanThreads)
make_plans(const Theta theta, const WarpFrame frame, int64_t batch, bool gatherable,
           void* scratch) {
  FASTALIGN_DYNAMIC_SHARED(int32_t, swept);
  WarpPlan* plans = plans_of(scratch);
  int32_t mine = frame.padding == Padding::zeros ? 0 : 1;
  for (int64_t image = threadIdx.x; image < batch; image += kPlanThreads) {
    WarpPlan plan{};
    make_plan(theta, image, frame, gatherable, &plan);
    plans[image] = plan;
    mine |= plan.gathered == 0 ? 1 : 0;
  }
  swept[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kPlanThreads; ++i) {
      mine |= swept[i];
    }
    static_cast<PlanHeader*>(scratch)->any_swept = mine;
  }
}

// A plan, or the map that it begins with, into shared memory; all threads of the block call this,
// and it ends with the barrier that makes the copy visible.
template <class Part>
FASTALIGN_DEVICE void copy_plan(const void* scratch, int64_t image, Part* to) {
  static_assert(sizeof(Part) % sizeof(uint32_t) == 0);
  const WarpPlan* plan = reinterpret_cast<const WarpPlan*>(
                             static_cast<const unsigned char*>(scratch) + kPlanHeaderBytes) +
                         image;
  const uint32_t* from = reinterpret_cast<const uint32_t*>(plan);
  for (unsigned i = threadIdx.x; i < sizeof(Part) / sizeof(uint32_t); i += blockDim.x) {
    reinterpret_cast<uint32_t*>(to)[i] = from[i];
  }
  __syncthreads();
}

struct WarpBackwardParams {
  View4 grad, x, dx;
  WarpFrame frame;
  WarpTiling tiling;
  void* scratch;
  int32_t capacity;       // candidates that a pixel's list holds
  int32_t shared_floats;  // of patches, or of the lists in their place
  // Output pixel (ox, oy) lies (oy * where_row + ox * where_column) * where_unit elements from the
  // start of a plane of grad; the factors fit 32 bits, else nothing is gathered.
  int32_t where_unit;
  uint32_t where_row, where_column;
};

// Outer pixels, which padding with the border or reflection gives samples from outside.
FASTALIGN_DEVICE bool swept_outside(int32_t column, int32_t row, const WarpFrame& frame) {
  return frame.padding != Padding::zeros &&
         (column == 0 || row == 0 || column == frame.width - 1 || row == frame.height - 1);
}

// The weight that a sample gives to a pixel along one axis.
FASTALIGN_DEVICE float share_of(const AxisSample& sample, int32_t pixel, bool nearest) {
  if (sample.pixel == pixel) {
    return nearest ? 1.0f : 1.0f - sample.share;
  }
  return !nearest && sample.pixel + 1 == pixel ? sample.share : 0.0f;
}

}  // namespace fastalign::cuda

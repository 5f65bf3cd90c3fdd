// Which variant of dense_similarity serves a call, and how wide its tiles are. Host code.
#pragma once

#include "dense_task.cuh"
#include "device.h"

namespace fastalign::cuda {

struct DensePlan {
  bool vectors, channels_last;  // vectors; along channels
  bool channels_first;          // without vectors: the order of lanes
  bool held, staged, spill;     // see DenseTask
  int lanes, steps, locations, warps;
  int64_t tiles, shared, spilled;
};

// Whether all strides but `unit`'s, of dimensions that are stepped over, are whole vectors.
inline bool dense_whole_vectors(const View4& view, int unit, int64_t bytes, int64_t element) {
  bool whole = vector_aligned(bytes, view.data);
  for (int d = 0; d < 4; ++d) {
    whole = whole && (d == unit || view.size[d] == 1 || view.stride[d] * element % bytes == 0);
  }
  return whole;
}

inline bool dense_vectors_along_channels(const View4& view, int64_t element) {
  return view.channels() * element % 16 == 0 && view.stride[1] == 1 &&
         dense_whole_vectors(view, 1, 16, element);
}

// Locations of a plane in one run, or rows of whole vectors.
inline bool dense_vectors_along_pixels(const View4& view, int64_t element) {
  const bool flat = view.height() == 1 || view.stride[2] == view.width();
  const int64_t run = flat ? view.pixels() : view.width();
  View4 planes = view;
  planes.size[2] = flat ? 1 : view.height();
  return run % 4 == 0 && view.stride[3] == 1 &&
         dense_whole_vectors(planes, 3, 4 * element, element);
}

template <class Test>
bool dense_all_views(const DenseSimilarityArgs& args, int64_t element, Test&& test) {
  const bool inputs = test(args.p, element) && test(args.z, element);
  return inputs && (args.dp.data == nullptr || test(args.dp, element)) &&
         (args.dz.data == nullptr || test(args.dz, element));
}

// Values of the field `rows`: what of z and p stays in shared memory.
constexpr int kPlainRows = 1, kHeldRows = 2;

// An estimate of time, up to a factor: narrow tiles, short rows of channels, too few warps to load
// while others compute, multiprocessors without a block, and sweeps that read L2. Each factor has
// beside it what was measured, on one H200 where nothing else is said
// (benchmarks/results/gpu/nvidia-h200-counters.md), else what it was counted from. No factor was
// timed alone; the way to do so, for all plans and shapes:
//   python benchmarks/ops.py --device cuda --only "dense_similarity, loss"
//       --plan "dense_similarity.cuda: lanes, rows"
inline double dense_cost(const DensePlan& plan, const Device& device) {
  double cost = 1.0;
  if (plan.channels_last) {
    // Neighbouring bytes that a warp's load touches. Loads alone, H100, as QuACK's notes have it:
    // 550 GB/s in runs of 16 bytes, 1466 of 32, 2748 of 64, 2679 of 128, so 4.9 and 1.8 times.
    // Estimated lower, since no call took more than half of the memory's peak.
    const int row = plan.lanes * 16;
    cost *= row < 32 ? 1.6 : row < 64 ? 1.2 : 1.0;
    // Estimate, from counts: a step is 16 bytes of a lane, and whatever the steps, the sums over
    // lanes take log2(lanes) shuffles for each value.
    cost *= plan.steps < 2 ? 2.0 : plan.steps < 4 ? 1.5 : plan.steps < 8 ? 1.15 : 1.0;
  } else {
    // Rows of 4 and 8 float32 locations are runs of 16 and 32 bytes: as above. Of equal bytes,
    // 8x256x64x64 float32, NCHW in tiles of 8 took 65.7 us and channels_last 37.9: 1.7 times.
    cost *= plan.locations < 8 ? 1.9 : plan.locations < 16 ? 1.35 : 1.0;
  }
  // Bandwidth times latency is some 25 KB under way a multiprocessor. Of equal bytes, float32 took
  // 58.8 us with 8 warps of a multiprocessor active (8x256x64x64) and 36.0 with 22 (8x64x128x128):
  // 1.6 times, narrower tiles included. Below 8: an estimate.
  const int64_t by_shared = device.shared_bytes / (plan.shared + 1024);
  const int64_t warps = by_shared * plan.warps;
  cost *= warps < 8 ? 2.0 : warps < 16 ? 1.2 : warps < 24 ? 1.1 : 1.0;
  // 64 blocks for 132 multiprocessors, 32x256x16x16: 1.42 us for each MB that must move, against
  // 0.58 where the grid fills the chip, 8x256x64x64. That is 2.4 times, and 132 / 64 is 2.1.
  if (plan.tiles < device.multiprocessors) {
    cost *= static_cast<double>(device.multiprocessors) / static_cast<double>(plan.tiles);
  }
  // Estimates, from counts: of 3 N bytes, p is swept once more where it is not staged, z twice more
  // where it is not held, both mostly from L2.
  return cost * (plan.staged ? 1.0 : 1.5) * (plan.held ? 1.0 : 1.3);
}

// The plan with `lanes` lanes sharing a location.
inline DensePlan dense_plan_with(DensePlan plan, const DenseSimilarityArgs& args, int64_t element,
                                 int lanes, bool held, bool staged) {
  const int64_t vector = plan.channels_last ? 16 / element : plan.vectors ? 4 : 1;
  const int64_t per_step = lanes * (plan.channels_last ? vector : 1);
  plan.lanes = lanes;
  plan.steps = static_cast<int>(ceil_div(args.p.channels(), per_step));
  plan.locations = 32 / lanes * static_cast<int>(plan.channels_last ? 1 : vector);
  plan.tiles = ceil_div(args.p.pixels(), plan.locations);
  plan.held = held;
  plan.staged = staged;
  plan.warps = static_cast<int>(args.p.batch() < 8 ? args.p.batch() : 8);
  const DenseShared layout =
      dense_shared(args.p.batch(), plan.warps, plan.steps, plan.locations, vector, element, held,
                   staged, args.dz.data != nullptr, plan.spill);
  plan.shared = layout.bytes;
  plan.spilled = plan.spill ? layout.spilled : 0;
  return plan;
}

inline DensePlan dense_plan_of_any_strides(const DenseSimilarityArgs& args, int64_t element,
                                           const Device& device) {
  DensePlan kind{};
  kind.channels_first = args.p.stride[1] == 1 && args.p.stride[3] != 1;
  const int lanes =
      forced_or(args.forced, PlanField::dense_similarity_cuda_lanes, kind.channels_first ? 32 : 4);
  const int rows = forced(args.forced, PlanField::dense_similarity_cuda_rows);
  const DensePlan held = dense_plan_with(kind, args, element, lanes, true, false);
  if (rows == 0 ? held.shared <= device.shared_bytes / 2
                : rows == kHeldRows && held.shared <= device.shared_bytes) {
    return held;
  }
  if (rows > kPlainRows) {
    return DensePlan{};  // staged rows are whole vectors
  }
  const DensePlan plain = dense_plan_with(kind, args, element, lanes, false, false);
  if (plain.shared <= device.shared_bytes) {
    return plain;
  }
  kind.spill = true;
  return dense_plan_with(kind, args, element, lanes, false, false);
}

// lanes == 0: what is forced does not fit.
inline DensePlan dense_plan(const DenseSimilarityArgs& args, const Device& device) {
  const int64_t element = args.p.dtype == DType::float32 ? 4 : 2;
  const bool one_channel = args.p.channels() == 1;
  DensePlan kind{};
  kind.channels_last = !one_channel && dense_all_views(args, element, dense_vectors_along_channels);
  kind.vectors = kind.channels_last ||
                 (!one_channel && dense_all_views(args, element, dense_vectors_along_pixels));
  DensePlan best{};
  double lowest = 0;
  const int lanes_only = forced(args.forced, PlanField::dense_similarity_cuda_lanes);
  const int rows_only = forced(args.forced, PlanField::dense_similarity_cuda_rows);
  for (int lanes = 1; kind.vectors && lanes <= 32; lanes *= 2) {
    for (int kept = 2; kept >= 0; --kept) {
      if ((lanes_only != 0 && lanes != lanes_only) || (rows_only != 0 && kept + 1 != rows_only)) {
        continue;
      }
      const DensePlan plan = dense_plan_with(kind, args, element, lanes, kept >= 1, kept == 2);
      const double cost = dense_cost(plan, device);
      if (plan.shared <= device.shared_bytes && (best.lanes == 0 || cost < lowest)) {
        best = plan;
        lowest = cost;
      }
    }
  }
  if (best.lanes == 0 && kind.vectors && (lanes_only != 0 || rows_only != 0)) {
    return best;
  }
  return best.lanes > 0 ? best : dense_plan_of_any_strides(args, element, device);
}

}  // namespace fastalign::cuda

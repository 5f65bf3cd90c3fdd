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

// An estimate of time, up to a factor: narrow tiles, short rows of channels, too few warps to load
// while others compute, multiprocessors without a block, and sweeps that read L2.
inline double dense_cost(const DensePlan& plan, const Device& device) {
  double cost = 1.0;
  if (plan.channels_last) {
    const int row = plan.lanes * 16;  // neighbouring bytes that a warp's load touches
    cost *= row < 32 ? 1.6 : row < 64 ? 1.2 : 1.0;
    cost *= plan.steps < 2 ? 2.0 : plan.steps < 4 ? 1.5 : plan.steps < 8 ? 1.15 : 1.0;
  } else {
    cost *= plan.locations < 8 ? 1.9 : plan.locations < 16 ? 1.35 : 1.0;
  }
  const int64_t by_shared = device.shared_bytes / (plan.shared + 1024);
  const int64_t warps = by_shared * plan.warps;
  cost *= warps < 8 ? 2.0 : warps < 16 ? 1.2 : warps < 24 ? 1.1 : 1.0;
  if (plan.tiles < device.multiprocessors) {
    cost *= static_cast<double>(device.multiprocessors) / static_cast<double>(plan.tiles);
  }
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
  const int lanes = kind.channels_first ? 32 : 4;
  const DensePlan held = dense_plan_with(kind, args, element, lanes, true, false);
  if (held.shared <= device.shared_bytes / 2) {
    return held;
  }
  const DensePlan plain = dense_plan_with(kind, args, element, lanes, false, false);
  if (plain.shared <= device.shared_bytes) {
    return plain;
  }
  kind.spill = true;
  return dense_plan_with(kind, args, element, lanes, false, false);
}

inline DensePlan dense_plan(const DenseSimilarityArgs& args, const Device& device) {
  const int64_t element = args.p.dtype == DType::float32 ? 4 : 2;
  const bool one_channel = args.p.channels() == 1;
  DensePlan kind{};
  kind.channels_last = !one_channel && dense_all_views(args, element, dense_vectors_along_channels);
  kind.vectors = kind.channels_last ||
                 (!one_channel && dense_all_views(args, element, dense_vectors_along_pixels));
  DensePlan best{};
  double lowest = 0;
  for (int lanes = 1; kind.vectors && lanes <= 32; lanes *= 2) {
    for (int kept = 2; kept >= 0; --kept) {
      const DensePlan plan = dense_plan_with(kind, args, element, lanes, kept >= 1, kept == 2);
      const double cost = dense_cost(plan, device);
      if (plan.shared <= device.shared_bytes && (best.lanes == 0 || cost < lowest)) {
        best = plan;
        lowest = cost;
      }
    }
  }
  return best.lanes > 0 ? best : dense_plan_of_any_strides(args, element, device);
}

}  // namespace fastalign::cuda

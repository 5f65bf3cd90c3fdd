// How a mahalanobis launch is cut, from sizes and what the device offers. Plain arithmetic.
#pragma once

#include <initializer_list>

#include "../common/packed.h"
#include "device.h"
#include "mahalanobis_tile.cuh"

namespace fastalign::cuda {

// What was measured of the plans that these lead to, on one H200
// (benchmarks/results/gpu/nvidia-h200-counters.md), 100 channels on 64 x 64: one image takes 38.8
// us at 47 % of the memory's peak, 26 % of the warps active, 1.55 waves, and 1.7 cycles of a stall
// at barriers for each instruction; eight images 68.4 us at 30 %, 24 %, 1.94 waves. None of the
// numbers was timed alone: they are estimates, from the counts beside them. The way to time what a
// block takes:
//   python benchmarks/ops.py --device cuda --only mahalanobis
//       --plan "mahalanobis.cuda: images, locations, parts"
//
// Bytes up to which a stage is a whole factor: two of them and the least tile of deviations, 88
// KiB, fit the smallest chip's 99. 100 channels of float32 are 20 KB.
constexpr int64_t kWholeFactor = 32 * 1024;
// Of a stage of larger factors: two of them and the least tile of deviations are 72 KiB, so that
// three blocks share a large chip's multiprocessor.
constexpr int64_t kStage = 24 * 1024;
// Of the tile of deviations, forward: more images for each read of the factor, at most where two
// blocks fit a multiprocessor with it.
constexpr int64_t kDeviations = 24 * 1024;
constexpr int64_t kDeviationsMost = 64 * 1024;
// Of deviations, y and dx, backward: 16 KiB each, an image of 4096 channels.
constexpr int64_t kGradientTile = 48 * 1024;
// Least share of a factor that is worth a block: 0.5 us of a multiprocessor's part of the bandwidth
// of a copy, 4275 GB/s over 132.
constexpr int64_t kPartBytes = 16 * 1024;
// That a grid should have at least: one less than registers allow (kGaussianBlocks).
constexpr int kBlocksPerProcessor = 4;

struct GaussianLaunch {
  GaussianPlan plan;
  int images_per_read;  // 1, 4 or kManyImages
  int threads;
  int64_t blocks;
  int64_t shared_bytes;  // 0: does not fit this device
};

inline int64_t entry_bytes(const MahalanobisArgs& args) {
  return args.whitener_dtype == DType::float32 ? 4 : 2;
}

namespace gaussian {

template <class T>
T at_least(T value, T low) {
  return value < low ? low : value;
}
template <class T>
T at_most(T value, T high) {
  return value > high ? high : value;
}

inline void set_capacity(GaussianPlan& plan, int64_t entries, int64_t bytes_each) {
  // A stage begins up to 15 bytes before its first entry's place.
  plan.capacity = static_cast<int>(entries);
  plan.stage_bytes = static_cast<int>(ceil_div(entries * bytes_each, 16) * 16 + 16);
}

inline int64_t shared_bytes(const GaussianPlan& plan, int threads, bool backward) {
  const int64_t tiles = plan.locations + (backward ? 2 : 0);
  return int64_t{plan.stages} * plan.stage_bytes + tiles * plan.images * plan.padded * 4 +
         plan.images * (threads / 32 * int64_t{sizeof(Squares)} + (backward ? 8 : 0));
}

// Rows of equal shares of the triangle, cut at row tiles.
inline void cut_rows(GaussianPlan& plan, int64_t channels, int64_t parts) {
  plan.parts = static_cast<int>(parts);
  plan.part_row[0] = 0;
  int64_t row = 0;
  for (int64_t part = 1; part < parts; ++part) {
    while (row < channels && packed_size(row) * parts < packed_size(channels) * part) {
      row += kRowTile;
    }
    plan.part_row[part] = static_cast<int>(at_most(row, channels));
  }
  plan.part_row[parts] = static_cast<int>(channels);
}

}  // namespace gaussian

inline GaussianLaunch plan_gaussian(const MahalanobisArgs& args, const Device& device,
                                    bool backward) {
  using namespace gaussian;
  const int64_t batch = args.x.size[0], channels = args.x.size[1];
  const int64_t pixels = args.x.size[2] * args.x.size[3];
  const int64_t size = packed_size(channels), each = entry_bytes(args);
  const int64_t wanted_blocks = int64_t{device.multiprocessors} * kBlocksPerProcessor;
  const auto choice = [&](PlanField forward_field, PlanField backward_field) {
    return forced(args.forced, backward ? backward_field : forward_field);
  };
  const int images =
      choice(PlanField::mahalanobis_cuda_images, PlanField::mahalanobis_backward_cuda_images);
  const int locations =
      choice(PlanField::mahalanobis_cuda_locations, PlanField::mahalanobis_backward_cuda_locations);
  const int64_t only_parts = backward ? 0 : forced(args.forced, PlanField::mahalanobis_cuda_parts);
  const int only_stages =
      backward ? forced(args.forced, PlanField::mahalanobis_backward_cuda_stages) : 0;
  GaussianLaunch launch{};
  GaussianPlan& plan = launch.plan;
  plan.padded = static_cast<int>(ceil_div(at_least<int64_t>(channels, 1), 32) * 32);
  launch.threads = at_most(plan.padded, kGaussianThreads);

  // One image where four do not fit; whole factors in one stage or two before parts of them. Whole
  // rows of a whole factor are not shared by blocks.
  const bool by_row = !backward && batch > 4 && size * each <= kWholeFactor && only_parts <= 1;
  const int64_t spare = device.shared_bytes / 2 - 2 * at_most(size * each, kWholeFactor);
  const int64_t deviations = at_most(at_least(spare, kDeviations), kDeviationsMost);
  const int usual = batch == 1 ? 1 : by_row ? kManyImages : 4;
  for (int per_read : {images == 0 ? usual : images, images == 0 ? 1 : images}) {
    launch.images_per_read = per_read;
    const int64_t image_bytes = int64_t{plan.padded} * 4;
    const int64_t budget = backward ? kGradientTile / 3 : deviations;
    const int64_t fit = at_least<int64_t>(budget / image_bytes / per_read, 1);
    plan.images = static_cast<int>(at_most(ceil_div(batch, per_read), fit)) * per_read;
    plan.locations = locations == 0 ? 8 : locations;
    const int64_t left =
        budget * (backward ? 3 : 1) - (backward ? 2 : 0) * image_bytes * plan.images;
    while (locations == 0 && plan.locations > 1 &&
           (plan.locations * plan.images * image_bytes > left ||
            ceil_div(pixels, plan.locations) < wanted_blocks)) {
      plan.locations /= 2;
    }
    for (int stages : {2, 1}) {
      if (only_stages != 0 && stages != only_stages) {
        continue;
      }
      plan.stages = stages;
      set_capacity(plan, size, each);
      launch.shared_bytes = shared_bytes(plan, launch.threads, backward);
      if (backward ? launch.shared_bytes <= device.shared_bytes
                   : stages == 2 && size * each <= kWholeFactor &&
                         launch.shared_bytes <= device.shared_bytes) {
        break;
      }
      launch.shared_bytes = 0;
    }
    const bool divisible = per_read != kManyImages;
    for (int64_t bytes = only_stages == 1 ? 0 : kStage;
         divisible && launch.shared_bytes == 0 && bytes >= kStage / 4; bytes /= 2) {
      plan.stages = 2;
      const int64_t tiles = at_most(kRowTile * channels, kWholeFactor / each);
      set_capacity(plan, at_least(at_least(bytes / each, bytes == kStage ? tiles : 0), channels),
                   each);
      launch.shared_bytes = shared_bytes(plan, launch.threads, backward);
      if (launch.shared_bytes > device.shared_bytes) {
        launch.shared_bytes = 0;
      }
    }
    if (launch.shared_bytes != 0) {
      break;
    }
  }

  while (1 << plan.location_bits < plan.locations) {
    ++plan.location_bits;
  }
  launch.blocks = ceil_div(pixels, plan.locations);
  int64_t parts = 1;
  const bool shared_rows = !backward && launch.images_per_read != kManyImages;
  if (shared_rows && launch.blocks * 2 < wanted_blocks) {
    parts = at_most(ceil_div(wanted_blocks, launch.blocks), size * each / kPartBytes);
    parts = at_most<int64_t>(at_least<int64_t>(parts, 1), kMaxParts);
  }
  if (only_parts > (shared_rows ? at_least<int64_t>(ceil_div(channels, kRowTile), 1) : 1)) {
    launch.shared_bytes = 0;
  }
  parts = only_parts == 0 ? parts : only_parts;
  cut_rows(plan, channels, parts);
  return launch;
}

}  // namespace fastalign::cuda

// Both gradients of a warp, of planes, in one launch: the tasks of the gradient of the image, then
// those of the map's, image by image.
//
// Bytes: grad, x and dx once from device memory, if an image of grad and what its tasks are at stay
// in the second-level cache, where the map's tasks find it again (an H100's is 50 MB); 2.3 times
// grad and 2.1 times x from there. Two launches would read grad twice, and end twice in a wave that
// is not full.
//
// The two kinds of tasks meet on a multiprocessor where one ends and the other begins only; what
// each is limited by stands with it.
#pragma once

#include "warp_gather_patches.cuh"
#include "warp_theta_patches.cuh"

namespace fastalign::cuda {

// Blocks of a multiprocessor: registers hold the boxes, or the gradients, of four pixels. With six
// blocks some are spilled, with five on other chips than Hopper.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
constexpr int kBackwardPatchBlocks = 4;
#else
constexpr int kBackwardPatchBlocks = 5;
#endif

struct BackwardPatchesParams {
  WarpBackwardParams warp;  // its tiling: of the image; no tasks where its gradient is not wanted
  WarpTiling map_tiling;    // of the output; the same for the map's
  double* partial;          // [image][task of the map][kThetaSums]
};

// What a block shares besides the floats of its patches, or the lists in their place.
struct BackwardTask {
  WarpPlan plan;
  GatherPatch gathered[kMostTiles];
  Patch sampled[kMostTiles];
  double sums[kPatchThreads / 32 * kThetaSums];
};

// `Wide`: rows of grad and x are whole fours, of dx whole pairs. `Channels` at once.
template <class T, bool Wide, int Channels>
FASTALIGN_KERNEL(kPatchThreads, kBackwardPatchBlocks)
backward_patches(const BackwardPatchesParams params) {
  FASTALIGN_DYNAMIC_SHARED(float, floats);
  const WarpBackwardParams& p = params.warp;
  BackwardTask& task = *reinterpret_cast<BackwardTask*>(floats + p.shared_floats);
  const int32_t channels = static_cast<int32_t>(p.grad.size[1]);
  const uint32_t gathers = static_cast<uint32_t>(p.tiling.tasks_per_image);
  const uint32_t each = gathers + static_cast<uint32_t>(params.map_tiling.tasks_per_image);
  const uint32_t image = blockIdx.x / each, place = blockIdx.x % each;
  copy_plan(p.scratch, image, &task.plan);
  if (place < gathers) {
    gather_task<Wide, Channels, T>(p, task.plan, task_of(p.tiling, image, place, channels), floats,
                                   task.gathered);
  } else {
    const WarpTask at = task_of(params.map_tiling, image, place - gathers, channels);
    const int64_t sums = params.map_tiling.tasks_per_image * image + at.index;
    theta_task<Wide, Channels, T>(p, task.plan.map, at, floats, task.sampled, task.sums,
                                  params.partial + sums * kThetaSums);
  }
}

}  // namespace fastalign::cuda

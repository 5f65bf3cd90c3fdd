// Gradients of warp_affine: a plan per image, then the image's gradient gathered (warp_gather.cuh)
// and theta's summed (warp_theta.cuh), of planes both in one launch (warp_backward_patches.cuh),
// then pixels that are not gathered, swept (warp_sweep.cuh).
//
// Scratch: plans, then the sums of the tasks of theta's gradient.
#include <numeric>

#include "warp_backward_patches.cuh"
#include "warp_sweep.cuh"

namespace fastalign::cuda {
namespace {

// Measured on one H200 (benchmarks/results/gpu/nvidia-h200-counters.md), 8x3x1024x1024 float32: the
// gather takes 250.1 us at 71 % of the issue slots and 15 % of the memory's peak, and the sweep 2.8
// us where it has nothing to do, in 2.67 waves. None of the numbers was timed alone: they are
// estimates, from the counts beside them. The way to time them:
//   python benchmarks/ops.py --device cuda --only "warp_affine, backward" --grid
//       --plan "warp_affine_backward.cuda: candidates, chunk" --plan "warp_affine_backward.cuda:
//       sweeps"
// These are the figures of the gather that planes with other strides take.
//
// Channels of a task at least, with lanes along pixels: they share the search for candidates, some
// 400 instructions a pixel against 4 taps a channel.
constexpr int64_t kPlaneChunk = 16;
// Of a list. At scale 1 a pixel has 4 candidates on average, at scale 1/2 16.
constexpr int64_t kPixelCandidates = 24;      // with lanes along channels
constexpr int64_t kManyPlaneCandidates = 16;  // along pixels: 32 KiB of a block, on large chips
constexpr int64_t kFewPlaneCandidates = 10;   // 20 KiB, so that three blocks fit a small one
// Blocks of the sweep for each multiprocessor: as many as registers allow, one wave.
constexpr int kSweepsPerProcessor = 3;

// Lanes along channels: neighbours in memory in all tensors that a kernel reads and writes.
template <class T>
struct Layout {
  bool pixels, vectors;

  Layout(const View4& one, const View4& other)
      : pixels(channels_last<T>(one) && channels_last<T>(other)),
        vectors(pixels && whole_vectors<T>(one) && whole_vectors<T>(other)) {}
};

TilingChoice choice_of(const ForcedPlans* plans) {
  return {forced(plans, PlanField::warp_affine_backward_cuda_run),
          forced(plans, PlanField::warp_affine_backward_cuda_chunk),
          forced(plans, PlanField::warp_affine_backward_cuda_lanes)};
}

template <class T>
WarpTiling tiling_for(const Layout<T>& layout, const View4& over, const ForcedPlans* plans) {
  const TilingChoice choice = choice_of(plans);
  return layout.pixels ? tile_channels(over.batch(), over.channels(), over.height(), over.width(),
                                       layout.vectors ? kVec<T> : 1, current_device(), choice)
                       : tile_planes(over.batch(), over.channels(), over.height(), over.width(),
                                     kPlaneChunk, current_device(), choice);
}

// Sets how lists name the places of grad; false if 32 bits do not do.
bool name_places(WarpBackwardParams* p) {
  const int64_t row = p->grad.stride[2], column = p->grad.stride[3];
  const int64_t unit = std::gcd(row, column);
  if (unit == 0) {  // one value for the whole plane
    p->where_unit = 1;
    p->where_row = p->where_column = 0;
    return true;
  }
  const auto reach = [&](int64_t step, int64_t count) {
    const int64_t size = (step < 0 ? -step : step) / unit;
    return size < INT32_MAX ? size * (count - 1) : int64_t{INT32_MAX};
  };
  if (unit > INT32_MAX / 4 ||
      reach(row, p->grad.height()) + reach(column, p->grad.width()) >= INT32_MAX) {
    return false;
  }
  p->where_unit = static_cast<int32_t>(unit);
  p->where_row = static_cast<uint32_t>(row / unit);
  p->where_column = static_cast<uint32_t>(column / unit);
  return true;
}

template <class T, bool Nearest>
Error gather(WarpBackwardParams p, const ForcedPlans* plans, Stream stream) {
  const Layout<T> layout(p.grad, p.dx);
  p.tiling = tiling_for(layout, p.dx, plans);
  // Longer lists where shared memory leaves room for four blocks and the first-level cache.
  const bool large = current_device().shared_bytes >= 160 * 1024;
  p.capacity = layout.pixels ? kPixelCandidates
               : large       ? kManyPlaneCandidates
                             : kFewPlaneCandidates;
  p.capacity = forced_or(plans, PlanField::warp_affine_backward_cuda_candidates, p.capacity);
  const size_t lists = static_cast<size_t>(p.capacity) * sizeof(Candidate);
  const size_t plane_bytes = lists * kWarpThreads + sizeof(WarpPlan);
  const size_t pixel_bytes = lists * kTilePixels + sizeof(WarpPlan) + kTilePixels * sizeof(int32_t);
  dim3 grid;
  if (const Error error = grid_of(p.tiling, &grid)) {
    return error;
  }
  const dim3 block(kWarpThreads);
  if (layout.vectors) {
    return FASTALIGN_LAUNCH((gather_pixels<T, kVec<T>, Nearest>), grid, block, pixel_bytes, stream,
                            p);
  }
  if (layout.pixels) {
    return FASTALIGN_LAUNCH((gather_pixels<T, 1, Nearest>), grid, block, pixel_bytes, stream, p);
  }
  return FASTALIGN_LAUNCH((gather_planes<T, Nearest>), grid, block, plane_bytes, stream, p);
}

template <class T>
Error sweep_rest(const WarpBackwardParams& p, const ForcedPlans* plans, Stream stream) {
  const int blocks =
      forced_or(plans, PlanField::warp_affine_backward_cuda_sweeps, kSweepsPerProcessor) *
      current_device().multiprocessors;
  return FASTALIGN_LAUNCH((sweep<T>), dim3(static_cast<unsigned>(blocks)), dim3(kSweepThreads), 0,
                          stream, p);
}

template <class T>
Error theta_sums(WarpBackwardParams p, const ForcedPlans* plans, double* partial, Stream stream) {
  const Layout<T> layout(p.grad, p.x);
  p.tiling = tiling_for(layout, p.grad, plans);
  const ThetaParams params{p, partial};
  dim3 grid;
  if (const Error error = grid_of(p.tiling, &grid)) {
    return error;
  }
  const dim3 block(kWarpThreads);
  const size_t plane_bytes = kThetaShared * sizeof(double) + sizeof(WarpMap);
  const size_t pixel_bytes = plane_bytes + kTilePixels * sizeof(SlopedSample);
  if (layout.vectors) {
    return FASTALIGN_LAUNCH((theta_pixels<T, kVec<T>>), grid, block, pixel_bytes, stream, params);
  }
  if (layout.pixels) {
    return FASTALIGN_LAUNCH((theta_pixels<T, 1>), grid, block, pixel_bytes, stream, params);
  }
  if constexpr (kPatches == 0) {
    if (unit_columns(p.x)) {
      return FASTALIGN_LAUNCH((theta_planes<T, true>), grid, block, plane_bytes, stream, params);
    }
  }
  return FASTALIGN_LAUNCH((theta_planes<T, false>), grid, block, plane_bytes, stream, params);
}

bool wants_image(const WarpAffineBackwardArgs& args) {
  return args.dx.data != nullptr && args.x.channels() > 0;
}

// Nearest samples do not move with the map.
bool wants_sums(const WarpAffineBackwardArgs& args) {
  return args.dtheta != nullptr && args.mode != Interpolation::nearest && args.x.channels() > 0;
}

// Whether all that a call reads and writes goes by patches.
template <class T>
bool all_by_patches(const WarpAffineBackwardArgs& args) {
  const auto planes = [&](const View4& other) {
    return by_patches(args.grad, other) && !Layout<T>(args.grad, other).pixels;
  };
  return args.mode != Interpolation::nearest && (!wants_image(args) || planes(args.dx)) &&
         (!wants_sums(args) || planes(args.x));
}

WarpTiling tiled_by_patches(const View4& over, const ForcedPlans* plans) {
  return tile_patches(over.batch(), over.channels(), over.height(), over.width(), current_device(),
                      choice_of(plans));
}

// Sums of theta's gradient per image.
template <class T>
int64_t theta_tasks(const WarpAffineBackwardArgs& args) {
  if (!wants_sums(args)) {
    return 0;
  }
  return all_by_patches<T>(args)
             ? tiled_by_patches(args.grad, args.forced).tasks_per_image
             : tiling_for(Layout<T>(args.grad, args.x), args.grad, args.forced).tasks_per_image;
}

template <class T, int Channels>
Error launch_patches(const WarpAffineBackwardArgs& args, const WarpBackwardParams& warp,
                     double* partial, Stream stream) {
  BackwardPatchesParams p{warp, {}, partial};
  WarpTiling grid_tiling{};
  if (wants_image(args)) {
    p.warp.tiling = tiled_by_patches(args.dx, args.forced);
    grid_tiling = p.warp.tiling;
  }
  if (wants_sums(args)) {
    p.map_tiling = tiled_by_patches(args.grad, args.forced);
    const bool refused = wants_image(args) && grid_tiling.tasks == 0;
    grid_tiling.tasks =
        refused || p.map_tiling.tasks == 0 ? 0 : grid_tiling.tasks + p.map_tiling.tasks;
  }
  p.warp.capacity = forced_or(args.forced, PlanField::warp_affine_backward_cuda_candidates,
                              static_cast<int32_t>(kManyPlaneCandidates));
  const int32_t listed =
      p.warp.capacity * kPatchThreads * static_cast<int32_t>(sizeof(Candidate) / sizeof(float));
  p.warp.shared_floats = listed < Channels * kPatchFloats ? Channels * kPatchFloats : listed;
  const size_t bytes =
      static_cast<size_t>(p.warp.shared_floats) * sizeof(float) + sizeof(BackwardTask);
  dim3 grid;
  if (const Error error = grid_of(grid_tiling, &grid)) {
    return error;
  }
  const dim3 block(kPatchThreads);
  const bool wide = whole_fours<T>(args.grad) && (!wants_image(args) || whole_pairs<T>(args.dx)) &&
                    (!wants_sums(args) || whole_fours<T>(args.x));
  return wide ? FASTALIGN_LAUNCH((backward_patches<T, true, Channels>), grid, block, bytes, stream,
                                 p)
              : FASTALIGN_LAUNCH((backward_patches<T, false, Channels>), grid, block, bytes, stream,
                                 p);
}

// What is wanted of the image's gradient but what is swept, and of the sums.
template <class T>
Error gather_and_sum(const WarpAffineBackwardArgs& args, const WarpBackwardParams& p,
                     double* partial, Stream stream) {
  if (!wants_image(args) && !wants_sums(args)) {
    return nullptr;
  }
  if constexpr (kPatches != 0) {
    if (all_by_patches<T>(args)) {
      return args.x.channels() == kColours
                 ? launch_patches<T, kColours>(args, p, partial, stream)
                 : launch_patches<T, kPatchChannels>(args, p, partial, stream);
    }
  }
  if (wants_image(args)) {
    const Error error = p.frame.mode == Interpolation::nearest
                            ? gather<T, true>(p, args.forced, stream)
                            : gather<T, false>(p, args.forced, stream);
    if (error != nullptr) {
      return error;
    }
  }
  return wants_sums(args) ? theta_sums<T>(p, args.forced, partial, stream) : nullptr;
}

template <class T>
Error run(const WarpAffineBackwardArgs& args, const WarpBackwardParams& p, Stream stream) {
  double* partial = reinterpret_cast<double*>(static_cast<unsigned char*>(args.scratch) +
                                              plans_bytes(args.x.batch()));
  if (const Error error = gather_and_sum<T>(args, p, partial, stream)) {
    return error;
  }
  if (wants_image(args)) {
    if (const Error error = sweep_rest<T>(p, args.forced, stream)) {
      return error;
    }
  }
  if (args.dtheta == nullptr) {
    return nullptr;
  }
  const int64_t tasks = theta_tasks<T>(args);
  const bool empty = args.x.channels() == 0;
  const auto finish = [&](auto* dtheta) {
    return FASTALIGN_LAUNCH((finish_theta<std::remove_pointer_t<decltype(dtheta)>>),
                            dim3(static_cast<unsigned>(args.x.batch())), dim3(kFinishThreads),
                            kFinishThreads * kThetaSums * sizeof(double), stream, p.frame,
                            args.scratch, partial, tasks, empty, dtheta);
  };
  return args.theta.dtype == DType::float64 ? finish(static_cast<double*>(args.dtheta))
                                            : finish(static_cast<float*>(args.dtheta));
}

}  // namespace

int64_t warp_affine_backward_scratch(const WarpAffineBackwardArgs& args) {
  return plans_bytes(args.x.batch()) +
         args.x.batch() *
             (args.x.dtype == DType::float32 ? theta_tasks<float>(args) : theta_tasks<Half>(args)) *
             kThetaSums * static_cast<int64_t>(sizeof(double));
}

Error warp_affine_backward(const WarpAffineBackwardArgs& args, Stream stream) {
  if (const Error error = check_axes(args.x, args.grad)) {
    return error;
  }
  WarpBackwardParams p{};
  p.grad = args.grad;
  p.x = args.x;
  p.dx = args.dx;
  p.frame = frame_of(args.x, args.grad, args.mode, args.padding, args.align_corners);
  p.scratch = args.scratch;
  const bool gatherable = name_places(&p);
  if (const Error error =
          FASTALIGN_LAUNCH(make_plans, dim3(1), dim3(kPlanThreads), kPlanThreads * sizeof(int32_t),
                           stream, args.theta, p.frame, args.x.batch(), gatherable, args.scratch)) {
    return error;
  }
  switch (args.x.dtype) {
    case DType::float16:
      return run<Half>(args, p, stream);
    case DType::bfloat16:
      return run<BFloat16>(args, p, stream);
    default:
      return run<float>(args, p, stream);
  }
}

}  // namespace fastalign::cuda

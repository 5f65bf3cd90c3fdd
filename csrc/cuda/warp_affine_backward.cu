// Gradients of warp_affine: a plan per image, then the image's gradient gathered (warp_gather.cuh)
// and, where that does not do, swept (warp_sweep.cuh), then theta's (warp_theta.cuh).
//
// Scratch: plans, then the sums of the tasks of theta's gradient.
#include <numeric>

#include "warp_gather.cuh"
#include "warp_sweep.cuh"
#include "warp_theta.cuh"

namespace fastalign::cuda {
namespace {

// Measured on one H200 (benchmarks/results/gpu/nvidia-h200-counters.md), 8x3x1024x1024 float32: the
// gather takes 250.1 us at 71 % of the issue slots and 15 % of the memory's peak, and the sweep 2.8
// us where it has nothing to do. None of the numbers was timed alone: they are estimates, from the
// counts beside them. The way to time them:
//   python benchmarks/ops.py --device cuda --only "warp_affine, backward" --grid
//       --plan "warp_affine_backward.cuda: candidates, chunk" --plan "warp_affine_backward.cuda:
//       sweeps"
//
// Channels of a task at least, with lanes along pixels: they share the search for candidates, some
// 400 instructions a pixel against 4 taps a channel.
constexpr int64_t kPlaneChunk = 16;
// Of a list. At scale 1 a pixel has 4 candidates on average, at scale 1/2 16.
constexpr int64_t kPixelCandidates = 24;      // with lanes along channels
constexpr int64_t kManyPlaneCandidates = 16;  // along pixels: 32 KiB of a block, on large chips
constexpr int64_t kFewPlaneCandidates = 10;   // 20 KiB, so that three blocks fit a small one
// Blocks of the sweep for each multiprocessor. Registers allow three, so they come in 2.67 waves.
constexpr int kSweepsPerProcessor = 8;

int64_t element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// Lanes along channels: neighbours in memory in all tensors that a kernel reads and writes.
template <class T>
struct Layout {
  bool pixels, vectors;

  Layout(const View4& one, const View4& other)
      : pixels(channels_last<T>(one) && channels_last<T>(other)),
        vectors(pixels && whole_vectors<T>(one) && whole_vectors<T>(other)) {}
};

template <class T>
WarpTiling tiling_for(const Layout<T>& layout, const View4& over, const ForcedPlans* plans) {
  const TilingChoice choice{forced(plans, PlanField::warp_affine_backward_cuda_run),
                            forced(plans, PlanField::warp_affine_backward_cuda_chunk),
                            forced(plans, PlanField::warp_affine_backward_cuda_lanes)};
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
Error image_gradient(const WarpBackwardParams& p, const ForcedPlans* plans, Stream stream) {
  const Error error = p.frame.mode == Interpolation::nearest ? gather<T, true>(p, plans, stream)
                                                             : gather<T, false>(p, plans, stream);
  if (error != nullptr) {
    return error;
  }
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
  if (unit_columns(p.x)) {
    return FASTALIGN_LAUNCH((theta_planes<T, true>), grid, block, plane_bytes, stream, params);
  }
  return FASTALIGN_LAUNCH((theta_planes<T, false>), grid, block, plane_bytes, stream, params);
}

// Sums of theta's gradient per image; nearest samples do not move with the map.
int64_t theta_tasks(const WarpAffineBackwardArgs& args) {
  if (args.dtheta == nullptr || args.mode == Interpolation::nearest || args.x.channels() == 0) {
    return 0;
  }
  const auto tasks = [&](auto layout) {
    return tiling_for(layout, args.grad, args.forced).tasks_per_image;
  };
  return element_size(args.x.dtype) == 4 ? tasks(Layout<float>(args.grad, args.x))
                                         : tasks(Layout<Half>(args.grad, args.x));
}

template <class T>
Error run(const WarpAffineBackwardArgs& args, const WarpBackwardParams& p, Stream stream) {
  double* partial = reinterpret_cast<double*>(static_cast<unsigned char*>(args.scratch) +
                                              plans_bytes(args.x.batch()));
  const bool empty = args.x.channels() == 0;
  if (args.dx.data != nullptr && !empty) {
    if (const Error error = image_gradient<T>(p, args.forced, stream)) {
      return error;
    }
  }
  if (args.dtheta == nullptr) {
    return nullptr;
  }
  const int64_t tasks = theta_tasks(args);
  if (tasks > 0) {
    if (const Error error = theta_sums<T>(p, args.forced, partial, stream)) {
      return error;
    }
  }
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
         args.x.batch() * theta_tasks(args) * kThetaSums * static_cast<int64_t>(sizeof(double));
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

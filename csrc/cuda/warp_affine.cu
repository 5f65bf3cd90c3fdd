// Chooses the variant of warp_affine.cuh and warp_affine_patches.cuh.
#include "warp_affine_patches.cuh"

namespace fastalign::cuda {
namespace {

template <class T, bool Nearest>
Error launch_planes(WarpParams p, const TilingChoice& choice, Stream stream) {
  p.tiling = tile_planes(p.out.batch(), p.out.channels(), p.out.height(), p.out.width(), 16,
                         current_device(), choice);
  dim3 grid;
  if (const Error error = grid_of(p.tiling, &grid)) {
    return error;
  }
  const dim3 block(kWarpThreads);
  if constexpr (Nearest || kPatches == 0) {
    if (unit_columns(p.x)) {
      return FASTALIGN_LAUNCH((warp_planes<T, Nearest, true>), grid, block, sizeof(WarpMap), stream,
                              p);
    }
  }
  return FASTALIGN_LAUNCH((warp_planes<T, Nearest, false>), grid, block, sizeof(WarpMap), stream,
                          p);
}

template <class T, int Channels>
Error launch_patches(WarpParams p, const TilingChoice& choice, Stream stream) {
  p.tiling = tile_patches(p.out.batch(), p.out.channels(), p.out.height(), p.out.width(),
                          current_device(), choice);
  dim3 grid;
  if (const Error error = grid_of(p.tiling, &grid)) {
    return error;
  }
  const dim3 block(kPatchThreads);
  const size_t bytes = patch_bytes(Channels) + sizeof(PatchTask);
  if (whole_fours<T>(p.x) && whole_pairs<T>(p.out)) {
    return FASTALIGN_LAUNCH((warp_patches<T, true, Channels>), grid, block, bytes, stream, p);
  }
  return FASTALIGN_LAUNCH((warp_patches<T, false, Channels>), grid, block, bytes, stream, p);
}

template <class T, int N, bool Nearest>
Error launch_pixels(WarpParams p, const TilingChoice& choice, Stream stream) {
  p.tiling = tile_channels(p.out.batch(), p.out.channels(), p.out.height(), p.out.width(), N,
                           current_device(), choice);
  dim3 grid;
  if (const Error error = grid_of(p.tiling, &grid)) {
    return error;
  }
  return FASTALIGN_LAUNCH((warp_pixels<T, N, Nearest>), grid, dim3(kWarpThreads),
                          sizeof(StoredSample) * kTilePixels + sizeof(WarpMap), stream, p);
}

template <class T, bool Nearest>
Error run(const WarpParams& p, const TilingChoice& choice, Stream stream) {
  if (channels_last<T>(p.x) && channels_last<T>(p.out)) {
    return whole_vectors<T>(p.x) && whole_vectors<T>(p.out)
               ? launch_pixels<T, kVec<T>, Nearest>(p, choice, stream)
               : launch_pixels<T, 1, Nearest>(p, choice, stream);
  }
  if constexpr (!Nearest && kPatches != 0) {
    if (by_patches(p.x, p.out)) {
      return p.x.channels() == kColours ? launch_patches<T, kColours>(p, choice, stream)
                                        : launch_patches<T, kPatchChannels>(p, choice, stream);
    }
  }
  return launch_planes<T, Nearest>(p, choice, stream);
}

template <class T>
Error run_mode(const WarpParams& p, const TilingChoice& choice, Stream stream) {
  return p.frame.mode == Interpolation::nearest ? run<T, true>(p, choice, stream)
                                                : run<T, false>(p, choice, stream);
}

}  // namespace

Error warp_affine(const WarpAffineArgs& args, Stream stream) {
  if (args.out.batch() * args.out.channels() * args.out.pixels() == 0) {
    return nullptr;
  }
  if (const Error error = check_axes(args.x, args.out)) {
    return error;
  }
  WarpParams p{};
  p.x = args.x;
  p.out = args.out;
  p.theta = args.theta;
  p.frame = frame_of(args.x, args.out, args.mode, args.padding, args.align_corners);
  const TilingChoice choice{forced(args.forced, PlanField::warp_affine_cuda_run),
                            forced(args.forced, PlanField::warp_affine_cuda_chunk),
                            forced(args.forced, PlanField::warp_affine_cuda_lanes)};
  switch (args.x.dtype) {
    case DType::float16:
      return run_mode<Half>(p, choice, stream);
    case DType::bfloat16:
      return run_mode<BFloat16>(p, choice, stream);
    default:
      return run_mode<float>(p, choice, stream);
  }
}

}  // namespace fastalign::cuda

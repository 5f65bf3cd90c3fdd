// warp_affine of planes, bilinear: taps from a patch in shared memory (warp_patch.cuh).
//
// Bytes it must move: as warp_affine.cuh. Bytes it moves: the same from device memory, 2.1 times
// the source from the second-level cache.
//
// Why: taken one by one, taps cost their addresses, their checks and a line of the first-level
// cache each: 290 instructions a pixel of three channels on an H200, 62 % of its issue slots at 31
// % of its memory. From a patch four taps are four loads at fixed distances, and the machine code
// has 117 (benchmarks/results/gpu/predicted.md).
#pragma once

#include "warp_affine.cuh"
#include "warp_patch.cuh"

namespace fastalign::cuda {

// `Channels` of them, or if not `Whole` the first `count`, from patches to a thread's four pixels.
template <bool Wide, bool Whole, int Channels, class T>
FASTALIGN_DEVICE void sample_patches(const int32_t (&taps)[kPatchPixels],
                                     const float (&weight)[kPatchPixels][4], int32_t pitch,
                                     const float* floats, T* to, int64_t plane, int32_t count,
                                     int32_t left) {
#pragma unroll
  for (int n = 0; n < Channels; ++n) {
    if (Whole || n < count) {
      float sums[kPatchPixels];
#pragma unroll
      for (int k = 0; k < kPatchPixels; ++k) {
        const float* top = floats + (n * kPatchFloats + taps[k]);
        const float* low = floats + (n * kPatchFloats + taps[k] + pitch);
        sums[k] = top[0] * weight[k][0];
        sums[k] = fmaf(top[1], weight[k][1], sums[k]);
        sums[k] = fmaf(low[0], weight[k][2], sums[k]);
        sums[k] = fmaf(low[1], weight[k][3], sums[k]);
      }
      store_pair<Wide>(to, sums[0], sums[1], left);
      store_pair<Wide>(to + pixel_beside(2), sums[2], sums[3], left - pixel_beside(2));
      to += plane;
    }
  }
}

// `Wide`: rows of x are whole fours, of the result whole pairs. `Channels` at once.
template <class T, bool Wide, int Channels>
FASTALIGN_KERNEL(kPatchThreads, kPatchBlocks)
warp_patches(const WarpParams p) {
  FASTALIGN_DYNAMIC_SHARED(float, floats);
  PatchTask& task = *reinterpret_cast<PatchTask*>(floats + Channels * kPatchFloats);
  const TilePlace place = place_in_patch_tile(static_cast<int>(threadIdx.x));
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.x.size[1]));
  const T* x = plane_at<const T>(p.x, at.image, at.channel);
  const int32_t ox = at.tile_x * kPatchTileX + place.x;
  T* out = plane_at<T>(p.out, at.image, at.channel) + ox;
  prepare_patches(p.theta, at, p.frame, &task);
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    const Patch patch = task.patches[tile - at.tile_y];
    const int32_t wanted_y = tile * kPatchTileY + place.y;
    if (patch.fits == 0) {
      continue;
    }
    // Lanes beyond the image repeat its last pixels and do not write.
    const int32_t oy = lesser(wanted_y, p.frame.out_height - 1);
    int32_t taps[kPatchPixels];
    float weight[kPatchPixels][4];
#pragma unroll
    for (int k = 0; k < kPatchPixels; ++k) {
      const WarpSample s = patch_sample(task.map, p.frame, patch,
                                        lesser(ox + pixel_beside(k), p.frame.out_width - 1), oy);
      taps[k] = (s.y.pixel - patch.row) * patch.pitch + (s.x.pixel - patch.column);
      set_weights<false>(s, weight[k]);
    }
    const int32_t left = oy == wanted_y ? p.frame.out_width - ox : 0;
    T* to = out + oy * p.out.stride[2];
    const T* from = x;
    for (int32_t c = at.channel; c < at.channel_end; c += Channels) {
      const int32_t count = at.channel_end - c;
      const bool whole = count >= Channels;
      if (whole) {
        fill_patch<Wide, true, Channels>(from, p.x, patch, count, floats);
      } else {
        fill_patch<Wide, false, Channels>(from, p.x, patch, count, floats);
      }
      finish_fill();
      __syncthreads();
      if (whole) {
        sample_patches<Wide, true, Channels>(taps, weight, patch.pitch, floats, to, p.out.stride[1],
                                             count, left);
      } else {
        sample_patches<Wide, false, Channels>(taps, weight, patch.pitch, floats, to,
                                              p.out.stride[1], count, left);
      }
      from += Channels * p.x.stride[1];
      to += Channels * p.out.stride[1];
      __syncthreads();
    }
  }
  const QuadSteps<T, true> steps(p.x);
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
#pragma unroll 1
    for (int k = task.patches[tile - at.tile_y].fits == 0 ? 0 : kPatchPixels; k < kPatchPixels;
         ++k) {
      warp_one<T, false>(p, task.map, at, steps, ox + pixel_beside(k),
                         tile * kPatchTileY + place.y);
    }
  }
}

}  // namespace fastalign::cuda

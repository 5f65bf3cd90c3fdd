// Gradient of a warp to theta, of planes: taps from a patch in shared memory (warp_patch.cuh).
//
// Bytes: as warp_theta.cuh, and 2.1 times x from the second-level cache; grad in runs of whole
// sectors, while the patch is on its way.
//
// Why: as warp_affine_patches.cuh; tap by tap it took 410 instructions a pixel of three channels,
// 76 % of an H200's issue slots at 30 % of its memory; here they are 200.
#pragma once

#include "warp_patch.cuh"
#include "warp_theta.cuh"

namespace fastalign::cuda {

// A pair of gradients, zeros where columns end; `left` lie to the right of the first.
template <bool Wide, class T>
FASTALIGN_DEVICE void load_pair(const T* from, int32_t left, float& one, float& two) {
  if constexpr (Wide) {
    const Vec<T, 2> both = load_where<2>(left > 0, from);
    one = both.as_float(0);
    two = both.as_float(1);
  } else {
    one = load_where<1>(left > 0, from).as_float(0);
    two = load_where<1>(left > 1, from + 1).as_float(0);
  }
}

// The task of a block whose threads have its plan; `floats` hold patches, `patches` has a place for
// each of its tiles, `shared` for the sums of its warps. `Wide`: rows of x are whole fours, of grad
// whole pairs. `Channels` at once.
template <bool Wide, int Channels, class T>
FASTALIGN_DEVICE void theta_task(const WarpBackwardParams& p, const WarpMap& map,
                                 const WarpTask& at, float* floats, Patch* patches, double* shared,
                                 double* partial) {
  const TilePlace place = place_in_patch_tile(static_cast<int>(threadIdx.x));
  const int32_t ox = at.tile_x * kPatchTileX + place.x;
  list_patches(at, p.frame, map, patches);
  __syncthreads();
  ThreadSums sums;
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    const Patch patch = patches[tile - at.tile_y];
    if (patch.fits == 0) {
      continue;
    }
    const int32_t wanted_y = tile * kPatchTileY + place.y;
    const int32_t oy = lesser(wanted_y, p.frame.out_height - 1);
    const int32_t left = oy == wanted_y ? p.frame.out_width - ox : 0;
    int32_t taps[kPatchPixels];
    float right[kPatchPixels], low[kPatchPixels];
    uint32_t held = 0;  // bits: positions that the border holds, across and down
    Slopes slopes[kPatchPixels];
#pragma unroll
    for (int k = 0; k < kPatchPixels; ++k) {
      const WarpSample s = patch_sample(map, p.frame, patch,
                                        lesser(ox + pixel_beside(k), p.frame.out_width - 1), oy);
      taps[k] = (s.y.pixel - patch.row) * patch.pitch + (s.x.pixel - patch.column);
      right[k] = s.x.share;
      low[k] = s.y.share;
      held |= (s.x.slope == 0.0f ? 1u : 0u) << k | (s.y.slope == 0.0f ? 16u : 0u) << k;
    }
    for (int32_t c = at.channel; c < at.channel_end; c += Channels) {
      const int32_t count = at.channel_end - c;
      const T* from = plane_at<const T>(p.x, at.image, c);
      if (count >= Channels) {
        fill_patch<Wide, true, Channels>(from, p.x, patch, count, floats);
      } else {
        fill_patch<Wide, false, Channels>(from, p.x, patch, count, floats);
      }
      const T* upstream = plane_at<const T>(p.grad, at.image, c) + (oy * p.grad.stride[2] + ox);
      float values[Channels][kPatchPixels];
#pragma unroll
      for (int n = 0; n < Channels; ++n) {
        const int32_t there = n < count ? left : 0;
        load_pair<Wide>(upstream, there, values[n][0], values[n][1]);
        load_pair<Wide>(upstream + pixel_beside(2), there - pixel_beside(2), values[n][2],
                        values[n][3]);
        upstream += p.grad.stride[1];
      }
      finish_fill();
      __syncthreads();
#pragma unroll
      for (int n = 0; n < Channels; ++n) {
        if (n < count) {
#pragma unroll
          for (int k = 0; k < kPatchPixels; ++k) {
            const float* top = floats + (n * kPatchFloats + taps[k]);
            const float* below = floats + (n * kPatchFloats + taps[k] + patch.pitch);
            const float tap[4] = {top[0], top[1], below[0], below[1]};
            slopes[k].add(values[n][k], tap, right[k], low[k]);
          }
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kPatchPixels; ++k) {
      if (left > pixel_beside(k)) {
        // Products, as elsewhere: what is not finite stays so.
        sums.add(slopes[k].by_x * ((held >> k & 1u) != 0 ? 0.0f : 1.0f),
                 slopes[k].by_y * ((held >> k & 16u) != 0 ? 0.0f : 1.0f), place.x + pixel_beside(k),
                 (tile - at.tile_y) * kPatchTileY + place.y);
      }
    }
  }
  const QuadSteps<T, true> steps(p.x);
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
#pragma unroll 1
    for (int k = patches[tile - at.tile_y].fits == 0 ? 0 : kPatchPixels; k < kPatchPixels; ++k) {
      theta_one(p, map, at, steps, ox + pixel_beside(k), tile * kPatchTileY + place.y,
                place.x + pixel_beside(k), (tile - at.tile_y) * kPatchTileY + place.y, sums);
    }
  }
  reduce_task<kPatchThreads>(sums, at.tile_x * kPatchTileX, at.tile_y * kPatchTileY, shared,
                             partial);
}

}  // namespace fastalign::cuda

// Gradient of a warp to its image, of planes: candidates from a patch in shared memory
// (warp_patch.cuh).
//
// Idea. The output pixels that touch a tile of the image lie in a box of grad, whose copy holds
// zeros beyond the output. Every pixel walks through a box of the same size, 3 x 3 for turns at
// scale 1: no bounds, no list, a weight in five instructions and two for each channel that a
// candidate gives to. Candidates that do not touch (five of nine) are not read, so that what they
// hold does not matter.
//
// Bytes: as warp_gather.cuh from device memory, 2.3 times grad from the second-level cache.
//
// Why: the search for candidates and its lists took 710 instructions a pixel of three channels on
// an H200, 71 % of its issue slots at 15 % of its memory; here they are 220.
#pragma once

#include "warp_gather.cuh"
#include "warp_patch.cuh"

namespace fastalign::cuda {

// A patch of grad, and where its first pixel samples.
struct GatherPatch {
  Patch box;
  int64_t x, y;
};

// What touches the tile of the image that begins at (x, y).
FASTALIGN_DEVICE GatherPatch patch_over(const WarpPlan& plan, const WarpFrame& frame, int32_t x,
                                        int32_t y) {
  if (plan.gathered == 0 || plan.boxed == 0) {
    return GatherPatch{};
  }
  const int32_t more_x = lesser(kPatchTileX, frame.width - x) - 1;
  const int32_t more_y = lesser(kPatchTileY, frame.height - y) - 1;
  const FixedSpan across = span_of(plan.column, x, y, more_x, more_y);
  const FixedSpan down = span_of(plan.row, x, y, more_x, more_y);
  const Patch box = patch_between(whole_pixels(across.low - plan.half_width) + 1,
                                  whole_pixels(across.high - plan.half_width) + plan.box_width,
                                  whole_pixels(down.low - plan.half_height) + 1,
                                  whole_pixels(down.high - plan.half_height) + plan.box_height);
  return {box, fixed_at(plan.map.x, box.column, box.row),
          fixed_at(plan.map.y, box.column, box.row)};
}

// Pixels of the image from the first of a box: exact to 2^-27, for boxes near enough.
FASTALIGN_DEVICE float near_pixels(int64_t fixed) {
  return static_cast<float>(static_cast<int32_t>(fixed >> 6)) * 1.4901161193847656e-08f;
}

// A pixel's box: its first output pixel in the patch, and from there to the pixel.
struct PatchBox {
  int32_t first;
  float x, y;
};

FASTALIGN_DEVICE PatchBox patch_box(const WarpPlan& plan, const GatherPatch& patch, int32_t column,
                                    int32_t row) {
  const int32_t ox =
      whole_pixels(plan.column.at(column, row) - plan.half_width) + 1 - patch.box.column;
  const int32_t oy = whole_pixels(plan.row.at(column, row) - plan.half_height) + 1 - patch.box.row;
  const FixedRow x = {plan.map.x.by_x, plan.map.x.by_y, patch.x};
  const FixedRow y = {plan.map.y.by_x, plan.map.y.by_y, patch.y};
  return {oy * patch.box.pitch + ox, near_pixels(x.at(ox, oy) - column * kOnePixel),
          near_pixels(y.at(ox, oy) - row * kOnePixel)};
}

// Steps of the position, in pixels.
struct BoxSteps {
  float x_across, x_down, y_across, y_down;
};

// Adds one candidate to a pixel's sums, if it touches.
template <int Channels>
FASTALIGN_DEVICE void add_candidate(const float* from, float x, float y, float (&sums)[Channels]) {
  const float weight = __saturatef(1.0f - fabsf(x)) * __saturatef(1.0f - fabsf(y));
  if (weight > 0.0f) {
#pragma unroll
    for (int n = 0; n < Channels; ++n) {
      sums[n] = fmaf(from[n * kPatchFloats], weight, sums[n]);
    }
  }
}

// All candidates of a pixel, rows then columns; `Usual`: of a box of kUsualBox of both.
template <bool Usual, int Channels>
FASTALIGN_DEVICE void add_box(const float* from, const PatchBox& box, const BoxSteps& steps,
                              const WarpPlan& plan, int32_t pitch, float (&sums)[Channels]) {
  const int32_t rows = Usual ? kUsualBox : plan.box_height;
  const int32_t columns = Usual ? kUsualBox : plan.box_width;
  from += box.first;
#pragma unroll(Usual ? kUsualBox : 1)
  for (int32_t j = 0; j < rows; ++j) {
    const float down = static_cast<float>(j);
    const float x = fmaf(down, steps.x_down, box.x), y = fmaf(down, steps.y_down, box.y);
#pragma unroll(Usual ? kUsualBox : 1)
    for (int32_t i = 0; i < columns; ++i) {
      const float across = static_cast<float>(i);
      add_candidate<Channels>(from + i, fmaf(across, steps.x_across, x),
                              fmaf(across, steps.y_across, y), sums);
    }
    from += pitch;
  }
}

// A thread's pixels, of which `left` columns lie to the right of the first.
template <bool Usual, bool Wide, int Channels, class T>
FASTALIGN_DEVICE void gather_boxes(const float* floats, const PatchBox (&boxes)[kPatchPixels],
                                   const BoxSteps& steps, const WarpPlan& plan, int32_t pitch,
                                   int32_t count, T* to, int64_t plane, int32_t left) {
#pragma unroll
  for (int pair = 0; pair < kPatchPixels; pair += 2) {
    float one[Channels] = {}, two[Channels] = {};
    add_box<Usual, Channels>(floats, boxes[pair], steps, plan, pitch, one);
    add_box<Usual, Channels>(floats, boxes[pair + 1], steps, plan, pitch, two);
    T* target = to + pixel_beside(pair);
#pragma unroll
    for (int n = 0; n < Channels; ++n) {
      if (n < count) {
        store_pair<Wide>(target, one[n], two[n], left - pixel_beside(pair));
      }
      target += plane;
    }
  }
}

// The task of a block whose threads have its plan; `floats` hold patches, or lists in their place,
// and `patches` a place for each of its tiles. `Wide`: rows of grad are whole fours, of dx whole
// pairs. `Channels` at once.
template <bool Wide, int Channels, class T>
FASTALIGN_DEVICE void gather_task(const WarpBackwardParams& p, const WarpPlan& plan,
                                  const WarpTask& at, float* floats, GatherPatch* patches) {
  if (plan.gathered == 0) {
    return;
  }
  const int thread = static_cast<int>(threadIdx.x);
  const TilePlace place = place_in_patch_tile(thread);
  const int32_t column = at.tile_x * kPatchTileX + place.x;
  if (thread < at.tile_end - at.tile_y) {
    patches[thread] =
        patch_over(plan, p.frame, at.tile_x * kPatchTileX, (at.tile_y + thread) * kPatchTileY);
  }
  __syncthreads();
  const bool usual = plan.box_width == kUsualBox && plan.box_height == kUsualBox;
  const BoxSteps steps = {RowOfWeights<false>::to_pixels(plan.map.x.by_x),
                          RowOfWeights<false>::to_pixels(plan.map.x.by_y),
                          RowOfWeights<false>::to_pixels(plan.map.y.by_x),
                          RowOfWeights<false>::to_pixels(plan.map.y.by_y)};
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    const GatherPatch patch = patches[tile - at.tile_y];
    if (patch.box.fits == 0) {
      continue;
    }
    // Lanes beyond the image repeat its last pixels and do not write; outer pixels that are swept
    // are written again.
    const int32_t wanted = tile * kPatchTileY + place.y;
    const int32_t row = lesser(wanted, p.frame.height - 1);
    const int32_t left = row == wanted ? p.frame.width - column : 0;
    PatchBox boxes[kPatchPixels];
#pragma unroll
    for (int k = 0; k < kPatchPixels; ++k) {
      boxes[k] = patch_box(plan, patch, lesser(column + pixel_beside(k), p.frame.width - 1), row);
    }
    for (int32_t c = at.channel; c < at.channel_end; c += Channels) {
      const int32_t count = at.channel_end - c;
      const T* from = plane_at<const T>(p.grad, at.image, c);
      if (count >= Channels) {
        fill_patch<Wide, true, Channels>(from, p.grad, patch.box, count, floats);
      } else {
        fill_patch<Wide, false, Channels>(from, p.grad, patch.box, count, floats);
      }
      finish_fill();
      __syncthreads();
      T* to = plane_at<T>(p.dx, at.image, c) + (row * p.dx.stride[2] + column);
      if (usual) {
        gather_boxes<true, Wide, Channels>(floats, boxes, steps, plan, patch.box.pitch, count, to,
                                           p.dx.stride[1], left);
      } else {
        gather_boxes<false, Wide, Channels>(floats, boxes, steps, plan, patch.box.pitch, count, to,
                                            p.dx.stride[1], left);
      }
      __syncthreads();
    }
  }
  Candidate* list = reinterpret_cast<Candidate*>(floats) + thread;
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
#pragma unroll 1
    for (int k = patches[tile - at.tile_y].box.fits == 0 ? 0 : kPatchPixels; k < kPatchPixels;
         ++k) {
      gather_one<T, false, kPatchThreads>(p, plan, at, column + pixel_beside(k),
                                          tile * kPatchTileY + place.y, list);
    }
  }
}

}  // namespace fastalign::cuda

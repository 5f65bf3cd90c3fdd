// Gradient of a warp to its image, for maps with a good inverse: each pixel has one writer.
//
// Idea. The output pixels that sample a pixel lie in a box around its image under the inverse map,
// 3 x 3 for a turn; a thread walks through it with integer steps of the position, keeps those that
// touch with their weights (4 on average at scale 1) in a list in shared memory, and the list
// serves all channels. No atomics, no zeroed buffer, sums in the order of output rows and columns.
// Lanes along pixels or along channels as in warp_affine.cuh. Pixels with more candidates than a
// list holds walk through the box again for every block of channels.
//
// Bytes: grad once, dx once, as they must be.
#pragma once

#include "warp_plan.cuh"

namespace fastalign::cuda {

// An output pixel that touches: row << 16 | column, and its weight.
struct alignas(8) Candidate {
  uint32_t place;
  float weight;
};

FASTALIGN_DEVICE int64_t place_offset(uint32_t place, const View4& view) {
  return static_cast<int64_t>(place >> 16) * view.stride[2] +
         static_cast<int64_t>(place & 0xffffu) * view.stride[3];
}

// 1 - |distance| where that is positive.
FASTALIGN_DEVICE float tent(int64_t distance) {
  const int32_t whole = whole_pixels(distance);
  const float part = fraction(distance);
  return whole == 0 ? 1.0f - part : (whole == -1 ? part : 0.0f);
}

// Weight of a sample at a distance from a pixel that padding leaves alone.
template <bool Nearest>
FASTALIGN_DEVICE float weight_at(int64_t dx, int64_t dy, int32_t column, int32_t row) {
  if constexpr (Nearest) {
    // Halves go to the even pixel.
    const int64_t reach_x = kHalfPixel - (column & 1), reach_y = kHalfPixel - (row & 1);
    return dx >= -reach_x && dx <= reach_x && dy >= -reach_y && dy <= reach_y ? 1.0f : 0.0f;
  } else {
    const uint32_t near_x = static_cast<uint32_t>(whole_pixels(dx) + 1);
    const uint32_t near_y = static_cast<uint32_t>(whole_pixels(dy) + 1);
    return (near_x | near_y) < 2u ? tent(dx) * tent(dy) : 0.0f;
  }
}

// The box of output pixels that may touch position (u, v) of the unfolded plane.
struct Box {
  int32_t first_x, last_x, first_y, last_y;
};

FASTALIGN_DEVICE int64_t fixed_at(const FixedRow& row, int64_t x, int64_t y) {
  return row.by_x * x + row.by_y * y + row.offset;
}

FASTALIGN_DEVICE Box box_around(const WarpPlan& plan, const WarpFrame& frame, int64_t u,
                                int64_t v) {
  const int64_t x = fixed_at(plan.column, u, v), y = fixed_at(plan.row, u, v);
  return {greater(whole_pixels(x - plan.half_width) + 1, 0),
          lesser(whole_pixels(x + plan.half_width), frame.out_width - 1),
          greater(whole_pixels(y - plan.half_height) + 1, 0),
          lesser(whole_pixels(y + plan.half_height), frame.out_height - 1)};
}

// Calls visit(place, weight) for every output pixel that samples pixel (column, row), in order.
// Padding does not move samples this near to a pixel that is not an outer one, but for mirroring.
template <bool Nearest, class Visit>
FASTALIGN_DEVICE void visit_candidates(const WarpPlan& plan, const WarpFrame& frame, int32_t column,
                                       int32_t row, const Visit& visit) {
  const int32_t span_x = fold_span(frame.width, frame.align_corners);
  const int32_t span_y = fold_span(frame.height, frame.align_corners);
  for (int32_t fold_y = plan.folds_y.first; fold_y <= plan.folds_y.last; ++fold_y) {
    const int64_t v = unfolded(row, fold_y, frame.height, span_y);
    for (int32_t fold_x = plan.folds_x.first; fold_x <= plan.folds_x.last; ++fold_x) {
      const int64_t u = unfolded(column, fold_x, frame.width, span_x);
      const Box box = box_around(plan, frame, u, v);
      if (box.first_x > box.last_x || box.first_y > box.last_y) {
        continue;
      }
      int64_t row_dx = plan.map.x.at(box.first_x, box.first_y) - u * kOnePixel;
      int64_t row_dy = plan.map.y.at(box.first_x, box.first_y) - v * kOnePixel;
      for (int32_t oy = box.first_y; oy <= box.last_y; ++oy) {
        int64_t dx = row_dx, dy = row_dy;
        for (int32_t ox = box.first_x; ox <= box.last_x; ++ox) {
          const float weight = weight_at<Nearest>(dx, dy, column, row);
          if (weight > 0.0f) {
            visit(static_cast<uint32_t>(oy) << 16 | static_cast<uint32_t>(ox), weight);
          }
          dx += plan.map.x.by_x;
          dy += plan.map.y.by_x;
        }
        row_dx += plan.map.x.by_y;
        row_dy += plan.map.y.by_y;
      }
    }
  }
}

// Those of a pixel's candidates from the `skip`th on that fit its list, whose entries are `step`
// apart; gives how many there are in all.
template <bool Nearest>
FASTALIGN_DEVICE int32_t list_candidates(const WarpPlan& plan, const WarpFrame& frame,
                                         int32_t column, int32_t row, Candidate* list, int step,
                                         int32_t skip, int32_t capacity) {
  int32_t count = 0;
  visit_candidates<Nearest>(plan, frame, column, row, [&](uint32_t place, float weight) {
    const int32_t entry = count - skip;
    if (entry >= 0 && entry < capacity) {
      list[entry * step] = {place, weight};
    }
    ++count;
  });
  return count;
}

template <class T>
FASTALIGN_DEVICE void add_planes(const T* grad, int64_t channel, int32_t count, float weight,
                                 float (&sums)[kChannelBlock]) {
  float values[kChannelBlock];
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    values[c] = c < count ? load_float(grad + c * channel) : 0.0f;
  }
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    sums[c] = fmaf(values[c], weight, sums[c]);
  }
}

// Lanes along pixels, any strides.
template <class T, bool Nearest>
FASTALIGN_KERNEL(kWarpThreads, 4)
gather_planes(const WarpBackwardParams p) {
  FASTALIGN_DYNAMIC_SHARED(Candidate, lists);
  const int thread = static_cast<int>(threadIdx.x);
  WarpPlan& plan = *reinterpret_cast<WarpPlan*>(lists + p.capacity * kWarpThreads);
  Candidate* list = lists + thread;
  const TilePlace place = place_in_plane_tile<T>(thread);
  for (int64_t task = blockIdx.x; task < p.tiling.tasks; task += gridDim.x) {
    const WarpTask at = task_at(p.tiling, task, static_cast<int32_t>(p.dx.size[1]));
    copy_plan(p.scratch, at.image, &plan);
    const T* grad = plane_at<const T>(p.grad, at.image, at.channel);
    T* dx = plane_at<T>(p.dx, at.image, at.channel);
    for (int32_t tile = at.tile_y; plan.gathered != 0 && tile < at.tile_end; ++tile) {
      const int32_t column = at.tile_x * kPlaneTileX + place.x;
      const int32_t row = tile * kPlaneTileY + place.y;
      const bool mine =
          column < p.frame.width && row < p.frame.height && !swept_outside(column, row, p.frame);
      if (!mine) {
        continue;
      }
      T* to = dx + (row * p.dx.stride[2] + column * p.dx.stride[3]);
      const T* from = grad;
      int32_t found = 0;
      for (int32_t c = at.channel; c < at.channel_end; c += kChannelBlock) {
        const int32_t count = at.channel_end - c;
        float sums[kChannelBlock] = {};
        int32_t listed = 0;
        do {
          if (c == at.channel || found > p.capacity) {
            found = list_candidates<Nearest>(plan, p.frame, column, row, list, kWarpThreads, listed,
                                             p.capacity);
          }
          const int32_t entries = lesser(found - listed, p.capacity);
#pragma unroll 2
          for (int32_t k = 0; k < entries; ++k) {
            const Candidate one = list[k * kWarpThreads];
            add_planes(from + place_offset(one.place, p.grad), p.grad.stride[1], count, one.weight,
                       sums);
          }
          listed += p.capacity;
        } while (listed < found);
#pragma unroll
        for (int k = 0; k < kChannelBlock; ++k) {
          if (k < count) {
            to[k * p.dx.stride[1]] = from_float<T>(sums[k]);
          }
        }
        from += kChannelBlock * p.grad.stride[1];
        to += kChannelBlock * p.dx.stride[1];
      }
    }
    __syncthreads();  // the next task's plan overwrites this one
  }
}

template <int N, class T>
FASTALIGN_DEVICE void add_vector(const T* grad, float weight, float (&sums)[N]) {
  const Vec<T, N> values = load_vec<N, Cache::readonly>(grad);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[i] = fmaf(values.as_float(i), weight, sums[i]);
  }
}

// Lanes along channels, which are neighbours in memory, N at a time.
template <class T, int N, bool Nearest>
FASTALIGN_KERNEL(kWarpThreads, 3)
gather_pixels(const WarpBackwardParams p) {
  FASTALIGN_DYNAMIC_SHARED(Candidate, lists);
  WarpPlan& plan = *reinterpret_cast<WarpPlan*>(lists + p.capacity * kTilePixels);
  int32_t* counts = reinterpret_cast<int32_t*>(&plan + 1);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = p.tiling.lanes_per_pixel;
  const int groups = kWarpThreads / lanes, group = thread / lanes, lane = thread % lanes;
  for (int64_t task = blockIdx.x; task < p.tiling.tasks; task += gridDim.x) {
    const WarpTask at = task_at(p.tiling, task, static_cast<int32_t>(p.dx.size[1]));
    copy_plan(p.scratch, at.image, &plan);
    const T* grad = plane_at<const T>(p.grad, at.image, 0);
    T* dx = plane_at<T>(p.dx, at.image, 0);
    for (int32_t tile = at.tile_y; plan.gathered != 0 && tile < at.tile_end; ++tile) {
      const int32_t first_x = at.tile_x * kPixelTile, first_y = tile * kPixelTile;
      if (thread < kTilePixels) {
        const int32_t column = first_x + thread % kPixelTile, row = first_y + thread / kPixelTile;
        const bool mine =
            column < p.frame.width && row < p.frame.height && !swept_outside(column, row, p.frame);
        counts[thread] = mine ? list_candidates<Nearest>(plan, p.frame, column, row, lists + thread,
                                                         kTilePixels, 0, p.capacity)
                              : -1;
      }
      __syncthreads();
      for (int pixel = group; pixel < kTilePixels; pixel += groups) {
        const int32_t column = first_x + pixel % kPixelTile, row = first_y + pixel / kPixelTile;
        const int32_t found = counts[pixel];
        if (found < 0) {
          continue;
        }
        T* to = dx + (row * p.dx.stride[2] + column * p.dx.stride[3]);
        for (int32_t c = at.channel + lane * N; c < at.channel_end; c += lanes * N) {
          float sums[N] = {};
          if (found <= p.capacity) {
#pragma unroll 4
            for (int32_t k = 0; k < found; ++k) {
              const Candidate one = lists[k * kTilePixels + pixel];
              add_vector<N>(grad + place_offset(one.place, p.grad) + c, one.weight, sums);
            }
          } else {
            visit_candidates<Nearest>(
                plan, p.frame, column, row, [&](uint32_t where, float weight) {
                  add_vector<N>(grad + place_offset(where, p.grad) + c, weight, sums);
                });
          }
          store_vec(to + c, from_floats<T>(sums));
        }
      }
      __syncthreads();
    }
    __syncthreads();
  }
}

}  // namespace fastalign::cuda

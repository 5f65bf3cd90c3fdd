// Gradient of a warp to its image, for maps with a good inverse: each pixel has one writer.
//
// Idea. The output pixels that sample a pixel lie in a box around its image under the inverse map,
// 3 x 3 for a turn; a thread walks through it with integer steps of the position, keeps those that
// touch with their weights (4 on average at scale 1) in a list in shared memory, and the list
// serves all channels. No atomics, no zeroed buffer, sums in the order of output rows and columns.
// Lanes along pixels or along channels as in warp_affine.cuh. Pixels with more candidates than a
// list holds walk through the box again for every block of channels.
//
// Bytes it must move: grad once, dx once. Bytes it moves: the same; the lists stay on chip, and the
// candidates of neighbouring pixels overlap and meet in the first-level cache.
//
// Why: scattering from output pixels needs atomics on zeroed memory (dx twice more) or sorting, and
// its sums depend on the order of arrival. Finding the candidates costs some 400 integer and float
// instructions per pixel, half of the time at three channels and little at many; eight loads in
// flight per thread keep an H100 busy at 24 warps. Small chips get shorter lists (20 KB a block),
// so that three blocks fit beside the cache.
#pragma once

#include "warp_plan.cuh"

namespace fastalign::cuda {

// An output pixel that touches: its offset in a plane of grad, in units of
// WarpBackwardParams::where_unit elements, and its weight.
struct alignas(8) Candidate {
  int32_t where;
  float weight;
};

// Weights of the output pixels of rows, each from the distance of the first to a pixel that padding
// leaves alone. Bilinear: floats, exact at the start of the row; over the few steps of a box the
// error stays near 1e-7. Nearest: exact, with halves going to the even pixel.
template <bool Nearest>
struct RowOfWeights;

template <>
struct RowOfWeights<false> {
  float x, y, step_x, step_y;

  FASTALIGN_DEVICE RowOfWeights(const FixedRow& map_x, const FixedRow& map_y, int32_t, int32_t)
      : step_x(to_pixels(map_x.by_x)), step_y(to_pixels(map_y.by_x)) {}

  FASTALIGN_DEVICE void start(int64_t dx, int64_t dy) {
    x = to_pixels(dx);
    y = to_pixels(dy);
  }

  FASTALIGN_DEVICE static float to_pixels(int64_t fixed) {
    return static_cast<float>(fixed) * 2.3283064365386963e-10f;
  }

  FASTALIGN_DEVICE float next() {
    const float weight = fmaxf(1.0f - fabsf(x), 0.0f) * fmaxf(1.0f - fabsf(y), 0.0f);
    x += step_x;
    y += step_y;
    return weight;
  }
};

template <>
struct RowOfWeights<true> {
  int64_t x, y, step_x, step_y, reach_x, reach_y;

  FASTALIGN_DEVICE RowOfWeights(const FixedRow& map_x, const FixedRow& map_y, int32_t column,
                                int32_t row)
      : step_x(map_x.by_x),
        step_y(map_y.by_x),
        reach_x(kHalfPixel - (column & 1)),
        reach_y(kHalfPixel - (row & 1)) {}

  FASTALIGN_DEVICE void start(int64_t dx, int64_t dy) {
    x = dx;
    y = dy;
  }

  FASTALIGN_DEVICE float next() {
    const bool near = x >= -reach_x && x <= reach_x && y >= -reach_y && y <= reach_y;
    x += step_x;
    y += step_y;
    return near ? 1.0f : 0.0f;
  }
};

// The box of output pixels that may touch position (u, v) of the unfolded plane.
struct Box {
  int32_t first_x, last_x, first_y, last_y;
};

FASTALIGN_DEVICE int64_t fixed_at(const FixedRow& row, int32_t x, int32_t y) {
  return row.by_x * x + row.by_y * y + row.offset;
}

FASTALIGN_DEVICE Box box_around(const WarpPlan& plan, const WarpFrame& frame, int32_t u,
                                int32_t v) {
  const int64_t x = fixed_at(plan.column, u, v), y = fixed_at(plan.row, u, v);
  return {greater(whole_pixels(x - plan.half_width) + 1, 0),
          lesser(whole_pixels(x + plan.half_width), frame.out_width - 1),
          greater(whole_pixels(y - plan.half_height) + 1, 0),
          lesser(whole_pixels(y + plan.half_height), frame.out_height - 1)};
}

// Calls visit(where, weight) for every output pixel that samples pixel (column, row), in order.
// Padding does not move samples this near to a pixel that is not an outer one, but for mirroring.
template <bool Nearest, class Visit>
FASTALIGN_DEVICE void visit_candidates(const WarpBackwardParams& p, const WarpPlan& plan,
                                       int32_t column, int32_t row, const Visit& visit) {
  const WarpFrame& frame = p.frame;
  const int32_t span_x = fold_span(frame.width, frame.align_corners);
  const int32_t span_y = fold_span(frame.height, frame.align_corners);
  const FixedRow map_x = plan.map.x, map_y = plan.map.y;
  const Folds folds_x = plan.folds_x, folds_y = plan.folds_y;
  RowOfWeights<Nearest> weights(map_x, map_y, column, row);
  for (int32_t fold_y = folds_y.first; fold_y <= folds_y.last; ++fold_y) {
    const int32_t v = unfolded(row, fold_y, frame.height, span_y);
    for (int32_t fold_x = folds_x.first; fold_x <= folds_x.last; ++fold_x) {
      const int32_t u = unfolded(column, fold_x, frame.width, span_x);
      const Box box = box_around(plan, frame, u, v);
      if (box.first_x > box.last_x || box.first_y > box.last_y) {
        continue;
      }
      int64_t dx = map_x.at(box.first_x, box.first_y) - u * kOnePixel;
      int64_t dy = map_y.at(box.first_x, box.first_y) - v * kOnePixel;
      // Unsigned: what goes around comes around.
      uint32_t row_where = static_cast<uint32_t>(box.first_y) * p.where_row +
                           static_cast<uint32_t>(box.first_x) * p.where_column;
      for (int32_t oy = box.first_y; oy <= box.last_y; ++oy) {
        weights.start(dx, dy);
        uint32_t where = row_where;
#pragma unroll 1
        for (int32_t ox = box.first_x; ox <= box.last_x; ++ox) {
          const float weight = weights.next();
          if (weight > 0.0f) {
            visit(static_cast<int32_t>(where), weight);
          }
          where += p.where_column;
        }
        dx += map_x.by_y;
        dy += map_y.by_y;
        row_where += p.where_row;
      }
    }
  }
}

// Those of a pixel's candidates from the `skip`th on that fit its list, whose entries are `step`
// apart; gives how many there are in all.
template <bool Nearest>
FASTALIGN_DEVICE int32_t list_candidates(const WarpBackwardParams& p, const WarpPlan& plan,
                                         int32_t column, int32_t row, Candidate* list, int step,
                                         int32_t skip) {
  const uint32_t capacity = static_cast<uint32_t>(p.capacity);
  int32_t entry = -skip;
  visit_candidates<Nearest>(p, plan, column, row, [&](int32_t where, float weight) {
    if (static_cast<uint32_t>(entry) < capacity) {
      list[entry * step] = {where, weight};
    }
    ++entry;
  });
  return entry + skip;
}

// Adds two entries of a list, or one if that is the last, to the sums of up to four channels,
// whose planes lie `plane` bytes apart: eight loads in flight.
template <class T>
FASTALIGN_DEVICE void add_pair(const char* grad, int64_t plane, int32_t count, int32_t unit,
                               const Candidate& one, const Candidate& two, bool both,
                               float (&sums)[kChannelBlock]) {
  const char* first = grad + static_cast<int64_t>(one.where) * unit;
  const char* second = grad + static_cast<int64_t>(two.where) * unit;
  float values[kChannelBlock] = {}, more[kChannelBlock] = {};
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    if (c < count) {
      values[c] = load_float(reinterpret_cast<const T*>(first));
      more[c] = both ? load_float(reinterpret_cast<const T*>(second)) : 0.0f;
    }
    first += plane;
    second += plane;
  }
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    if (c < count) {
      sums[c] = fmaf(values[c], one.weight, sums[c]);
      sums[c] = fmaf(more[c], two.weight, sums[c]);
    }
  }
}

// The gradients of all channels of a task at pixel (column, row), by a list whose entries are
// `Step` apart.
template <class T, bool Nearest, int Step>
FASTALIGN_DEVICE void gather_one(const WarpBackwardParams& p, const WarpPlan& plan,
                                 const WarpTask& at, int32_t column, int32_t row, Candidate* list) {
  if (column >= p.frame.width || row >= p.frame.height || swept_outside(column, row, p.frame)) {
    return;
  }
  const int64_t plane_bytes = p.grad.stride[1] * static_cast<int64_t>(sizeof(T));
  const int32_t unit_bytes = p.where_unit * static_cast<int32_t>(sizeof(T));
  const char* from = reinterpret_cast<const char*>(plane_at<const T>(p.grad, at.image, at.channel));
  T* to =
      plane_at<T>(p.dx, at.image, at.channel) + (row * p.dx.stride[2] + column * p.dx.stride[3]);
  int32_t found = 0;
  for (int32_t c = at.channel; c < at.channel_end; c += kChannelBlock) {
    const int32_t count = at.channel_end - c;
    float sums[kChannelBlock] = {};
    int32_t listed = 0;
    do {
      if (c == at.channel || found > p.capacity) {
        found = list_candidates<Nearest>(p, plan, column, row, list, Step, listed);
      }
      const int32_t entries = lesser(found - listed, p.capacity);
#pragma unroll 1
      for (int32_t k = 0; k < entries; k += 2) {
        const bool both = k + 1 < entries;
        add_pair<T>(from, plane_bytes, count, unit_bytes, list[k * Step],
                    list[(both ? k + 1 : k) * Step], both, sums);
      }
      listed += p.capacity;
    } while (listed < found);
#pragma unroll
    for (int k = 0; k < kChannelBlock; ++k) {
      if (k < count) {
        to[k * p.dx.stride[1]] = from_float<T>(sums[k]);
      }
    }
    from += kChannelBlock * plane_bytes;
    to += kChannelBlock * p.dx.stride[1];
  }
}

// Lanes along pixels, any strides.
template <class T, bool Nearest>
FASTALIGN_KERNEL(kWarpThreads, 3)
gather_planes(const WarpBackwardParams p) {
  FASTALIGN_DYNAMIC_SHARED(Candidate, lists);
  const int thread = static_cast<int>(threadIdx.x);
  WarpPlan& plan = *reinterpret_cast<WarpPlan*>(lists + p.capacity * kWarpThreads);
  const TilePlace place = place_in_plane_tile<T>(thread);
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.dx.size[1]));
  copy_plan(p.scratch, at.image, &plan);
  for (int32_t tile = at.tile_y; plan.gathered != 0 && tile < at.tile_end; ++tile) {
    gather_one<T, Nearest, kWarpThreads>(p, plan, at, at.tile_x * kPlaneTileX + place.x,
                                         tile * kPlaneTileY + place.y, lists + thread);
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
FASTALIGN_KERNEL(kWarpThreads, Nearest ? 2 : 3)
gather_pixels(const WarpBackwardParams p) {
  FASTALIGN_DYNAMIC_SHARED(Candidate, lists);
  WarpPlan& plan = *reinterpret_cast<WarpPlan*>(lists + p.capacity * kTilePixels);
  int32_t* counts = reinterpret_cast<int32_t*>(&plan + 1);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = p.tiling.lanes_per_pixel;
  const int groups = kWarpThreads / lanes, group = thread / lanes, lane = thread % lanes;
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.dx.size[1]));
  copy_plan(p.scratch, at.image, &plan);
  const T* grad = plane_at<const T>(p.grad, at.image, 0);
  T* dx = plane_at<T>(p.dx, at.image, 0);
  for (int32_t tile = at.tile_y; plan.gathered != 0 && tile < at.tile_end; ++tile) {
    const int32_t first_x = at.tile_x * kPixelTile, first_y = tile * kPixelTile;
    if (thread < kTilePixels) {
      const int32_t column = first_x + thread % kPixelTile, row = first_y + thread / kPixelTile;
      const bool mine =
          column < p.frame.width && row < p.frame.height && !swept_outside(column, row, p.frame);
      counts[thread] =
          mine ? list_candidates<Nearest>(p, plan, column, row, lists + thread, kTilePixels, 0)
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
#pragma unroll(Nearest ? 1 : 4)
          for (int32_t k = 0; k < found; ++k) {
            const Candidate one = lists[k * kTilePixels + pixel];
            add_vector<N>(grad + (static_cast<int64_t>(one.where) * p.where_unit + c), one.weight,
                          sums);
          }
        } else {
          visit_candidates<Nearest>(p, plan, column, row, [&](int32_t where, float weight) {
            add_vector<N>(grad + (static_cast<int64_t>(where) * p.where_unit + c), weight, sums);
          });
        }
        store_vec(to + c, from_floats<T>(sums));
      }
    }
    __syncthreads();
  }
}

}  // namespace fastalign::cuda

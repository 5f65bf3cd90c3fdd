// Gradient of a warp to theta.
//
// Idea. The position of a sample is linear in the pixel map, so the gradient of the map is six
// sums over output pixels: the gradients by x and by y, alone and times the output column and row.
// Blocks add the sums of their tiles (float32 over a few pixels and the channels of a chunk, in
// coordinates relative to the first tile; then float64) into scratch, and a second kernel adds the
// blocks' sums in order and scales them to theta. No atomics; the same bits every time.
//
// Bytes: grad once and x once, as they must be, plus 48 bytes per block. Lanes along pixels or
// along channels as in warp_affine.cuh. It is a walk of its own beside the gather: fused, both
// would read grad through one walk over output pixels, which only atomics could turn into one over
// input pixels. float64 is left to one thread per block, for chips that are slow at it.
#pragma once

#include "warp_plan.cuh"

namespace fastalign::cuda {

constexpr int kThetaSums = 6;  // by x: times column, times row, alone; by y likewise

struct ThetaParams {
  WarpBackwardParams warp;
  double* partial;  // [image][task][kThetaSums]
};

// One thread's sums; columns and rows count from the first tile of the task.
struct ThreadSums {
  float sum[kThetaSums] = {};

  FASTALIGN_DEVICE void add(float by_x, float by_y, int32_t column, int32_t row) {
    const float across = static_cast<float>(column), down = static_cast<float>(row);
    sum[0] = fmaf(by_x, across, sum[0]);
    sum[1] = fmaf(by_x, down, sum[1]);
    sum[2] += by_x;
    sum[3] = fmaf(by_y, across, sum[3]);
    sum[4] = fmaf(by_y, down, sum[4]);
    sum[5] += by_y;
  }
};

constexpr int kThetaShared = kWarpThreads / 32 * kThetaSums;  // doubles

// The block's sums to its place; columns and rows from the origin of the image. `shared` holds
// kThetaSums numbers for each of its warps; all threads call this.
template <int Threads>
FASTALIGN_DEVICE void reduce_task(const ThreadSums& mine, double column, double row, double* shared,
                                  double* partial) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int k = 0; k < kThetaSums; ++k) {
    float sum = mine.sum[k];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, step);
    }
    if (lane == 0) {
      shared[warp * kThetaSums + k] = static_cast<double>(sum);
    }
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    const int axis = static_cast<int>(threadIdx.x) * 3;
    double total[3] = {};
    for (int w = 0; w < Threads / 32; ++w) {
      for (int k = 0; k < 3; ++k) {
        total[k] += shared[w * kThetaSums + axis + k];
      }
    }
    partial[axis] = total[0] + column * total[2];
    partial[axis + 1] = total[1] + row * total[2];
    partial[axis + 2] = total[2];
  }
}

// Gradient by x and y of one product, from its four taps.
struct Slopes {
  float by_x = 0.0f, by_y = 0.0f;

  FASTALIGN_DEVICE void add(float grad, const float (&tap)[4], float right, float low) {
    const float top_step = tap[1] - tap[0], low_step = tap[3] - tap[2];
    const float left_step = tap[2] - tap[0], right_step = tap[3] - tap[1];
    by_x = fmaf(grad, fmaf(low, low_step, (1.0f - low) * top_step), by_x);
    by_y = fmaf(grad, fmaf(right, right_step, (1.0f - right) * left_step), by_y);
  }
};

// The gradients of up to kChannelBlock channels by the position of one sample.
template <class T, bool Checked, bool Unit>
FASTALIGN_DEVICE void add_channels(const char* from, const QuadSteps<T, Unit>& steps,
                                   const bool (&exists)[4], const char* grad, int64_t grad_plane,
                                   int32_t count, float right, float low, Slopes& slopes) {
  float values[kChannelBlock][4], upstream[kChannelBlock];
  load_quads<T, false, Checked>(from, steps, exists, count, values);
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    upstream[c] = c < count ? load_float(reinterpret_cast<const T*>(grad)) : 0.0f;
    grad += grad_plane;
  }
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    slopes.add(upstream[c], values[c], right, low);
  }
}

// What all channels of a task give at output pixel (ox, oy), which lies (column, row) from the
// first of the task.
template <class T, bool Unit>
FASTALIGN_DEVICE void theta_one(const WarpBackwardParams& p, const WarpMap& map, const WarpTask& at,
                                const QuadSteps<T, Unit>& steps, int32_t ox, int32_t oy,
                                int32_t column, int32_t row, ThreadSums& sums) {
  if (ox >= p.frame.out_width || oy >= p.frame.out_height) {
    return;
  }
  const int64_t grad_plane = p.grad.stride[1] * static_cast<int64_t>(sizeof(T));
  const T* x = plane_at<const T>(p.x, at.image, at.channel);
  const T* grad = plane_at<const T>(p.grad, at.image, at.channel);
  const WarpSample s = sample_at(map, p.frame, ox, oy);
  bool exists[4];
  taps_inside(s.x.pixel, s.y.pixel, p.frame).each(exists);
  const char* from =
      reinterpret_cast<const char*>(x + (s.y.pixel * p.x.stride[2] + s.x.pixel * p.x.stride[3]));
  const char* upstream =
      reinterpret_cast<const char*>(grad + (oy * p.grad.stride[2] + ox * p.grad.stride[3]));
  Slopes slopes;
  for (int32_t c = at.channel; c < at.channel_end; c += kChannelBlock) {
    add_channels<T, true>(from, steps, exists, upstream, grad_plane, at.channel_end - c, s.x.share,
                          s.y.share, slopes);
    from += kChannelBlock * steps.plane;
    upstream += kChannelBlock * grad_plane;
  }
  sums.add(slopes.by_x * s.x.slope, slopes.by_y * s.y.slope, column, row);
}

template <class T, bool Unit>
FASTALIGN_KERNEL(kWarpThreads, 4)
theta_planes(const ThetaParams params) {
  FASTALIGN_DYNAMIC_SHARED(double, shared);
  WarpMap& map = *reinterpret_cast<WarpMap*>(shared + kThetaShared);
  const WarpBackwardParams& p = params.warp;
  const TilePlace place = place_in_plane_tile<T>(static_cast<int>(threadIdx.x));
  const QuadSteps<T, Unit> steps(p.x);
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.x.size[1]));
  copy_plan(p.scratch, at.image, &map);
  ThreadSums sums;
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    theta_one(p, map, at, steps, at.tile_x * kPlaneTileX + place.x, tile * kPlaneTileY + place.y,
              place.x, (tile - at.tile_y) * kPlaneTileY + place.y, sums);
  }
  reduce_task<kWarpThreads>(sums, at.tile_x * kPlaneTileX, at.tile_y * kPlaneTileY, shared,
                            params.partial + int64_t{blockIdx.x} * kThetaSums);
}

// As StoredSample of the forward, with the slopes of padding.
struct alignas(8) SlopedSample {
  int32_t column, row;
  float right, low;
  float slope_x, slope_y;
};

template <class T, int N>
FASTALIGN_KERNEL(kWarpThreads, 4)
theta_pixels(const ThetaParams params) {
  FASTALIGN_DYNAMIC_SHARED(double, shared);
  WarpMap& map = *reinterpret_cast<WarpMap*>(shared + kThetaShared);
  SlopedSample* samples = reinterpret_cast<SlopedSample*>(&map + 1);
  const WarpBackwardParams& p = params.warp;
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = p.tiling.lanes_per_pixel;
  const int groups = kWarpThreads / lanes, group = thread / lanes, lane = thread % lanes;
  const int64_t right = p.x.stride[3], below = p.x.stride[2];
  const int64_t offsets[4] = {0, right, below, below + right};
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.x.size[1]));
  copy_plan(p.scratch, at.image, &map);
  const T* x = plane_at<const T>(p.x, at.image, 0);
  const T* grad = plane_at<const T>(p.grad, at.image, 0);
  ThreadSums sums;
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    const int32_t first_x = at.tile_x * kPixelTile, first_y = tile * kPixelTile;
    if (thread < kTilePixels) {
      const WarpSample s =
          sample_at(map, p.frame, lesser(first_x + thread % kPixelTile, p.frame.out_width - 1),
                    lesser(first_y + thread / kPixelTile, p.frame.out_height - 1));
      samples[thread] = {s.x.pixel, s.y.pixel, s.x.share, s.y.share, s.x.slope, s.y.slope};
    }
    __syncthreads();
    for (int pixel = group; pixel < kTilePixels; pixel += groups) {
      const int32_t ox = first_x + pixel % kPixelTile, oy = first_y + pixel / kPixelTile;
      if (ox >= p.frame.out_width || oy >= p.frame.out_height) {
        continue;
      }
      const SlopedSample s = samples[pixel];
      bool exists[4];
      taps_inside(s.column, s.row, p.frame).each(exists);
      const T* from = x + (s.row * below + s.column * right);
      const T* upstream = grad + (oy * p.grad.stride[2] + ox * p.grad.stride[3]);
      Slopes slopes;
      for (int32_t c = at.channel + lane * N; c < at.channel_end; c += lanes * N) {
        const Vec<T, N> g = load_vec<N, Cache::readonly>(upstream + c);
        Vec<T, N> taps[4];
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          taps[t] = load_where<N>(exists[t], from + offsets[t] + c);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float values[4] = {taps[0].as_float(i), taps[1].as_float(i), taps[2].as_float(i),
                                   taps[3].as_float(i)};
          slopes.add(g.as_float(i), values, s.right, s.low);
        }
      }
      sums.add(slopes.by_x * s.slope_x, slopes.by_y * s.slope_y, pixel % kPixelTile,
               (tile - at.tile_y) * kPixelTile + pixel / kPixelTile);
    }
    __syncthreads();
  }
  reduce_task<kWarpThreads>(sums, at.tile_x * kPixelTile, at.tile_y * kPixelTile, shared,
                            params.partial + int64_t{blockIdx.x} * kThetaSums);
}

constexpr int kFinishThreads = 128;

// A block per image adds the tasks' sums, each thread its share in order, then the threads' sums
// by halves, and scales them: with the normalised output coordinate xn = slope * ox + start,
// d(source pixel) / d(theta row) = pixels_per_unit * (xn, yn, 1).
template <class Result>
FASTALIGN_KERNEL(kFinishThreads)
finish_theta(const WarpFrame frame, const void* scratch, const double* partial, int64_t tasks,
             bool empty, Result* dtheta) {
  FASTALIGN_DYNAMIC_SHARED(double, shared);
  const int64_t image = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  double sums[kThetaSums] = {};
  for (int64_t task = thread; task < tasks; task += kFinishThreads) {
    for (int k = 0; k < kThetaSums; ++k) {
      sums[k] += partial[(image * tasks + task) * kThetaSums + k];
    }
  }
  for (int k = 0; k < kThetaSums; ++k) {
    shared[k * kFinishThreads + thread] = sums[k];
  }
  for (int half = kFinishThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      for (int k = 0; k < kThetaSums; ++k) {
        shared[k * kFinishThreads + thread] += shared[k * kFinishThreads + thread + half];
      }
    }
  }
  __syncthreads();
  if (thread < 2) {
    double slope_x, start_x, slope_y, start_y;
    normalised_axis(frame.out_width, frame.align_corners, &slope_x, &start_x);
    normalised_axis(frame.out_height, frame.align_corners, &slope_y, &start_y);
    const double scale =
        pixels_per_unit(thread == 0 ? frame.width : frame.height, frame.align_corners);
    const double column = shared[(thread * 3) * kFinishThreads];
    const double row = shared[(thread * 3 + 1) * kFinishThreads];
    const double alone = shared[(thread * 3 + 2) * kFinishThreads];
    // A map that is not finite has no gradient, whatever the tasks say.
    const WarpPlan* plans = reinterpret_cast<const WarpPlan*>(
        static_cast<const unsigned char*>(scratch) + kPlanHeaderBytes);
    const bool spoiled = !empty && plans[image].map.kind == MapKind::not_finite;
    const double extra = spoiled ? static_cast<double>(bits_to_float(0x7fc00000u)) : 0.0;
    Result* to = dtheta + image * 6 + thread * 3;
    to[0] = static_cast<Result>(scale * (slope_x * column + start_x * alone) + extra);
    to[1] = static_cast<Result>(scale * (slope_y * row + start_y * alone) + extra);
    to[2] = static_cast<Result>(scale * alone + extra);
  }
}

}  // namespace fastalign::cuda

// warp_affine: sampling an image at an affine map of the output pixels, without a grid.
//
// Idea. Positions and taps are found once per output pixel (warp_taps.cuh) and reused over a loop
// of channels. Where pixels are neighbours in memory (NCHW), lanes lie along pixels, in patches of
// 8 x 4 or 16 x 2 so that a turned read meets few cache lines and writes are whole sectors. Where
// channels are neighbours (channels_last), lanes lie along channels: the samples of an 8 x 8 tile
// are prepared in shared memory, then each tap is a run of 16-byte loads.
//
// Bytes it must move: the source pixels that are seen once, the output once; affine_grid plus
// grid_sample writes and reads 8 more bytes per output pixel. Bytes it moves: the same; the four
// taps of neighbouring pixels overlap, and neighbouring tiles meet in L2.
//
// Ladder: a thread per output element spends its time on positions; a thread per pixel with one
// channel in flight waits for memory; four channels in flight (16 loads) is this one. Planes whose
// columns are neighbours go by tiles of the source in shared memory (warp_affine_patches.cuh).
// H100-class chips need the loads in flight, small consumer chips the absence of float64 per
// pixel; neither needs much shared memory (below 2 KB), so registers alone bound occupancy.
#pragma once

#include "warp_tiles.cuh"

namespace fastalign::cuda {

struct WarpParams {
  View4 x, out;
  Theta theta;
  WarpFrame frame;
  WarpTiling tiling;
};

// Up to four channels of one output pixel. `Checked`: some tap of some lane lies outside.
template <class T, bool Nearest, bool Checked, bool Unit>
FASTALIGN_DEVICE void sample_channels(const char* from, const QuadSteps<T, Unit>& steps,
                                      const bool (&exists)[4], const float (&weight)[4], char* to,
                                      int64_t to_plane, int32_t count, bool active) {
  float values[kChannelBlock][4];
  load_quads<T, Nearest, Checked>(from, steps, exists, count, values);
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    if (c < count && active) {
      float sum = values[c][0] * weight[0];
#pragma unroll
      for (int k = 1; k < (Nearest ? 1 : 4); ++k) {
        sum = fmaf(values[c][k], weight[k], sum);
      }
      *reinterpret_cast<T*>(to) = from_float<T>(sum);
    }
    to += to_plane;
  }
}

template <bool Nearest>
FASTALIGN_DEVICE void set_weights(const WarpSample& sample, float (&weight)[4]) {
  const float right = sample.x.share, low = sample.y.share;
  if constexpr (Nearest) {
    weight[0] = right * low;  // 1, or NaN
  } else {
    const float left = 1.0f - right, top = 1.0f - low;
    weight[0] = top * left;
    weight[1] = top * right;
    weight[2] = low * left;
    weight[3] = low * right;
  }
}

// All channels of a task at one output pixel, if that is of the image; whole warps call this.
template <class T, bool Nearest, bool Unit>
FASTALIGN_DEVICE void warp_one(const WarpParams& p, const WarpMap& map, const WarpTask& at,
                               const QuadSteps<T, Unit>& steps, int32_t wanted_x,
                               int32_t wanted_y) {
  // Lanes beyond the image repeat its last pixel and do not write.
  const int32_t ox = lesser(wanted_x, p.frame.out_width - 1);
  const int32_t oy = lesser(wanted_y, p.frame.out_height - 1);
  const bool active = ox == wanted_x && oy == wanted_y;
  const WarpSample sample = sample_at(map, p.frame, ox, oy);
  float weight[4];
  set_weights<Nearest>(sample, weight);
  const TapsInside inside = taps_inside(sample.x.pixel, sample.y.pixel, p.frame);
  bool exists[4];
  inside.each(exists);
  const bool interior = __all_sync(kAllLanes, Nearest ? exists[0] : inside.all());
  const int64_t out_plane = p.out.stride[1] * static_cast<int64_t>(sizeof(T));
  const T* x = plane_at<const T>(p.x, at.image, at.channel);
  T* out = plane_at<T>(p.out, at.image, at.channel);
  const char* from = reinterpret_cast<const char*>(
      x + (sample.y.pixel * p.x.stride[2] + sample.x.pixel * p.x.stride[3]));
  char* to = reinterpret_cast<char*>(out + (oy * p.out.stride[2] + ox * p.out.stride[3]));
  for (int32_t c = at.channel; c < at.channel_end; c += kChannelBlock) {
    const int32_t count = at.channel_end - c;
    if (interior) {
      sample_channels<T, Nearest, false>(from, steps, exists, weight, to, out_plane, count, active);
    } else {
      sample_channels<T, Nearest, true>(from, steps, exists, weight, to, out_plane, count, active);
    }
    from += kChannelBlock * steps.plane;
    to += kChannelBlock * out_plane;
  }
}

// Lanes along pixels, any strides.
template <class T, bool Nearest, bool Unit>
FASTALIGN_KERNEL(kWarpThreads, 4)
warp_planes(const WarpParams p) {
  FASTALIGN_DYNAMIC_SHARED(WarpMap, map);
  const TilePlace place = place_in_plane_tile<T>(static_cast<int>(threadIdx.x));
  const QuadSteps<T, Unit> steps(p.x);
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.x.size[1]));
  prepare_map(p.theta, at.image, p.frame, map);
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    warp_one<T, Nearest>(p, *map, at, steps, at.tile_x * kPlaneTileX + place.x,
                         tile * kPlaneTileY + place.y);
  }
}

// A prepared sample in shared memory, read by all lanes of a pixel in one 16-byte load.
struct alignas(16) StoredSample {
  int32_t column, row;
  float right, low;
};

// N channels of one output pixel: all loads first, then the arithmetic.
template <int N, bool Nearest, class T>
FASTALIGN_DEVICE Vec<T, N> sample_vector(const T* from, int64_t right, int64_t below,
                                         const bool (&exists)[4], const float (&weight)[4]) {
  constexpr int kTaps = Nearest ? 1 : 4;
  const int64_t offsets[4] = {0, right, below, below + right};
  Vec<T, N> taps[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    taps[k] = load_where<N>(exists[k], from + offsets[k]);
  }
  float sums[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[i] = taps[0].as_float(i) * weight[0];
#pragma unroll
    for (int k = 1; k < kTaps; ++k) {
      sums[i] = fmaf(taps[k].as_float(i), weight[k], sums[i]);
    }
  }
  return from_floats<T>(sums);
}

// Lanes along channels, which are neighbours in memory, N at a time.
template <class T, int N, bool Nearest>
FASTALIGN_KERNEL(kWarpThreads, 4)
warp_pixels(const WarpParams p) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  StoredSample* samples = reinterpret_cast<StoredSample*>(shared);
  WarpMap* map = reinterpret_cast<WarpMap*>(samples + kTilePixels);
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = p.tiling.lanes_per_pixel;
  const int groups = kWarpThreads / lanes, group = thread / lanes, lane = thread % lanes;
  const WarpTask at = task_at(p.tiling, blockIdx.x, static_cast<int32_t>(p.x.size[1]));
  prepare_map(p.theta, at.image, p.frame, map);
  const T* x = plane_at<const T>(p.x, at.image, 0);
  T* out = plane_at<T>(p.out, at.image, 0);
  for (int32_t tile = at.tile_y; tile < at.tile_end; ++tile) {
    const int32_t first_x = at.tile_x * kPixelTile, first_y = tile * kPixelTile;
    if (thread < kTilePixels) {
      const WarpSample s =
          sample_at(*map, p.frame, lesser(first_x + thread % kPixelTile, p.frame.out_width - 1),
                    lesser(first_y + thread / kPixelTile, p.frame.out_height - 1));
      samples[thread] = {s.x.pixel, s.y.pixel, s.x.share, s.y.share};
    }
    __syncthreads();
    for (int pixel = group; pixel < kTilePixels; pixel += groups) {
      const int32_t ox = first_x + pixel % kPixelTile, oy = first_y + pixel / kPixelTile;
      if (ox >= p.frame.out_width || oy >= p.frame.out_height) {
        continue;
      }
      const StoredSample s = samples[pixel];
      float weight[4];
      set_weights<Nearest>({{0, s.right, 0.0f, 0}, {0, s.low, 0.0f, 0}}, weight);
      bool exists[4];
      taps_inside(s.column, s.row, p.frame).each(exists);
      const T* from = x + (s.row * p.x.stride[2] + s.column * p.x.stride[3]);
      T* to = out + (oy * p.out.stride[2] + ox * p.out.stride[3]);
      for (int32_t c = at.channel + lane * N; c < at.channel_end; c += lanes * N) {
        store_vec(to + c, sample_vector<N, Nearest>(from + c, p.x.stride[3], p.x.stride[2], exists,
                                                    weight));
      }
    }
    __syncthreads();
  }
}

}  // namespace fastalign::cuda

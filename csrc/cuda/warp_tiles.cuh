// How a warp's work is cut into blocks, and how threads lie on a tile of pixels.
#pragma once

#include "device.h"
#include "launchers.h"
#include "warp_taps.cuh"

namespace fastalign::cuda {

constexpr int kWarpThreads = 256;

// Tiles of pixels, side by side. A task is a run of tiles, one below the other, of one image for
// one chunk of channels, and a block takes one.
struct WarpTiling {
  int32_t across, down;     // tiles of an image
  int32_t run, runs;        // tiles of a task, tasks from top to bottom
  int32_t chunk, chunks;    // channels of a task, tasks over channels
  int64_t tasks_per_image;  // across * runs * chunks
  int64_t tasks;
  int32_t lanes_per_pixel;  // of the channels_last kernels
};

struct WarpTask {
  int64_t image, index;  // index among the tasks of the image
  int32_t tile_x, tile_y, tile_end;
  int32_t channel, channel_end;
};

FASTALIGN_DEVICE int32_t lesser(int32_t a, int32_t b) { return a < b ? a : b; }
FASTALIGN_DEVICE int32_t greater(int32_t a, int32_t b) { return a > b ? a : b; }

// Of an image's tasks.
FASTALIGN_DEVICE WarpTask task_of(const WarpTiling& tiling, int64_t image, int64_t number,
                                  int32_t channels) {
  WarpTask at;
  at.image = image;
  at.index = number;
  const uint32_t index = static_cast<uint32_t>(number);
  const uint32_t chunk = index % static_cast<uint32_t>(tiling.chunks);
  const uint32_t place = index / static_cast<uint32_t>(tiling.chunks);
  at.tile_x = static_cast<int32_t>(place % static_cast<uint32_t>(tiling.across));
  at.tile_y = static_cast<int32_t>(place / static_cast<uint32_t>(tiling.across)) * tiling.run;
  at.tile_end = lesser(at.tile_y + tiling.run, tiling.down);
  at.channel = static_cast<int32_t>(chunk) * tiling.chunk;
  at.channel_end = lesser(at.channel + tiling.chunk, channels);
  return at;
}

// Of all.
FASTALIGN_DEVICE WarpTask task_at(const WarpTiling& tiling, int64_t task, int32_t channels) {
  return task_of(tiling, task / tiling.tasks_per_image, task % tiling.tasks_per_image, channels);
}

// Tiles of 32 x 8 pixels for kernels with lanes along pixels. The 32 lanes of a warp cover a patch
// whose rows are 32 bytes, one sector, so that writes are whole sectors while reads of a turned
// image meet few lines: 8 x 4 pixels of float32, 16 x 2 of 16 bits.
constexpr int kPlaneTileX = 32, kPlaneTileY = 8;

struct TilePlace {
  int32_t x, y;
};

template <class T>
FASTALIGN_DEVICE TilePlace place_in_plane_tile(int thread) {
  constexpr int patch_x = sizeof(T) == 4 ? 8 : 16, patch_y = 32 / patch_x;
  constexpr int across = kPlaneTileX / patch_x;
  const int warp = thread / 32, lane = thread % 32;
  return {warp % across * patch_x + lane % patch_x, warp / across * patch_y + lane / patch_x};
}

// Tiles of 8 x 8 pixels for kernels with lanes along channels.
constexpr int kPixelTile = 8, kTilePixels = kPixelTile * kPixelTile;

// Measured of these on one H200 (benchmarks/results/gpu/nvidia-h200-counters.md), in float32: 15.52
// waves and 62 % of the issue slots at 31 % of the memory's peak (8x3x1024x1024), 3.88 waves and
// 36 % at 27 % (8x64x128x128): instructions are the limit of the one, loads that are waited for
// that of the other, and neither lacks blocks. Neither number was timed alone: both are estimates.
// The way to do so:
//   python benchmarks/ops.py --device cuda --only warp_affine
//       --plan "warp_affine.cuda: run, chunk" --plan "warp_affine_backward.cuda: run, chunk"
//
// Tasks that a multiprocessor should have: three rounds of the four blocks that registers allow, or
// two of the six of kernels by patches.
constexpr int64_t kTasksPerProcessor = 12;
// Tiles of a task at most, which prepare the map once for all of them.
constexpr int64_t kLongestRun = 4;

// What is forced of a tiling; 0: it is chosen.
struct TilingChoice {
  int32_t run, chunk, lanes;
};

// Enough blocks to fill the device several times, then longer runs, which share the map. tasks ==
// 0: what is forced does not fit.
inline WarpTiling tile_pixels(int64_t batch, int64_t channels, int64_t height, int64_t width,
                              int tile_x, int tile_y, int64_t least_chunk, const Device& device,
                              const TilingChoice& choice) {
  WarpTiling tiling{};
  tiling.across = static_cast<int32_t>(ceil_div(width, tile_x));
  tiling.down = static_cast<int32_t>(ceil_div(height, tile_y));
  const int64_t wanted = kTasksPerProcessor * device.multiprocessors;
  const int64_t tiles = batch * tiling.across * tiling.down;
  int64_t run = kLongestRun, chunk = channels;
  while (run > 1 && tiles / run < wanted) {
    run /= 2;
  }
  while (chunk > least_chunk && tiles * ceil_div(channels, chunk) < wanted) {
    chunk = ceil_div(ceil_div(chunk, 2), least_chunk) * least_chunk;
    if (chunk <= least_chunk) {
      break;
    }
  }
  run = choice.run == 0 ? run : choice.run;
  chunk = choice.chunk == 0 ? chunk : choice.chunk < channels ? choice.chunk : channels;
  tiling.run = static_cast<int32_t>(run);
  tiling.runs = static_cast<int32_t>(ceil_div(tiling.down, run));
  tiling.chunk = static_cast<int32_t>(chunk);
  tiling.chunks = static_cast<int32_t>(ceil_div(channels, chunk));
  tiling.tasks_per_image = int64_t{tiling.across} * tiling.runs * tiling.chunks;
  tiling.tasks = batch * tiling.tasks_per_image;
  return tiling;
}

// Neighbouring lanes for the vectors of one pixel: a power of two, few of them idle.
inline int32_t lanes_for(int64_t vectors) {
  for (int32_t lanes = 32; lanes > 1; lanes /= 2) {
    if (ceil_div(vectors, lanes) * lanes * 4 <= vectors * 5) {
      return lanes;
    }
  }
  return 1;
}

// With lanes along channels, `vector` of them in each.
inline WarpTiling tile_channels(int64_t batch, int64_t channels, int64_t height, int64_t width,
                                int64_t vector, const Device& device, const TilingChoice& choice) {
  WarpTiling tiling = tile_pixels(batch, channels, height, width, kPixelTile, kPixelTile,
                                  16 * vector, device, choice);
  tiling.lanes_per_pixel =
      choice.lanes == 0 ? lanes_for(ceil_div(tiling.chunk, vector)) : choice.lanes;
  if (tiling.chunk % vector != 0 && tiling.chunks > 1) {
    tiling.tasks = 0;
  }
  return tiling;
}

// With lanes along pixels, of which one has all channels.
inline WarpTiling tile_planes(int64_t batch, int64_t channels, int64_t height, int64_t width,
                              int64_t least_chunk, const Device& device,
                              const TilingChoice& choice) {
  WarpTiling tiling = tile_pixels(batch, channels, height, width, kPlaneTileX, kPlaneTileY,
                                  least_chunk, device, choice);
  if (choice.lanes > 1) {
    tiling.tasks = 0;
  }
  return tiling;
}

// A block for each task; null, or why there are too many.
inline Error grid_of(const WarpTiling& tiling, dim3* grid) {
  if (tiling.tasks == 0) {
    return kPlanRefused;
  }
  constexpr int64_t kMost = 0x7fffffff;
  if (tiling.tasks > kMost) {
    return "the images have more tiles of pixels than one launch has blocks, 2^31 - 1; "
           "warp the batch in parts";
  }
  *grid = dim3(static_cast<unsigned>(tiling.tasks));
  return nullptr;
}

// Kernels with lanes along channels want neighbouring channels, and enough of them.
template <class T>
bool channels_last(const View4& view) {
  return view.stride[1] == 1 && view.channels() * static_cast<int64_t>(sizeof(T)) >= 16;
}

// Neighbouring columns are neighbours in memory.
inline bool unit_columns(const View4& view) { return view.stride[3] == 1; }

template <class T>
bool whole_vectors(const View4& view) {
  constexpr int64_t size = sizeof(T);
  return view.channels() % kVec<T> == 0 &&
         vector_aligned(16, view.data, view.stride[0] * size, view.stride[2] * size,
                        view.stride[3] * size);
}

}  // namespace fastalign::cuda

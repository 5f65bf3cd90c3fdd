// A patch of a plane in shared memory: what a tile of pixels samples, several channels of it.
//
// Idea. The samples of a tile of 32 x 16 pixels lie in a box of the other plane, whose corners are
// those of the tile under the map. A block copies the box, with zeros for what lies outside of the
// plane, and takes all taps from there: one address a pixel serves all channels and both columns,
// no tap is checked, and lines that a turned read would meet one by one come in whole vectors. At
// 17 degrees a box holds 2.1 times the pixels of its tile; the rest comes from the second-level
// cache, into which the tiles beside it have brought it.
//
// Rows lie 8 * odd words apart where there is room: the 8 x 4 lanes of a warp, two columns apart,
// then take 2.1 rounds for a tap at 17 degrees and 3.2 at most at any angle (3.6 and 8 at multiples
// of 32; benchmarks/micro/shared_banks.py).
//
// Tiles whose box does not fit (strong reduction, maps without fixed point, mirrored edges) go
// pixel by pixel, as planes with other strides do.
#pragma once

#include <type_traits>

#include "copy_async.cuh"
#include "warp_tiles.cuh"

namespace fastalign::cuda {

// For the arena: 0 gives every plane to the kernels without patches.
constexpr int kPatches = 1;

// The tile of a block, and its threads: each has two pairs of pixels, 16 columns apart.
constexpr int kPatchTileX = 32, kPatchTileY = 16;
constexpr int kPatchThreads = kPatchTileX * kPatchTileY / 4;
constexpr int kPatchPixels = 4;
// Floats of one channel: boxes up to 45 degrees, or 17 degrees at 1.25 times the pixels.
constexpr int kPatchFloats = 2048;
// Channels at once: 32 KiB, six blocks of a large multiprocessor.
constexpr int kPatchChannels = 4;
constexpr int kColours = 3;  // of images, which have a kernel of their own: no fourth goes along
constexpr int kPatchBlocks = 6;
// Columns of the widest box.
constexpr int kPatchWidth = 128;

// A box of a plane.
struct alignas(16) Patch {
  int32_t column, row;  // where it begins; the column is a multiple of four
  int32_t fours, rows;  // fours of columns
  int32_t pitch;        // floats from row to row
  int32_t fits;         // into shared memory
  int32_t clamped;      // positions have to be held at the border
};

// Tiles of a task at most, forced ones too.
constexpr int kMostTiles = 8;

// What the threads of a block share besides the floats.
struct PatchTask {
  WarpMap map;
  Patch patches[kMostTiles];
};

// Positions that a rectangle of pixels takes along one axis.
struct FixedSpan {
  int64_t low, high;
};

FASTALIGN_DEVICE FixedSpan span_of(const FixedRow& row, int32_t x, int32_t y, int32_t more_x,
                                   int32_t more_y) {
  const int64_t first = row.at(x, y), across = row.by_x * more_x, down = row.by_y * more_y;
  return {first + (across < 0 ? across : 0) + (down < 0 ? down : 0),
          first + (across > 0 ? across : 0) + (down > 0 ? down : 0)};
}

// The box from (left, top) to (right, low), both included.
FASTALIGN_DEVICE Patch patch_between(int32_t left, int32_t right, int32_t top, int32_t low) {
  Patch patch{};
  patch.column = left & ~3;
  patch.row = top;
  const int64_t fours = ((static_cast<int64_t>(right) - patch.column) >> 2) + 1;
  const int64_t rows = static_cast<int64_t>(low) - top + 1;
  const int64_t width = fours * 4, spread = width + ((8 - width) & 15);
  patch.fits = width <= kPatchWidth && rows * width <= kPatchFloats ? 1 : 0;
  patch.fours = static_cast<int32_t>(fours);
  patch.rows = static_cast<int32_t>(rows);
  patch.pitch = static_cast<int32_t>(rows * spread <= kPatchFloats ? spread : width);
  return patch;
}

// What the samples of a tile touch, which begins at output pixel (x, y).
FASTALIGN_DEVICE Patch patch_under(const WarpMap& map, const WarpFrame& frame, int32_t x,
                                   int32_t y) {
  if (map.kind != MapKind::fixed) {
    return Patch{};
  }
  const int32_t more_x = lesser(kPatchTileX, frame.out_width - x) - 1;
  const int32_t more_y = lesser(kPatchTileY, frame.out_height - y) - 1;
  const FixedSpan across = span_of(map.x, x, y, more_x, more_y);
  const FixedSpan down = span_of(map.y, x, y, more_x, more_y);
  int32_t left = whole_pixels(across.low), right = whole_pixels(across.high);
  int32_t top = whole_pixels(down.low), low = whole_pixels(down.high);
  // Padding leaves positions alone that are greater than 0 and below the last pixel.
  const bool inner = left >= 1 && right < frame.width - 1 && top >= 1 && low < frame.height - 1;
  const bool clamped = !inner && frame.padding == Padding::border;
  if (clamped) {
    left = clamp_between(left, 0, frame.width - 1);
    right = clamp_between(right, 0, frame.width - 1);
    top = clamp_between(top, 0, frame.height - 1);
    low = clamp_between(low, 0, frame.height - 1);
  }
  Patch patch = patch_between(left, right + 1, top, low + 1);
  patch.clamped = clamped ? 1 : 0;
  patch.fits = inner || frame.padding != Padding::reflection ? patch.fits : 0;
  return patch;
}

// The patches of all tiles of a task, by the first warp; the map is there.
FASTALIGN_DEVICE void list_patches(const WarpTask& at, const WarpFrame& frame, const WarpMap& map,
                                   Patch* patches) {
  const int32_t tile = at.tile_y + static_cast<int32_t>(threadIdx.x);
  if (threadIdx.x < 32 && tile < at.tile_end) {
    patches[threadIdx.x] = patch_under(map, frame, at.tile_x * kPatchTileX, tile * kPatchTileY);
  }
}

// The map and the patches into shared memory; all threads of the block call this, and it ends with
// the barrier that makes them visible.
FASTALIGN_DEVICE void prepare_patches(const Theta& theta, const WarpTask& at,
                                      const WarpFrame& frame, PatchTask* task) {
  if (threadIdx.x < 32) {
    map_by_warp(theta, at.image, frame, &task->map);
    __syncwarp();
    list_patches(at, frame, task->map, task->patches);
  }
  __syncthreads();
}

// The two elements of 16 bits in a word.
template <class T>
FASTALIGN_DEVICE void two_floats(uint32_t word, float& low, float& high) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    low = bits_to_float(word << 16);
    high = bits_to_float(word & 0xffff0000u);
  } else {
    Vec<T, 2> both;
    memcpy(&both, &word, sizeof(both));
    low = both.as_float(0);
    high = both.as_float(1);
  }
}

// Four neighbours of a plane as floats, or zeros; `from` is not read then.
template <class T>
FASTALIGN_DEVICE void fill_four(bool exists, const T* from, float* to) {
  if constexpr (sizeof(T) == 4) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto target = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from),
                 "r"(exists ? 16 : 0)
                 : "memory");
#else
    store_vec(to, load_where<4>(exists, from));
#endif
  } else {
    // Zeros of a word at once, not of each element.
    uint2 word{0, 0};
    if (exists) {
      const Vec<T, 4> loaded = load_vec<4, Cache::readonly>(from);
      memcpy(&word, &loaded, sizeof(word));
    }
    Vec<float, 4> values;
    two_floats<T>(word.x, values[0], values[1]);
    two_floats<T>(word.y, values[2], values[3]);
    store_vec(to, values);
  }
}

// Up to `Channels` channels of a plane's box into shared memory, as floats, kPatchFloats apart; all
// threads of the block call this, then finish_fill and a barrier before they read. 8, 16 or more
// threads take a row. `Wide`: rows of the plane are whole fours, aligned. `Whole`: the channels are
// all there.
template <bool Wide, bool Whole, int Channels, class T>
FASTALIGN_DEVICE void fill_patch(const T* plane, const View4& view, const Patch& patch,
                                 int32_t count, float* to) {
  constexpr int kStep = Wide ? 4 : 1;
  const int32_t across = Wide ? patch.fours : patch.fours * 4;
  const int shift = across <= 8 ? 3 : across <= 16 ? 4 : across <= 32 ? 5 : 6;
  const int thread = static_cast<int>(threadIdx.x);
  const int32_t first = thread >> shift, rows = kPatchThreads >> shift;
  const int32_t height = static_cast<int32_t>(view.size[2]);
  const int64_t channel = view.stride[1] * static_cast<int64_t>(sizeof(T));
  const int64_t further = rows * view.stride[2] * static_cast<int64_t>(sizeof(T));
  for (int32_t step = thread & ((1 << shift) - 1); step < across; step += 1 << shift) {
    const int32_t column = step * kStep, x = patch.column + column;
    const bool in_row = on_axis(x, static_cast<int32_t>(view.size[3]));
    int32_t y = patch.row + first;
    const char* from = reinterpret_cast<const char*>(plane + (y * view.stride[2] + x));
    float* target = to + first * patch.pitch + column;
    for (int32_t left = patch.rows - first; left > 0; left -= rows) {
      const bool exists = in_row && on_axis(y, height);
      const char* one = from;
#pragma unroll
      for (int c = 0; c < Channels; ++c) {
        if (Whole || c < count) {
          const T* values = reinterpret_cast<const T*>(one);
          if constexpr (Wide) {
            fill_four(exists, values, target + c * kPatchFloats);
          } else {
            target[c * kPatchFloats] = load_where<1>(exists, values).as_float(0);
          }
          one += channel;
        }
      }
      y += rows;
      from += further;
      target += rows * patch.pitch;
    }
  }
}

// Ends what this thread has copied so far, which other threads see after a barrier: asynchronous
// copies are waited for as a group, and belong to one once it is committed.
FASTALIGN_DEVICE void finish_fill() {
  commit_copies();
  wait_for_copies<0>();
}

// One axis of a sample whose map is in fixed point and whose patch fits.
FASTALIGN_DEVICE AxisSample patch_axis(int64_t position, int32_t size, bool clamped) {
  const PaddedFixed padded =
      clamped ? hold_at_border(position, size) : PaddedFixed{position, 1.0f, 0};
  return {whole_pixels(padded.position), fraction(padded.position), padded.slope, 0};
}

// The sample of output pixel (x, y) there.
FASTALIGN_DEVICE WarpSample patch_sample(const WarpMap& map, const WarpFrame& frame,
                                         const Patch& patch, int32_t x, int32_t y) {
  return {patch_axis(map.x.at(x, y), frame.width, patch.clamped != 0),
          patch_axis(map.y.at(x, y), frame.height, patch.clamped != 0)};
}

// A thread's pixels in a tile: the first, of which the others lie 1, 16 and 17 columns to the
// right.
FASTALIGN_DEVICE TilePlace place_in_patch_tile(int thread) {
  const int lane = thread % 32;
  return {lane % 8 * 2, thread / 32 * 4 + lane / 8};
}

// By which pixel `k` of a thread lies beside its first.
FASTALIGN_DEVICE constexpr int32_t pixel_beside(int k) { return (k & 1) + (k >> 1) * 16; }

// A pair of results; `left` columns of the image lie to the right of the first.
template <bool Wide, class T>
FASTALIGN_DEVICE void store_pair(T* to, float one, float two, int32_t left) {
  if constexpr (Wide) {
    if (left > 0) {
      const float both[2] = {one, two};
      store_vec(to, from_floats<T>(both));
    }
  } else {
    if (left > 0) {
      to[0] = from_float<T>(one);
    }
    if (left > 1) {
      to[1] = from_float<T>(two);
    }
  }
}

// Whether planes of one and the other go by patches: neighbouring columns are neighbours.
inline bool by_patches(const View4& one, const View4& other) {
  return kPatches != 0 && unit_columns(one) && unit_columns(other);
}

// Rows of a plane are whole fours, aligned, and so is every plane.
template <class T>
bool whole_fours(const View4& view) {
  constexpr int64_t size = sizeof(T);
  return view.width() % 4 == 0 && vector_aligned(4 * size, view.data, view.stride[0] * size,
                                                 view.stride[1] * size, view.stride[2] * size);
}

// The same of pairs.
template <class T>
bool whole_pairs(const View4& view) {
  constexpr int64_t size = sizeof(T);
  return view.width() % 2 == 0 && vector_aligned(2 * size, view.data, view.stride[0] * size,
                                                 view.stride[1] * size, view.stride[2] * size);
}

// Bytes of the patches of `channels` channels.
inline size_t patch_bytes(int64_t channels) {
  return static_cast<size_t>(channels) * kPatchFloats * sizeof(float);
}

inline WarpTiling tile_patches(int64_t batch, int64_t channels, int64_t height, int64_t width,
                               const Device& device, const TilingChoice& choice) {
  WarpTiling tiling = tile_pixels(batch, channels, height, width, kPatchTileX, kPatchTileY,
                                  kPatchChannels, device, choice);
  if (choice.lanes > 1) {
    tiling.tasks = 0;
  }
  return tiling;
}

}  // namespace fastalign::cuda

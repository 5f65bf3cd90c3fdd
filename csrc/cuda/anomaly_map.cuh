// anomaly_map: distances and their evidence warped, smoothed along both axes and divided.
//
// Idea. Two kernels. In the first a block samples some rows of the image at a run of columns and
// the neighbours that the taps reach, distance times evidence and evidence together, into shared
// memory, a pair of floats a place; each thread then adds up its column of each row. In the second
// a thread owns a column of some rows: it walks down the pairs that these rows reach, each of which
// it reads once for all of them, with the taps in registers, and divides in the end. What is
// reflected is looked up where it stands.
//
// Bytes it must move: distances and evidence, which are small, and 8 B H W of results. Bytes it
// moves: 8 more B H W written and read (2 radius + 8) / 8 times, five at a sigma of 4; at 256 x 256
// an image's pairs are 0.5 MB, so that all but the first read come from L2. In torch's operations
// the warped pair, a product with a matrix for each axis and the division are 52 B H W, and the
// products 2 (H + W) multiply-adds a pixel and plane in place of 2 (2 radius + 1).
//
// One kernel would sample and smooth (2 radius + T)^2 places for T^2 results, four times as many at
// T = 32, for 1 microsecond of a launch less.
#pragma once

#include "../common/map_inputs.h"
#include "fields.cuh"
#include "warp_taps.cuh"

namespace fastalign::cuda {

constexpr int kMapThreads = 128;
constexpr int kMapRows = 4;    // of the image that a block samples together
constexpr int kMapColumn = 8;  // rows that a thread smooths together

// Of a place: distance times evidence, and evidence.
using MapPair = Vec<float, 2>;

struct MapTask {
  View4 distance;
  Map<void> evidence;
  bool is_mask;
  const float* taps;
  int count;
  Theta theta;
  WarpFrame frame;
  float* pairs;  // [B, H, W, 2]
  float *value, *share;
};

// The pixels of a block: kMapThreads columns of some rows.
struct MapPlace {
  int64_t image;
  int left, top;
};

inline int64_t map_blocks(int64_t images, const WarpFrame& frame, int rows) {
  return images * ceil_div(frame.out_height, rows) * ceil_div(frame.out_width, kMapThreads);
}

FASTALIGN_DEVICE MapPlace map_place(const WarpFrame& frame, int rows) {
  const unsigned across = static_cast<unsigned>(frame.out_width - 1) / kMapThreads + 1;
  const unsigned down =
      static_cast<unsigned>(frame.out_height - 1) / static_cast<unsigned>(rows) + 1;
  const unsigned run = blockIdx.x / across;
  return {run / down, static_cast<int>(blockIdx.x % across) * kMapThreads,
          static_cast<int>(run % down) * rows};
}

// The inverse of theta as positions in fixed point; all threads of the block call this, and it ends
// with the barrier that makes the map visible.
FASTALIGN_DEVICE void prepare_inverse(const MapTask& task, int64_t image, WarpMap* map) {
  if (threadIdx.x == 0) {
    double given[6], inverse[6];
    for (int k = 0; k < 6; ++k) {
      given[k] = theta_entry(task.theta, image, k / 3, k % 3);
    }
    inverse_affine(given, inverse);
    const WarpFrame& f = task.frame;
    const AffinePixels exact =
        affine_pixels(inverse, f.height, f.width, f.out_height, f.out_width, false);
    const double across = farthest(exact.xx, exact.xy, exact.x0, f);
    const double down = farthest(exact.yx, exact.yy, exact.y0, f);
    map->exact = exact;
    map->kind = kind_of(across + down);
    if (map->kind == MapKind::fixed) {
      map->x = fixed_row(exact.xx, exact.xy, exact.x0);
      map->y = fixed_row(exact.yx, exact.yy, exact.y0);
    }
  }
  __syncthreads();
}

FASTALIGN_DEVICE float distance_at(const View4& distance, int64_t offset) {
  switch (distance.dtype) {
    case DType::float16:
      return to_float(static_cast<const Half*>(distance.data)[offset]);
    case DType::bfloat16:
      return to_float(static_cast<const BFloat16*>(distance.data)[offset]);
    default:
      return static_cast<const float*>(distance.data)[offset];
  }
}

// Distance times evidence, and evidence, sampled at a pixel of the image.
FASTALIGN_DEVICE MapPair sample_pair(const MapTask& task, const WarpMap& map, int64_t image, int ox,
                                     int oy) {
  const WarpSample s = sample_at(map, task.frame, ox, oy);
  bool exists[4];
  taps_inside(s.x.pixel, s.y.pixel, task.frame).each(exists);
  const float right = s.x.share, low = s.y.share;
  const float weights[4] = {(1.0f - low) * (1.0f - right), (1.0f - low) * right,
                            low * (1.0f - right), low * right};
  MapPair pair{{0.0f, 0.0f}};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (!exists[k]) {
      continue;
    }
    const int64_t row = s.y.pixel + k / 2, column = s.x.pixel + k % 2;
    const int64_t at =
        image * task.evidence.image + row * task.evidence.row + column * task.evidence.column;
    float own;
    if (task.is_mask) {
      own = static_cast<const bool*>(task.evidence.data)[at] ? 1.0f : 0.0f;
    } else {
      own = static_cast<const float*>(task.evidence.data)[at];
    }
    const float far =
        distance_at(task.distance, image * task.distance.stride[0] + row * task.distance.stride[2] +
                                       column * task.distance.stride[3]);
    pair[0] = fmaf(weights[k], far * own, pair[0]);
    pair[1] = fmaf(weights[k], own, pair[1]);
  }
  return pair;
}

// `Held`: samples are in shared memory, `span` of a row; else each is taken anew for each tap,
// where no block can keep as many.
template <bool Held>
FASTALIGN_KERNEL(kMapThreads, 8)
map_rows(MapTask task) {
  FASTALIGN_DYNAMIC_SHARED(WarpMap, map);
  float* places = reinterpret_cast<float*>(map + 1);  // [kMapRows][span][2]
  const int height = task.frame.out_height, width = task.frame.out_width;
  const MapPlace own = map_place(task.frame, kMapRows);
  const int left = own.left, top = own.top, radius = task.count / 2;
  const int thread = static_cast<int>(threadIdx.x);
  // Places of a row: the thread's own column takes those from `thread` on.
  const int columns = width - left < kMapThreads ? width - left : kMapThreads;
  const int span = columns + task.count - 1;
  const auto sample = [&](int row, int place) {
    const int64_t ox = reflected(int64_t{left} - radius + place, width);
    return sample_pair(task, *map, own.image, static_cast<int>(ox), top + row);
  };
  prepare_inverse(task, own.image, map);
  if constexpr (Held) {
    for (int i = thread; i < kMapRows * span; i += kMapThreads) {
      if (top + i / span < height) {
        store_vec(places + 2 * i, sample(i / span, i % span));
      }
    }
    __syncthreads();
  }
  if (thread >= columns) {
    return;
  }
  MapPair sums[kMapRows] = {};
  for (int k = 0; k < task.count; ++k) {
    const float tap = task.taps[k];
#pragma unroll
    for (int row = 0; row < kMapRows; ++row) {
      if (top + row < height) {
        MapPair pair;
        if constexpr (Held) {
          pair = load_vec<2>(places + 2 * (row * span + thread + k));
        } else {
          pair = sample(row, thread + k);
        }
        sums[row][0] = fmaf(tap, pair[0], sums[row][0]);
        sums[row][1] = fmaf(tap, pair[1], sums[row][1]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kMapRows; ++row) {
    if (top + row < height) {
      const int64_t at = (own.image * height + top + row) * width + left + thread;
      store_vec(task.pairs + 2 * at, sums[row]);
    }
  }
}

FASTALIGN_KERNEL(kMapThreads, 8)
map_columns(MapTask task) {
  const int height = task.frame.out_height, width = task.frame.out_width;
  const MapPlace own = map_place(task.frame, kMapColumn);
  const int x = own.left + static_cast<int>(threadIdx.x), top = own.top, count = task.count;
  const int64_t image = own.image;
  if (x >= width) {
    return;
  }
  const float* column = task.pairs + 2 * (image * height * width + x);
  MapPair sums[kMapColumn] = {};
  // taps[j - q] of row q at the source row j.
  float taps[kMapColumn] = {};
#pragma unroll kMapColumn
  for (int j = 0; j < count + kMapColumn - 1; ++j) {
#pragma unroll
    for (int q = kMapColumn - 1; q > 0; --q) {
      taps[q] = taps[q - 1];
    }
    taps[0] = j < count ? task.taps[j] : 0.0f;
    const int64_t row = reflected(int64_t{top} - count / 2 + j, height);
    const MapPair pair = load_vec<2>(column + 2 * row * width);
#pragma unroll
    for (int q = 0; q < kMapColumn; ++q) {
      // A tap that is not there must not meet what is not finite.
      if (q <= j && j - q < count) {
        sums[q][0] = fmaf(taps[q], pair[0], sums[q][0]);
        sums[q][1] = fmaf(taps[q], pair[1], sums[q][1]);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kMapColumn; ++q) {
    if (top + q < height) {
      const int64_t at = (image * height + top + q) * width + x;
      const float share = sums[q][1] < kLeastShare ? kLeastShare : sums[q][1];
      task.value[at] = sums[q][0] / share;
      task.share[at] = sums[q][1];
    }
  }
}

}  // namespace fastalign::cuda

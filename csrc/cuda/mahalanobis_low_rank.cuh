// Mahalanobis distance from a low-rank form per location, and its gradients.
//
// distance = |w|, w = A d, d = x - mean, A = I - V^T V for the R rows V [R, C] of the location.
// With g = upstream w / |w| (0 at 0; 2 upstream w for the square): dx = A g, dmean = -sum over the
// images of dx, dV = -sum over the images of (V d) g^T + (V g) d^T.
//
// Idea. A block owns a location and takes up to four images at a time. V is brought to shared
// memory by 16-byte asynchronous copies, whole and once for all images where it fits, else some
// rows after the other. A product with A is two passes over what lies there. First a warp
// multiplies four rows with four images, lanes along the channels: an entry is read once per four
// images, a deviation once per four rows, and the sixteen sums of the lanes are added with 31
// shuffles. Then a thread owns a channel: it takes the rows' products times its column of V away
// from its own entry, in registers, and the products are the same for all lanes, one 16-byte read
// for four images. The vector is formed and then squared, so nothing cancels. The matrix is
// symmetric: the gradient is the same product once more.
//
// A coarser map that x has beside it is read between four of its pixels by the threads that made
// the deviations, so that its upsampled form and the sum with x never exist: for stages at two
// strides 4 C B H W bytes less are written and 12 less read. A location whose scale is 0 costs
// nothing.
//
// Bytes it must move: V once, H*W R C entries; x and mean once; 4 B H*W out. At C = 176, R = 32, 64
// x 64, one image: 92.3 MB of float32 rows (46.1 in 16 bits), 5.8 MB the rest; the packed form
// would be 255 MB. Bytes it moves: the same where V fits, or one tile of images holds the batch;
// else V once per four images. Maps are read by location: in NCHW the channels of one location are
// H*W apart, and x and mean cross L2 up to eight times, once in channels_last.
//
// Chips. At C = 176 and R = 32 a block holds 27 KB of shared memory, so that three fit where there
// are 99 KB and eight on an H100, which has 200 KB under way then.
#pragma once

#include "mahalanobis_tile.cuh"

namespace fastalign::cuda {

constexpr int kLowRankThreads = 256;  // at most; fewer for fewer channels
constexpr int kLowRankBlocks = 3;     // of a multiprocessor; more would cost spilled registers
constexpr int kLowRankRows = 4;       // that a warp multiplies at once

// How a launch is cut; chosen by the launcher, the same for all blocks.
struct LowRankPlan {
  int rows;         // of V in shared memory at once
  int chunks;       // that V is taken in
  int stage_bytes;  // of the rows, and up to 15 bytes before them
  int tiles;        // of images of a block of the forward kernel
  float* sums;      // [H*W, R, C]; backward of 16-bit rows in several tiles of images
};

struct LowRankWork {
  MahalanobisArgs args;
  LowRankPlan plan;
};

// What a block holds: vectors and products lie as [channel or row][N images].
template <class W>
struct LowRankTile {
  W* stage;
  float* deviation;  // [C][N]
  float* white;      // [C][N]: w of some rows, then g; backward, or where V is taken in chunks
  float* gradient;   // [C][N]: dx of some rows; backward where V is taken in chunks
  float* products;   // [R][N]: V d
  float* pulled;     // [R][N]: V g; backward
  Squares* sums;     // [warps][N]
  int location;
  bool staged;  // whether some rows have been brought

  FASTALIGN_DEVICE LowRankTile(const LowRankWork& work, unsigned char* shared, int images,
                               bool backward)
      : stage(reinterpret_cast<W*>(shared)), location(static_cast<int>(blockIdx.x)), staged(false) {
    const bool chunked = work.plan.chunks > 1;
    const int vector = static_cast<int>(work.args.x.size[1]) * images;
    const int rows = static_cast<int>(work.args.rank) * images;
    deviation = reinterpret_cast<float*>(shared + work.plan.stage_bytes);
    white = deviation + vector;
    gradient = white + (chunked || backward ? vector : 0);
    products = gradient + (chunked && backward ? vector : 0);
    pulled = products + rows;
    sums = reinterpret_cast<Squares*>(pulled + (backward ? rows : 0));
  }
};

// x - mean of N images at the block's location, zero behind the last image. A thread writes the
// channels that it owns: threadIdx.x, threadIdx.x + blockDim.x, ...
template <class S, class W, int N>
FASTALIGN_DEVICE void load_own_deviations_as(const LowRankWork& work, const LowRankTile<W>& tile,
                                             int image) {
  const View4& x = work.args.x;
  const View4& mean = work.args.mean;
  const int left = static_cast<int>(x.size[0]) - image, channels = static_cast<int>(x.size[1]);
  const S* pixel =
      static_cast<const S*>(x.data) + image * x.stride[0] + plane_offset(x, tile.location);
  const float* middles = static_cast<const float*>(mean.data) + plane_offset(mean, tile.location);
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
    const float middle = middles[c * mean.stride[1]];
    const S* from = pixel + c * x.stride[1];
    float values[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] = n < left ? to_float(from[n * x.stride[0]]) - middle : 0.0f;
    }
    store_group(tile.deviation + c * N, values);
  }
  if (work.args.coarse.data == nullptr) {
    return;
  }
  const CoarseQuad quad = coarse_quad(work.args, tile.location);
#pragma unroll 1
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
    float values[N];
    load_group(tile.deviation + c * N, values);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] += n < left ? upsampled<S>(work.args.coarse, quad, image + n, c) : 0.0f;
    }
    store_group(tile.deviation + c * N, values);
  }
}

template <class W, int N>
FASTALIGN_DEVICE void load_own_deviations(const LowRankWork& work, const LowRankTile<W>& tile,
                                          int image) {
  switch (work.args.x.dtype) {
    case DType::float16:
      return load_own_deviations_as<Half, W, N>(work, tile, image);
    case DType::bfloat16:
      return load_own_deviations_as<BFloat16, W, N>(work, tile, image);
    default:
      return load_own_deviations_as<float, W, N>(work, tile, image);
  }
}

// Starts the copy of rows [row, end) of V and gives the place of the first.
template <class W>
FASTALIGN_DEVICE const W* stage_some(const LowRankWork& work, const LowRankTile<W>& tile, int row,
                                     int end, bool needed) {
  const MahalanobisArgs& args = work.args;
  const int channels = static_cast<int>(args.x.size[1]), count = (end - row) * channels;
  const int64_t along = args.whitener_stride[1], across = args.whitener_stride[2];
  const W* from =
      static_cast<const W*>(args.whitener) + tile.location * args.whitener_stride[0] + row * along;
  if (across == 1 && along == channels) {
    if (needed) {
      stage_run(from, count, tile.stage);
    }
    return tile.stage + run_shift(from);
  }
  if (needed) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      const int r = i / channels;
      tile.stage[i] = from[r * along + (i - r * channels) * across];
    }
  }
  return tile.stage;
}

// products [rows][N] of staged rows with the vectors `from` [C][N].
template <class W, int N>
FASTALIGN_DEVICE void multiply_rows(const W* staged, int rows, int channels, const float* from,
                                    float* products) {
  constexpr int sharing = 32 / (kLowRankRows * N);  // lanes that are left with the same sum
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int step = static_cast<int>(blockDim.x / 32) * kLowRankRows;
#pragma unroll 1
  for (int top = warp * kLowRankRows; top < rows; top += step) {
    float sums[kLowRankRows * N] = {};
    const W* entries[kLowRankRows];
#pragma unroll
    for (int k = 0; k < kLowRankRows; ++k) {
      entries[k] = staged + (top + k < rows ? top + k : rows - 1) * channels;
    }
#pragma unroll 1
    for (int c = lane; c < channels; c += 32) {
      float d[N];
      load_group(from + c * N, d);
#pragma unroll
      for (int k = 0; k < kLowRankRows; ++k) {
        const float entry = to_float(entries[k][c]);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          sums[k * N + n] = fmaf(entry, d[n], sums[k * N + n]);
        }
      }
    }
    const float sum = sum_over_warp(sums);
    const int mine = lane / sharing;
    if (lane % sharing == 0 && top + mine / N < rows) {
      products[top * N + mine] = sum;
    }
  }
}

// from - V^T (V from) for the vectors `from` [C][N]: finish(channel, values) for each channel that
// the thread owns. `to` [C][N] holds what some rows have left, where V is taken in chunks; products
// [R][N] = V from. What other threads have written before may be read in it.
template <class W, int N, class Finish>
FASTALIGN_DEVICE void complement(const LowRankWork& work, LowRankTile<W>& tile, const float* from,
                                 float* to, float* products, Finish&& finish) {
  const LowRankPlan& plan = work.plan;
  const int rank = static_cast<int>(work.args.rank),
            channels = static_cast<int>(work.args.x.size[1]);
#pragma unroll 1
  for (int chunk = 0; chunk < plan.chunks; ++chunk) {
    const int row = chunk * plan.rows;
    const int end = row + plan.rows < rank ? row + plan.rows : rank;
    const bool needed = !tile.staged || plan.chunks > 1;
    if (tile.staged && needed) {
      __syncthreads();
    }
    tile.staged = true;
    const W* staged = stage_some(work, tile, row, end, needed);
    end_of_copies();
    wait_for_copies<true>();
    __syncthreads();
    multiply_rows<W, N>(staged, end - row, channels, from, products + row * N);
    __syncthreads();
    const float* start = chunk == 0 ? from : to;
    for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
      float values[N];
      load_group(start + c * N, values);
#pragma unroll 4
      for (int r = row; r < end; ++r) {
        const float entry = to_float(staged[(r - row) * channels + c]);
        float factors[N];
        load_group(products + r * N, factors);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          values[n] = fmaf(-entry, factors[n], values[n]);
        }
      }
      if (end == rank) {
        finish(c, values);
      } else {
        store_group(to + c * N, values);
      }
    }
  }
}

// w of the tile's images, finish(channel, values) as above, and sums of its squares for all.
template <class W, int N, class Finish>
FASTALIGN_DEVICE void whiten_own(const LowRankWork& work, LowRankTile<W>& tile, Finish&& finish) {
  float plain[N] = {}, reduced[N] = {}, raised[N] = {};
  complement<W, N>(work, tile, tile.deviation, tile.white, tile.products,
                   [&](int channel, const float (&values)[N]) {
#pragma unroll
                     for (int n = 0; n < N; ++n) {
                       const float low = values[n] * kReduce, high = values[n] * kRaise;
                       plain[n] = fmaf(values[n], values[n], plain[n]);
                       reduced[n] = fmaf(low, low, reduced[n]);
                       raised[n] = fmaf(high, high, raised[n]);
                     }
                     finish(channel, values);
                   });
  const Squares total{sum_over_warp(plain), sum_over_warp(reduced), sum_over_warp(raised)};
  constexpr int sharing = 32 / N;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (lane % sharing == 0) {
    tile.sums[warp * N + lane / sharing] = total;
  }
  __syncthreads();
}

// The sums of one image over the warps.
template <int N, class W>
FASTALIGN_DEVICE Squares all_sums(const LowRankTile<W>& tile, int image) {
  Squares total{0.0f, 0.0f, 0.0f};
  for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) {
    const Squares& slot = tile.sums[warp * N + image];
    total.plain += slot.plain;
    total.reduced += slot.reduced;
    total.raised += slot.raised;
  }
  return total;
}

template <class W, int N>
FASTALIGN_KERNEL(kLowRankThreads, kLowRankBlocks)
low_rank_forward(LowRankWork work) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  LowRankTile<W> tile(work, shared, N, false);
  const int batch = static_cast<int>(work.args.x.size[0]);
  const int64_t pixels = work.args.x.size[2] * work.args.x.size[3];
  const int first = static_cast<int>(blockIdx.y) * work.plan.tiles * N;
  const int last = first + work.plan.tiles * N < batch ? first + work.plan.tiles * N : batch;
  const float scale = scale_of(work.args, tile.location);
  if (scale == 0.0f) {  // whatever is there
    for (int image = first + static_cast<int>(threadIdx.x); image < last;
         image += static_cast<int>(blockDim.x)) {
      work.args.value[image * pixels + tile.location] = 0.0f;
    }
    return;
  }
#pragma unroll 1
  for (int image = first; image < last; image += N) {
    load_own_deviations<W, N>(work, tile, image);
    whiten_own<W, N>(work, tile, [](int, const float (&)[N]) {});
    const int n = static_cast<int>(threadIdx.x);
    if (n < N && image + n < batch) {
      const Squares sum = all_sums<N>(tile, n);
      work.args.value[(image + n) * pixels + tile.location] =
          (work.args.squared ? sum.plain : length_of(sum)) * scale;
    }
  }
}

// Writes the gradients by x of one channel.
template <class S, int N>
FASTALIGN_DEVICE void write_own_as(const View4& dx, int64_t at, int left,
                                   const float (&values)[N]) {
  S* to = static_cast<S*>(dx.data) + at;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (n < left) {
      to[n * dx.stride[0]] = from_float<S>(values[n]);
    }
  }
}

template <int N>
FASTALIGN_DEVICE void write_own(const MahalanobisArgs& args, int image, int location, int channel,
                                const float (&values)[N]) {
  const View4& dx = args.dx;
  const int left = static_cast<int>(args.x.size[0]) - image;
  if (args.dmean != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sum += values[n];  // 0 behind the last image
    }
    float& mean = args.dmean[channel * args.x.size[2] * args.x.size[3] + location];
    mean = image == 0 ? -sum : mean - sum;
  }
  if (dx.data == nullptr) {
    return;
  }
  const int64_t at = image * dx.stride[0] + channel * dx.stride[1] + plane_offset(dx, location);
  switch (args.x.dtype) {
    case DType::float16:
      return write_own_as<Half>(dx, at, left, values);
    case DType::bfloat16:
      return write_own_as<BFloat16>(dx, at, left, values);
    default:
      return write_own_as<float>(dx, at, left, values);
  }
}

// Adds the tile's part of dV, a thread its own channels; the last tile leaves it in V's dtype.
template <class W, int N>
FASTALIGN_DEVICE void add_row_gradients(const LowRankWork& work, const LowRankTile<W>& tile,
                                        int image) {
  const int rank = static_cast<int>(work.args.rank),
            channels = static_cast<int>(work.args.x.size[1]);
  const int64_t place = static_cast<int64_t>(tile.location) * rank * channels;
  W* out = static_cast<W*>(work.args.dwhitener) + place;
  float* sums = sizeof(W) == sizeof(float) ? reinterpret_cast<float*>(out) : work.plan.sums + place;
  const bool first = image == 0, last = image + N >= work.args.x.size[0];
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
    float d[N], g[N];
    load_group(tile.deviation + c * N, d);
    load_group(tile.white + c * N, g);
#pragma unroll 1
    for (int r = 0; r < rank; ++r) {
      float products[N], pulled[N];
      load_group(tile.products + r * N, products);
      load_group(tile.pulled + r * N, pulled);
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        sum = fmaf(products[n], g[n], fmaf(pulled[n], d[n], sum));
      }
      const int64_t at = int64_t{r} * channels + c;
      sum = first ? -sum : sums[at] - sum;
      if (last) {
        out[at] = from_float<W>(sum);
      } else {
        sums[at] = sum;
      }
    }
  }
}

template <class W, int N>
FASTALIGN_KERNEL(kLowRankThreads, kLowRankBlocks)
low_rank_gradients(LowRankWork work) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  LowRankTile<W> tile(work, shared, N, true);
  const MahalanobisArgs& args = work.args;
  const int batch = static_cast<int>(args.x.size[0]), channels = static_cast<int>(args.x.size[1]);
  const int width = static_cast<int>(args.x.size[3]);
  const float* upstream = static_cast<const float*>(args.grad.data) +
                          tile.location / width * args.grad.stride[1] +
                          tile.location % width * args.grad.stride[2];
#pragma unroll 1
  for (int image = 0; image < batch; image += N) {
    load_own_deviations<W, N>(work, tile, image);
    whiten_own<W, N>(work, tile, [&](int channel, const float (&values)[N]) {
      store_group(tile.white + channel * N, values);
    });
    float length[N], came[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      length[n] = length_of(all_sums<N>(tile, n));
      came[n] = image + n < batch ? upstream[(image + n) * args.grad.stride[0]] : 0.0f;
    }
    for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
      float g[N];
      load_group(tile.white + c * N, g);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        g[n] = args.squared ? g[n] * (2.0f * came[n])
                            : (length[n] == 0.0f ? 0.0f : g[n] / length[n]) * came[n];
      }
      store_group(tile.white + c * N, g);
    }
    complement<W, N>(work, tile, tile.white, tile.gradient, tile.pulled,
                     [&](int channel, const float (&values)[N]) {
                       write_own(args, image, tile.location, channel, values);
                     });
    if (args.dwhitener != nullptr) {
      add_row_gradients<W, N>(work, tile, image);
    }
  }
}

}  // namespace fastalign::cuda

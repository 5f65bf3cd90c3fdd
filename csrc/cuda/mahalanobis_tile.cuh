// What the two mahalanobis kernels share: their plan, the stream of factor rows into shared
// memory, the tile of deviations, and L d. The idea and the bytes are told in mahalanobis.cuh.
#pragma once

#include "../common/packed.h"
#include "launchers.h"
#include "values.h"
#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace fastalign::cuda {

constexpr int kGaussianThreads = 128;  // at most; fewer for fewer channels
constexpr int kGaussianBlocks = 5;     // of a multiprocessor; more would cost spilled registers
constexpr int kRowTile = 8;            // rows of the factor that a warp multiplies at once
constexpr int kManyImages = 8;         // that a thread takes at once where it has a whole row
constexpr int kMaxParts = 32;

// How a launch is cut; chosen by the launcher (mahalanobis_plan.h), the same for all blocks.
struct GaussianPlan {
  int padded;         // channels, rounded up to a warp
  int locations;      // neighbouring locations of a block: 1, 2, 4 or 8
  int location_bits;  // their logarithm
  int images;         // of a tile, a multiple of the images that share a read of an entry
  int capacity;       // entries of a stage
  int stage_bytes;
  int stages;                   // 2: the next rows travel while these are multiplied
  int parts;                    // blocks that share the rows of a location; forward only
  int part_row[kMaxParts + 1];  // part p takes rows [part_row[p], part_row[p + 1])
  float* partial;               // [parts][B][H*W][3]; with several parts only
  float* factor_sums;  // [H*W, C(C+1)/2]; backward of 16-bit factors in several image tiles
};

struct GaussianWork {
  MahalanobisArgs args;
  GaussianPlan plan;
};

// The locations of a block: the first of them, and how many there are.
struct OwnLocations {
  int first, count;
};

FASTALIGN_DEVICE OwnLocations own_locations(const GaussianWork& work) {
  const int64_t pixels = work.args.x.size[2] * work.args.x.size[3];
  const int first = static_cast<int>(blockIdx.x) * work.plan.locations;
  const int left = static_cast<int>(pixels) - first;
  return {first, left < work.plan.locations ? left : work.plan.locations};
}

template <bool given>
struct Constant {
  static constexpr bool value = given;
};

FASTALIGN_DEVICE int triangle(int rows) { return rows * (rows + 1) / 2; }

// Sixteen bytes from global to shared memory, without a register in between; landed after
// wait_for_copies. Both pointers are aligned to 16.
template <class T>
FASTALIGN_DEVICE void copy_vector(T* to, const T* from) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
#else
  store_vec(to, load_vec<kVec<T>, Cache::once>(from));
#endif
}

FASTALIGN_DEVICE void end_of_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all copies have landed, or all but those before the last end_of_copies().
template <bool all>
FASTALIGN_DEVICE void wait_for_copies() {
#if defined(__CUDA_ARCH__)
  if constexpr (all) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  }
#endif
}

// The rows that one stage takes from `row` on: all up to `last` if they fit, else whole row tiles,
// else single rows.
FASTALIGN_DEVICE int stage_end(int row, int last, int capacity) {
  const int before = triangle(row);
  if (triangle(last) - before <= capacity) {
    return last;
  }
  int end = row;
  while (triangle(end + kRowTile) - before <= capacity) {
    end += kRowTile;
  }
  while (triangle(end + 1) - before <= capacity && end < row + kRowTile) {
    ++end;
  }
  return end;
}

template <class W>
FASTALIGN_DEVICE const W* factor_rows(const GaussianWork& work, int location, int row) {
  return static_cast<const W*>(work.args.whitener) + location * work.args.whitener_stride[0] +
         int64_t{triangle(row)} * work.args.whitener_stride[1];
}

// Where the first entry of a run lies in its stage: as far from a 16-byte boundary as in global
// memory, so that the rest can be copied in vectors.
template <class W>
FASTALIGN_DEVICE int run_shift(const W* from) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16 / sizeof(W));
}

// Starts the copy of a run of entries: vectors, and up to kVec - 1 single entries at either end.
template <class W>
FASTALIGN_DEVICE void stage_run(const W* from, int count, W* stage) {
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const int shift = run_shift(from);
  W* to = stage + shift;
  const int to_boundary = (kVec<W> - shift) % kVec<W>;
  const int head = to_boundary < count ? to_boundary : count;
  const int vectors = (count - head) / kVec<W>;
  for (int i = first; i < vectors; i += step) {
    copy_vector(to + head + i * kVec<W>, from + head + i * kVec<W>);
  }
  if (first < head) {
    to[first] = from[first];
  }
  const int tail = head + vectors * kVec<W> + first;
  if (tail < count) {
    to[tail] = from[tail];
  }
}

// The same of staged rows, which are no run where the whitener is strided.
template <class W>
FASTALIGN_DEVICE int stage_shift(const GaussianWork& work, const W* from) {
  return work.args.whitener_stride[1] == 1 ? run_shift(from) : 0;
}

// Starts the copy of rows [row, end) of a location, which are neighbours in memory.
template <class W>
FASTALIGN_DEVICE void stage_rows(const GaussianWork& work, int location, int row, int end,
                                 W* stage) {
  const int count = triangle(end) - triangle(row);
  const W* from = factor_rows<W>(work, location, row);
  const int64_t stride = work.args.whitener_stride[1];
  if (stride == 1) {
    return stage_run(from, count, stage);
  }
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    stage[i] = from[i * stride];
  }
}

// Offset of a location in a map's plane.
FASTALIGN_DEVICE int64_t plane_offset(const View4& map, int location) {
  const int width = static_cast<int>(map.size[3]), row = location / width;
  return row * map.stride[2] + (location - row * width) * map.stride[3];
}

// Calls visit(place, first, step): a thread's share of the tile's locations, and of each the
// channels first, first + step, ..., so that neighbouring threads are at neighbours in a tensor
// like this one.
template <class Visit>
FASTALIGN_DEVICE void for_each_place(const GaussianPlan& plan, const View4& like, int count,
                                     Visit&& visit) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int bits = like.stride[1] == 1 ? 0 : plan.location_bits;
#pragma unroll 1
  for (int place = thread & ((1 << bits) - 1); place < count; place += 1 << bits) {
    visit(place, thread >> bits, threads >> bits);
  }
}

// Deviations and what becomes of them lie as [group of N images][padded channels][N]: one vector
// per channel and group.
template <int N>
FASTALIGN_DEVICE int tile_index(const GaussianPlan& plan, int group, int channel) {
  return (group * plan.padded + channel) * N;
}

template <int N>
FASTALIGN_DEVICE void load_group(const float* from, float (&values)[N]) {
  constexpr int width = N < 4 ? N : 4;
#pragma unroll
  for (int n = 0; n < N; n += width) {
    const Vec<float, width> part = load_vec<width>(from + n);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      values[n + i] = part[i];
    }
  }
}

template <int N>
FASTALIGN_DEVICE void store_group(float* to, const float (&values)[N]) {
  constexpr int width = N < 4 ? N : 4;
#pragma unroll
  for (int n = 0; n < N; n += width) {
    Vec<float, width> part;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      part[i] = values[n + i];
    }
    store_vec(to + n, part);
  }
}

// x - mean of one image at one place, channels first, first + step, ...: four of them under way at
// once, since with one image nothing else hides how long a load takes.
template <class S>
FASTALIGN_DEVICE void load_image(const S* x, int64_t x_stride, const float* mean,
                                 int64_t mean_stride, int first, int step, int channels,
                                 float* deviation) {
  constexpr int ahead = 4;
#pragma unroll 1
  for (int c = first; c < channels; c += ahead * step) {
    float values[ahead], middles[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      const int channel = c + k * step < channels ? c + k * step : c;
      values[k] = to_float(x[channel * x_stride]);
      middles[k] = mean[channel * mean_stride];
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      if (c + k * step < channels) {
        deviation[c + k * step] = values[k] - middles[k];
      }
    }
  }
}

// Four pixels of the coarser map that a location lies between: offsets in a plane, and weights.
struct CoarseQuad {
  int64_t offset[4];
  float weight[4];
};

FASTALIGN_DEVICE CoarseQuad coarse_quad(const GaussianInputs& given, int location) {
  const View4& coarse = given.coarse;
  const int width = static_cast<int>(given.x.size[3]);
  const Between row = between(location / width, given.x.size[2], coarse.size[2]);
  const Between column = between(location % width, width, coarse.size[3]);
  const float low = static_cast<float>(row.share), right = static_cast<float>(column.share);
  CoarseQuad quad;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    quad.offset[k] = (k < 2 ? row.low : row.high) * coarse.stride[2] +
                     (k % 2 == 0 ? column.low : column.high) * coarse.stride[3];
    quad.weight[k] = (k < 2 ? 1.0f - low : low) * (k % 2 == 0 ? 1.0f - right : right);
  }
  return quad;
}

// The coarser map at a location, of an image and a channel.
template <class S>
FASTALIGN_DEVICE float upsampled(const View4& coarse, const CoarseQuad& quad, int image,
                                 int channel) {
  const S* plane =
      static_cast<const S*>(coarse.data) + image * coarse.stride[0] + channel * coarse.stride[1];
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    sum = fmaf(quad.weight[k], to_float(plane[quad.offset[k]]), sum);
  }
  return sum;
}

// What values at a location are multiplied with.
FASTALIGN_DEVICE float scale_of(const GaussianInputs& given, int location) {
  if (given.scale.data == nullptr) {
    return 1.0f;
  }
  const int width = static_cast<int>(given.x.size[3]);
  return static_cast<const float*>(given.scale.data)[location / width * given.scale.stride[1] +
                                                     location % width * given.scale.stride[2]];
}

// 0 where the scale is, whatever the value.
FASTALIGN_DEVICE float scaled(float value, float scale) {
  return scale == 0.0f ? 0.0f : value * scale;
}

// Adds the coarser map, upsampled, to the deviations that this thread has written.
template <class S, int N>
FASTALIGN_DEVICE void add_coarse(const GaussianWork& work, int location, int image, int left,
                                 int first, int step, float* to) {
  if (work.args.coarse.data == nullptr) {
    return;
  }
  const CoarseQuad quad = coarse_quad(work.args, location);
#pragma unroll 1
  for (int c = first; c < static_cast<int>(work.args.x.size[1]); c += step) {
#pragma unroll 1
    for (int b = 0; b < left; ++b) {
      to[tile_index<N>(work.plan, b / N, c) + b % N] +=
          upsampled<S>(work.args.coarse, quad, image + b, c);
    }
  }
}

// x - mean of `count` locations and plan.images images, zero behind the last image and channel.
template <class S, int N>
FASTALIGN_DEVICE void load_deviations_as(const GaussianWork& work, int location, int count,
                                         int image, float* deviation) {
  const View4& x = work.args.x;
  const View4& mean = work.args.mean;
  const GaussianPlan& plan = work.plan;
  const int one = plan.images * plan.padded, groups = plan.images / N;
  const int batch = static_cast<int>(work.args.x.size[0]);
  const int left = batch - image < plan.images ? batch - image : plan.images;
  const int channels = static_cast<int>(x.size[1]), behind = plan.padded - channels;
  for_each_place(plan, x, count, [&](int place, int first, int step) {
    const S* pixel =
        static_cast<const S*>(x.data) + image * x.stride[0] + plane_offset(x, location + place);
    const float* middles =
        static_cast<const float*>(mean.data) + plane_offset(mean, location + place);
    float* to = deviation + place * one;
    if (N == 1 && groups == 1) {
      load_image(pixel, x.stride[1], middles, mean.stride[1], first, step, channels, to);
      add_coarse<S, N>(work, location + place, image, left, first, step, to);
      return;
    }
#pragma unroll 1
    for (int c = first; c < channels; c += step) {
      const float middle = middles[c * mean.stride[1]];
      const S* from = pixel + c * x.stride[1];
#pragma unroll 1
      for (int g = 0; g < groups; ++g) {
        float values[N];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const int b = g * N + n;
          values[n] = b < left ? to_float(from[b * x.stride[0]]) - middle : 0.0f;
        }
        store_group(to + tile_index<N>(plan, g, c), values);
      }
    }
    add_coarse<S, N>(work, location + place, image, left, first, step, to);
  });
  for (int i = static_cast<int>(threadIdx.x); i < count * groups * behind;
       i += static_cast<int>(blockDim.x)) {
    const int run = i / behind, c = channels + i % behind;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      deviation[(run * plan.padded + c) * N + n] = 0.0f;
    }
  }
}

template <int N>
FASTALIGN_DEVICE void load_deviations(const GaussianWork& work, int location, int count, int image,
                                      float* deviation) {
  switch (work.args.x.dtype) {
    case DType::float16:
      return load_deviations_as<Half, N>(work, location, count, image, deviation);
    case DType::bfloat16:
      return load_deviations_as<BFloat16, N>(work, location, count, image, deviation);
    default:
      return load_deviations_as<float, N>(work, location, count, image, deviation);
  }
}

// Sums M numbers over the warp, all at once: lane l is left with the sum of values[l / (32 / M)].
// The halves of the lanes exchange halves of the numbers, so that M = 32 costs 31 shuffles.
template <int M, int bit = 16>
FASTALIGN_DEVICE float sum_over_warp(float (&values)[M]) {
  constexpr unsigned all = 0xffffffffu;
  if constexpr (bit == 0) {
    return values[0];
  } else if constexpr (M == 1) {
    values[0] += __shfl_xor_sync(all, values[0], bit);
    return sum_over_warp<1, bit / 2>(values);
  } else {
    const bool upper = (threadIdx.x & bit) != 0;
    float kept[M / 2];
#pragma unroll
    for (int i = 0; i < M / 2; ++i) {
      const float low = values[i], high = values[i + M / 2];
      kept[i] = (upper ? high : low) + __shfl_xor_sync(all, upper ? low : high, bit);
    }
    return sum_over_warp<M / 2, bit / 2>(kept);
  }
}

// Sums of squares as they are, of values made smaller and of values made larger: one of the three
// stays in range, whatever the length.
struct Squares {
  float plain, reduced, raised;
};
constexpr float kReduce = 0x1p-80f, kRaise = 0x1p80f;

// The same length as the reference's, which divides the largest component out first.
FASTALIGN_DEVICE float length_of(const Squares& sum) {
  if (sum.plain > 0x1p120f) {
    // An infinite component has no direction: NaN. A length beyond float32 is infinite.
    return sum.reduced <= 0x1p126f ? sqrtf(sum.reduced) * kRaise : sum.reduced - sum.reduced;
  }
  return sum.plain < 0x1p-60f ? sqrtf(sum.raised) * kReduce : sqrtf(sum.plain);
}

// Products of staged rows [row, end) with the deviations of one location. A warp takes kRowTile
// rows at a time, lanes along the columns: an entry is read once for N images, a deviation once
// for kRowTile rows. Adds to sums [warps][images], a slot of its own for each warp; `white`
// (backward) receives the products.
template <class W, int N, bool keep>
FASTALIGN_DEVICE void whiten(const GaussianPlan& plan, const W* staged, int row, int end,
                             const float* deviation, Squares* sums, float* white) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int warps = static_cast<int>(blockDim.x / 32);
  const int before = triangle(row);
#pragma unroll 1
  for (int g = 0; g < plan.images / N; ++g) {
    const float* columns = deviation + tile_index<N>(plan, g, 0);
    Squares total{0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int top = row + warp * kRowTile; top < end; top += warps * kRowTile) {
      float products[kRowTile * N] = {};
      const W* entries = staged + triangle(top) - before;
      const auto multiply = [&](int column, auto guarded) {
        float d[N];
        load_group(columns + column * N, d);
#pragma unroll
        for (int k = 0; k < kRowTile; ++k) {
          // Row top + k starts k * top + triangle(k) entries behind row top.
          const int at = k * top + k * (k + 1) / 2 + column;
          float entry = 0.0f;
          if (!decltype(guarded)::value || (top + k < end && column <= top + k)) {
            entry = to_float(entries[at]);
          }
#pragma unroll
          for (int n = 0; n < N; ++n) {
            products[k * N + n] = fmaf(entry, d[n], products[k * N + n]);
          }
        }
      };
      int column = lane;
      if (top + kRowTile <= end) {
        for (; column - lane + 31 <= top; column += 32) {
          multiply(column, Constant<false>{});
        }
      }
      const int last = top + kRowTile < end ? top + kRowTile : end;
#pragma unroll 1
      for (; column - lane < last; column += 32) {
        multiply(column, Constant<true>{});
      }
      // Four lanes per row: of N = 4 images one each, of one image the same.
      const float y = sum_over_warp(products);
      const int mine = top + lane / 4;
      if (keep && mine < end && lane % 4 < N) {
        white[tile_index<N>(plan, g, mine) + lane % 4] = y;
      }
      const float reduced = y * kReduce, raised = y * kRaise;
      total.plain = fmaf(y, y, total.plain);
      total.reduced = fmaf(reduced, reduced, total.reduced);
      total.raised = fmaf(raised, raised, total.raised);
    }
#pragma unroll
    for (int bit = 4; bit < 32; bit *= 2) {
      total.plain += __shfl_xor_sync(0xffffffffu, total.plain, bit);
      total.reduced += __shfl_xor_sync(0xffffffffu, total.reduced, bit);
      total.raised += __shfl_xor_sync(0xffffffffu, total.raised, bit);
    }
    if (lane < N) {
      Squares& slot = sums[warp * plan.images + g * N + lane];
      slot.plain += total.plain;
      slot.reduced += total.reduced;
      slot.raised += total.raised;
    }
  }
}

// The same for a whole staged factor and many images: a thread per row, the deviations of a column
// the same for all of them. No products to add between lanes, which is half the work above; the
// lanes' entries lie T(row) + column apart, and 32 triangular numbers T are a permutation modulo
// 32: every lane finds a bank of its own.
template <class W, int N>
FASTALIGN_DEVICE void whiten_by_row(const GaussianPlan& plan, const W* staged, int rows,
                                    const float* deviation, Squares* sums) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll 1
  for (int g = 0; g < plan.images / N; ++g) {
    const float* columns = deviation + tile_index<N>(plan, g, 0);
#pragma unroll 1
    for (int top = warp * 32; top < rows; top += static_cast<int>(blockDim.x)) {
      const int row = top + lane < rows ? top + lane : rows - 1;
      const W* entries = staged + triangle(row);
      float y[N] = {};
      const auto multiply = [&](int column, auto guarded) {
        const float entry =
            !decltype(guarded)::value || column <= row ? to_float(entries[column]) : 0.0f;
        float d[N];
        load_group(columns + column * N, d);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          y[n] = fmaf(entry, d[n], y[n]);
        }
      };
#pragma unroll 4
      for (int column = 0; column < top; ++column) {
        multiply(column, Constant<false>{});
      }
      const int last = top + 32 < rows ? top + 32 : rows;
#pragma unroll 1
      for (int column = top; column < last; ++column) {
        multiply(column, Constant<true>{});
      }
      float plain[N], reduced[N], raised[N];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float mine = top + lane < rows ? y[n] : 0.0f;
        const float low = mine * kReduce, high = mine * kRaise;
        plain[n] = mine * mine;
        reduced[n] = low * low;
        raised[n] = high * high;
      }
      const Squares total{sum_over_warp(plain), sum_over_warp(reduced), sum_over_warp(raised)};
      constexpr int sharing = 32 / N;  // lanes that were left with the same image
      if (lane % sharing == 0) {
        Squares& slot = sums[warp * plan.images + g * N + lane / sharing];
        slot.plain += total.plain;
        slot.reduced += total.reduced;
        slot.raised += total.raised;
      }
    }
  }
}

// The sums of one image of the tile over the warps; the slots are left at zero.
FASTALIGN_DEVICE Squares take_sums(const GaussianPlan& plan, Squares* sums, int image) {
  Squares total{0.0f, 0.0f, 0.0f};
  for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) {
    Squares& slot = sums[warp * plan.images + image];
    total.plain += slot.plain;
    total.reduced += slot.reduced;
    total.raised += slot.raised;
    slot = Squares{0.0f, 0.0f, 0.0f};
  }
  return total;
}

FASTALIGN_DEVICE void clear_sums(const GaussianPlan& plan, Squares* sums) {
  const int count = plan.images * static_cast<int>(blockDim.x / 32);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    sums[i] = Squares{0.0f, 0.0f, 0.0f};
  }
}

}  // namespace fastalign::cuda

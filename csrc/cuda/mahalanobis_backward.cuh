// Gradients of the Mahalanobis distance by x, mean and factor.
//
// With y = L d and distance |y|: g = upstream y / |y| (0 at 0; 2 upstream y for the square), and
// dx = L^T g, dmean = -sum over the images of dx, dL = sum over the images of g d^T (lower half).
//
// Idea. A block streams the factors of its locations as in the forward kernel, and where a whole
// factor fits into shared memory (C <= 236 in float32 on a chip with 100 KB, 320 on an H100) L d
// and L^T g both read it there: one crossing of memory. A larger factor passes twice, since g
// needs the length and the length all rows. L^T g takes a thread per column: lanes read
// neighbouring entries of a row, and g is the same for all of them, one 16-byte read for four
// images. dL is an outer product of what lies in shared memory. A tile of images that holds the
// batch writes dL once; beyond that the sums stay in float32 in dL itself, or in scratch if dL has
// 16 bits, and each tile adds to what the same thread wrote.
//
// Bytes it must move: factors, x, mean and the upstream gradient once, dx, dmean, dL once. At
// C = 100, 64 x 64, one image, all three: 82.7 MB in, 82.7 MB out for the factors, 6.6 MB the rest.
// Bytes it moves: the same where the factor and the images fit; else the factors twice per tile.
// The choice is for shared memory over registers since both products want L in different order,
// and on small chips as on large ones a second crossing of device memory costs more.
#pragma once

#include "mahalanobis_tile.cuh"

namespace fastalign::cuda {

constexpr int kOuterRows = 4;

// What a block of the backward kernel holds beside the stages.
struct GaussianGradientTile {
  float* deviation;  // [locations][images][padded], later the gradients by x
  float* white;      // [images][padded]: y, then g
  float* gradient;   // [images][padded]: dx of one location
  Squares* sums;     // [warps][images]
  float* length;     // [images]
  float* upstream;   // [images]
};

// Lengths of the images' y at a location, and the gradients that came for their distances.
FASTALIGN_DEVICE void read_upstream(const GaussianWork& work, const GaussianGradientTile& tile,
                                    int location, int image) {
  const View3& grad = work.args.grad;
  const int width = static_cast<int>(work.args.x.size[3]);
  const float* from = static_cast<const float*>(grad.data) + location / width * grad.stride[1] +
                      location % width * grad.stride[2];
  for (int b = static_cast<int>(threadIdx.x); b < work.plan.images;
       b += static_cast<int>(blockDim.x)) {
    tile.length[b] = length_of(take_sums(work.plan, tile.sums, b));
    tile.upstream[b] = image + b < work.args.x.size[0] ? from[(image + b) * grad.stride[0]] : 0.0f;
  }
}

// y becomes g.
template <int N>
FASTALIGN_DEVICE void white_gradient(const GaussianWork& work, const GaussianGradientTile& tile) {
  const int channels = static_cast<int>(work.args.x.size[1]);
#pragma unroll 1
  for (int g = 0; g < work.plan.images / N; ++g) {
    for (int i = static_cast<int>(threadIdx.x); i < channels * N;
         i += static_cast<int>(blockDim.x)) {
      const int b = g * N + i % N;
      float& y = tile.white[tile_index<N>(work.plan, g, 0) + i];
      const float length = tile.length[b], upstream = tile.upstream[b];
      if (work.args.squared) {
        y *= 2.0f * upstream;
      } else {
        y = (length == 0.0f ? 0.0f : y / length) * upstream;
      }
    }
  }
}

// Adds the staged rows' part of L^T g, a thread per column.
template <class W, int N>
FASTALIGN_DEVICE void transposed_product(const GaussianWork& work, const GaussianGradientTile& tile,
                                         const W* staged, int row, int end) {
  const int before = triangle(row), lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll 1
  for (int g = 0; g < work.plan.images / N; ++g) {
    const float* white = tile.white + tile_index<N>(work.plan, g, 0);
    float* gradient = tile.gradient + tile_index<N>(work.plan, g, 0);
#pragma unroll 1
    for (int column = static_cast<int>(threadIdx.x); column - lane < end;
         column += static_cast<int>(blockDim.x)) {
      float sum[N] = {};
      const auto add = [&](int i, auto guarded) {
        float entry = 0.0f;
        if (!decltype(guarded)::value || column <= i) {
          entry = to_float(staged[triangle(i) - before + column]);
        }
        const Vec<float, N> y = load_vec<N>(white + i * N);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          sum[n] = fmaf(entry, y[n], sum[n]);
        }
      };
      int i = row > column - lane ? row : column - lane;
      const int square = column - lane + 31 < end ? column - lane + 31 : end;
#pragma unroll 1
      for (; i < square; ++i) {
        add(i, Constant<true>{});
      }
#pragma unroll 4
      for (; i < end; ++i) {
        add(i, Constant<false>{});
      }
      Vec<float, N> total = load_vec<N>(gradient + column * N);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        // A column's first row is its own: these rows are the first to reach columns from `row` on.
        total[n] = column >= row ? sum[n] : total[n] + sum[n];
      }
      store_vec(gradient + column * N, total);
    }
  }
}

// dL of one location, a warp per four rows, lanes along the columns.
template <class W, int N>
FASTALIGN_DEVICE void factor_gradient(const GaussianWork& work, const GaussianGradientTile& tile,
                                      const float* deviation, int location, int image) {
  const GaussianPlan& plan = work.plan;
  const int channels = static_cast<int>(work.args.x.size[1]);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int step = static_cast<int>(blockDim.x / 32) * kOuterRows;
  const int64_t size = packed_size(channels);
  W* out = static_cast<W*>(work.args.dwhitener) + location * size;
  float* sums = sizeof(W) == sizeof(float) ? reinterpret_cast<float*>(out)
                                           : plan.factor_sums + location * size;
  const bool first = image == 0, last = image + plan.images >= work.args.x.size[0];
#pragma unroll 1
  for (int top = warp * kOuterRows; top < channels; top += step) {
#pragma unroll 1
    for (int column = lane; column - lane < top + kOuterRows; column += 32) {
      float outer[kOuterRows] = {};
#pragma unroll 1
      for (int g = 0; g < plan.images / N; ++g) {
        const float* group = deviation + tile_index<N>(plan, g, 0);
        const float* white = tile.white + tile_index<N>(plan, g, 0);
        // Past the last channel the columns of a tile are padded; rows are not read there.
        const Vec<float, N> d = load_vec<N>(group + (column < plan.padded ? column : 0) * N);
#pragma unroll
        for (int k = 0; k < kOuterRows; ++k) {
          const int row = top + k < channels ? top + k : channels - 1;
          const Vec<float, N> y = load_vec<N>(white + row * N);
#pragma unroll
          for (int n = 0; n < N; ++n) {
            outer[k] = fmaf(y[n], d[n], outer[k]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kOuterRows; ++k) {
        if (top + k < channels && column <= top + k) {
          const int at = triangle(top + k) + column;
          const float sum = first ? outer[k] : sums[at] + outer[k];
          if (last) {
            out[at] = from_float<W>(sum);
          } else {
            sums[at] = sum;
          }
        }
      }
    }
  }
}

// Writes the gradients by x of the tile's locations, and minus their sums over the images.
template <class S, int N>
FASTALIGN_DEVICE void write_gradients_as(const GaussianWork& work, const float* gradient,
                                         int location, int count, int image) {
  const MahalanobisArgs& args = work.args;
  const View4& dx = args.dx;
  const GaussianPlan& plan = work.plan;
  const int one = plan.images * plan.padded;
  const int64_t pixels = args.x.size[2] * args.x.size[3];
  const int batch = static_cast<int>(work.args.x.size[0]);
  const int left = batch - image < plan.images ? batch - image : plan.images;
  const int channels = static_cast<int>(args.x.size[1]);
  for_each_place(
      plan, dx.data != nullptr ? dx : args.x, count, [&](int place, int first, int step) {
        const float* from = gradient + place * one;
        S* pixel = nullptr;
        if (dx.data != nullptr) {
          pixel =
              static_cast<S*>(dx.data) + image * dx.stride[0] + plane_offset(dx, location + place);
        }
#pragma unroll 1
        for (int c = first; c < channels; c += step) {
          S* to = pixel + c * dx.stride[1];
          float sum = 0.0f;
#pragma unroll 1
          for (int g = 0; g < plan.images / N; ++g) {
            float values[N];
            load_group(from + tile_index<N>(plan, g, c), values);
#pragma unroll
            for (int n = 0; n < N; ++n) {
              const int b = g * N + n;
              if (b < left) {
                sum += values[n];
                if (pixel != nullptr) {
                  to[b * dx.stride[0]] = from_float<S>(values[n]);
                }
              }
            }
          }
          if (args.dmean != nullptr) {
            float& mean = args.dmean[c * pixels + location + place];
            mean = image == 0 ? -sum : mean - sum;
          }
        }
      });
}

template <int N>
FASTALIGN_DEVICE void write_gradients(const GaussianWork& work, const float* gradient, int location,
                                      int count, int image) {
  switch (work.args.x.dtype) {
    case DType::float16:
      return write_gradients_as<Half, N>(work, gradient, location, count, image);
    case DType::bfloat16:
      return write_gradients_as<BFloat16, N>(work, gradient, location, count, image);
    default:
      return write_gradients_as<float, N>(work, gradient, location, count, image);
  }
}

// Once L d of a location is complete: g, and with it dL.
template <class W, int N>
FASTALIGN_DEVICE void finish_white(const GaussianWork& work, const GaussianGradientTile& tile,
                                   const float* deviation, int location, int image) {
  __syncthreads();
  read_upstream(work, tile, location, image);
  __syncthreads();
  white_gradient<N>(work, tile);
  __syncthreads();
  if (work.args.dwhitener != nullptr) {
    factor_gradient<W, N>(work, tile, deviation, location, image);
  }
}

// Rows in the order in which they are staged: of each location first all rows for L d, then, unless
// one stage held them or nobody wants L^T g, all rows again.
struct Position {
  int place, row, end;
  bool again;
};

FASTALIGN_DEVICE Position following(const GaussianPlan& plan, const Position& at, int channels,
                                    bool by_x) {
  Position next{at.place, at.end, 0, at.again};
  if (at.end == channels) {
    const bool done = at.again || at.row == 0 || !by_x;
    next = Position{done ? at.place + 1 : at.place, 0, 0, !done};
  }
  next.end = stage_end(next.row, channels, plan.capacity);
  return next;
}

template <class W, int N>
FASTALIGN_KERNEL(kGaussianThreads, kGaussianBlocks)
mahalanobis_gradients(GaussianWork work) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  const GaussianPlan& plan = work.plan;
  const int one = plan.images * plan.padded, warps = static_cast<int>(blockDim.x / 32);
  GaussianGradientTile tile;
  tile.deviation = reinterpret_cast<float*>(shared + plan.stages * plan.stage_bytes);
  tile.white = tile.deviation + plan.locations * one;
  tile.gradient = tile.white + one;
  tile.sums = reinterpret_cast<Squares*>(tile.gradient + one);
  tile.length = reinterpret_cast<float*>(tile.sums + warps * plan.images);
  tile.upstream = tile.length + plan.images;
  const auto stage_at = [&](int slot) {
    return reinterpret_cast<W*>(shared + slot * plan.stage_bytes);
  };

  const int batch = static_cast<int>(work.args.x.size[0]);
  const OwnLocations own = own_locations(work);
  const int location = own.first, count = own.count;
  const int channels = static_cast<int>(work.args.x.size[1]);
  const bool by_x = work.args.dx.data != nullptr || work.args.dmean != nullptr;

  clear_sums(plan, tile.sums);
  for (int image = 0; image < batch; image += plan.images) {
    Position at{0, 0, stage_end(0, channels, plan.capacity), false};
    int slot = 0;
    stage_rows(work, location, at.row, at.end, stage_at(0));
    end_of_copies();
    load_deviations<N>(work, location, count, image, tile.deviation);
    while (at.place < count) {
      if (plan.stages == 2) {
        const Position next = following(plan, at, channels, by_x);
        if (next.place < count) {
          stage_rows(work, location + next.place, next.row, next.end, stage_at(slot ^ 1));
        }
        end_of_copies();
        wait_for_copies<false>();
      } else {
        wait_for_copies<true>();
      }
      __syncthreads();
      const W* staged =
          stage_at(slot) + stage_shift(work, factor_rows<W>(work, location + at.place, at.row));
      float* deviation = tile.deviation + at.place * one;
      if (!at.again) {
        whiten<W, N, true>(plan, staged, at.row, at.end, deviation, tile.sums, tile.white);
        if (at.end == channels) {
          finish_white<W, N>(work, tile, deviation, location + at.place, image);
        }
      }
      if (by_x && (at.again || at.end - at.row == channels)) {
        transposed_product<W, N>(work, tile, staged, at.row, at.end);
      }
      __syncthreads();
      const Position next = following(plan, at, channels, by_x);
      if (next.place != at.place && by_x) {
        for (int i = static_cast<int>(threadIdx.x); i < one; i += static_cast<int>(blockDim.x)) {
          deviation[i] = tile.gradient[i];
        }
      }
      if (plan.stages == 1) {
        if (next.place < count) {
          stage_rows(work, location + next.place, next.row, next.end, stage_at(0));
        }
        end_of_copies();
      }
      at = next;
      slot ^= plan.stages - 1;
    }
    __syncthreads();
    if (by_x) {
      write_gradients<N>(work, tile.deviation, location, count, image);
      __syncthreads();
    }
  }
}

}  // namespace fastalign::cuda

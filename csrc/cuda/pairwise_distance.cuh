// All-pairs distances at every location, their mean and their gradient, in O(B^2) a location.
//
// Idea. A thread takes one location. It copies the B x C values there into its column of shared
// memory, holds eight images at a time in registers, and lets every image of the group meet these
// eight: three loads serve eight distances. Value and gradient come from the same walk. Nothing
// of size B x B exists, and threads never wait for each other.
//
// Bytes that must move: h (and the mask) in, dh or the value out. That is what moves; a batch whose
// columns do not fit, and channel counts without a variant of their own, read h through the
// caches instead (pair_any). Arithmetic decides: 32 images at 224 x 224 make 50 M ordered pairs of
// about 20 instructions.
//
// Why ordered pairs, each distance computed from both sides. Meeting once would halve the
// arithmetic, but the partner's sums and gradient would have to lie in shared memory too, read and
// written by every pair: twice the shared memory, half the threads on a multiprocessor. Here 384
// bytes a location at B = 32 leave 12 to 16 warps on an H100's multiprocessor, 8 on a small chip's.
// Only the pairs inside a tile of registers are met once.
// The registers' tiles are independent: a small map's are spread over blocks (gridDim.y).
//
// Mask. Values that are not valid are copied as zeros, and their pairs are skipped or dropped by
// selection, so nothing under the mask reaches a sum, infinities included.
//
// Range. Where a squared distance leaves [2^-60, 2^60], zero included, the step is done again with
// each difference multiplied by the power of two that brings it near 1.
#pragma once

#include "pairwise_task.cuh"

namespace fastalign::cuda {

constexpr int kPairImages = 8;  // in registers

template <int C>
struct Difference {
  float entry[C], square;

  FASTALIGN_DEVICE void measure() {
    square = 0.0f;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      square = fmaf(entry[c], entry[c], square);
    }
  }
};

// A register tile: `count` images from place `start` on, and what they have gathered.
template <class T, int C, bool Backward>
struct PairTile {
  const PairLocation<T>& at;
  const float* column;  // of this thread: [images][C][threads]
  const bool bounded;   // no entry there is large, infinite or NaN
  int start, count, threads;
  float share;
  float own[kPairImages][C], sum[kPairImages], weight[kPairImages], gradient[kPairImages][C];

  FASTALIGN_DEVICE PairTile(const PairLocation<T>& location, const float* values, bool small,
                            int first, int images, float pair_share)
      : at(location),
        column(values),
        bounded(small),
        start(first),
        count(images),
        threads(static_cast<int>(blockDim.x)),
        share(pair_share) {
#pragma unroll
    for (int r = 0; r < kPairImages; ++r) {
      const int image = at.task.groups.image(r < count ? start + r : start);
      read(image, own[r]);
      weight[r] = Backward ? at.weight(image, share) : 0.0f;
    }
    reset();
  }

  FASTALIGN_DEVICE void reset() {
#pragma unroll
    for (int r = 0; r < kPairImages; ++r) {
      sum[r] = 0.0f;
      fill<C>(gradient[r], 0.0f);
    }
  }

  FASTALIGN_DEVICE void read(int image, float (&values)[C]) const {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      values[c] = column[(image * C + c) * threads];
    }
  }

  // One distance, measured as `square` of `difference`, which may have been rescaled.
  FASTALIGN_DEVICE void gather(int r, const Difference<C>& difference, float unscale, bool zero,
                               float other_weight) {
    const Root root = root_of(difference.square);
    sum[r] += zero ? 0.0f : root.length * unscale;
    if constexpr (Backward) {
      const float pull = zero ? 0.0f : (weight[r] + other_weight) * root.inverse;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        gradient[r][c] = fmaf(-difference.entry[c], pull, gradient[r][c]);
      }
    }
  }

  // The images of places from `first` to `end` meet the tile; `guarded` where they are in it, or
  // where it is not full.
  template <bool guarded>
  FASTALIGN_DEVICE void meet(int first, int end) {
    for (int place = first; place < end; ++place) {
      const int image = at.task.groups.image(place);
      if (!at.valid(image)) {
        continue;
      }
      float other[C];
      read(image, other);
      const float other_weight = Backward ? at.weight(image, share) : 0.0f;
      Difference<C> differences[kPairImages];
      float lowest = bounded ? kHighSquare : 0.0f;
#pragma unroll
      for (int r = 0; r < kPairImages; ++r) {
        differences[r] = difference(other, r);
        lowest = fminf(lowest, skipped<guarded>(r, place) ? kHighSquare : differences[r].square);
      }
      if (lowest >= kLowSquare) {
#pragma unroll
        for (int r = 0; r < kPairImages; ++r) {
          gather(r, differences[r], 1.0f, skipped<guarded>(r, place), other_weight);
        }
        continue;
      }
#pragma unroll
      for (int r = 0; r < kPairImages; ++r) {
        Difference<C> scaled = difference(other, r);
        const float scale = rescale(&scaled);
        const bool zero = scaled.square == 0.0f || skipped<guarded>(r, place);
        gather(r, scaled, inverse_of_power(scale), zero, other_weight);
      }
    }
  }

  // The images of a full tile meet each other, each pair once; they are the first to meet, so that
  // a pair out of range can be made good by a second start.
  FASTALIGN_DEVICE void meet_inside() {
    if (!bounded || at.task.mask.data != nullptr) {
      return meet<true>(start, start + kPairImages);
    }
    float lowest = kHighSquare;
#pragma unroll
    for (int r = 0; r < kPairImages; ++r) {
#pragma unroll
      for (int s = r + 1; s < kPairImages; ++s) {
        const Difference<C> d = difference(own[s], r);
        lowest = fminf(lowest, d.square);
        const Root root = root_of(d.square);
        sum[r] += root.length;
        sum[s] += root.length;
        const float pull = (weight[r] + weight[s]) * root.inverse;
#pragma unroll
        for (int c = 0; Backward && c < C; ++c) {
          gradient[r][c] = fmaf(-d.entry[c], pull, gradient[r][c]);
          gradient[s][c] = fmaf(d.entry[c], pull, gradient[s][c]);
        }
      }
    }
    if (lowest < kLowSquare) {
      reset();
      meet<true>(start, start + kPairImages);
    }
  }

  template <bool guarded>
  FASTALIGN_DEVICE bool skipped(int r, int place) const {
    return guarded && (place == start + r || r >= count);
  }

  FASTALIGN_DEVICE Difference<C> difference(const float (&other)[C], int r) const {
    Difference<C> d;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      d.entry[c] = other[c] - own[r][c];
    }
    d.measure();
    return d;
  }

  FASTALIGN_DEVICE static float rescale(Difference<C>* d) {
    if (in_range(d->square)) {
      return 1.0f;
    }
    float largest = 0.0f;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      largest = larger_or_nan(largest, fabsf(d->entry[c]));
    }
    const float scale = power_of_two_scale(largest);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      d->entry[c] *= scale;
    }
    d->measure();
    return scale;
  }

  // Values and gradients of the tile; gives the sum of the values.
  FASTALIGN_DEVICE float finish() const {
    float values = 0.0f;
#pragma unroll
    for (int r = 0; r < kPairImages; ++r) {
      if (r < count && at.active) {
        const int image = at.task.groups.image(start + r);
        const bool paired = share > 0.0f && at.valid(image);
        const float value = paired ? sum[r] * share : 0.0f;
        values += value;
        at.write_value(image, value);
#pragma unroll
        for (int c = 0; Backward && c < C; ++c) {
          at.write_gradient(image, c, paired ? gradient[r][c] : 0.0f);
        }
      }
    }
    return values;
  }
};

template <class T, int C, bool Backward>
FASTALIGN_KERNEL(kPairThreads, Backward ? 3 : 4)
pair_tiles(PairTask<T> task) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  const int batch = task.batch, threads = static_cast<int>(blockDim.x);
  const PairLocation<T> at(task, static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x);
  float* column = reinterpret_cast<float*>(shared + kSumBytes) + threadIdx.x;
  bool bounded = true;
#pragma unroll 4
  for (int image = 0; image < batch; ++image) {
    const bool valid = at.valid(image);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const float read = at.read(image, c);
      const float value = valid ? read : 0.0f;
      bounded = bounded && fabsf(value) <= kLargeEntry;
      column[(image * C + c) * threads] = value;
    }
  }
  double total = 0;
  int tile = 0;
  for (int first = 0, end = 0; first < batch; first = end) {
    end = task.groups.end_of(first, batch);
    const float share = pair_share(at.members(first, end));
    for (int start = first; start < end; start += kPairImages, ++tile) {
      if (tile % static_cast<int>(gridDim.y) != static_cast<int>(blockIdx.y)) {
        continue;
      }
      const int count = min(kPairImages, end - start);
      PairTile<T, C, Backward> images(at, column, bounded, start, count, share);
      if (count == kPairImages) {
        images.meet_inside();
        images.template meet<false>(first, start);
        images.template meet<false>(start + kPairImages, end);
      } else {
        images.template meet<true>(first, end);
      }
      total += static_cast<double>(images.finish());
    }
  }
  finish_pairs(task, total, shared);
}

// Value and gradient of one image at one location, for any number of channels and images: h comes
// through the caches, and the factors of the pairs, [places][threads], wait for the gradient in
// shared memory (or in `spill`).
template <class T>
FASTALIGN_DEVICE float pair_image(const PairLocation<T>& at, int place, float* factors) {
  const PairTask<T>& task = at.task;
  const bool backward = task.dh.data != nullptr;
  const int batch = task.batch, threads = static_cast<int>(blockDim.x);
  const int image = task.groups.image(place);
  const int first = task.groups.first_of(place), end = task.groups.end_of(place, batch);
  const float share = pair_share(at.members(first, end));
  const bool paired = at.active && share > 0.0f && at.valid(image);
  float sum = 0.0f;
  for (int other = first; paired && other < end; ++other) {
    const int partner = task.groups.image(other);
    const Reach reach =
        other == place || !at.valid(partner) ? Reach{0.0f, 0.0f} : at.reach(image, partner);
    sum += reach.length;
    if (backward) {
      const float weight = at.weight(image, share) + at.weight(partner, share);
      factors[(other - first) * threads] = reach.inverse == 0.0f ? 0.0f : weight * reach.inverse;
    }
  }
  if (!at.active) {
    return 0.0f;
  }
  const float value = paired ? sum * share : 0.0f;
  at.write_value(image, value);
  for (int c = 0; backward && c < task.channels; ++c) {
    const float own = at.read(image, c);
    float gradient = 0.0f;
    for (int other = first; paired && other < end; ++other) {
      const int partner = task.groups.image(other);
      if (other != place && at.valid(partner)) {
        gradient = fmaf(own - at.read(partner, c), factors[(other - first) * threads], gradient);
      }
    }
    at.write_gradient(image, c, gradient);
  }
  return value;
}

template <class T>
FASTALIGN_KERNEL(kPairThreads, 6)
pair_any(PairTask<T> task, int64_t tiles) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  const int threads = static_cast<int>(blockDim.x);
  float* factors = reinterpret_cast<float*>(shared + kSumBytes);
  if (task.spill != nullptr) {
    const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    factors = task.spill + block * task.batch * threads;
  }
  double total = 0;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const PairLocation<T> at(task, tile * threads + threadIdx.x);
    for (int place = blockIdx.y; place < task.batch; place += static_cast<int>(gridDim.y)) {
      total += static_cast<double>(pair_image(at, place, factors + threadIdx.x));
    }
  }
  finish_pairs(task, total, shared);
}

}  // namespace fastalign::cuda

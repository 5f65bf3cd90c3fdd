// What the kernels of pairwise_distance share: the task, and one location of it.
#pragma once

#include "fields.cuh"
#include "groups.cuh"
#include "lengths.cuh"
#include "reduce.cuh"
#include "values.h"

namespace fastalign::cuda {

constexpr int kPairThreads = 128;
constexpr float kLargeEntry = 0x1p29f;    // squares of differences stay far from overflow
constexpr int kSumBytes = kMaxWarps * 8;  // of shared memory: a double for each warp

template <class T>
struct PairTask {
  Field<const T> h;
  Field<T> dh;              // data null: not wanted
  Map<unsigned char> mask;  // data null: all valid
  Map<float> grad;          // data null: `weight` everywhere
  float* value;             // [B, H*W] or null
  double* partial;          // [blocks] or null
  GroupOrder groups;
  int batch, channels;
  Rows rows;
  int64_t pixels;
  float weight;
  float* spill;  // for what shared memory does not hold, or null
};

// A length and its inverse; of 0 both are NaN or infinite.
struct Root {
  float length, inverse;
};

// The length takes the inverse root's two units in the last place; a mean over partners evens
// them out, and a step of Newton's would cost a sixth of all instructions.
FASTALIGN_DEVICE Root root_of(float square) {
  const float inverse = inverse_root(square);
  return {square * inverse, inverse};
}

FASTALIGN_DEVICE float inverse_of_power(float power) {
  return bits_to_float((254u << 23) - float_to_bits(power));
}

// A distance and what its difference is multiplied by to get a direction; 0 and 0 at 0.
struct Reach {
  float length, inverse;
};

// One over the number of partners of each of `members` images, 0 without partners.
FASTALIGN_DEVICE float pair_share(int members) {
  return members > 1 ? 1.0f / static_cast<float>(members - 1) : 0.0f;
}

template <class T>
struct PairLocation {
  const PairTask<T>& task;
  int64_t location, h, dh, mask, grad;  // the location, and its offset in image 0 of each
  bool active;

  FASTALIGN_DEVICE PairLocation(const PairTask<T>& given, int64_t index)
      : task(given), location(index), active(index < given.pixels) {
    const Pixel pixel = pixel_at(active ? location : 0, task.rows);
    h = pixel.in(task.h);
    dh = pixel.in(task.dh);
    mask = pixel.in(task.mask);
    grad = pixel.in(task.grad);
  }

  FASTALIGN_DEVICE bool valid(int image) const {
    return task.mask.data == nullptr || task.mask.data[image * task.mask.image + mask] != 0;
  }

  FASTALIGN_DEVICE float read(int image, int c) const {
    const T* from = task.h.data + image * task.h.image + c * task.h.channel + h;
    return to_float(load_vec<1, Cache::readonly>(from)[0]);
  }

  FASTALIGN_DEVICE void write_gradient(int image, int c, float value) const {
    task.dh.data[image * task.dh.image + c * task.dh.channel + dh] = from_float<T>(value);
  }

  FASTALIGN_DEVICE void write_value(int image, float value) const {
    if (task.value != nullptr) {
      task.value[image * task.pixels + location] = value;
    }
  }

  // Valid images of a group.
  FASTALIGN_DEVICE int members(int first, int end) const {
    if (task.mask.data == nullptr) {
      return end - first;
    }
    int count = 0;
    for (int place = first; place < end; ++place) {
      count += valid(task.groups.image(place)) ? 1 : 0;
    }
    return count;
  }

  // Upstream gradient of an image's sum of distances. Selected, not multiplied, where there are no
  // pairs: a NaN upstream of an excluded location stays there.
  FASTALIGN_DEVICE float weight(int image, float share) const {
    if (share == 0.0f || !valid(image)) {
      return 0.0f;
    }
    const bool given = task.grad.data != nullptr;
    return (given ? task.grad.data[image * task.grad.image + grad] : task.weight) * share;
  }

  FASTALIGN_DEVICE float square(int image, int other, float scale) const {
    FoldedSum sum;
    for (int c = 0; c < task.channels; ++c) {
      const float difference = (read(other, c) - read(image, c)) * scale;
      sum.add(difference * difference, c);
    }
    return sum.total();
  }

  FASTALIGN_DEVICE Reach reach(int image, int other) const {
    float scale = 1.0f, squared = square(image, other, scale);
    if (!in_range(squared)) {
      float largest = 0.0f;
      for (int c = 0; c < task.channels; ++c) {
        largest = larger_or_nan(largest, fabsf(read(other, c) - read(image, c)));
      }
      if (largest == 0.0f) {
        return {0.0f, 0.0f};
      }
      scale = power_of_two_scale(largest);
      squared = square(image, other, scale);
    }
    const Root root = root_of(squared);
    return {root.length * inverse_of_power(scale), root.inverse * scale};
  }
};

// The block's share of the loss. Every thread of the block calls it once.
template <class T>
FASTALIGN_DEVICE void finish_pairs(const PairTask<T>& task, double total, unsigned char* shared) {
  if (task.partial != nullptr) {
    total = block_sum(total, reinterpret_cast<double*>(shared));
    if (threadIdx.x == 0) {
      task.partial[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
    }
  }
}

}  // namespace fastalign::cuda

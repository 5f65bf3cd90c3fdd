// The squared form of pairwise_distance in O(B): every image against sums over its group.
//
// With u = h - (mean of the group), sum over j of |h_a - h_j|^2 = n |u_a|^2 - 2 u_a . sum u +
// sum |u|^2, where the mean is taken away first because the terms would cancel otherwise. A thread
// takes one location, channel by channel; h is read three times there, twice from the cache, and
// the value gathers in the thread's column of shared memory, B floats (or in `spill`).
//
// Bytes that must move, and do as long as a channel of the block's images (B x 512 bytes in
// float32) stays in the L1 cache: h and the mask in, dh or the value out.
#pragma once

#include "pairwise_task.cuh"

namespace fastalign::cuda {

template <class T>
FASTALIGN_KERNEL(kPairThreads, 6)
pair_squared(PairTask<T> task) {
  FASTALIGN_DYNAMIC_SHARED(unsigned char, shared);
  const int batch = task.batch, threads = static_cast<int>(blockDim.x);
  const PairLocation<T> at(task, static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x);
  const bool backward = task.dh.data != nullptr;
  float* sums = reinterpret_cast<float*>(shared + kSumBytes);
  if (task.spill != nullptr) {
    sums = task.spill + static_cast<int64_t>(blockIdx.x) * batch * threads;
  }
  sums += threadIdx.x;  // [places][threads]
  double total = 0;
  for (int first = 0, end = 0; at.active && first < batch; first = end) {
    end = task.groups.end_of(first, batch);
    const int members = at.members(first, end);
    const float share = pair_share(members), count = static_cast<float>(members);
    FoldedSum weights;
    float squares = 0.0f;
    for (int place = first; place < end; ++place) {
      sums[place * threads] = 0.0f;
      weights.add(backward ? at.weight(task.groups.image(place), share) : 0.0f, place - first);
    }
    for (int c = 0; c < task.channels; ++c) {
      FoldedSum values, rests, weighted_rests, own_squares;
      for (int place = first; place < end; ++place) {
        const int image = task.groups.image(place);
        const float value = at.read(image, c);
        values.add(at.valid(image) ? value : 0.0f, place - first);
      }
      const float mean = values.total() / (members > 1 ? count : 1.0f);
      for (int place = first; place < end; ++place) {
        const int image = task.groups.image(place);
        const float u = at.valid(image) ? at.read(image, c) - mean : 0.0f;
        rests.add(u, place - first);
        own_squares.add(u * u, place - first);
        weighted_rests.add(backward ? u * at.weight(image, share) : 0.0f, place - first);
      }
      const float rest = rests.total(), weighted = weighted_rests.total();
      squares += own_squares.total();
      for (int place = first; place < end; ++place) {
        const int image = task.groups.image(place);
        const float u = at.read(image, c) - mean;
        const bool paired = members > 1 && at.valid(image);
        sums[place * threads] += paired ? u * (count * u - 2.0f * rest) : 0.0f;
        if (backward) {
          const float pull = at.weight(image, share) * (count * u - rest);
          const float gradient = 2.0f * (pull + u * weights.total() - weighted);
          at.write_gradient(image, c, paired ? gradient : 0.0f);
        }
      }
    }
    for (int place = first; place < end; ++place) {
      const int image = task.groups.image(place);
      const bool paired = members > 1 && at.valid(image);
      const float value = (sums[place * threads] + squares) * share;
      const float clean = !paired || value < 0.0f ? 0.0f : value;
      total += static_cast<double>(clean);
      at.write_value(image, clean);
    }
  }
  finish_pairs(task, total, shared);
}

}  // namespace fastalign::cuda

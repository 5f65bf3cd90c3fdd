// Multiplies a dense tensor by a number that lies on the device, in place.
//
// Idea. A loss op has computed its gradient in the forward pass. The backward pass multiplies it
// by the gradient of the loss, which after loss.backward() is 1, and only the device knows that:
// asking would wait for it. So the kernel asks there, and where the factor is 1 it moves nothing.
//
// Bytes that must move: none for a factor of 1, else 2 N, and these move. A product by plain
// PyTorch reads N and writes N in every case, two thirds of what the whole loss costs.
//
// Why so. 16 bytes a thread and step, neighbours in a warp; a few blocks for each multiprocessor,
// so that the launch with nothing to do is over at once.
#pragma once

#include "values.h"

namespace fastalign::cuda {

constexpr int kScaleThreads = 256;

// x: [count]; factor: one number.
template <class T, int V>
FASTALIGN_KERNEL(kScaleThreads)
scale_in_place(T* x, int64_t count, const float* factor) {
  const float by = *factor;
  if (by == 1.0f) {
    return;
  }
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kScaleThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kScaleThreads;
  const int64_t vectors = count / V;
  for (int64_t i = thread; i < vectors; i += threads) {
    float values[V];
    to_floats(load_vec<V>(x + i * V), values);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      values[j] *= by;
    }
    store_vec(x + i * V, from_floats<T>(values));
  }
  for (int64_t i = vectors * V + thread; i < count; i += threads) {
    x[i] = from_float<T>(to_float(x[i]) * by);
  }
}

}  // namespace fastalign::cuda

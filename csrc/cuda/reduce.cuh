// Sums over a block, and the second stage of a loss: deterministic, without atomics.
#pragma once

#include "launch.h"

namespace fastalign::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxWarps = 32;

FASTALIGN_DEVICE double warp_sum(double value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// The sum over the block, in thread 0 only. Every thread of whole warps calls it; `shared` holds
// one double for each warp and must not be in use.
FASTALIGN_DEVICE double block_sum(double value, double* shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  value = warp_sum(value);
  if (lane == 0) {
    shared[warp] = value;
  }
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) {
      total += shared[i];
    }
  }
  return total;
}

constexpr int kFinishThreads = 512;

// loss = scale * (sum of the blocks' partial sums), added up in a fixed order in double.
template <int threads>
FASTALIGN_KERNEL(threads)
finish_loss(const double* partial, int64_t count, double scale, float* loss) {
  FASTALIGN_DYNAMIC_SHARED(double, shared);
  double own = 0;
  for (int64_t i = threadIdx.x; i < count; i += threads) {
    own += partial[i];
  }
  const double total = block_sum(own, shared) * scale;
  if (threadIdx.x == 0) {
    *loss = total == 0.0 ? 0.0f : static_cast<float>(total);  // no minus zero without pairs
  }
}

inline Error enqueue_finish_loss(const double* partial, int64_t count, double scale, float* loss,
                                 Stream stream) {
  return FASTALIGN_LAUNCH((finish_loss<kFinishThreads>), dim3(1), dim3(kFinishThreads),
                          kFinishThreads / 32 * sizeof(double), stream, partial, count, scale,
                          loss);
}

}  // namespace fastalign::cuda

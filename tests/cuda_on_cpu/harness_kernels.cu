// Tiny kernels that test the harness itself: one right, and one for every error that it must see.
#include "values.h"

namespace fastalign::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// Sums of each block of `count` numbers: shuffles within warps, shared memory between them.
FASTALIGN_DEVICE float block_sum(float value, float* partial) {
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAll, value, step);
  }
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) {
    partial[warp] = value;
  }
  __syncthreads();
  value = lane < blockDim.x / 32 ? partial[lane] : 0.0f;
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_down_sync(kAll, value, step);
  }
  return __shfl_sync(kAll, value, 0);
}

FASTALIGN_KERNEL(1024) sum_blocks(const float* in, float* out, int64_t count) {
  FASTALIGN_DYNAMIC_SHARED(float, partial);
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const float total = block_sum(i < count ? in[i] : 0.0f, partial);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = total;
  }
}

// out[i] = in[size - 1 - i] by way of shared memory.
template <bool barrier>
FASTALIGN_KERNEL(1024)
turn_round(const float* in, float* out, int64_t) {
  FASTALIGN_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = in[threadIdx.x];
  if (barrier) {
    __syncthreads();
  }
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// The same within a warp.
template <bool barrier>
FASTALIGN_KERNEL(32)
turn_warp(const float* in, float* out, int64_t) {
  FASTALIGN_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = in[threadIdx.x];
  if (barrier) {
    __syncwarp();
  }
  out[threadIdx.x] = tile[31 - threadIdx.x];
}

// Every lane's answers to the warp operations, beside what they must be.
FASTALIGN_KERNEL(64) warp_operations(const float* in, float* out, int64_t) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float mine = in[threadIdx.x];
  const double wide = mine;
  float wrong = 0;
  const auto expect = [&](bool right) { wrong += right ? 0.0f : 1.0f; };
  const auto of = [&](int other) { return in[threadIdx.x - lane + other]; };
  expect(__shfl_sync(kAll, mine, 5) == of(5));
  expect(__shfl_sync(kAll, mine, 5, 8) == of((lane & ~7) + 5));
  expect(__shfl_sync(kAll, wide, lane + 1) == of((lane + 1) % 32));
  expect(__shfl_up_sync(kAll, mine, 3) == of(lane >= 3 ? lane - 3 : lane));
  expect(__shfl_up_sync(kAll, lane, 1, 4) == (lane % 4 >= 1 ? lane - 1 : lane));
  expect(__shfl_down_sync(kAll, mine, 3) == of(lane + 3 < 32 ? lane + 3 : lane));
  expect(__shfl_down_sync(kAll, lane, 2, 16) == (lane % 16 + 2 < 16 ? lane + 2 : lane));
  expect(__shfl_xor_sync(kAll, mine, 9) == of(lane ^ 9));
  expect(__shfl_xor_sync(kAll, lane, 8, 8) == ((lane ^ 8) < (lane & ~7) + 8 ? lane ^ 8 : lane));
  expect(__ballot_sync(kAll, lane % 3 == 0) == 0x49249249u);
  expect(__any_sync(kAll, lane == 7) == 1 && __any_sync(kAll, 0) == 0);
  expect(__all_sync(kAll, 1) == 1 && __all_sync(kAll, lane != 7) == 0);
  expect(__activemask() == kAll);
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  if (lane < 16) {
    expect(__shfl_xor_sync(half, mine, 15) == of(15 - lane));
  } else {
    expect(__shfl_xor_sync(half, mine, 1) == of(lane ^ 1));
  }
  __syncwarp();
  expect(__syncthreads_count(threadIdx.x < 40) == 40);
  expect(__syncthreads_or(threadIdx.x == 63) == 1 && __syncthreads_or(0) == 0);
  expect(__syncthreads_and(1) == 1 && __syncthreads_and(threadIdx.x != 0) == 0);
  out[threadIdx.x] = wrong;
}

FASTALIGN_KERNEL(256) add_up(const float* in, float* out, int64_t) {
  atomicAdd(out, in[threadIdx.x]);
  if (threadIdx.x == 0) {
    atomicAdd(reinterpret_cast<unsigned*>(out + 1), 1u);
  }
}

// Errors.

FASTALIGN_KERNEL(64) barrier_in_a_branch(const float*, float*, int64_t) {
  if (threadIdx.x < 40) {
    __syncthreads();
  }
}

FASTALIGN_KERNEL(64) exit_before_barrier(const float*, float*, int64_t count) {
  if (threadIdx.x >= count) {
    return;
  }
  __syncthreads();
}

FASTALIGN_KERNEL(64) two_barriers(const float*, float*, int64_t) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

FASTALIGN_KERNEL(64) shuffle_after_exit(const float* in, float* out, int64_t) {
  if (threadIdx.x % 32 == 9) {
    return;
  }
  out[threadIdx.x] = __shfl_xor_sync(kAll, in[threadIdx.x], 1);
}

FASTALIGN_KERNEL(64) shuffle_in_a_branch(const float* in, float* out, int64_t) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 2 == 0) {
    value = __shfl_sync(kAll, value, 0);
  }
  __syncthreads();
  out[threadIdx.x] = value;
}

FASTALIGN_KERNEL(64) different_masks(const float*, float*, int64_t) {
  __syncwarp(threadIdx.x % 32 < 16 ? kAll : 0xffff0000u);
}

FASTALIGN_KERNEL(64) shuffles_apart(const float* in, float* out, int64_t) {
  if (threadIdx.x % 2 == 0) {
    out[threadIdx.x] = __shfl_xor_sync(kAll, in[threadIdx.x], 2);
  } else {
    out[threadIdx.x] = __shfl_xor_sync(kAll, in[threadIdx.x], 4);
  }
}

FASTALIGN_KERNEL(64) not_in_own_mask(const float* in, float* out, int64_t) {
  out[threadIdx.x] = __shfl_sync(0xfffffffeu, in[threadIdx.x], 1);
}

FASTALIGN_KERNEL(64) full_mask(const float* in, float* out, int64_t) {
  out[threadIdx.x] = __shfl_xor_sync(kAll, in[threadIdx.x], 1);
}

FASTALIGN_KERNEL(64) reads_outside_mask(const float* in, float* out, int64_t) {
  if (threadIdx.x % 32 < 16) {
    out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, in[threadIdx.x], 1);
  }
}

FASTALIGN_KERNEL(64) misaligned_vector(const float* in, float* out, int64_t offset) {
  store_vec(out + 4 * threadIdx.x, load_vec<4>(in + 4 * threadIdx.x + offset));
}

FASTALIGN_KERNEL(64) shared_at(const float* in, float* out, int64_t index) {
  FASTALIGN_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 1) {
    tile[index] = 1.0f;
  }
  out[threadIdx.x] = tile[threadIdx.x];
}

FASTALIGN_KERNEL(64) reads_unwritten_shared(const float*, float* out, int64_t) {
  FASTALIGN_DYNAMIC_SHARED(float, tile);
  if (blockIdx.x == 0 && threadIdx.x < 63) {
    tile[threadIdx.x] = 1.0f;
  }
  __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x];
}

FASTALIGN_KERNEL(64) divides_by(const float*, float* out, int64_t divisor) {
  out[threadIdx.x] = static_cast<float>(1000 / (divisor - threadIdx.x));
}

FASTALIGN_KERNEL(64) follows_null(const float*, float*, int64_t address) {
  *reinterpret_cast<volatile float*>(address) = 1.0f;
}

FASTALIGN_KERNEL(64) reads_global_at(const float* in, float* out, int64_t index) {
  out[threadIdx.x] = in[index];
}

FASTALIGN_KERNEL(64) reads_as_vector_at(const float* in, float* out, int64_t index) {
  out[threadIdx.x] = reinterpret_cast<const float4*>(in + index)->y;
}

}  // namespace

#define KERNEL(name)                                                                              \
  extern "C" Error run_##name(int64_t grid, int64_t block, int64_t shared_bytes, const float* in, \
                              float* out, int64_t number) {                                       \
    return FASTALIGN_LAUNCH(name, grid, block, static_cast<size_t>(shared_bytes), nullptr, in,    \
                            out, number);                                                         \
  }
KERNEL(sum_blocks)
KERNEL(warp_operations)
KERNEL(add_up)
KERNEL(barrier_in_a_branch)
KERNEL(exit_before_barrier)
KERNEL(two_barriers)
KERNEL(shuffle_after_exit)
KERNEL(shuffle_in_a_branch)
KERNEL(different_masks)
KERNEL(shuffles_apart)
KERNEL(not_in_own_mask)
KERNEL(full_mask)
KERNEL(reads_outside_mask)
KERNEL(misaligned_vector)
KERNEL(shared_at)
KERNEL(reads_unwritten_shared)
KERNEL(divides_by)
KERNEL(follows_null)
KERNEL(reads_global_at)
KERNEL(reads_as_vector_at)
#undef KERNEL

#define KERNEL(name, argument)                                                                \
  extern "C" Error run_##name##_##argument(int64_t grid, int64_t block, int64_t shared_bytes, \
                                           const float* in, float* out, int64_t number) {     \
    return FASTALIGN_LAUNCH((name<argument>), grid, block, static_cast<size_t>(shared_bytes), \
                            nullptr, in, out, number);                                        \
  }
KERNEL(turn_round, true)
KERNEL(turn_round, false)
KERNEL(turn_warp, true)
KERNEL(turn_warp, false)
#undef KERNEL

}  // namespace fastalign::cuda

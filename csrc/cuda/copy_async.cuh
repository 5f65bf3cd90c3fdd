// Copies from global to shared memory that do not pass through registers, so that a whole tile
// can be on its way at once; plain copies where the hardware has none (and on the host).
#pragma once

#include "values.h"

namespace fastalign::cuda {

// `to` in shared, `from` in global memory, both aligned to the vector's size.
template <class T, int N>
FASTALIGN_DEVICE void copy_async(Vec<T, N>* to, const T* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (sizeof(Vec<T, N>) == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(from) : "memory");
    return;
  }
  if constexpr (sizeof(Vec<T, N>) == 8) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(target), "l"(from) : "memory");
    return;
  }
#endif
  store_vec(to->lane, load_vec<N, Cache::readonly>(from));
}

// Copies requested since the last commit become one group.
FASTALIGN_DEVICE void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's groups but the latest `pending`; other threads' need a barrier as well.
template <int pending>
FASTALIGN_DEVICE void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

}  // namespace fastalign::cuda

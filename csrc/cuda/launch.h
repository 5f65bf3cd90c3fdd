// Qualifiers, dynamic shared memory and launches, by which one kernel source serves nvcc and
// the fiber harness of tests/cuda_on_cpu.
//
//   template <class T>
//   FASTALIGN_KERNEL(256) scale(const T* in, T* out, int64_t count) {
//     FASTALIGN_DYNAMIC_SHARED(float, tile);
//     ...
//   }
//   Error error = FASTALIGN_LAUNCH((scale<float>), grid, block, shared_bytes, stream, in, out, n);
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#elif defined(FASTALIGN_CUDA_ON_CPU)
#include "cuda_on_cpu.h"  // found on the include path that the harness gives
#else
#error "csrc/cuda compiles with nvcc, clang -x cuda, or the harness of tests/cuda_on_cpu"
#endif

namespace fastalign::cuda {

using Stream = void*;       // cudaStream_t
using Error = const char*;  // null: no error

// For grid arithmetic; the quotient must fit the grid dimension it is used for.
constexpr int64_t ceil_div(int64_t count, int64_t step) { return (count + step - 1) / step; }

}  // namespace fastalign::cuda

// FASTALIGN_KERNEL(threads) or (threads, min_blocks) stands before a kernel's name, in place of
// its return type. The numbers bound the registers: a launch with more threads fails.
//
// FASTALIGN_DYNAMIC_SHARED(type, name) declares `type* name`, the block's dynamic shared memory,
// aligned to 16 bytes and uninitialised. It is the only shared memory that kernels use.
//
// FASTALIGN_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...) enqueues and gives the
// launch error. A template-id with a comma needs parentheses: (kernel<T, 4>). Arguments are
// converted to the types of the kernel's parameters.
#if defined(__CUDACC__)

#define FASTALIGN_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define FASTALIGN_DEVICE __device__ __forceinline__
#define FASTALIGN_DYNAMIC_SHARED(type, name)                            \
  extern __shared__ __align__(16) unsigned char fastalign_shared_raw[]; \
  type* const name = reinterpret_cast<type*>(fastalign_shared_raw)
#define FASTALIGN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::fastalign::cuda::launch(kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

namespace fastalign::cuda {

// The error of the launch itself; nothing waits for the kernel.
template <class... Params, class... Args>
Error launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
             Args... args) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t refused = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(shared_bytes));
    if (refused != cudaSuccess) {
      cudaGetLastError();  // else the next launch would report it once more
      return cudaGetErrorString(refused);
    }
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Params>(args)...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace fastalign::cuda

#else

#define FASTALIGN_KERNEL(...) void
#define FASTALIGN_DEVICE inline
#define FASTALIGN_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::cuda_on_cpu::dynamic_shared())
#define FASTALIGN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_on_cpu::launch(#kernel, kernel, grid, block, shared_bytes,      \
                        stream __VA_OPT__(, ) __VA_ARGS__)

#endif

// Threads, barriers, warp operations and launches.
//
// Errors, each with kernel, block and thread: a thread that exits or waits elsewhere while others
// wait at a barrier; a lane named in a mask that has exited, does not exist or takes part in
// another operation; a lane that is not in its own mask; a shuffle that reads a lane outside the
// mask; a vector access that is not aligned; an access outside dynamic shared memory; a crash.
// Stricter than the hardware on purpose: what works there by luck fails here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "vector_types.h"

inline constexpr int warpSize = 32;
// Of the running thread; set by the scheduler at every switch.
inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim, gridDim;

namespace cuda_on_cpu {

// Few multiprocessors, so that persistent blocks take more than one tile each, and the shared
// memory of the smallest chip; a test may change it.
struct SimulatedDevice {
  int multiprocessors = 3;
  int shared_bytes = 99 * 1024;
};
extern SimulatedDevice simulated;

enum class Operation { syncwarp, shuffle, ballot, barrier };

// Where in the source a thread waits: two operations at different places do not meet.
struct Place {
  const char* file;
  int line;
};

// A warp operation: its 64-bit value in, `source` the lane to read (shuffle only). Gives the value
// of that lane, or the ballot.
uint64_t meet_warp(Operation operation, unsigned mask, uint64_t value, int source, Place place);

// __syncthreads: the number of threads in the block whose `vote` is not zero.
int meet_block(int vote, Place place);

// A point at which a random schedule may switch.
void may_switch();

void count_atomic(bool floating);

void* dynamic_shared();

// An access by one instruction to `bytes` bytes must be aligned to them.
inline void check_vector(const void* address, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fail("misaligned vector %s: %zu bytes at an address that is %zu past a multiple of %zu", what,
         bytes, static_cast<size_t>(reinterpret_cast<uintptr_t>(address) % bytes), bytes);
  }
}

int lane_index();

template <class T>
T shuffle(unsigned mask, T value, int source, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet_warp(Operation::shuffle, mask, bits, source, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// First lane of the group of `width` lanes that a lane shuffles in.
inline int group_start(int lane, int width) {
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0) {
    fail("shuffle with width %d, which is not a power of two up to 32", width);
  }
  return lane & ~(width - 1);
}

// An argument as the kernel gets it.
struct Argument {
  const void* data;
  size_t bytes;
};

struct Launch {
  const char* text;      // the kernel as the launch spells it
  const void* function;  // its address, for its name
  dim3 grid, block;
  size_t shared_bytes;
  void (*call)(void* arguments);
  void* arguments;
  const Argument* parameters;  // the same arguments one by one, in order
  size_t parameter_count;
};

// Runs all blocks; null or the first error, which stays readable until the next one.
const char* run(const Launch& launch);

template <class... Params, class... Args>
const char* launch(const char* text, void (*kernel)(Params...), dim3 grid, dim3 block,
                   size_t shared_bytes, void* stream, Args... args) {
  static_cast<void>(stream);
  struct Call {
    void (*kernel)(Params...);
    std::tuple<std::remove_const_t<Params>...> arguments;
  } call{kernel, {static_cast<Params>(args)...}};
  const auto invoke = [](void* context) {
    // A copy for each thread, as on the device.
    const Call own = *static_cast<const Call*>(context);
    std::apply(own.kernel, own.arguments);
  };
  return std::apply(
      [&](const auto&... each) {
        const Argument parameters[] = {{&each, sizeof(each)}..., {nullptr, 0}};
        return run({text, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, invoke,
                    &call, parameters, sizeof...(each)});
      },
      call.arguments);
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUDA_ON_CPU_PLACE \
  ::cuda_on_cpu::Place { file, line }

inline void __syncthreads(CUDA_ON_CPU_HERE) { cuda_on_cpu::meet_block(0, CUDA_ON_CPU_PLACE); }
inline int __syncthreads_count(int vote, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::meet_block(vote, CUDA_ON_CPU_PLACE);
}
inline int __syncthreads_or(int vote, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::meet_block(vote, CUDA_ON_CPU_PLACE) > 0;
}
inline int __syncthreads_and(int vote, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::meet_block(vote == 0, CUDA_ON_CPU_PLACE) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE) {
  using cuda_on_cpu::Operation;
  cuda_on_cpu::meet_warp(Operation::syncwarp, mask, 0, 0, CUDA_ON_CPU_PLACE);
}
inline unsigned __ballot_sync(unsigned mask, int vote, CUDA_ON_CPU_HERE) {
  using cuda_on_cpu::Operation;
  return static_cast<unsigned>(
      cuda_on_cpu::meet_warp(Operation::ballot, mask, vote != 0, 0, CUDA_ON_CPU_PLACE));
}
inline int __any_sync(unsigned mask, int vote, CUDA_ON_CPU_HERE) {
  return __ballot_sync(mask, vote, file, line) != 0;
}
inline int __all_sync(unsigned mask, int vote, CUDA_ON_CPU_HERE) {
  return __ballot_sync(mask, vote, file, line) == mask;
}
// The lanes that have not exited: what the hardware gives may be less.
unsigned __activemask();

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_HERE) {
  const int start = cuda_on_cpu::group_start(cuda_on_cpu::lane_index(), width);
  return cuda_on_cpu::shuffle(mask, value, start + (source & (width - 1)), CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int lane = cuda_on_cpu::lane_index();
  const int64_t source = int64_t{lane} - delta;
  const bool outside = source < cuda_on_cpu::group_start(lane, width);
  return cuda_on_cpu::shuffle(mask, value, outside ? lane : static_cast<int>(source),
                              CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int lane = cuda_on_cpu::lane_index();
  const int64_t source = int64_t{lane} + delta;
  const bool outside = source >= cuda_on_cpu::group_start(lane, width) + width;
  return cuda_on_cpu::shuffle(mask, value, outside ? lane : static_cast<int>(source),
                              CUDA_ON_CPU_PLACE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_ON_CPU_HERE) {
  const int lane = cuda_on_cpu::lane_index();
  const int source = lane ^ lane_mask;
  const bool outside = source >= cuda_on_cpu::group_start(lane, width) + width || source < 0;
  return cuda_on_cpu::shuffle(mask, value, outside ? lane : source, CUDA_ON_CPU_PLACE);
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { cuda_on_cpu::fail("__trap"); }

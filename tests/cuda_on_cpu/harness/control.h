// What a test may set and ask.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

inline constexpr size_t kSharedLimit = 99 * 1024;  // as device.h has it for the simulated device

struct Counts {
  int64_t launches = 0;
  int64_t blocks = 0;
  int64_t barriers = 0;
  int64_t warp_operations = 0;
  int64_t atomics = 0;
  int64_t float_atomics = 0;
};

}  // namespace cuda_on_cpu

extern "C" {

// For the launches to come; order 0: ascending, 1: descending, 2: random from the seed.
void cuda_on_cpu_schedule(int order, uint64_t seed);

// The names of the kernels launched since the last call, one a line; valid until the next call.
const char* cuda_on_cpu_launched();

// Counts since the last call.
cuda_on_cpu::Counts cuda_on_cpu_counts();
}

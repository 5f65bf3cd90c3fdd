// What a test may set and ask.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

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

// What current_device() of csrc/cuda/device.h gives from now on; zeros: what it is at the start.
void cuda_on_cpu_device(int multiprocessors, int shared_bytes);

// The names of the kernels launched since the last call, one a line; valid until the next call.
const char* cuda_on_cpu_launched();

// Counts since the last call.
cuda_on_cpu::Counts cuda_on_cpu_counts();
}

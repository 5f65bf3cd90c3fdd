// What a launcher may know of the device it launches on.
#pragma once

#include "launch.h"

namespace fastalign::cuda {

struct Device {
  int multiprocessors;
  int shared_bytes;  // dynamic shared memory that one block may ask for
};

#if defined(__CUDACC__)
// Read once per device and process: attributes are answered by the driver without a wait.
inline Device current_device() {
  constexpr int kDevices = 64;
  static Device known[kDevices] = {};
  int index = 0;
  cudaGetDevice(&index);
  Device device = index < kDevices ? known[index] : Device{};
  if (device.multiprocessors == 0) {
    cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index);
    cudaDeviceGetAttribute(&device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    if (index < kDevices) {
      known[index] = device;
    }
  }
  return device;
}
#else
inline Device current_device() {
  return Device{::cuda_on_cpu::simulated.multiprocessors, ::cuda_on_cpu::simulated.shared_bytes};
}
#endif

}  // namespace fastalign::cuda

// What every CUDA op wrapper does around its launcher: device guard, current stream, scratch.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "../cuda/launchers.h"
#include "tensors.h"

namespace fastalign::host {

// Makes the device of `like` current while it lives.
class CudaCall {
 public:
  CudaCall(const Tensor& like, const char* op);

  // Fails unless the tensor is on the call's device.
  void check(const Tensor& tensor, const char* name) const;

  View4 view4(const Tensor& tensor, const char* name) const;
  View3 view3(const Tensor& tensor, const char* name) const;

  // Device memory for this call; it may be reused by the stream's later work.
  void* scratch(int64_t bytes);

  // Torch's current stream of the device, for the launcher.
  cuda::Stream stream() const { return stream_; }

  // Throws what the launcher reports.
  void finish(cuda::Error error) const;

 private:
  const char* op_;
  Tensor like_;
  torch::stable::accelerator::DeviceGuard guard_;
  cuda::Stream stream_;
  std::vector<Tensor> held_;
};

cuda::Labels labels(const CudaCall& call, const std::optional<Tensor>& groups, int64_t batch);

}  // namespace fastalign::host

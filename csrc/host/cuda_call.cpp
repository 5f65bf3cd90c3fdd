#include "cuda_call.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace fastalign::host {
namespace {

using CurrentStream = AOTITorchError (*)(int32_t, void**);

// The one symbol of torch's CUDA library that is needed. It is looked up where torch has loaded
// that library, so that this one also loads beside a torch without CUDA; the stable ABI's own way
// to the stream's handle begins with torch 2.13.
CurrentStream current_stream_function() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* symbol =
      library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
  FASTALIGN_CHECK(symbol != nullptr,
                  "this torch has no CUDA streams; install a CUDA build of torch");
  return reinterpret_cast<CurrentStream>(symbol);
}

cuda::Stream current_stream(int32_t device) {
  static const CurrentStream function = current_stream_function();
  void* stream = nullptr;
  FASTALIGN_CHECK(function(device, &stream) == AOTI_TORCH_SUCCESS,
                  "torch gave no current stream of cuda:", device);
  return stream;
}

int32_t device_of(const Tensor& tensor, const char* op) {
  FASTALIGN_CHECK(tensor.is_cuda(), op, " got a tensor that is not on a CUDA device");
  return static_cast<int32_t>(tensor.get_device_index());
}

}  // namespace

CudaCall::CudaCall(const Tensor& like, const char* op)
    : op_(op),
      like_(like),
      guard_(device_of(like, op)),
      stream_(current_stream(device_of(like, op))) {}

void CudaCall::check(const Tensor& tensor, const char* name) const {
  FASTALIGN_CHECK(tensor.is_cuda() && tensor.get_device_index() == like_.get_device_index(), op_,
                  ": ", name, " must be on cuda:", like_.get_device_index());
}

View4 CudaCall::view4(const Tensor& tensor, const char* name) const {
  check(tensor, name);
  View4 view = device_view4(tensor, name);
  FASTALIGN_CHECK(view.dtype != DType::float64, op_, ": ", name,
                  " is float64, which the CUDA kernels do not take; use backend='reference'");
  return view;
}

View3 CudaCall::view3(const Tensor& tensor, const char* name) const {
  check(tensor, name);
  return host::view3(tensor);
}

void* CudaCall::scratch(int64_t bytes) {
  if (bytes == 0) {
    return nullptr;
  }
  held_.push_back(empty_map(like_, {bytes}, ScalarType::Byte, false));
  return held_.back().mutable_data_ptr();
}

void CudaCall::finish(cuda::Error error) const {
  FASTALIGN_CHECK(error != cuda::kPlanRefused, op_, ".cuda: ", error,
                  " (forced: ", describe_forced(op_, "cuda"), ")");
  FASTALIGN_CHECK(error == nullptr, op_, ": CUDA error at launch: ", error);
}

cuda::Labels labels(const CudaCall& call, const std::optional<Tensor>& groups, int64_t batch) {
  if (!groups.has_value()) {
    return cuda::Labels{nullptr, 0};
  }
  call.check(*groups, "groups");
  check_shape(*groups, "groups", {batch});
  check_type(*groups, "groups", ScalarType::Long, "int64");
  return cuda::Labels{static_cast<const int64_t*>(groups->const_data_ptr()), groups->stride(0)};
}

}  // namespace fastalign::host

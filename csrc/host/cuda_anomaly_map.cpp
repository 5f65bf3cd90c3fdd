// anomaly_map on CUDA: shape and dtype rules, outputs, one launcher call.
#include "anomaly_map.h"
#include "cuda_call.h"
#include "ops.h"

namespace fastalign::host::on_cuda {

std::tuple<Tensor, Tensor> anomaly_map(Tensor distance, Tensor theta, Tensor evidence, Tensor taps,
                                       int64_t height, int64_t width) {
  CudaCall call(distance, "anomaly_map");
  cuda::AnomalyMapArgs args{};
  args.distance = call.view4(distance, "distance");
  call.check(theta, "theta");
  call.check(evidence, "evidence");
  call.check(taps, "taps");
  const Tensor dense = torch::stable::contiguous(taps);
  set_inputs(args, distance, theta, evidence, dense, height, width);
  args.theta = {
      theta.const_data_ptr(), DType::float32, {theta.stride(0), theta.stride(1), theta.stride(2)}};
  Tensor value = empty_map(distance, {distance.size(0), height, width}, ScalarType::Float, false);
  Tensor share = empty_map(distance, {distance.size(0), height, width}, ScalarType::Float, false);
  args.value = static_cast<float*>(value.mutable_data_ptr());
  args.share = static_cast<float*>(share.mutable_data_ptr());
  if (value.numel() > 0) {
    args.scratch = call.scratch(cuda::anomaly_map_scratch(args));
    call.finish(cuda::anomaly_map(args, call.stream()));
  }
  return {value, share};
}

}  // namespace fastalign::host::on_cuda

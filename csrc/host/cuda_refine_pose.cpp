// refine_pose on CUDA: shape and dtype rules, outputs, one launcher call.
#include "cuda_call.h"
#include "ops.h"
#include "refine_pose.h"

namespace fastalign::host::on_cuda {

std::tuple<Tensor, Tensor> refine_pose(Tensor edges, Tensor theta, Tensor template_, Tensor weight,
                                       Tensor generators, int64_t iterations) {
  CudaCall call(edges, "refine_pose");
  cuda::RefinePoseArgs args{};
  args.edges = call.view4(edges, "edges");
  call.check(theta, "theta");
  call.check(template_, "template");
  call.check(weight, "weight");
  call.check(generators, "generators");
  const Tensor dense = torch::stable::contiguous(generators);
  set_inputs(args, edges, theta, template_, weight, dense, iterations);
  Tensor refined = empty_map(theta, {theta.size(0), theta.size(1), 2, 3}, ScalarType::Float, false);
  Tensor correlation = empty_map(theta, {theta.size(0), theta.size(1)}, ScalarType::Float, false);
  args.refined = static_cast<float*>(refined.mutable_data_ptr());
  args.correlation = static_cast<float*>(correlation.mutable_data_ptr());
  if (correlation.numel() > 0) {
    call.finish(cuda::refine_pose(args, call.stream()));
  }
  return {refined, correlation};
}

}  // namespace fastalign::host::on_cuda

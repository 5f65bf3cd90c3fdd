// refine_pose: shape and dtype rules, outputs, one kernel call.
#include "refine_pose.h"

#include "ops.h"

namespace fastalign::host {

std::tuple<Tensor, Tensor> refine_pose(Tensor edges, Tensor theta, Tensor template_, Tensor weight,
                                       Tensor generators, int64_t iterations) {
  RefinePoseArgs args{};
  args.edges = view4(edges, "edges");
  check_cpu(theta, "theta");
  check_cpu(template_, "template");
  check_cpu(weight, "weight");
  check_cpu(generators, "generators");
  const Tensor dense = torch::stable::contiguous(generators);
  set_inputs(args, edges, theta, template_, weight, dense, iterations);
  Tensor refined =
      empty_map(theta, {theta.size(0), theta.size(1), 2, 3}, theta.scalar_type(), false);
  Tensor correlation = empty_map(theta, {theta.size(0), theta.size(1)}, theta.scalar_type(), false);
  args.refined = refined.mutable_data_ptr();
  args.correlation = correlation.mutable_data_ptr();
  if (correlation.numel() > 0) {
    FASTALIGN_RUN_KERNEL(refine_pose, args);
  }
  return {refined, correlation};
}

}  // namespace fastalign::host

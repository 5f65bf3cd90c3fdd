// dense_similarity: shape checks, outputs, one kernel call each.
#include "locations.h"

namespace fastalign::host {
namespace {

struct DenseCall {
  DenseSimilarityArgs args{};
  GroupPlan plan;

  DenseCall(const Tensor& p, const Tensor& z, const MaybeTensor& groups) {
    args.p = view4(p, "p");
    args.z = view4(z, "z");
    check_shape(z, "z", {p.size(0), p.size(1), p.size(2), p.size(3)});
    FASTALIGN_CHECK(args.z.dtype == args.p.dtype, "p and z must have the same dtype");
    plan = plan_groups(groups, p.size(0));
    args.groups = plan.view();
  }

  Tensor output(Tensor tensor, View4* view, const char* name) {
    if (plan.lonely) {
      torch::stable::zero_(tensor);
    }
    *view = view4(tensor, name);
    return tensor;
  }

  void run() {
    if (args.p.size[0] * args.p.pixels() > 0) {
      FASTALIGN_RUN_KERNEL(dense_similarity, args);
    }
  }
};

}  // namespace

Tensor dense_similarity(Tensor p, Tensor z, MaybeTensor groups) {
  DenseCall call(p, z, groups);
  Tensor value = value_map(p, call.plan.lonely);
  call.args.value = value.mutable_data_ptr();
  call.run();
  return value;
}

std::tuple<Tensor, Tensor> dense_similarity_backward(Tensor grad, Tensor p, Tensor z,
                                                     MaybeTensor groups, bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  call.args.grad = gradient_map(grad, p);
  Tensor dp = need_p ? call.output(empty_gradient(p), &call.args.dp, "dp") : no_gradient(p);
  Tensor dz = need_z ? call.output(empty_gradient(z), &call.args.dz, "dz") : no_gradient(z);
  if (need_p || need_z) {
    call.run();
  }
  return {dp, dz};
}

std::tuple<Tensor, Tensor, Tensor> dense_similarity_loss(Tensor p, Tensor z, MaybeTensor groups,
                                                         bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  double loss = 0;
  call.args.loss = &loss;
  Tensor dp = need_p ? call.output(empty_gradient(p), &call.args.dp, "dp") : no_gradient(p);
  Tensor dz = need_z ? call.output(empty_gradient(z), &call.args.dz, "dz") : no_gradient(z);
  call.run();
  return {scalar(p, loss), dp, dz};
}

}  // namespace fastalign::host

// pairwise_distance: shape checks, outputs, one kernel call each.
#include "locations.h"

namespace fastalign::host {
namespace {

struct PairCall {
  PairwiseDistanceArgs args{};
  GroupPlan plan;

  PairCall(const Tensor& h, const MaybeTensor& mask, const MaybeTensor& groups, bool squared) {
    args.h = view4(h, "h");
    args.squared = squared;
    if (mask.has_value()) {
      check_cpu(*mask, "mask");
      check_type(*mask, "mask", ScalarType::Bool, "bool");
      check_shape(*mask, "mask", {h.size(0), h.size(2), h.size(3)});
      args.mask = view3(*mask);
    }
    plan = plan_groups(groups, h.size(0));
    args.groups = plan.view();
  }

  void run() {
    if (args.h.size[0] * args.h.pixels() > 0) {
      FASTALIGN_RUN_KERNEL(pairwise_distance, args);
    }
  }
};

}  // namespace

Tensor pairwise_distance(Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared) {
  PairCall call(h, mask, groups, squared);
  Tensor value = value_map(h, call.plan.lonely);
  call.args.value = value.mutable_data_ptr();
  call.run();
  return value;
}

Tensor pairwise_distance_backward(Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups,
                                  bool squared) {
  PairCall call(h, mask, groups, squared);
  call.args.grad = gradient_map(grad, h);
  Tensor dh = empty_gradient(h);
  if (call.plan.lonely) {
    torch::stable::zero_(dh);
  }
  call.args.dh = view4(dh, "dh");
  call.run();
  return dh;
}

std::tuple<Tensor, Tensor> pairwise_distance_loss(Tensor h, MaybeTensor mask, MaybeTensor groups,
                                                  bool squared, bool need_h) {
  PairCall call(h, mask, groups, squared);
  double loss = 0;
  call.args.loss = &loss;
  Tensor dh = need_h ? empty_gradient(h) : no_gradient(h);
  if (need_h) {
    if (call.plan.lonely) {
      torch::stable::zero_(dh);
    }
    call.args.dh = view4(dh, "dh");
  }
  call.run();
  return {scalar(h, loss), dh};
}

}  // namespace fastalign::host

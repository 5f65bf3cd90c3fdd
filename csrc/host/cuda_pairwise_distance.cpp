// pairwise_distance on CUDA: shape checks, outputs, one launcher call each.
#include "cuda_locations.h"

namespace fastalign::host::on_cuda {
namespace {

struct PairCall {
  CudaCall call;
  cuda::PairwiseDistanceArgs args{};

  PairCall(const Tensor& h, const MaybeTensor& mask, const MaybeTensor& groups, bool squared)
      : call(h, "pairwise_distance") {
    args.h = call.view4(h, "h");
    args.squared = squared;
    if (mask.has_value()) {
      check_type(*mask, "mask", ScalarType::Bool, "bool");
      check_shape(*mask, "mask", {h.size(0), h.size(2), h.size(3)});
      args.mask = call.view3(*mask, "mask");
    }
    args.groups = labels(call, groups, h.size(0));
    args.forced = forced_plans();
  }

  bool run() {
    if (!has_locations(args.h)) {
      return false;
    }
    args.scratch = call.scratch(cuda::pairwise_distance_scratch(args));
    call.finish(cuda::pairwise_distance(args, call.stream()));
    return true;
  }
};

}  // namespace

Tensor pairwise_distance(Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared) {
  PairCall call(h, mask, groups, squared);
  Tensor value = value_map(h);
  call.args.value = static_cast<float*>(value.mutable_data_ptr());
  call.run();
  return value;
}

Tensor pairwise_distance_backward(Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups,
                                  bool squared) {
  PairCall call(h, mask, groups, squared);
  call.args.grad = gradient_map(call.call, grad, h);
  Tensor dh = empty_gradient(h);
  call.args.dh = call.call.view4(dh, "dh");
  call.run();
  return dh;
}

std::tuple<Tensor, Tensor> pairwise_distance_loss(Tensor h, MaybeTensor mask, MaybeTensor groups,
                                                  bool squared, bool need_h) {
  PairCall call(h, mask, groups, squared);
  Tensor loss = scalar(h);
  call.args.loss = static_cast<float*>(loss.mutable_data_ptr());
  Tensor dh = need_h ? empty_gradient(h) : no_gradient(h);
  if (need_h) {
    call.args.dh = call.call.view4(dh, "dh");
  }
  if (!call.run()) {
    torch::stable::zero_(loss);
  }
  return {loss, dh};
}

}  // namespace fastalign::host::on_cuda

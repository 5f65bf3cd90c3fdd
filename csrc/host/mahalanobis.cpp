// mahalanobis: shape and dtype rules, outputs, one kernel call.
#include "mahalanobis.h"
#include "ops.h"

namespace fastalign::host {
namespace {

MahalanobisArgs prepare(const Tensor& x, const Tensor& mean, const Tensor& whitener, bool squared) {
  MahalanobisArgs args{};
  args.x = view4(x, "x");
  check_cpu(mean, "mean");
  check_cpu(whitener, "whitener");
  set_inputs(args, x, mean, whitener, squared);
  return args;
}

void run(MahalanobisArgs& args) { FASTALIGN_RUN_KERNEL(mahalanobis, args); }

}  // namespace

Tensor mahalanobis(Tensor x, Tensor mean, Tensor whitener, MaybeTensor coarse, MaybeTensor scale,
                   bool squared) {
  MahalanobisArgs args = prepare(x, mean, whitener, squared);
  if (coarse.has_value()) {
    args.coarse = view4(*coarse, "coarse");
  }
  if (scale.has_value()) {
    check_cpu(*scale, "scale");
  }
  set_options(args, x, coarse, scale);
  Tensor value = empty_map(x, {x.size(0), x.size(2), x.size(3)}, accumulation_type(x), false);
  args.value = value.mutable_data_ptr();
  if (value.numel() > 0) {
    run(args);
  }
  return value;
}

std::tuple<Tensor, Tensor, Tensor> mahalanobis_backward(Tensor grad, Tensor x, Tensor mean,
                                                        Tensor whitener, bool squared, bool need_x,
                                                        bool need_mean, bool need_whitener) {
  MahalanobisArgs args = prepare(x, mean, whitener, squared);
  check_cpu(grad, "grad");
  check_shape(grad, "grad", {x.size(0), x.size(2), x.size(3)});
  FASTALIGN_CHECK(grad.scalar_type() == accumulation_type(x),
                  "grad must have the accumulation dtype (float64 for float64, else float32)");
  args.grad = view3(grad);
  Tensor dx = need_x ? empty_gradient(x) : no_gradient(x);
  if (need_x) {
    args.dx = view4(dx, "dx");
  }
  Tensor dmean = need_mean ? empty_map(mean, {mean.size(0), mean.size(1), mean.size(2)},
                                       mean.scalar_type(), false)
                           : no_gradient(mean);
  Tensor dwhitener = need_whitener ? whitener_gradient(whitener) : no_gradient(whitener);
  args.dmean = need_mean ? dmean.mutable_data_ptr() : nullptr;
  args.dwhitener = need_whitener ? dwhitener.mutable_data_ptr() : nullptr;
  if (grad.numel() > 0) {
    if (need_x || need_mean || need_whitener) {
      run(args);
    }
  } else {
    torch::stable::zero_(dmean);
    torch::stable::zero_(dwhitener);
  }
  return {dx, dmean, dwhitener};
}

}  // namespace fastalign::host

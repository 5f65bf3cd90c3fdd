// mahalanobis on CUDA: shape and dtype rules, outputs, one launcher call.
#include "cuda_call.h"
#include "mahalanobis.h"
#include "ops.h"

namespace fastalign::host::on_cuda {
namespace {

cuda::MahalanobisArgs prepare(const CudaCall& call, const Tensor& x, const Tensor& mean,
                              const Tensor& whitener, bool squared) {
  cuda::MahalanobisArgs args{};
  args.x = call.view4(x, "x");
  call.check(mean, "mean");
  call.check(whitener, "whitener");
  set_inputs(args, x, mean, whitener, squared);
  args.forced = forced_plans();
  return args;
}

void run(CudaCall& call, cuda::MahalanobisArgs& args) {
  args.scratch = call.scratch(cuda::mahalanobis_scratch(args));
  call.finish(cuda::mahalanobis(args, call.stream()));
}

}  // namespace

Tensor mahalanobis(Tensor x, Tensor mean, Tensor whitener, MaybeTensor coarse, MaybeTensor scale,
                   bool squared) {
  CudaCall call(x, "mahalanobis");
  cuda::MahalanobisArgs args = prepare(call, x, mean, whitener, squared);
  if (coarse.has_value()) {
    args.coarse = call.view4(*coarse, "coarse");
  }
  if (scale.has_value()) {
    call.check(*scale, "scale");
  }
  set_options(args, x, coarse, scale);
  Tensor value = empty_map(x, {x.size(0), x.size(2), x.size(3)}, ScalarType::Float, false);
  args.value = static_cast<float*>(value.mutable_data_ptr());
  if (value.numel() > 0) {
    run(call, args);
  }
  return value;
}

std::tuple<Tensor, Tensor, Tensor> mahalanobis_backward(Tensor grad, Tensor x, Tensor mean,
                                                        Tensor whitener, bool squared, bool need_x,
                                                        bool need_mean, bool need_whitener) {
  CudaCall call(x, "mahalanobis_backward");
  cuda::MahalanobisArgs args = prepare(call, x, mean, whitener, squared);
  check_shape(grad, "grad", {x.size(0), x.size(2), x.size(3)});
  check_type(grad, "grad", ScalarType::Float, "float32");
  args.grad = call.view3(grad, "grad");
  Tensor dx = need_x ? empty_gradient(x) : no_gradient(x);
  if (need_x) {
    args.dx = call.view4(dx, "dx");
  }
  Tensor dmean = need_mean ? empty_map(mean, {mean.size(0), mean.size(1), mean.size(2)},
                                       ScalarType::Float, false)
                           : no_gradient(mean);
  Tensor dwhitener = need_whitener ? whitener_gradient(whitener) : no_gradient(whitener);
  args.dmean = need_mean ? static_cast<float*>(dmean.mutable_data_ptr()) : nullptr;
  args.dwhitener = need_whitener ? dwhitener.mutable_data_ptr() : nullptr;
  if (grad.numel() > 0) {
    if (need_x || need_mean || need_whitener) {
      run(call, args);
    }
  } else {
    torch::stable::zero_(dmean);
    torch::stable::zero_(dwhitener);
  }
  return {dx, dmean, dwhitener};
}

}  // namespace fastalign::host::on_cuda

// warp_affine on CUDA: options and outputs; theta stays on the device, so nothing waits for it.
#include "cuda_call.h"
#include "ops.h"
#include "warp_options.h"

namespace fastalign::host::on_cuda {
namespace {

cuda::Theta theta_of(const CudaCall& call, const Tensor& theta, int64_t batch) {
  call.check(theta, "theta");
  check_shape(theta, "theta", {batch, 2, 3});
  const bool wide = theta.scalar_type() == ScalarType::Double;
  FASTALIGN_CHECK(wide || theta.scalar_type() == ScalarType::Float,
                  "theta must be float32 or float64");
  return cuda::Theta{theta.const_data_ptr(),
                     wide ? DType::float64 : DType::float32,
                     {theta.stride(0), theta.stride(1), theta.stride(2)}};
}

}  // namespace

Tensor warp_affine(Tensor x, Tensor theta, int64_t height, int64_t width, std::string mode,
                   std::string padding_mode, bool align_corners) {
  CudaCall call(x, "warp_affine");
  cuda::WarpAffineArgs args{};
  args.x = call.view4(x, "x");
  check_source(x);
  FASTALIGN_CHECK(height >= 0 && width >= 0, "the output size must not be negative");
  args.theta = theta_of(call, theta, x.size(0));
  set_options(args, mode, padding_mode, align_corners);
  args.forced = forced_plans();
  Tensor out =
      empty_map(x, {x.size(0), x.size(1), height, width}, x.scalar_type(), is_channels_last(x));
  args.out = call.view4(out, "out");
  if (out.numel() > 0) {
    call.finish(cuda::warp_affine(args, call.stream()));
  }
  return out;
}

std::tuple<Tensor, Tensor> warp_affine_backward(Tensor grad, Tensor x, Tensor theta,
                                                std::string mode, std::string padding_mode,
                                                bool align_corners, bool need_x, bool need_theta,
                                                bool deterministic) {
  (void)deterministic;  // the CUDA kernels have no other way
  CudaCall call(x, "warp_affine_backward");
  cuda::WarpAffineBackwardArgs args{};
  args.x = call.view4(x, "x");
  args.grad = call.view4(grad, "grad");
  check_source(x);
  check_shape(grad, "grad", {x.size(0), x.size(1), grad.size(2), grad.size(3)});
  FASTALIGN_CHECK(args.grad.dtype == args.x.dtype, "grad and x must have the same dtype");
  args.theta = theta_of(call, theta, x.size(0));
  set_options(args, mode, padding_mode, align_corners);
  args.forced = forced_plans();
  Tensor dx = need_x ? empty_gradient(x) : no_gradient(x);
  if (need_x) {
    args.dx = call.view4(dx, "dx");
  }
  Tensor dtheta = need_theta ? empty_map(theta, {x.size(0), 2, 3}, theta.scalar_type(), false)
                             : no_gradient(theta);
  args.dtheta = need_theta ? dtheta.mutable_data_ptr() : nullptr;
  if (!need_x && !need_theta) {
    return {dx, dtheta};
  }
  if (grad.numel() > 0) {
    args.scratch = call.scratch(cuda::warp_affine_backward_scratch(args));
    call.finish(cuda::warp_affine_backward(args, call.stream()));
  } else {
    torch::stable::zero_(dx);
    torch::stable::zero_(dtheta);
  }
  return {dx, dtheta};
}

}  // namespace fastalign::host::on_cuda

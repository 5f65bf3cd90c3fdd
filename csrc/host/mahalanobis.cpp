// mahalanobis: shape and dtype rules, outputs, one kernel call.
#include "../common/packed.h"
#include "ops.h"

namespace fastalign::host {
namespace {

MahalanobisArgs prepare(const Tensor& x, const Tensor& mean, const Tensor& whitener, bool squared) {
  MahalanobisArgs args{};
  args.x = view4(x, "x");
  check_cpu(mean, "mean");
  check_cpu(whitener, "whitener");
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  check_shape(mean, "mean", {channels, height, width});
  check_shape(whitener, "whitener", {height * width, packed_size(channels)});
  const bool wide = args.x.dtype == DType::float64;
  check_type(mean, "mean", accumulation_type(x), wide ? "float64" : "float32");
  args.mean.data = const_cast<void*>(mean.const_data_ptr());
  args.mean.dtype = wide ? DType::float64 : DType::float32;
  args.mean.size[0] = 1;
  args.mean.stride[0] = 0;
  for (int64_t d = 0; d < 3; ++d) {
    args.mean.size[d + 1] = mean.size(d);
    args.mean.stride[d + 1] = mean.stride(d);
  }
  args.whitener = whitener.const_data_ptr();
  args.whitener_dtype = storage_type(whitener, "whitener");
  FASTALIGN_CHECK(wide == (args.whitener_dtype == DType::float64),
                  "whitener must be float64 if and only if x is");
  args.whitener_stride[0] = whitener.stride(0);
  args.whitener_stride[1] = whitener.stride(1);
  args.squared = squared;
  return args;
}

void run(MahalanobisArgs& args) { FASTALIGN_RUN_KERNEL(mahalanobis, args); }

}  // namespace

Tensor mahalanobis(Tensor x, Tensor mean, Tensor whitener, bool squared) {
  MahalanobisArgs args = prepare(x, mean, whitener, squared);
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
  Tensor dwhitener = need_whitener ? empty_map(whitener, {whitener.size(0), whitener.size(1)},
                                               whitener.scalar_type(), false)
                                   : no_gradient(whitener);
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

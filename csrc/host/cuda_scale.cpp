// The product that the backward pass of a loss takes.
#include "cuda_call.h"
#include "ops.h"

namespace fastalign::host::on_cuda {

Tensor scale_(Tensor x, Tensor factor) {
  CudaCall call(x, "scale_");
  const View4 view = call.view4(x, "x");
  FASTALIGN_CHECK(x.is_contiguous() || is_channels_last(x), "x must be dense");
  call.check(factor, "factor");
  check_type(factor, "factor", ScalarType::Float, "float32");
  FASTALIGN_CHECK(factor.numel() == 1, "factor has shape ", shape_of(factor), ", expected []");
  if (x.numel() > 0) {
    const cuda::ScaleArgs args{view.data, view.dtype, x.numel(),
                               static_cast<const float*>(factor.const_data_ptr())};
    call.finish(cuda::scale(args, call.stream()));
  }
  return x;
}

}  // namespace fastalign::host::on_cuda

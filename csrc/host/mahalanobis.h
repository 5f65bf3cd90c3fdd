// The rules for the arguments of mahalanobis, the same on every device.
#pragma once

#include "../common/packed.h"
#include "tensors.h"

namespace fastalign::host {

// Fills in the arguments of either kernel; the view of x is set, and devices have been checked.
template <class Args>
void set_inputs(Args& inputs, const Tensor& x, const Tensor& mean, const Tensor& whitener,
                bool squared) {
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  check_shape(mean, "mean", {channels, height, width});
  inputs.low_rank = whitener.dim() == 3;
  if (inputs.low_rank) {
    inputs.rank = whitener.size(1);
    check_shape(whitener, "whitener", {height * width, inputs.rank, channels});
  } else {
    check_shape(whitener, "whitener", {height * width, packed_size(channels)});
  }
  const bool wide = inputs.x.dtype == DType::float64;
  check_type(mean, "mean", accumulation_type(x), wide ? "float64" : "float32");
  inputs.mean.data = const_cast<void*>(mean.const_data_ptr());
  inputs.mean.dtype = wide ? DType::float64 : DType::float32;
  inputs.mean.size[0] = 1;
  inputs.mean.stride[0] = 0;
  for (int64_t d = 0; d < 3; ++d) {
    inputs.mean.size[d + 1] = mean.size(d);
    inputs.mean.stride[d + 1] = mean.stride(d);
  }
  inputs.whitener = whitener.const_data_ptr();
  inputs.whitener_dtype = storage_type(whitener, "whitener");
  FASTALIGN_CHECK(wide == (inputs.whitener_dtype == DType::float64),
                  "whitener must be float64 if and only if x is");
  for (int64_t d = 0; d < whitener.dim(); ++d) {
    inputs.whitener_stride[d] = whitener.stride(d);
  }
  inputs.squared = squared;
}

// What is given of a coarser map and of factors; the views of x and of the coarser map are set, and
// devices have been checked.
template <class Args>
void set_options(Args& inputs, const Tensor& x, const std::optional<Tensor>& coarse,
                 const std::optional<Tensor>& scale) {
  if (coarse.has_value()) {
    check_shape(*coarse, "coarse", {x.size(0), x.size(1), coarse->size(2), coarse->size(3)});
    FASTALIGN_CHECK(coarse->size(2) > 0 && coarse->size(3) > 0, "coarse has shape ",
                    shape_of(*coarse), ": cannot be upsampled");
    FASTALIGN_CHECK(inputs.coarse.dtype == inputs.x.dtype, "coarse and x must have the same dtype");
  }
  if (scale.has_value()) {
    check_shape(*scale, "scale", {x.size(2), x.size(3)});
    check_type(*scale, "scale", accumulation_type(x),
               inputs.x.dtype == DType::float64 ? "float64" : "float32");
    inputs.scale = View3{scale->const_data_ptr(), {0, scale->stride(0), scale->stride(1)}};
  }
}

inline Tensor whitener_gradient(const Tensor& whitener) {
  const ScalarType type = whitener.scalar_type();
  return whitener.dim() == 3
             ? empty_map(whitener, {whitener.size(0), whitener.size(1), whitener.size(2)}, type,
                         false)
             : empty_map(whitener, {whitener.size(0), whitener.size(1)}, type, false);
}

}  // namespace fastalign::host

// The twins of locations.h for CUDA.
#pragma once

#include "cuda_call.h"
#include "ops.h"

namespace fastalign::host::on_cuda {

inline Tensor value_map(const Tensor& like) {
  return empty_map(like, {like.size(0), like.size(2), like.size(3)}, ScalarType::Float, false);
}

inline Tensor scalar(const Tensor& like) { return empty_map(like, {}, ScalarType::Float, false); }

inline View3 gradient_map(const CudaCall& call, const Tensor& grad, const Tensor& like) {
  check_shape(grad, "grad", {like.size(0), like.size(2), like.size(3)});
  check_type(grad, "grad", ScalarType::Float, "float32");
  return call.view3(grad, "grad");
}

inline bool has_locations(const View4& view) { return view.batch() * view.pixels() > 0; }

}  // namespace fastalign::host::on_cuda

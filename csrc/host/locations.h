// What the ops with one number for each location, or one for all of them, have in common.
#pragma once

#include "ops.h"

namespace fastalign::host {

inline Tensor value_map(const Tensor& like, bool zero) {
  Tensor value =
      empty_map(like, {like.size(0), like.size(2), like.size(3)}, accumulation_type(like), false);
  if (zero) {
    torch::stable::zero_(value);
  }
  return value;
}

inline View3 gradient_map(const Tensor& grad, const Tensor& like) {
  check_cpu(grad, "grad");
  check_shape(grad, "grad", {like.size(0), like.size(2), like.size(3)});
  FASTALIGN_CHECK(grad.scalar_type() == accumulation_type(like),
                  "grad must have the accumulation dtype (float64 for float64, else float32)");
  return view3(grad);
}

inline Tensor scalar(const Tensor& like, double value) {
  const double clean = value == 0.0 ? 0.0 : value;  // no minus zero for a loss without pairs
  Tensor result = empty_map(like, {}, accumulation_type(like), false);
  if (result.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(result.mutable_data_ptr()) = clean;
  } else {
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(clean);
  }
  return result;
}

}  // namespace fastalign::host

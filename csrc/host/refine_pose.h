// The rules for the arguments of refine_pose, the same on every device.
#pragma once

#include "../common/pose.h"
#include "tensors.h"

namespace fastalign::host {

// [H, W] of any strides.
inline View3 plane_view(const Tensor& tensor) {
  return View3{tensor.const_data_ptr(), {0, tensor.stride(0), tensor.stride(1)}};
}

// Fills in the arguments of either kernel; the view of the edges is set, and devices have been
// checked. The generators must be contiguous.
template <class Args>
void set_inputs(Args& inputs, const Tensor& edges, const Tensor& theta, const Tensor& template_,
                const Tensor& weight, const Tensor& generators, int64_t iterations) {
  const int64_t height = edges.size(2), width = edges.size(3);
  FASTALIGN_CHECK(edges.size(1) == 1 && height > 0 && width > 0, "edges have shape ",
                  shape_of(edges), ", expected [batch, 1, height, width], not empty");
  FASTALIGN_CHECK(theta.dim() == 4, "theta has shape ", shape_of(theta),
                  ", expected [batch, candidates, 2, 3]");
  inputs.candidates = theta.size(1);
  check_shape(theta, "theta", {edges.size(0), inputs.candidates, 2, 3});
  check_shape(template_, "template", {height, width});
  check_shape(weight, "weight", {height, width});
  FASTALIGN_CHECK(generators.dim() == 3, "generators have shape ", shape_of(generators));
  inputs.parameters = generators.size(0);
  check_shape(generators, "generators", {inputs.parameters, 2, 3});
  FASTALIGN_CHECK(inputs.parameters >= 1 && inputs.parameters <= kMostPoseParameters,
                  "generators must be those of 1 to 6 parameters");
  const char* wanted = inputs.edges.dtype == DType::float64 ? "float64" : "float32";
  check_type(theta, "theta", accumulation_type(edges), wanted);
  check_type(template_, "template", accumulation_type(edges), wanted);
  check_type(weight, "weight", accumulation_type(edges), wanted);
  check_type(generators, "generators", accumulation_type(edges), wanted);
  FASTALIGN_CHECK(iterations >= 0, "iterations must not be negative");
  inputs.theta = theta.const_data_ptr();
  for (int64_t d = 0; d < 4; ++d) {
    inputs.theta_stride[d] = theta.stride(d);
  }
  inputs.template_ = plane_view(template_);
  inputs.weight = plane_view(weight);
  inputs.generators = generators.const_data_ptr();
  inputs.iterations = iterations;
}

}  // namespace fastalign::host

// The rules for the arguments of anomaly_map, the same on every device.
#pragma once

#include "../common/map_inputs.h"
#include "tensors.h"

namespace fastalign::host {

// Fills in the arguments of either kernel; the view of the distances is set, and devices have been
// checked. The taps must be contiguous.
template <class Args>
void set_inputs(Args& inputs, const Tensor& distance, const Tensor& theta, const Tensor& evidence,
                const Tensor& taps, int64_t height, int64_t width) {
  FASTALIGN_CHECK(distance.size(1) == 1 && distance.size(2) > 0 && distance.size(3) > 0,
                  "distance has shape ", shape_of(distance),
                  ", expected [batch, 1, height, width], not empty");
  FASTALIGN_CHECK(height > 0 && width > 0, "the size must be at least 1");
  check_shape(theta, "theta", {distance.size(0), 2, 3});
  check_shape(evidence, "evidence", {distance.size(0), distance.size(2), distance.size(3)});
  FASTALIGN_CHECK(taps.dim() == 1 && taps.size(0) % 2 == 1, "taps have shape ", shape_of(taps),
                  ", expected an odd number");
  const char* wanted = inputs.distance.dtype == DType::float64 ? "float64" : "float32";
  check_type(theta, "theta", accumulation_type(distance), wanted);
  check_type(taps, "taps", accumulation_type(distance), wanted);
  inputs.is_mask = evidence.scalar_type() == ScalarType::Bool;
  if (!inputs.is_mask) {
    check_type(evidence, "evidence", accumulation_type(distance), wanted);
  }
  inputs.evidence = view3(evidence);
  inputs.taps = taps.const_data_ptr();
  inputs.count = taps.size(0);
  inputs.height = height;
  inputs.width = width;
}

}  // namespace fastalign::host

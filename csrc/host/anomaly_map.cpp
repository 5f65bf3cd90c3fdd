// anomaly_map: shape and dtype rules, inverse pixel maps, outputs, one kernel call.
#include "anomaly_map.h"

#include "ops.h"

namespace fastalign::host {

std::tuple<Tensor, Tensor> anomaly_map(Tensor distance, Tensor theta, Tensor evidence, Tensor taps,
                                       int64_t height, int64_t width) {
  AnomalyMapArgs args{};
  args.distance = view4(distance, "distance");
  check_cpu(theta, "theta");
  check_cpu(evidence, "evidence");
  check_cpu(taps, "taps");
  const Tensor dense = torch::stable::contiguous(taps);
  set_inputs(args, distance, theta, evidence, dense, height, width);
  const bool wide = theta.scalar_type() == ScalarType::Double;
  std::vector<AffinePixels> maps;
  for (int64_t b = 0; b < distance.size(0); ++b) {
    double given[6], inverse[6];
    for (int64_t k = 0; k < 6; ++k) {
      const int64_t at = b * theta.stride(0) + k / 3 * theta.stride(1) + k % 3 * theta.stride(2);
      given[k] = wide ? static_cast<const double*>(theta.const_data_ptr())[at]
                      : static_cast<double>(static_cast<const float*>(theta.const_data_ptr())[at]);
    }
    inverse_affine(given, inverse);
    maps.push_back(
        affine_pixels(inverse, distance.size(2), distance.size(3), height, width, false));
  }
  args.maps = maps.data();
  const ScalarType type = accumulation_type(distance);
  Tensor value = empty_map(distance, {distance.size(0), height, width}, type, false);
  Tensor share = empty_map(distance, {distance.size(0), height, width}, type, false);
  args.value = value.mutable_data_ptr();
  args.share = share.mutable_data_ptr();
  if (value.numel() > 0) {
    FASTALIGN_RUN_KERNEL(anomaly_map, args);
  }
  return {value, share};
}

}  // namespace fastalign::host

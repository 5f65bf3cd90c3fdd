// The options of warp_affine as the kernels know them; shared by the CPU and CUDA wrappers.
#pragma once

#include "../common/warp_options.h"
#include "tensors.h"

namespace fastalign::host {

inline Interpolation interpolation(const std::string& mode) {
  FASTALIGN_CHECK(mode == "bilinear" || mode == "nearest", "mode '", mode,
                  "' is unknown; use 'bilinear' or 'nearest'");
  return mode == "nearest" ? Interpolation::nearest : Interpolation::bilinear;
}

inline Padding padding(const std::string& mode) {
  FASTALIGN_CHECK(mode == "zeros" || mode == "border" || mode == "reflection", "padding_mode '",
                  mode, "' is unknown; use 'zeros', 'border' or 'reflection'");
  return mode == "zeros" ? Padding::zeros
                         : (mode == "border" ? Padding::border : Padding::reflection);
}

inline void set_options(WarpOptions& options, const std::string& mode,
                        const std::string& padding_mode, bool align_corners) {
  options.mode = interpolation(mode);
  options.padding = padding(padding_mode);
  options.align_corners = align_corners;
}

inline void check_source(const Tensor& x) {
  FASTALIGN_CHECK(x.size(2) > 0 && x.size(3) > 0, "x has shape ", shape_of(x),
                  ": cannot sample from an empty image");
}

}  // namespace fastalign::host

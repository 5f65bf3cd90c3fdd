// How warp_affine samples, as its kernels are told on every device.
#pragma once

#include "geometry.h"

namespace fastalign {

struct WarpOptions {
  Interpolation mode;
  Padding padding;
  bool align_corners;
};

}  // namespace fastalign

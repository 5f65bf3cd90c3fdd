// What refine_pose is given, the same on every device. All but the edges have their accumulation
// type.
#pragma once

#include "../cpu/view.h"

namespace fastalign {

struct PoseInputs {
  View4 edges;        // [B, 1, H, W]
  const void* theta;  // [B, K, 2, 3]
  int64_t theta_stride[4];
  int64_t candidates;      // K
  View3 template_;         // [H, W], its first stride unused
  View3 weight;            // the same
  const void* generators;  // [P, 2, 3], contiguous
  int64_t parameters;      // P, 1 to 6
  int64_t iterations;
};

}  // namespace fastalign

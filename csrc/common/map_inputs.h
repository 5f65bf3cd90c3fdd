// What anomaly_map is given, the same on every device.
#pragma once

#include "../cpu/view.h"
#include "macros.h"

namespace fastalign {

struct AnomalyMapInputs {
  View4 distance;  // [B, 1, h, w]
  View3 evidence;  // [B, h, w]
  bool is_mask;    // whether the evidence is bool; else of the accumulation type, as all below
  const void* taps;
  int64_t count;          // of the taps, odd
  int64_t height, width;  // of the maps
};

// A share of the evidence below this counts as this.
constexpr float kLeastShare = 1e-6f;

// The pixel of an axis that a place stands for: reflected at both ends, which are not repeated.
FASTALIGN_HD int64_t reflected(int64_t place, int64_t size) {
  if (place >= 0 && place < size) {
    return place;
  }
  if (size == 1) {
    return 0;
  }
  const int64_t period = 2 * (size - 1);
  const int64_t turned = (place % period + period) % period;
  return turned < size ? turned : period - turned;
}

}  // namespace fastalign

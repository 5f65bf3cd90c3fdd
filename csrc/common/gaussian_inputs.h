// What mahalanobis is given, the same on every device.
#pragma once

#include "../cpu/view.h"
#include "macros.h"

namespace fastalign {

struct GaussianInputs {
  View4 x;
  View4 mean;            // batch 1, accumulation type
  const void* whitener;  // [H*W, C(C+1)/2]; of the low-rank form [H*W, rank, C]
  DType whitener_dtype;
  int64_t whitener_stride[3];  // packed: the last is unused
  bool low_rank;
  int64_t rank;
  bool squared;
  View3 grad;  // accumulation type; data null: forward only
  // Forward only, data null where they are not given.
  View4 coarse;  // [B, C, h, w], upsampled and added to x; x's type
  View3 scale;   // [1, H, W] that values are multiplied with, accumulation type
};

// Between which pixels of a coarser axis a pixel lies, and how near to the second one (as torch's
// bilinear interpolation places them, its corners not aligned).
struct Between {
  int64_t low, high;
  double share;
};

FASTALIGN_HD Between between(int64_t pixel, int64_t size, int64_t coarse) {
  const double ratio = static_cast<double>(coarse) / static_cast<double>(size);
  const double position = (static_cast<double>(pixel) + 0.5) * ratio - 0.5;
  const double inside = position > 0.0 ? position : 0.0;
  const int64_t whole = static_cast<int64_t>(inside), last = coarse - 1;
  const int64_t low = whole < last ? whole : last;
  return {low, low < last ? low + 1 : last, inside - static_cast<double>(whole)};
}

}  // namespace fastalign

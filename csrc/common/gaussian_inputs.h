// What mahalanobis is given, the same on every device.
#pragma once

#include "../cpu/view.h"

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
};

}  // namespace fastalign

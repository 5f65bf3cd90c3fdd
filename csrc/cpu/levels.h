// Entry points of every instruction-set level; defined by the kernel sources of that level.
#pragma once

#include "kernels.h"

#define FASTALIGN_DECLARE_LEVEL(level)                                        \
  namespace level {                                                           \
  Status dense_similarity(const DenseSimilarityArgs&, const Workers&);        \
  Status pairwise_distance(const PairwiseDistanceArgs&, const Workers&);      \
  Status warp_affine(const WarpAffineArgs&, const Workers&);                  \
  Status warp_affine_backward(const WarpAffineBackwardArgs&, const Workers&); \
  Status mahalanobis(const MahalanobisArgs&, const Workers&);                 \
  Status moments(const MomentsArgs&, const Workers&);                         \
  Status whitener(const WhitenerArgs&, const Workers&);                       \
  }

namespace fastalign {
FASTALIGN_DECLARE_LEVEL(isa_baseline)
#if defined(__x86_64__)
FASTALIGN_DECLARE_LEVEL(isa_avx2)
FASTALIGN_DECLARE_LEVEL(isa_avx512)
#endif
}  // namespace fastalign

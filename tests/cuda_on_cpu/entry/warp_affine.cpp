#include "entry.h"

FASTALIGN_ENTRY(warp_affine, WarpAffineArgs)
FASTALIGN_ENTRY_SCRATCH(warp_affine_backward, WarpAffineBackwardArgs)

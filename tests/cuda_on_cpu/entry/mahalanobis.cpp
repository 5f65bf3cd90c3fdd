#include "entry.h"

FASTALIGN_ENTRY_SCRATCH(mahalanobis, MahalanobisArgs)

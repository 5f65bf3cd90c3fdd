#include "entry.h"

FASTALIGN_ENTRY_SCRATCH(pairwise_distance, PairwiseDistanceArgs)

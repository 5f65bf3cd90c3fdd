#include "entry.h"

FASTALIGN_ENTRY_SCRATCH(dense_similarity, DenseSimilarityArgs)

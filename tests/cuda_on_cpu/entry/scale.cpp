#include "entry.h"

FASTALIGN_ENTRY(scale, ScaleArgs)

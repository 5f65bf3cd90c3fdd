// Scratch memory that survives from one call to the next.
#pragma once

#include <cstddef>

namespace fastalign {

// At least `bytes` bytes, page-aligned and uninitialised; null when memory is out.
void* acquire_scratch(size_t bytes);

// Gives the block back; the last one of at most 16 MiB is kept for the next call.
void release_scratch(void* scratch);

}  // namespace fastalign

// Memory that survives from one call to the next: scratch of the kernels, and large results.
#pragma once

#include <cstddef>

namespace fastalign {

// At least `bytes` bytes, page-aligned and uninitialised; null when memory is out.
void* acquire_scratch(size_t bytes);

// Gives the block back; the last one of at most 16 MiB is kept for the next call.
void release_scratch(void* scratch);

// The same for a result, whose owner gives it back with the size it was asked for. The latest
// ones, of together at most 64 MiB, are kept.
void* acquire_result(size_t bytes);
void release_result(void* block, size_t bytes);

// Asks for huge pages behind [data, data + bytes): a hint, without effect where there are none.
void prefer_huge_pages(void* data, size_t bytes);

// Gives everything that is kept back to the system.
void release_kept();

}  // namespace fastalign

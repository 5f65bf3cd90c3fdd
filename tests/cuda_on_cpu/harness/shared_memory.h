// The dynamic shared memory of a block: exactly as large as asked for, between guards.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

// Memory of `bytes` bytes, aligned to 16 and to no more, filled with `rest`, which stands for what
// an earlier block left: all bits set, a float read before it was written is NaN; zero, a sum or a
// flag read too early lacks what it waits for. It ends at an unmapped page, or at one that the
// sanitizer watches.
void* begin_shared(size_t bytes, unsigned char rest);

// Null, or what was written beside the block where no page could guard it.
const char* damage_beside_shared();

// Whether a faulting address lies in the guards; *offset from the block's first byte.
bool beside_shared(const void* address, long long* offset);

}  // namespace cuda_on_cpu

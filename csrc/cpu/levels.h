// Entry points of every instruction-set level; defined by the kernel sources of that level.
#pragma once

#include "kernels.h"

#define FASTALIGN_KERNEL_ENTRY(level, name, Args) \
  namespace level {                               \
  Status name(const Args&, const Workers&);       \
  }
#define FASTALIGN_KERNEL_POINTER(level, name, Args) level::name,

// The table of one level.
#define FASTALIGN_TABLE(level) {FASTALIGN_CPU_KERNELS(FASTALIGN_KERNEL_POINTER, level)}

namespace fastalign {
FASTALIGN_CPU_KERNELS(FASTALIGN_KERNEL_ENTRY, isa_baseline)
#if defined(__x86_64__)
FASTALIGN_CPU_KERNELS(FASTALIGN_KERNEL_ENTRY, isa_avx2)
FASTALIGN_CPU_KERNELS(FASTALIGN_KERNEL_ENTRY, isa_avx512)
#endif
}  // namespace fastalign

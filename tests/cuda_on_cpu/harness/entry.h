// C names for a launcher of csrc/cuda/launchers.h, for ctypes; the structs go by address.
#pragma once

#include <cstdint>

#include "launchers.h"

#define FASTALIGN_ENTRY(op, Args)                                         \
  extern "C" const char* launch_##op(const fastalign::cuda::Args* args) { \
    return fastalign::cuda::op(*args, nullptr);                           \
  }                                                                       \
  extern "C" int64_t size_##op() { return sizeof(fastalign::cuda::Args); }

#define FASTALIGN_ENTRY_SCRATCH(op, Args)                              \
  extern "C" int64_t scratch_##op(const fastalign::cuda::Args* args) { \
    return fastalign::cuda::op##_scratch(*args);                       \
  }                                                                    \
  FASTALIGN_ENTRY(op, Args)

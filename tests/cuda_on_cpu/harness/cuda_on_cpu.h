// CUDA's language for one host thread: a kernel body compiles as plain C++20, and every CUDA
// thread runs as a fiber of its own.
//
// csrc/cuda/launch.h includes this file where nvcc is not at work. A launch runs all blocks, one
// after the other, and gives null or the description of the first error: of the launch itself
// (limits of the grid), or of what a kernel must not do (see threads.h). Fibers switch only at
// barriers, warp operations and atomics, in an order that the schedule chooses: an in-order
// schedule hides a missing barrier, reverse and random ones show it.
#pragma once

#include "device_functions.h"
#include "threads.h"
#include "vector_types.h"

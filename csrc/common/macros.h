// Function qualifiers shared by host and CUDA code.
//
// The CPU kernels are compiled once per instruction set. An inline function that the linker
// may merge across those objects would let AVX-512 code reach a machine without it, so every
// shared function is forced inline and leaves no symbol behind.
//
// FASTALIGN_UNROLL before a loop of a few turns leaves none: what it indexes stays in registers.
#pragma once

#if defined(__CUDACC__)
#define FASTALIGN_HD __host__ __device__ __forceinline__
#define FASTALIGN_UNROLL _Pragma("unroll")
#else
#define FASTALIGN_HD __attribute__((always_inline)) inline
#define FASTALIGN_UNROLL _Pragma("GCC unroll 16")
#endif

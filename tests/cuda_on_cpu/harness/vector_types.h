// CUDA's built-in vector types, with its alignments, and dim3.
#pragma once

#include <cstdint>

namespace cuda_on_cpu {
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
}

#define CUDA_ON_CPU_VECTORS(name, scalar)                                           \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                      \
  struct name##3 { scalar x, y, z; };                                               \
  struct alignas(4 * sizeof(scalar) < 16 ? 4 * sizeof(scalar) : 16) name##4 {       \
    scalar x, y, z, w;                                                              \
  };                                                                                \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }              \
  inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; } \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

CUDA_ON_CPU_VECTORS(char, signed char)
CUDA_ON_CPU_VECTORS(uchar, unsigned char)
CUDA_ON_CPU_VECTORS(short, short)
CUDA_ON_CPU_VECTORS(ushort, unsigned short)
CUDA_ON_CPU_VECTORS(int, int)
CUDA_ON_CPU_VECTORS(uint, unsigned int)
CUDA_ON_CPU_VECTORS(longlong, long long)
CUDA_ON_CPU_VECTORS(ulonglong, unsigned long long)
CUDA_ON_CPU_VECTORS(float, float)
CUDA_ON_CPU_VECTORS(double, double)

#undef CUDA_ON_CPU_VECTORS

// Takes wide integers, so that a size that does not fit is an error of the launch and not a
// silently smaller grid.
struct dim3 {
  unsigned int x = 1, y = 1, z = 1;

  dim3(int64_t x_size = 1, int64_t y_size = 1, int64_t z_size = 1)
      : x(narrow(x_size)), y(narrow(y_size)), z(narrow(z_size)) {}

  static unsigned int narrow(int64_t size) {
    return size < 0 || size > 0xffffffffLL ? 0u : static_cast<unsigned int>(size);
  }
};

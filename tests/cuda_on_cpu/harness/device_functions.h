// Qualifiers and the scalar functions of device code: cached loads, bits, rounding, atomics.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "threads.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ kernels_use_dynamic_shared_memory_only
#define __builtin_assume(condition) static_cast<void>(0)

#define CUDA_ON_CPU_LOAD(name)                            \
  template <class T>                                      \
  T name(const T* from) {                                 \
    ::cuda_on_cpu::check_vector(from, alignof(T), #name); \
    return *from;                                         \
  }
CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldlu)
CUDA_ON_CPU_LOAD(__ldcv)
#undef CUDA_ON_CPU_LOAD

#define CUDA_ON_CPU_STORE(name)                         \
  template <class T>                                    \
  void name(T* to, T value) {                           \
    ::cuda_on_cpu::check_vector(to, alignof(T), #name); \
    *to = value;                                        \
  }
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stwt)
#undef CUDA_ON_CPU_STORE

// Of mixed types the common one; of floats the one that is a number, as on the device.
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmin(static_cast<T>(a), static_cast<T>(b));
  } else {
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmax(static_cast<T>(a), static_cast<T>(b));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
  }
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Conversions to int saturate on the device and give 0 for NaN; in C++ they are undefined there.
namespace cuda_on_cpu {
template <class To>
To saturated(double rounded) {
  if (!(rounded == rounded)) {
    return 0;
  }
  constexpr double low = static_cast<double>(std::numeric_limits<To>::min());
  constexpr double high = static_cast<double>(std::numeric_limits<To>::max());
  return rounded <= low    ? std::numeric_limits<To>::min()
         : rounded >= high ? std::numeric_limits<To>::max()
                           : static_cast<To>(rounded);
}
}  // namespace cuda_on_cpu
inline int __float2int_rn(float x) { return cuda_on_cpu::saturated<int>(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return cuda_on_cpu::saturated<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return cuda_on_cpu::saturated<int>(std::ceil(x)); }
inline int __float2int_rz(float x) { return cuda_on_cpu::saturated<int>(std::trunc(x)); }
inline int __double2int_rn(double x) { return cuda_on_cpu::saturated<int>(std::nearbyint(x)); }
inline int __double2int_rd(double x) { return cuda_on_cpu::saturated<int>(std::floor(x)); }
inline int __double2int_ru(double x) { return cuda_on_cpu::saturated<int>(std::ceil(x)); }
inline int __double2int_rz(double x) { return cuda_on_cpu::saturated<int>(std::trunc(x)); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((uint64_t{a} * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

// Atomics: every one is a point where the schedule may switch, and is counted.
namespace cuda_on_cpu {
template <class T, class Change>
T atomic(T* where, Change change) {
  may_switch();
  count_atomic(std::is_floating_point_v<T>);
  const T before = *where;
  *where = change(before);
  return before;
}
}  // namespace cuda_on_cpu
template <class T>
T atomicAdd(T* where, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomic(where, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* where, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomic(where, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* where, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomic(where, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicExch(T* where, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomic(where, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* where, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return cuda_on_cpu::atomic(where, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* where, unsigned last) {
  return cuda_on_cpu::atomic(where, [=](unsigned old) { return old >= last ? 0u : old + 1u; });
}

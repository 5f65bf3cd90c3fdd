// Storage types inside kernels: conversion from and to float, and vectors of up to 16 bytes that
// cross memory in one access.
#pragma once

#include <cstring>

#include "../common/half.h"
#include "launch.h"

namespace fastalign::cuda {

FASTALIGN_DEVICE float to_float(float value) { return value; }
FASTALIGN_DEVICE float to_float(Half value) { return half_to_float(value); }
FASTALIGN_DEVICE float to_float(BFloat16 value) { return bfloat16_to_float(value); }

template <class T>
FASTALIGN_DEVICE T from_float(float value);
template <>
FASTALIGN_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
FASTALIGN_DEVICE Half from_float<Half>(float value) {
  return float_to_half(value);
}
template <>
FASTALIGN_DEVICE BFloat16 from_float<BFloat16>(float value) {
  return float_to_bfloat16(value);
}

// N neighbours in memory; N * sizeof(T) is 2, 4, 8 or 16 bytes, and so is the alignment.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N <= 16 && ((sizeof(T) * N) & (sizeof(T) * N - 1)) == 0);
  T lane[N];

  FASTALIGN_DEVICE T& operator[](int i) { return lane[i]; }
  FASTALIGN_DEVICE const T& operator[](int i) const { return lane[i]; }
  FASTALIGN_DEVICE float as_float(int i) const { return to_float(lane[i]); }
};

// Elements of T in 16 bytes.
template <class T>
inline constexpr int kVec = 16 / static_cast<int>(sizeof(T));

// The machine word that carries a vector: one load or store instruction.
template <int bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned int;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

enum class Cache {
  normal,    // may be read again: keep
  readonly,  // nobody writes it during this kernel
  once       // streams through: evict first
};

// `from` must be aligned to the vector's size, in global or shared memory (readonly and once:
// global only).
template <int N, Cache cache = Cache::normal, class T>
FASTALIGN_DEVICE Vec<T, N> load_vec(const T* from) {
  using Word = typename WordOf<static_cast<int>(sizeof(T) * N)>::type;
#if !defined(__CUDACC__)
  ::cuda_on_cpu::check_vector(from, sizeof(Word), "load");
#endif
  const Word* source = reinterpret_cast<const Word*>(from);
  Word word;
  if constexpr (cache == Cache::readonly) {
    word = __ldg(source);
  } else if constexpr (cache == Cache::once) {
    word = __ldcs(source);
  } else {
    word = *source;
  }
  Vec<T, N> value;
  memcpy(&value, &word, sizeof(word));
  return value;
}

template <Cache cache = Cache::normal, class T, int N>
FASTALIGN_DEVICE void store_vec(T* to, const Vec<T, N>& value) {
  using Word = typename WordOf<static_cast<int>(sizeof(T) * N)>::type;
#if !defined(__CUDACC__)
  ::cuda_on_cpu::check_vector(to, sizeof(Word), "store");
#endif
  Word word;
  memcpy(&word, &value, sizeof(word));
  Word* target = reinterpret_cast<Word*>(to);
  if constexpr (cache == Cache::once) {
    __stcs(target, word);
  } else {
    *target = word;
  }
}

template <class T, int N>
FASTALIGN_DEVICE void to_floats(const Vec<T, N>& value, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    out[i] = to_float(value.lane[i]);
  }
}

template <class T, int N>
FASTALIGN_DEVICE Vec<T, N> from_floats(const float (&in)[N]) {
  Vec<T, N> value;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    value.lane[i] = from_float<T>(in[i]);
  }
  return value;
}

// Whether a pointer and its strides in bytes (0 for those that are not stepped over) allow
// vectors of `bytes` bytes; for launchers, which choose the variant.
template <class... Strides>
bool vector_aligned(int64_t bytes, const void* pointer, Strides... strides_in_bytes) {
  const bool base = reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
  return base && (... && (static_cast<int64_t>(strides_in_bytes) % bytes == 0));
}

}  // namespace fastalign::cuda

// Native-width vectors for the instruction set this object is compiled for.
//
// Arithmetic uses the compiler's vector extension, so the same source serves SSE2, AVX2,
// AVX-512 and NEON; intrinsics appear only where the extension has no word for the operation.
// Everything lives in a namespace named after the instruction set: nothing may be merged with
// the same function of another level at link time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../common/half.h"

#if !defined(FASTALIGN_ISA)
#error "FASTALIGN_ISA names the instruction set this source is compiled for"
#endif

#define FASTALIGN_INLINE __attribute__((always_inline)) inline

namespace fastalign::FASTALIGN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <class A>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int lanes = kVectorBytes / 4;
  using type = VectorOf<float, lanes>::type;
  using bits = VectorOf<int32_t, lanes>::type;
  using half_bits = VectorOf<uint16_t, lanes>::type;
};

template <>
struct Simd<double> {
  static constexpr int lanes = kVectorBytes / 8;
  using type = VectorOf<double, lanes>::type;
  using bits = VectorOf<int64_t, lanes>::type;
};

template <class A>
using Vec = typename Simd<A>::type;
template <class A>
using Bits = typename Simd<A>::bits;
template <class A>
constexpr int kLanes = Simd<A>::lanes;

using Floats = Vec<float>;
using Doubles = Vec<double>;

// Accumulation type of a storage type.
template <class S>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class S>
using Acc = typename Accumulate<S>::type;

template <class T>
FASTALIGN_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
FASTALIGN_INLINE T larger(T a, T b) {
  return a > b ? a : b;
}

// ---- loads, stores, scalars ------------------------------------------------------------------

// A vector at any address. Through this type and not through memcpy, of which the compiler makes
// one load for each use.
template <class A>
struct Unaligned {
  typedef Vec<A> type __attribute__((aligned(alignof(A)), may_alias));
};

template <class A>
FASTALIGN_INLINE Vec<A> load(const A* from) {
  return *reinterpret_cast<const typename Unaligned<A>::type*>(from);
}

template <class A>
FASTALIGN_INLINE void store(A* to, const Vec<A>& v) {
  *reinterpret_cast<typename Unaligned<A>::type*>(to) = v;
}

template <class A>
FASTALIGN_INLINE Vec<A> splat(A value) {
  return value - Vec<A>{};
}

FASTALIGN_INLINE float to_acc(float v) { return v; }
FASTALIGN_INLINE double to_acc(double v) { return v; }
FASTALIGN_INLINE float to_acc(Half v) { return half_to_float(v); }
FASTALIGN_INLINE float to_acc(BFloat16 v) { return bfloat16_to_float(v); }

template <class S>
FASTALIGN_INLINE S from_acc(Acc<S> v);
template <>
FASTALIGN_INLINE float from_acc<float>(float v) {
  return v;
}
template <>
FASTALIGN_INLINE double from_acc<double>(double v) {
  return v;
}
template <>
FASTALIGN_INLINE Half from_acc<Half>(float v) {
  return float_to_half(v);
}
template <>
FASTALIGN_INLINE BFloat16 from_acc<BFloat16>(float v) {
  return float_to_bfloat16(v);
}

// Vector loads and stores that convert between storage and accumulation type.
FASTALIGN_INLINE Floats load_acc(const float* from) { return load(from); }
FASTALIGN_INLINE Doubles load_acc(const double* from) { return load(from); }
FASTALIGN_INLINE void store_acc(float* to, const Floats& v) { store(to, v); }
FASTALIGN_INLINE void store_acc(double* to, const Doubles& v) { store(to, v); }

FASTALIGN_INLINE Floats load_acc(const BFloat16* from) {
  Simd<float>::half_bits narrow;
  std::memcpy(&narrow, from, sizeof(narrow));
  const Bits<float> wide = __builtin_convertvector(narrow, Bits<float>) << 16;
  return reinterpret_cast<Floats>(wide);
}

FASTALIGN_INLINE void store_acc(BFloat16* to, const Floats& v) {
  using Unsigned = VectorOf<uint32_t, kLanes<float>>::type;
  const Unsigned bits = reinterpret_cast<Unsigned>(v);
  const Unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Unsigned quiet = (bits >> 16) | 0x40u;
  const Unsigned picked = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  const auto narrow = __builtin_convertvector(picked, Simd<float>::half_bits);
  std::memcpy(to, &narrow, sizeof(narrow));
}

FASTALIGN_INLINE Floats load_acc(const Half* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
  return reinterpret_cast<Floats>(
      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  Floats v;
  for (int i = 0; i < kLanes<float>; ++i) {
    v[i] = half_to_float(from[i]);
  }
  return v;
#endif
}

FASTALIGN_INLINE void store_acc(Half* to, const Floats& v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) {
    to[i] = float_to_half(v[i]);
  }
#endif
}

// The first `count` in [1, lanes] elements and zeros behind them; nothing else is read.
template <class S>
FASTALIGN_INLINE Vec<Acc<S>> load_first(const S* from, int64_t count) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t{1} << count) - 1;
  if constexpr (sizeof(S) == 8) {
    return reinterpret_cast<Doubles>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from));
  } else if constexpr (sizeof(S) == 4) {
    return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from));
  } else {
    S kept[kLanes<float>];
    const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from);
    std::memcpy(kept, &bits, sizeof(kept));
    return load_acc(kept);
  }
#else
#if defined(__AVX2__)
  if constexpr (sizeof(S) == 4) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
    return reinterpret_cast<Floats>(_mm256_maskload_ps(from, mask));
  }
#endif
  S kept[kLanes<Acc<S>>] = {};
  std::memcpy(kept, from, static_cast<size_t>(count) * sizeof(S));
  return load_acc(kept);
#endif
}

// Stores the first `count` in [1, lanes] elements.
template <class S>
FASTALIGN_INLINE void store_first(S* to, const Vec<Acc<S>>& v, int64_t count) {
  S all[kLanes<Acc<S>>];
  store_acc(all, v);
  std::memcpy(to, all, static_cast<size_t>(count) * sizeof(S));
}

// Store around the caches; `to` must be aligned to the vector.
template <class A>
FASTALIGN_INLINE void store_streaming(A* to, const Vec<A>& v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(v));
#else
  store(to, v);
#endif
}

// Streaming stores are weakly ordered: fence before another thread may read.
FASTALIGN_INLINE void streaming_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// ---- arithmetic ------------------------------------------------------------------------------

FASTALIGN_INLINE Floats max_of(const Floats& a, const Floats& b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(
      _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(
      _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

FASTALIGN_INLINE Floats min_of(const Floats& a, const Floats& b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(
      _mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(
      _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a < b ? a : b;
#endif
}

FASTALIGN_INLINE Doubles max_of(const Doubles& a, const Doubles& b) { return a > b ? a : b; }
FASTALIGN_INLINE Doubles min_of(const Doubles& a, const Doubles& b) { return a < b ? a : b; }

FASTALIGN_INLINE Floats abs_of(const Floats& a) {
  return reinterpret_cast<Floats>(reinterpret_cast<Bits<float>>(a) & 0x7fffffff);
}

FASTALIGN_INLINE Doubles abs_of(const Doubles& a) {
  return reinterpret_cast<Doubles>(reinterpret_cast<Bits<double>>(a) & int64_t{0x7fffffffffffffff});
}

FASTALIGN_INLINE Floats sqrt_of(const Floats& a) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_sqrt_ps(reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<Floats>(_mm256_sqrt_ps(reinterpret_cast<__m256>(a)));
#else
  Floats r;
  for (int i = 0; i < kLanes<float>; ++i) {
    r[i] = __builtin_sqrtf(a[i]);
  }
  return r;
#endif
}

FASTALIGN_INLINE Doubles sqrt_of(const Doubles& a) {
#if defined(__AVX512F__)
  return reinterpret_cast<Doubles>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(a)));
#elif defined(__AVX2__)
  return reinterpret_cast<Doubles>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(a)));
#else
  Doubles r;
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = __builtin_sqrt(a[i]);
  }
  return r;
#endif
}

// 1 / sqrt(a) to about one unit in the last place; a must be normal and positive, other lanes
// are undefined.
FASTALIGN_INLINE Floats rsqrt_of(const Floats& a) {
#if defined(__AVX512F__)
  const Floats y = reinterpret_cast<Floats>(_mm512_rsqrt14_ps(reinterpret_cast<__m512>(a)));
#elif defined(__AVX2__)
  const Floats y = reinterpret_cast<Floats>(_mm256_rsqrt_ps(reinterpret_cast<__m256>(a)));
#else
  return 1.0f / sqrt_of(a);
#endif
#if defined(__AVX2__)
  // One Newton step, written on the residual 1 - a y^2 so that rounding stays relative to y.
  const Floats residual = 1.0f - (a * y) * y;
  return y + (y * 0.5f) * residual;
#endif
}

FASTALIGN_INLINE Doubles rsqrt_of(const Doubles& a) { return 1.0 / sqrt_of(a); }

// Sum of the lanes, by halves: the same tree on every call.
template <int N, class T>
FASTALIGN_INLINE T sum_tree(const T* values) {
  if constexpr (N == 1) {
    return values[0];
  } else {
    T half[N / 2];
    for (int i = 0; i < N / 2; ++i) {
      half[i] = values[i] + values[i + N / 2];
    }
    return sum_tree<N / 2>(half);
  }
}

FASTALIGN_INLINE float sum_lanes(const Floats& v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m256 all = reinterpret_cast<__m256>(v);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float values[kLanes<float>];
  store(values, v);
  return sum_tree<kLanes<float>>(values);
#endif
}

FASTALIGN_INLINE double sum_lanes(const Doubles& v) {
  double values[kLanes<double>];
  store(values, v);
  return sum_tree<kLanes<double>>(values);
}

// Sums of the lanes of four vectors, in fewer shuffles than four single sums.
template <class A>
struct Four {
  using type = typename VectorOf<A, 4>::type;
};

template <class A>
FASTALIGN_INLINE typename Four<A>::type sum_lanes_of_four(const Vec<A>& a, const Vec<A>& b,
                                                          const Vec<A>& c, const Vec<A>& d) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    const __m512 va = reinterpret_cast<__m512>(a), vb = reinterpret_cast<__m512>(b);
    const __m512 vc = reinterpret_cast<__m512>(c), vd = reinterpret_cast<__m512>(d);
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(va, vb), _mm512_unpackhi_ps(va, vb));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(vc, vd), _mm512_unpackhi_ps(vc, vd));
    const __m512 all =
        _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    return reinterpret_cast<typename Four<A>::type>(sums);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    const __m256 ab = _mm256_hadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b));
    const __m256 cd = _mm256_hadd_ps(reinterpret_cast<__m256>(c), reinterpret_cast<__m256>(d));
    const __m256 all = _mm256_hadd_ps(ab, cd);
    const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    return reinterpret_cast<typename Four<A>::type>(sums);
  }
#elif defined(__SSE2__)
  if constexpr (sizeof(A) == 4) {
    __m128 va = reinterpret_cast<__m128>(a), vb = reinterpret_cast<__m128>(b);
    __m128 vc = reinterpret_cast<__m128>(c), vd = reinterpret_cast<__m128>(d);
    _MM_TRANSPOSE4_PS(va, vb, vc, vd);
    const __m128 sums = _mm_add_ps(_mm_add_ps(va, vb), _mm_add_ps(vc, vd));
    return reinterpret_cast<typename Four<A>::type>(sums);
  }
#endif
  typename Four<A>::type sums = {sum_lanes(a), sum_lanes(b), sum_lanes(c), sum_lanes(d)};
  return sums;
}

// True if any lane of a comparison result is set.
template <class B>
FASTALIGN_INLINE bool any_lane(const B& mask) {
  B folded = mask;
  uint64_t words[sizeof(B) / 8];
  std::memcpy(words, &folded, sizeof(B));
  uint64_t seen = 0;
  for (uint64_t word : words) {
    seen |= word;
  }
  return seen != 0;
}

// Copies whole cache lines around the caches; `to` must be aligned to one.
FASTALIGN_INLINE void copy_streaming(void* to, const void* from, int64_t bytes) {
  constexpr int64_t step = kLanes<float>;
  for (int64_t i = 0; i < bytes / 4; i += step) {
    store_streaming(static_cast<float*>(to) + i, load(static_cast<const float*>(from) + i));
  }
}

FASTALIGN_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// The element that lies `elements` after `from`, which may be none of any tensor: nothing is read.
template <class S>
FASTALIGN_INLINE void prefetch_at(const S* from, int64_t elements) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  prefetch(reinterpret_cast<const void*>(address + static_cast<uintptr_t>(elements) *
                                                       static_cast<uintptr_t>(sizeof(S))));
}

}  // namespace fastalign::FASTALIGN_ISA

// Planes to [pixel][Lanes] and back in whole cache lines, for AVX-512.
//
// Four by four values at a time, as for shorter vectors, would take four times the shuffles, of
// which processors that do 512 bits at once do one in a cycle. Here they are done in all four
// quarters of a register, and what brings the quarters together are loads.
#pragma once

#include "simd.h"

#if defined(__AVX512F__)

namespace fastalign::FASTALIGN_ISA {
namespace {

// Four values from each of four places.
FASTALIGN_INLINE __m512 four_quarters(const float* from, int64_t step) {
  __m512 all = _mm512_castps128_ps512(_mm_loadu_ps(from));
  all = _mm512_insertf32x4(all, _mm_loadu_ps(from + step), 1);
  all = _mm512_insertf32x4(all, _mm_loadu_ps(from + 2 * step), 2);
  return _mm512_insertf32x4(all, _mm_loadu_ps(from + 3 * step), 3);
}

// Rows become columns, in each quarter.
FASTALIGN_INLINE void transpose_quarters(__m512* r) {
  const __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpacklo_ps(r[2], r[3]);
  const __m512 c = _mm512_unpackhi_ps(r[0], r[1]), d = _mm512_unpackhi_ps(r[2], r[3]);
  r[0] = _mm512_shuffle_ps(a, b, 0x44);
  r[1] = _mm512_shuffle_ps(a, b, 0xee);
  r[2] = _mm512_shuffle_ps(c, d, 0x44);
  r[3] = _mm512_shuffle_ps(c, d, 0xee);
}

// The quarters of a register are rows; they become columns.
FASTALIGN_INLINE __m512 transpose_sixteen(__m512 v) {
  return _mm512_permutexvar_ps(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}

// 16 pixels of `Given` of four planes to pixels that lie `step` apart, whole multiples of 16;
// returns how many were read. Four planes and not all of them: planes whose size is a power of two
// meet in few places of a cache.
template <int Given>
FASTALIGN_INLINE int64_t read_long_planes(const float* from, int64_t c_step, int64_t pixels,
                                          float* to, int64_t step) {
  int64_t i = 0;
  for (; i + 16 <= pixels; i += 16) {
    __m512 r[4] = {};
    for (int k = 0; k < Given; ++k) {
      r[k] = _mm512_loadu_ps(from + k * c_step + i);
    }
    transpose_quarters(r);
    for (int k = 0; k < 4; ++k) {
      float* at = to + (i + k) * step;
      _mm_storeu_ps(at, _mm512_castps512_ps128(r[k]));
      _mm_storeu_ps(at + 4 * step, _mm512_extractf32x4_ps(r[k], 1));
      _mm_storeu_ps(at + 8 * step, _mm512_extractf32x4_ps(r[k], 2));
      _mm_storeu_ps(at + 12 * step, _mm512_extractf32x4_ps(r[k], 3));
    }
  }
  return i;
}

// `pixels` >= 4 of `Given` planes to [pixel][4]; the last four may lie over the ones before.
template <int Given>
FASTALIGN_INLINE void read_few_planes(const float* from, int64_t c_step, int64_t pixels,
                                      float* to) {
  for (int64_t done = 0; done < pixels; done += 4) {
    const int64_t i = smaller(done, pixels - 4);
    __m512 all = _mm512_zextps128_ps512(_mm_loadu_ps(from + i));
    if constexpr (Given > 1) {
      all = _mm512_insertf32x4(all, _mm_loadu_ps(from + c_step + i), 1);
    }
    if constexpr (Given > 2) {
      all = _mm512_insertf32x4(all, _mm_loadu_ps(from + 2 * c_step + i), 2);
    }
    if constexpr (Given > 3) {
      all = _mm512_insertf32x4(all, _mm_loadu_ps(from + 3 * c_step + i), 3);
    }
    _mm512_storeu_ps(to + i * 4, transpose_sixteen(all));
  }
}

// 16 pixels of four of the lanes: one vector for each plane.
template <int Lanes>
FASTALIGN_INLINE void sixteen_pixels(const float* from, __m512* planes) {
  if constexpr (Lanes == 4) {
    __m512 z[4];
    for (int k = 0; k < 4; ++k) {
      z[k] = transpose_sixteen(_mm512_loadu_ps(from + 16 * k));
    }
    const __m512 a = _mm512_shuffle_f32x4(z[0], z[1], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(z[2], z[3], 0x44);
    const __m512 c = _mm512_shuffle_f32x4(z[0], z[1], 0xee);
    const __m512 d = _mm512_shuffle_f32x4(z[2], z[3], 0xee);
    planes[0] = _mm512_shuffle_f32x4(a, b, 0x88);
    planes[1] = _mm512_shuffle_f32x4(a, b, 0xdd);
    planes[2] = _mm512_shuffle_f32x4(c, d, 0x88);
    planes[3] = _mm512_shuffle_f32x4(c, d, 0xdd);
  } else {
    for (int k = 0; k < 4; ++k) {
      planes[k] = four_quarters(from + k * Lanes, 4 * Lanes);
    }
    transpose_quarters(planes);
  }
}

// [pixel][Lanes] to `Given` planes, whole multiples of 16 pixels; returns how many were written.
template <int Lanes, int Given>
FASTALIGN_INLINE int64_t write_few_planes(float* to, int64_t c_step, int64_t pixels,
                                          const float* from, bool stream) {
  int64_t i = 0;
  for (; i + 16 <= pixels; i += 16) {
    __m512 planes[4];
    sixteen_pixels<Lanes>(from + i * Lanes, planes);
    for (int k = 0; k < Given; ++k) {
      if (stream) {
        _mm512_stream_ps(to + k * c_step + i, planes[k]);
      } else {
        _mm512_storeu_ps(to + k * c_step + i, planes[k]);
      }
    }
  }
  return i;
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

#endif  // __AVX512F__

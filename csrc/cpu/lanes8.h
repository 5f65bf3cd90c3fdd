// Eight float lanes with the permutes that a warp needs, on AVX2 and on AVX-512VL.
//
// A warp reads a handful of neighbouring source pixels for eight neighbouring outputs: two loads
// and an in-register permute per source row replace eight gathers. Eight lanes rather than
// sixteen: a run of eight pixels crosses fewer source rows, and processors that split 512-bit
// operations lose nothing.
#pragma once

#include "simd.h"

#if defined(__AVX2__)

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int kRunLanes = 8;

using F8 = __m256;
using I8 = __m256i;

FASTALIGN_INLINE F8 iota8() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }

// Elements [first, last) of eight; the mask type of partial loads and stores.
struct Span {
  int first, last;
  bool whole() const { return first <= 0 && last >= kRunLanes; }
  bool empty() const { return first >= last || first >= kRunLanes || last <= 0; }
};

#if defined(__AVX512VL__)
FASTALIGN_INLINE __mmask8 mask_of(Span span) {
  const int first = larger(0, smaller(span.first, 8)), last = larger(0, smaller(span.last, 8));
  return static_cast<__mmask8>((0xff << first) & ~(0xff << last));
}
#else
FASTALIGN_INLINE I8 mask_of(Span span) {
  const I8 lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(span.first), lane),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(span.last), lane));
}
#endif

FASTALIGN_INLINE F8 widen(const BFloat16*, __m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
FASTALIGN_INLINE F8 widen(const Half*, __m128i bits) { return _mm256_cvtph_ps(bits); }

FASTALIGN_INLINE F8 load8(const float* from) { return _mm256_loadu_ps(from); }
template <class S>
FASTALIGN_INLINE F8 load8(const S* from) {
  return widen(from, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// Loads the elements of the span and zeros elsewhere, touching no memory outside it.
FASTALIGN_INLINE F8 load8(const float* from, Span span) {
#if defined(__AVX512VL__)
  return _mm256_maskz_loadu_ps(mask_of(span), from);
#else
  return _mm256_maskload_ps(from, mask_of(span));
#endif
}
template <class S>
FASTALIGN_INLINE F8 load8(const S* from, Span span) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  return widen(from, _mm_maskz_loadu_epi16(mask_of(span), from));
#else
  S kept[8] = {};
  for (int i = larger(0, span.first); i < smaller(8, span.last); ++i) {
    kept[i] = from[i];
  }
  return load8(kept);
#endif
}

FASTALIGN_INLINE void store8(float* to, F8 v) { _mm256_storeu_ps(to, v); }
FASTALIGN_INLINE void store8(Half* to, F8 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
FASTALIGN_INLINE void store8(BFloat16* to, F8 v) {
  const I8 bits = _mm256_castps_si256(v);
  const I8 odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const I8 rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const I8 quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const I8 nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const I8 high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const I8 packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}

template <class S>
FASTALIGN_INLINE void store8_first(S* to, F8 v, int64_t count) {
  if (count >= kRunLanes) {
    store8(to, v);
    return;
  }
  S all[8];
  store8(all, v);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = all[i];
  }
}

// Element index[i] in [0, 8) of `from`.
FASTALIGN_INLINE F8 pick(F8 from, I8 index) { return _mm256_permutevar8x32_ps(from, index); }

// Element index[i] in [0, 16) of low, high.
FASTALIGN_INLINE F8 pick(F8 low, F8 high, I8 index) {
#if defined(__AVX512VL__)
  return _mm256_permutex2var_ps(low, index, high);
#else
  const F8 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(pick(low, index), pick(high, index), upper);
#endif
}

FASTALIGN_INLINE F8 abs8(F8 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

// max(0, 1 - |v|): the share of a linear interpolation.
FASTALIGN_INLINE F8 tent(F8 v) {
  return _mm256_max_ps(_mm256_setzero_ps(), _mm256_sub_ps(_mm256_set1_ps(1.0f), abs8(v)));
}

// Lanes where a weight is positive: the others must not see the value, which may be infinite.
#if defined(__AVX512VL__)
using Lanes = __mmask8;
FASTALIGN_INLINE Lanes positive(F8 v) {
  return _mm256_cmp_ps_mask(v, _mm256_setzero_ps(), _CMP_GT_OQ);
}
FASTALIGN_INLINE F8 add_product(F8 sum, F8 weight, F8 value, Lanes lanes) {
  return _mm256_mask3_fmadd_ps(weight, value, sum, lanes);
}
#else
using Lanes = F8;
FASTALIGN_INLINE Lanes positive(F8 v) { return _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ); }
FASTALIGN_INLINE F8 add_product(F8 sum, F8 weight, F8 value, Lanes lanes) {
  return _mm256_fmadd_ps(weight, _mm256_and_ps(value, lanes), sum);
}
#endif

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

#endif  // __AVX2__

// Products with packed lower triangles for several images at once: as many as a vector has fours.
#pragma once

#include <type_traits>

#include "../common/packed.h"
#include "mahalanobis_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Four values from `from` on, side by side in every quarter (or half, or whole) of a vector.
template <class W>
FASTALIGN_INLINE Vec<Acc<W>> repeat_four(const W* from) {
  using A = Acc<W>;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<W, float>) {
    return reinterpret_cast<Floats>(_mm512_broadcast_f32x4(_mm_loadu_ps(from)));
  } else if constexpr (sizeof(W) == 2) {
    int64_t four;
    std::memcpy(&four, from, sizeof(four));
    const __m256i all = _mm256_set1_epi64x(four);
    if constexpr (std::is_same_v<W, Half>) {
      return reinterpret_cast<Floats>(_mm512_cvtph_ps(all));
    } else {
      return reinterpret_cast<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(all), 16));
    }
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<W, float>) {
    return reinterpret_cast<Floats>(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)));
  } else if constexpr (sizeof(W) == 2) {
    const __m128i four = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    __m128 wide;
    if constexpr (std::is_same_v<W, Half>) {
      wide = _mm_cvtph_ps(four);
    } else {
      wide = _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(four), 16));
    }
    return reinterpret_cast<Floats>(_mm256_set_m128(wide, wide));
  }
#endif
  A all[kLanes<A>];
  for (int i = 0; i < kLanes<A>; ++i) {
    all[i] = to_acc(from[i % 4]);
  }
  return load(all);
}

// The first `count` of each four values, zero for the others.
template <class A>
FASTALIGN_INLINE Vec<A> keep_fours(const Vec<A>& v, int count) {
  Bits<A> mask;
  for (int i = 0; i < kLanes<A>; ++i) {
    mask[i] = i % 4 < count ? -1 : 0;
  }
  return reinterpret_cast<Vec<A>>(reinterpret_cast<Bits<A>>(v) & mask);
}

// How many images lie beside each other in a vector that has four channels of each.
template <class A>
constexpr int kBeside = kLanes<A> / 4 > 0 ? kLanes<A> / 4 : 1;

// Deviations of `vectors` * kBeside images, by four channels: [padded / 4][vectors][kBeside][4].
template <class A>
void interleave(const A* deviation, int64_t padded, int vectors, A* to) {
  for (int64_t channel = 0; channel < padded; channel += 4) {
    for (int n = 0; n < vectors * kBeside<A>; ++n, to += 4) {
      std::memcpy(to, deviation + n * padded + channel, 4 * sizeof(A));
    }
  }
}

// The sums of each four neighbours, of four vectors beside each other: [kBeside][4].
template <class A>
FASTALIGN_INLINE Vec<A> sums_of_fours(const Vec<A>* v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    const __m512 a = reinterpret_cast<__m512>(v[0]), b = reinterpret_cast<__m512>(v[1]);
    const __m512 c = reinterpret_cast<__m512>(v[2]), d = reinterpret_cast<__m512>(v[3]);
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    return reinterpret_cast<Floats>(
        _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee)));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    const __m256 ab =
        _mm256_hadd_ps(reinterpret_cast<__m256>(v[0]), reinterpret_cast<__m256>(v[1]));
    const __m256 cd =
        _mm256_hadd_ps(reinterpret_cast<__m256>(v[2]), reinterpret_cast<__m256>(v[3]));
    return reinterpret_cast<Floats>(_mm256_hadd_ps(ab, cd));
  }
#endif
  Vec<A> sums;
  for (int i = 0; i < kLanes<A>; ++i) {
    const int at = i / 4 * 4;
    sums[i] = (v[i % 4][at] + v[i % 4][at + 1]) + (v[i % 4][at + 2] + v[i % 4][at + 3]);
  }
  return sums;
}

// The same for kBeside * N images at once. Four channels of an image are neighbours in a vector,
// and not as many as it has lanes: the sums of a row are then a quarter of the shuffles, of which
// an Intel processor does one in a cycle, and the triangle ends within three entries of the
// diagonal. A row of L is read four entries at a time, into all quarters of a register, by loads
// alone.
template <class W, int N, bool Keep>
void whiten_many(const W* packed, int64_t channels, int64_t padded, const Acc<W>* fours,
                 Acc<W>* squares, Acc<W>* white) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sums[N] = {};
  const auto finish = [&](int64_t first, const Vec<A>* rows, int n) {
    const Vec<A> whole = sums_of_fours<A>(rows);
    sums[n] += whole * whole;
    if constexpr (Keep) {
      for (int image = 0; image < kBeside<A>; ++image) {
        A of_image[lanes];
        store(of_image, whole);
        std::memcpy(white + (n * kBeside<A> + image) * padded + first, of_image + 4 * image,
                    4 * sizeof(A));
      }
    }
  };
  for (int64_t first = 0; first < channels; first += kRows) {
    const int64_t rows = smaller<int64_t>(kRows, channels - first);
    prefetch_ahead(packed + packed_row(first), packed + packed_row(first + rows));
    Vec<A> products[N][kRows] = {};
    const W* row[kRows];
    for (int r = 0; r < kRows; ++r) {
      row[r] = packed + packed_row(first + (r < rows ? r : 0));
    }
    const auto multiply = [&](int r, int64_t column, const Vec<A>& values) {
      for (int n = 0; n < N; ++n) {
        products[n][r] += values * load(fours + (column / 4 * N + n) * lanes);
      }
    };
    for (int64_t column = 0; column < first; column += 4) {
      for (int r = 0; r < kRows; ++r) {
        multiply(r, column, repeat_four(row[r] + column));
      }
    }
    // The diagonal: 1 to 4 entries. Behind those of a row lie those of the next one, if there is
    // one.
    for (int r = 0; r < kRows; ++r) {
      if (rows == kRows) {
        multiply(r, first, keep_fours<A>(repeat_four(row[r] + first), r + 1));
      } else if (r < rows) {
        W last[4] = {};
        std::memcpy(last, row[r] + first, static_cast<size_t>(r + 1) * sizeof(W));
        multiply(r, first, repeat_four(last));
      }
    }
    for (int r = static_cast<int>(rows); r < kRows; ++r) {
      for (int n = 0; n < N; ++n) {
        products[n][r] = Vec<A>{};
      }
    }
    for (int n = 0; n < N; ++n) {
      finish(first, products[n], n);
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int image = 0; image < kBeside<A>; ++image) {
      const int at = image * 4;
      squares[n * kBeside<A> + image] =
          (sums[n][at] + sums[n][at + 1]) + (sums[n][at + 2] + sums[n][at + 3]);
    }
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

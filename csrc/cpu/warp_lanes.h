// Bilinear sampling of planes with unit pixel stride, eight outputs of a row at a time.
//
// Eight neighbouring outputs read a window of few columns and few rows of the source. Per source
// row: two loads, a permute for each of the two columns a lane interpolates between, and the
// lane's share of that row, max(0, 1 - |y - row|). Loads are masked at the sides of the source
// and rows outside it are skipped, which is padding with zeros; border padding clamps the
// positions first. Positions are kept relative to a whole source pixel near the run, so float
// holds them to about 1e-6 pixels in an image of any size.
#pragma once

#include "lanes8.h"

#if defined(__AVX2__)

#include "warp_taps.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Outputs of a tile. Measured with two threads, forward, float32
// (benchmarks/results/cpu/plans_cpu.md, where the command is): 8x3x1024x1024 takes 32 ms in 4 rows,
// 48 and 49 in 8 and 16, 42 and 41 in 32 and 64 (some of it under load);
// 8x64x128x128 9.95, 10.3, 10.2, 10.5, 11.4. Of columns 32 to 256: 45, 49, 44, 44 ms
// and 9.4, 10.1, 10.8, 10.9.
constexpr int64_t kTileColumns = 64;
constexpr int64_t kTileRows = 16;
constexpr int64_t kMostColumns = 256;  // that can be forced

// One run of eight outputs: where it reads and with which shares. Positions are relative to the
// source row `row_base`; columns to `column`.
struct WarpRun {
  float y[8], right[8];  // vertical position; share of the right column
  int32_t index[8];      // left column of each lane, relative to `column`
  int64_t column, row_base;
  int64_t first_row, last_row;  // source rows [first_row, last_row)
  int16_t width;                // columns spanned: 8 loads as one window, up to 16 as two
  bool general;                 // does not fit: taps instead
  bool rows_inside;             // all rows that it interpolates between exist
  int32_t span;                 // from the first left column to the last

  bool inside(const Sampling& s) const {
    return rows_inside && column >= 0 && column + span + 1 < s.width;
  }
};

struct RunStart {
  int64_t column, row;  // whole pixels near the start of a row of the tile
  float x, y;           // remainder
};

// The whole pixel stays near the image, so that float arithmetic relative to it is exact where it
// decides what lies outside.
FASTALIGN_INLINE RunStart run_start(const AffinePixels& map, const Sampling& s, int64_t ox,
                                    int64_t oy) {
  const Position at = position_of(map, ox, oy);
  const double far = 1 << 20, limit = 1e9;
  const double left = clamp_between(floor_of(at.x), -far, static_cast<double>(s.width) + far);
  const double top = clamp_between(floor_of(at.y), -far, static_cast<double>(s.height) + far);
  return {static_cast<int64_t>(left), static_cast<int64_t>(top),
          static_cast<float>(clamp_between(at.x - left, -limit, limit)),
          static_cast<float>(clamp_between(at.y - top, -limit, limit))};
}

// Along a row positions rise or fall, rounded or not: the first and the last lane bound the others.
FASTALIGN_INLINE void least_greatest(F8 v, float* least, float* greatest) {
  const __m128 high = _mm256_extractf128_ps(v, 1);
  const float first = _mm256_cvtss_f32(v), last = _mm_cvtss_f32(_mm_permute_ps(high, 0xff));
  *least = smaller(first, last);
  *greatest = larger(first, last);
}

// Position held at the sides (border), or at most two pixels outside, where nothing is sampled.
template <bool Border>
FASTALIGN_INLINE F8 confine(F8 v, int64_t base, int64_t size) {
  const F8 low = _mm256_set1_ps(static_cast<float>((Border ? 0 : -2) - base));
  const F8 high = _mm256_set1_ps(static_cast<float>((Border ? size - 1 : size + 1) - base));
  return _mm256_min_ps(_mm256_max_ps(v, low), high);
}

// Prepares the run whose first output lies `offset` pixels after the start.
template <bool Border>
FASTALIGN_INLINE void prepare_run(const AffinePixels& map, const RunStart& start, int64_t offset,
                                  const Sampling& s, WarpRun* run) {
  const F8 step = _mm256_add_ps(iota8(), _mm256_set1_ps(static_cast<float>(offset)));
  F8 x = _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(map.xx)), step, _mm256_set1_ps(start.x));
  F8 y = _mm256_fmadd_ps(_mm256_set1_ps(static_cast<float>(map.yx)), step, _mm256_set1_ps(start.y));
  x = confine<Border>(x, start.column, s.width);
  y = confine<Border>(y, start.row, s.height);
  const F8 left = _mm256_floor_ps(x);
  float first, last, top, bottom;
  least_greatest(left, &first, &last);
  least_greatest(_mm256_floor_ps(y), &top, &bottom);
  _mm256_storeu_ps(run->y, y);
  _mm256_storeu_ps(run->right, _mm256_sub_ps(x, left));
  _mm256_storeu_si256(reinterpret_cast<I8*>(run->index),
                      _mm256_cvtps_epi32(_mm256_sub_ps(left, _mm256_set1_ps(first))));
  run->column = start.column + static_cast<int64_t>(first);
  run->row_base = start.row;
  run->first_row = larger<int64_t>(0, start.row + static_cast<int64_t>(top));
  run->last_row = smaller(s.height, start.row + static_cast<int64_t>(bottom) + 2);
  const float span = last - first;
  run->general = !(span <= 14.0f);
  run->span = span <= 14.0f ? static_cast<int32_t>(span) : 0;
  run->rows_inside = start.row + static_cast<int64_t>(top) >= 0 &&
                     start.row + static_cast<int64_t>(bottom) + 1 < s.height;
  run->width = span <= 7.0f ? 8 : 16;
}

// The two columns between which each lane interpolates, from one source row.
template <class S, bool Wide, bool Masked>
FASTALIGN_INLINE void two_columns(const S* row, I8 index, Span span, F8* left, F8* right) {
  if (Wide) {
    const Span upper{span.first - 8, span.last - 8};
    const F8 low = Masked ? load8(row, span) : load8(row);
    const F8 high = Masked ? load8(row + 8, upper) : load8(row + 8);
    *left = pick(low, high, index);
    *right = pick(low, high, _mm256_add_epi32(index, _mm256_set1_epi32(1)));
  } else {
    const Span shifted{span.first - 1, span.last - 1};
    *left = pick(Masked ? load8(row, span) : load8(row), index);
    *right = pick(Masked ? load8(row + 1, shifted) : load8(row + 1), index);
  }
}

FASTALIGN_INLINE Span columns_inside(const WarpRun& run, int64_t width) {
  return {static_cast<int>(clamp_between<int64_t>(-run.column, 0, 32)),
          static_cast<int>(clamp_between<int64_t>(width - run.column, -1, 32))};
}

FASTALIGN_INLINE bool needs_masks(const WarpRun& run, int64_t width) {
  return run.column < 0 || run.column + run.width + 1 > width;
}

template <class S, int CB, bool Wide, bool Masked>
FASTALIGN_INLINE void sample_run(const WarpRun& run, const S* plane, int64_t channel_stride,
                                 int64_t row_stride, Span span, F8* sums) {
  const F8 y = _mm256_loadu_ps(run.y), right = _mm256_loadu_ps(run.right);
  const F8 left = _mm256_sub_ps(_mm256_set1_ps(1.0f), right);
  const I8 index = _mm256_loadu_si256(reinterpret_cast<const I8*>(run.index));
  for (int c = 0; c < CB; ++c) {
    sums[c] = _mm256_setzero_ps();
  }
  for (int64_t row = run.first_row; row < run.last_row; ++row) {
    const F8 share = tent(_mm256_sub_ps(y, _mm256_set1_ps(static_cast<float>(row - run.row_base))));
    const Lanes lanes = positive(share);
    const S* at = plane + row * row_stride + run.column;
    for (int c = 0; c < CB; ++c) {
      F8 first, second;
      two_columns<S, Wide, Masked>(at + c * channel_stride, index, span, &first, &second);
      const F8 mixed = _mm256_fmadd_ps(second, right, _mm256_mul_ps(first, left));
      sums[c] = add_product(sums[c], share, mixed, lanes);
    }
  }
}

template <class S, int CB>
FASTALIGN_INLINE void sample_any_run(const WarpRun& run, const S* plane, int64_t channel_stride,
                                     int64_t row_stride, int64_t width, F8* sums) {
  const Span span = columns_inside(run, width);
  if (needs_masks(run, width)) {
    if (run.width == 8) {
      sample_run<S, CB, false, true>(run, plane, channel_stride, row_stride, span, sums);
    } else {
      sample_run<S, CB, true, true>(run, plane, channel_stride, row_stride, span, sums);
    }
  } else if (run.width == 8) {
    sample_run<S, CB, false, false>(run, plane, channel_stride, row_stride, span, sums);
  } else {
    sample_run<S, CB, true, false>(run, plane, channel_stride, row_stride, span, sums);
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

#endif  // __AVX2__

// Gradients of bilinear samples, a run of output pixels at a time: what a tile of
// warp_affine_backward spends its time with.
//
// Weights of a run are made once, many pixels in the lanes, and broadcast from memory: from a
// register, each would take the one port that shuffles. The tile has a margin of one pixel, so that
// all four taps of a pixel lie in it and at fixed distances: there the image is 0, and its gradient
// belongs to another tile or to none.
#pragma once

#include "warp_runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Of every pixel of a run: its upper left tap as a pixel of the tile with its margin, negative
// where the tile has none of the taps, and the shares of the taps in the sample, in its slope by x
// (right minus left) and in that by y (lower minus upper).
template <class A>
struct BilinearRun {
  int32_t pixel[kRun];
  A up[kRun], low[kRun], right[kRun];
  A upper_left[kRun], upper_right[kRun], lower_left[kRun], lower_right[kRun];
  A by_x_upper[kRun], by_x_lower[kRun], by_y_left[kRun], by_y_right[kRun];
  A by_x[kRun], by_y[kRun];  // slopes of padding

  BilinearRun(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy, int64_t ox,
              int64_t count) {
    AxisRun<A> columns, rows;
    prepare_axes<false>(map, s, tile, oy, ox, count, &columns, &rows);
    const int32_t height = static_cast<int32_t>(tile.height);
    const int32_t width = static_cast<int32_t>(tile.width);
    for (int64_t i = 0; i < round_up(count, 16); ++i) {
      const int32_t row = rows.pixel[i], column = columns.pixel[i];
      const bool near = (row >= -1) & (row < height) & (column >= -1) & (column < width);
      pixel[i] = near ? (row + 1) * (width + 2) + column + 1 : -1;
      right[i] = columns.share[i];
      low[i] = rows.share[i];
      up[i] = A(1) - low[i];
      const A left = A(1) - right[i];
      upper_left[i] = up[i] * left;
      upper_right[i] = up[i] * right[i];
      lower_left[i] = low[i] * left;
      lower_right[i] = low[i] * right[i];
      by_x_upper[i] = up[i] * columns.slope[i];
      by_x_lower[i] = low[i] * columns.slope[i];
      by_y_left[i] = left * rows.slope[i];
      by_y_right[i] = right[i] * rows.slope[i];
      by_x[i] = columns.slope[i];
      by_y[i] = rows.slope[i];
    }
  }
};

// The scratch of a tile: gradients of a run [count][Lanes]; the image and its gradient
// [height + 2][width + 2][Lanes], of which the row below lies `below` elements further.
template <class A>
struct TileData {
  const A *grad, *x;
  A* dx;
  int64_t below;
};

// What the pixels of a run add; the upper left tap is `at` elements into the tile.
template <class A, int Lanes, bool ToX, bool ToMap>
struct Adder {
  using P = Parts<A, Lanes>;
  using V = typename P::V;
  RunSums<A, Lanes> sums;

  FASTALIGN_INLINE void add(const BilinearRun<A>& run, const TileData<A>& t, int64_t i,
                            int64_t at) {
    for (int part = 0; part < P::count; ++part) {
      const int64_t lane = part * P::lanes, from = at + lane;
      const V g = load_block<V>(t.grad + i * Lanes + lane);
      if constexpr (ToX) {
        add_block<V>(t.dx + from, g * run.upper_left[i]);
        add_block<V>(t.dx + from + Lanes, g * run.upper_right[i]);
        add_block<V>(t.dx + from + t.below, g * run.lower_left[i]);
        add_block<V>(t.dx + from + t.below + Lanes, g * run.lower_right[i]);
      }
      if constexpr (ToMap) {
        const V upper_left = load_block<V>(t.x + from);
        const V upper_right = load_block<V>(t.x + from + Lanes);
        const V lower_left = load_block<V>(t.x + from + t.below);
        const V lower_right = load_block<V>(t.x + from + t.below + Lanes);
        const V slope_x = (upper_right - upper_left) * run.by_x_upper[i] +
                          (lower_right - lower_left) * run.by_x_lower[i];
        const V slope_y = (lower_left - upper_left) * run.by_y_left[i] +
                          (lower_right - upper_right) * run.by_y_right[i];
        sums.add(part, slope_x, slope_y, g, i);
      }
    }
  }

  void fold(int64_t oy, int64_t ox, MapSums* to) const { sums.fold(oy, ox, to); }
};

#if defined(__AVX2__)

// Four lanes: both taps of a row in one vector. Gradients of the image are still added tap by tap,
// since a load is slow that finds a part of what was stored just before.
template <bool ToX, bool ToMap>
struct Adder<float, 4, ToX, ToMap> {
  using V = typename VectorOf<float, 8>::type;
  using Half = typename VectorOf<float, 4>::type;
  V by_x{}, by_x_column{}, by_y{}, by_y_column{};

  static FASTALIGN_INLINE void add_both(float* to, const V& more) {
    const __m256 both = reinterpret_cast<__m256>(more);
    add_block<Half>(to, reinterpret_cast<Half>(_mm256_castps256_ps128(both)));
    add_block<Half>(to + 4, reinterpret_cast<Half>(_mm256_extractf128_ps(both, 1)));
  }

  FASTALIGN_INLINE void add(const BilinearRun<float>& run, const TileData<float>& t, int64_t i,
                            int64_t at) {
    const V g =
        reinterpret_cast<V>(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(t.grad + i * 4)));
    const V first = {1, 1, 1, 1, 0, 0, 0, 0}, turn = {-1, -1, -1, -1, 1, 1, 1, 1};
    const V columns = first + turn * run.right[i];  // shares of the left and the right one
    if constexpr (ToX) {
      const V shared = g * columns;
      add_both(t.dx + at, shared * run.up[i]);
      add_both(t.dx + at + t.below, shared * run.low[i]);
    }
    if constexpr (ToMap) {
      const float *upper = t.x + at, *lower = upper + t.below;
      const V rows = first + turn * run.low[i];
      const V slope_x =
          (two_fours(upper + 4, lower + 4) - two_fours(upper, lower)) * (rows * run.by_x[i]);
      const V slope_y = (load_block<V>(lower) - load_block<V>(upper)) * (columns * run.by_y[i]);
      const V column = g * static_cast<float>(i);
      by_x += slope_x * g;
      by_x_column += slope_x * column;
      by_y += slope_y * g;
      by_y_column += slope_y * column;
    }
  }

  void fold(int64_t oy, int64_t ox, MapSums* to) const {
    add_sums(sum(by_x), sum(by_x_column), sum(by_y), sum(by_y_column), oy, ox, to);
  }

 private:
  static FASTALIGN_INLINE V two_fours(const float* low, const float* high) {
    return reinterpret_cast<V>(
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1));
  }
  static double sum(const V& v) {
    return sum_of_lanes<8>(__builtin_convertvector(v, typename VectorOf<double, 8>::type));
  }
};

#endif

// Bilinear samples at a finite map.
template <class A, int Lanes, bool ToX, bool ToMap>
void add_bilinear_run(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy,
                      int64_t ox, int64_t count, const A* grad, const A* x, A* dx, MapSums* sums) {
  const BilinearRun<A> run(map, s, tile, oy, ox, count);
  const TileData<A> t{grad, x, dx, row_of(tile) * Lanes};
  Adder<A, Lanes, ToX, ToMap> adder;
  for (int64_t i = 0; i < count; ++i) {
    if (run.pixel[i] >= 0) {
      adder.add(run, t, i, static_cast<int64_t>(run.pixel[i]) * Lanes);
    }
  }
  if constexpr (ToMap) {
    adder.fold(oy, ox, sums);
  }
}

template <class A, int Lanes, bool ToX, bool ToMap>
void add_run(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy, int64_t ox,
             int64_t count, const A* grad, const A* x, A* dx, MapSums* sums) {
  if (!is_finite(map)) {
    add_any_run<A, Lanes, ToX, ToMap>(map, s, tile, oy, ox, count, grad, x, dx, sums);
  } else if (s.mode == Interpolation::bilinear) {
    add_bilinear_run<A, Lanes, ToX, ToMap>(map, s, tile, oy, ox, count, grad, x, dx, sums);
  } else if constexpr (ToX) {
    add_nearest_run<A, Lanes>(map, s, tile, oy, ox, count, grad, dx);
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

// Runs of output pixels: their gradients into the scratch of a tile, and the sums for the map.
#pragma once

#include <type_traits>

#include "warp_tiles.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Sums for the gradient of one map: of the gradient by x and by y, and of the same times the output
// column and row.
struct MapSums {
  double x_column, x_row, x, y_column, y_row, y;
};

// The taps of one output pixel that fall into the tile, as element offsets into [pixel][Lanes].
template <class A>
struct TileTaps {
  int count;
  int32_t offset[4];
  A weight[4], by_x[4], by_y[4];
};

template <class A, int Lanes>
FASTALIGN_INLINE TileTaps<A> taps_in(const Taps<A>& taps, const Tile& tile) {
  TileTaps<A> kept;
  kept.count = 0;
  for (int k = 0; k < taps.count; ++k) {
    const int64_t row = taps.row[k] - tile.row, column = taps.column[k] - tile.column;
    if (row >= 0 && row < tile.height && column >= 0 && column < tile.width) {
      const int n = kept.count++;
      kept.offset[n] = static_cast<int32_t>((row * tile.width + column) * Lanes);
      kept.weight[n] = taps.weight[k];
      kept.by_x[n] = taps.by_x[k];
      kept.by_y[n] = taps.by_y[k];
    }
  }
  return kept;
}

// A block in pieces of one register: the compiler keeps these in registers, and wider vectors in
// memory.
template <class A, int Lanes>
struct Parts {
  static constexpr int lanes = Lanes < kLanes<A> ? Lanes : kLanes<A>;
  static constexpr int count = Lanes / lanes;
  using V = typename VectorOf<A, lanes>::type;
};

// Sums of one run for the map's gradient, lane by lane: by x and y, and times the column in the
// run.
template <class A, int Lanes>
struct RunSums {
  using P = Parts<A, Lanes>;
  using V = typename P::V;
  V by_x[P::count] = {}, by_x_column[P::count] = {}, by_y[P::count] = {},
    by_y_column[P::count] = {};

  FASTALIGN_INLINE void add(int part, const V& x, const V& y, int64_t i) {
    const A column = static_cast<A>(i);
    by_x[part] += x;
    by_y[part] += y;
    by_x_column[part] += x * column;
    by_y_column[part] += y * column;
  }

  void fold(int64_t oy, int64_t ox, MapSums* sums) const {
    double total[4] = {};
    for (int lane = 0; lane < Lanes; ++lane) {
      const int part = lane / P::lanes, at = lane % P::lanes;
      total[0] += static_cast<double>(by_x[part][at]);
      total[1] += static_cast<double>(by_x_column[part][at]);
      total[2] += static_cast<double>(by_y[part][at]);
      total[3] += static_cast<double>(by_y_column[part][at]);
    }
    const double column = static_cast<double>(ox), row = static_cast<double>(oy);
    sums->x_column += total[1] + column * total[0];
    sums->x_row += row * total[0];
    sums->x += total[0];
    sums->y_column += total[3] + column * total[2];
    sums->y_row += row * total[2];
    sums->y += total[2];
  }
};

template <class V, class A>
FASTALIGN_INLINE V load_block(const A* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V, class A>
FASTALIGN_INLINE void add_block(A* to, const V& more) {
  const V value = load_block<V>(to) + more;
  std::memcpy(to, &value, sizeof(V));
}

// x and dx: [tile pixels][Lanes], the block's part of the image and its gradient, or null.
// grad: [count][Lanes], of output pixels (ox, oy) and on. Sums for the map go to `sums`.
// Any map, and so the one for those that are not finite.
template <class A, int Lanes, bool ToX, bool ToMap>
void add_any_run(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy,
                 int64_t ox, int64_t count, const A* grad, const A* x, A* dx, MapSums* sums) {
  using P = Parts<A, Lanes>;
  using V = typename P::V;
  RunSums<A, Lanes> run;
  for (int64_t i = 0; i < count; ++i) {
    const TileTaps<A> taps = taps_in<A, Lanes>(taps_at<A>(position_of(map, ox + i, oy), s), tile);
    for (int part = 0; part < P::count; ++part) {
      const int64_t lane = part * P::lanes;
      const V g = load_block<V>(grad + i * Lanes + lane);
      V slope_x{}, slope_y{};
      for (int k = 0; k < taps.count; ++k) {
        if constexpr (ToX) {
          add_block<V>(dx + taps.offset[k] + lane, g * taps.weight[k]);
        }
        if constexpr (ToMap) {
          const V value = load_block<V>(x + taps.offset[k] + lane);
          slope_x += value * taps.by_x[k];
          slope_y += value * taps.by_y[k];
        }
      }
      if constexpr (ToMap) {
        run.add(part, slope_x * g, slope_y * g, i);
      }
    }
  }
  if constexpr (ToMap) {
    run.fold(oy, ox, sums);
  }
}

// Left (or upper) pixel of each sample of a run, or the nearest one, relative to the tile and at
// most two pixels outside of it, the share of the next pixel, and the slope of padding.
template <class A>
struct AxisRun {
  int32_t pixel[kRun];
  A share[kRun], slope[kRun];
};

// One axis of the run from output pixel `ox` on: positions are step * ox + start. Vectorises, apart
// from reflections: those are looked at one by one where a run leaves the image, and for the
// nearest pixel, which has to be the forward pass's in a tie.
template <bool Nearest, class A>
FASTALIGN_INLINE void prepare_axis(double step, double start, int64_t ox, int64_t count,
                                   int64_t begin, int64_t length, int64_t size, const Sampling& s,
                                   AxisRun<A>* run) {
  const double last = static_cast<double>(size - 1), base = static_cast<double>(begin);
  const double low = base - 2, high = base + static_cast<double>(length) + 1;
  const bool border = s.padding == Padding::border;
  // Counted in 32 bits: not every instruction set turns longer integers into doubles.
  const int32_t pixels = static_cast<int32_t>(count);
  const double first = static_cast<double>(ox);
  const double from = step * first + start;
  const double to = step * (first + static_cast<double>(pixels - 1)) + start;
  const bool inside = smaller(from, to) > 0 && larger(from, to) < last;
  double position[kRun];
  if (s.padding == Padding::reflection && (Nearest || !inside)) {
    for (int32_t i = 0; i < pixels; ++i) {
      const Padded<double> at =
          pad_reflection(step * (first + static_cast<double>(i)) + start, size, s.align_corners);
      position[i] = at.position;
      run->slope[i] = static_cast<A>(at.slope);
    }
  } else {
    for (int32_t i = 0; i < pixels; ++i) {
      const double at = step * (first + static_cast<double>(i)) + start;
      const bool moves = !border || ((at > 0) & (at < last));
      position[i] = border ? clamp_between(at, 0.0, last) : at;
      run->slope[i] = moves ? A(1) : A(0);
    }
  }
  for (int32_t i = 0; i < pixels; ++i) {
    const double at = clamp_between(position[i], low, high);
    const double pixel = Nearest ? __builtin_nearbyint(at) : floor_of(at);
    run->pixel[i] = static_cast<int32_t>(pixel - base);
    run->share[i] = static_cast<A>(at - pixel);
  }
}

template <bool Nearest, class A>
FASTALIGN_INLINE void prepare_axes(const AffinePixels& map, const Sampling& s, const Tile& tile,
                                   int64_t oy, int64_t ox, int64_t count, AxisRun<A>* columns,
                                   AxisRun<A>* rows) {
  const double at_row = static_cast<double>(oy);
  prepare_axis<Nearest>(map.xx, map.xy * at_row + map.x0, ox, count, tile.column, tile.width,
                        s.width, s, columns);
  prepare_axis<Nearest>(map.yx, map.yy * at_row + map.y0, ox, count, tile.row, tile.height,
                        s.height, s, rows);
}

// Nearest samples at a finite map: they do not move with it, so only dx has a gradient.
template <class A, int Lanes>
void add_nearest_run(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy,
                     int64_t ox, int64_t count, const A* grad, A* dx) {
  using V = typename VectorOf<A, Lanes>::type;
  AxisRun<A> columns, rows;
  prepare_axes<true>(map, s, tile, oy, ox, count, &columns, &rows);
  const int32_t height = static_cast<int32_t>(tile.height);
  const int32_t width = static_cast<int32_t>(tile.width);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t row = rows.pixel[i], column = columns.pixel[i];
    if (row >= 0 && row < height && column >= 0 && column < width) {
      add_block<V>(dx + (static_cast<int64_t>(row) * width + column) * Lanes,
                   load_block<V>(grad + i * Lanes));
    }
  }
}

// Bilinear samples at a finite map: the positions of a run first, then four taps at fixed distances
// wherever all of them lie in the tile.
template <class A, int Lanes, bool ToX, bool ToMap>
void add_bilinear_run(const AffinePixels& map, const Sampling& s, const Tile& tile, int64_t oy,
                      int64_t ox, int64_t count, const A* grad, const A* x, A* dx, MapSums* sums) {
  using P = Parts<A, Lanes>;
  using V = typename P::V;
  RunSums<A, Lanes> run;
  AxisRun<A> columns, rows;
  prepare_axes<false>(map, s, tile, oy, ox, count, &columns, &rows);
  const int32_t height = static_cast<int32_t>(tile.height);
  const int32_t width = static_cast<int32_t>(tile.width);
  const int64_t below = tile.width * Lanes;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t row = rows.pixel[i], column = columns.pixel[i];
    const A right = columns.share[i], low = rows.share[i];
    const A left = A(1) - right, up = A(1) - low;
    const auto add = [&](auto all_in) {
      for (int part = 0; part < P::count; ++part) {
        const int64_t lane = part * P::lanes;
        const int64_t at = (static_cast<int64_t>(row) * width + column) * Lanes + lane;
        const V g = load_block<V>(grad + i * Lanes + lane);
        const auto tap = [&](int32_t r, int32_t c, int64_t offset, A weight) {
          V value{};
          if (all_in || (r >= 0 && r < height && c >= 0 && c < width)) {
            if constexpr (ToX) {
              add_block<V>(dx + offset, g * weight);
            }
            if constexpr (ToMap) {
              value = load_block<V>(x + offset);
            }
          }
          return value;
        };
        const V up_left = tap(row, column, at, up * left);
        const V up_right = tap(row, column + 1, at + Lanes, up * right);
        const V low_left = tap(row + 1, column, at + below, low * left);
        const V low_right = tap(row + 1, column + 1, at + below + Lanes, low * right);
        if constexpr (ToMap) {
          const V slope_x = (up_right - up_left) * up + (low_right - low_left) * low;
          const V slope_y = (low_left - up_left) * left + (low_right - up_right) * right;
          run.add(part, slope_x * g * columns.slope[i], slope_y * g * rows.slope[i], i);
        }
      }
    };
    // As unsigned numbers, negative ones are larger than every size.
    if (static_cast<uint32_t>(row) < static_cast<uint32_t>(height - 1) &&
        static_cast<uint32_t>(column) < static_cast<uint32_t>(width - 1)) {
      add(std::true_type{});
    } else if (row >= -1 && row < height && column >= -1 && column < width) {
      add(std::false_type{});
    }
  }
  if constexpr (ToMap) {
    run.fold(oy, ox, sums);
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

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

// The taps of one output pixel that fall into the tile, as element offsets into it.
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
      kept.offset[n] = static_cast<int32_t>(((row + 1) * row_of(tile) + column + 1) * Lanes);
      kept.weight[n] = taps.weight[k];
      kept.by_x[n] = taps.by_x[k];
      kept.by_y[n] = taps.by_y[k];
    }
  }
  return kept;
}

// What a run that begins at column `ox` of row `oy` adds: sums by x and y, and times the column in
// the run.
FASTALIGN_INLINE void add_sums(double by_x, double by_x_column, double by_y, double by_y_column,
                               int64_t oy, int64_t ox, MapSums* sums) {
  const double column = static_cast<double>(ox), row = static_cast<double>(oy);
  sums->x_column += by_x_column + column * by_x;
  sums->x_row += row * by_x;
  sums->x += by_x;
  sums->y_column += by_y_column + column * by_y;
  sums->y_row += row * by_y;
  sums->y += by_y;
}

template <int N, class V>
FASTALIGN_INLINE double sum_of_lanes(const V& total) {
  double lanes[N];
  std::memcpy(lanes, &total, sizeof(lanes));
  return sum_tree<N>(lanes);
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

  // Slopes by x and y times the gradient of pixel i.
  FASTALIGN_INLINE void add(int part, const V& x, const V& y, const V& grad, int64_t i) {
    const V column = grad * static_cast<A>(i);
    by_x[part] += x * grad;
    by_y[part] += y * grad;
    by_x_column[part] += x * column;
    by_y_column[part] += y * column;
  }

  void fold(int64_t oy, int64_t ox, MapSums* sums) const {
    add_sums(total_of(by_x), total_of(by_x_column), total_of(by_y), total_of(by_y_column), oy, ox,
             sums);
  }

 private:
  static double total_of(const V* parts) {
    typename VectorOf<double, P::lanes>::type total{};
    for (int part = 0; part < P::count; ++part) {
      total += __builtin_convertvector(parts[part], decltype(total));
    }
    return sum_of_lanes<P::lanes>(total);
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

// x and dx: [height + 2][width + 2][Lanes], the block's part of the image and its gradient inside a
// margin, or null.
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
        run.add(part, slope_x, slope_y, g, i);
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

static_assert(kRun % 16 == 0);

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
  // Counted in 32 bits: not every instruction set turns longer integers into doubles. Whole
  // vectors, since a rest would take as long as the run.
  const int32_t pixels = static_cast<int32_t>(round_up(count, 16));
  const double first = static_cast<double>(ox);
  const double from = step * first + start;
  const double to = step * (first + static_cast<double>(count - 1)) + start;
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
      add_block<V>(dx + ((row + 1) * row_of(tile) + column + 1) * Lanes,
                   load_block<V>(grad + i * Lanes));
    }
  }
}

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

// Gradients of warp_affine to the image and to the map.
//
// Idea. A tile of the image has one writer: it finds the output pixels that sample it, adds their
// gradients up in scratch and writes its part of dx once. No atomics, no zeroed buffer, and sums in
// an order that depends on neither threads nor tiles of others. Finding them needs no inverse of
// the map: along an output row the position is linear, so those that meet the tile are one
// interval, for singular and strongly minifying maps too. What lies near the edge of a tile is
// looked at from both sides; each tap belongs to one tile only, so the gradient of the map, a sum
// over taps, comes from the same walk. Reflection folds the plane, which leaves no intervals: there
// the tile is the whole image, and channels are what is shared out.
//
// Scratch holds pixels of 4 or of one cache line of channels, [pixel][channel], so that all lanes
// of a vector share positions and weights and a tap is one load, one multiply-add and one store.
//
// Bytes: grad once (about 1.1 times at tiles of 32 x 32), x once if the map's gradient is wanted,
// dx written once.
#include "blocks.h"
#include "warp_taps.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kSide = 32;  // of a tile of the image

struct Tile {
  int64_t row, column, height, width;
};

// Output pixels [first, last) of a row.
struct Interval {
  int32_t first, last;
};

struct Plan {
  Sampling sampling;
  int64_t out_height, out_width;
  bool folded;             // one tile for all, see above
  int64_t down, across;    // tiles
  int64_t side_h, side_w;  // of a tile
  int64_t lanes, blocks;   // channels of a block, number of blocks
  int64_t blocks_per_task;
};

// Sums for the gradient of one map: of the gradient by x and by y, and of the same times the output
// column and row.
struct MapSums {
  double x_column, x_row, x, y_column, y_row, y;
};

// Source positions along one axis that reach pixels [begin, end) of `size`.
struct Reach {
  double low, high;
};

FASTALIGN_INLINE Reach reach_of(int64_t begin, int64_t end, int64_t size, bool border) {
  constexpr double far = 1e300, slack = 1e-6;
  return {border && begin == 0 ? -far : static_cast<double>(begin - 1) - slack,
          border && end == size ? far : static_cast<double>(end) + slack};
}

// Narrows [first, last) to the integers i near which low < slope * i + start < high.
FASTALIGN_INLINE void narrow(double slope, double start, const Reach& reach, double* first,
                             double* last) {
  const double slack = 1e-12 * (start < 0 ? -start : start);
  double low = reach.low - start - slack, high = reach.high - start + slack;
  if (slope == 0) {
    if (!(low < 0 && high > 0)) {
      *last = *first;
    }
    return;
  }
  low /= slope;
  high /= slope;
  *first = larger(*first, floor_of(smaller(low, high)) - 1);
  *last = smaller(*last, floor_of(larger(low, high)) + 3);
}

// The interval of every output row; returns the rows [first, last) outside of which all are empty.
inline Interval find_intervals(const AffinePixels& map, const Plan& plan, const Tile& tile,
                               Interval* rows) {
  const int64_t height = plan.out_height;
  const Interval all{0, static_cast<int32_t>(plan.out_width)};
  if (plan.folded || !is_finite(map)) {
    // A map that is not finite shows at the first pixel of its image only.
    const bool any = tile.row == 0 && tile.column == 0;
    for (int64_t oy = 0; oy < height; ++oy) {
      rows[oy] = any ? all : Interval{0, 0};
    }
    return {0, static_cast<int32_t>(any ? height : 0)};
  }
  const bool border = plan.sampling.padding == Padding::border;
  const Reach x = reach_of(tile.column, tile.column + tile.width, plan.sampling.width, border);
  const Reach y = reach_of(tile.row, tile.row + tile.height, plan.sampling.height, border);
  double top = 0, bottom = static_cast<double>(height);
  const double determinant = map.xx * map.yy - map.xy * map.yx;
  const double size = (map.xx * map.xx + map.xy * map.xy) + (map.yx * map.yx + map.yy * map.yy);
  const bool bounded = x.low > -1e299 && x.high < 1e299 && y.low > -1e299 && y.high < 1e299;
  if (bounded && (determinant > 1e-6 * size || determinant < -1e-6 * size)) {
    // oy = (xx (y - y0) - yx (x - x0)) / determinant over the corners of the reach.
    double least = 1e300, greatest = -1e300;
    for (int corner = 0; corner < 4; ++corner) {
      const double at_x = (corner & 1 ? x.high : x.low) - map.x0;
      const double at_y = (corner & 2 ? y.high : y.low) - map.y0;
      const double oy = (map.xx * at_y - map.yx * at_x) / determinant;
      least = smaller(least, oy);
      greatest = larger(greatest, oy);
    }
    top = larger(top, floor_of(least) - 2);
    bottom = smaller(bottom, floor_of(greatest) + 3);
  }
  if (!(top < bottom)) {
    return {0, 0};
  }
  for (int64_t oy = static_cast<int64_t>(top); oy < static_cast<int64_t>(bottom); ++oy) {
    const double row = static_cast<double>(oy);
    double first = 0, last = static_cast<double>(plan.out_width);
    narrow(map.xx, map.xy * row + map.x0, x, &first, &last);
    narrow(map.yx, map.yy * row + map.y0, y, &first, &last);
    rows[oy] = first < last ? Interval{static_cast<int32_t>(first), static_cast<int32_t>(last)}
                            : Interval{0, 0};
  }
  return {static_cast<int32_t>(top), static_cast<int32_t>(bottom)};
}

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

template <class S, int Lanes>
void tile_block(const WarpAffineBackwardArgs& args, const Plan& plan, int64_t image,
                const Tile& tile, int64_t channel, Interval range, const Interval* rows,
                Acc<S>* grad, Acc<S>* x, Acc<S>* dx, MapSums* sums) {
  using A = Acc<S>;
  const AffinePixels& map = args.maps[image];
  const Sampling& s = plan.sampling;
  const bool still = s.mode == Interpolation::nearest && is_finite(map);
  const bool to_x = args.dx.data != nullptr, to_map = args.dmaps != nullptr && !still;
  for (int64_t r = 0; to_map && r < tile.height; ++r) {
    read_block<S, Lanes>(args.x, image, channel, tile.row + r, tile.column, tile.width,
                         x + r * tile.width * Lanes);
  }
  if (to_x) {
    std::memset(dx, 0, static_cast<size_t>(tile.height * tile.width * Lanes) * sizeof(A));
  }
  for (int64_t oy = range.first; (to_x || to_map) && oy < range.last; ++oy) {
    for (int64_t ox = rows[oy].first; ox < rows[oy].last; ox += kRun) {
      const int64_t count = smaller<int64_t>(kRun, rows[oy].last - ox);
      read_block<S, Lanes>(args.grad, image, channel, oy, ox, count, grad);
      if (to_x && to_map) {
        add_run<A, Lanes, true, true>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      } else if (to_x) {
        add_run<A, Lanes, true, false>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      } else {
        add_run<A, Lanes, false, true>(map, s, tile, oy, ox, count, grad, x, dx, sums);
      }
    }
  }
  for (int64_t r = 0; to_x && r < tile.height; ++r) {
    write_block<S, Lanes>(args.dx, image, channel, tile.row + r, tile.column, tile.width,
                          dx + r * tile.width * Lanes);
  }
}

Plan make_plan(const WarpAffineBackwardArgs& args, int64_t lanes) {
  Plan plan{};
  const int64_t height = args.x.height(), width = args.x.width();
  plan.sampling = {height, width, args.mode, args.padding, args.align_corners};
  plan.out_height = args.grad.height();
  plan.out_width = args.grad.width();
  plan.folded = args.padding == Padding::reflection;
  plan.side_h = plan.folded ? height : smaller(height, kSide);
  plan.side_w = plan.folded ? width : smaller(width, kSide);
  plan.down = (height + plan.side_h - 1) / plan.side_h;
  plan.across = (width + plan.side_w - 1) / plan.side_w;
  plan.lanes = lanes;
  plan.blocks = (args.x.channels() + lanes - 1) / lanes;
  plan.blocks_per_task = plan.folded ? 1 : plan.blocks;
  return plan;
}

template <class S, int Lanes>
Status run_lanes(const WarpAffineBackwardArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const Plan plan = make_plan(args, Lanes);
  const int64_t groups = (plan.blocks + plan.blocks_per_task - 1) / plan.blocks_per_task;
  const int64_t per_image = plan.down * plan.across * groups;
  const int64_t tasks = args.x.batch() * per_image;
  const double work = 16.0 * static_cast<double>(args.grad.batch() * args.grad.pixels()) *
                      static_cast<double>(args.x.channels() + 4);
  const int64_t used = workers_for(workers, tasks, work);
  const int64_t block = plan.side_h * plan.side_w * Lanes;
  Scratch scratch(
      2 * carved<A>(block) + carved<A>(kRun * Lanes) + carved<Interval>(plan.out_height), used);
  Scratch partial(tasks * static_cast<int64_t>(sizeof(MapSums)), 1);
  if (scratch.failed() || partial.failed()) {
    return Status::out_of_memory;
  }
  MapSums* sums = reinterpret_cast<MapSums*>(partial.of(0));
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    Carver carver(scratch.of(worker));
    A* x = carver.take<A>(block);
    A* dx = carver.take<A>(block);
    A* grad = carver.take<A>(kRun * Lanes);
    Interval* rows = carver.take<Interval>(plan.out_height);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / per_image, group = task % groups;
      const int64_t index = task / groups % (plan.down * plan.across);
      Tile tile{index / plan.across * plan.side_h, index % plan.across * plan.side_w, 0, 0};
      tile.height = smaller(plan.side_h, args.x.height() - tile.row);
      tile.width = smaller(plan.side_w, args.x.width() - tile.column);
      const Interval range = find_intervals(args.maps[image], plan, tile, rows);
      sums[task] = MapSums{};
      const int64_t first = group * plan.blocks_per_task;
      for (int64_t b = first; b < smaller(first + plan.blocks_per_task, plan.blocks); ++b) {
        tile_block<S, Lanes>(args, plan, image, tile, b * Lanes, range, rows, grad, x, dx,
                             sums + task);
      }
    }
  };
  split(workers, tasks, used, body);
  for (int64_t task = 0; args.dmaps != nullptr && task < tasks; ++task) {
    double* to = args.dmaps + task / per_image * 6;
    const MapSums& part = sums[task];
    const double parts[6] = {part.x_column, part.x_row, part.x, part.y_column, part.y_row, part.y};
    for (int k = 0; k < 6; ++k) {
      to[k] += parts[k];
    }
  }
  return Status::ok;
}

template <class S>
Status run(const WarpAffineBackwardArgs& args, const Workers& workers) {
  constexpr int line = 64 / sizeof(Acc<S>);
  return args.x.channels() <= 4 ? run_lanes<S, 4>(args, workers)
                                : run_lanes<S, line>(args, workers);
}

}  // namespace

Status warp_affine_backward(const WarpAffineBackwardArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA

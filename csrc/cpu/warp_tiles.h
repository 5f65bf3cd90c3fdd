// Tiles of an image, and the output pixels of an affine warp that sample one of them.
#pragma once

#include "warp_taps.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Of a tile of the image (docs/kernels.md, "CPU kernels"): longer rows are read in longer pieces
// and leave fewer pixels that are looked at from two tiles.
constexpr int64_t kSide = 64;

struct Tile {
  int64_t row, column, height, width;
};

// In scratch a tile has a margin of one pixel on each side. Pixels of a row of it, and of all.
FASTALIGN_INLINE int64_t row_of(const Tile& tile) { return tile.width + 2; }
FASTALIGN_INLINE int64_t size_of(const Tile& tile) { return (tile.height + 2) * row_of(tile); }

// Output pixels [first, last) of a row.
struct Interval {
  int32_t first, last;
};

struct Plan {
  Sampling sampling;
  int64_t out_height, out_width;
  bool folded;             // reflection: one tile for all
  int64_t down, across;    // tiles
  int64_t side_h, side_w;  // of a tile
  int64_t lanes, blocks;   // channels of a block, number of blocks
  int64_t blocks_per_task;
  bool stream;  // the image's gradient bypasses the caches
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

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

// anomaly_map: distances and their evidence warped, smoothed along both axes and divided.
//
// A strip of rows at a time: each row of the image that the strip needs is sampled from two planes
// of the size of the distances, which stay in L1, and smoothed along x at once; the columns are
// smoothed from there, in a second-level cache, four rows together, and divided as they are
// written. So the warped maps never exist, and of the smoothing nothing but the strip. The rows
// beside a strip are sampled for both neighbours.
//
// Bytes: distances and evidence once, both results once. Of 4 sigma on each side 33 taps at the
// usual sigma of 4: 132 multiply-adds a pixel, where products with whole matrices take 2 (H + W).
#include "runs.h"
#include "scratch.h"
#include "warp_lanes.h"
#include "warp_taps.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kTogether = 4;             // vectors of a row, and rows, that are summed at once
constexpr int64_t kStripBytes = 512 * 1024;  // of smoothed rows: half of a second-level cache
constexpr int64_t kLeastRows = 32;           // of a strip, which samples as many beside it
constexpr int64_t kStart = 64;               // columns whose positions count from one pixel

// What one worker holds.
template <class A>
struct MapTile {
  int64_t padded, line_length, plane;
  A* planes;       // [2][h * w]: distances times evidence, evidence
  A* line;         // [2][line_length]: a sampled row with its reflections
  A* rows;         // [most_rows][2][padded]: smoothed along x
  int64_t* place;  // [taps + kTogether - 1]: offsets of rows

  static int64_t padded_width(int64_t width) { return round_up(width, kTogether * kLanes<A>); }

  static int64_t bytes(const AnomalyMapArgs& args, int64_t most_rows) {
    const int64_t padded = padded_width(args.width);
    return carved<A>(2 * args.distance.pixels()) + carved<A>(2 * (padded + args.count)) +
           carved<A>(2 * most_rows * padded) + carved<int64_t>(args.count + kTogether);
  }

  MapTile(const AnomalyMapArgs& args, int64_t most_rows, char* block)
      : padded(padded_width(args.width)),
        line_length(padded + args.count),
        plane(args.distance.pixels()) {
    Carver carver(block);
    planes = carver.take<A>(2 * plane);
    line = carver.take<A>(2 * line_length);
    rows = carver.take<A>(2 * most_rows * padded);
    place = carver.take<int64_t>(args.count + kTogether);
    for (int64_t i = 0; i < 2 * line_length; ++i) {
      line[i] = A(0);
    }
  }

  template <class S>
  void read(const AnomalyMapArgs& args, int64_t image) const {
    const int64_t height = args.distance.height(), width = args.distance.width();
    for (int64_t y = 0; y < height; ++y) {
      const S* from = plane_of<S>(args.distance, image, 0) + y * args.distance.stride[2];
      const int64_t offset = image * args.evidence.stride[0] + y * args.evidence.stride[1];
      A *products = planes + y * width, *weights = products + plane;
      for (int64_t x = 0; x < width; ++x) {
        const int64_t at = offset + x * args.evidence.stride[2];
        weights[x] = args.is_mask ? A(static_cast<const bool*>(args.evidence.data)[at] ? 1 : 0)
                                  : static_cast<const A*>(args.evidence.data)[at];
        products[x] = to_acc(from[x * args.distance.stride[3]]) * weights[x];
      }
    }
  }
};

// Samples of both planes at `count` pixels of a row from column ox on, one by one.
template <class A>
void sample_any(const MapTile<A>& t, const AffinePixels& map, const Sampling& s, int64_t oy,
                int64_t ox, int64_t count, A* products, A* weights) {
  for (int64_t i = 0; i < count; ++i) {
    const Taps<A> taps = taps_at<A>(position_of(map, ox + i, oy), s);
    A product = 0, weight = 0;
    for (int k = 0; k < taps.count; ++k) {
      const int64_t at = taps.row[k] * s.width + taps.column[k];
      product += t.planes[at] * taps.weight[k];
      weight += t.planes[t.plane + at] * taps.weight[k];
    }
    products[i] = product, weights[i] = weight;
  }
}

// A row of the warped planes, `width` pixels each.
template <class A>
void sample_row(const MapTile<A>& t, const AffinePixels& map, const Sampling& s, int64_t oy,
                int64_t width, A* products, A* weights) {
#if defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    for (int64_t ox = 0; ox < width && is_finite(map); ox += kRunLanes) {
      const RunStart start = run_start(map, s, ox / kStart * kStart, oy);
      const int64_t count = smaller<int64_t>(kRunLanes, width - ox);
      WarpRun run;
      prepare_run<false>(map, start, ox % kStart, s, &run);
      if (run.general) {
        sample_any(t, map, s, oy, ox, count, products + ox, weights + ox);
        continue;
      }
      F8 sums[2];
      sample_any_run<float, 2>(run, t.planes, t.plane, s.width, s.width, sums);
      store8_first(products + ox, sums[0], count);
      store8_first(weights + ox, sums[1], count);
    }
    if (is_finite(map)) {
      return;
    }
  }
#endif
  sample_any(t, map, s, oy, 0, width, products, weights);
}

// Sums over the taps of a line, which begins as many places before the row as there are neighbours.
template <class A>
void smooth_line(const A* line, int64_t padded, const A* taps, int64_t count, A* to) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t x = 0; x < padded; x += kTogether * lanes) {
    Vec<A> sums[kTogether] = {};
    for (int64_t k = 0; k < count; ++k) {
      const Vec<A> weight = splat(taps[k]);
      for (int64_t n = 0; n < kTogether; ++n) {
        sums[n] += weight * load(line + x + k + n * lanes);
      }
    }
    for (int64_t n = 0; n < kTogether; ++n) {
      store(to + x + n * lanes, sums[n]);
    }
  }
}

// Rows [first, last) of the image, smoothed along x, into the tile.
template <class A>
void fill_rows(const AnomalyMapArgs& args, const MapTile<A>& t, int64_t image, int64_t first,
               int64_t last) {
  const Sampling s{args.distance.height(), args.distance.width(), Interpolation::bilinear,
                   Padding::zeros, false};
  const int64_t radius = args.count / 2, width = args.width;
  for (int64_t y = first; y < last; ++y) {
    A *products = t.line + radius, *weights = products + t.line_length;
    sample_row(t, args.maps[image], s, y, width, products, weights);
    const A* taps = static_cast<const A*>(args.taps);
    for (int64_t plane = 0; plane < 2; ++plane) {
      A* row = plane == 0 ? products : weights;
      for (int64_t i = 1; i <= radius; ++i) {
        row[-i] = row[reflected(-i, width)];
        row[width - 1 + i] = row[reflected(width - 1 + i, width)];
      }
      smooth_line(t.line + plane * t.line_length, t.padded, taps, args.count,
                  t.rows + (2 * (y - first) + plane) * t.padded);
    }
  }
}

// Sums over the columns for kTogether rows of both planes at one vector: row q takes taps[j - q]
// of the source row j, of those that there are.
template <class A>
FASTALIGN_INLINE void sum_columns(const A* from, const int64_t* place, int64_t padded,
                                  const A* taps, int64_t count, Vec<A> (&sums)[2][kTogether]) {
  const auto add = [&](int64_t j, int64_t first, int64_t last) {
    const Vec<A> product = load(from + place[j]), weight = load(from + place[j] + padded);
    for (int64_t q = first; q < last; ++q) {
      const Vec<A> tap = splat(taps[j - q]);
      sums[0][q] += tap * product;
      sums[1][q] += tap * weight;
    }
  };
  int64_t j = 0;
  for (; j < kTogether - 1; ++j) {
    add(j, larger<int64_t>(0, j - count + 1), j + 1);
  }
  for (; j < count; ++j) {
    add(j, 0, kTogether);
  }
  for (; j < count + kTogether - 1; ++j) {
    add(j, j - count + 1, kTogether);
  }
}

template <class A>
void finish_rows(const AnomalyMapArgs& args, const MapTile<A>& t, int64_t image, int64_t top,
                 int64_t end, int64_t first) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t radius = args.count / 2, height = args.height, width = args.width;
  const A* taps = static_cast<const A*>(args.taps);
  const Vec<A> least = splat(static_cast<A>(kLeastShare));
  for (int64_t y = top; y < end; y += kTogether) {
    const int64_t rows = smaller(kTogether, end - y);
    for (int64_t j = 0; j < args.count + kTogether - 1; ++j) {
      // Of rows behind the strip any: nothing is written.
      const int64_t row = smaller(y - radius + j, end - 1 + radius);
      t.place[j] = 2 * (reflected(row, height) - first) * t.padded;
    }
    for (int64_t x = 0; x < width; x += lanes) {
      Vec<A> sums[2][kTogether] = {};
      sum_columns(t.rows + x, t.place, t.padded, taps, args.count, sums);
      const int64_t count = smaller(lanes, width - x);
      for (int64_t q = 0; q < rows; ++q) {
        const int64_t at = (image * height + y + q) * width + x;
        const Vec<A> value = sums[0][q] / max_of(sums[1][q], least);
        if (count == lanes) {
          store(static_cast<A*>(args.value) + at, value);
          store(static_cast<A*>(args.share) + at, sums[1][q]);
        } else {
          store_first(static_cast<A*>(args.value) + at, value, count);
          store_first(static_cast<A*>(args.share) + at, sums[1][q], count);
        }
      }
    }
  }
}

template <class S>
Status run(const AnomalyMapArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const int64_t images = args.distance.batch(), height = args.height, radius = args.count / 2;
  const int64_t row_bytes =
      2 * MapTile<A>::padded_width(args.width) * static_cast<int64_t>(sizeof(A));
  const int64_t kept = larger(kLeastRows, kStripBytes / row_bytes - 2 * radius);
  const int64_t wanted = (workers.count + images - 1) / images;  // strips of an image
  const int64_t shared = larger(kLeastRows, (height + wanted - 1) / wanted);
  const int64_t rows = smaller(smaller(kept, shared), height);
  const int64_t strips = (height + rows - 1) / rows, tasks = images * strips;
  const double work =
      static_cast<double>(images * height * args.width) * static_cast<double>(4 * args.count + 16);
  const int64_t used = workers_for(workers, tasks, work);
  const int64_t most_rows = smaller(rows + 2 * radius, height);
  Scratch scratch(MapTile<A>::bytes(args, most_rows), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    const MapTile<A> tile(args, most_rows, scratch.of(worker));
    int64_t present = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / strips, top = task % strips * rows;
      const int64_t bottom = smaller(top + rows, height);
      if (image != present) {
        tile.template read<S>(args, image);
        present = image;
      }
      // What is reflected lies within as many rows of the ends.
      const int64_t first = larger<int64_t>(0, top - radius);
      const int64_t last = smaller(height, bottom + radius);
      fill_rows(args, tile, image, first, last);
      finish_rows(args, tile, image, top, bottom, first);
    }
  };
  split(workers, tasks, used, body);
  return Status::ok;
}

}  // namespace

Status anomaly_map(const AnomalyMapArgs& args, const Workers& workers) {
  return with_storage(args.distance.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA

// Running sums of a Gaussian per location: the images of a batch join count, mean and packed outer
// products.
//
// Idea. The sums of outer products are by far the largest operand, C (C + 1) / 2 floats per
// location, and every batch reads and writes them: 8 bytes per entry for 2 B operations. So a
// location is the unit of work and everything else about it stays in L1: its pixels of all images,
// their mean in float64, the deviations from it. The triangle then passes through the registers
// once, in blocks of four rows by two vectors, and each entry gains the sum over all images at
// once, which also rounds once per batch and not once per image.
//
// Bytes: the sums read and written once, the features read once, nothing else of that size. A tile
// of locations is one cache line of pixels wide, so that NCHW maps are read in whole lines.
//
// Joining (Chan, Golub, LeVeque 1979): deviations from the mean of the batch, and the way between
// the old and the new mean as one more of them, sqrt(n m / (n + m)) (new - old).
#include "../common/packed.h"
#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Estimates, not measured: a cache line of float32 pixels, and their values in a quarter of a 1 MiB
// L2. FASTALIGN_PLAN="moments.cpu: width=8" forces another width under any fit.
constexpr int64_t kTilePixels = 16;
constexpr int64_t kTileBytes = 256 * 1024;
constexpr int kRows = 4;

// Scratch of one worker; rows of `padded` channels are whole vectors, zero behind the last channel.
template <class A>
struct MomentsTile {
  A* values;      // [pixels][images][padded]
  A* row;         // [pixels]
  float* rows;    // [images + 1][padded] deviations and the way between the means
  double* total;  // [padded] sums over the images, then their mean
  bool* valid;    // [images]

  static int64_t bytes(int64_t padded, int64_t images, int64_t pixels) {
    return carved<A>(pixels * images * padded) + carved<A>(pixels) +
           carved<float>((images + 1) * padded) + carved<double>(padded) + carved<bool>(images);
  }

  MomentsTile(char* block, int64_t padded, int64_t images, int64_t pixels) {
    Carver carver(block);
    values = carver.take<A>(pixels * images * padded);
    row = carver.take<A>(pixels);
    rows = carver.take<float>((images + 1) * padded);
    total = carver.take<double>(padded);
    valid = carver.take<bool>(images);
  }
};

// `count` pixels from `first` as [pixel][image][channel].
template <class S>
void read_tile(const View4& x, int64_t first, int64_t count, int64_t padded,
               const MomentsTile<Acc<S>>& t) {
  const int64_t channels = x.channels(), images = x.batch();
  const PixelWalk walk = pixel_walk(x);
  const bool by_channel = x.stride[1] == 1 && x.stride[3] != 1;
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t i = 0; by_channel && i < count; ++i) {
      read_stretch(plane_of<S>(x, b, 0) + pixel_offset(walk, first + i), 1, channels,
                   t.values + (i * images + b) * padded);
    }
    for (int64_t c = 0; !by_channel && c < channels; ++c) {
      read_run(plane_of<S>(x, b, c), walk, first, count, count, t.row);
      for (int64_t i = 0; i < count; ++i) {
        t.values[(i * images + b) * padded + c] = t.row[i];
      }
    }
  }
}

// The images of one location: deviations from their mean in t.rows, the mean in t.total. Returns
// how many are valid. Those that are not leave a row of zeros, whatever lies there.
template <class A>
int64_t centre(const A* values, int64_t images, int64_t channels, int64_t padded,
               const MomentsTile<A>& t) {
  for (int64_t c = 0; c < padded; ++c) {
    t.total[c] = 0;
  }
  int64_t seen = 0;
  for (int64_t b = 0; b < images; ++b) {
    if (t.valid[b]) {
      const A* from = values + b * padded;
      for (int64_t c = 0; c < channels; ++c) {
        t.total[c] += static_cast<double>(from[c]);
      }
      ++seen;
    }
  }
  const double share = 1.0 / static_cast<double>(larger<int64_t>(1, seen));
  for (int64_t c = 0; c < channels; ++c) {
    t.total[c] *= share;
  }
  for (int64_t b = 0; b < images; ++b) {
    const A* from = values + b * padded;
    float* to = t.rows + b * padded;
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = t.valid[b] ? static_cast<float>(static_cast<double>(from[c]) - t.total[c]) : 0.0f;
    }
    for (int64_t c = channels; c < padded; ++c) {
      to[c] = 0;
    }
  }
  return seen;
}

// Lets the batch's mean join the running one; the way between them goes into `row`. False where
// there was none before.
bool join(int64_t seen, const double* batch_mean, int64_t channels, int64_t padded, int64_t* count,
          double* mean, float* row) {
  const int64_t before = *count, total = before + seen;
  const double share = static_cast<double>(seen) / static_cast<double>(larger<int64_t>(1, total));
  const double weight = __builtin_sqrt(static_cast<double>(before) * share);
  for (int64_t c = 0; c < channels; ++c) {
    const double delta = batch_mean[c] - mean[c];
    row[c] = static_cast<float>(delta * weight);
    mean[c] += delta * share;
  }
  for (int64_t c = channels; c < padded; ++c) {
    row[c] = 0;
  }
  *count = total;
  return before > 0;
}

// Adds sum over k of rows_k rows_k^T to `Rows` rows of the triangle, `Vectors` vectors of columns
// from `column`.
template <int Rows, int Vectors>
FASTALIGN_INLINE void add_block(const float* rows, int64_t number, int64_t padded, int64_t first,
                                int64_t column, float* packed) {
  constexpr int64_t lanes = kLanes<float>;
  Floats sums[Rows][Vectors] = {};
  for (int64_t k = 0; k < number; ++k) {
    const float* row = rows + k * padded;
    Floats across[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      across[v] = load(row + column + v * lanes);
    }
    for (int r = 0; r < Rows; ++r) {
      const Floats down = splat(row[first + r]);
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] += down * across[v];
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    float* to = packed + packed_row(first + r) + column;
    for (int v = 0; v < Vectors; ++v) {
      const int64_t left = first + r + 1 - (column + v * lanes);
      if (left >= lanes) {
        store(to + v * lanes, load(to + v * lanes) + sums[r][v]);
      } else if (left > 0) {
        store_first(to + v * lanes, load_first(to + v * lanes, left) + sums[r][v], left);
      }
    }
  }
}

template <int Rows>
FASTALIGN_INLINE void add_rows(const float* rows, int64_t number, int64_t padded, int64_t first,
                               float* packed) {
  constexpr int64_t lanes = kLanes<float>;
  int64_t column = 0;
  for (; column + lanes < first + Rows; column += 2 * lanes) {
    add_block<Rows, 2>(rows, number, padded, first, column, packed);
  }
  if (column < first + Rows) {
    add_block<Rows, 1>(rows, number, padded, first, column, packed);
  }
}

void add_outer(const float* rows, int64_t number, int64_t channels, int64_t padded, float* packed) {
  int64_t first = 0;
  for (; first + kRows <= channels; first += kRows) {
    add_rows<kRows>(rows, number, padded, first, packed);
  }
  for (; first < channels; ++first) {
    add_rows<1>(rows, number, padded, first, packed);
  }
}

template <class S>
Status run(const MomentsArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const int64_t channels = args.x.channels(), images = args.x.batch(), pixels = args.x.pixels();
  const int64_t width_of_map = args.x.width();
  // Two vectors at a time may read beyond the last column of a row.
  const int64_t padded = round_up(channels, 2 * kLanes<float>);
  const int64_t one = larger<int64_t>(images * padded, 1) * static_cast<int64_t>(sizeof(A));
  const int64_t width = forced_or(args.forced, PlanField::moments_cpu_width,
                                  larger<int64_t>(1, smaller(kTilePixels, kTileBytes / one)));
  const int64_t tiles = (pixels + width - 1) / width;
  const double work =
      static_cast<double>(packed_size(channels)) * static_cast<double>(pixels * (images + 1));
  const int64_t used = workers_for(workers, tiles, work);
  Scratch scratch(MomentsTile<A>::bytes(padded, images, width), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    const MomentsTile<A> t(scratch.of(worker), padded, images, width);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index * width, count = smaller(width, pixels - first);
      read_tile<S>(args.x, first, count, padded, t);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t location = first + i;
        for (int64_t b = 0; b < images; ++b) {
          const bool* valid = static_cast<const bool*>(args.valid.data);
          t.valid[b] =
              valid == nullptr ||
              valid[b * args.valid.stride[0] + location / width_of_map * args.valid.stride[1] +
                    location % width_of_map * args.valid.stride[2]];
        }
        const int64_t seen = centre(t.values + i * images * padded, images, channels, padded, t);
        const bool more = join(seen, t.total, channels, padded, args.count + location,
                               args.mean + location * channels, t.rows + images * padded);
        add_outer(t.rows, images + (more ? 1 : 0), channels, padded,
                  args.outer + location * packed_size(channels));
      }
    }
  };
  split(workers, tiles, used, body);
  return Status::ok;
}

}  // namespace

Status moments(const MomentsArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA

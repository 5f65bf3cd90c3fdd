// Mahalanobis distance from a packed inverse Cholesky factor per location, and its gradients.
//
// Idea. distance^2 = |L d|^2 with d = x - mean. The factors are by far the largest input: at one
// image the floor is reading them once, C (C + 1) / 2 entries per location, front to back. So a
// location is the unit of work: its factor streams through the registers in blocks of four rows,
// each entry is multiplied with the deviations of up to four images while it is there, and further
// images find it in L1. Deviations of a tile of locations are transposed first to
// [location][image][channel], so that rows of the factor meet contiguous vectors; a tile is one
// cache line of pixels wide, so that NCHW maps are read in whole lines.
//
// Bytes: factors once, x once (backward: the same, plus the gradients written once). Nothing is
// unpacked and nothing grows with the number of locations. 16-bit factors are widened in
// registers, which is what makes them twice as fast and not only half as large.
//
// Range. Squares are summed as they are; a location whose sum leaves [2^-60, 2^60] (2^+-400 in
// double) is computed again with its largest component divided out.
#include "../common/packed.h"
#include "limits.h"
#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Measured with two threads, 100 channels on 64 x 64 (benchmarks/results/cpu/plans_cpu.md, where
// the command is): in place of 16 locations, 8 take 1.07 times as long for one image and for eight,
// 4 1.09 and 1.31, 1 1.27 and 1.90. The bytes are those of L2 beside a factor: not measured alone.
constexpr int64_t kTilePixels = 16;
constexpr int64_t kTileBytes = 384 * 1024;
constexpr int kRows = 4;
#if defined(__AVX512F__)
constexpr int kImages = 4;  // 4 x 4 sums in 32 registers
#else
constexpr int kImages = 2;
#endif
constexpr int64_t kAhead =
    16384;  // bytes of the factors requested ahead of their use, in L2 by then

// Scratch of one worker; rows of `padded` channels are whole vectors, zero behind the last channel.
template <class A>
struct GaussianTile {
  int64_t channels, padded, images, pixels;
  A* deviation;  // [pixels][images][padded]
  A* gradient;   // [pixels][images][padded] of x; backward only
  A* white;      // [images][padded] L d, then the gradient by it
  A* mean;       // [pixels][padded]
  A* squares;    // [images]
  A* row;        // [pixels]
  void* factor;  // [C(C+1)/2], a gathered factor where the whitener is strided

  static int64_t bytes(int64_t padded, int64_t images, int64_t pixels, bool backward,
                       int64_t factor_bytes) {
    return carved<A>(pixels * images * padded) * (backward ? 2 : 1) + carved<A>(images * padded) +
           carved<A>(pixels * padded) + carved<A>(images) + carved<A>(pixels) +
           carved<char>(factor_bytes);
  }

  GaussianTile(char* block, int64_t channel_count, int64_t padded_count, int64_t image_count,
               int64_t pixel_count, bool backward, int64_t factor_bytes)
      : channels(channel_count), padded(padded_count), images(image_count), pixels(pixel_count) {
    Carver carver(block);
    deviation = carver.take<A>(pixels * images * padded);
    gradient = backward ? carver.take<A>(pixels * images * padded) : nullptr;
    white = carver.take<A>(images * padded);
    mean = carver.take<A>(pixels * padded);
    squares = carver.take<A>(images);
    row = carver.take<A>(pixels);
    factor = carver.take<char>(factor_bytes);
  }
};

// Calls take(values) for each vector of one block of rows: values[r] holds entries
// [column, column + lanes) of row first + r, zero beyond the diagonal.
template <int Rows, class W, class Take>
FASTALIGN_INLINE void for_each_vector(const W* packed, int64_t first, Take&& take) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  const W* rows[Rows];
  for (int r = 0; r < Rows; ++r) {
    rows[r] = packed + packed_row(first + r);
  }
  Vec<A> values[Rows];
  const int64_t whole = first / lanes * lanes;
  for (int64_t column = 0; column < whole; column += lanes) {
    for (int r = 0; r < Rows; ++r) {
      values[r] = load_acc(rows[r] + column);
    }
    take(column, values);
  }
  // The diagonal falls into this vector, or into the next ones where vectors are short.
  for (int64_t column = whole; column < first + Rows; column += lanes) {
    for (int r = 0; r < Rows; ++r) {
      const int64_t left = first + r + 1 - column;
      values[r] = left <= 0 ? Vec<A>{} : load_first(rows[r] + column, smaller(left, lanes));
    }
    take(column, values);
  }
}

// L d for N images: sums of squares [N], and with Keep the products themselves [N][padded].
template <class W, int N, bool Keep>
void whiten(const W* packed, int64_t channels, int64_t padded, const Acc<W>* deviation,
            Acc<W>* squares, Acc<W>* white) {
  using A = Acc<W>;
  typename Four<A>::type sums[N] = {};
  int64_t first = 0;
  const char* ahead = reinterpret_cast<const char*>(packed) + kAhead;
  for (; first + kRows <= channels; first += kRows) {
    for (const char* end =
             reinterpret_cast<const char*>(packed + packed_row(first + kRows)) + kAhead;
         ahead < end; ahead += 64) {
      prefetch(ahead);
    }
    Vec<A> products[kRows][N] = {};
    const auto multiply = [&](int r, int64_t column, const Vec<A>& values) {
      for (int n = 0; n < N; ++n) {
        products[r][n] += values * load(deviation + n * padded + column);
      }
    };
    if constexpr (N == 1) {
      // One image: memory is the limit, and a stream without jumps is what it gives most to.
      for (int r = 0; r < kRows; ++r) {
        for_each_vector<1>(packed, first + r, [&](int64_t column, const Vec<A>* values) {
          multiply(r, column, values[0]);
        });
      }
    } else {
      for_each_vector<kRows>(packed, first, [&](int64_t column, const Vec<A>* values) {
        for (int r = 0; r < kRows; ++r) {
          multiply(r, column, values[r]);
        }
      });
    }
    for (int n = 0; n < N; ++n) {
      const auto four =
          sum_lanes_of_four<A>(products[0][n], products[1][n], products[2][n], products[3][n]);
      sums[n] += four * four;
      if constexpr (Keep) {
        std::memcpy(white + n * padded + first, &four, sizeof(four));
      }
    }
  }
  A totals[N];
  for (int n = 0; n < N; ++n) {
    totals[n] = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
  }
  for (; first < channels; ++first) {
    Vec<A> products[N] = {};
    for_each_vector<1>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int n = 0; n < N; ++n) {
        products[n] += values[0] * load(deviation + n * padded + column);
      }
    });
    for (int n = 0; n < N; ++n) {
      const A one = sum_lanes(products[n]);
      totals[n] += one * one;
      if constexpr (Keep) {
        white[n * padded + first] = one;
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    squares[n] = totals[n];
  }
}

template <class W, bool Keep>
void whiten_all(const W* packed, const GaussianTile<Acc<W>>& t, const Acc<W>* deviation) {
  const int64_t channels = t.channels, padded = t.padded;
  int64_t image = 0;
  for (; image + kImages <= t.images; image += kImages) {
    whiten<W, kImages, Keep>(packed, channels, padded, deviation + image * padded,
                             t.squares + image, t.white + image * padded);
  }
  for (; image < t.images; ++image) {
    whiten<W, 1, Keep>(packed, channels, padded, deviation + image * padded, t.squares + image,
                       t.white + image * padded);
  }
}

template <class A>
FASTALIGN_INLINE bool in_range(A squared) {
  return squared >= Limits<A>::low && squared <= Limits<A>::high;
}

// |white| without squares out of range.
template <class A>
__attribute__((noinline)) A careful_length(const A* white, int64_t channels) {
  A peak = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const A magnitude = white[c] < 0 ? -white[c] : white[c];
    peak = magnitude > peak || magnitude != magnitude ? magnitude : peak;
  }
  if (peak == A(0)) {
    return A(0);
  }
  A total = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const A part = white[c] / peak;
    total += part * part;
  }
  return (sizeof(A) == 4 ? static_cast<A>(__builtin_sqrtf(static_cast<float>(total)))
                         : static_cast<A>(__builtin_sqrt(static_cast<double>(total)))) *
         peak;
}

template <class A>
FASTALIGN_INLINE A root(A value) {
  if constexpr (sizeof(A) == 4) {
    return __builtin_sqrtf(value);
  } else {
    return __builtin_sqrt(value);
  }
}

// The factor of one location as contiguous entries: in place where it is, else gathered.
template <class W>
FASTALIGN_INLINE const W* factor_at(const MahalanobisArgs& args, int64_t location, int64_t size,
                                    void* gathered) {
  const W* from = static_cast<const W*>(args.whitener) + location * args.whitener_stride[0];
  const int64_t stride = args.whitener_stride[1];
  if (stride == 1) {
    return from;
  }
  W* to = static_cast<W*>(gathered);
  for (int64_t i = 0; i < size; ++i) {
    to[i] = from[i * stride];
  }
  return to;
}

// x - mean of `count` pixels from `first`, transposed into the tile.
template <class S>
void read_deviations(const MahalanobisArgs& args, const GaussianTile<Acc<S>>& t, int64_t first,
                     int64_t count) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t channels = t.channels, padded = t.padded, images = t.images;
  const PixelWalk mean_walk = pixel_walk(args.mean), walk = pixel_walk(args.x);
  for (int64_t c = 0; c < channels; ++c) {
    read_run(plane_of<A>(args.mean, 0, c), mean_walk, first, count, count, t.row);
    for (int64_t i = 0; i < count; ++i) {
      t.mean[i * padded + c] = t.row[i];
    }
  }
  const bool by_channel = args.x.stride[1] == 1 && args.x.stride[3] != 1;
  for (int64_t b = 0; b < images; ++b) {
    if (by_channel) {
      for (int64_t i = 0; i < count; ++i) {
        const S* pixel = plane_of<S>(args.x, b, 0) + pixel_offset(walk, first + i);
        A* to = t.deviation + (i * images + b) * padded;
        int64_t c = 0;
        for (; c + lanes <= channels; c += lanes) {
          store(to + c, load_acc(pixel + c));
        }
        if (c < channels) {
          store(to + c, load_first(pixel + c, channels - c));
        }
      }
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      read_run(plane_of<S>(args.x, b, c), walk, first, count, count, t.row);
      for (int64_t i = 0; i < count; ++i) {
        t.deviation[(i * images + b) * padded + c] = t.row[i];
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = channels; c < padded; ++c) {
      t.mean[i * padded + c] = 0;
    }
    for (int64_t b = 0; b < images; ++b) {
      A* to = t.deviation + (i * images + b) * padded;
      for (int64_t c = channels; c < padded; ++c) {
        to[c] = 0;
      }
      for (int64_t c = 0; c < padded; c += lanes) {
        store(to + c, load(to + c) - load(t.mean + i * padded + c));
      }
    }
  }
}

template <class W>
void distances(const MahalanobisArgs& args, const GaussianTile<Acc<W>>& t, int64_t first,
               int64_t count) {
  using A = Acc<W>;
  const int64_t size = packed_size(t.channels), pixels = args.x.pixels();
  A* value = static_cast<A*>(args.value);
  for (int64_t i = 0; i < count; ++i) {
    const W* packed = factor_at<W>(args, first + i, size, t.factor);
    const A* deviation = t.deviation + i * t.images * t.padded;
    whiten_all<W, false>(packed, t, deviation);
    for (int64_t b = 0; b < t.images; ++b) {
      A result = t.squares[b];
      if (!args.squared) {
        if (in_range(result)) {
          result = root(result);
        } else {
          whiten<W, 1, true>(packed, t.channels, t.padded, deviation + b * t.padded, &result,
                             t.white);
          result = careful_length(t.white, t.channels);
        }
      }
      value[b * pixels + first + i] = result;
    }
  }
}

// white becomes the gradient by L d: d(distance) / d(white) = white / distance, 0 at 0.
template <class A>
void white_gradient(const MahalanobisArgs& args, const GaussianTile<A>& t, int64_t location) {
  const int64_t width = args.x.width();
  const A* grad = static_cast<const A*>(args.grad.data) + location / width * args.grad.stride[1] +
                  location % width * args.grad.stride[2];
  for (int64_t b = 0; b < t.images; ++b) {
    A* white = t.white + b * t.padded;
    const A upstream = grad[b * args.grad.stride[0]];
    A length = 1;
    if (!args.squared) {
      const A squared = t.squares[b];
      length = in_range(squared) ? root(squared) : careful_length(white, t.channels);
    }
    for (int64_t c = 0; c < t.channels; ++c) {
      white[c] = length == A(0)
                     ? A(0)
                     : (args.squared ? white[c] * (2 * upstream) : white[c] / length * upstream);
    }
  }
}

// gradient [images][padded] = L^T white, four rows of L at a time.
template <class W>
void factor_transposed(const W* packed, const GaussianTile<Acc<W>>& t, Acc<W>* gradient) {
  using A = Acc<W>;
  const int64_t channels = t.channels, padded = t.padded, images = t.images;
  for (int64_t i = 0; i < images * padded; i += kLanes<A>) {
    store(gradient + i, Vec<A>{});
  }
  int64_t first = 0;
  for (; first + kRows <= channels; first += kRows) {
    for_each_vector<kRows>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int64_t b = 0; b < images; ++b) {
        const A* white = t.white + b * padded + first;
        A* to = gradient + b * padded + column;
        store(to, load(to) + ((values[0] * splat(white[0]) + values[1] * splat(white[1])) +
                              (values[2] * splat(white[2]) + values[3] * splat(white[3]))));
      }
    });
  }
  for (; first < channels; ++first) {
    for_each_vector<1>(packed, first, [&](int64_t column, const Vec<A>* values) {
      for (int64_t b = 0; b < images; ++b) {
        A* to = gradient + b * padded + column;
        store(to, load(to) + values[0] * splat(t.white[b * padded + first]));
      }
    });
  }
}

// d L = sum over images of white d^T, its lower triangle; packed [C(C+1)/2] is dense.
template <class W>
void factor_gradient(const GaussianTile<Acc<W>>& t, const Acc<W>* deviation, W* packed) {
  using A = Acc<W>;
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t row = 0; row < t.channels; ++row) {
    W* to = packed + packed_row(row);
    for (int64_t column = 0; column <= row; column += lanes) {
      Vec<A> sum{};
      for (int64_t b = 0; b < t.images; ++b) {
        sum += load(deviation + b * t.padded + column) * splat(t.white[b * t.padded + row]);
      }
      const int64_t left = row + 1 - column;
      if (left >= lanes) {
        store_acc(to + column, sum);
      } else {
        store_first(to + column, sum, left);
      }
    }
  }
}

template <class W>
void gradients(const MahalanobisArgs& args, const GaussianTile<Acc<W>>& t, int64_t first,
               int64_t count) {
  using A = Acc<W>;
  const int64_t size = packed_size(t.channels);
  for (int64_t i = 0; i < count; ++i) {
    const W* packed = factor_at<W>(args, first + i, size, t.factor);
    const A* deviation = t.deviation + i * t.images * t.padded;
    whiten_all<W, true>(packed, t, deviation);
    white_gradient(args, t, first + i);
    if (args.dx.data != nullptr || args.dmean != nullptr) {
      factor_transposed(packed, t, t.gradient + i * t.images * t.padded);
    }
    if (args.dwhitener != nullptr) {
      factor_gradient(t, deviation, static_cast<W*>(args.dwhitener) + (first + i) * size);
    }
  }
}

// Writes the tile's gradients of x, and minus their sums over the images as those of the mean.
template <class S>
void write_gradients(const MahalanobisArgs& args, const GaussianTile<Acc<S>>& t, int64_t first,
                     int64_t count) {
  using A = Acc<S>;
  const int64_t padded = t.padded, images = t.images, pixels = args.x.pixels();
  if (args.dmean != nullptr) {
    A* to = static_cast<A*>(args.dmean);
    for (int64_t c = 0; c < t.channels; ++c) {
      for (int64_t i = 0; i < count; ++i) {
        A sum = 0;
        for (int64_t b = 0; b < images; ++b) {
          sum += t.gradient[(i * images + b) * padded + c];
        }
        to[c * pixels + first + i] = -sum;
      }
    }
  }
  if (args.dx.data == nullptr) {
    return;
  }
  const PixelWalk walk = pixel_walk(args.dx);
  const bool by_channel = args.dx.stride[1] == 1 && args.dx.stride[3] != 1;
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t i = 0; by_channel && i < count; ++i) {
      write_stretch(plane_of<S>(args.dx, b, 0) + pixel_offset(walk, first + i), 1, t.channels,
                    t.gradient + (i * images + b) * padded);
    }
    for (int64_t c = 0; !by_channel && c < t.channels; ++c) {
      for (int64_t i = 0; i < count; ++i) {
        t.row[i] = t.gradient[(i * images + b) * padded + c];
      }
      write_run(plane_of<S>(args.dx, b, c), walk, first, count, t.row);
    }
  }
}

// The work that depends on the type of the factors, for x accumulated in A.
template <class A>
struct FactorWork {
  void (*run)(const MahalanobisArgs&, const GaussianTile<A>&, int64_t first, int64_t count);
  int64_t entry_bytes;
};

template <class A>
FactorWork<A> factor_work(DType dtype, bool backward) {
  FactorWork<A> work{};
  with_storage(dtype, [&](auto storage) {
    using W = decltype(storage);
    if constexpr (sizeof(Acc<W>) == sizeof(A)) {
      work = {backward ? gradients<W> : distances<W>, static_cast<int64_t>(sizeof(W))};
    }
  });
  return work;
}

template <class S>
Status run(const MahalanobisArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const bool backward = args.grad.data != nullptr;
  const int64_t channels = args.x.channels(), images = args.x.batch(), pixels = args.x.pixels();
  const int64_t padded = round_up(channels, larger<int64_t>(kLanes<A>, kRows));
  const int64_t one = larger<int64_t>(images * padded, 1) * static_cast<int64_t>(sizeof(A));
  const int64_t width = forced_or(args.forced, PlanField::mahalanobis_cpu_width,
                                  larger<int64_t>(1, smaller(kTilePixels, kTileBytes / one)));
  const int64_t tiles = (pixels + width - 1) / width;
  const double work = static_cast<double>(packed_size(channels)) *
                      static_cast<double>(pixels * images) * (backward ? 4 : 1);
  const int64_t used = workers_for(workers, tiles, work);
  const FactorWork<A> factors = factor_work<A>(args.whitener_dtype, backward);
  const int64_t factor_bytes =
      args.whitener_stride[1] == 1 ? 0 : packed_size(channels) * factors.entry_bytes;
  Scratch scratch(GaussianTile<A>::bytes(padded, images, width, backward, factor_bytes), used);
  if (scratch.failed()) {
    return Status::out_of_memory;
  }
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    const GaussianTile<A> tile(scratch.of(worker), channels, padded, images, width, backward,
                               factor_bytes);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index * width, count = smaller(width, pixels - first);
      read_deviations<S>(args, tile, first, count);
      factors.run(args, tile, first, count);
      if (backward) {
        write_gradients<S>(args, tile, first, count);
      }
    }
  };
  split(workers, tiles, used, body);
  return Status::ok;
}

}  // namespace

Status mahalanobis(const MahalanobisArgs& args, const Workers& workers) {
  return with_storage(args.x.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA

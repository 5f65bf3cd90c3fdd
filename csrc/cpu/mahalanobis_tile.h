// The tile of mahalanobis: deviations of some locations by location, image and channel, and what is
// made of them for every form of the whitener.
#pragma once

#include <type_traits>

#include "limits.h"
#include "runs.h"
#include "transpose.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int kRows = 4;  // of a matrix that are multiplied at once
#if defined(__AVX512F__)
constexpr int kImages = 4;  // 4 x 4 sums in 32 registers
#else
constexpr int kImages = 2;
#endif
constexpr int64_t kMostTogether = 8;  // images that share one read of the whitener
constexpr int64_t kAhead =
    16384;  // bytes of the whitener requested ahead of their use, in L2 by then

// What the next tile reads of x and the mean, asked for in shares beside the locations of this one.
struct NextTile {
  const MahalanobisArgs* args;
  void (*ask)(const MahalanobisArgs&, int64_t first, int64_t count, int64_t part, int64_t parts);
  int64_t first, count, shares;
};

// Scratch of one worker; rows of `padded` channels are whole vectors, zero behind the last channel.
template <class A>
struct GaussianTile {
  int64_t channels, padded, images, pixels;
  A* deviation;  // [pixels][images][padded]
  A* gradient;   // [pixels][images][padded] of x; backward only
  A* white;      // [images][padded] A d, then the gradient by it
  A* mean;       // [pixels][padded]
  A* squares;    // [images]
  A* row;        // [pixels]
  A* fours;      // deviations of one location, of a few images, by four channels
  A* products;   // [2][images][rows]: of V with d and with the gradient; low rank only
  NextTile next{};
  int64_t rows;  // R, rounded up to what is multiplied at once; 0 where packed
  void* factor;  // what the whitener has for one location, gathered where it is strided

  void ask(int64_t share) const {
    if (next.count > 0) {
      next.ask(*next.args, next.first, next.count, share, next.shares);
    }
  }

  static int64_t bytes(int64_t padded, int64_t images, int64_t pixels, bool backward, int64_t rows,
                       int64_t factor_bytes) {
    return carved<A>(pixels * images * padded) * (backward ? 2 : 1) + carved<A>(images * padded) +
           carved<A>(pixels * padded) + carved<A>(images) + carved<A>(pixels) +
           carved<A>(smaller(images, kMostTogether) * padded) + carved<A>(2 * images * rows) +
           carved<char>(factor_bytes);
  }

  GaussianTile(char* block, int64_t channel_count, int64_t padded_count, int64_t image_count,
               int64_t pixel_count, bool backward, int64_t row_count, int64_t factor_bytes)
      : channels(channel_count),
        padded(padded_count),
        images(image_count),
        pixels(pixel_count),
        rows(row_count) {
    Carver carver(block);
    deviation = carver.take<A>(pixels * images * padded);
    gradient = backward ? carver.take<A>(pixels * images * padded) : nullptr;
    white = carver.take<A>(images * padded);
    mean = carver.take<A>(pixels * padded);
    squares = carver.take<A>(images);
    row = carver.take<A>(pixels);
    fours = carver.take<A>(smaller(images, kMostTogether) * padded);
    products = carver.take<A>(2 * images * rows);
    factor = carver.take<char>(factor_bytes);
  }
};

// Requests [from, to) of the whitener, as far ahead as it pays.
FASTALIGN_INLINE void prefetch_ahead(const void* from, const void* to) {
  const char* end = static_cast<const char*>(to) + kAhead;
  for (const char* at = static_cast<const char*>(from) + kAhead; at < end; at += 64) {
    prefetch(at);
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

// The channels of one pixel, where they are neighbours in memory: to(channel, values) for each
// vector.
template <class S, class To>
FASTALIGN_INLINE void read_channels(const S* pixel, int64_t channels, To&& to) {
  constexpr int64_t lanes = kLanes<Acc<S>>;
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    to(c, load_acc(pixel + c));
  }
  if (c < channels) {
    to(c, load_first(pixel + c, channels - c));
  }
}

FASTALIGN_INLINE bool is_by_channel(const View4& view) {
  return view.stride[1] == 1 && view.stride[3] != 1;
}

// Planes of neighbouring pixels to [pixel][channel], pixels `step` apart; returns how many channels
// were read: whole fours, in vectors, where there are 16 pixels. One by one takes as long as the
// distances.
template <class S>
FASTALIGN_INLINE int64_t read_fours([[maybe_unused]] const View4& view,
                                    [[maybe_unused]] int64_t image, [[maybe_unused]] int64_t first,
                                    [[maybe_unused]] int64_t count, [[maybe_unused]] int64_t step,
                                    [[maybe_unused]] Acc<S>* to) {
  int64_t c = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    const PixelWalk walk = pixel_walk(view);
    if (walk.flat && walk.pixel_stride == 1 && count == 16) {
      for (; c + 4 <= view.channels(); c += 4) {
        read_long_planes<4>(plane_of<S>(view, image, c) + first, view.stride[1], count, to + c,
                            step);
      }
    }
  }
#endif
  return c;
}

// Asks for the `part`-th of `parts` shares of what read_deviations reads of `count` pixels from
// `first`: short pieces of many planes, which hardware does not foresee.
template <class S>
void ask_for_deviations(const MahalanobisArgs& args, int64_t first, int64_t count, int64_t part,
                        int64_t parts) {
  const auto ask = [&](const View4& view, const auto* plane, int64_t of_plane) {
    const PixelWalk walk = pixel_walk(view);
    if (walk.flat && walk.pixel_stride == 1 && first + count <= view.pixels()) {
      prefetch(plane + of_plane + first);
      prefetch(plane + of_plane + first + count - 1);
    }
  };
  const int64_t channels = args.x.channels(), planes = (args.x.batch() + 1) * channels;
  for (int64_t k = planes * part / parts; k < planes * (part + 1) / parts; ++k) {
    if (k < channels) {
      ask(args.mean, plane_of<Acc<S>>(args.mean, 0, 0), k * args.mean.stride[1]);
    } else {
      const int64_t b = k / channels - 1;
      ask(args.x, plane_of<S>(args.x, b, 0), k % channels * args.x.stride[1]);
    }
  }
}

// x - mean of `count` pixels from `first`, transposed into the tile; zero behind the last channel.
template <class S>
void read_deviations(const MahalanobisArgs& args, const GaussianTile<Acc<S>>& t, int64_t first,
                     int64_t count) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t channels = t.channels, padded = t.padded, images = t.images;
  const PixelWalk mean_walk = pixel_walk(args.mean), walk = pixel_walk(args.x);
  const auto clear_behind = [&](A* vector) {
    for (int64_t c = channels; c < padded; ++c) {
      vector[c] = 0;
    }
  };
  for (int64_t i = 0; i < count; ++i) {
    clear_behind(t.mean + i * padded);
  }
  if (is_by_channel(args.mean)) {
    for (int64_t i = 0; i < count; ++i) {
      const A* pixel = plane_of<A>(args.mean, 0, 0) + pixel_offset(mean_walk, first + i);
      read_channels(pixel, channels, [&](int64_t c, const Vec<A>& values) {
        store(t.mean + i * padded + c, values);
      });
    }
  } else {
    for (int64_t c = read_fours<A>(args.mean, 0, first, count, padded, t.mean); c < channels; ++c) {
      read_run(plane_of<A>(args.mean, 0, c), mean_walk, first, count, count, t.row);
      for (int64_t i = 0; i < count; ++i) {
        t.mean[i * padded + c] = t.row[i];
      }
    }
  }
  for (int64_t b = 0; b < images; ++b) {
    if (is_by_channel(args.x)) {
      for (int64_t i = 0; i < count; ++i) {
        const S* pixel = plane_of<S>(args.x, b, 0) + pixel_offset(walk, first + i);
        A* to = t.deviation + (i * images + b) * padded;
        clear_behind(to);
        read_channels(pixel, channels, [&](int64_t c, const Vec<A>& values) {
          store(to + c, values - load(t.mean + i * padded + c));
        });
      }
      continue;
    }
    for (int64_t c =
             read_fours<S>(args.x, b, first, count, images * padded, t.deviation + b * padded);
         c < channels; ++c) {
      read_run(plane_of<S>(args.x, b, c), walk, first, count, count, t.row);
      for (int64_t i = 0; i < count; ++i) {
        t.deviation[(i * images + b) * padded + c] = t.row[i];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      A* to = t.deviation + (i * images + b) * padded;
      clear_behind(to);
      for (int64_t c = 0; c < padded; c += lanes) {
        store(to + c, load(to + c) - load(t.mean + i * padded + c));
      }
    }
  }
}

// Adds what a pixel lies between in a coarser map, of all channels: four pixels of it, weighted.
template <class S>
FASTALIGN_INLINE void add_between(const View4& coarse, int64_t image, const Between& row,
                                  const Between& column, int64_t channels, Acc<S>* to) {
  using A = Acc<S>;
  constexpr int64_t lanes = kLanes<A>;
  const S* plane = plane_of<S>(coarse, image, 0);
  const S* from[4];
  Vec<A> weights[4];
  const A low = static_cast<A>(row.share), right = static_cast<A>(column.share);
  for (int k = 0; k < 4; ++k) {
    const int64_t y = k < 2 ? row.low : row.high, x = k % 2 == 0 ? column.low : column.high;
    from[k] = plane + y * coarse.stride[2] + x * coarse.stride[3];
    weights[k] = splat((k < 2 ? A(1) - low : low) * (k % 2 == 0 ? A(1) - right : right));
  }
  int64_t c = 0;
  if (coarse.stride[1] == 1) {
    for (; c + lanes <= channels; c += lanes) {
      Vec<A> sum = load(to + c);
      for (int k = 0; k < 4; ++k) {
        sum += weights[k] * load_acc(from[k] + c);
      }
      store(to + c, sum);
    }
  }
  for (; c < channels; ++c) {
    A sum = to[c];
    for (int k = 0; k < 4; ++k) {
      sum += weights[k][0] * to_acc(from[k][c * coarse.stride[1]]);
    }
    to[c] = sum;
  }
}

// The coarser map, upsampled, is added to the deviations of `count` pixels from `first`.
template <class S>
void add_coarse(const MahalanobisArgs& args, const GaussianTile<Acc<S>>& t, int64_t first,
                int64_t count) {
  const int64_t height = args.x.height(), width = args.x.width();
  for (int64_t i = 0; i < count; ++i) {
    const Between row = between((first + i) / width, height, args.coarse.height());
    const Between column = between((first + i) % width, width, args.coarse.width());
    for (int64_t b = 0; b < t.images; ++b) {
      add_between<S>(args.coarse, b, row, column, t.channels,
                     t.deviation + (i * t.images + b) * t.padded);
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
  const bool by_channel = is_by_channel(args.dx);
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

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

// All-pairs distances at every location, their mean and their gradients.
//
// Idea. Lanes are pixels. A tile packs the C values of all images of a group at a few pixels into
// scratch, [image][channel][width] in the accumulation type, and walks the pairs there: one image's
// vectors meet those of every later image, both sums and both gradients of a pair are added where
// they lie. Nothing of size B x B exists, and a pair costs one square root and one division per
// pixel whether or not the gradient is wanted too. The squared distance needs no pairs: with
// u = h - (mean of the group), sum over j of |h_a - h_j|^2 = n |u_a|^2 - 2 u_a . sum u + sum |u|^2.
//
// Bytes: h and the mask once, value or gradient once; the tile, two copies of B x C x width,
// stays in L2.
//
// Mask. Values that are not valid are packed as zeros, and their pairs get the weight 0 by
// selection, so nothing under the mask reaches a sum, infinities included.
//
// Range. A vector of pixels in which some valid squared distance leaves [2^-60, 2^60] (2^+-400 in
// double), zero included, takes a second form that divides by the largest difference first.
#include "limits.h"
#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

// Of a tile, in L2, and its widest row. Measured with two threads, 32x3x224x224 float32, loss and
// gradient (benchmarks/results/cpu/plans_cpu.md, where the command is): 17.3 ms at width 128, 13.1
// at 96, 14.7 at 64, 16.8 at 32, 15.1 at 16.
constexpr int64_t kTileBytes = 384 * 1024;
constexpr int64_t kWidest = 128;

// Scratch of one tile; `width` is a multiple of 16, of which `count` pixels exist.
template <class A>
struct PairTile {
  int64_t channels, width, count;
  bool backward, masked;
  A* h;                       // [images][channels][width], 0 where not valid
  A* gradient;                // [images][channels][width]; with weights only
  A* sums;                    // [images][width]; of distances, then the value
  A* valid;                   // [images][width]; 1 or 0, with a mask only
  A* share;                   // [images][width]; one over the number of partners, 0 without
  A* weight;                  // [images][width]; upstream gradient times share
  A* squares;                 // [images][width]; |u|^2 of the squared form
  A *total, *total_weighted;  // [channels][width]; sums over images, squared form
  A *members, *total_squares, *total_weight;  // [width]
  A* row;                                     // [width]

  static int64_t bytes(int64_t images, int64_t channels, int64_t width, bool backward) {
    return carved<A>(images * channels * width) * (backward ? 2 : 1) +
           5 * carved<A>(images * width) + 2 * carved<A>(channels * width) + 4 * carved<A>(width);
  }

  PairTile(char* block, int64_t images, int64_t channel_count, int64_t pixels, bool with_weights,
           bool with_mask)
      : channels(channel_count),
        width(pixels),
        count(pixels),
        backward(with_weights),
        masked(with_mask) {
    Carver carver(block);
    h = carver.take<A>(images * channels * width);
    gradient = backward ? carver.take<A>(images * channels * width) : nullptr;
    sums = carver.take<A>(images * width);
    valid = carver.take<A>(images * width);
    share = carver.take<A>(images * width);
    weight = carver.take<A>(images * width);
    squares = carver.take<A>(images * width);
    total = carver.take<A>(channels * width);
    total_weighted = carver.take<A>(channels * width);
    members = carver.take<A>(width);
    total_squares = carver.take<A>(width);
    total_weight = carver.take<A>(width);
    row = carver.take<A>(width);
  }
};

template <class A>
FASTALIGN_INLINE Vec<A> select(const Bits<A>& where, const Vec<A>& yes, const Vec<A>& no) {
  return where ? yes : no;
}

// Packs the group's images with their validity, counts partners, reads the weights.
template <class S>
void pack(const PairwiseDistanceArgs& args, const int64_t* images, int64_t many, int64_t first,
          const PairTile<Acc<S>>& t) {
  using A = Acc<S>;
  const int64_t channels = t.channels, width = t.width;
  const PixelWalk walk = pixel_walk(args.h);
  const PixelWalk mask_walk =
      pixel_walk(args.h.height(), args.h.width(), args.mask.stride[1], args.mask.stride[2]);
  const PixelWalk grad_walk =
      pixel_walk(args.h.height(), args.h.width(), args.grad.stride[1], args.grad.stride[2]);
  const A uniform = static_cast<A>(
      1.0 / (static_cast<double>(args.h.batch()) * static_cast<double>(args.h.pixels())));
  for (int64_t i = 0; i < width; ++i) {
    t.members[i] = t.masked ? A(0) : static_cast<A>(many);
  }
  for (int64_t b = 0; b < many; ++b) {
    A* valid = t.valid + b * width;
    for (int64_t i = 0; i < width; ++i) {
      valid[i] = i < t.count ? A(1) : A(0);
    }
    if (t.masked) {
      const bool* mask = static_cast<const bool*>(args.mask.data) + images[b] * args.mask.stride[0];
      for_each_stretch(mask_walk, first, t.count, [&](int64_t offset, int64_t done, int64_t many_) {
        for (int64_t i = 0; i < many_; ++i) {
          valid[done + i] = mask[offset + i * mask_walk.pixel_stride] ? A(1) : A(0);
        }
      });
      for (int64_t i = 0; i < width; ++i) {
        t.members[i] += valid[i];
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      A* packed = t.h + (b * channels + c) * width;
      read_run(plane_of<S>(args.h, images[b], c), walk, first, t.count, width, packed);
      for (int64_t i = 0; t.masked && i < width; i += kLanes<A>) {
        store(packed + i, select<A>(load(valid + i) > Vec<A>{}, load(packed + i), Vec<A>{}));
      }
    }
  }
  for (int64_t b = 0; b < many; ++b) {
    A* share = t.share + b * width;
    for (int64_t i = 0; i < width; ++i) {
      const bool paired = t.members[i] > A(1) && t.valid[b * width + i] > A(0);
      share[i] = paired ? A(1) / (t.members[i] - A(1)) : A(0);
    }
    if (!t.backward) {
      continue;
    }
    A* weight = t.weight + b * width;
    if (args.grad.data != nullptr) {
      read_run(static_cast<const A*>(args.grad.data) + images[b] * args.grad.stride[0], grad_walk,
               first, t.count, width, weight);
    }
    for (int64_t i = 0; i < width; ++i) {
      // Selected, not multiplied: a NaN upstream of an excluded location stays there.
      weight[i] =
          share[i] > A(0) ? (args.grad.data != nullptr ? weight[i] : uniform) * share[i] : A(0);
    }
  }
  for (int64_t i = 0; i < many * width; i += kLanes<A>) {
    store(t.sums + i, Vec<A>{});
  }
  for (int64_t i = 0; t.backward && i < many * channels * width; i += kLanes<A>) {
    store(t.gradient + i, Vec<A>{});
  }
}

// The distance of one vector of pixels as peak * norm, for any magnitude: with the largest
// difference divided out first. Noinline since it is rare.
template <class A>
__attribute__((noinline)) void careful_pair(const A* one, const A* other, int64_t channels,
                                            int64_t width, Vec<A>* peak, Vec<A>* norm) {
  Vec<A> largest{};
  for (int64_t c = 0; c < channels; ++c) {
    const Vec<A> size = abs_of(load(one + c * width) - load(other + c * width));
    largest = select<A>((size > largest) | (size != size), size, largest);
  }
  const Vec<A> divisor = select<A>(largest == Vec<A>{}, splat<A>(1), largest);
  Vec<A> total{};
  for (int64_t c = 0; c < channels; ++c) {
    const Vec<A> part = (load(one + c * width) - load(other + c * width)) / divisor;
    total += part * part;
  }
  *peak = divisor;
  *norm = sqrt_of(total);
}

// One image against all later ones at one vector of pixels. C is the number of channels if it is
// small enough to keep one image in registers, else 0.
template <class A, int C, bool Backward>
FASTALIGN_INLINE void walk_pairs(const PairTile<A>& t, int64_t a, int64_t many, int64_t at) {
  const int64_t channels = C > 0 ? C : t.channels, width = t.width, size = channels * width;
  const A* one = t.h + a * size + at;
  A* own_gradient = Backward ? t.gradient + a * size + at : nullptr;
  constexpr int kept = C > 0 ? C : 1;
  Vec<A> own[kept], own_sum[kept];
  for (int c = 0; c < C; ++c) {
    own[c] = load(one + c * width);
    own_sum[c] = Backward ? load(own_gradient + c * width) : Vec<A>{};
  }
  Vec<A> sum = load(t.sums + a * width + at);
  const Vec<A> weight = Backward ? load(t.weight + a * width + at) : Vec<A>{};
  const Vec<A> valid = load(t.valid + a * width + at);
  for (int64_t b = a + 1; b < many; ++b) {
    const A* other = t.h + b * size + at;
    Vec<A> squared{};
    Vec<A> difference[kept];
    for (int64_t c = 0; c < channels; ++c) {
      const Vec<A> d = load(other + c * width) - (C > 0 ? own[c % kept] : load(one + c * width));
      difference[c % kept] = d;
      squared += d * d;
    }
    const Bits<A> both = (valid > Vec<A>{}) & (load(t.valid + b * width + at) > Vec<A>{});
    const Bits<A> inside =
        (squared >= splat<A>(Limits<A>::low)) & (squared <= splat<A>(Limits<A>::high));
    Vec<A> peak = splat<A>(1), factor{};
    Vec<A> norm = sqrt_of(squared);
    Vec<A> distance = norm;
    if (__builtin_expect(any_lane(both & ~inside), 0)) {
      // Lane by lane, so that a location's result does not depend on its neighbours.
      Vec<A> careful_peak, careful_norm;
      careful_pair(one, other, channels, width, &careful_peak, &careful_norm);
      peak = select<A>(inside, peak, careful_peak);
      norm = select<A>(inside, norm, careful_norm);
      distance = norm * peak;
    }
    if constexpr (Backward) {
      factor = (weight + load(t.weight + b * width + at)) / norm;
      factor = select<A>(norm == Vec<A>{}, Vec<A>{}, factor);
    }
    distance = select<A>(both, distance, Vec<A>{});
    sum += distance;
    store(t.sums + b * width + at, load(t.sums + b * width + at) + distance);
    if constexpr (Backward) {
      factor = select<A>(both, factor, Vec<A>{});
      A* to = t.gradient + b * size + at;
      const bool scaled = any_lane(peak != splat<A>(1));
      for (int64_t c = 0; c < channels; ++c) {
        Vec<A> d = C > 0 ? difference[c % kept] : load(other + c * width) - load(one + c * width);
        if (__builtin_expect(scaled, 0)) {
          d /= peak;
        }
        const Vec<A> push = select<A>(both, d * factor, Vec<A>{});
        store(to + c * width, load(to + c * width) + push);
        if constexpr (C > 0) {
          own_sum[c % kept] -= push;
        } else {
          store(own_gradient + c * width, load(own_gradient + c * width) - push);
        }
      }
    }
  }
  store(t.sums + a * width + at, sum);
  for (int c = 0; Backward && c < C; ++c) {
    store(own_gradient + c * width, own_sum[c]);
  }
}

template <class A, int C, bool Backward>
void all_pairs(const PairTile<A>& t, int64_t many) {
  for (int64_t at = 0; at < t.width; at += kLanes<A>) {
    for (int64_t a = 0; a + 1 < many; ++a) {
      walk_pairs<A, C, Backward>(t, a, many, at);
    }
  }
  for (int64_t i = 0; i < many * t.width; i += kLanes<A>) {
    store(t.sums + i, load(t.sums + i) * load(t.share + i));
  }
}

template <class A, bool Backward>
void plain(const PairTile<A>& t, int64_t many) {
  switch (t.channels) {
    case 1:
      return all_pairs<A, 1, Backward>(t, many);
    case 3:
      return all_pairs<A, 3, Backward>(t, many);
    default:
      return all_pairs<A, 0, Backward>(t, many);
  }
}

// The squared form: every image against sums over the group.
template <class A, bool Backward>
void squared_form(const PairTile<A>& t, int64_t many) {
  const int64_t channels = t.channels, width = t.width, size = channels * width;
  for (int64_t at = 0; at < width; at += kLanes<A>) {
    const Vec<A> members = load(t.members + at);
    const Vec<A> divisor = select<A>(members > splat<A>(1), members, splat<A>(1));
    Vec<A> total_squares{}, total_weight{};
    for (int64_t b = 0; b < many; ++b) {
      store(t.squares + b * width + at, Vec<A>{});
      total_weight += Backward ? load(t.weight + b * width + at) : Vec<A>{};
    }
    // Centred in place; the sums of what is left are rounding, and taken into account.
    for (int64_t c = 0; c < channels; ++c) {
      A* h = t.h + c * width + at;
      Vec<A> mean{}, rest{}, weighted{};
      for (int64_t b = 0; b < many; ++b) {
        mean += load(h + b * size);
      }
      mean /= divisor;
      for (int64_t b = 0; b < many; ++b) {
        const Bits<A> valid = load(t.valid + b * width + at) > Vec<A>{};
        const Vec<A> u = select<A>(valid, load(h + b * size) - mean, Vec<A>{});
        store(h + b * size, u);
        rest += u;
        A* squares = t.squares + b * width + at;
        store(squares, load(squares) + u * u);
        if constexpr (Backward) {
          weighted += u * load(t.weight + b * width + at);
        }
      }
      store(t.total + c * width + at, rest);
      store(t.total_weighted + c * width + at, weighted);
    }
    for (int64_t b = 0; b < many; ++b) {
      total_squares += load(t.squares + b * width + at);
    }
    for (int64_t b = 0; b < many; ++b) {
      const A* u = t.h + b * size + at;
      const Bits<A> valid = load(t.valid + b * width + at) > Vec<A>{};
      const Vec<A> weight = Backward ? load(t.weight + b * width + at) : Vec<A>{};
      Vec<A> along{};
      for (int64_t c = 0; c < channels; ++c) {
        const Vec<A> own = load(u + c * width), rest = load(t.total + c * width + at);
        along += own * rest;
        if constexpr (Backward) {
          const Vec<A> push = (weight * (members * own - rest) + own * total_weight) -
                              load(t.total_weighted + c * width + at);
          store(t.gradient + b * size + c * width + at, select<A>(valid, push + push, Vec<A>{}));
        }
      }
      const Vec<A> sum =
          (members * load(t.squares + b * width + at) - (along + along)) + total_squares;
      const Vec<A> value = sum * load(t.share + b * width + at);
      store(t.sums + b * width + at, select<A>((value < Vec<A>{}) | ~valid, Vec<A>{}, value));
    }
  }
}

// One group in one tile; returns the sum of its values.
template <class S>
double group_tile(const PairwiseDistanceArgs& args, int64_t group, int64_t first,
                  const PairTile<Acc<S>>& t) {
  using A = Acc<S>;
  const int64_t* images = args.groups.order + args.groups.start[group];
  const int64_t many = args.groups.start[group + 1] - args.groups.start[group];
  pack<S>(args, images, many, first, t);
  if (args.squared) {
    t.backward ? squared_form<A, true>(t, many) : squared_form<A, false>(t, many);
  } else {
    t.backward ? plain<A, true>(t, many) : plain<A, false>(t, many);
  }
  double total = 0;
  const int64_t pixels = args.h.pixels();
  for (int64_t b = 0; b < many; ++b) {
    const A* values = t.sums + b * t.width;
    double parts[4] = {};  // short chains: less rounding, and no waiting for the last addition
    for (int64_t i = 0; i < t.count; ++i) {
      parts[i % 4] += static_cast<double>(values[i]);
    }
    total += (parts[0] + parts[1]) + (parts[2] + parts[3]);
    if (args.value != nullptr) {
      std::memcpy(static_cast<A*>(args.value) + images[b] * pixels + first, values,
                  static_cast<size_t>(t.count) * sizeof(A));
    }
    for (int64_t c = 0; args.dh.data != nullptr && c < t.channels; ++c) {
      write_run(plane_of<S>(args.dh, images[b], c), pixel_walk(args.dh), first, t.count,
                t.gradient + (b * t.channels + c) * t.width);
    }
  }
  return total;
}

template <class S>
Status run(const PairwiseDistanceArgs& args, const Workers& workers) {
  using A = Acc<S>;
  const int64_t pixels = args.h.pixels(), channels = args.h.channels();
  int64_t largest = 0;
  for (int64_t g = 0; g < args.groups.count; ++g) {
    largest = larger(largest, args.groups.start[g + 1] - args.groups.start[g]);
  }
  const bool backward = args.dh.data != nullptr, masked = args.mask.data != nullptr;
  // The width must not depend on the number of threads: the loss adds up tile by tile.
  const int64_t one = larger<int64_t>(largest * (channels * (backward ? 2 : 1) + 5), 1) *
                      static_cast<int64_t>(sizeof(A));
  const int64_t fitting = smaller(kTileBytes / one / 16 * 16, kWidest);
  const int64_t width = forced_or(args.forced, PlanField::pairwise_distance_cpu_width,
                                  larger<int64_t>(16, smaller(fitting, round_up(pixels, 16))));
  const int64_t tiles = (pixels + width - 1) / width;
  const double values =
      static_cast<double>(args.h.batch() * pixels) * static_cast<double>(channels + 8);
  const double work = values * (args.squared ? 8.0 : static_cast<double>(largest));
  const int64_t used = workers_for(workers, tiles, work);
  Scratch scratch(PairTile<A>::bytes(largest, channels, width, backward), used);
  Scratch partial(tiles * static_cast<int64_t>(sizeof(double)), 1);
  if (scratch.failed() || partial.failed()) {
    return Status::out_of_memory;
  }
  double* sums = reinterpret_cast<double*>(partial.of(0));
  auto body = [&](int64_t worker, int64_t begin, int64_t end) {
    PairTile<A> tile(scratch.of(worker), largest, channels, width, backward, masked);
    for (int64_t index = begin; index < end; ++index) {
      tile.count = smaller(width, pixels - index * width);
      sums[index] = 0;
      for (int64_t g = 0; g < args.groups.count; ++g) {
        sums[index] += group_tile<S>(args, g, index * width, tile);
      }
    }
  };
  split(workers, tiles, used, body);
  if (args.loss != nullptr) {
    double total = 0;
    for (int64_t i = 0; i < tiles; ++i) {
      total += sums[i];
    }
    *args.loss = total / (static_cast<double>(args.h.batch()) * static_cast<double>(pixels));
  }
  return Status::ok;
}

}  // namespace

Status pairwise_distance(const PairwiseDistanceArgs& args, const Workers& workers) {
  return with_storage(args.h.dtype,
                      [&](auto storage) { return run<decltype(storage)>(args, workers); });
}

}  // namespace fastalign::FASTALIGN_ISA

// Scratch of one tile of dense_similarity, and the two ways to lay lanes over it.
//
// PixelLanes packs an image as [channels][width] and serves NCHW and every other layout;
// ChannelLanes packs it as [width][channels] and serves channels_last. Both offer the same five
// sweeps to dense_similarity.cpp.
#pragma once

#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kFold = 64;        // terms added up before a partial sum is folded in

template <class A>
struct DenseTile {
  int64_t channels;  // padded to whole vectors for ChannelLanes
  int64_t width;     // pixels, a multiple of 16
  int64_t count;     // of which this many exist
  bool keeps_z;      // whether z stays packed, or is read again image by image
  A* z;              // [images] packed, or one image
  A* p;              // [images] packed when dz is wanted, else one image at a time
  A* rest;           // the sum over the other images, one packed image
  A* sum_z;          // S, one packed image
  A* sum_p;          // R = sum_a w_a p^_a, one packed image; only for dz
  A* inv_z;          // [images][width]; inverse norms, 0 for zero vectors
  A* scale_z;        // [images][width]; rescaling factors
  A* own_p;          // [images][width]; w_a / |p_a|, only for dz
  A *inv_p, *scale_p, *dot, *weight, *factor, *outer;  // [width], of the image at hand
  A* row;                                              // [width]

  static int64_t bytes(int64_t channels, int64_t images, int64_t width, bool keep_z, bool need_z) {
    const int64_t kept_z = keep_z ? images : 1, kept_p = need_z ? images : 1;
    return carved<A>(kept_z * channels * width) + carved<A>(kept_p * channels * width) +
           3 * carved<A>(channels * width) + 3 * carved<A>(images * width) + 7 * carved<A>(width);
  }

  DenseTile(char* block, int64_t channel_count, int64_t images, int64_t pixels, bool keep_z,
            bool need_z)
      : channels(channel_count), width(pixels), count(pixels), keeps_z(keep_z) {
    Carver carver(block);
    z = carver.take<A>((keep_z ? images : 1) * channels * width);
    p = carver.take<A>((need_z ? images : 1) * channels * width);
    rest = carver.take<A>(channels * width);
    sum_z = carver.take<A>(channels * width);
    sum_p = carver.take<A>(channels * width);
    inv_z = carver.take<A>(images * width);
    scale_z = carver.take<A>(images * width);
    own_p = carver.take<A>(images * width);
    inv_p = carver.take<A>(width);
    scale_p = carver.take<A>(width);
    dot = carver.take<A>(width);
    weight = carver.take<A>(width);
    factor = carver.take<A>(width);
    outer = carver.take<A>(width);
    row = carver.take<A>(width);
  }
};

// The rows of one image inside the tile.
template <class S>
struct Source {
  const S* plane;  // channel 0
  int64_t channels, channel_stride, first;
  PixelWalk walk;
};

template <class S>
Source<S> source_of(const View4& view, int64_t image, int64_t first) {
  return {plane_of<S>(view, image, 0), view.channels(), view.stride[1], first, pixel_walk(view)};
}

// Rows to fetch into the second-level cache ahead of their use. Memory has to be busy all the time,
// and not just while an image is packed: the sweep before fetches the first half of the channels,
// packing itself the second half. More at a time would push out what the tile holds. Two streams,
// since p and z may be read side by side; null rows fetch nothing.
template <class S>
struct Soon {
  const S *row = nullptr, *second_row = nullptr;  // channel 0, first pixel of the tile
  int64_t channel_stride = 0, second_stride = 0;

  // Of planes whose pixels are neighbours; others have their own order.
  void add(const View4& view, int64_t image, int64_t first) {
    const PixelWalk walk = pixel_walk(view);
    if (!walk.flat || walk.pixel_stride != 1) {
      return;
    }
    (row == nullptr ? row : second_row) = plane_of<S>(view, image, 0) + first;
    (second_row == nullptr ? channel_stride : second_stride) = view.stride[1];
  }

  template <int64_t Lines>
  FASTALIGN_INLINE void before(int64_t channel, int64_t pixel) const {
    if ((channel & 1) == 0) {
      fetch<Lines>(channel / 2, pixel);
    }
  }

  template <int64_t Lines>
  FASTALIGN_INLINE void during(int64_t channel, int64_t channels, int64_t pixel) const {
    const int64_t later = channel + (channels + 1) / 2;
    if (later < channels) {
      fetch<Lines>(later, pixel);
    }
  }

 private:
  template <int64_t Lines>
  FASTALIGN_INLINE void fetch(int64_t channel, int64_t pixel) const {
    for (int64_t line = 0; row != nullptr && line < Lines; ++line) {
      prefetch(row + channel * channel_stride + pixel + line * kLine);
    }
    for (int64_t line = 0; second_row != nullptr && line < Lines; ++line) {
      prefetch(second_row + channel * second_stride + pixel + line * kLine);
    }
  }

  static constexpr int64_t kLine = 64 / sizeof(S);
};

// sum - own * own_scale, the sum over the other images, is what dots and gradients are made of;
// it is left in `rest`. Own rows come packed, or, where `rows` is given, from an image whose pixels
// are neighbours.
template <class S>
struct Others {
  using A = Acc<S>;
  const A *sum, *own, *own_scale;
  A* rest;
  const S* rows = nullptr;  // channel 0, first pixel of the tile
  int64_t channel_stride = 0;
};

template <class S, int NB>
struct PixelLanes {
  using A = Acc<S>;
  static constexpr int64_t lanes = kLanes<A>;
  static constexpr int64_t block = NB * lanes;
  static constexpr int64_t lines = block * sizeof(S) > 64 ? block * sizeof(S) / 64 : 1;
  static int64_t channel_step(const DenseTile<A>& t) { return t.width; }
  static int64_t pixel_step(const DenseTile<A>&) { return 1; }

  // Whether a whole tile of rows can be read from the tensor as it is.
  static bool reads_rows(const View4& view, const DenseTile<A>& t) {
    const PixelWalk walk = pixel_walk(view);
    return walk.flat && walk.pixel_stride == 1 && t.count == t.width;
  }

  // Packs one image, with squared norms into `norms` and, if asked, dot products with the others
  // into `dots`. NB vectors of pixels stay in registers over all channels.
  template <bool WithDots>
  static void pack(const Source<S>& from, const Soon<S>& prefetched, const DenseTile<A>& t, A* packed,
                   A* norms, const Others<S>& others, A* dots) {
    // Locals, since the compiler must assume that a vector store changes *this or the arguments.
    const Soon<S> soon = prefetched;
    const int64_t channels = t.channels, width = t.width, channel_stride = from.channel_stride;
    const bool dense = from.walk.flat && from.walk.pixel_stride == 1 && t.count == width;
    const A *sum = others.sum, *own = others.own;
    A* rest = others.rest;
    for (int64_t start = 0; start < width; start += block) {
      const S* plane = from.plane + from.first + start;
      Vec<A> squares[NB] = {}, products[NB] = {}, scales[NB] = {};
      for (int v = 0; WithDots && v < NB; ++v) {
        scales[v] = load(others.own_scale + start + v * lanes);
      }
      for (int64_t fold = 0; fold < channels; fold += kFold) {
        const int64_t last = smaller(fold + kFold, channels);
        Vec<A> part[NB] = {}, part_dot[NB] = {};
        for (int64_t c = fold; c < last; ++c) {
          const int64_t at = c * width + start;
          Vec<A> values[NB];
          soon.template during<lines>(c, channels, start);
          if (dense) {
            const S* row = plane + c * channel_stride;
            for (int v = 0; v < NB; ++v) {
              values[v] = load_acc(row + v * lanes);
              store(packed + at + v * lanes, values[v]);
            }
          } else {
            read_run(plane - from.first - start + c * channel_stride, from.walk, from.first + start,
                     larger<int64_t>(0, smaller(block, t.count - start)), block, packed + at);
            for (int v = 0; v < NB; ++v) {
              values[v] = load(packed + at + v * lanes);
            }
          }
          for (int v = 0; v < NB; ++v) {
            part[v] += values[v] * values[v];
            if constexpr (WithDots) {
              const int64_t i = at + v * lanes;
              const Vec<A> mine =
                  others.rows == nullptr
                      ? load(own + i)
                      : load_acc(others.rows + c * others.channel_stride + start + v * lanes);
              const Vec<A> other = load(sum + i) - mine * scales[v];
              store(rest + i, other);
              part_dot[v] += values[v] * other;
            }
          }
        }
        for (int v = 0; v < NB; ++v) {
          squares[v] += part[v];
          products[v] += part_dot[v];
        }
      }
      for (int v = 0; v < NB; ++v) {
        store(norms + start + v * lanes, squares[v]);
        if constexpr (WithDots) {
          store(dots + start + v * lanes, products[v]);
        }
      }
    }
  }

  // sum (+)= packed * scale.
  static void add_scaled(const Soon<S>& prefetched, const DenseTile<A>& t, const A* packed,
                         const A* scale, bool first, A* sum) {
    const Soon<S> soon = prefetched;
    const int64_t channels = t.channels, width = t.width;
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> scales[NB];
      for (int v = 0; v < NB; ++v) {
        scales[v] = load(scale + start + v * lanes);
      }
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = c * width + start;
        soon.template before<lines>(c, start);
        for (int v = 0; v < NB; ++v) {
          const Vec<A> share = load(packed + at + v * lanes) * scales[v];
          store(sum + at + v * lanes, first ? share : load(sum + at + v * lanes) + share);
        }
      }
    }
  }

  // Both from packed images.
  static void dot(const DenseTile<A>& t, const A* packed, const Others<S>& others, A* dots) {
    for (int64_t i = 0; i < t.width; i += lanes) {
      const Vec<A> scale = load(others.own_scale + i);
      Vec<A> total{};
      for (int64_t fold = 0; fold < t.channels; fold += kFold) {
        const int64_t last = smaller(fold + kFold, t.channels);
        Vec<A> part{};
        for (int64_t c = fold; c < last; ++c) {
          const int64_t at = c * t.width + i;
          const Vec<A> other = load(others.sum + at) - load(others.own + at) * scale;
          store(others.rest + at, other);
          part += load(packed + at) * other;
        }
        total += part;
      }
      store(dots + i, total);
    }
  }

  // Writes (outer * rest - self * self_scale) * rescale; no rescale when null.
  static void write(const View4& gradient, int64_t image, int64_t first, const Soon<S>& prefetched,
                    const DenseTile<A>& t, const A* outer, const A* self, const A* self_scale,
                    const A* rescale, bool stream) {
    const Soon<S> soon = prefetched;
    const PixelWalk walk = pixel_walk(gradient);
    const int64_t channels = t.channels, width = t.width, channel_stride = gradient.stride[1];
    const bool dense = walk.flat && walk.pixel_stride == 1 && t.count == width;
    const A* rest = t.rest;
    S* image_base = plane_of<S>(gradient, image, 0);
    for (int64_t start = 0; start < width; start += block) {
      Vec<A> outers[NB], self_scales[NB];
      for (int v = 0; v < NB; ++v) {
        outers[v] = load(outer + start + v * lanes);
        self_scales[v] = load(self_scale + start + v * lanes);
      }
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = c * width + start;
        S* plane = image_base + c * channel_stride;
        S* to = plane + first + start;
        soon.template before<lines>(c, start);
        Vec<A> values[NB];
        for (int v = 0; v < NB; ++v) {
          const int64_t i = at + v * lanes;
          values[v] = outers[v] * load(rest + i) - load(self + i) * self_scales[v];
          if (rescale != nullptr) {
            values[v] *= load(rescale + start + v * lanes);
          }
        }
        if (!dense) {
          for (int v = 0; v < NB; ++v) {
            store(t.row + v * lanes, values[v]);
          }
          write_run(plane, walk, first + start, larger<int64_t>(0, smaller(block, t.count - start)),
                    t.row);
          continue;
        }
        if constexpr (sizeof(S) == sizeof(A)) {
          if (stream && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0) {
            for (int v = 0; v < NB; ++v) {
              store_streaming(to + v * lanes, values[v]);
            }
            continue;
          }
        }
        for (int v = 0; v < NB; ++v) {
          store_acc(to + v * lanes, values[v]);
        }
      }
    }
  }
};

template <class S>
struct ChannelLanes {
  using A = Acc<S>;
  static constexpr int64_t lanes = kLanes<A>;
  static int64_t channel_step(const DenseTile<A>&) { return 1; }
  static int64_t pixel_step(const DenseTile<A>& t) { return t.channels; }
  static bool reads_rows(const View4&, const DenseTile<A>&) { return false; }

  template <bool WithDots>
  static void pack(const Source<S>& from, const Soon<S>&, const DenseTile<A>& t, A* packed,
                   A* norms, const Others<S>& others, A* dots) {
    const int64_t whole = from.channel_stride == 1 ? from.channels / lanes * lanes : 0;
    for (int64_t i = 0; i < t.count; ++i) {
      const S* pixel = from.plane + pixel_offset(from.walk, from.first + i);
      A* to = packed + i * t.channels;
      for (int64_t c = 0; c < whole; c += lanes) {
        store(to + c, load_acc(pixel + c));
      }
      for (int64_t c = whole; c < from.channels; ++c) {
        to[c] = to_acc(pixel[c * from.channel_stride]);
      }
      for (int64_t c = from.channels; c < t.channels; ++c) {
        to[c] = 0;
      }
      Vec<A> squares{};
      for (int64_t c = 0; c < t.channels; c += lanes) {
        squares += load(to + c) * load(to + c);
      }
      norms[i] = sum_lanes(squares);
      if constexpr (WithDots) {
        dots[i] = dot_pixel(t, i, packed, others);
      }
    }
    for (int64_t i = t.count; i < t.width; ++i) {
      norms[i] = 0;
      if constexpr (WithDots) {
        dots[i] = 0;
      }
    }
  }

  static A dot_pixel(const DenseTile<A>& t, int64_t i, const A* packed, const Others<S>& others) {
    const int64_t at = i * t.channels;
    const Vec<A> scale = splat(others.own_scale[i]);
    Vec<A> total{};
    for (int64_t c = at; c < at + t.channels; c += lanes) {
      const Vec<A> other = load(others.sum + c) - load(others.own + c) * scale;
      store(others.rest + c, other);
      total += load(packed + c) * other;
    }
    return sum_lanes(total);
  }

  static void add_scaled(const Soon<S>&, const DenseTile<A>& t, const A* packed, const A* scale,
                         bool first, A* sum) {
    for (int64_t i = 0; i < t.count; ++i) {
      const Vec<A> factor = splat(scale[i]);
      for (int64_t at = i * t.channels; at < (i + 1) * t.channels; at += lanes) {
        const Vec<A> share = load(packed + at) * factor;
        store(sum + at, first ? share : load(sum + at) + share);
      }
    }
  }

  static void dot(const DenseTile<A>& t, const A* packed, const Others<S>& others, A* dots) {
    for (int64_t i = 0; i < t.width; ++i) {
      dots[i] = i < t.count ? dot_pixel(t, i, packed, others) : A(0);
    }
  }

  static void write(const View4& gradient, int64_t image, int64_t first, const Soon<S>&,
                    const DenseTile<A>& t, const A* outer, const A* self, const A* self_scale,
                    const A* rescale, bool) {
    const PixelWalk walk = pixel_walk(gradient);
    S* base = plane_of<S>(gradient, image, 0);
    const int64_t stride = gradient.stride[1], channels = gradient.channels();
    for (int64_t i = 0; i < t.count; ++i) {
      S* to = base + pixel_offset(walk, first + i);
      const int64_t at = i * t.channels;
      const A back = rescale == nullptr ? A(1) : rescale[i];
      for (int64_t c = 0; c < channels; c += lanes) {
        const Vec<A> value = (splat(outer[i]) * load(t.rest + at + c) -
                              load(self + at + c) * splat(self_scale[i])) *
                             splat(back);
        if (stride == 1 && c + lanes <= channels) {
          store_acc(to + c, value);
        } else {
          for (int64_t k = 0; k < smaller(lanes, channels - c); ++k) {
            to[(c + k) * stride] = from_acc<S>(value[k]);
          }
        }
      }
    }
  }
};

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

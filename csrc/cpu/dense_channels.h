// The sweeps of dense_similarity with channels in the lanes: an image of the tile is packed as
// [width][channels]. Serves channels_last.
#pragma once

#include "dense_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

template <class S>
struct ChannelLanes {
  using A = Acc<S>;
  static constexpr int64_t lanes = kLanes<A>;
  static int64_t channel_step(const DenseTile<A>&) { return 1; }
  static int64_t pixel_step(const DenseTile<A>& t) { return t.channels; }

  template <bool WithDots>
  static void pack(const Source<S>& from, const Soon<S>&, const DenseTile<A>& t, A* packed,
                   A* norms, const Others<A>& others, A* dots) {
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

  static A dot_pixel(const DenseTile<A>& t, int64_t i, const A* packed, const Others<A>& others) {
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

  static void dot(const DenseTile<A>& t, const A* packed, const Others<A>& others, A* dots) {
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
        const Vec<A> value =
            (splat(outer[i]) * load(t.rest + at + c) - load(self + at + c) * splat(self_scale[i])) *
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

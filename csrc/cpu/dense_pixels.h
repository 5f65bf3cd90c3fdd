// The sweeps of dense_similarity with neighbouring pixels in the lanes: an image of the tile is
// packed as [channels][width]. Serves NCHW and every layout but channels_last.
#pragma once

#include "dense_tile.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

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
  static void pack(const Source<S>& from, const Soon<S>& prefetched, const DenseTile<A>& t,
                   A* packed, A* norms, const Others<A>& others, A* dots) {
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
              const Vec<A> other = load(sum + i) - load(own + i) * scales[v];
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
  static void dot(const DenseTile<A>& t, const A* packed, const Others<A>& others, A* dots) {
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

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

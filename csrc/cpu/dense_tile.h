// Scratch of one tile of dense_similarity, and what its sweeps read.
//
// dense_pixels.h and dense_channels.h lay lanes over it in two ways; both offer the same sweeps to
// dense_similarity.cpp.
#pragma once

#include "runs.h"

namespace fastalign::FASTALIGN_ISA {
namespace {

constexpr int64_t kFold = 64;  // terms added up before a partial sum is folded in

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

// sum - own * own_scale, the sum over the other images, is what dots and gradients are made of; it
// is left in `rest`.
template <class A>
struct Others {
  const A *sum, *own, *own_scale;
  A* rest;
};

}  // namespace
}  // namespace fastalign::FASTALIGN_ISA

// Moving runs of pixels between tensors of any layout and dense scratch rows.
#pragma once

#include <initializer_list>

#include "scratch.h"
#include "simd.h"
#include "view.h"

namespace fastalign::FASTALIGN_ISA {

// The pixels of one channel plane in row-major order. `flat` planes need one multiplication per
// pixel; others are walked row by row.
struct PixelWalk {
  int64_t width, row_stride, pixel_stride;
  bool flat;
};

FASTALIGN_INLINE PixelWalk pixel_walk(int64_t height, int64_t width, int64_t row_stride,
                                      int64_t pixel_stride) {
  const bool flat = height == 1 || row_stride == width * pixel_stride;
  return {width, row_stride, pixel_stride, flat};
}

FASTALIGN_INLINE PixelWalk pixel_walk(const View4& view) {
  return pixel_walk(view.height(), view.width(), view.stride[2], view.stride[3]);
}

FASTALIGN_INLINE int64_t pixel_offset(const PixelWalk& walk, int64_t pixel) {
  return walk.flat
             ? pixel * walk.pixel_stride
             : (pixel / walk.width) * walk.row_stride + (pixel % walk.width) * walk.pixel_stride;
}

// Calls piece(offset, done, length) for each stretch of constant pixel stride.
template <class Piece>
FASTALIGN_INLINE void for_each_stretch(const PixelWalk& walk, int64_t first, int64_t count,
                                       Piece&& piece) {
  if (walk.flat) {
    piece(first * walk.pixel_stride, int64_t{0}, count);
    return;
  }
  int64_t done = 0;
  while (done < count) {
    const int64_t column = (first + done) % walk.width;
    const int64_t length = smaller(walk.width - column, count - done);
    piece(pixel_offset(walk, first + done), done, length);
    done += length;
  }
}

template <class S>
FASTALIGN_INLINE void read_stretch(const S* from, int64_t stride, int64_t count, Acc<S>* to) {
  using A = Acc<S>;
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes<A> <= count; i += kLanes<A>) {
      store(to + i, load_acc(from + i));
    }
  }
  for (; i < count; ++i) {
    to[i] = to_acc(from[i * stride]);
  }
}

template <class S>
FASTALIGN_INLINE void write_stretch(S* to, int64_t stride, int64_t count, const Acc<S>* from) {
  using A = Acc<S>;
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes<A> <= count; i += kLanes<A>) {
      store_acc(to + i, load(from + i));
    }
  }
  for (; i < count; ++i) {
    to[i * stride] = from_acc<S>(from[i]);
  }
}

// Reads `count` pixels and fills up to `padded` with zeros.
template <class S>
FASTALIGN_INLINE void read_run(const S* plane, const PixelWalk& walk, int64_t first, int64_t count,
                               int64_t padded, Acc<S>* to) {
  for_each_stretch(walk, first, count, [&](int64_t offset, int64_t done, int64_t length) {
    read_stretch(plane + offset, walk.pixel_stride, length, to + done);
  });
  for (int64_t i = count; i < padded; ++i) {
    to[i] = 0;
  }
}

template <class S>
FASTALIGN_INLINE void write_run(S* plane, const PixelWalk& walk, int64_t first, int64_t count,
                                const Acc<S>* from) {
  for_each_stretch(walk, first, count, [&](int64_t offset, int64_t done, int64_t length) {
    write_stretch(plane + offset, walk.pixel_stride, length, from + done);
  });
}

// Results from here on bypass the caches, which would fetch each line before it is written
// (docs/kernels.md, "CPU kernels").
constexpr int64_t kStreamedBytes = 2 * 1024 * 1024;
constexpr int64_t kLineBytes = 64;

// Whether all rows consist of whole cache lines: others cannot be streamed.
FASTALIGN_INLINE bool has_whole_lines(const View4& view, int64_t size) {
  bool whole = view.stride[3] == 1 && reinterpret_cast<uintptr_t>(view.data) % kLineBytes == 0;
  for (int64_t elements : {view.width(), view.stride[0], view.stride[1], view.stride[2]}) {
    whole = whole && elements * size % kLineBytes == 0;
  }
  return whole;
}

template <class S>
FASTALIGN_INLINE S* plane_of(const View4& view, int64_t image, int64_t channel) {
  return static_cast<S*>(view.data) + image * view.stride[0] + channel * view.stride[1];
}

// Calls fn.template operator()<S>() for the storage type of a tensor.
template <class Fn>
FASTALIGN_INLINE auto with_storage(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::float64:
      return fn(double{});
    case DType::float16:
      return fn(Half{});
    case DType::bfloat16:
      return fn(BFloat16{});
    default:
      return fn(float{});
  }
}

}  // namespace fastalign::FASTALIGN_ISA

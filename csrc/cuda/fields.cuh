// Tensors as kernels see them: a pointer and strides, and the way from a location to an offset.
#pragma once

#include "launch.h"
#include "launchers.h"

namespace fastalign::cuda {

// [B, C, H, W] of any strides, in elements.
template <class T>
struct Field {
  T* data;
  int64_t image, channel, row, column;
};

template <class T>
Field<T> field_of(const View4& view) {
  return {static_cast<T*>(view.data), view.stride[0], view.stride[1], view.stride[2],
          view.stride[3]};
}

// [B, H, W] of any strides.
template <class T>
struct Map {
  const T* data;
  int64_t image, row, column;
};

template <class T>
Map<T> map_of(const View3& view) {
  return {static_cast<const T*>(view.data), view.stride[0], view.stride[1], view.stride[2]};
}

// Row and column of a location, once for all tensors. Locations of a plane and each of its sides
// may be more than 32 bits hold, but not both at once: kernels see sides of less than 2^31.
struct Pixel {
  int row, column;

  template <class F>
  FASTALIGN_DEVICE int64_t in(const F& field) const {
    return row * field.row + column * field.column;
  }
};

// The width of a plane, and what stands for a division of 64 bits by it, which would be a call.
struct Rows {
  int width;
  double inverse;
};

inline Rows rows_of(int64_t width) {
  return {static_cast<int>(width), 1.0 / static_cast<double>(width)};
}

FASTALIGN_DEVICE Pixel pixel_at(int64_t location, const Rows& rows) {
  if (location < (int64_t{1} << 31)) {
    const auto small = static_cast<unsigned>(location), by = static_cast<unsigned>(rows.width);
    return {static_cast<int>(small / by), static_cast<int>(small % by)};
  }
  int64_t row = static_cast<int64_t>(static_cast<double>(location) * rows.inverse);
  row -= row * rows.width > location ? 1 : 0;
  row += (row + 1) * rows.width <= location ? 1 : 0;
  return {static_cast<int>(row), static_cast<int>(location - row * rows.width)};
}

// What these kernels cannot count to, in words; null for all else.
inline Error too_large(const View4& view) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  for (const int64_t size : view.size) {
    if (size > kMost) {
      return "a dimension has 2^31 or more elements";
    }
  }
  return nullptr;
}

// Scratch memory handed out in pieces of multiples of 256 bytes.
struct Pieces {
  unsigned char* memory;
  int64_t used;

  template <class T>
  T* take(int64_t count) {
    T* piece = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + used);
    used += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    return piece;
  }
};

}  // namespace fastalign::cuda

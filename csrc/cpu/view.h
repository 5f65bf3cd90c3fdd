// Torch-free description of a dense or strided tensor: what register.cpp hands to the kernels.
#pragma once

#include <cstdint>

namespace fastalign {

enum class DType : int32_t { float32, float64, float16, bfloat16 };

// [batch, channels, height, width]; strides count elements and may be zero or negative.
struct View4 {
  void* data;
  DType dtype;
  int64_t size[4];
  int64_t stride[4];

  int64_t batch() const { return size[0]; }
  int64_t channels() const { return size[1]; }
  int64_t height() const { return size[2]; }
  int64_t width() const { return size[3]; }
  int64_t pixels() const { return size[2] * size[3]; }
};

// [batch, height, width] with strides; bool masks and per-location gradients.
struct View3 {
  const void* data;
  int64_t stride[3];
};

}  // namespace fastalign

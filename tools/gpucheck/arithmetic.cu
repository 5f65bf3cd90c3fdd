// What the CUDA kernels rely on of the chip's arithmetic and its conversions, where the simulated
// GPU of the tests runs other instructions: one thread a value, results to be compared on the host.
//
// arithmetic(name, a, b, c, out, count, stream): null, or what is wrong. Arrays of `count` values
// on the device, of the types that the table at the end gives.
#include <cstring>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/lengths.cuh"

namespace {

using namespace fastalign;
using namespace fastalign::cuda;

template <class A, class R, class Function>
FASTALIGN_KERNEL(256)
each(Function function, const A* a, const A* b, const A* c, R* out, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) {
    out[i] = function(a[i], b[i], c[i]);
  }
}

struct Fma {
  template <class T>
  FASTALIGN_DEVICE T operator()(T a, T b, T c) const {
    return fma(a, b, c);
  }
};
struct InverseLength {
  FASTALIGN_DEVICE float operator()(float a, float, float) const { return inverse_length(a); }
};
struct LargerOrNan {
  FASTALIGN_DEVICE float operator()(float a, float b, float) const { return larger_or_nan(a, b); }
};
struct ToBFloat16 {
  FASTALIGN_DEVICE uint16_t operator()(float a, float, float) const {
    return float_to_bfloat16(a).bits;
  }
};
struct ToHalf {
  FASTALIGN_DEVICE uint16_t operator()(float a, float, float) const {
    return float_to_half(a).bits;
  }
};
struct FromHalf {
  FASTALIGN_DEVICE float operator()(uint16_t a, uint16_t, uint16_t) const {
    return half_to_float(Half{a});
  }
};
struct Floor {
  FASTALIGN_DEVICE double operator()(double a, double, double) const { return floor_of(a); }
};
template <class R>
struct ToInteger {
  FASTALIGN_DEVICE R operator()(double a, double, double) const { return static_cast<R>(a); }
};

template <class A, class R, class Function>
Error run(Function function, const void* a, const void* b, const void* c, void* out, int64_t count,
          Stream stream) {
  return FASTALIGN_LAUNCH((each<A, R, Function>), dim3(static_cast<unsigned>(ceil_div(count, 256))),
                          dim3(256), 0, stream, function, static_cast<const A*>(a),
                          static_cast<const A*>(b), static_cast<const A*>(c), static_cast<R*>(out),
                          count);
}

}  // namespace

extern "C" const char* arithmetic(const char* name, const void* a, const void* b, const void* c,
                                  void* out, int64_t count, void* stream) {
  const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("fma_float32"))
    return run<float, float>(Fma{}, a, b, c, out, count, stream);
  if (is("fma_float64"))
    return run<double, double>(Fma{}, a, b, c, out, count, stream);
  if (is("inverse_length"))
    return run<float, float>(InverseLength{}, a, b, c, out, count, stream);
  if (is("larger_or_nan"))
    return run<float, float>(LargerOrNan{}, a, b, c, out, count, stream);
  if (is("to_bfloat16"))
    return run<float, uint16_t>(ToBFloat16{}, a, b, c, out, count, stream);
  if (is("to_half"))
    return run<float, uint16_t>(ToHalf{}, a, b, c, out, count, stream);
  if (is("from_half"))
    return run<uint16_t, float>(FromHalf{}, a, b, c, out, count, stream);
  if (is("floor"))
    return run<double, double>(Floor{}, a, b, c, out, count, stream);
  if (is("to_int32"))
    return run<double, int32_t>(ToInteger<int32_t>{}, a, b, c, out, count, stream);
  if (is("to_int64"))
    return run<double, int64_t>(ToInteger<int64_t>{}, a, b, c, out, count, stream);
  return "there is no such function";
}

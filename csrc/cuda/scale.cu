// Launches scale.
#include "scale.cuh"

#include "device.h"
#include "launchers.h"

namespace fastalign::cuda {
namespace {

template <class T, int V>
Error launch_scale(const ScaleArgs& args, Stream stream) {
  const int64_t blocks = ceil_div(ceil_div(args.count, V), kScaleThreads);
  const int64_t most = 8 * static_cast<int64_t>(current_device().multiprocessors);
  const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most));
  return FASTALIGN_LAUNCH((scale_in_place<T, V>), grid, dim3(kScaleThreads), 0, stream,
                          static_cast<T*>(args.data), args.count, args.factor);
}

template <class T>
Error launch_type(const ScaleArgs& args, Stream stream) {
  return vector_aligned(16, args.data) ? launch_scale<T, kVec<T>>(args, stream)
                                       : launch_scale<T, 1>(args, stream);
}

}  // namespace

Error scale(const ScaleArgs& args, Stream stream) {
  switch (args.dtype) {
    case DType::float16:
      return launch_type<Half>(args, stream);
    case DType::bfloat16:
      return launch_type<BFloat16>(args, stream);
    default:
      return launch_type<float>(args, stream);
  }
}

}  // namespace fastalign::cuda

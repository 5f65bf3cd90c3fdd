// Launcher of mahalanobis' gradients.
#include "mahalanobis_backward.cuh"

#include "mahalanobis_launch.h"

namespace fastalign::cuda {
namespace {

template <class W>
Error launch_as(const GaussianLaunch& launch, const GaussianWork& work, Stream stream) {
  const dim3 grid(static_cast<unsigned>(launch.blocks));
  const auto shared = static_cast<size_t>(launch.shared_bytes);
  return launch.images_per_read == 4 ? FASTALIGN_LAUNCH((mahalanobis_gradients<W, 4>), grid,
                                                        launch.threads, shared, stream, work)
                                     : FASTALIGN_LAUNCH((mahalanobis_gradients<W, 1>), grid,
                                                        launch.threads, shared, stream, work);
}

}  // namespace

Error mahalanobis_backward(const MahalanobisArgs& args, Stream stream) {
  const GaussianLaunch launch = plan_gaussian(args, current_device(), true);
  if (launch.shared_bytes == 0) {
    return args.forced == nullptr ? kTooManyChannels : kPlanRefused;
  }
  GaussianWork work{args, launch.plan};
  work.plan.factor_sums = static_cast<float*>(args.scratch);
  return args.whitener_dtype == DType::float16    ? launch_as<Half>(launch, work, stream)
         : args.whitener_dtype == DType::bfloat16 ? launch_as<BFloat16>(launch, work, stream)
                                                  : launch_as<float>(launch, work, stream);
}

}  // namespace fastalign::cuda

// Launcher of mahalanobis, forward; hands calls with a gradient to mahalanobis_backward.cu, and
// those of the low-rank form to mahalanobis_low_rank.cu.
#include "mahalanobis.cuh"

#include "mahalanobis_launch.h"

namespace fastalign::cuda {
namespace {

template <class W>
Error launch_as(const GaussianLaunch& launch, const GaussianWork& work, Stream stream) {
  const dim3 grid(static_cast<unsigned>(launch.blocks), static_cast<unsigned>(work.plan.parts));
  const auto shared = static_cast<size_t>(launch.shared_bytes);
  switch (launch.images_per_read) {
    case kManyImages:
      return FASTALIGN_LAUNCH((mahalanobis_forward<W, kManyImages>), grid, launch.threads, shared,
                              stream, work);
    case 4:
      return FASTALIGN_LAUNCH((mahalanobis_forward<W, 4>), grid, launch.threads, shared, stream,
                              work);
    default:
      return FASTALIGN_LAUNCH((mahalanobis_forward<W, 1>), grid, launch.threads, shared, stream,
                              work);
  }
}

Error forward(const MahalanobisArgs& args, Stream stream) {
  const GaussianLaunch launch = plan_gaussian(args, current_device(), false);
  if (launch.shared_bytes == 0) {
    return args.forced == nullptr ? kTooManyChannels : kPlanRefused;
  }
  GaussianWork work{args, launch.plan};
  work.plan.partial = static_cast<float*>(args.scratch);
  Error error = args.whitener_dtype == DType::float16    ? launch_as<Half>(launch, work, stream)
                : args.whitener_dtype == DType::bfloat16 ? launch_as<BFloat16>(launch, work, stream)
                                                         : launch_as<float>(launch, work, stream);
  if (error == nullptr && launch.plan.parts > 1) {
    const int64_t count = args.x.size[0] * args.x.size[2] * args.x.size[3];
    const dim3 grid(static_cast<unsigned>(ceil_div(count, kGaussianThreads)));
    error = FASTALIGN_LAUNCH(mahalanobis_finish, grid, kGaussianThreads, 0, stream, args,
                             work.plan.partial, launch.plan.parts);
  }
  return error;
}

}  // namespace

int64_t mahalanobis_scratch(const MahalanobisArgs& args) {
  if (args.low_rank) {
    return low_rank_scratch(args);
  }
  const bool backward = args.grad.data != nullptr;
  const GaussianLaunch launch = plan_gaussian(args, current_device(), backward);
  const int64_t pixels = args.x.size[2] * args.x.size[3];
  if (backward) {
    const bool sums = args.dwhitener != nullptr && args.whitener_dtype != DType::float32 &&
                      launch.plan.images < args.x.size[0];
    return sums ? pixels * packed_size(args.x.size[1]) * 4 : 0;
  }
  return launch.plan.parts > 1 ? launch.plan.parts * args.x.size[0] * pixels * 12 : 0;
}

Error mahalanobis(const MahalanobisArgs& args, Stream stream) {
  if (args.x.size[2] * args.x.size[3] > INT32_MAX - 16) {
    return kTooManyLocations;  // kernels count them in 32 bits
  }
  if (args.low_rank) {
    return mahalanobis_low_rank(args, stream);
  }
  return args.grad.data != nullptr ? mahalanobis_backward(args, stream) : forward(args, stream);
}

}  // namespace fastalign::cuda

// Launcher of mahalanobis' low-rank form, forward and backward.
#include "mahalanobis_low_rank.cuh"

#include "device.h"
#include "mahalanobis_launch.h"

namespace fastalign::cuda {
namespace {

// None of these was timed: estimates, from what fits.
//
// Bytes of V in shared memory where it crosses memory once anyway: three blocks fit the smallest
// chip's 99 KiB. Elsewhere V may have half of what a block may ask for.
constexpr int64_t kStage = 30 * 1024;
// That a grid should have at least, so that few locations of many images fill the device.
constexpr int kBlocksPerProcessor = 4;

struct LowRankLaunch {
  LowRankPlan plan;
  int images;  // of a tile: 1 or 4
  int threads;
  dim3 grid;
  int64_t shared_bytes;  // 0: does not fit this device
};

// Whether what is forced of the plan can be had: images, and one location of whole rows a block.
bool serves(const MahalanobisArgs& args, bool backward) {
  const auto is_one = [&](PlanField field) { return forced(args.forced, field) <= 1; };
  return backward ? is_one(PlanField::mahalanobis_backward_cuda_locations) &&
                        is_one(PlanField::mahalanobis_backward_cuda_stages)
                  : is_one(PlanField::mahalanobis_cuda_locations) &&
                        is_one(PlanField::mahalanobis_cuda_parts) &&
                        forced(args.forced, PlanField::mahalanobis_cuda_images) <= 4;
}

LowRankLaunch plan_low_rank(const MahalanobisArgs& args, const Device& device, bool backward) {
  const int64_t batch = args.x.size[0], channels = args.x.size[1], rank = args.rank;
  const int64_t pixels = args.x.size[2] * args.x.size[3];
  const int64_t each = args.whitener_dtype == DType::float32 ? 4 : 2;
  const int64_t row_bytes = channels * each;
  const int only = forced(args.forced, backward ? PlanField::mahalanobis_backward_cuda_images
                                                : PlanField::mahalanobis_cuda_images);
  LowRankLaunch launch{};
  LowRankPlan& plan = launch.plan;
  launch.threads = static_cast<int>(ceil_div(channels < 1 ? 1 : channels, 32) * 32);
  launch.threads = launch.threads < kLowRankThreads ? launch.threads : kLowRankThreads;
  if (!serves(args, backward)) {
    return launch;
  }
  const auto fits = [&](int images, int64_t rows) {
    plan.rows = static_cast<int>(rows);
    plan.chunks = rank <= rows ? 1 : static_cast<int>(ceil_div(rank, rows));
    plan.stage_bytes = static_cast<int>(ceil_div(rows * row_bytes, 16) * 16 + 16);
    const int64_t vectors = 1 + (plan.chunks > 1 || backward) + (plan.chunks > 1 && backward);
    launch.images = images;
    launch.shared_bytes = plan.stage_bytes +
                          images * 4 * (vectors * channels + (backward ? 2 : 1) * rank) +
                          launch.threads / 32 * images * int64_t{sizeof(Squares)};
    return launch.shared_bytes <= device.shared_bytes;
  };
  const int usual = batch == 1 ? 1 : 4;
  for (const int images : {only == 0 ? usual : only, only == 0 ? 1 : only}) {
    const bool once = !backward && batch <= images;
    const int64_t whole = once ? kStage : device.shared_bytes / 2;
    const int64_t some = row_bytes == 0 ? rank : kStage / row_bytes / kLowRankRows * kLowRankRows;
    const int64_t rows = rank * row_bytes <= whole ? rank : some;
    if ((rows > 0 || rank == 0) && fits(images, rows)) {
      break;
    }
    if (fits(images, kLowRankRows) || fits(images, 1)) {
      break;
    }
    launch.shared_bytes = 0;
  }
  if (launch.shared_bytes == 0) {
    return launch;
  }
  const int64_t tiles = ceil_div(batch, launch.images);
  const int64_t wanted = int64_t{device.multiprocessors} * kBlocksPerProcessor;
  const int64_t shares = backward || pixels >= wanted ? 1 : ceil_div(wanted, pixels);
  plan.tiles = static_cast<int>(ceil_div(tiles, shares < tiles ? shares : tiles));
  launch.grid =
      dim3(static_cast<unsigned>(pixels), static_cast<unsigned>(ceil_div(tiles, plan.tiles)));
  return launch;
}

template <class W, int N>
Error launch_as(const LowRankLaunch& launch, const LowRankWork& work, Stream stream) {
  const auto shared = static_cast<size_t>(launch.shared_bytes);
  return work.args.grad.data != nullptr ? FASTALIGN_LAUNCH((low_rank_gradients<W, N>), launch.grid,
                                                           launch.threads, shared, stream, work)
                                        : FASTALIGN_LAUNCH((low_rank_forward<W, N>), launch.grid,
                                                           launch.threads, shared, stream, work);
}

template <class W>
Error launch_of(const LowRankLaunch& launch, const LowRankWork& work, Stream stream) {
  return launch.images == 4 ? launch_as<W, 4>(launch, work, stream)
                            : launch_as<W, 1>(launch, work, stream);
}

}  // namespace

int64_t low_rank_scratch(const MahalanobisArgs& args) {
  const LowRankLaunch launch = plan_low_rank(args, current_device(), args.grad.data != nullptr);
  const bool sums = args.dwhitener != nullptr && args.whitener_dtype != DType::float32 &&
                    launch.images < args.x.size[0];
  return sums ? args.x.size[2] * args.x.size[3] * args.rank * args.x.size[1] * 4 : 0;
}

Error mahalanobis_low_rank(const MahalanobisArgs& args, Stream stream) {
  const LowRankLaunch launch = plan_low_rank(args, current_device(), args.grad.data != nullptr);
  if (launch.shared_bytes == 0) {
    return args.forced == nullptr ? kTooManyChannels : kPlanRefused;
  }
  LowRankWork work{args, launch.plan};
  work.plan.sums = static_cast<float*>(args.scratch);
  return args.whitener_dtype == DType::float16    ? launch_of<Half>(launch, work, stream)
         : args.whitener_dtype == DType::bfloat16 ? launch_of<BFloat16>(launch, work, stream)
                                                  : launch_of<float>(launch, work, stream);
}

}  // namespace fastalign::cuda

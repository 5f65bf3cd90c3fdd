// Launches pairwise_distance: the order of groups, the variant that fits, the loss.
#include "pairwise_distance.cuh"

#include "device.h"
#include "pairwise_squared.cuh"

namespace fastalign::cuda {
namespace {

enum class PairVariant { tiles, any, squared };

struct PairPlan {
  PairVariant variant;
  int threads;
  int64_t tiles;            // of locations
  int64_t blocks, splits;   // grid
  int64_t shared, spilled;  // bytes; floats for a block
};

// The most threads whose columns of `each` bytes fit, down to a warp; 0 if none do. Of `forced`
// threads, those or none.
int threads_that_fit(int64_t each, int64_t limit, int forced) {
  if (forced != 0) {
    return kSumBytes + forced * each <= limit ? forced : 0;
  }
  int threads = kPairThreads;
  while (threads >= 32 && kSumBytes + threads * each > limit) {
    threads /= 2;
  }
  return threads >= 32 ? threads : 0;
}

// Measured on one H200 (benchmarks/results/gpu/nvidia-h200-counters.md), 32x3x224x224 float32, loss
// and gradient: 55.3 us, 0.99 waves, 18 % of the warps active, 62 % of the issue slots and 8 % of
// the memory's peak, so instructions are the limit. The quarter of shared memory and the two blocks
// a multiprocessor below were not timed alone: they are estimates. 151 registers allow three blocks
// of 128 threads anyway, which is what a quarter of 227 KiB gives. The way to time them:
//   python benchmarks/ops.py --device cuda --only pairwise --plan "pairwise_distance.cuda: threads,
//       splits"
//
// threads == 0: what is forced does not fit.
PairPlan pair_plan(const PairwiseDistanceArgs& args, const Device& device) {
  const int64_t batch = args.h.batch(), channels = args.h.channels(), pixels = args.h.pixels();
  const int64_t limit = device.shared_bytes;
  const int threads = forced(args.forced, PlanField::pairwise_distance_cuda_threads);
  const int64_t splits = forced(args.forced, PlanField::pairwise_distance_cuda_splits);
  PairPlan plan{};
  plan.splits = 1;
  if (!args.squared && (channels == 1 || channels == 3)) {
    const int64_t each = batch * channels * 4;
    // A quarter of the chip's shared memory a block, so that four share it; then whatever fits.
    plan.threads = threads_that_fit(each, limit / 4, threads);
    plan.threads = plan.threads > 0 ? plan.threads : threads_that_fit(each, limit, threads);
    if (plan.threads > 0) {
      plan.variant = PairVariant::tiles;
      plan.tiles = plan.blocks = ceil_div(pixels, plan.threads);
      plan.shared = kSumBytes + plan.threads * each;
      const int64_t wanted = ceil_div(2 * device.multiprocessors, plan.blocks);
      const int64_t most = ceil_div(batch, kPairImages);
      plan.splits = wanted < most ? wanted : most;
      plan.splits = splits == 0 ? plan.splits : splits;
      return plan.splits <= most ? plan : PairPlan{};
    }
  }
  plan.variant = args.squared ? PairVariant::squared : PairVariant::any;
  const bool kept = args.squared || args.dh.data != nullptr;
  plan.threads =
      kept ? threads_that_fit(batch * 4, limit, threads)
           : forced_or(args.forced, PlanField::pairwise_distance_cuda_threads, kPairThreads);
  const bool spill = plan.threads == 0;
  plan.threads = spill ? 32 : plan.threads;
  plan.tiles = ceil_div(pixels, plan.threads);
  plan.blocks = plan.tiles;
  if (!args.squared) {
    constexpr int64_t kMostRows = 65535;  // of a grid
    plan.splits = batch < kMostRows ? batch : kMostRows;
  }
  if (spill && !args.squared) {  // each block in flight needs its own memory
    plan.splits = 1;
    plan.blocks = plan.tiles < 4 * device.multiprocessors ? plan.tiles : 4 * device.multiprocessors;
  }
  const int64_t most = plan.splits;
  plan.splits = splits == 0 ? most : splits;
  if ((spill && threads > 32) || plan.splits > most) {
    return PairPlan{};
  }
  plan.shared = kSumBytes + (kept && !spill ? batch * 4 * plan.threads : 0);
  plan.spilled = spill ? batch * plan.threads : 0;
  return plan;
}

struct PairScratch {
  int* groups;
  double* partial;
  float* spill;
  int64_t bytes;
};

PairScratch pair_scratch(const PairwiseDistanceArgs& args, const PairPlan& plan) {
  Pieces pieces{static_cast<unsigned char*>(args.scratch), 0};
  PairScratch scratch{};
  scratch.groups = pieces.take<int>(args.groups.data == nullptr ? 0 : 3 * args.h.batch());
  scratch.partial = pieces.take<double>(args.loss == nullptr ? 0 : plan.blocks * plan.splits);
  scratch.spill = pieces.take<float>(plan.blocks * plan.splits * plan.spilled);
  scratch.bytes = pieces.used;
  return scratch;
}

double pair_elements(const PairwiseDistanceArgs& args) {
  return static_cast<double>(args.h.batch()) * static_cast<double>(args.h.pixels());
}

template <class T>
PairTask<T> pair_task(const PairwiseDistanceArgs& args, const PairPlan& plan,
                      const PairScratch& scratch, const GroupOrder& groups) {
  PairTask<T> task{};
  task.h = field_of<const T>(args.h);
  task.dh = field_of<T>(args.dh);
  task.mask = map_of<unsigned char>(args.mask);
  task.grad = map_of<float>(args.grad);
  task.value = args.value;
  task.partial = args.loss == nullptr ? nullptr : scratch.partial;
  task.groups = groups;
  task.batch = static_cast<int>(args.h.batch());
  task.channels = static_cast<int>(args.h.channels());
  task.rows = rows_of(args.h.width());
  task.pixels = args.h.pixels();
  task.weight = static_cast<float>(1.0 / pair_elements(args));
  task.spill = plan.spilled > 0 ? scratch.spill : nullptr;
  return task;
}

template <class T, int C>
Error launch_pair_tiles(const PairTask<T>& task, dim3 grid, dim3 block, size_t shared,
                        Stream stream) {
  if (task.dh.data == nullptr) {
    return FASTALIGN_LAUNCH((pair_tiles<T, C, false>), grid, block, shared, stream, task);
  }
  return FASTALIGN_LAUNCH((pair_tiles<T, C, true>), grid, block, shared, stream, task);
}

template <class T>
Error launch_pairs(const PairTask<T>& task, const PairPlan& plan, Stream stream) {
  const dim3 grid(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.splits));
  const dim3 block(static_cast<unsigned>(plan.threads));
  const auto shared = static_cast<size_t>(plan.shared);
  switch (plan.variant) {
    case PairVariant::tiles:
      return task.channels == 3 ? launch_pair_tiles<T, 3>(task, grid, block, shared, stream)
                                : launch_pair_tiles<T, 1>(task, grid, block, shared, stream);
    case PairVariant::squared:
      return FASTALIGN_LAUNCH((pair_squared<T>), grid, block, shared, stream, task);
    default:
      return FASTALIGN_LAUNCH((pair_any<T>), grid, block, shared, stream, task, plan.tiles);
  }
}

}  // namespace

int64_t pairwise_distance_scratch(const PairwiseDistanceArgs& args) {
  PairwiseDistanceArgs unplaced = args;
  unplaced.scratch = nullptr;
  return pair_scratch(unplaced, pair_plan(args, current_device())).bytes;
}

Error pairwise_distance(const PairwiseDistanceArgs& args, Stream stream) {
  const PairPlan plan = pair_plan(args, current_device());
  const PairScratch scratch = pair_scratch(args, plan);
  if (const Error refused = too_large(args.h)) {
    return refused;
  }
  if (plan.threads == 0) {
    return kPlanRefused;
  }
  GroupOrder groups;
  Error error = enqueue_groups(args.groups, static_cast<int>(args.h.batch()), scratch.groups,
                               stream, &groups);
  if (error == nullptr) {
    switch (args.h.dtype) {
      case DType::float16:
        error = launch_pairs(pair_task<Half>(args, plan, scratch, groups), plan, stream);
        break;
      case DType::bfloat16:
        error = launch_pairs(pair_task<BFloat16>(args, plan, scratch, groups), plan, stream);
        break;
      default:
        error = launch_pairs(pair_task<float>(args, plan, scratch, groups), plan, stream);
    }
  }
  if (error == nullptr && args.loss != nullptr) {
    error = enqueue_finish_loss(scratch.partial, plan.blocks * plan.splits,
                                1.0 / pair_elements(args), args.loss, stream);
  }
  return error;
}

}  // namespace fastalign::cuda

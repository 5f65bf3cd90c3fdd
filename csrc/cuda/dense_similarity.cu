// Launches dense_similarity: the order of groups, the tiles, the loss.
#include "dense_similarity.cuh"

#include "dense_plan.h"

namespace fastalign::cuda {
namespace {

struct DenseScratch {
  int* groups;
  double* partial;
  float* spill;
  int64_t bytes;
};

DenseScratch dense_scratch(const DenseSimilarityArgs& args, const DensePlan& plan) {
  Pieces pieces{static_cast<unsigned char*>(args.scratch), 0};
  DenseScratch scratch{};
  scratch.groups = pieces.take<int>(args.groups.data == nullptr ? 0 : 3 * args.p.batch());
  scratch.partial = pieces.take<double>(args.loss == nullptr ? 0 : plan.tiles);
  scratch.spill = pieces.take<float>(plan.spill ? plan.tiles * plan.spilled : 0);
  scratch.bytes = pieces.used;
  return scratch;
}

template <class T>
DenseTask<T> dense_task(const DenseSimilarityArgs& args, const DensePlan& plan,
                        const DenseScratch& scratch, const GroupOrder& groups) {
  const double elements =
      static_cast<double>(args.p.batch()) * static_cast<double>(args.p.pixels());
  DenseTask<T> task{};
  task.p = field_of<const T>(args.p);
  task.z = field_of<const T>(args.z);
  task.dp = field_of<T>(args.dp);
  task.dz = field_of<T>(args.dz);
  task.grad = map_of<float>(args.grad);
  task.value = args.value;
  task.partial = args.loss == nullptr ? nullptr : scratch.partial;
  task.groups = groups;
  task.batch = static_cast<int>(args.p.batch());
  task.channels = static_cast<int>(args.p.channels());
  task.rows = rows_of(args.p.width());
  task.pixels = args.p.pixels();
  task.weight = static_cast<float>(-1.0 / elements);
  task.lanes = plan.lanes;
  task.steps = plan.steps;
  task.channels_first = plan.channels_first;
  task.held = plan.held;
  task.staged = plan.staged;
  task.spill = plan.spill ? scratch.spill : nullptr;
  return task;
}

template <class T, int V, int N>
Error launch_tiles(const DenseTask<T>& task, const DensePlan& plan, Stream stream) {
  const dim3 grid(static_cast<unsigned>(plan.tiles));
  const dim3 block(static_cast<unsigned>(32 * plan.warps));
  const auto shared = static_cast<size_t>(plan.shared);
  if (task.dz.data != nullptr) {
    return FASTALIGN_LAUNCH((dense_similarity_tile<T, V, N, true>), grid, block, shared, stream,
                            task);
  }
  return FASTALIGN_LAUNCH((dense_similarity_tile<T, V, N, false>), grid, block, shared, stream,
                          task);
}

template <class T>
Error launch_type(const DenseSimilarityArgs& args, const DensePlan& plan,
                  const DenseScratch& scratch, const GroupOrder& groups, Stream stream) {
  const DenseTask<T> task = dense_task<T>(args, plan, scratch, groups);
  if (!plan.vectors) {
    return launch_tiles<T, 1, 1>(task, plan, stream);
  }
  return plan.channels_last ? launch_tiles<T, kVec<T>, 1>(task, plan, stream)
                            : launch_tiles<T, 4, 4>(task, plan, stream);
}

}  // namespace

int64_t dense_similarity_scratch(const DenseSimilarityArgs& args) {
  DenseSimilarityArgs unplaced = args;
  unplaced.scratch = nullptr;
  return dense_scratch(unplaced, dense_plan(args, current_device())).bytes;
}

Error dense_similarity(const DenseSimilarityArgs& args, Stream stream) {
  const DensePlan plan = dense_plan(args, current_device());
  const DenseScratch scratch = dense_scratch(args, plan);
  if (const Error refused = too_large(args.p)) {
    return refused;
  }
  if (plan.lanes == 0) {
    return kPlanRefused;
  }
  GroupOrder groups;
  Error error = enqueue_groups(args.groups, static_cast<int>(args.p.batch()), scratch.groups,
                               stream, &groups);
  if (error == nullptr) {
    switch (args.p.dtype) {
      case DType::float16:
        error = launch_type<Half>(args, plan, scratch, groups, stream);
        break;
      case DType::bfloat16:
        error = launch_type<BFloat16>(args, plan, scratch, groups, stream);
        break;
      default:
        error = launch_type<float>(args, plan, scratch, groups, stream);
    }
  }
  if (error == nullptr && args.loss != nullptr) {
    const double elements =
        static_cast<double>(args.p.batch()) * static_cast<double>(args.p.pixels());
    error = enqueue_finish_loss(scratch.partial, plan.tiles, -1.0 / elements, args.loss, stream);
  }
  return error;
}

}  // namespace fastalign::cuda

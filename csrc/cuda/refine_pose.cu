// Launches refine_pose: the number of parameters, and whether the maps fit shared memory.
#include "refine_pose.cuh"

#include "device.h"

namespace fastalign::cuda {
namespace {

PoseTask pose_task(const RefinePoseArgs& args) {
  PoseTask task{};
  task.edges = args.edges;
  task.template_ = map_of<float>(args.template_);
  task.weight = map_of<float>(args.weight);
  task.theta = static_cast<const float*>(args.theta);
  task.theta_image = args.theta_stride[0];
  task.theta_candidate = args.theta_stride[1];
  task.theta_row = args.theta_stride[2];
  task.theta_column = args.theta_stride[3];
  task.generators = static_cast<const float*>(args.generators);
  task.parameters = static_cast<int>(args.parameters);
  task.candidates = args.candidates;
  task.iterations = args.iterations;
  task.refined = args.refined;
  task.correlation = args.correlation;
  return task;
}

// `maps`: bytes of shared memory for what is held.
template <int P, bool Held>
Error launch_refine(const RefinePoseArgs& args, int64_t maps, Stream stream) {
  const dim3 grid(static_cast<unsigned>(args.edges.batch() * args.candidates));
  const auto shared = sizeof(PoseShared<P>) + static_cast<size_t>(maps);
  return FASTALIGN_LAUNCH((refine_candidates<P, Held>), grid, dim3(kPoseThreads), shared, stream,
                          pose_task(args));
}

}  // namespace

// One kernel for each number of parameters that the families of maps have; the one for the most
// serves the others, and maps that no shared memory holds.
Error refine_pose(const RefinePoseArgs& args, Stream stream) {
  if (const Error refused = too_large(args.edges)) {
    return refused;
  }
  const int64_t maps = 2 * args.edges.pixels() * static_cast<int64_t>(sizeof(float));
  const auto most = static_cast<int64_t>(sizeof(PoseShared<kMostPoseParameters>));
  if (maps + most > current_device().shared_bytes) {
    return launch_refine<kMostPoseParameters, false>(args, 0, stream);
  }
  switch (args.parameters) {
    case 1:
      return launch_refine<1, true>(args, maps, stream);
    case 2:
      return launch_refine<2, true>(args, maps, stream);
    case 3:
      return launch_refine<3, true>(args, maps, stream);
    case 4:
      return launch_refine<4, true>(args, maps, stream);
    default:
      return launch_refine<kMostPoseParameters, true>(args, maps, stream);
  }
}

}  // namespace fastalign::cuda

// Launches anomaly_map: rows, then columns.
#include "anomaly_map.cuh"

#include "device.h"

namespace fastalign::cuda {
namespace {

MapTask map_task(const AnomalyMapArgs& args) {
  MapTask task{};
  task.distance = args.distance;
  task.evidence = {args.evidence.data, args.evidence.stride[0], args.evidence.stride[1],
                   args.evidence.stride[2]};
  task.is_mask = args.is_mask;
  task.taps = static_cast<const float*>(args.taps);
  task.count = static_cast<int>(args.count);
  task.theta = args.theta;
  task.frame = {static_cast<int32_t>(args.distance.height()),
                static_cast<int32_t>(args.distance.width()),
                static_cast<int32_t>(args.height),
                static_cast<int32_t>(args.width),
                Interpolation::bilinear,
                Padding::zeros,
                false};
  task.pairs = static_cast<float*>(args.scratch);
  task.value = args.value;
  task.share = args.share;
  return task;
}

}  // namespace

int64_t anomaly_map_scratch(const AnomalyMapArgs& args) {
  return args.distance.batch() * args.height * args.width * static_cast<int64_t>(sizeof(MapPair));
}

Error anomaly_map(const AnomalyMapArgs& args, Stream stream) {
  constexpr auto most = static_cast<int64_t>(kFixedRange);
  if (args.height >= most || args.width >= most || args.count >= most ||
      args.distance.height() >= most || args.distance.width() >= most) {
    return "anomaly_map: an axis has 2^30 pixels or more";
  }
  const MapTask task = map_task(args);
  const int64_t rows = map_blocks(args.distance.batch(), task.frame, kMapRows);
  const int64_t columns = map_blocks(args.distance.batch(), task.frame, kMapColumn);
  if (rows >= (int64_t{1} << 31)) {
    return "anomaly_map: more pixels than a grid has blocks for";
  }
  const int64_t places = kMapRows * (kMapThreads + args.count - 1);
  const auto held =
      static_cast<int64_t>(sizeof(WarpMap)) + places * static_cast<int64_t>(sizeof(MapPair));
  const dim3 grid(static_cast<unsigned>(rows)), block(kMapThreads);
  const Error error =
      held <= current_device().shared_bytes
          ? FASTALIGN_LAUNCH((map_rows<true>), grid, block, static_cast<size_t>(held), stream, task)
          : FASTALIGN_LAUNCH((map_rows<false>), grid, block, sizeof(WarpMap), stream, task);
  if (error != nullptr) {
    return error;
  }
  return FASTALIGN_LAUNCH(map_columns, dim3(static_cast<unsigned>(columns)), dim3(kMapThreads), 0,
                          stream, task);
}

}  // namespace fastalign::cuda

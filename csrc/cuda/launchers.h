// The seam between the op wrappers of csrc/host and the CUDA kernels: plain structs in, one
// launcher per op out. Nothing here knows torch or CUDA's headers.
//
// A launcher enqueues its work on the stream and returns; it neither waits nor allocates, so that
// it can be captured into a CUDA graph. It returns null, or the words of the launch error. All
// pointers are device pointers of the current device. Storage is float32, float16 or bfloat16,
// accumulation float32. Views of unwanted results have a null `data`. What is forced of the plan
// (common/plans.h) may be null.
#pragma once

#include <cstdint>

#include "../common/gaussian_inputs.h"
#include "../common/map_inputs.h"
#include "../common/plans.h"
#include "../common/pose_inputs.h"
#include "../common/warp_options.h"
#include "../cpu/view.h"

namespace fastalign::cuda {

using Stream = void*;  // cudaStream_t
using Error = const char*;

// Of a call whose plan is forced and does not serve it.
inline constexpr Error kPlanRefused =
    "the forced plan does not serve this call: it needs more shared memory than the device gives a "
    "block, or another layout, or is cut more finely than the data";

// Group labels [B], any values; null: all images are one group.
struct Labels {
  const int64_t* data;
  int64_t stride;
};

struct DenseSimilarityArgs {
  View4 p, z;
  Labels groups;
  View3 grad;    // float32 per-location gradient; data null: weights of the loss
  float* value;  // [B, H*W] contiguous, or null
  float* loss;   // one number, minus the mean of the value, or null
  View4 dp, dz;
  void* scratch;  // dense_similarity_scratch() bytes, aligned to 256
  const ForcedPlans* forced;
};

struct PairwiseDistanceArgs {
  View4 h;
  View3 mask;  // bool; data null: every location is valid
  Labels groups;
  bool squared;
  View3 grad;  // as above
  float* value;
  float* loss;
  View4 dh;
  void* scratch;
  const ForcedPlans* forced;
};

// theta [B, 2, 3], float32 or float64, any strides.
struct Theta {
  const void* data;
  DType dtype;
  int64_t stride[3];
};

struct WarpAffineArgs : WarpOptions {
  View4 x;
  Theta theta;
  View4 out;
  const ForcedPlans* forced;
};

struct WarpAffineBackwardArgs : WarpOptions {
  View4 grad, x;
  Theta theta;
  View4 dx;
  void* dtheta;  // [B, 2, 3] contiguous in theta's dtype, or null
  void* scratch;
  const ForcedPlans* forced;
};

struct MahalanobisArgs : GaussianInputs {
  float* value;  // [B, H*W] contiguous, or null
  View4 dx;
  float* dmean;     // [C, H*W] contiguous, or null
  void* dwhitener;  // as the whitener, contiguous, in its dtype, or null
  void* scratch;
  const ForcedPlans* forced;
};

struct RefinePoseArgs : PoseInputs {
  float* refined;      // [B, K, 2, 3] contiguous
  float* correlation;  // [B, K] contiguous
};

struct AnomalyMapArgs : AnomalyMapInputs {
  Theta theta;
  float* value;  // [B, H, W] contiguous
  float* share;  // as the value
  void* scratch;
};

// The gradient of a loss times the gradient that arrives at the loss.
struct ScaleArgs {
  void* data;  // [count], dense
  DType dtype;
  int64_t count;        // at least 1
  const float* factor;  // one number
};

// Bytes of device scratch that the launcher of the same name needs; 0: none.
int64_t dense_similarity_scratch(const DenseSimilarityArgs& args);
int64_t pairwise_distance_scratch(const PairwiseDistanceArgs& args);
int64_t warp_affine_backward_scratch(const WarpAffineBackwardArgs& args);
int64_t mahalanobis_scratch(const MahalanobisArgs& args);
int64_t anomaly_map_scratch(const AnomalyMapArgs& args);

Error dense_similarity(const DenseSimilarityArgs& args, Stream stream);
Error pairwise_distance(const PairwiseDistanceArgs& args, Stream stream);
Error warp_affine(const WarpAffineArgs& args, Stream stream);
Error warp_affine_backward(const WarpAffineBackwardArgs& args, Stream stream);
Error mahalanobis(const MahalanobisArgs& args, Stream stream);
Error refine_pose(const RefinePoseArgs& args, Stream stream);
Error anomaly_map(const AnomalyMapArgs& args, Stream stream);
Error scale(const ScaleArgs& args, Stream stream);

}  // namespace fastalign::cuda

// The seam between registration and kernels: plain structs in, one table of functions out.
//
// Every kernel source is compiled once per instruction set; select.cpp picks the table that
// this machine can run. Nothing here knows torch, so the same objects link into the test
// driver of tests/native.
#pragma once

#include <cstdint>

#include "../common/gaussian_inputs.h"
#include "../common/map_inputs.h"
#include "../common/pose_inputs.h"
#include "../common/warp_options.h"
#include "view.h"

namespace fastalign {

// What is forced of launch plans: common/plans.h.
struct ForcedPlans;

enum class Status : int32_t { ok, out_of_memory, plan_refused };

// A pool of threads. run() calls task(context, worker) once for each worker in [0, workers) and
// returns when all are done; tasks may run in any order or one after the other.
struct Workers {
  int64_t count;
  void (*run)(int64_t workers, void (*task)(void* context, int64_t worker), void* context);
  bool all = false;  // as many as there are tasks for, even where there is little work
};

// Images of one label are neighbours in `order`: group g holds order[start[g] .. start[g + 1]).
struct Groups {
  const int64_t* order;
  const int64_t* start;
  int64_t count;
};

struct DenseSimilarityArgs {
  View4 p, z;
  Groups groups;
  View3 grad;    // per-location gradient in the accumulation type; data null: loss weights
  void* value;   // [B, H*W] in the accumulation type, or null
  double* loss;  // minus the mean of the value, or null
  View4 dp, dz;  // data null where the gradient is not wanted
  const ForcedPlans* forced = nullptr;
};

struct PairwiseDistanceArgs {
  View4 h;
  View3 mask;  // bool, data null: every location is valid
  Groups groups;
  bool squared;
  View3 grad;  // as above; data null: gradient of the mean
  void* value;
  double* loss;
  View4 dh;
  const ForcedPlans* forced = nullptr;
};

struct WarpAffineArgs : WarpOptions {
  View4 x;
  const AffinePixels* maps;  // [B]
  bool exact;                // theta is float64: positions are kept in double to the end
  View4 out;
  const ForcedPlans* forced = nullptr;
};

struct WarpAffineBackwardArgs : WarpOptions {
  View4 grad, x;
  const AffinePixels* maps;
  View4 dx;       // data null: not wanted
  double* dmaps;  // [B, 6] gradient of the AffinePixels fields, or null
  const ForcedPlans* forced = nullptr;
};

struct MahalanobisArgs : GaussianInputs {
  void* value;  // [B, H*W]
  View4 dx;
  void* dmean;      // [C, H*W] in the mean's type, or null
  void* dwhitener;  // as the whitener, contiguous, in its type, or null
  const ForcedPlans* forced = nullptr;
};

struct RefinePoseArgs : PoseInputs {
  void* refined;      // [B, K, 2, 3]
  void* correlation;  // [B, K]
  const ForcedPlans* forced = nullptr;
};

struct AnomalyMapArgs : AnomalyMapInputs {
  const AffinePixels* maps;  // [B] from pixels of the maps to those of the distances
  void *value, *share;       // [B, H, W] in the accumulation type
  const ForcedPlans* forced = nullptr;
};

// Images that join the running sums of every location.
struct MomentsArgs {
  View4 x;
  View3 valid;     // bool, data null: every location of every image is valid
  int64_t* count;  // [H*W]
  double* mean;    // [H*W, C]
  float* outer;    // [H*W, C(C+1)/2] sums of outer products of the deviations from the mean
  const ForcedPlans* forced = nullptr;
};

// L with L^T L = (outer * share + shrinkage I)^-1 for each location.
struct WhitenerArgs {
  const float* outer;   // [locations, C(C+1)/2]
  const double* share;  // [locations] finite and not negative
  const bool* kept;     // [locations]; the others get zeros
  int64_t channels, locations;
  double shrinkage;
  void* whitener;  // [locations, C(C+1)/2], float32 may lie over `outer`; null: only `lost`
  DType whitener_dtype;
  bool* lost;  // [locations] kept, but not positive definite to the accuracy of float32 sums
  const ForcedPlans* forced = nullptr;
};

// Every kernel: X(level, name, arguments). What depends on the list is made from it.
#define FASTALIGN_CPU_KERNELS(X, level)                  \
  X(level, dense_similarity, DenseSimilarityArgs)        \
  X(level, pairwise_distance, PairwiseDistanceArgs)      \
  X(level, warp_affine, WarpAffineArgs)                  \
  X(level, warp_affine_backward, WarpAffineBackwardArgs) \
  X(level, mahalanobis, MahalanobisArgs)                 \
  X(level, refine_pose, RefinePoseArgs)                  \
  X(level, anomaly_map, AnomalyMapArgs)                  \
  X(level, moments, MomentsArgs)                         \
  X(level, whitener, WhitenerArgs)

#define FASTALIGN_KERNEL_FIELD(level, name, Args) Status (*name)(const Args&, const Workers&);

struct KernelTable {
  FASTALIGN_CPU_KERNELS(FASTALIGN_KERNEL_FIELD, )
};

struct IsaLevel {
  const char* name;
  bool supported;  // by this machine and its operating system
  const KernelTable* table;
};

// All levels built into the library, lowest first.
const IsaLevel* isa_levels(int* count);

// The level in use: FASTALIGN_CPU_ISA if set, else the highest supported. Null with *error set
// when the environment names a level that does not exist or cannot run here.
const IsaLevel* active_isa(const char** error);

// Overrides the choice for this process; null on success, else the reason.
const char* set_active_isa(const char* name);

}  // namespace fastalign

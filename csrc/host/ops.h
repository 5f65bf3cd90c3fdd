// The native ops as functions of tensors, each written down once: result, name, arguments, schema.
//
// From the list follow the declarations for CPU and for CUDA, and in register.cpp the schemas and
// the dispatch. A schema has the arguments of the public twin in `fastalign` without the backend.
#pragma once

#include <tuple>

#include "tensors.h"

#define FASTALIGN_OPS(X)                                                                           \
  X(Tensor, dense_similarity, (Tensor p, Tensor z, MaybeTensor groups),                            \
    "(Tensor p, Tensor z, Tensor? groups) -> Tensor")                                              \
  X(Two, dense_similarity_backward,                                                                \
    (Tensor grad, Tensor p, Tensor z, MaybeTensor groups, bool need_p, bool need_z),               \
    "(Tensor grad, Tensor p, Tensor z, Tensor? groups, bool need_p, bool need_z) "                 \
    "-> (Tensor, Tensor)")                                                                         \
  X(Three, dense_similarity_loss,                                                                  \
    (Tensor p, Tensor z, MaybeTensor groups, bool need_p, bool need_z),                            \
    "(Tensor p, Tensor z, Tensor? groups, bool need_p, bool need_z) -> (Tensor, Tensor, Tensor)")  \
  X(Tensor, pairwise_distance, (Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared),     \
    "(Tensor h, Tensor? mask, Tensor? groups, bool squared) -> Tensor")                            \
  X(Tensor, pairwise_distance_backward,                                                            \
    (Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared),                   \
    "(Tensor grad, Tensor h, Tensor? mask, Tensor? groups, bool squared) -> Tensor")               \
  X(Two, pairwise_distance_loss,                                                                   \
    (Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared, bool need_h),                   \
    "(Tensor h, Tensor? mask, Tensor? groups, bool squared, bool need_h) -> (Tensor, Tensor)")     \
  X(Tensor, warp_affine,                                                                           \
    (Tensor x, Tensor theta, int64_t height, int64_t width, std::string mode,                      \
     std::string padding_mode, bool align_corners),                                                \
    "(Tensor x, Tensor theta, int height, int width, str mode, str padding_mode, "                 \
    "bool align_corners) -> Tensor")                                                               \
  X(Two, warp_affine_backward,                                                                     \
    (Tensor grad, Tensor x, Tensor theta, std::string mode, std::string padding_mode,              \
     bool align_corners, bool need_x, bool need_theta, bool deterministic),                        \
    "(Tensor grad, Tensor x, Tensor theta, str mode, str padding_mode, bool align_corners, "       \
    "bool need_x, bool need_theta, bool deterministic) -> (Tensor, Tensor)")                       \
  X(Tensor, mahalanobis,                                                                           \
    (Tensor x, Tensor mean, Tensor whitener, MaybeTensor coarse, MaybeTensor scale, bool squared), \
    "(Tensor x, Tensor mean, Tensor whitener, Tensor? coarse, Tensor? scale, bool squared) "       \
    "-> Tensor")                                                                                   \
  X(Three, mahalanobis_backward,                                                                   \
    (Tensor grad, Tensor x, Tensor mean, Tensor whitener, bool squared, bool need_x,               \
     bool need_mean, bool need_whitener),                                                          \
    "(Tensor grad, Tensor x, Tensor mean, Tensor whitener, bool squared, bool need_x, "            \
    "bool need_mean, bool need_whitener) -> (Tensor, Tensor, Tensor)")                             \
  X(Two, refine_pose,                                                                              \
    (Tensor edges, Tensor theta, Tensor template_, Tensor weight, Tensor generators,               \
     int64_t iterations),                                                                          \
    "(Tensor edges, Tensor theta, Tensor template, Tensor weight, Tensor generators, "             \
    "int iterations) -> (Tensor, Tensor)")                                                         \
  X(Two, anomaly_map,                                                                              \
    (Tensor distance, Tensor theta, Tensor evidence, Tensor taps, int64_t height, int64_t width),  \
    "(Tensor distance, Tensor theta, Tensor evidence, Tensor taps, int height, int width) "        \
    "-> (Tensor, Tensor)")

// In place; fit of a Gaussian per location. They have no twin on other devices, where torch's own
// batched products and factorizations serve. The whitener may be `outer` itself; empty, it leaves
// `lost` as the only result.
#define FASTALIGN_CPU_OPS(X)                                                                      \
  X(Tensor, add_moments_, (Tensor count, Tensor mean, Tensor outer, Tensor x, MaybeTensor valid), \
    "(Tensor(a!) count, Tensor(b!) mean, Tensor(c!) outer, Tensor x, Tensor? valid) "             \
    "-> Tensor(c!)")                                                                              \
  X(Tensor, whiten_,                                                                              \
    (Tensor whitener, Tensor lost, Tensor outer, Tensor share, Tensor kept, double shrinkage),    \
    "(Tensor(a!) whitener, Tensor(b!) lost, Tensor outer, Tensor share, Tensor kept, "            \
    "float shrinkage) -> Tensor(a!)")

// x times a float32 number on the same device, in place; moves nothing where that is 1.
#define FASTALIGN_CUDA_OPS(X) \
  X(Tensor, scale_, (Tensor x, Tensor factor), "(Tensor(a!) x, Tensor factor) -> Tensor(a!)")

#define FASTALIGN_DECLARE_OP(Result, name, arguments, schema) Result name arguments;

namespace fastalign::host {

using MaybeTensor = std::optional<Tensor>;
using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

FASTALIGN_OPS(FASTALIGN_DECLARE_OP)
FASTALIGN_CPU_OPS(FASTALIGN_DECLARE_OP)

// The same checks and results with launchers in place of the CPU kernels.
namespace on_cuda {
FASTALIGN_OPS(FASTALIGN_DECLARE_OP)
FASTALIGN_CUDA_OPS(FASTALIGN_DECLARE_OP)
}  // namespace on_cuda

}  // namespace fastalign::host

// What can be forced of a launch plan: the fields of each kernel, and the values of each field.
//
// A kernel chooses its own plan, from sizes and the device. For measurements a choice can be forced
// instead (fastalign/ops/plans.py reads the words). What is forced reaches a kernel as one pointer
// in its arguments, null where nothing is, so that all parts of a call see the same.
#pragma once

#include <cstdint>

#include "../cpu/kernels.h"

#define FASTALIGN_PLAN_ISAS "baseline avx2 avx512"
#define FASTALIGN_PLAN_THREADS "1 2 3 4 6 8 12 16 24 32 48 64 96 128"

// What every CPU kernel has, for its wrapper in host/.
#define FASTALIGN_PLAN_OF_CPU(X, kernel, Args) \
  X(kernel, cpu, isa, FASTALIGN_PLAN_ISAS)     \
  X(kernel, cpu, threads, FASTALIGN_PLAN_THREADS)

// X(kernel, backend, field, values). Values are numbers, or words that stand for their places, from
// 1 on.
#define FASTALIGN_PLAN_FIELDS(X)                                       \
  FASTALIGN_CPU_KERNELS(FASTALIGN_PLAN_OF_CPU, X)                      \
  X(dense_similarity, cpu, width, "16 32 48 64")                       \
  X(dense_similarity, cpu, z, "kept reread")                           \
  X(dense_similarity, cpu, stores, "cached streamed")                  \
  X(pairwise_distance, cpu, width, "16 32 48 64 96 128")               \
  X(warp_affine, cpu, rows, "4 8 16 32 64")                            \
  X(warp_affine, cpu, columns, "32 64 128 256")                        \
  X(warp_affine, cpu, stores, "cached streamed")                       \
  X(warp_affine_backward, cpu, side, "8 16 32 64 128")                 \
  X(mahalanobis, cpu, width, "1 2 4 8 16")                             \
  X(moments, cpu, width, "1 2 4 8 16")                                 \
  X(dense_similarity, cuda, lanes, "1 2 4 8 16 32")                    \
  X(dense_similarity, cuda, rows, "plain held staged")                 \
  X(pairwise_distance, cuda, threads, "32 64 128")                     \
  X(pairwise_distance, cuda, splits, "1 2 4 8 16 32 64")               \
  X(warp_affine, cuda, run, "1 2 4 8")                                 \
  X(warp_affine, cuda, chunk, "1 2 4 8 16 32 64 128 256 512")          \
  X(warp_affine, cuda, lanes, "1 2 4 8 16 32")                         \
  X(warp_affine_backward, cuda, run, "1 2 4 8")                        \
  X(warp_affine_backward, cuda, chunk, "1 2 4 8 16 32 64 128 256 512") \
  X(warp_affine_backward, cuda, lanes, "1 2 4 8 16 32")                \
  X(warp_affine_backward, cuda, candidates, "4 8 10 16 24 32")         \
  X(warp_affine_backward, cuda, sweeps, "1 2 4 8 16")                  \
  X(mahalanobis, cuda, images, "1 4 8")                                \
  X(mahalanobis, cuda, locations, "1 2 4 8")                           \
  X(mahalanobis, cuda, parts, "1 2 4 8 16 32")                         \
  X(mahalanobis_backward, cuda, images, "1 4")                         \
  X(mahalanobis_backward, cuda, locations, "1 2 4 8")                  \
  X(mahalanobis_backward, cuda, stages, "1 2")

#define FASTALIGN_PLAN_FIELD_NAME(kernel, backend, field, values) kernel##_##backend##_##field,

namespace fastalign {

enum class PlanField : int32_t { FASTALIGN_PLAN_FIELDS(FASTALIGN_PLAN_FIELD_NAME) count };

constexpr int kPlanFields = static_cast<int>(PlanField::count);

// The forced value of every field; 0: the kernel chooses.
struct ForcedPlans {
  int32_t values[kPlanFields];
};

// What is forced, else 0.
inline int32_t forced(const ForcedPlans* plans, PlanField field) {
  return plans == nullptr ? 0 : plans->values[static_cast<int>(field)];
}

// What is forced, else `chosen`.
template <class T>
inline T forced_or(const ForcedPlans* plans, PlanField field, T chosen) {
  const int32_t value = forced(plans, field);
  return value == 0 ? chosen : static_cast<T>(value);
}

}  // namespace fastalign

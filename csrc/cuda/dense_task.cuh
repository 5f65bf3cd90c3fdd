// What dense_similarity's launcher hands to its kernel, and how a block divides its shared memory.
#pragma once

#include "fields.cuh"
#include "groups.cuh"
#include "reduce.cuh"
#include "values.h"

namespace fastalign::cuda {

constexpr int kDenseThreads = 256;

template <class T>
struct DenseTask {
  Field<const T> p, z;
  Field<T> dp, dz;  // data null: not wanted
  Map<float> grad;  // data null: `weight` everywhere
  float* value;     // [B, H*W] or null
  double* partial;  // [blocks] or null
  GroupOrder groups;
  int batch, channels;
  Rows rows;
  int64_t pixels;
  float weight;
  // From DensePlan.
  int lanes, steps;
  bool channels_first;  // neighbouring lanes differ in channels rather than in locations
  bool held;            // z stays in shared memory
  bool staged;          // so does p of the image that a warp is at
  float* spill;         // V = 1: sums and statistics if they do not fit there; else null
};

// Numbers for each image and location of a tile.
enum DenseStat {
  kInverseZ,  // 1 / |z|
  kWeightP    // weight / |p|, for dz
};

// Offsets of a block's shared memory in bytes.
struct DenseShared {
  int64_t z, p, sum, stats, bytes;
  int64_t spilled;  // floats of sum and stats, which may lie elsewhere
};

FASTALIGN_HD int64_t round_to_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

FASTALIGN_HD DenseShared dense_shared(int64_t batch, int64_t warps, int64_t steps,
                                      int64_t locations, int64_t vector, int64_t element, bool held,
                                      bool staged, bool need_z, bool spill) {
  DenseShared s;
  const int64_t image = steps * 32 * vector * element;
  s.z = kMaxWarps * 8;  // the block's sum needs a double for each warp
  s.p = s.z + (held ? round_to_16(batch * image) : 0);
  s.sum = s.p + (staged ? round_to_16(warps * image) : 0);
  const int64_t sums = steps * 32 * vector, stats = batch * locations * (need_z ? 2 : 1);
  s.stats = s.sum + sums * 4;
  s.bytes = spill ? s.sum : s.stats + stats * 4;
  s.spilled = sums + stats;
  return s;
}

}  // namespace fastalign::cuda

// All Gauss-Newton steps of a candidate pose in one launch: a block for each candidate.
//
// Idea. A step reads the edges of one image where a pose sends the template, and from sums over the
// template makes the next pose. Launched one by one, the operations of a step take longer to start
// than to run, and there are 60 of them; so a block keeps its image and the template in shared
// memory and goes from pose to pose without leaving the chip. Each thread adds up its locations in
// registers, in double: correlations near their maximum differ by less than float keeps of such
// sums. A warp then adds its lanes by halves, each lane ending up with one of 32 sums, which takes
// 31 exchanges in place of 160; the first thread solves the system of at most six unknowns.
//
// Bytes that must move: edges, template and weight once, 4 to 8 B H W for small batches, next to
// nothing. What moves: the edges and the template once for each candidate, the weight in each pass,
// all of it from the second-level cache but once. 64 x 64 locations take 32 KB of shared memory a
// block. What does not fit is read from memory in each pass.
//
// Why so. One block is enough: 64 x 64 locations are 16 for each of 256 threads, some 2,000
// multiply-adds in double, and a second block would cost an exchange between blocks in every step.
#pragma once

#include "../common/pose.h"
#include "fields.cuh"
#include "reduce.cuh"
#include "values.h"

namespace fastalign::cuda {

constexpr int kPoseThreads = 256;
constexpr int kPoseWarps = kPoseThreads / 32;

struct PoseTask {
  View4 edges;  // [B, 1, H, W]
  Map<float> template_, weight;
  const float* theta;  // [B, K, 2, 3]
  int64_t theta_image, theta_candidate, theta_row, theta_column;
  const float* generators;  // [parameters, 2, 3]
  int parameters;           // at most P; the others change nothing, and their step is 0
  int64_t candidates, iterations;
  float *refined, *correlation;
};

// Groups of 32 sums.
constexpr int pose_groups(int parameters) { return (pose_sums(parameters) + 31) / 32; }

// What a block holds beside the maps.
template <int P>
struct PoseShared {
  double partial[kPoseWarps][32 * pose_groups(P)];
  double sums[32 * pose_groups(P)];
  float generators[6 * P];
  PoseTrack<float> track;
};

FASTALIGN_DEVICE float edge_at(const View4& edges, int64_t offset) {
  switch (edges.dtype) {
    case DType::float16:
      return to_float(static_cast<const Half*>(edges.data)[offset]);
    case DType::bfloat16:
      return to_float(static_cast<const BFloat16*>(edges.data)[offset]);
    default:
      return static_cast<const float*>(edges.data)[offset];
  }
}

// The edges of an image and the template: in shared memory where they are held, row by row.
template <bool Held>
struct PoseMaps {
  const PoseTask& task;
  int64_t image;  // offset of the image
  const float *held_edges, *held_template;
  int width;

  FASTALIGN_DEVICE float edge(int row, int column) const {
    if constexpr (Held) {
      return held_edges[row * width + column];
    }
    return edge_at(task.edges, image + row * task.edges.stride[2] + column * task.edges.stride[3]);
  }

  FASTALIGN_DEVICE float value(int row, int column) const {
    if constexpr (Held) {
      return held_template[row * width + column];
    }
    return task.template_.data[Pixel{row, column}.in(task.template_)];
  }
};

// Normalised coordinate of a pixel.
FASTALIGN_DEVICE float pixel_centre(int i, int count) {
  return static_cast<float>(2 * i + 1) / static_cast<float>(count) - 1.0f;
}

// Values of lanes and of their partners `Half` lanes on: each keeps the sums of one half of them.
template <int Half>
FASTALIGN_DEVICE void halve(double* values) {
  const bool upper = (static_cast<int>(threadIdx.x) & Half) != 0;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const double given = upper ? values[i] : values[i + Half];
    const double kept = upper ? values[i + Half] : values[i];
    values[i] = kept + __shfl_xor_sync(kAllLanes, given, Half);
  }
  if constexpr (Half > 1) {
    halve<Half / 2>(values);
  }
}

// This thread's share of the sums of a pass.
template <int P, bool Held>
FASTALIGN_DEVICE void add_locations(const PoseMaps<Held>& maps, const Pose<float>& pose,
                                    const float* generators, double (&total)[pose_groups(P)][32]) {
  const PoseTask& task = maps.task;
  const int height = static_cast<int>(task.edges.size[2]), width = maps.width;
  const float wide = static_cast<float>(width), high = static_cast<float>(height);
  const float inside_x = 1.0f - 2.0f / wide, inside_y = 1.0f - 2.0f / high;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int y = warp; y < height; y += kPoseWarps) {
    const float at_y = pixel_centre(y, height);
    const float start_x = pose.entry[1] * at_y + pose.entry[2];
    const float start_y = pose.entry[4] * at_y + pose.entry[5];
    for (int x = lane; x < width; x += 32) {
      const float at_x = pixel_centre(x, width);
      const float to_x = pose.entry[0] * at_x + start_x, to_y = pose.entry[3] * at_x + start_y;
      // Comparisons with what is not finite are false.
      if (!(fabsf(to_x) <= inside_x && fabsf(to_y) <= inside_y)) {
        continue;
      }
      const float column = to_x * (0.5f * wide) + 0.5f * (wide - 1.0f);
      const float row = to_y * (0.5f * high) + 0.5f * (high - 1.0f);
      const int left = static_cast<int>(column), top = static_cast<int>(row);
      const float right = column - static_cast<float>(left), below = row - static_cast<float>(top);
      const float a = maps.edge(top, left), b = maps.edge(top, left + 1);
      const float c = maps.edge(top + 1, left), d = maps.edge(top + 1, left + 1);
      const float upper = a + right * (b - a), lower = c + right * (d - c);
      float slope_x = 0.0f, slope_y = 0.0f;
      if (x > 0 && x + 1 < width) {
        slope_x = (maps.value(y, x + 1) - maps.value(y, x - 1)) * (0.25f * wide);
      }
      if (y > 0 && y + 1 < height) {
        slope_y = (maps.value(y + 1, x) - maps.value(y - 1, x)) * (0.25f * high);
      }
      double feature[pose_features(P)];
      feature[0] = static_cast<double>(task.weight.data[Pixel{y, x}.in(task.weight)]);
      feature[1] = static_cast<double>(maps.value(y, x));
      feature[2] = static_cast<double>(upper + below * (lower - upper));
#pragma unroll
      for (int p = 0; p < P; ++p) {
        const float* g = generators + p * 6;
        const float along_x = g[0] * at_x + (g[1] * at_y + g[2]);
        const float along_y = g[3] * at_x + (g[4] * at_y + g[5]);
        feature[kPoseFirst + p] = static_cast<double>(slope_x * along_x + slope_y * along_y);
      }
      total[0][0] += feature[0];
#pragma unroll
      for (int f = 1; f < pose_features(P); ++f) {
        const double weighted = feature[0] * feature[f];
        total[pose_sum(f, 0) / 32][pose_sum(f, 0) % 32] += weighted;
#pragma unroll
        for (int g = 1; g <= f; ++g) {
          total[pose_sum(f, g) / 32][pose_sum(f, g) % 32] += weighted * feature[g];
        }
      }
    }
  }
}

// The sums of a pass, in shared memory for the first thread. Begins and ends with a barrier behind
// it or before it: what was read of `shared` is read, what is written is there.
template <int P, bool Held>
FASTALIGN_DEVICE void add_up(const PoseMaps<Held>& maps, PoseShared<P>* shared) {
  double total[pose_groups(P)][32] = {};
  const Pose<float> pose = shared->track.at;
  add_locations<P, Held>(maps, pose, shared->generators, total);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
#pragma unroll
  for (int group = 0; group < pose_groups(P); ++group) {
    halve<16>(total[group]);
    shared->partial[warp][group * 32 + lane] = total[group][0];  // of value `lane`
  }
  __syncthreads();
  if (thread < pose_sums(P)) {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kPoseWarps; ++i) {
      sum += shared->partial[i][thread];
    }
    shared->sums[thread] = sum;
  }
  __syncthreads();
}

// The first thread's work between two passes.
template <int P>
FASTALIGN_DEVICE void step_pose(const PoseTask& task, double enough, int64_t iteration,
                                PoseShared<P>* shared) {
  double rows[P][P + 1];
  PoseTrack<float> track = shared->track;
  const double correlation = normal_equations<P>(shared->sums, enough, rows);
  if (iteration == 0) {
    track.correlation = correlation;
  } else {
    keep_best(&track, correlation);
  }
  if (iteration < task.iterations) {
    solve_step<P>(rows);
    track.at = moved_pose<P>(track.at, rows, shared->generators);
  }
  shared->track = track;
}

template <int P, bool Held>
FASTALIGN_KERNEL(kPoseThreads, 1)
refine_candidates(PoseTask task) {
  FASTALIGN_DYNAMIC_SHARED(PoseShared<P>, shared);
  const int height = static_cast<int>(task.edges.size[2]);
  const int width = static_cast<int>(task.edges.size[3]);
  const int64_t candidate = blockIdx.x, of_image = candidate / task.candidates;
  float* held_edges = reinterpret_cast<float*>(shared + 1);
  float* held_template = held_edges + (Held ? height * width : 0);
  const PoseMaps<Held> maps{task, of_image * task.edges.stride[0], held_edges, held_template,
                            width};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  double weight = 0.0;
  for (int y = warp; y < height; y += kPoseWarps) {
    for (int x = lane; x < width; x += 32) {
      if constexpr (Held) {
        held_edges[y * width + x] =
            edge_at(task.edges, maps.image + y * task.edges.stride[2] + x * task.edges.stride[3]);
        held_template[y * width + x] = task.template_.data[Pixel{y, x}.in(task.template_)];
      }
      weight += static_cast<double>(task.weight.data[Pixel{y, x}.in(task.weight)]);
    }
  }
  if (thread < 6 * P) {
    shared->generators[thread] = thread < 6 * task.parameters ? task.generators[thread] : 0.0f;
  }
  if (thread == 0) {
    const float* from = task.theta + of_image * task.theta_image +
                        candidate % task.candidates * task.theta_candidate;
#pragma unroll
    for (int k = 0; k < 6; ++k) {
      shared->track.at.entry[k] = from[k / 3 * task.theta_row + k % 3 * task.theta_column];
    }
    shared->track.best = shared->track.at;
  }
  // Its barrier stands behind all that was written above.
  const double enough = block_sum(weight, shared->sums) * kPoseLeastCovered;
  for (int64_t iteration = 0; iteration <= task.iterations; ++iteration) {
    add_up<P, Held>(maps, shared);
    if (thread == 0) {
      step_pose<P>(task, enough, iteration, shared);
    }
    __syncthreads();
  }
  if (thread < 6) {
    task.refined[candidate * 6 + thread] = shared->track.best.entry[thread];
  }
  if (thread == 0) {
    task.correlation[candidate] = static_cast<float>(shared->track.correlation);
  }
}

}  // namespace fastalign::cuda

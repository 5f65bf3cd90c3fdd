// One Gauss-Newton step of a pose, from the sums over the template: what refine_pose does between
// two passes over the locations. Free of torch and of any kernel, shared by CPU and CUDA.
//
// The features of a location are 1, the template, the warped image, and the change of the template
// with each of P parameters; sum (i, j <= i) is that of weight * feature i * feature j, packed as
// in packed.h.
#pragma once

#include <cstdint>

#include "geometry.h"
#include "packed.h"

namespace fastalign {

// The same as in fastalign/ops/reference/refine_pose.py, where they are explained.
constexpr double kPoseDamping = 1e-3;
constexpr double kPoseRidge = 1e-9;
constexpr double kPoseLeastCovered = 0.25;
constexpr double kPoseTie = 1e-4;
constexpr double kPoseLeast = 1e-12;

constexpr int kMostPoseParameters = 6;

// Features before the changes.
constexpr int kPoseFirst = 3;

constexpr int pose_features(int parameters) { return kPoseFirst + parameters; }

// Compile-time twins of packed.h.
constexpr int pose_sums(int parameters) {
  return pose_features(parameters) * (pose_features(parameters) + 1) / 2;
}
constexpr int pose_sum(int i, int j) { return i * (i + 1) / 2 + j; }

// theta row by row, in the type A that positions are computed in.
template <class A>
struct Pose {
  A entry[6];
};

// Where a candidate stands: the pose of the last pass, and the best one with its correlation.
template <class A>
struct PoseTrack {
  Pose<A> at, best;
  double correlation;
};

FASTALIGN_HD double at_least(double value, double least) { return value < least ? least : value; }

FASTALIGN_HD double root_of(double value) {
#if defined(__CUDACC__)
  return sqrt(value);
#else
  return __builtin_sqrt(value);
#endif
}

// The normal equations [P][P + 1], the right side last, and the correlation, -1 where less of the
// weight than `enough` is in sight; comparisons with what is not finite are false.
template <int P>
FASTALIGN_HD double normal_equations(const double* sums, double enough, double (*rows)[P + 1]) {
  const double total = at_least(sums[0], kPoseLeast);
  const double template_ = sums[pose_sum(1, 0)] / total, image = sums[pose_sum(2, 0)] / total;
  const double both = sums[pose_sum(2, 1)] / total;
  const double of_template =
      at_least(sums[pose_sum(1, 1)] / total - template_ * template_, kPoseLeast);
  const double of_image = at_least(sums[pose_sum(2, 2)] / total - image * image, kPoseLeast);
  const double correlation = (both - image * template_) / root_of(of_image * of_template);
  const double gain = root_of(of_template / of_image);
  FASTALIGN_UNROLL
  for (int p = 0; p < P; ++p) {
    const int row = kPoseFirst + p;
    const double change = sums[pose_sum(row, 0)] / total;
    const double by_template = sums[pose_sum(row, 1)] / total;
    const double by_image = sums[pose_sum(row, 2)] / total;
    rows[p][P] = gain * (by_image - image * change) - (by_template - template_ * change);
    FASTALIGN_UNROLL
    for (int q = 0; q <= p; ++q) {
      rows[p][q] = rows[q][p] = sums[pose_sum(row, kPoseFirst + q)] / total;
    }
  }
  return sums[0] > enough && correlation <= 2.0 ? correlation : -1.0;
}

// The damped system by elimination; the step is left as the right side. Symmetric, positive
// definite matrices need no pivoting.
template <int P>
FASTALIGN_HD void solve_step(double (*rows)[P + 1]) {
  FASTALIGN_UNROLL
  for (int p = 0; p < P; ++p) {
    rows[p][p] = (rows[p][p] + kPoseRidge) + rows[p][p] * kPoseDamping;
  }
  FASTALIGN_UNROLL
  for (int pivot = 0; pivot < P; ++pivot) {
    const double inverse = 1.0 / rows[pivot][pivot];
    FASTALIGN_UNROLL
    for (int j = pivot + 1; j <= P; ++j) {
      rows[pivot][j] *= inverse;
    }
    FASTALIGN_UNROLL
    for (int i = 0; i < P; ++i) {
      if (i != pivot) {
        const double factor = rows[i][pivot];
        FASTALIGN_UNROLL
        for (int j = pivot + 1; j <= P; ++j) {
          rows[i][j] -= factor * rows[pivot][j];
        }
      }
    }
  }
}

// The pose behind the map of minus the step: the exponential of its generator, to second order.
template <int P, class A>
FASTALIGN_HD Pose<A> moved_pose(const Pose<A>& pose, const double (*rows)[P + 1],
                                const A* generators) {
  double g[6] = {};
  FASTALIGN_UNROLL
  for (int p = 0; p < P; ++p) {
    FASTALIGN_UNROLL
    for (int k = 0; k < 6; ++k) {
      g[k] -= rows[p][P] * static_cast<double>(generators[p * 6 + k]);
    }
  }
  double move[6];
  FASTALIGN_UNROLL
  for (int i = 0; i < 2; ++i) {
    FASTALIGN_UNROLL
    for (int j = 0; j < 3; ++j) {
      const double identity = i == j ? 1.0 : 0.0;
      const double square = g[i * 3] * g[j] + g[i * 3 + 1] * g[3 + j];
      move[i * 3 + j] = identity + g[i * 3 + j] + 0.5 * square;
    }
  }
  Pose<A> next;
  FASTALIGN_UNROLL
  for (int i = 0; i < 2; ++i) {
    const double x = static_cast<double>(pose.entry[i * 3]);
    const double y = static_cast<double>(pose.entry[i * 3 + 1]);
    const double shift = static_cast<double>(pose.entry[i * 3 + 2]);
    FASTALIGN_UNROLL
    for (int j = 0; j < 3; ++j) {
      next.entry[i * 3 + j] =
          static_cast<A>(x * move[j] + y * move[3 + j] + (j == 2 ? shift : 0.0));
    }
  }
  return next;
}

// Keeps the pose of the last pass, or part of the way to it where it correlates a little less.
template <class A>
FASTALIGN_HD void keep_best(PoseTrack<A>* track, double correlation) {
  const double part = (correlation - track->correlation) / kPoseTie + 1.0;
  const A share = static_cast<A>(clamp_between(part, 0.0, 1.0));
  if (share > A(0)) {
    FASTALIGN_UNROLL
    for (int k = 0; k < 6; ++k) {
      const A from = track->best.entry[k];
      track->best.entry[k] = from + share * (track->at.entry[k] - from);
    }
  }
  track->correlation = correlation > track->correlation ? correlation : track->correlation;
}

}  // namespace fastalign

// The native ops as functions of tensors; register.cpp binds them to schemas.
#pragma once

#include <tuple>

#include "tensors.h"

namespace fastalign::host {

using MaybeTensor = std::optional<Tensor>;

Tensor dense_similarity(Tensor p, Tensor z, MaybeTensor groups);
std::tuple<Tensor, Tensor> dense_similarity_backward(Tensor grad, Tensor p, Tensor z,
                                                     MaybeTensor groups, bool need_p, bool need_z);
std::tuple<Tensor, Tensor, Tensor> dense_similarity_loss(Tensor p, Tensor z, MaybeTensor groups,
                                                         bool need_p, bool need_z);

Tensor pairwise_distance(Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared);
Tensor pairwise_distance_backward(Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups,
                                  bool squared);
std::tuple<Tensor, Tensor> pairwise_distance_loss(Tensor h, MaybeTensor mask, MaybeTensor groups,
                                                  bool squared, bool need_h);

Tensor warp_affine(Tensor x, Tensor theta, int64_t height, int64_t width, std::string mode,
                   std::string padding_mode, bool align_corners);
std::tuple<Tensor, Tensor> warp_affine_backward(Tensor grad, Tensor x, Tensor theta,
                                                std::string mode, std::string padding_mode,
                                                bool align_corners, bool need_x, bool need_theta,
                                                bool deterministic);

Tensor mahalanobis(Tensor x, Tensor mean, Tensor whitener, bool squared);
std::tuple<Tensor, Tensor, Tensor> mahalanobis_backward(Tensor grad, Tensor x, Tensor mean,
                                                        Tensor whitener, bool squared, bool need_x,
                                                        bool need_mean, bool need_whitener);

// In place; fit of a Gaussian per location. They have no twin on other devices, where torch's own
// batched products and factorizations serve. The whitener may be `outer` itself; empty, it leaves
// `lost` as the only result.
Tensor add_moments_(Tensor count, Tensor mean, Tensor outer, Tensor x, MaybeTensor valid);
Tensor whiten_(Tensor whitener, Tensor lost, Tensor outer, Tensor share, Tensor kept,
               double shrinkage);

}  // namespace fastalign::host

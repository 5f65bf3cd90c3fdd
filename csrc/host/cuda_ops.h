// The CUDA twins of ops.h: the same checks and results, launchers in place of the CPU kernels.
#pragma once

#include "ops.h"

namespace fastalign::host::on_cuda {

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

// x times a float32 number on the same device, in place; moves nothing where that is 1.
Tensor scale_(Tensor x, Tensor factor);

}  // namespace fastalign::host::on_cuda

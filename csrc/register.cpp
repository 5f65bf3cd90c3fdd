// Schemas and dispatch of the native ops: the only file that knows torch's registration.
//
// The raw ops carry the name and the arguments of their public twins in `fastalign`, without the
// backend; fastalign/ops validates, chooses the backend and adds fake, autograd and autocast.
#include "host/ops.h"
#if defined(FASTALIGN_WITH_CUDA)
#include "host/cuda_ops.h"
#endif

namespace host = fastalign::host;

STABLE_TORCH_LIBRARY(fastalign_native, m) {
  m.def("dense_similarity(Tensor p, Tensor z, Tensor? groups) -> Tensor");
  m.def(
      "dense_similarity_backward(Tensor grad, Tensor p, Tensor z, Tensor? groups, bool need_p, "
      "bool need_z) -> (Tensor, Tensor)");
  m.def(
      "dense_similarity_loss(Tensor p, Tensor z, Tensor? groups, bool need_p, bool need_z) -> "
      "(Tensor, Tensor, Tensor)");
  m.def("pairwise_distance(Tensor h, Tensor? mask, Tensor? groups, bool squared) -> Tensor");
  m.def(
      "pairwise_distance_backward(Tensor grad, Tensor h, Tensor? mask, Tensor? groups, "
      "bool squared) -> Tensor");
  m.def(
      "pairwise_distance_loss(Tensor h, Tensor? mask, Tensor? groups, bool squared, bool need_h) "
      "-> (Tensor, Tensor)");
  m.def(
      "warp_affine(Tensor x, Tensor theta, int height, int width, str mode, str padding_mode, "
      "bool align_corners) -> Tensor");
  m.def(
      "warp_affine_backward(Tensor grad, Tensor x, Tensor theta, str mode, str padding_mode, "
      "bool align_corners, bool need_x, bool need_theta, bool deterministic) -> (Tensor, Tensor)");
  m.def("scale_(Tensor(a!) x, Tensor factor) -> Tensor(a!)");
  m.def(
      "add_moments_(Tensor(a!) count, Tensor(b!) mean, Tensor(c!) outer, Tensor x, "
      "Tensor? valid) -> Tensor(c!)");
  m.def(
      "whiten_(Tensor(a!) whitener, Tensor(b!) lost, Tensor outer, Tensor share, Tensor kept, "
      "float shrinkage) -> Tensor(a!)");
  m.def("mahalanobis(Tensor x, Tensor mean, Tensor whitener, bool squared) -> Tensor");
  m.def(
      "mahalanobis_backward(Tensor grad, Tensor x, Tensor mean, Tensor whitener, bool squared, "
      "bool need_x, bool need_mean, bool need_whitener) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastalign_native, CPU, m) {
  m.impl("dense_similarity", TORCH_BOX(&host::dense_similarity));
  m.impl("dense_similarity_backward", TORCH_BOX(&host::dense_similarity_backward));
  m.impl("dense_similarity_loss", TORCH_BOX(&host::dense_similarity_loss));
  m.impl("pairwise_distance", TORCH_BOX(&host::pairwise_distance));
  m.impl("pairwise_distance_backward", TORCH_BOX(&host::pairwise_distance_backward));
  m.impl("pairwise_distance_loss", TORCH_BOX(&host::pairwise_distance_loss));
  m.impl("warp_affine", TORCH_BOX(&host::warp_affine));
  m.impl("warp_affine_backward", TORCH_BOX(&host::warp_affine_backward));
  m.impl("mahalanobis", TORCH_BOX(&host::mahalanobis));
  m.impl("mahalanobis_backward", TORCH_BOX(&host::mahalanobis_backward));
  m.impl("add_moments_", TORCH_BOX(&host::add_moments_));
  m.impl("whiten_", TORCH_BOX(&host::whiten_));
}

#if defined(FASTALIGN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(fastalign_native, CUDA, m) {
  m.impl("dense_similarity", TORCH_BOX(&host::on_cuda::dense_similarity));
  m.impl("dense_similarity_backward", TORCH_BOX(&host::on_cuda::dense_similarity_backward));
  m.impl("dense_similarity_loss", TORCH_BOX(&host::on_cuda::dense_similarity_loss));
  m.impl("pairwise_distance", TORCH_BOX(&host::on_cuda::pairwise_distance));
  m.impl("pairwise_distance_backward", TORCH_BOX(&host::on_cuda::pairwise_distance_backward));
  m.impl("pairwise_distance_loss", TORCH_BOX(&host::on_cuda::pairwise_distance_loss));
  m.impl("warp_affine", TORCH_BOX(&host::on_cuda::warp_affine));
  m.impl("warp_affine_backward", TORCH_BOX(&host::on_cuda::warp_affine_backward));
  m.impl("mahalanobis", TORCH_BOX(&host::on_cuda::mahalanobis));
  m.impl("mahalanobis_backward", TORCH_BOX(&host::on_cuda::mahalanobis_backward));
  m.impl("scale_", TORCH_BOX(&host::on_cuda::scale_));
}
#endif

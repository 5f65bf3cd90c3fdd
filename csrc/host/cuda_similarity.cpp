// dense_similarity and pairwise_distance on CUDA: shape checks, outputs, one launcher call each.
#include "cuda_call.h"
#include "cuda_ops.h"

namespace fastalign::host::on_cuda {
namespace {

Tensor value_map(const Tensor& like) {
  return empty_map(like, {like.size(0), like.size(2), like.size(3)}, ScalarType::Float, false);
}

Tensor scalar(const Tensor& like) { return empty_map(like, {}, ScalarType::Float, false); }

View3 gradient_map(const CudaCall& call, const Tensor& grad, const Tensor& like) {
  check_shape(grad, "grad", {like.size(0), like.size(2), like.size(3)});
  check_type(grad, "grad", ScalarType::Float, "float32");
  return call.view3(grad, "grad");
}

bool has_locations(const View4& view) { return view.batch() * view.pixels() > 0; }

struct DenseCall {
  CudaCall call;
  cuda::DenseSimilarityArgs args{};

  DenseCall(const Tensor& p, const Tensor& z, const MaybeTensor& groups)
      : call(p, "dense_similarity") {
    args.p = call.view4(p, "p");
    args.z = call.view4(z, "z");
    check_shape(z, "z", {p.size(0), p.size(1), p.size(2), p.size(3)});
    FASTALIGN_CHECK(args.z.dtype == args.p.dtype, "p and z must have the same dtype");
    args.groups = labels(call, groups, p.size(0));
  }

  Tensor gradient(const Tensor& like, bool needed, View4* view, const char* name) {
    if (!needed) {
      return no_gradient(like);
    }
    Tensor result = empty_gradient(like);
    *view = call.view4(result, name);
    return result;
  }

  bool run() {
    if (!has_locations(args.p)) {
      return false;
    }
    args.scratch = call.scratch(cuda::dense_similarity_scratch(args));
    call.finish(cuda::dense_similarity(args, call.stream()));
    return true;
  }
};

struct PairCall {
  CudaCall call;
  cuda::PairwiseDistanceArgs args{};

  PairCall(const Tensor& h, const MaybeTensor& mask, const MaybeTensor& groups, bool squared)
      : call(h, "pairwise_distance") {
    args.h = call.view4(h, "h");
    args.squared = squared;
    if (mask.has_value()) {
      check_type(*mask, "mask", ScalarType::Bool, "bool");
      check_shape(*mask, "mask", {h.size(0), h.size(2), h.size(3)});
      args.mask = call.view3(*mask, "mask");
    }
    args.groups = labels(call, groups, h.size(0));
  }

  bool run() {
    if (!has_locations(args.h)) {
      return false;
    }
    args.scratch = call.scratch(cuda::pairwise_distance_scratch(args));
    call.finish(cuda::pairwise_distance(args, call.stream()));
    return true;
  }
};

}  // namespace

Tensor dense_similarity(Tensor p, Tensor z, MaybeTensor groups) {
  DenseCall call(p, z, groups);
  Tensor value = value_map(p);
  call.args.value = static_cast<float*>(value.mutable_data_ptr());
  call.run();
  return value;
}

std::tuple<Tensor, Tensor> dense_similarity_backward(Tensor grad, Tensor p, Tensor z,
                                                     MaybeTensor groups, bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  call.args.grad = gradient_map(call.call, grad, p);
  Tensor dp = call.gradient(p, need_p, &call.args.dp, "dp");
  Tensor dz = call.gradient(z, need_z, &call.args.dz, "dz");
  if (need_p || need_z) {
    call.run();
  }
  return {dp, dz};
}

std::tuple<Tensor, Tensor, Tensor> dense_similarity_loss(Tensor p, Tensor z, MaybeTensor groups,
                                                         bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  Tensor loss = scalar(p);
  call.args.loss = static_cast<float*>(loss.mutable_data_ptr());
  Tensor dp = call.gradient(p, need_p, &call.args.dp, "dp");
  Tensor dz = call.gradient(z, need_z, &call.args.dz, "dz");
  if (!call.run()) {
    torch::stable::zero_(loss);
  }
  return {loss, dp, dz};
}

Tensor pairwise_distance(Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared) {
  PairCall call(h, mask, groups, squared);
  Tensor value = value_map(h);
  call.args.value = static_cast<float*>(value.mutable_data_ptr());
  call.run();
  return value;
}

Tensor pairwise_distance_backward(Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups,
                                  bool squared) {
  PairCall call(h, mask, groups, squared);
  call.args.grad = gradient_map(call.call, grad, h);
  Tensor dh = empty_gradient(h);
  call.args.dh = call.call.view4(dh, "dh");
  call.run();
  return dh;
}

std::tuple<Tensor, Tensor> pairwise_distance_loss(Tensor h, MaybeTensor mask, MaybeTensor groups,
                                                  bool squared, bool need_h) {
  PairCall call(h, mask, groups, squared);
  Tensor loss = scalar(h);
  call.args.loss = static_cast<float*>(loss.mutable_data_ptr());
  Tensor dh = need_h ? empty_gradient(h) : no_gradient(h);
  if (need_h) {
    call.args.dh = call.call.view4(dh, "dh");
  }
  if (!call.run()) {
    torch::stable::zero_(loss);
  }
  return {loss, dh};
}

Tensor scale_(Tensor x, Tensor factor) {
  CudaCall call(x, "scale_");
  const View4 view = call.view4(x, "x");
  FASTALIGN_CHECK(x.is_contiguous() || is_channels_last(x), "x must be dense");
  call.check(factor, "factor");
  check_type(factor, "factor", ScalarType::Float, "float32");
  FASTALIGN_CHECK(factor.numel() == 1, "factor has shape ", shape_of(factor), ", expected []");
  if (x.numel() > 0) {
    const cuda::ScaleArgs args{view.data, view.dtype, x.numel(),
                               static_cast<const float*>(factor.const_data_ptr())};
    call.finish(cuda::scale(args, call.stream()));
  }
  return x;
}

}  // namespace fastalign::host::on_cuda

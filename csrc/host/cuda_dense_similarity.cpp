// dense_similarity on CUDA: shape checks, outputs, one launcher call each.
#include "cuda_locations.h"

namespace fastalign::host::on_cuda {
namespace {

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
    args.forced = forced_plans();
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

}  // namespace fastalign::host::on_cuda

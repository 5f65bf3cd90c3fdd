// dense_similarity and pairwise_distance: shape checks, outputs, one kernel call each.
#include "ops.h"

namespace fastalign::host {
namespace {

struct DenseCall {
  DenseSimilarityArgs args{};
  GroupPlan plan;

  DenseCall(const Tensor& p, const Tensor& z, const MaybeTensor& groups) {
    args.p = view4(p, "p");
    args.z = view4(z, "z");
    check_shape(z, "z", {p.size(0), p.size(1), p.size(2), p.size(3)});
    FASTALIGN_CHECK(args.z.dtype == args.p.dtype, "p and z must have the same dtype");
    plan = plan_groups(groups, p.size(0));
    args.groups = plan.view();
  }

  Tensor output(Tensor tensor, View4* view, const char* name) {
    if (plan.lonely) {
      torch::stable::zero_(tensor);
    }
    *view = view4(tensor, name);
    return tensor;
  }

  void run() {
    if (args.p.size[0] * args.p.pixels() > 0) {
      check_status(kernels().dense_similarity(args, torch_workers()), "dense_similarity");
    }
  }
};

struct PairCall {
  PairwiseDistanceArgs args{};
  GroupPlan plan;

  PairCall(const Tensor& h, const MaybeTensor& mask, const MaybeTensor& groups, bool squared) {
    args.h = view4(h, "h");
    args.squared = squared;
    if (mask.has_value()) {
      check_cpu(*mask, "mask");
      check_type(*mask, "mask", ScalarType::Bool, "bool");
      check_shape(*mask, "mask", {h.size(0), h.size(2), h.size(3)});
      args.mask = view3(*mask);
    }
    plan = plan_groups(groups, h.size(0));
    args.groups = plan.view();
  }

  void run() {
    if (args.h.size[0] * args.h.pixels() > 0) {
      check_status(kernels().pairwise_distance(args, torch_workers()), "pairwise_distance");
    }
  }
};

Tensor value_map(const Tensor& like, bool zero) {
  Tensor value =
      empty_map(like, {like.size(0), like.size(2), like.size(3)}, accumulation_type(like), false);
  if (zero) {
    torch::stable::zero_(value);
  }
  return value;
}

View3 gradient_map(const Tensor& grad, const Tensor& like) {
  check_cpu(grad, "grad");
  check_shape(grad, "grad", {like.size(0), like.size(2), like.size(3)});
  FASTALIGN_CHECK(grad.scalar_type() == accumulation_type(like),
                  "grad must have the accumulation dtype (float64 for float64, else float32)");
  return view3(grad);
}

Tensor scalar(const Tensor& like, double value) {
  const double clean = value == 0.0 ? 0.0 : value;  // no minus zero for a loss without pairs
  Tensor result = empty_map(like, {}, accumulation_type(like), false);
  if (result.scalar_type() == ScalarType::Double) {
    *static_cast<double*>(result.mutable_data_ptr()) = clean;
  } else {
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(clean);
  }
  return result;
}

}  // namespace

Tensor dense_similarity(Tensor p, Tensor z, MaybeTensor groups) {
  DenseCall call(p, z, groups);
  Tensor value = value_map(p, call.plan.lonely);
  call.args.value = value.mutable_data_ptr();
  call.run();
  return value;
}

std::tuple<Tensor, Tensor> dense_similarity_backward(Tensor grad, Tensor p, Tensor z,
                                                     MaybeTensor groups, bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  call.args.grad = gradient_map(grad, p);
  Tensor dp = need_p ? call.output(empty_gradient(p), &call.args.dp, "dp") : no_gradient(p);
  Tensor dz = need_z ? call.output(empty_gradient(z), &call.args.dz, "dz") : no_gradient(z);
  if (need_p || need_z) {
    call.run();
  }
  return {dp, dz};
}

std::tuple<Tensor, Tensor, Tensor> dense_similarity_loss(Tensor p, Tensor z, MaybeTensor groups,
                                                         bool need_p, bool need_z) {
  DenseCall call(p, z, groups);
  double loss = 0;
  call.args.loss = &loss;
  Tensor dp = need_p ? call.output(empty_gradient(p), &call.args.dp, "dp") : no_gradient(p);
  Tensor dz = need_z ? call.output(empty_gradient(z), &call.args.dz, "dz") : no_gradient(z);
  call.run();
  return {scalar(p, loss), dp, dz};
}

Tensor pairwise_distance(Tensor h, MaybeTensor mask, MaybeTensor groups, bool squared) {
  PairCall call(h, mask, groups, squared);
  Tensor value = value_map(h, call.plan.lonely);
  call.args.value = value.mutable_data_ptr();
  call.run();
  return value;
}

Tensor pairwise_distance_backward(Tensor grad, Tensor h, MaybeTensor mask, MaybeTensor groups,
                                  bool squared) {
  PairCall call(h, mask, groups, squared);
  call.args.grad = gradient_map(grad, h);
  Tensor dh = empty_gradient(h);
  if (call.plan.lonely) {
    torch::stable::zero_(dh);
  }
  call.args.dh = view4(dh, "dh");
  call.run();
  return dh;
}

std::tuple<Tensor, Tensor> pairwise_distance_loss(Tensor h, MaybeTensor mask, MaybeTensor groups,
                                                  bool squared, bool need_h) {
  PairCall call(h, mask, groups, squared);
  double loss = 0;
  call.args.loss = &loss;
  Tensor dh = need_h ? empty_gradient(h) : no_gradient(h);
  if (need_h) {
    if (call.plan.lonely) {
      torch::stable::zero_(dh);
    }
    call.args.dh = view4(dh, "dh");
  }
  call.run();
  return {scalar(h, loss), dh};
}

}  // namespace fastalign::host

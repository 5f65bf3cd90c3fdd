// Sums and whiteners of a Gaussian per location: checks and one kernel call each.
#include "../common/packed.h"
#include "ops.h"

namespace fastalign::host {
namespace {

void check_dense(const Tensor& tensor, const char* name, ScalarType type, const char* type_name) {
  check_cpu(tensor, name);
  check_type(tensor, name, type, type_name);
  FASTALIGN_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

}  // namespace

Tensor add_moments_(Tensor count, Tensor mean, Tensor outer, Tensor x, MaybeTensor valid) {
  MomentsArgs args{};
  args.x = view4(x, "x");
  const int64_t channels = x.size(1), locations = x.size(2) * x.size(3);
  check_dense(count, "count", ScalarType::Long, "int64");
  check_dense(mean, "mean", ScalarType::Double, "float64");
  check_dense(outer, "outer", ScalarType::Float, "float32");
  check_shape(count, "count", {locations});
  check_shape(mean, "mean", {locations, channels});
  check_shape(outer, "outer", {locations, packed_size(channels)});
  if (valid.has_value()) {
    check_cpu(*valid, "valid");
    check_type(*valid, "valid", ScalarType::Bool, "bool");
    check_shape(*valid, "valid", {x.size(0), x.size(2), x.size(3)});
    args.valid = view3(*valid);
  }
  args.count = static_cast<int64_t*>(count.mutable_data_ptr());
  args.mean = static_cast<double*>(mean.mutable_data_ptr());
  args.outer = static_cast<float*>(outer.mutable_data_ptr());
  if (x.numel() > 0) {
    FASTALIGN_RUN_KERNEL(moments, args);
  }
  return outer;
}

Tensor whiten_(Tensor whitener, Tensor lost, Tensor outer, Tensor share, Tensor kept,
               double shrinkage) {
  check_dense(outer, "outer", ScalarType::Float, "float32");
  FASTALIGN_CHECK(outer.dim() == 2, "outer has shape ", shape_of(outer),
                  ", expected [locations, C(C+1)/2]");
  WhitenerArgs args{};
  args.locations = outer.size(0);
  while (packed_size(args.channels) < outer.size(1)) {
    ++args.channels;
  }
  FASTALIGN_CHECK(packed_size(args.channels) == outer.size(1), "outer has ", outer.size(1),
                  " entries per location, expected C(C+1)/2");
  check_dense(share, "share", ScalarType::Double, "float64");
  check_dense(kept, "kept", ScalarType::Bool, "bool");
  check_dense(lost, "lost", ScalarType::Bool, "bool");
  check_shape(share, "share", {args.locations});
  check_shape(kept, "kept", {args.locations});
  check_shape(lost, "lost", {args.locations});
  check_cpu(whitener, "whitener");
  const bool wanted = whitener.numel() > 0 || outer.numel() == 0;
  if (wanted) {
    check_shape(whitener, "whitener", {args.locations, outer.size(1)});
    FASTALIGN_CHECK(whitener.is_contiguous(), "whitener must be contiguous");
  }
  args.whitener_dtype = storage_type(whitener, "whitener");
  FASTALIGN_CHECK(args.whitener_dtype != DType::float64,
                  "whitener must be float32, float16 or bfloat16");
  args.outer = static_cast<const float*>(outer.const_data_ptr());
  args.share = static_cast<const double*>(share.const_data_ptr());
  args.kept = static_cast<const bool*>(kept.const_data_ptr());
  args.shrinkage = shrinkage;
  args.whitener = wanted ? whitener.mutable_data_ptr() : nullptr;
  args.lost = static_cast<bool*>(lost.mutable_data_ptr());
  if (outer.numel() > 0) {
    FASTALIGN_RUN_KERNEL(whitener, args);
  }
  return whitener;
}

}  // namespace fastalign::host

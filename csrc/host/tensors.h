// Torch-side helpers of the op wrappers, on the stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "plans.h"

namespace fastalign::host {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Names the op and the argument in every message.
#define FASTALIGN_CHECK(condition, ...) \
  STD_TORCH_CHECK(condition, "fastalign_native: ", __VA_ARGS__)

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  }
  return text + "]";
}

inline DType storage_type(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    default:
      FASTALIGN_CHECK(false, name,
                      " must be float32, float64, float16 or bfloat16; cast it with .to()");
      return DType::float32;
  }
}

inline ScalarType accumulation_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_shape(const Tensor& tensor, const char* name,
                        std::initializer_list<int64_t> expected) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  int64_t d = 0;
  for (int64_t size : expected) {
    same = same && tensor.size(d++) == size;
  }
  if (!same) {
    std::string wanted;
    for (int64_t size : expected) {
      wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
    }
    FASTALIGN_CHECK(false, name, " has shape ", shape_of(tensor), ", expected [", wanted, "]");
  }
}

inline void check_type(const Tensor& tensor, const char* name, ScalarType expected,
                       const char* expected_name) {
  FASTALIGN_CHECK(tensor.scalar_type() == expected, name, " must be ", expected_name);
}

inline void check_cpu(const Tensor& tensor, const char* name) {
  FASTALIGN_CHECK(tensor.is_cpu(), name, " must be a CPU tensor");
}

// Of a tensor on any device.
inline View4 device_view4(const Tensor& tensor, const char* name) {
  FASTALIGN_CHECK(tensor.dim() == 4, name, " has shape ", shape_of(tensor),
                  ", expected [batch, channels, height, width]");
  View4 view{};
  view.data = const_cast<void*>(tensor.const_data_ptr());
  view.dtype = storage_type(tensor, name);
  for (int64_t d = 0; d < 4; ++d) {
    view.size[d] = tensor.size(d);
    view.stride[d] = tensor.stride(d);
  }
  return view;
}

inline View4 view4(const Tensor& tensor, const char* name) {
  check_cpu(tensor, name);
  return device_view4(tensor, name);
}

inline View3 view3(const Tensor& tensor) {
  return View3{tensor.const_data_ptr(), {tensor.stride(0), tensor.stride(1), tensor.stride(2)}};
}

// True where a [B, C, H, W] tensor is dense in channels_last order and not in the plain one:
// the layout that outputs take over.
bool is_channels_last(const Tensor& tensor);

// An uninitialised tensor like `like`, with the layout rule above. On the CPU large ones live in
// memory that is kept from call to call (cpu/memory.h), unless FASTALIGN_KEEP_RESULTS=0: faulting
// in fresh memory can cost more than the kernel.
Tensor empty_map(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type,
                 bool channels_last);
Tensor empty_gradient(const Tensor& like);

// The empty [0] tensor that stands for an unneeded gradient.
Tensor no_gradient(const Tensor& like);

// Image order sorted by group label; only groups of two and more, since others have no pairs.
struct GroupPlan {
  std::vector<int64_t> order;
  std::vector<int64_t> start;
  bool lonely = false;  // some image has no partner: outputs must be zeroed first

  Groups view() const {
    return Groups{order.data(), start.data(), static_cast<int64_t>(start.size()) - 1};
  }
};
GroupPlan plan_groups(const std::optional<Tensor>& groups, int64_t batch);

// The kernel table in use; throws what FASTALIGN_CPU_ISA got wrong.
const KernelTable& kernels();

// That of a level by its place from 1 on; 0: the one in use.
const KernelTable& forced_table(int32_t level);

// 0: as many threads as torch uses.
Workers torch_workers(int32_t threads);

void check_status(Status status, const char* kernel);

// Runs a CPU kernel under the plan that is forced for it, on torch's threads unless that names how
// many; throws what went wrong.
template <class Args>
void run_kernel(const char* name, Status (*KernelTable::*kernel)(const Args&, const Workers&),
                Args& args, PlanField isa, PlanField threads) {
  args.forced = forced_plans();
  const KernelTable& table = forced_table(forced(args.forced, isa));
  check_status((table.*kernel)(args, torch_workers(forced(args.forced, threads))), name);
}

#define FASTALIGN_RUN_KERNEL(kernel, args)                                        \
  ::fastalign::host::run_kernel(#kernel, &::fastalign::KernelTable::kernel, args, \
                                ::fastalign::PlanField::kernel##_cpu_isa,         \
                                ::fastalign::PlanField::kernel##_cpu_threads)

}  // namespace fastalign::host

#include "tensors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "../cpu/memory.h"

namespace fastalign::host {

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.numel() == 0 || tensor.is_contiguous()) {
    return false;
  }
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) != 1) {
      if (tensor.stride(d) != expected) {
        return false;
      }
      expected *= tensor.size(d);
    }
  }
  return true;
}

namespace {

// From here on malloc asks the system, unless the program has freed larger blocks before.
constexpr int64_t kLargeResult = 4 << 20;

bool keeps_results() {
  static const bool enabled = [] {
    const char* value = std::getenv("FASTALIGN_KEEP_RESULTS");
    return value == nullptr || std::strcmp(value, "0") != 0;
  }();
  return enabled;
}

constexpr size_t kMostDimensions = 4;

struct Geometry {
  std::array<int64_t, kMostDimensions> shape{};
  std::array<int64_t, kMostDimensions> strides{};
  int64_t dimensions = 0;
  int64_t elements = 1;

  Geometry(std::initializer_list<int64_t> sizes, bool channels_last)
      : dimensions(static_cast<int64_t>(sizes.size())) {
    std::copy(sizes.begin(), sizes.end(), shape.begin());
    int64_t step = 1;
    for (size_t d = sizes.size(); d-- > 0;) {
      strides[d] = step;
      step *= std::max(shape[d], int64_t{1});  // as torch has it for empty tensors
      elements *= shape[d];
    }
    if (channels_last) {
      strides = {shape[1] * shape[2] * shape[3], 1, shape[1] * shape[3], shape[1]};
    }
  }
};

// A tensor in memory of our own; without value where there is none.
std::optional<Tensor> large_map(const Tensor& like, const Geometry& map, ScalarType type,
                                size_t bytes) {
  void* data = acquire_result(bytes);
  if (data == nullptr) {
    return std::nullopt;
  }
  const auto dimensions = static_cast<size_t>(map.dimensions);
  return torch::stable::from_blob(
      data, torch::headeronly::IntHeaderOnlyArrayRef(map.shape.data(), dimensions),
      torch::headeronly::IntHeaderOnlyArrayRef(map.strides.data(), dimensions), like.device(), type,
      [bytes](void* block) { release_result(block, bytes); });
}

// As torch::stable::empty, which asks the dispatcher by name and costs four times as much.
Tensor torch_map(const Tensor& like, const Geometry& map, ScalarType type) {
  int32_t device = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      map.dimensions, map.shape.data(), map.strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), device, index,
      &handle));
  return Tensor(handle);
}

}  // namespace

Tensor empty_map(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type,
                 bool channels_last) {
  const Geometry map(sizes, channels_last);
  if (like.is_cpu() && keeps_results()) {
    const int64_t width = type == ScalarType::Double ? 8 : (type == ScalarType::Float ? 4 : 2);
    const int64_t bytes = width * map.elements;
    if (bytes >= kLargeResult) {
      auto result = large_map(like, map, type, static_cast<size_t>(bytes));
      if (result.has_value()) {
        return *result;
      }
    }
  }
  Tensor result = torch_map(like, map, type);
  if (result.is_cpu()) {
    prefer_huge_pages(result.mutable_data_ptr(),
                      static_cast<size_t>(result.numel()) * result.element_size());
  }
  return result;
}

Tensor empty_gradient(const Tensor& like) {
  return empty_map(like, {like.size(0), like.size(1), like.size(2), like.size(3)},
                   like.scalar_type(), is_channels_last(like));
}

Tensor no_gradient(const Tensor& like) { return empty_map(like, {0}, like.scalar_type(), false); }

GroupPlan plan_groups(const std::optional<Tensor>& groups, int64_t batch) {
  std::vector<int64_t> order(static_cast<size_t>(batch));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::vector<int64_t> labels(static_cast<size_t>(batch), 0);
  if (groups.has_value()) {
    check_cpu(*groups, "groups");
    check_shape(*groups, "groups", {batch});
    check_type(*groups, "groups", ScalarType::Long, "int64");
    const auto* data = static_cast<const int64_t*>(groups->const_data_ptr());
    for (int64_t i = 0; i < batch; ++i) {
      labels[static_cast<size_t>(i)] = data[i * groups->stride(0)];
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return labels[static_cast<size_t>(a)] < labels[static_cast<size_t>(b)];
    });
  }
  GroupPlan plan;
  plan.start.push_back(0);
  for (size_t first = 0; first < order.size();) {
    size_t last = first + 1;
    while (last < order.size() &&
           labels[static_cast<size_t>(order[last])] == labels[static_cast<size_t>(order[first])]) {
      ++last;
    }
    if (last - first >= 2) {
      plan.order.insert(plan.order.end(), order.begin() + static_cast<std::ptrdiff_t>(first),
                        order.begin() + static_cast<std::ptrdiff_t>(last));
      plan.start.push_back(static_cast<int64_t>(plan.order.size()));
    } else {
      plan.lonely = true;
    }
    first = last;
  }
  return plan;
}

Workers torch_workers(int32_t threads) {
  Workers workers{};
  workers.count = threads == 0 ? static_cast<int64_t>(torch::stable::get_num_threads()) : threads;
  workers.all = threads != 0;
  workers.run = [](int64_t count, void (*task)(void*, int64_t), void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) {
        task(context, worker);
      }
    });
  };
  return workers;
}

const KernelTable& kernels() {
  const char* error = nullptr;
  const IsaLevel* level = active_isa(&error);
  FASTALIGN_CHECK(level != nullptr, error);
  return *level->table;
}

const KernelTable& forced_table(int32_t level) {
  if (level == 0) {
    return kernels();
  }
  int count = 0;
  const IsaLevel* levels = isa_levels(&count);
  FASTALIGN_CHECK(level <= count && levels[level - 1].supported,
                  "this machine cannot run the instruction set that is forced");
  return *levels[level - 1].table;
}

void check_status(Status status, const char* kernel) {
  FASTALIGN_CHECK(status != Status::plan_refused, kernel,
                  ".cpu: the forced plan has no meaning for a call with these options, dtype and "
                  "layout (forced: ",
                  describe_forced(kernel, "cpu"), ")");
  FASTALIGN_CHECK(status == Status::ok, kernel, ": out of memory for scratch space");
}

}  // namespace fastalign::host

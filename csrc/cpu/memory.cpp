// One block of scratch is kept between calls: fresh pages cost more than many kernels.
#include <atomic>
#include <cstdlib>

#include "memory.h"

namespace fastalign {
namespace {

constexpr size_t kAlignment = 4096;
constexpr size_t kLargestKept = size_t{16} << 20;

// The block carries its size in a header page, so that one pointer can be exchanged atomically.
struct Header {
  size_t bytes;
};

std::atomic<void*> kept{nullptr};

}  // namespace

void* acquire_scratch(size_t bytes) {
  void* block = kept.exchange(nullptr, std::memory_order_acquire);
  if (block != nullptr && static_cast<Header*>(block)->bytes < bytes) {
    std::free(block);
    block = nullptr;
  }
  if (block == nullptr) {
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block = std::aligned_alloc(kAlignment, rounded + kAlignment);
    if (block == nullptr) {
      return nullptr;
    }
    static_cast<Header*>(block)->bytes = rounded;
  }
  return static_cast<char*>(block) + kAlignment;
}

void release_scratch(void* scratch) {
  if (scratch == nullptr) {
    return;
  }
  void* block = static_cast<char*>(scratch) - kAlignment;
  if (static_cast<Header*>(block)->bytes <= kLargestKept) {
    block = kept.exchange(block, std::memory_order_acq_rel);
  }
  std::free(block);
}

}  // namespace fastalign

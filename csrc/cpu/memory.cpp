// Blocks are kept between calls: fresh pages cost more than many kernels.
//
// malloc takes large blocks from the system and gives them back, each time. The first touch of a
// page then costs a fault and clears it: for the gradient of a large map that is as much time as
// the kernel takes. A training step frees a gradient before it asks for the next one of that size.
#include "memory.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastalign {
namespace {

constexpr size_t kAlignment = 4096;
constexpr size_t kLargestKept = size_t{16} << 20;

// The block carries its size in a header page, so that one pointer can be exchanged atomically.
struct Header {
  size_t bytes;
};

std::atomic<void*> kept{nullptr};

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptResults = size_t{64} << 20;

struct Block {
  void* data;
  size_t bytes;
};

// Oldest first. Never destroyed: results may be freed while the process ends.
struct Results {
  std::mutex mutex;
  std::vector<Block> blocks;
  size_t bytes = 0;
};

Results& results() {
  static Results* instance = new Results;
  return *instance;
}

size_t whole_pages(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

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

void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (end > begin) {
    (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#else
  (void)data;
  (void)bytes;
#endif
}

namespace {

// Results have mappings of their own. In malloc's heap, where earlier blocks have left their
// advice, the header of a neighbour or a part of a page at the end would take a whole huge page.
// The address sanitizer watches what comes from malloc alone.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
void* allocate_result(size_t size) {
  const size_t wide = size + kHugePage;
  void* found = mmap(nullptr, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) {
    return nullptr;
  }
  char* const raw = static_cast<char*>(found);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(raw) % kHugePage) % kHugePage;
  if (before != 0) {
    (void)munmap(raw, before);
  }
  (void)munmap(raw + before + size, wide - before - size);
  return raw + before;
}

void free_result(void* data, size_t size) { (void)munmap(data, size); }
#else
void* allocate_result(size_t size) {
  void* data = nullptr;
  return posix_memalign(&data, kHugePage, size) == 0 ? data : nullptr;
}

void free_result(void* data, size_t) { std::free(data); }
#endif

// A neighbour with the same advice would make the part of a huge page at the end a whole one.
void small_pages_at_end(void* data, size_t size) {
#if defined(__linux__) && defined(MADV_NOHUGEPAGE)
  const size_t rest = size % kHugePage;
  if (rest != 0) {
    (void)madvise(static_cast<char*>(data) + (size - rest), rest, MADV_NOHUGEPAGE);
  }
#else
  (void)data;
  (void)size;
#endif
}

}  // namespace

void* acquire_result(size_t bytes) {
  const size_t size = whole_pages(bytes);
  {
    Results& all = results();
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (size_t i = all.blocks.size(); i-- > 0;) {
      if (all.blocks[i].bytes == size) {
        void* data = all.blocks[i].data;
        all.blocks.erase(all.blocks.begin() + static_cast<std::ptrdiff_t>(i));
        all.bytes -= size;
        return data;
      }
    }
  }
  void* data = allocate_result(size);
  if (data == nullptr) {
    return nullptr;
  }
  prefer_huge_pages(data, size);
  small_pages_at_end(data, size);
  return data;
}

void release_result(void* block, size_t bytes) {
  const size_t size = whole_pages(bytes);
  if (size > kKeptResults) {
    free_result(block, size);
    return;
  }
  std::vector<Block> dropped;
  {
    Results& all = results();
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.blocks.push_back({block, size});
    all.bytes += size;
    while (all.bytes > kKeptResults) {
      dropped.push_back(all.blocks.front());
      all.bytes -= all.blocks.front().bytes;
      all.blocks.erase(all.blocks.begin());
    }
  }
  for (const Block& old : dropped) {
    free_result(old.data, old.bytes);
  }
}

void release_kept() {
  std::free(kept.exchange(nullptr, std::memory_order_acq_rel));
  std::vector<Block> dropped;
  {
    Results& all = results();
    const std::lock_guard<std::mutex> lock(all.mutex);
    dropped.swap(all.blocks);
    all.bytes = 0;
  }
  for (const Block& old : dropped) {
    free_result(old.data, old.bytes);
  }
}

}  // namespace fastalign

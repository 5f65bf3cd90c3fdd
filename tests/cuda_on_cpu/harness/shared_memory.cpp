#include "shared_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_on_cpu {
namespace {

constexpr size_t kArena = 256 * 1024;  // more than any chip has
constexpr size_t kGuard = 1024 * 1024;
constexpr unsigned char kCanary = 0xa5;

char* arena = nullptr;  // kGuard unmapped, kArena, kGuard unmapped
char* block = nullptr;
size_t block_bytes = 0;
char* open_from = nullptr;  // first mapped byte below the block

void map_arena() {
  void* memory = mmap(nullptr, kGuard + kArena + kGuard, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::abort();
  }
  arena = static_cast<char*>(memory) + kGuard;
}

bool is_canary(const char* from, const char* to) {
  for (; from < to; ++from) {
    if (static_cast<unsigned char>(*from) != kCanary) {
      return false;
    }
  }
  return true;
}

}  // namespace

void* begin_shared(size_t bytes, unsigned char rest) {
  if (arena == nullptr) {
    map_arena();
  }
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  char* const end = arena + kArena;
  if (block == nullptr || bytes != block_bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(arena, kArena);
#endif
    block = end - ((bytes + 15) & ~size_t{15});
    block_bytes = bytes;
    open_from = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(block) & ~(page - 1));
    mprotect(arena, kArena, PROT_NONE);
    mprotect(open_from, static_cast<size_t>(end - open_from), PROT_READ | PROT_WRITE);
    std::memset(open_from, kCanary, static_cast<size_t>(end - open_from));
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(arena, static_cast<size_t>(block - arena));
    __asan_poison_memory_region(block + bytes, static_cast<size_t>(end - (block + bytes)));
#endif
  }
  std::memset(block, rest, bytes);
  return block;
}

const char* damage_beside_shared() {
#if !defined(__SANITIZE_ADDRESS__)
  if (!is_canary(open_from, block)) {
    std::memset(open_from, kCanary, static_cast<size_t>(block - open_from));
    return "dynamic shared memory was written below its start";
  }
  if (!is_canary(block + block_bytes, arena + kArena)) {
    std::memset(block + block_bytes, kCanary,
                static_cast<size_t>(arena + kArena - (block + block_bytes)));
    return "dynamic shared memory was written past its end";
  }
#endif
  return nullptr;
}

bool beside_shared(const void* address, long long* offset) {
  const auto* at = static_cast<const char*>(address);
  if (arena == nullptr || at < arena - kGuard || at >= arena + kArena + kGuard) {
    return false;
  }
  *offset = at - block;
  return true;
}

}  // namespace cuda_on_cpu

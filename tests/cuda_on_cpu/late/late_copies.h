// Asynchronous copies that land as late as they may: when their thread waits for their group.
//
// The kernels copy at once where they are no device code, which shows copies into memory that
// others still read, and hides copies that nobody committed or waited for. Here it is the other way
// round: until then the memory holds what it held.
#pragma once

#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "launch.h"

namespace late {

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;
};

using Group = std::vector<Copy>;

struct Thread {
  uint3 block{};
  Group open;
  std::deque<Group> groups;
};

inline Thread threads[1024];

inline Thread& here() {
  Thread& thread = threads[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
  const uint3 before = thread.block;
  if (before.x != blockIdx.x || before.y != blockIdx.y || before.z != blockIdx.z) {
    thread = {blockIdx, {}, {}};
  }
  return thread;
}

inline void request(void* to, const void* from, size_t bytes) {
  ::cuda_on_cpu::check_vector(to, bytes, "copy");
  ::cuda_on_cpu::check_vector(from, bytes, "copy");
  here().open.push_back({to, from, bytes});
}

inline void commit() {
  Thread& thread = here();
  thread.groups.push_back(std::move(thread.open));
  thread.open.clear();
}

inline void wait(size_t pending) {
  for (std::deque<Group>& groups = here().groups; groups.size() > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      copy.from == nullptr ? std::memset(copy.to, 0, copy.bytes)
                           : std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}

}  // namespace late

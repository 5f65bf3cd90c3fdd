// The scheduler: runs the threads of one block as fibers until all have exited, or one fails.
#include <cxxabi.h>
#include <dlfcn.h>
#include <signal.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "control.h"
#include "cuda_on_cpu.h"
#include "faults.h"
#include "fiber.h"
#include "schedule.h"
#include "shared_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_on_cpu {

Counts counts;
SimulatedDevice simulated;

namespace {

enum class State { running, at_barrier, in_warp, exited };

struct Thread {
  Context context;
  State state = State::running;
  uint3 index{};
  // Where and for what it waits.
  Place place{};
  Operation operation{};
  unsigned mask = 0;
  int source = 0;
  uint64_t value = 0;  // in, and what the operation gives
};

struct Block {
  std::vector<Thread> threads;
  int count = 0;
  int exited = 0;
  int waiting = 0;  // at the barrier
  Thread* first_waiting = nullptr;
  int votes = 0;
  int vote_result = 0;
  void* shared = nullptr;
  Ready ready;
};

Block block;
Context scheduler;
Thread* self = nullptr;
const Launch* current = nullptr;
std::string kernel_name;
std::string error;
std::set<std::string> launched;
int64_t launches_since_schedule = 0;

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::syncwarp:
      return "__syncwarp";
    case Operation::shuffle:
      return "a shuffle";
    case Operation::ballot:
      return "a vote";
    default:
      return "__syncthreads";
  }
}

std::string text_of(const char* format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof(text), format, arguments);
  return text;
}

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  std::string text = text_of(pattern, arguments);
  va_end(arguments);
  return text;
}

std::string where(const Thread& thread) {
  return format("thread (%u,%u,%u)", thread.index.x, thread.index.y, thread.index.z);
}

std::string doing(const Thread& thread) {
  if (thread.state == State::exited) {
    return where(thread) + " has exited";
  }
  const char* file = std::strrchr(thread.place.file, '/');
  const Operation operation =
      thread.state == State::at_barrier ? Operation::barrier : thread.operation;
  std::string text =
      where(thread) + " waits at " + name_of(operation) +
      format(" (%s:%d", file != nullptr ? file + 1 : thread.place.file, thread.place.line);
  return text + (operation == Operation::barrier ? ")" : format(", mask %08x)", thread.mask));
}

void set_error(const std::string& what) {
  if (error.empty()) {
    error = kernel_name + format(", block (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z) + what;
  }
}

// Gives the scheduler the word; comes back when this thread is taken from `ready`.
void pause() {
  Thread* const me = self;
  switch_context(me->context, scheduler, false);
}

[[noreturn]] void fail_with(const std::string& what) {
  set_error(what);
  switch_context(self->context, scheduler, true);
  std::abort();
}

Thread& lane_of(const Thread& thread, int lane) {
  const auto index = static_cast<int>(&thread - block.threads.data());
  return block.threads[static_cast<size_t>((index & ~31) + lane)];
}

int lane_of_thread(const Thread& thread) {
  return static_cast<int>(&thread - block.threads.data()) & 31;
}

int lanes_in_warp(const Thread& thread) {
  const auto index = static_cast<int>(&thread - block.threads.data());
  return std::min(32, block.count - (index & ~31));
}

bool same_place(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

Thread* first_in(State state) {
  for (int i = 0; i < block.count; ++i) {
    if (block.threads[static_cast<size_t>(i)].state == state) {
      return &block.threads[static_cast<size_t>(i)];
    }
  }
  return nullptr;
}

void release(Thread& thread) {
  thread.state = State::running;
  block.ready.add(static_cast<int>(&thread - block.threads.data()));
}

void thread_main() {
  entered();
  current->call(current->arguments);
  self->state = State::exited;
  ++block.exited;
  if (block.waiting > 0) {
    fail_with("divergent barrier: " + doing(*self) + " while " + doing(*block.first_waiting));
  }
  switch_context(self->context, scheduler, true);
  std::abort();
}

void on_fault(int signal, const void* address) {
  long long offset = 0;
  if (signal == SIGFPE) {
    fail("integer division by zero");
  }
  if (beside_shared(address, &offset)) {
    fail("dynamic shared memory out of bounds: byte %lld of %zu", offset, current->shared_bytes);
  }
  if (address == nullptr) {
    fail("segmentation fault: null pointer, or a misaligned vector access");
  }
  fail("segmentation fault at %p", address);
}

// No thread can go on and not all have exited: tells of a barrier or a warp operation that waits.
std::string deadlock() {
  const Thread* barrier = first_in(State::at_barrier);
  const Thread* warp = first_in(State::in_warp);
  if (warp == nullptr) {
    return "deadlock: " + doing(*barrier);
  }
  for (int lane = 0; lane < lanes_in_warp(*warp); ++lane) {
    const Thread& other = lane_of(*warp, lane);
    const bool here = other.state == State::in_warp && other.mask == warp->mask &&
                      other.operation == warp->operation && same_place(other.place, warp->place);
    if ((warp->mask >> lane & 1u) != 0 && !here) {
      return "a lane of the mask is missing: " + doing(*warp) + " while " + doing(other);
    }
  }
  return "deadlock: " + doing(*warp);
}

void run_block(const Launch& launch, Random* random) {
  block.exited = 0;
  block.waiting = 0;
  block.votes = 0;
  const bool zeros = schedule.order == Order::random && schedule.seed % 2 == 0;
  block.shared = begin_shared(launch.shared_bytes, zeros ? 0 : 0xff);
  block.ready.reset(block.count, random);
  for (int i = 0; i < block.count; ++i) {
    Thread& thread = block.threads[static_cast<size_t>(i)];
    thread.state = State::running;
    const auto rest = static_cast<unsigned>(i) / blockDim.x;
    thread.index = {static_cast<unsigned>(i) % blockDim.x, rest % blockDim.y, rest / blockDim.y};
    prepare(thread.context, thread_main);
  }
  while (block.exited < block.count) {
    const int next = block.ready.take();
    if (next < 0) {
      set_error(deadlock());
      return;
    }
    self = &block.threads[static_cast<size_t>(next)];
    threadIdx = self->index;
    in_fiber = true;
    switch_context(scheduler, self->context, false);
    in_fiber = false;
    if (!error.empty()) {
      return;
    }
  }
  if (const char* damage = damage_beside_shared()) {
    set_error(damage);
  }
}

// The kernel's own name with its template arguments where the linker knows it.
std::string readable_name(const Launch& launch) {
  Dl_info info{};
  if (dladdr(launch.function, &info) != 0 && info.dli_sname != nullptr &&
      info.dli_saddr == launch.function) {
    int status = 0;
    std::unique_ptr<char, void (*)(void*)> plain(
        abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), std::free);
    if (status == 0) {
      std::string name = plain.get();
      if (const size_t arguments = name.rfind('('); arguments != std::string::npos) {
        name.resize(arguments);
      }
      return name;
    }
  }
  return launch.text;
}

const char* refused(const Launch& launch) {
  const dim3 grid = launch.grid, shape = launch.block;
  const uint64_t threads = uint64_t{shape.x} * shape.y * shape.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0) {
    return "launch refused: the grid or the block has a size of zero";
  }
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "launch refused: the grid is larger than (2147483647, 65535, 65535)";
  }
  if (threads > 1024 || shape.z > 64) {
    return "launch refused: the block has more than 1024 threads, or 64 along z";
  }
  if (launch.shared_bytes > static_cast<size_t>(simulated.shared_bytes)) {
    return "launch refused: more dynamic shared memory than the device has";
  }
  return nullptr;
}

}  // namespace

int lane_index() { return lane_of_thread(*self); }

void* dynamic_shared() { return block.shared; }

void fail(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  const std::string text = text_of(pattern, arguments);
  va_end(arguments);
  if (!in_fiber) {
    std::fprintf(stderr, "outside a kernel: %s\n", text.c_str());
    std::abort();
  }
  fail_with(where(*self) + ": " + text);
}

void count_atomic(bool floating) {
  ++counts.atomics;
  counts.float_atomics += floating ? 1 : 0;
}

void may_switch() {
  if (schedule.order == Order::random) {
    release(*self);
    pause();
  }
}

int meet_block(int vote, Place place) {
  Thread& me = *self;
  ++counts.barriers;
  me.state = State::at_barrier;
  me.place = place;
  block.votes += vote != 0 ? 1 : 0;
  ++block.waiting;
  if (block.waiting == 1) {
    block.first_waiting = &me;
  }
  const Thread* other = block.exited > 0 ? first_in(State::exited) : block.first_waiting;
  if (other->state == State::exited || !same_place(other->place, place)) {
    fail_with("divergent barrier: " + doing(me) + " while " + doing(*other));
  }
  if (block.waiting == block.count) {
    block.vote_result = block.votes;
    block.votes = 0;
    block.waiting = 0;
    for (int i = 0; i < block.count; ++i) {
      release(block.threads[static_cast<size_t>(i)]);
    }
  }
  pause();
  return block.vote_result;
}

unsigned live_lanes() {
  unsigned lanes = 0;
  for (int lane = 0; lane < lanes_in_warp(*self); ++lane) {
    lanes |= lane_of(*self, lane).state == State::exited ? 0u : 1u << lane;
  }
  return lanes;
}

uint64_t meet_warp(Operation operation, unsigned mask, uint64_t value, int source, Place place) {
  Thread& me = *self;
  const int my_lane = lane_of_thread(me);
  const int lanes = lanes_in_warp(me);
  ++counts.warp_operations;
  me.state = State::in_warp;
  me.place = place;
  me.operation = operation;
  me.mask = mask;
  me.source = source;
  me.value = value;
  if ((mask >> my_lane & 1u) == 0) {
    fail_with("a lane that is not in its own mask: " + doing(me));
  }
  if (lanes < 32 && (mask >> lanes) != 0) {
    fail_with("a mask that names lanes which the warp does not have: " + doing(me));
  }
  bool complete = true;
  for (int lane = 0; lane < lanes; ++lane) {
    const Thread& other = lane_of(me, lane);
    if ((mask >> lane & 1u) == 0) {
      continue;
    }
    if (other.state == State::exited || other.state == State::at_barrier) {
      fail_with("a lane of the mask is missing: " + doing(me) + " while " + doing(other));
    }
    const bool waits = other.state == State::in_warp;
    const bool here =
        other.mask == mask && other.operation == operation && same_place(other.place, place);
    // One that waits for others first may still come here; if it waits for me, neither goes on.
    if (waits && !here && (other.mask >> my_lane & 1u) != 0) {
      fail_with("divergent warp operation: " + doing(me) + " while " + doing(other));
    }
    complete = complete && waits && here;
  }
  if (complete) {
    if (operation == Operation::shuffle) {
      uint64_t results[32];
      for (int lane = 0; lane < lanes; ++lane) {
        const Thread& reader = lane_of(me, lane);
        if ((mask >> lane & 1u) == 0) {
          continue;
        }
        if (reader.source >= lanes || (mask >> reader.source & 1u) == 0) {
          fail_with("a shuffle reads lane " + format("%d", reader.source) +
                    ", which is not in the mask: " + doing(reader));
        }
        results[lane] = lane_of(me, reader.source).value;
      }
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1u) != 0) {
          lane_of(me, lane).value = results[lane];
        }
      }
    } else if (operation == Operation::ballot) {
      uint64_t ballot = 0;
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1u) != 0 && lane_of(me, lane).value != 0) {
          ballot |= uint64_t{1} << lane;
        }
      }
      for (int lane = 0; lane < lanes; ++lane) {
        if ((mask >> lane & 1u) != 0) {
          lane_of(me, lane).value = ballot;
        }
      }
    }
    for (int lane = 0; lane < lanes; ++lane) {
      if ((mask >> lane & 1u) != 0) {
        release(lane_of(me, lane));
      }
    }
  }
  pause();
  return me.value;
}

const char* run(const Launch& launch) {
  error.clear();
  kernel_name = readable_name(launch);
  launched.insert(kernel_name);
  ++counts.launches;
  if (const char* reason = refused(launch)) {
    error = kernel_name + ": " + reason;
    return error.c_str();
  }
  current = &launch;
  gridDim = launch.grid;
  blockDim = launch.block;
  block.count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  while (block.threads.size() < static_cast<size_t>(block.count)) {
    Thread thread;
    thread.context.stack = new_stack();
    block.threads.push_back(thread);
  }
  Random random(schedule.seed + static_cast<uint64_t>(launches_since_schedule++));
  CatchFaults faults(on_fault);
  const int64_t plane = int64_t{gridDim.x} * gridDim.y;
  for (const int64_t index : block_order(plane * gridDim.z, &random)) {
    blockIdx = {static_cast<unsigned>(index % gridDim.x),
                static_cast<unsigned>(index % plane / gridDim.x),
                static_cast<unsigned>(index / plane)};
    run_block(launch, &random);
    if (!error.empty()) {
#if defined(__SANITIZE_ADDRESS__)
      // Threads that will never go on leave the marks of their variables on their stacks.
      for (const Thread& thread : block.threads) {
        __asan_unpoison_memory_region(thread.context.stack.bottom, thread.context.stack.bytes);
      }
#endif
      return error.c_str();
    }
    ++counts.blocks;
  }
  return nullptr;
}

void set_schedule(Schedule wanted) {
  schedule = wanted;
  launches_since_schedule = 0;
}

const char* take_launched() {
  static std::string names;
  names.clear();
  for (const std::string& name : launched) {
    names += (names.empty() ? "" : "\n") + name;
  }
  launched.clear();
  return names.c_str();
}

}  // namespace cuda_on_cpu

unsigned __activemask() { return cuda_on_cpu::live_lanes(); }

extern "C" {

void cuda_on_cpu_schedule(int order, uint64_t seed) {
  cuda_on_cpu::set_schedule({static_cast<cuda_on_cpu::Order>(order), seed});
}

void cuda_on_cpu_device(int multiprocessors, int shared_bytes) {
  const cuda_on_cpu::SimulatedDevice usual;
  cuda_on_cpu::simulated = {multiprocessors > 0 ? multiprocessors : usual.multiprocessors,
                            shared_bytes > 0 ? shared_bytes : usual.shared_bytes};
}

const char* cuda_on_cpu_launched() { return cuda_on_cpu::take_launched(); }

cuda_on_cpu::Counts cuda_on_cpu_counts() {
  const cuda_on_cpu::Counts result = cuda_on_cpu::counts;
  cuda_on_cpu::counts = {};
  return result;
}
}

// Scratch memory and work splitting of the kernels.
#pragma once

#include "../common/plans.h"
#include "kernels.h"
#include "memory.h"
#include "simd.h"

namespace fastalign::FASTALIGN_ISA {

constexpr int64_t kAlign = 64;

FASTALIGN_INLINE int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// One block per worker, aligned to cache lines; null data after a failed allocation.
class Scratch {
 public:
  Scratch(int64_t bytes_per_worker, int64_t workers)
      : stride_(round_up(larger<int64_t>(bytes_per_worker, 1), 4096) + kAlign),
        data_(static_cast<char*>(acquire_scratch(static_cast<size_t>(stride_ * workers)))) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release_scratch(data_); }

  bool failed() const { return data_ == nullptr; }
  char* of(int64_t worker) const { return data_ + worker * stride_; }

 private:
  int64_t stride_;
  char* data_;
};

// Hands out aligned pieces of one worker's block.
class Carver {
 public:
  explicit Carver(char* block) : next_(block) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), kAlign);
    return piece;
  }

 private:
  char* next_;
};

template <class T>
constexpr int64_t carved(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
}

// Calls body(worker, first, last) on contiguous shares of [0, tasks). The shares depend on the
// number of workers, so a body must give results that do not depend on how tasks are grouped.
template <class Body>
void split(const Workers& workers, int64_t tasks, int64_t used, Body& body) {
  struct Context {
    Body* body;
    int64_t tasks, used;
  } context{&body, tasks, used};
  auto run = [](void* opaque, int64_t worker) {
    const Context& c = *static_cast<Context*>(opaque);
    (*c.body)(worker, c.tasks* worker / c.used, c.tasks * (worker + 1) / c.used);
  };
  if (used == 1) {
    run(&context, 0);
  } else {
    workers.run(used, run, &context);
  }
}

// Fewer workers for little work: waking a thread takes longer than this many multiply-adds.
// Measured where threads sleep while they wait (benchmarks/results/cpu/plans_cpu_threads.md, where
// the command is): two threads, which this gives them, take 1.4 to 2.2 times as long as one for the
// small maps of dense_similarity, pairwise_distance and warp_affine; mahalanobis, which gets one,
// would take 3.1 times as long with two. The search for races is built with 1, so that small
// tensors are shared out too.
#if !defined(FASTALIGN_WORK_PER_WORKER)
#define FASTALIGN_WORK_PER_WORKER (1 << 17)
#endif
constexpr double kWorkPerWorker = FASTALIGN_WORK_PER_WORKER;

// Workers worth using for `tasks` that need `work` multiply-adds or so together.
FASTALIGN_INLINE int64_t workers_for(const Workers& workers, int64_t tasks, double work) {
  const double useful = work / kWorkPerWorker + 1;
  const int64_t wanted = !workers.all && useful < static_cast<double>(workers.count)
                             ? static_cast<int64_t>(useful)
                             : workers.count;
  return larger<int64_t>(1, smaller(wanted, tasks));
}

}  // namespace fastalign::FASTALIGN_ISA

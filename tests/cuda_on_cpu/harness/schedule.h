// Which thread runs next, and in which order the blocks run.
#pragma once

#include <cstdint>
#include <vector>

namespace cuda_on_cpu {

enum class Order : int { ascending, descending, random };

struct Schedule {
  Order order = Order::ascending;
  uint64_t seed = 0;
};

// The schedule of the launches to come.
extern Schedule schedule;

// splitmix64: any seed is a good one.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int limit) { return static_cast<int>(next() % static_cast<uint64_t>(limit)); }

 private:
  uint64_t state_;
};

// The threads of a block that can go on.
class Ready {
 public:
  void reset(int threads, Random* random);
  void add(int thread) { words_[thread >> 6] |= uint64_t{1} << (thread & 63); }
  // Takes one out, as the schedule has it; -1 if there is none.
  int take();

 private:
  int first_from(int start) const;  // cyclic
  int last() const;

  static constexpr int kWords = 16;
  uint64_t words_[kWords] = {};
  int threads_ = 0;
  int word_count_ = 0;
  Random* random_ = nullptr;
  bool eager_ = false;  // stay with one warp for long, so that it runs ahead of the others
  int favourite_ = 0;
};

// Indices of `count` blocks in the order to run them.
std::vector<int64_t> block_order(int64_t count, Random* random);

}  // namespace cuda_on_cpu

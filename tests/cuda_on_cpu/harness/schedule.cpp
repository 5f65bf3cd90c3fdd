#include "schedule.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace cuda_on_cpu {

Schedule schedule;

void Ready::reset(int threads, Random* random) {
  std::fill(words_, words_ + kWords, 0);
  threads_ = threads;
  word_count_ = (threads + 63) / 64;
  random_ = random;
  eager_ = schedule.order == Order::random && random->below(2) == 0;
  favourite_ = eager_ ? random->below((threads + 31) / 32) : 0;
  for (int thread = 0; thread < threads; ++thread) {
    add(thread);
  }
}

int Ready::first_from(int start) const {
  int word = start >> 6;
  uint64_t bits = words_[word] & (~uint64_t{0} << (start & 63));
  for (int step = 0; step <= word_count_; ++step) {
    if (bits != 0) {
      return word * 64 + std::countr_zero(bits);
    }
    word = word + 1 < word_count_ ? word + 1 : 0;
    bits = words_[word];
  }
  return -1;
}

int Ready::last() const {
  for (int word = word_count_ - 1; word >= 0; --word) {
    if (words_[word] != 0) {
      return word * 64 + 63 - std::countl_zero(words_[word]);
    }
  }
  return -1;
}

int Ready::take() {
  int thread = -1;
  switch (schedule.order) {
    case Order::ascending:
      thread = first_from(0);
      break;
    case Order::descending:
      thread = last();
      break;
    case Order::random:
      if (eager_) {
        if (random_->below(64) == 0) {
          favourite_ = random_->below((threads_ + 31) / 32);
        }
        // Within the warp from a lane chosen anew each time, else the next warp that can run.
        const int start = std::min(favourite_ * 32 + random_->below(32), threads_ - 1);
        thread = first_from(start);
        if (thread >> 5 != favourite_) {
          thread = first_from(favourite_ * 32);
        }
      } else {
        thread = first_from(random_->below(threads_));
      }
      break;
  }
  if (thread >= 0) {
    words_[thread >> 6] &= ~(uint64_t{1} << (thread & 63));
  }
  return thread;
}

std::vector<int64_t> block_order(int64_t count, Random* random) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (schedule.order == Order::descending) {
    std::reverse(order.begin(), order.end());
  } else if (schedule.order == Order::random) {
    for (int64_t i = count - 1; i > 0; --i) {
      const auto other = static_cast<int64_t>(random->next() % static_cast<uint64_t>(i + 1));
      std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(other)]);
    }
  }
  return order;
}

}  // namespace cuda_on_cpu

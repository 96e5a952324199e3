// Deterministic sums of per-position losses: one double per chunk, added up in chunk order.
#pragma once

#include <atomic>
#include <limits>

#include "cpu/runtime/memory.h"

namespace fastdl {

class ChunkSums {
 public:
  explicit ChunkSums(int64_t chunks) : chunks_(chunks), sums_(size_t(chunks * kApart)) {
    for (int64_t i = 0; i < chunks; ++i) sums_[i * kApart] = 0;
  }
  double& operator[](int64_t chunk) { return sums_[chunk * kApart]; }
  double total() const {
    double sum = 0;
    for (int64_t i = 0; i < chunks_; ++i) sum += sums_[i * kApart];
    return sum;
  }

 private:
  // Two cache lines: threads that add to neighbouring chunks must not take each other's lines.
  static constexpr int64_t kApart = 16;
  int64_t chunks_;
  memory::Buffer<double> sums_;
};

// The smallest position that anybody noted, whatever the order of the threads; -1 if none.
class FirstPosition {
 public:
  void note(int64_t position) {
    int64_t seen = first_.load(std::memory_order_relaxed);
    while (position < seen && !first_.compare_exchange_weak(seen, position, std::memory_order_relaxed)) {
    }
  }
  int64_t get() const {
    const int64_t first = first_.load(std::memory_order_relaxed);
    return first == kNone ? -1 : first;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone};
};

}  // namespace fastdl

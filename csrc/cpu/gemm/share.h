// How the engine hands work to threads: by its estimated length, because a thread that sleeps takes some 50
// us to wake.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

// What m * n * k multiply-adds take on one thread: at 100 GFLOP/s with vectors of 16, in proportion with
// shorter ones.
template <class T>
inline double product_microseconds(int64_t m, int64_t n, int64_t k) {
  return 3.2e-4 / simd::kWidth<T> * double(m) * double(n) * double(k);
}

// Whether items, each of which has work for `each` threads, are better computed one after the other, each by
// all threads, than shared out: shared out they would leave more threads idle.
inline bool one_by_one(int64_t items, double each) {
  const int64_t threads = num_threads(), rounds = ceil_div(items, threads);
  return double(items) / double(rounds) < std::min(each, 0.9 * double(threads));
}

// f(begin, end) over ranges of `count` items that take `microseconds` together. A few long items (which a
// grain cannot express) go one by one, from 50 us on; many short ones in chunks worth 10 us.
template <class F>
void share(int64_t count, double microseconds, F&& f) {
  if (count > 1 && microseconds >= 50 && microseconds >= 10 * double(count)) {
    parallel_tasks(count, [&](int64_t i) { f(i, i + 1); });
    return;
  }
  const double grain = 10 * double(count) / std::max(microseconds, 1e-3);
  parallel_for(count, std::max<int64_t>(1, int64_t(std::min(grain, double(count)))), f);
}

}  // namespace fastdl::tile

// The one way to use threads: parallel_for and parallel_tasks, on one pool per module.
//
//   parallel_for(n, grain, f)     f(begin, end) over disjoint ranges that cover [0, n). `grain` is the number
//                                 of items worth about 10 us of work: less than two grains run inline.
//   parallel_chunks(n, grain, f)  the same, f(chunk, begin, end): for reductions, which keep one partial
//                                 result per chunk (chunk_count(n, grain) of them) and add them up in chunk
//                                 order.
//   parallel_tasks(count, f)      f(task) for task in [0, count), each worth 10 us or more.
//
// Ranges depend only on (n, grain, thread count), never on timing; a thread does its own share of them first,
// then what others left: the same inputs on the same number of threads give the same bits. Nested calls run
// inline. Exceptions thrown by f come back to the caller (the first one). No thread exists before the first
// call that needs one; idle workers spin briefly, then sleep; after fork the child starts with an empty pool.
// Workers flush denormals (see denormals.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/ceil_div.h"

namespace fastdl {

int num_threads();            // FASTDL_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use
void set_num_threads(int n);  // 1 <= n
int thread_index();           // 0 in the caller, 1.. in workers: an index for per-thread scratch
int workers_started();        // how many worker threads exist (0 until first needed)

namespace detail {
using Task = void (*)(void* context, int64_t index);
void run(int64_t count, Task task, void* context, bool worth_waking);
bool in_parallel();
inline constexpr int64_t kChunksPerThread = 4;
}  // namespace detail

inline int64_t chunk_count(int64_t n, int64_t grain) {
  const int64_t by_grain = ceil_div(n, std::max<int64_t>(grain, 1));
  const int threads = num_threads();
  if (threads == 1 || detail::in_parallel()) return n > 0 ? 1 : 0;
  // As many for each thread: seven chunks would keep one of two threads a seventh longer than the other.
  const int64_t even = by_grain < threads ? by_grain : by_grain / threads * threads;
  return std::min<int64_t>(even, threads * detail::kChunksPerThread);
}

template <class F>
void parallel_tasks(int64_t count, F&& f) {
  if (count == 1 || num_threads() == 1) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  using Callable = std::remove_reference_t<F>;
  detail::run(
      count, [](void* context, int64_t index) { (*static_cast<Callable*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&f)), true);
}

template <class F>
void parallel_chunks(int64_t n, int64_t grain, F&& f) {
  const int64_t chunks = chunk_count(n, grain);
  if (chunks == 0) return;
  if (chunks == 1) {
    f(int64_t{0}, int64_t{0}, n);
    return;
  }
  auto body = [&](int64_t chunk) { f(chunk, n * chunk / chunks, n * (chunk + 1) / chunks); };
  using Callable = decltype(body);
  // Waking a sleeping thread costs 40-60 us: worth it from some 50 us of work, that is, from 5 grains, or
  // from any two items so large that no grain holds one.
  detail::run(
      chunks, [](void* context, int64_t index) { (*static_cast<Callable*>(context))(index); }, &body,
      grain <= 1 || n / grain >= 5);
}

template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  parallel_chunks(n, grain, [&](int64_t, int64_t begin, int64_t end) { f(begin, end); });
}

}  // namespace fastdl

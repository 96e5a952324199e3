// The thread pool and the allocator under ThreadSanitizer (tools/sanitize.sh builds and runs this): several
// callers at once, nested calls, exceptions, sleeping workers, a changing number of threads. Exits with 1 on
// a wrong result.
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

using namespace fastdl;

namespace {

bool is_right(int64_t n) {
  memory::Buffer<double> numbers(static_cast<size_t>(n)), copy(static_cast<size_t>(n));
  parallel_for(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) numbers[i] = double(i);
  });
  parallel_tasks(8, [&](int64_t task) {  // nested: runs inline
    parallel_for(n / 8, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = task * (n / 8) + begin; i < task * (n / 8) + end; ++i) copy[i] = numbers[i];
    });
  });
  std::vector<double> sums(static_cast<size_t>(chunk_count(n, 16)));
  parallel_chunks(n, 16, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[size_t(chunk)] += i < n / 8 * 8 ? copy[i] : numbers[i];
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total == double(n) * double(n - 1) / 2;
}

bool exception_arrives() {
  try {
    parallel_tasks(16, [](int64_t task) {
      if (task == 5) throw std::runtime_error("expected");
    });
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

bool work(int seed) {
  bool right = true;
  for (int round = 0; round < 300; ++round) {
    right &= is_right(1000 + (seed * 7919 + round * 131) % 5000);
    if (round % 50 == 0) right &= exception_arrives();
    if (round % 100 == 99) {  // long enough for the workers to fall asleep
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      memory::empty_cache();
    }
  }
  return right;
}

}  // namespace

int main() {
  set_num_threads(4);
  bool right = work(0), results[3] = {};
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back([&results, i] { results[i] = work(i + 1); });
  for (std::thread& caller : callers) caller.join();
  for (bool result : results) right &= result;
  for (int threads : {2, 1, 4}) {
    set_num_threads(threads);
    right &= work(threads + 3);
  }
  std::puts(right ? "thread pool: no data race, results right" : "thread pool: WRONG RESULT");
  return right ? 0 : 1;
}

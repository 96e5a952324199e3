// A pool of many threads on a machine with few (-DFASTDL_SIMULATED_THREADS=ON, tools/scaling.sh): tasks run
// one after the other on the caller, each timed by the thread's own clock and given to the simulated thread
// that is free first, in the pool's order (its own share, then what is left of the others'). Shows how evenly
// work is shared out and how much is not shared at all; not the cost of waking threads, nor memory that they
// compete for. One caller at a time.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastdl::simulated {

struct Totals {
  double inside = 0;    // seconds of processor time in jobs, the simulation's own included
  double work = 0;      // in tasks
  double critical = 0;  // until the last thread of each job would be done
  double jobs = 0;
};
inline Totals totals;

inline double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// task(thread, index) for every index.
template <class F>
void run(int64_t count, int threads, F&& task) {
  const double start = seconds();
  std::vector<double> until(size_t(threads), 0.0);
  std::vector<int64_t> next, end;
  for (int i = 0; i < threads; ++i) {
    next.push_back(count * i / threads);
    end.push_back(count * (i + 1) / threads);
  }
  for (int64_t left = count; left > 0; --left) {
    const size_t thread = size_t(std::min_element(until.begin(), until.end()) - until.begin());
    size_t share = thread;
    while (next[share] == end[share]) share = (share + 1) % size_t(threads);
    const double before = seconds();
    task(int(thread), next[share]++);
    const double taken = seconds() - before;
    until[thread] += taken;
    totals.work += taken;
  }
  totals.critical += *std::max_element(until.begin(), until.end());
  totals.jobs += 1;
  totals.inside += seconds() - start;
}

}  // namespace fastdl::simulated

// Writes the totals since the last call.
extern "C" [[gnu::visibility("default")]] void fastdl_simulated_totals(double* inside_work_critical_jobs);

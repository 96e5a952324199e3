// Work that comes in phases, each of which needs all of the one before (the steps of a recurrent layer),
// inside one parallel region: a barrier between phases costs some tenths of a microsecond, a region of the
// pool several times that.
//
//   parallel_phases(phases, slices, worth_waking, f)     f(phase, slice) for every slice of phase 0, then of
//                                                        phase 1, and so on; f must not throw
//
// Slices are claimed, not assigned: a thread begins with the slice of its own number (whose data its caches
// hold from the phase before) and takes whatever others have left. Nobody waits for a thread that has not
// come: a caller alone finishes everything, a worker that wakes late joins the phase that is running, and
// calls from inside a parallel region run on the calling thread. Waiting is only ever for slices that a
// running thread has claimed. What a slice computes must depend on its number alone, so that it does not
// matter who takes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "cpu/runtime/pause.h"
#include "cpu/runtime/threads.h"

namespace fastdl {

template <class F>
void parallel_phases(int64_t phases, int64_t slices, bool worth_waking, F&& f) {
  if (slices == 1 || num_threads() == 1 || detail::in_parallel()) {
    for (int64_t phase = 0; phase < phases; ++phase)
      for (int64_t slice = 0; slice < slices; ++slice) f(phase, slice);
    return;
  }
#ifdef FASTDL_SIMULATED_THREADS  // no thread waits for another there
  for (int64_t phase = 0; phase < phases; ++phase)
    parallel_tasks(slices, [&](int64_t slice) { f(phase, slice); });
  return;
#endif
  struct alignas(64) Slice {
    std::atomic<int64_t> phase{0};  // the first phase in which nobody has claimed it
  };
  std::vector<Slice> claims(static_cast<size_t>(slices));
  alignas(64) std::atomic<int64_t> done{0};  // slices finished, over all phases
  auto member = [&](int64_t) noexcept {
    const int64_t first = thread_index() % slices;
    for (int64_t phase = done.load(std::memory_order_acquire) / slices; phase < phases; ++phase) {
      for (int64_t i = 0; i < slices; ++i) {
        const int64_t slice = first + i < slices ? first + i : first + i - slices;
        std::atomic<int64_t>& claim = claims[size_t(slice)].phase;
        int64_t expected = phase;
        if (claim.load(std::memory_order_relaxed) != phase ||
            !claim.compare_exchange_strong(expected, phase + 1, std::memory_order_relaxed))
          continue;
        f(phase, slice);
        done.fetch_add(1, std::memory_order_acq_rel);
      }
      for (int spins = 0; done.load(std::memory_order_acquire) < (phase + 1) * slices; ++spins) {
        pause();
        if (spins > 4000) std::this_thread::yield();
      }
    }
  };
  using Callable = decltype(member);
  detail::run(
      std::min<int64_t>(slices, num_threads()),
      [](void* context, int64_t index) { (*static_cast<Callable*>(context))(index); }, &member, worth_waking);
}

}  // namespace fastdl

// Two loops that do nothing but reach a limit.
//
// machine_fma: independent FMAs on registers (12 accumulators: more than latency 4 x 2 units need), every
// thread for the given time; 2 * width operations each. machine_copy: to[i] = from[i] with ordinary stores,
// split over the threads.
#include "cpu/machine.h"

#include <atomic>
#include <chrono>

#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using clock = std::chrono::steady_clock;
double seconds_since(clock::time_point start) {
  return std::chrono::duration<double>(clock::now() - start).count();
}

constexpr int kAccumulators = 12, kSteps = 4096;

// One round of kSteps * kAccumulators FMAs. The values converge to b / (1 - a): no overflow, no denormals.
[[gnu::noinline]] float fma_round(float a, float b) {
  simd::Vec<float> acc[kAccumulators];
#pragma GCC unroll 12
  for (int i = 0; i < kAccumulators; ++i) acc[i] = simd::broadcast<float>(float(i));
  const auto va = simd::broadcast<float>(a), vb = simd::broadcast<float>(b);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i) acc[i] = acc[i] * va + vb;
  }
  simd::Vec<float> sum = acc[0];
#pragma GCC unroll 12
  for (int i = 1; i < kAccumulators; ++i) sum += acc[i];
  return simd::reduce_add<float>(sum);
}

}  // namespace

double machine_fma(double seconds) {
  const int threads = num_threads();
  std::atomic<int64_t> rounds{0};
  std::atomic<float> sink{0};
  const auto start = clock::now();
  parallel_tasks(threads, [&](int64_t) {
    int64_t mine = 0;
    float value = 0;
    while (seconds_since(start) < seconds) {
      value += fma_round(0.5f, 0.25f);
      ++mine;
    }
    rounds += mine;
    sink.store(value);
  });
  const double operations = double(rounds) * kSteps * kAccumulators * 2 * simd::kWidth<float>;
  return operations / seconds_since(start) / 1e9;
}

double machine_copy(float* to, const float* from, int64_t count) {
  const auto start = clock::now();
  parallel_for(count, 1 << 16, [=](int64_t begin, int64_t end) {
    constexpr int w = simd::kWidth<float>;
    int64_t i = begin;
    for (; i + w <= end; i += w) simd::store<float>(to + i, simd::load(from + i));
    for (; i < end; ++i) to[i] = from[i];
  });
  return seconds_since(start);
}

}  // namespace fastdl

// Dropout: y = x * m + b, where m and b are (scale, kept_bias) with probability 1 - p and (0, dropped_bias)
// with p.
//
// Element i, or row i where channels are dropped as a whole, looks at word i of the operation's Philox stream
// (common/philox.h). The biases serve alpha dropout. No mask is stored: dropout is linear, so backward is the
// same kernel on the gradient with the same seed and no biases; drawing the words again costs less than the
// memory would. A dropped NaN or infinity gives NaN, as x * 0 does. Work: ranges of counters (or rows) over
// threads. Passes: one read and one write, forward and backward.
#include "cpu/dropout.h"

#include <algorithm>
#include <cmath>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/map.h"
#include "cpu/simd/philox.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 16384;  // elements worth about 10 us

// Words below it, halved so that signed comparison does, mean "dropped".
int64_t threshold_of(double p) {
  return std::min<int64_t>(std::llround(p * 0x1p31), 0x7fffffff);
}

// The words of kPhiloxCounters counters from `first` as masks, one vector of T at a time: f(j, kept) for
// vector j.
template <class F>
[[gnu::always_inline]] inline void for_masks(const PhiloxStream& stream, uint64_t first, int64_t threshold,
                                             float, F&& f) {
  const PhiloxWords words = philox_words(stream, first);
  const Vec<int32_t> bound = broadcast<int32_t>(int32_t(threshold));
  f(0, (Vec<int32_t>)((Vec<uint32_t>)words.low >> 1) >= bound);
  f(1, (Vec<int32_t>)((Vec<uint32_t>)words.high >> 1) >= bound);
}
template <class F>
[[gnu::always_inline]] inline void for_masks(const PhiloxStream& stream, uint64_t first, int64_t threshold,
                                             double, F&& f) {
  const PhiloxWords words = philox_words(stream, first);
  const Vec<int64_t> bound = broadcast<int64_t>(threshold);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const Vec<uint64_t> pair = i == 0 ? words.low : words.high;
    Vec<uint64_t> low, high;
    interleave<uint64_t>(pair & 0xffffffff, pair >> 32, low, high);
    f(2 * i, (Vec<int64_t>)(low >> 1) >= bound);
    f(2 * i + 1, (Vec<int64_t>)(high >> 1) >= bound);
  }
}

template <class T>
void by_element(T* y, const T* x, const DropoutProblem& problem) {
  const int64_t n = problem.rows;
  const int64_t threshold = threshold_of(problem.p);
  const PhiloxStream stream(problem.philox);
  const T scale = T(problem.scale), kept = T(problem.kept_bias), dropped = T(problem.dropped_bias);
  const bool past_caches = n * int64_t(sizeof(T)) >= kStreamBytes;
  const int64_t calls = ceil_div(n, kPhiloxWords);
  parallel_for(calls, kGrain / kPhiloxWords, [&](int64_t begin, int64_t end) {
    constexpr int w = kWidth<T>;
    const Vec<T> zero = broadcast<T>(0);
    for (int64_t call = begin; call < end; ++call) {
      const T* from = x + call * kPhiloxWords;
      T* to = y + call * kPhiloxWords;
      const int64_t left = n - call * kPhiloxWords;
      for (int j = 0; j < kPhiloxWords / w; ++j) prefetch_ahead(from + j * w);
      for_masks(stream, uint64_t(call) * kPhiloxCounters, threshold, T{}, [&](int j, auto mask) {
        const Vec<T> m = mask ? broadcast<T>(scale) : zero,
                     b = mask ? broadcast<T>(kept) : broadcast<T>(dropped);
        const int64_t here = left - j * w;
        if (here >= w) {
          const Vec<T> v = load(from + j * w) * m + b;
          if (past_caches)
            stream_store<T>(to + j * w, v);
          else
            store<T>(to + j * w, v);
        } else if (here > 0) {
          store_n(to + j * w, load_n(from + j * w, int(here)) * m + b, int(here));
        }
      });
    }
    if (past_caches) fence();
  });
}

template <class T>
void by_row(T* y, const T* x, const DropoutProblem& problem) {
  const int64_t length = problem.length;
  const int64_t threshold = threshold_of(problem.p);
  parallel_for(problem.rows, std::max<int64_t>(1, kGrain / length), [&](int64_t begin, int64_t end) {
    constexpr int w = kWidth<T>;
    uint32_t words[4];
    for (int64_t row = begin; row < end; ++row) {
      if (row == begin || row % 4 == 0) problem.philox(uint64_t(row) / 4, words);
      const bool keep = int64_t(words[row % 4] >> 1) >= threshold;
      const T m = keep ? T(problem.scale) : T(0);
      const Vec<T> b = broadcast<T>(T(keep ? problem.kept_bias : problem.dropped_bias));
      const T* from = x + row * length;
      T* to = y + row * length;
      int64_t i = 0;
      for (; i + w <= length; i += w) store<T>(to + i, load(from + i) * m + b);
      if (i < length) store_n(to + i, load_n(from + i, int(length - i)) * m + b, int(length - i));
    }
  });
}

// f(x, slope) over n elements, the slopes drawn from Philox as uniform float64 numbers are.
template <class T, class F>
void with_slopes(int64_t n, double lower, double upper, Philox philox, F&& f) {
  constexpr int64_t elements = kPhiloxWords / 2;
  const PhiloxStream stream(philox);
  parallel_for(ceil_div(n, elements), kGrain / 4 / elements, [&](int64_t begin, int64_t end) {
    uint64_t bits[elements];
    for (int64_t call = begin; call < end; ++call) {
      const PhiloxWords words = philox_words(stream, uint64_t(call) * kPhiloxCounters);
      store<uint64_t>(bits, words.low);
      store<uint64_t>(bits + kPhiloxCounters, words.high);
      const int64_t stop = std::min(elements, n - call * elements);
      for (int64_t i = 0; i < stop; ++i)
        f(call * elements + i, T(lower + (upper - lower) * (double(int64_t(bits[i] >> 11)) * 0x1p-53)));
    }
  });
}

}  // namespace

template <class T>
void dropout(T* y, const T* x, const DropoutProblem& problem) {
  if (problem.p >= 1) {  // the threshold above stops one step short of it
    DropoutProblem all = problem;
    all.p = 0;
    all.scale = 0;
    all.kept_bias = problem.dropped_bias;
    return dropout(y, x, all);
  }
  if (problem.length == 1)
    by_element(y, x, problem);
  else
    by_row(y, x, problem);
}

template <class T>
void rrelu_forward(T* y, const T* x, int64_t n, double lower, double upper, Philox philox) {
  with_slopes<T>(n, lower, upper, philox,
                 [=](int64_t i, T slope) { y[i] = x[i] > T(0) ? x[i] : x[i] * slope; });
}

template <class T>
void rrelu_backward(T* grad_x, const T* grad_y, const T* x, int64_t n, double lower, double upper,
                    Philox philox) {
  with_slopes<T>(n, lower, upper, philox,
                 [=](int64_t i, T slope) { grad_x[i] = x[i] > T(0) ? grad_y[i] : grad_y[i] * slope; });
}

#define FASTDL_INSTANTIATE(T)                                                    \
  template void dropout<T>(T*, const T*, const DropoutProblem&);                 \
  template void rrelu_forward<T>(T*, const T*, int64_t, double, double, Philox); \
  template void rrelu_backward<T>(T*, const T*, const T*, int64_t, double, double, Philox);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

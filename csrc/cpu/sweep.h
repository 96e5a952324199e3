// Loops over contiguous runs of numbers: the maximum, the sum of a function, and y = f(inputs).
//
// Sums run in four vectors of partial sums: callers pass a few thousand elements at a time and add the
// results in double, so that the error stays near one rounding whatever the length.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/simd/math.h"

namespace fastdl::sweep {

using namespace simd;

template <class T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

// Results this large leave the caches before anybody reads them: stores around the caches spare reading their
// lines.
inline bool worth_streaming(int64_t bytes) {
  return bytes >= int64_t{24} << 20;
}

template <class T>
[[gnu::always_inline]] inline Vec<T> keep_first(Vec<T> v, int n, T fill) {
  VecInt<T> lane{};
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) lane[i] = i;
  return lane < Int<T>(n) ? v : broadcast<T>(fill);
}

template <class T>
T row_maximum(const T* x, int64_t n) {
  constexpr int w = kWidth<T>;
  Vec<T> m[4] = {broadcast<T>(-kInfinity<T>), m[0], m[0], m[0]};
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
      m[k] = max(load(x + i + k * w), m[k]);  // a NaN is passed over: the sum shows it
  for (; i + w <= n; i += w) m[0] = max(load(x + i), m[0]);
  if (i < n) m[1] = max(keep_first<T>(load_n(x + i, int(n - i)), int(n - i), -kInfinity<T>), m[1]);
  return reduce_max<T>(max(max(m[0], m[1]), max(m[2], m[3])));
}

// The sum over a row of f(vectors of the inputs); f of the lanes behind the end is ignored.
template <class T, class F, class... In>
[[gnu::always_inline]] inline T row_sum(int64_t n, F f, const In*... in) {
  constexpr int w = kWidth<T>;
  Vec<T> s[4] = {};
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) s[k] += f(load(in + i + k * w)...);
  for (; i + w <= n; i += w) s[0] += f(load(in + i)...);
  if (i < n) s[1] += keep_first<T>(f(load_n(in + i, int(n - i))...), int(n - i), T(0));
  return reduce_add<T>((s[0] + s[1]) + (s[2] + s[3]));
}

// y[i] = f(inputs[i]...) along a row; `streaming` stores go around the caches.
template <class T, class F, class... In>
[[gnu::always_inline]] inline void write_row(T* y, int64_t n, bool streaming, F f, const In*... in) {
  constexpr int w = kWidth<T>;
  int64_t i = 0;
  if (streaming) {
    const auto past = int64_t(reinterpret_cast<uintptr_t>(y) % kBytes / sizeof(T));
    i = std::min<int64_t>(n, (w - past) % w);
    if (i > 0) store_n(y, f(load_n(in, int(i))...), int(i));
    for (; i + w <= n; i += w) {
      (prefetch_ahead(in + i), ...);
      stream_store<T>(y + i, f(load(in + i)...));
    }
  } else {
    for (; i + w <= n; i += w) store<T>(y + i, f(load(in + i)...));
  }
  if (i < n) store_n(y + i, f(load_n(in + i, int(n - i))...), int(n - i));
}

}  // namespace fastdl::sweep

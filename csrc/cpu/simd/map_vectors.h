// y[i] = f(a[i], b[i], ...) for n elements that lie one after the other: whole vectors, and fewer elements in front of
// the first aligned address and at the end. `streams`: whole vectors are stored past the caches (fence() is the
// caller's).
//
// Short functions have loops of their own, hence three copies of f. Long ones, and all where code is compiled for size,
// have one loop, to which fewer elements come as a vector in a buffer.
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl::simd {

#ifdef __OPTIMIZE_SIZE__
inline constexpr bool kForSize = true;
#else
inline constexpr bool kForSize = false;
#endif

template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_short(T* y, int64_t n, bool streams, const F& f, const In*... in) {
  constexpr int w = kWidth<T>;
  int64_t i = 0, rest = 0;
  if (streams) rest = std::min(n, int64_t(-reinterpret_cast<uintptr_t>(y) / sizeof(T)) & (w - 1));
  for (;;) {
    if (rest > 0) store_n(y + i, f(load_n(in + i, int(rest))...), int(rest));
    i += rest;
    if (i == n) return;
    if (streams)
      for (; i + w <= n; i += w) {
        (prefetch_ahead(in + i), ...);
        stream_store(y + i, f(load(in + i)...));
      }
    else
      for (; i + w <= n; i += w) store(y + i, f(load(in + i)...));
    rest = n - i;
  }
}

template <class T, class F, class... In>
[[gnu::always_inline]] inline void map_long(T* y, int64_t n, bool streams, const F& f, const In*... in) {
  constexpr int w = kWidth<T>, inputs = sizeof...(In);
  alignas(64) T ends[inputs + 1][w];
  int64_t part = streams ? std::min(n, int64_t(-reinterpret_cast<uintptr_t>(y) / sizeof(T)) & (w - 1)) : 0;
  for (int64_t i = 0; i < n;) {
    if (part == 0 && n - i < w) part = n - i;
    const T* from[] = {in + i...};
    T* to = y + i;
    if (part > 0) {
      to = ends[inputs];
      for (int k = 0; k < inputs; ++k) {
        store(ends[k], load_n(from[k], int(part)));
        from[k] = ends[k];
      }
    }
    const int64_t count = part > 0 ? w : (n - i) / w * w;
    const bool past = streams && part == 0;
    [&]<size_t... k>(std::index_sequence<k...>) __attribute__((always_inline)) {
      for (int64_t j = 0; j < count; j += w) {
        (prefetch_ahead(from[k] + j), ...);
        const Vec<T> v = f(load(from[k] + j)...);
        past ? stream_store(to + j, v) : store(to + j, v);
      }
    }(std::index_sequence_for<In...>());
    if (part > 0) store_n(y + i, load(to), int(part));
    i += part > 0 ? part : count;
    part = 0;
  }
}

template <bool kLong, class T, class F, class... In>
[[gnu::always_inline]] inline void map_vectors(T* y, int64_t n, bool streams, const F& f, const In*... in) {
  if constexpr (kLong || kForSize)
    map_long(y, n, streams, f, in...);
  else
    map_short(y, n, streams, f, in...);
}

}  // namespace fastdl::simd

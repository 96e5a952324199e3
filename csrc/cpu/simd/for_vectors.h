// Loops over numbers that lie one after the other, for bodies with several arrays or sums: f(i, lanes) for whole vectors
// (lanes is a constant then), and for the tail.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd/simd.h"

namespace fastdl::simd {

template <class T, class F>
[[gnu::always_inline]] inline void for_vectors(int64_t n, F&& f) {
  constexpr int w = kWidth<T>;
  int64_t i = 0;
  for (; i + w <= n; i += w) f(i, std::integral_constant<int, w>{});
  if (i < n) f(i, int(n - i));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> get(const T* p, std::integral_constant<int, kWidth<T>>) {
  return load(p);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> get(const T* p, int lanes) {
  return load_n(p, lanes);
}
template <class T>
[[gnu::always_inline]] inline void put(T* p, Vec<T> v, std::integral_constant<int, kWidth<T>>) {
  store<T>(p, v);
}
template <class T>
[[gnu::always_inline]] inline void put(T* p, Vec<T> v, int lanes) {
  store_n(p, v, lanes);
}

}  // namespace fastdl::simd

// Copies of short rows, of every element or every s-th one, by vectors and without a call of memmove: what images are
// taken apart into planes and columns with. Nothing behind the last element is read or written.
#pragma once

#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl {

template <class T>
inline void copy_row(T* to, const T* from, int64_t count) {
  constexpr int w = simd::kWidth<T>;
  int64_t i = 0;
  for (; i + w <= count; i += w) simd::store<T>(to + i, simd::load(from + i));
  if (i < count) simd::store_n(to + i, simd::load_n(from + i, int(count - i)), int(count - i));
}
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> even_lanes(simd::Vec<T> a, simd::Vec<T> b,
                                                      std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, (2 * L)...);
}
template <class T>
[[gnu::always_inline]] inline simd::Vec<T> even_lanes(simd::Vec<T> a, simd::Vec<T> b) {
  return even_lanes<T>(a, b, std::make_integer_sequence<int, simd::kWidth<T>>{});
}
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> third_lanes(simd::Vec<T> a, simd::Vec<T> b, simd::Vec<T> c,
                                                       std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  const simd::Vec<T> first = __builtin_shufflevector(a, b, (3 * L < 2 * w ? 3 * L : 0)...);
  return __builtin_shufflevector(first, c, (3 * L < 2 * w ? L : 3 * L - w)...);
}
// Lane j: from[S * j], where S * j < reach; nothing from `reach` on is read. S: 2, 3 or 4.
template <class T, int S>
[[gnu::always_inline]] inline simd::Vec<T> every(const T* from, int64_t reach) {
  constexpr int w = simd::kWidth<T>;
  if constexpr (S == 1)
    return reach >= w ? simd::load(from) : reach > 0 ? simd::load_n(from, int(reach)) : simd::Vec<T>{};
  else if constexpr (S == 3)
    return third_lanes<T>(every<T, 1>(from, reach), every<T, 1>(from + w, reach - w),
                          every<T, 1>(from + 2 * w, reach - 2 * w), std::make_integer_sequence<int, w>{});
  else
    return even_lanes<T>(every<T, S / 2>(from, reach), every<T, S / 2>(from + w * S / 2, reach - w * S / 2));
}
// Lane j: from[S * j], reading nothing behind the last. S: 1 or 2.
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> every_second(const T* from, std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  return __builtin_shufflevector(simd::load(from), simd::load(from + w - 1),
                                 (L < w / 2 ? 2 * L : 2 * L + 1)...);
}
template <class T, int S>
[[gnu::always_inline]] inline simd::Vec<T> every(const T* from) {
  if constexpr (S == 1)
    return simd::load(from);
  else
    return every_second<T>(from, std::make_integer_sequence<int, simd::kWidth<T>>{});
}
template <class T, int S>
[[gnu::noinline]] void copy_every(T* to, const T* from, int64_t count) {
  constexpr int w = simd::kWidth<T>;
  constexpr int64_t reach = S * (w - 1) + 1;  // of the last vector's elements
  if (count < w) {
    if (count > 0) simd::store_n(to, every<T, S>(from, S * (count - 1) + 1), int(count));
    return;
  }
  int64_t i = 0;
  for (; i + w < count; i += w) simd::store<T>(to + i, every<T, S>(from + S * i, S * w));
  const T* last = from + S * (count - w);  // overlaps the one before
  if constexpr (S == 2)
    simd::store<T>(to + count - w, every<T, S>(last));
  else
    simd::store<T>(to + count - w, every<T, S>(last, reach));
}
template <class T>
inline void copy_row(T* to, const T* from, int64_t count, int64_t stride) {
  if (stride == 1) return copy_row(to, from, count);
  if (stride == 2) return copy_every<T, 2>(to, from, count);
  if (stride == 3) return copy_every<T, 3>(to, from, count);
  if (stride == 4) return copy_every<T, 4>(to, from, count);
  for (int64_t i = 0; i < count; ++i) to[i] = from[stride * i];
}

}  // namespace fastdl

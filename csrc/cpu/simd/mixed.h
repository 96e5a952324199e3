// Even and odd elements of two vectors, out of order: in_order(even_mixed(a, b)) is even(a, b).
//
// AVX2's shuffles stay within 16 bytes, and crossing them is an instruction of its own. Where lanes are worked on one
// by one (the maximum of neighbours), one crossing at the end does for all that would stand at the beginning. At other
// levels these are even and odd.
#pragma once

#include <utility>

#include "cpu/simd/interleave.h"

namespace fastdl::simd {

template <class T>
struct Mixed {
  static constexpr bool kApply = kBytes == 32;
  // Of 16 bytes, `half` the vector, a `part` is each vector's.
  static constexpr int w = kWidth<T>, half = w / 2, part = w / 4;
  static constexpr int source(int lane, int first) {
    const int j = lane % half;
    return lane / half * half + j % part * 2 + first + j / part * w;
  }
  static constexpr int lane_of(int place) {
    const int k = place % half;
    return k / part * half + place / half * part + k % part;
  }
  template <std::size_t... I>
  [[gnu::always_inline]] static Vec<T> pick(Vec<T> a, Vec<T> b, int first, std::index_sequence<I...>) {
    return first ? __builtin_shufflevector(a, b, source(I, 1)...)
                 : __builtin_shufflevector(a, b, source(I, 0)...);
  }
  template <std::size_t... I>
  [[gnu::always_inline]] static Vec<T> order(Vec<T> v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, lane_of(I)...);
  }
};
template <class T>
[[gnu::always_inline]] inline Vec<T> even_mixed(Vec<T> a, Vec<T> b) {
  if constexpr (Mixed<T>::kApply)
    return Mixed<T>::pick(a, b, 0, std::make_index_sequence<kWidth<T>>());
  else
    return even<T>(a, b);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> odd_mixed(Vec<T> a, Vec<T> b) {
  if constexpr (Mixed<T>::kApply)
    return Mixed<T>::pick(a, b, 1, std::make_index_sequence<kWidth<T>>());
  else
    return odd<T>(a, b);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> in_order(Vec<T> v) {
  if constexpr (Mixed<T>::kApply)
    return Mixed<T>::order(v, std::make_index_sequence<kWidth<T>>());
  else
    return v;
}

}  // namespace fastdl::simd

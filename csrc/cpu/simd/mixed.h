// Even and odd elements of two vectors, out of order: in_order(even_mixed(a, b)) is even(a, b).
//
// AVX2's shuffles stay within 16 bytes, and crossing them is an instruction of its own. Where lanes are worked on one
// by one (the maximum of neighbours), one crossing at the end does for all that would stand at the beginning. At other
// levels these are even and odd.
#pragma once

#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl::simd {

template <class T>
struct Mixed {
  static constexpr bool kApply = kBytes == 32;
  // Of 16 bytes, `half` the vector, a `part` is each vector's.
  static constexpr int w = kWidth<T>, half = w / 2, part = w < 4 ? 1 : w / 4;
  static constexpr int source(int lane, int first) {
    const int j = lane % half;
    return first + (kApply ? lane / half * half + j % part * 2 + j / part * w : 2 * lane);
  }
  static constexpr int lane_of(int place) {
    const int k = place % half;
    return kApply ? k / part * half + place / half * part + k % part : place;
  }
  template <int first, std::size_t... I>
  [[gnu::always_inline]] static Vec<T> pick(Vec<T> a, Vec<T> b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, source(I, first)...);
  }
  template <std::size_t... I>
  [[gnu::always_inline]] static Vec<T> order(Vec<T> v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, lane_of(I)...);
  }
};
template <class T>
[[gnu::always_inline]] inline Vec<T> even_mixed(Vec<T> a, Vec<T> b) {
  return Mixed<T>::template pick<0>(a, b, std::make_index_sequence<kWidth<T>>());
}
template <class T>
[[gnu::always_inline]] inline Vec<T> odd_mixed(Vec<T> a, Vec<T> b) {
  return Mixed<T>::template pick<1>(a, b, std::make_index_sequence<kWidth<T>>());
}
template <class T>
[[gnu::always_inline]] inline Vec<T> in_order(Vec<T> v) {
  return Mixed<T>::order(v, std::make_index_sequence<kWidth<T>>());
}

}  // namespace fastdl::simd

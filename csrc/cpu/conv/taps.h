// The nine taps of 3x3 kernels that lie one after the other in memory, taken apart into one vector per tap
// (lanes are kernels), and put together again, without gathers.
//
// Of w neighbouring kernels, element 9 * kernel + tap is lane p of vector v with v * w + p = 9 * kernel +
// tap. Because 9 and w have no common divisor, the w elements of one tap lie in w different lanes, so they
// can be collected lane by lane: lane p of tap j comes from vector (j - p) / w modulo 9. That is a rotation
// of the nine vectors by an amount that depends on the lane, done in four rounds of blends; a permutation
// then sorts the lanes.
#pragma once

#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl {

namespace taps_detail {

constexpr int inverse(int a, int modulus) {
  for (int x = 1; x < modulus; ++x)
    if (a * x % modulus == 1) return x;
  return 0;
}
template <class T>
inline constexpr int kPerVector = inverse(simd::kWidth<T> % 9, 9);  // w^-1 modulo 9
template <class T>
inline constexpr int kPerTap = inverse(9 % simd::kWidth<T>, simd::kWidth<T>);  // 9^-1 modulo w

// x[i] becomes, in the lanes whose rotation has bit `Bit`, x[i + kStep].
template <class T, int Bit, int kStep, int... L>
[[gnu::always_inline]] inline void rotate(simd::Vec<T> (&x)[9], std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  simd::Vec<T> y[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i)
    y[i] = __builtin_shufflevector(x[i], x[(i + kStep + 9) % 9],
                                   ((L * kPerVector<T> % 9 >> Bit & 1) ? w + L : L)...);
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) x[i] = y[i];
}
// out[lane] = v[(9 * lane + J) mod w], and its inverse.
template <class T, int J, int... L>
[[gnu::always_inline]] inline simd::Vec<T> sort(simd::Vec<T> v, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(v, v, ((9 * L + J) % simd::kWidth<T>)...);
}
template <class T, int J, int... L>
[[gnu::always_inline]] inline simd::Vec<T> unsort(simd::Vec<T> v, std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  return __builtin_shufflevector(v, v, ((L + 9 * w - J) * kPerTap<T> % w)...);
}

}  // namespace taps_detail

// taps[j][i] = from[9 * i + j] for i < kWidth.
template <class T>
[[gnu::always_inline]] inline void split_taps(simd::Vec<T> (&taps)[9], const T* from) {
  using namespace taps_detail;
  constexpr auto lanes = std::make_integer_sequence<int, simd::kWidth<T>>{};
  simd::Vec<T> x[9];
#pragma GCC unroll 9
  for (int v = 0; v < 9; ++v) x[v] = simd::load(from + v * simd::kWidth<T>);
  rotate<T, 0, -1>(x, lanes);
  rotate<T, 1, -2>(x, lanes);
  rotate<T, 2, -4>(x, lanes);
  rotate<T, 3, -8>(x, lanes);
  [&]<int... J>(std::integer_sequence<int, J...>) {
    ((taps[J] = sort<T, J>(x[J * kPerVector<T> % 9], lanes)), ...);
  }(std::make_integer_sequence<int, 9>{});
}

// to[9 * i + j] = taps[j][i].
template <class T>
[[gnu::always_inline]] inline void join_taps(T* to, const simd::Vec<T> (&taps)[9]) {
  using namespace taps_detail;
  constexpr auto lanes = std::make_integer_sequence<int, simd::kWidth<T>>{};
  simd::Vec<T> x[9];
  [&]<int... J>(std::integer_sequence<int, J...>) {
    ((x[J * kPerVector<T> % 9] = unsort<T, J>(taps[J], lanes)), ...);
  }(std::make_integer_sequence<int, 9>{});
  rotate<T, 0, 1>(x, lanes);
  rotate<T, 1, 2>(x, lanes);
  rotate<T, 2, 4>(x, lanes);
  rotate<T, 3, 8>(x, lanes);
#pragma GCC unroll 9
  for (int v = 0; v < 9; ++v) simd::store<T>(to + v * simd::kWidth<T>, x[v]);
}

}  // namespace fastdl

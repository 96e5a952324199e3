// Elementary functions on Vec<T>, float and double, branch-free. Accuracy (units in the last place, over the
// whole range): exp <= 2. Results in the denormal range are flushed to zero; NaN in, NaN out.
#pragma once

#include "cpu/simd/simd.h"

namespace fastdl::simd {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2)/2; exp(r) by its Taylor polynomial, long enough for T.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp(Vec<T> x) {
  using V = Vec<T>;
  constexpr bool f32 = sizeof(T) == 4;
  constexpr T log2e = T(1.4426950408889634074);
  constexpr T ln2_hi = f32 ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T ln2_lo = f32 ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  constexpr T upper = f32 ? T(88.722839) : T(709.782712893384);
  constexpr T lower = f32 ? T(-87.336544) : T(-708.39641853226408);
  constexpr T rounder = f32 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^mantissa: adding it rounds to integer
  constexpr int bias = f32 ? 127 : 1023, shift = f32 ? 23 : 52;

  const V clamped = min(max(x, broadcast<T>(lower)), broadcast<T>(upper));
  const V shifted = log2e * clamped + broadcast<T>(rounder);
  const V n = shifted - rounder;
  V r = clamped - n * ln2_hi;
  r = r - n * ln2_lo;
  V p;
  if constexpr (f32) {
    p = broadcast<T>(T(1.0 / 5040));
    p = p * r + T(1.0 / 720);
  } else {
    p = broadcast<T>(T(1.0 / 6227020800.0));
    p = p * r + T(1.0 / 479001600.0);
    p = p * r + T(1.0 / 39916800.0);
    p = p * r + T(1.0 / 3628800.0);
    p = p * r + T(1.0 / 362880.0);
    p = p * r + T(1.0 / 40320.0);
    p = p * r + T(1.0 / 5040.0);
    p = p * r + T(1.0 / 720.0);
  }
  p = p * r + T(1.0 / 120);
  p = p * r + T(1.0 / 24);
  p = p * r + T(1.0 / 6);
  p = p * r + T(0.5);
  p = p * r + T(1);
  p = p * r + T(1);
  // 2^n as two factors, so that n = 128 (1024) does not overflow the exponent field on its way.
  const auto ni = to_int<T>(n);
  const auto half = ni >> 1;
  const V s1 = (V)((half + bias) << shift), s2 = (V)((ni - half + bias) << shift);
  V y = p * s1 * s2;
  y = x > upper ? broadcast<T>(std::numeric_limits<T>::infinity()) : y;
  y = x < lower ? broadcast<T>(T(0)) : y;
  return x != x ? x : y;
}

}  // namespace fastdl::simd

// Elementary functions beyond simd/math.h, on Vec<T>.
//
// Single precision is computed in double, but for sin, cos, 2^x and the angles (2.3 units in the last place):
// a shorter polynomial and no care for cancellation give results within 0.51 units in the last place, at
// about the price of a careful single-precision routine. Double precision has its own vector code where it is
// common (log, log2, log10, sin, cos, the angles) and otherwise goes lane by lane through the C library.
#pragma once

#include <cmath>

#include "cpu/simd/math.h"
#include "cpu/simd/simd.h"

namespace fastdl::simd {

// Half a vector of float, as many lanes as a vector of double. The levels' own conversions: the compiler
// takes __builtin_convertvector apart.
typedef float Half __attribute__((vector_size(kBytes / 2)));
[[gnu::always_inline]] inline Vec<double> to_double(Half x) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_cvtps_pd((__m256)x);
#elif defined(__AVX2__)
  return (Vec<double>)_mm256_cvtps_pd((__m128)x);
#else
  return __builtin_convertvector(x, Vec<double>);
#endif
}
[[gnu::always_inline]] inline Half to_single(Vec<double> x) {
#if defined(__AVX512F__)
  return (Half)_mm512_cvtpd_ps((__m512d)x);
#elif defined(__AVX2__)
  return (Half)_mm256_cvtpd_ps((__m256d)x);
#else
  return __builtin_convertvector(x, Half);
#endif
}

// f applied by itself to every lane.
template <class T, class F, class... V>
[[gnu::always_inline]] inline Vec<T> per_lane(F f, V... v) {
  Vec<T> y;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) y[i] = f(v[i]...);
  return y;
}
// The same out of line in one loop: for slow functions, where unrolling would only cost code.
template <class T, class F, class... V>
[[gnu::noinline]] Vec<T> per_lane_call(F f, V... v) {
  T y[kWidth<T>];
  for (int i = 0; i < kWidth<T>; ++i) y[i] = f(v[i]...);
  return load(y);
}

template <int half>
[[gnu::always_inline]] inline Vec<double> widen(Vec<float> x) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return to_double(__builtin_shufflevector(x, x, (half * kWidth<double> + i)...));
  }(std::make_integer_sequence<int, kWidth<double>>());
}
[[gnu::always_inline]] inline Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(to_single(low), to_single(high), i...);
  }(std::make_integer_sequence<int, kWidth<float>>());
}
// f on doubles, for floats.
template <class F, class... V>
[[gnu::always_inline]] inline Vec<float> in_double(F f, V... x) {
  return narrow(f(widen<0>(x)...), f(widen<1>(x)...));
}

[[gnu::always_inline]] inline Vec<double> horner(Vec<double>, double last) {
  return broadcast<double>(last);
}
// first + x * (second + x * (...))
template <class... C>
[[gnu::always_inline]] inline Vec<double> horner(Vec<double> x, double first, C... rest) {
  return horner(x, rest...) * x + first;
}

// log(m) and k for normal positive x = 2^k m with m in [sqrt(1/2), sqrt(2)), to 1e-10: with f = m - 1, s = f / (2 + f),
// log(m) = 2 s (1 + s^2/3 + s^4/5 + ...).
[[gnu::always_inline]] inline Vec<double> log_parts(Vec<double> x, Vec<double>& k) {
  const auto parts = detail::split<double>((Vec<int64_t>)x);
  k = parts.e;
  const Vec<double> f = parts.m - 1.0, s = f / (f + 2.0);
  return s * horner(s * s, 2.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11);
}
// y where x is positive and finite; zero, negative, inf, NaN as IEEE says of log(x).
template <class T>
[[gnu::always_inline]] inline Vec<T> log_special(Vec<T> x, Vec<T> y) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  const Vec<T> at_zero = x == T(0) ? broadcast<T>(-inf) : broadcast<T>(std::numeric_limits<T>::quiet_NaN());
  y = x > T(0) ? y : at_zero;
  y = x == inf ? x : y;
  return x != x ? x : y;
}
[[gnu::always_inline]] inline Vec<double> log_of_normal(Vec<double> x) {
  Vec<double> k;
  const Vec<double> m = log_parts(x, k);
  return k * M_LN2 + m;
}
[[gnu::always_inline]] inline Vec<double> log_for_float(Vec<double> x) {
  return log_special<double>(x, log_of_normal(x));
}

// exp(x) to 1e-9, between what is 0 and what is infinite as a float.
[[gnu::always_inline]] inline Vec<double> exp_for_float(Vec<double> x) {
  constexpr double rounder = detail::kRounder<double> + double(detail::kExponentBias<double>);
  x = clamp<double>(x, -110, 100);
  const Vec<double> shifted = 1.4426950408889634074 * x + broadcast<double>(rounder);
  const Vec<double> r = x - (shifted - rounder) * 0.69314718055994530942;
  const Vec<double> y = horner(r, 1.0, 1.0, 0.5000000013, 0.1666666668, 0.04166646499, 0.008333310933,
                               0.001393364269, 0.0001989098271);
  return y * (Vec<double>)((Vec<int64_t>)shifted << detail::kMantissaBits<double>);
}

// sin (quadrant_shift = 0) and cos (1): x = n pi/2 + r, |r| <= pi/4, Taylor polynomials of sin r and cos r,
// chosen and signed by n mod 4. pi/2 in two parts of 33 bits, so that n * part is exact, and a rest; beyond
// kSinLimit, where n has too many bits for that, and for infinities, the lane goes through the C library.
constexpr double kSinLimit = 800000.0;
template <bool terms_for_float, int quadrant_shift>
[[gnu::always_inline]] inline Vec<double> sin_of_double(Vec<double> x) {
  using V = Vec<double>;
  using I = Vec<int64_t>;
  constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  const V shifted = x * 0.63661977236758134308 + broadcast<double>(rounder);
  const V n = shifted - rounder;
  const I quadrant = (I)shifted + quadrant_shift;
  V r = x - n * 1.57079632673412561417e+00;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const V z = r * r;
  V s, c;
  if constexpr (terms_for_float) {
    s = r + r * z * horner(z, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800);
    c = horner(z, 1.0, -1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800);
  } else {
    s = r + r * z *
                horner(z, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0,
                       -1.0 / 1307674368000.0, 1.0 / 355687428096000.0);
    c = 1.0 - 0.5 * z +
        z * z *
            horner(z, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600,
                   -1.0 / 87178291200.0, 1.0 / 20922789888000.0, -1.0 / 6402373705728000.0);
  }
  const V y = (quadrant & 1) != 0 ? c : s;
  return (V)((I)y ^ ((quadrant & 2) << 62));
}

#if defined(__FMA__)
// c - a b, rounded once.
[[gnu::always_inline]] inline Vec<float> negated_product_plus(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return (Vec<float>)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}
[[gnu::always_inline]] inline Vec<double> negated_product_plus(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
  return (Vec<double>)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#endif
}
#endif

// The same for floats: only x - n pi/2 must keep its relative accuracy where it is nearly zero. With products that are
// not rounded, single precision does: x less n times the first part of pi/2 is exact, and what the second part's
// rounding loses is nothing beside a small rest. Without them it is computed in double. Errors up to 1.6 units in
// the last place, 1.7 beyond 100,000.
template <int quadrant_shift>
[[gnu::always_inline]] inline Vec<float> sin_of_single(Vec<float> x) {
  using V = Vec<float>;
  using I = Vec<int32_t>;
  constexpr float single_rounder = 12582912.0f;  // 1.5 * 2^23: n in the low bits
#if defined(__FMA__)
  const V shifted = x * 0.636619772f + broadcast<float>(single_rounder), n = shifted - single_rounder;
  V r = negated_product_plus(n, broadcast<float>(1.57079637f), x);
  r = negated_product_plus(n, broadcast<float>(-4.37113883e-08f), r);
  r = negated_product_plus(n, broadcast<float>(-1.71512451e-15f), r);
#else
  constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  const auto reduce = [](Vec<double> v, Vec<double>& n) {
    n = (v * 0.63661977236758134308 + broadcast<double>(rounder)) - rounder;
    v = v - n * 1.57079632673412561417e+00;
    return v - n * 6.07710050650619224932e-11;
  };
  Vec<double> n_low, n_high;
  const Vec<double> low = reduce(widen<0>(x), n_low), high = reduce(widen<1>(x), n_high);
  const V r = narrow(low, high), shifted = narrow(n_low, n_high) + broadcast<float>(single_rounder);
#endif
  const I quadrant = (I)shifted + quadrant_shift;
  const V z = r * r;
  const V s = r + r * z * ((-0.00019517f * z + 0.00833217f) * z - 0.16666655f);
  const V c = (1.0f - 0.5f * z) + z * z * ((2.44377245e-05f * z - 1.38873614e-03f) * z + 4.16666467e-02f);
  const V y = (quadrant & 1) != 0 ? c : s;
  return (V)((I)y ^ ((quadrant & 2) << 30));
}

template <class T>
[[gnu::always_inline]] inline Vec<T> square_root(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_sqrt_ps((__m512)x);
  else
    return (Vec<T>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_sqrt_ps((__m256)x);
  else
    return (Vec<T>)_mm256_sqrt_pd((__m256d)x);
#else
  return per_lane<T>([](T v) { return std::sqrt(v); }, x);
#endif
}

// 2^x = 2^n exp(r log 2), r = x - n exactly.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp2(Vec<T> x) {
  constexpr T low = sizeof(T) == 4 ? T(-151) : T(-1076), high = sizeof(T) == 4 ? T(129) : T(1025);
  constexpr T rounder = detail::kRounder<T> + T(detail::kExponentBias<T>);
  x = clamp<T>(x, low, high);
  detail::Reduced<T> e;
  e.shifted = x + broadcast<T>(rounder);
  e.n = e.shifted - rounder;
  e.r = (x - e.n) * T(0.69314718055994530942);
  e.p = detail::exp_series<T>(e.r);
  return detail::scale_by_power<T>(e.exp_r(), e.n, e.shifted);
}

template <class T>
[[gnu::always_inline]] inline Vec<T> sine(Vec<T> x) {
  if (any(abs<T>(x) > T(kSinLimit))) return per_lane_call<T>([](T v) { return std::sin(v); }, x);
  if constexpr (sizeof(T) == 4)
    return x == T(0) ? x : sin_of_single<0>(x);
  else
    return x == 0 ? x : sin_of_double<false, 0>(x);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> cosine(Vec<T> x) {
  if (any(abs<T>(x) > T(kSinLimit))) return per_lane_call<T>([](T v) { return std::cos(v); }, x);
  if constexpr (sizeof(T) == 4)
    return sin_of_single<1>(x);
  else
    return sin_of_double<false, 1>(x);
}

template <class T>
[[gnu::always_inline]] inline Vec<T> tangent(Vec<T> x) {
  constexpr bool single = sizeof(T) == 4;
  const auto ratio = [](Vec<double> v) {
    return v == 0.0 ? v : sin_of_double<single, 0>(v) / sin_of_double<single, 1>(v);
  };
  if (any(abs<T>(x) > T(kSinLimit))) return per_lane_call<T>([](T v) { return std::tan(v); }, x);
  if constexpr (single)
    return in_double(ratio, x);
  else
    return ratio(x);
}

// Hyperbolic functions and their inverses in double, by what keeps its digits near zero. (e^(|x|/2))^2 is finite as
// long as half of it is; where x^2 would not be, the inverse functions are log 2|x|.
[[gnu::noinline]] inline Vec<double> sinh_of_double(Vec<double> x) {
  const Vec<double> a = abs<double>(x), e = expm1<double>(a), root = exp<double>(0.5 * a);
  return copysign<double>(a > 22.0 ? 0.5 * root * root : 0.5 * (e + e / (e + 1.0)), x);
}
[[gnu::noinline]] inline Vec<double> cosh_of_double(Vec<double> x) {
  const Vec<double> root = exp<double>(0.5 * abs<double>(x)), e = root * root;
  return abs<double>(x) > 22.0 ? 0.5 * root * root : 0.5 * e + 0.5 / e;
}
[[gnu::noinline]] inline Vec<double> asinh_of_double(Vec<double> x) {
  const Vec<double> a = abs<double>(x), z = a * a;
  const Vec<double> y = log1p<double>(a > 1e150 ? a : a + z / (1.0 + square_root<double>(z + 1.0)));
  return copysign<double>(a > 1e150 ? y + M_LN2 : y, x);
}
[[gnu::noinline]] inline Vec<double> acosh_of_double(Vec<double> x) {
  const Vec<double> t = x - 1.0;
  const Vec<double> y = log1p<double>(x > 1e150 ? x : t + square_root<double>(t * (t + 2.0)));
  const Vec<double> inside = x > 1e150 ? y + M_LN2 : y;
  return x < 1.0 ? broadcast<double>(std::numeric_limits<double>::quiet_NaN()) : inside;
}
[[gnu::noinline]] inline Vec<double> atanh_of_double(Vec<double> x) {
  const Vec<double> a = abs<double>(x);
  return copysign<double>(0.5 * log1p<double>(2.0 * a / (1.0 - a)), x);
}

// atan(x): for x > 1 it is pi/2 - atan(1/x); above tan(pi/8), pi/4 + atan((x - 1) / (x + 1)); then a
// polynomial, interpolated on [0, tan(pi/8)].
[[gnu::always_inline]] inline Vec<double> atan(Vec<double> x) {
  using V = Vec<double>;
  const V a = abs<double>(x);
  const auto inverted = a > 1.0;
  const V b = inverted ? 1.0 / a : a;
  const auto shifted = b > 0.41421356237309503;
  const V c = shifted ? (b - 1.0) / (b + 1.0) : b;
  const V z = c * c;
  V y = c + c * z *
                horner(z, -0.3333333333333333, 0.1999999999999552, -0.14285714284666542, 0.11111111015256361,
                       -0.09090904578123901, 0.07692183190826078, -0.06664511447381855, 0.05858148912801507,
                       -0.050854497379370145, 0.039231658295503284, -0.01917688711896927);
  y = shifted ? y + 0.78539816339744831 : y;
  y = inverted ? 1.5707963267948966 - y : y;
  return copysign<double>(y, x);
}
// The same in single precision: one reduction, to [0, 1].
[[gnu::always_inline]] inline Vec<float> atan(Vec<float> x) {
  using V = Vec<float>;
  const V a = abs<float>(x);
  const auto inverted = a > 1.0f;
  const V c = (inverted ? broadcast<float>(1) : a) / (inverted ? a : broadcast<float>(1)), z = c * c;
  const V y = c + c * z *
                      detail::polynomial<float>(z, -0.002386997316, 0.01350777143, -0.03587153898,
                                                0.06250169445, -0.0865688043, 0.1103376412, -0.1427856875,
                                                0.1999973933, -0.3333333173);
  return copysign<float>(inverted ? 1.57079637f - y : y, x);
}

// asin(x) = atan(x / sqrt(1 - x^2)); the product keeps 1 - x from cancelling.
[[gnu::always_inline]] inline Vec<double> asin(Vec<double> x) {
  return atan(x / square_root<double>((1.0 - x) * (1.0 + x)));
}
[[gnu::always_inline]] inline Vec<double> acos(Vec<double> x) {
  return 2.0 * atan(square_root<double>((1.0 - x) / (1.0 + x)));
}

// In single precision asin(x) = x + x^3 P(x^2) up to 1/2, and beyond asin(x) = pi/2 - 2 asin(s),
// acos(x) = 2 asin(s) with s = sqrt((1 - x) / 2).
inline constexpr float kRestOfHalfPi = -4.37113883e-08f;  // what the float 1.57079637 has too much
struct ArcOfSingle {
  Vec<int32_t> large;
  Vec<float> arc;  // asin of |x|, or of s
};
[[gnu::always_inline]] inline ArcOfSingle arc_of_single(Vec<float> x) {
  using V = Vec<float>;
  const V a = abs<float>(x);
  const Vec<int32_t> large = a > 0.5f;
  const V z = large ? 0.5f - 0.5f * a : a * a, s = large ? square_root<float>(z) : a;
  return {large, s + s * z *
                         detail::polynomial<float>(z, 0.03369084721, 0.01714923836, 0.03110066274,
                                                   0.04459940153, 0.07500094543, 0.1666666634)};
}
[[gnu::always_inline]] inline Vec<float> asin(Vec<float> x) {
  const auto [large, arc] = arc_of_single(x);
  return copysign<float>(large ? 1.57079637f - (arc + arc - kRestOfHalfPi) : arc, x);
}
[[gnu::always_inline]] inline Vec<float> acos(Vec<float> x) {
  const auto [large, arc] = arc_of_single(x);
  const Vec<float> twice = arc + arc;
  const Vec<float> far = x < 0.0f ? 3.14159274f - (twice - 2 * kRestOfHalfPi) : twice;
  return large ? far : 1.57079637f - (copysign<float>(arc, x) - kRestOfHalfPi);
}

// The angle of (x, y); lanes with zeros, infinities or NaN go through the C library. Denormals, which compare as
// zeros while they are flushed, are made zeros: the library would divide them.
template <class T>
[[gnu::always_inline]] inline Vec<T> angle(Vec<T> y, Vec<T> x) {
  constexpr T most = std::numeric_limits<T>::max();
  x = x == T(0) ? copysign<T>(Vec<T>{}, x) : x;
  y = y == T(0) ? copysign<T>(Vec<T>{}, y) : y;
  const auto plain = (abs<T>(x) <= most) & (abs<T>(y) <= most) & (x != T(0)) & (y != T(0));
  if (any(~plain)) return per_lane_call<T>([](T b, T a) { return std::atan2(b, a); }, y, x);
  const Vec<T> t = atan(y / x);
  const Vec<T> turned = t + copysign<T>(broadcast<T>(T(3.1415926535897931)), y);
  return x < T(0) ? turned : t;
}

#if defined(__FMA__)
// The largest integer not above q, for 0 <= q < 2^52.
[[gnu::always_inline]] inline Vec<double> whole_part(Vec<double> q) {
  const Vec<double> n = (q + broadcast<double>(4503599627370496.0)) - 4503599627370496.0;
  return n > q ? n - 1.0 : n;
}
#endif

// x - y trunc(x / y). In double the quotient of floats is right to the integer and the product exact while it
// is below 2^28; larger ones, zeros and what is not finite go through the C library.
template <class T>
[[gnu::always_inline]] inline Vec<T> truncated_remainder(Vec<T> x, Vec<T> y) {
  if constexpr (sizeof(T) == 4) {
    const auto plain = (abs<T>(x) < abs<T>(y) * T(1 << 27)) & (abs<T>(y) <= std::numeric_limits<T>::max());
    if (!any(~plain)) {
      const Vec<T> r = in_double(
          [](Vec<double> a, Vec<double> b) {
            constexpr double rounder =
                6755399441055744.0;  // 1.5 * 2^52: adding it rounds to the nearest integer
            const Vec<double> q = abs<double>(a / b);
            Vec<double> n = (q + broadcast<double>(rounder)) - rounder;
            n = n > q ? n - 1.0 : n;
            return abs<double>(a) - n * abs<double>(b);
          },
          x, y);
      return copysign<T>(r, x);
    }
  }
#if defined(__FMA__)
  if constexpr (sizeof(T) == 8) {
    // The same with one rounding, of what is exact: the rest is a multiple of y's last place and less than y.
    const Vec<T> a = abs<T>(x), b = abs<T>(y);
    const auto plain = (a < b * T(1LL << 51)) & (b <= std::numeric_limits<T>::max());
    if (!any(~plain)) {
      const Vec<T> r = negated_product_plus(whole_part(a / b), b, a);
      return copysign<T>(r < T(0) ? r + b : r, x);
    }
  }
#endif
  return per_lane_call<T>([](T a, T b) { return std::fmod(a, b); }, x, y);
}

// kWidth<double> elements as doubles.
template <class T>
[[gnu::always_inline]] inline Vec<double> load_wide(const T* p) {
  if constexpr (sizeof(T) == 8) {
    return load(p);
  } else {
    Half part;
    std::memcpy(&part, p, sizeof part);
    return to_double(part);
  }
}
#if defined(__FMA__)
// a b - c, rounded once: the error of a product where c is what it was rounded to.
[[gnu::always_inline]] inline Vec<double> multiply_subtract(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_fmsub_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
  return (Vec<double>)_mm256_fmsub_pd((__m256d)a, (__m256d)b, (__m256d)c);
#endif
}

// x ** y in double for normal x and |y| < 2^51: log |x| and its product with y as sums of two doubles, since the
// exponential turns an absolute error of 709 * 2^-53 into a relative one. log(2^k m) = k ln 2 + 2 s + s^3 P(s^2), s = f
// / (2 + f), f = m - 1; of s, too, the error is kept. Within a unit in the last place for moderate results, four for
// the largest.
[[gnu::noinline]] inline Vec<double> power_of_normal(Vec<double> x, Vec<double> y) {
  using V = Vec<double>;
  constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const auto parts = detail::split<double>((Vec<int64_t>)abs<double>(x));
  const V f = parts.m - 1.0, d = f + 2.0, s = f / d, z = s * s;
  const V z_low = multiply_subtract(s, s, z);
  const V s_low = (-multiply_subtract(s, d, f) - s * (f - (d - 2.0))) / d;
  const V series = horner(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17,
                          2.0 / 19, 2.0 / 21, 2.0 / 23);
  const V k = parts.e * ln2_hi, high = k + 2.0 * s;
  const V rest = ((2.0 * s - (high - k)) + parts.e * ln2_lo) +
                 (s_low * (2.0 + 2.0 * z) + s * (z * series + z_low * (2.0 / 3)));
  const V log = high + rest, log_low = rest - (log - high);
  const V product = y * log, low = multiply_subtract(y, log, product) + y * log_low;
  const V size = exp<double>(product);
  const V exact = size > std::numeric_limits<double>::max() ? size : size * low + size;
  const V half = 0.5 * y, top = (half + broadcast<double>(rounder)) - rounder;
  const V whole = (y + broadcast<double>(rounder)) - rounder;
  const V signed_size = half != top ? -exact : exact;
  const V below = whole != y ? broadcast<double>(std::numeric_limits<double>::quiet_NaN()) : signed_size;
  return x < 0.0 ? below : exact;
}
#endif

// x ** y. Single precision: exp(y log |x|) in double, with the sign of x where y is odd and NaN where y is no
// integer; lanes of zeros and of what is not finite go through the C library.
template <class T>
[[gnu::always_inline]] inline Vec<T> power(Vec<T> x, Vec<T> y) {
  if constexpr (sizeof(T) == 4) {
    constexpr T most = std::numeric_limits<T>::max();
    const auto plain = (x != T(0)) & (abs<T>(x) <= most) & (abs<T>(y) <= most);
    if (!any(~plain))
      return in_double(
          [](Vec<double> a, Vec<double> b) {
            using V = Vec<double>;
            constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
            const V size = exp_for_float(b * log_of_normal(abs<double>(a)));
            const V half = 0.5 * b, top = (half + broadcast<double>(rounder)) - rounder;
            const auto large = abs<double>(b) >= 16777216.0;  // 2^24: even, and as a float no fraction
            const V whole = (b + broadcast<double>(rounder)) - rounder;
            const auto odd = (half != top) & ~large, fraction = (whole != b) & ~large;
            const V signed_size = odd ? -size : size;
            const V below =
                fraction ? broadcast<double>(std::numeric_limits<double>::quiet_NaN()) : signed_size;
            return a < 0.0 ? below : size;
          },
          x, y);
  }
#if defined(__FMA__)
  if constexpr (sizeof(T) == 8) {
    constexpr T least = std::numeric_limits<T>::min(), most = std::numeric_limits<T>::max();
    const Vec<T> size = abs<T>(x);
    const auto plain = (size >= least) & (size <= most) & (abs<T>(y) < T(1LL << 51));
    if (!any(~plain)) return power_of_normal(x, y);
  }
#endif
  return per_lane_call<T>([](T a, T b) { return std::pow(a, b); }, x, y);
}

}  // namespace fastdl::simd

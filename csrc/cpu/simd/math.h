// Elementary functions on Vec<T>, float and double, branch-free. Largest error in units in the last place,
// float and double alike, with or without FMA:
//
//   exp 2   expm1 3   log 2   log1p 3   tanh 4   sigmoid 3   erf 5   sincos_2pi 2 (of 1, absolute)
//
// NaN gives NaN; infinities, signed zeros, overflow and the ends of the domains give what the C library
// gives. Results too small for a normal number may be flushed to zero: kernels run with denormals flushed
// (runtime/denormals.h). Every function follows the same plan: reduce the argument exactly, evaluate a
// minimax polynomial whose leading terms are exact, put the exponent back. Coefficients were fitted in
// 60-digit arithmetic for these intervals.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/simd/simd.h"

namespace fastdl::simd {

template <class T>
using VecInt = Vec<Int<T>>;
template <class T>
using VecUnsigned = Vec<std::make_unsigned_t<Int<T>>>;  // for arithmetic on bits that may wrap around

namespace detail {

template <class T>
inline constexpr bool kSingle = sizeof(T) == 4;
template <class T>
inline constexpr int kMantissaBits = kSingle<T> ? 23 : 52;
template <class T>
inline constexpr Int<T> kExponentBias = kSingle<T> ? 127 : 1023;
template <class T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

// Adding this number rounds to an integer, which then also stands in the low bits of the sum.
template <class T>
inline constexpr T kRounder = kSingle<T> ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^mantissa bits
template <class T>
inline constexpr Int<T> kRounderBits = kSingle<T> ? Int<T>(0x4b400000) : Int<T>(0x4338000000000000);

template <class T, class... C>
[[gnu::always_inline]] inline Vec<T> polynomial(Vec<T> x, C... coefficients) {  // highest power first
  Vec<T> p{};
  bool first = true;
  ((p = first ? broadcast<T>(T(coefficients)) : p * x + T(coefficients), first = false), ...);
  return p;
}

// y * 2^n for whole numbers n: float(n) in `n`, n + bias + rounder in `shifted`. Overflow gives infinity.
template <class T>
[[gnu::always_inline]] inline Vec<T> scale_by_power(Vec<T> y, [[maybe_unused]] Vec<T> n,
                                                    [[maybe_unused]] Vec<T> shifted) {
#if defined(__AVX512F__)
  if constexpr (kSingle<T>)
    return (Vec<T>)_mm512_scalef_ps((__m512)y, (__m512)n);
  else
    return (Vec<T>)_mm512_scalef_pd((__m512d)y, (__m512d)n);
#else
  // As two factors: 2^128 (2^1024) does not exist, and 2^-130 is no normal number. The halves are floor(n /
  // 2) and the rest; the shift is logical (64-bit arithmetic shifts are missing on AVX2), so it works on n +
  // 4096. (Unsigned: of NaN it is any number, which wraps around.)
  using Unsigned = std::make_unsigned_t<Int<T>>;
  constexpr Unsigned bias = kExponentBias<T>;
  const VecUnsigned<T> ni = (VecUnsigned<T>)shifted - (Unsigned(kRounderBits<T>) + bias);
  const VecUnsigned<T> half = ((ni + 4096) >> 1) - 2048;
  constexpr int shift = kMantissaBits<T>;
  return y * (Vec<T>)((half + bias) << shift) * (Vec<T>)((ni - half + bias) << shift);
#endif
}

// x = n ln 2 + r with |r| <= ln(2)/2, and exp(r) = 1 + r + r^2 P(r).
template <class T>
struct Reduced {
  Vec<T> n, shifted, r, p;  // p = P(r)
  Vec<T> exp_r() const { return (p * r + T(1)) * r + T(1); }
  Vec<T> expm1_r() const { return r * r * p + r; }  // keeps its relative accuracy
  // 2^n for -bias <= n <= bias, where -bias gives 0: `shifted` is n + bias in its low bits.
  Vec<T> power() const { return (Vec<T>)((VecInt<T>)shifted << kMantissaBits<T>); }
};
// P(r) for |r| <= ln(2)/2.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp_series(Vec<T> r) {
  if constexpr (kSingle<T>)
    return polynomial<T>(r, 0.0013950479582055177617, 0.0083688904940437495246, 0.04166620596067741971,
                         0.16666518827399284071, 0.50000000951493607185);
  else
    return polynomial<T>(r, 2.5115958533643807092e-8, 2.7631326113988292584e-7, 2.7557222576281401368e-6,
                         0.000024801489796544945245, 0.00019841269909967953134, 0.0013888888947180383688,
                         0.0083333333333108785527, 0.041666666666514651072, 0.1666666666666669275,
                         0.50000000000000128629);
}
template <class T, class... V>
[[gnu::always_inline]] inline Reduced<T> reduce_exp(Vec<T> x,
                                                    V... rest) {  // or of x + rest, without its rounding
  constexpr T log2e = T(1.4426950408889634074);
  constexpr T ln2_hi = kSingle<T> ? T(0.693359375) : T(6.93147180369123816490e-01);  // n * ln2_hi is exact
  constexpr T ln2_lo = kSingle<T> ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  Reduced<T> e;
  e.shifted = log2e * (x + ... + rest) + broadcast<T>(kRounder<T> + T(kExponentBias<T>));
  e.n = e.shifted - (kRounder<T> + T(kExponentBias<T>));
  e.r = x - e.n * ln2_hi;
  e.r = ((e.r - e.n * ln2_lo) + ... + rest);
  e.p = exp_series<T>(e.r);
  return e;
}

// log(2^e (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1]: with s = f / (2 + f), log(1 + f) = 2 atanh(s) = f -
// s (f - R(s^2)).
template <class T>
[[gnu::always_inline]] inline Vec<T> log_of_parts(Vec<T> e, Vec<T> f) {
  constexpr T ln2_hi = kSingle<T> ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T ln2_lo = kSingle<T> ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  const Vec<T> s = f / (f + T(2));
  const Vec<T> z = s * s;
  Vec<T> p;
  if constexpr (kSingle<T>)
    p = polynomial<T>(z, 0.29871792824316501298, 0.39977538695140858579, 0.66666776411394758711);
  else
    p = polynomial<T>(z, 0.14797622810773073826, 0.15313890763029186276, 0.18183570276516265032,
                      0.22222198464416464884, 0.28571428743392354767, 0.39999999999410393985,
                      0.66666666666667350309);
  return e * ln2_hi + (f - (s * (f - z * p) - e * ln2_lo));
}

// A positive normal number as 2^e * m, m in [sqrt(1/2), sqrt(2)).
template <class T>
struct Parts {
  Vec<T> e, m;
  VecUnsigned<T> exponent_field;  // e as an exponent's bits: taken from a number's bits it divides by 2^e
};
template <class T>
[[gnu::always_inline]] inline Parts<T> split(VecInt<T> bits) {
  constexpr int shift = kMantissaBits<T>;
  using Unsigned = std::make_unsigned_t<Int<T>>;
  constexpr Unsigned sqrt_half = kSingle<T> ? Unsigned(0x3f3504f3) : Unsigned(0x3fe6a09e667f3bcd);
  constexpr Unsigned mask = (Unsigned(1) << shift) - 1;
  // Shifted by one bias, so that the difference stays positive and a logical shift does.
  const VecUnsigned<T> t = (VecUnsigned<T>)bits - (sqrt_half - (Unsigned(kExponentBias<T>) << shift));
  const VecInt<T> biased = (VecInt<T>)(t >> shift);
  Parts<T> parts;
  parts.e = (Vec<T>)(biased + kRounderBits<T>)-(kRounder<T> + T(kExponentBias<T>));
  parts.m = (Vec<T>)((t & mask) + sqrt_half);
  parts.exponent_field = (VecUnsigned<T>)(biased - kExponentBias<T>) << shift;
  return parts;
}

}  // namespace detail

template <class T>
[[gnu::always_inline]] inline Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
  constexpr Int<T> bit = std::numeric_limits<Int<T>>::min();
  return (Vec<T>)(((VecInt<T>)magnitude & ~bit) | ((VecInt<T>)sign & bit));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> abs(Vec<T> x) {
  return (Vec<T>)((VecInt<T>)x & std::numeric_limits<Int<T>>::max());
}
// max and min keep a NaN that stands second: the bounds go first.
template <class T>
[[gnu::always_inline]] inline Vec<T> clamp(Vec<T> x, T low, T high) {
  return min(broadcast<T>(high), max(broadcast<T>(low), x));
}

// exp(x) for x <= 88 (709 in double) only: 2^n is always a number, which spares the upper bound and, below
// AVX-512, half of the scaling.
template <class T>
inline constexpr T kExpBound = detail::kSingle<T> ? T(88) : T(709);
template <class T>
[[gnu::always_inline]] inline Vec<T> exp_bounded(Vec<T> x) {
  const auto e = detail::reduce_exp<T>(max(broadcast<T>(-kExpBound<T>), x));
  return e.exp_r() * e.power();
}

template <class T>
[[gnu::always_inline]] inline Vec<T> exp_of_any(Vec<T> x) {
  // Beyond these bounds the product below is infinite, or zero after rounding.
  x = clamp<T>(x, detail::kSingle<T> ? T(-104) : T(-746), detail::kSingle<T> ? T(89) : T(710));
  const auto e = detail::reduce_exp<T>(x);
  return detail::scale_by_power<T>(e.exp_r(), e.n, e.shifted);
}
#if !defined(__AVX512F__)
template <class T>
[[gnu::noinline]] Vec<T> exp_of_large(Vec<T> x) {
  return exp_of_any<T>(x);
}
#endif
template <class T>
[[gnu::always_inline]] inline Vec<T> exp(Vec<T> x) {
#if defined(__AVX512F__)  // the scaling is one instruction
  return exp_of_any<T>(x);
#else
  if (__builtin_expect(any(x > kExpBound<T>), 0)) return exp_of_large<T>(x);
  return exp_bounded<T>(x);
#endif
}

// 1 / d for 1 <= d <= 2^127, within an ulp.
template <class T>
[[gnu::always_inline]] inline Vec<T> reciprocal(Vec<T> d) {
#if defined(__AVX512F__)
  if constexpr (detail::kSingle<T>) {
    const Vec<T> r = (Vec<T>)_mm512_rcp14_ps((__m512)d);
    return r * (T(1) - d * r) + r;
  } else {
    Vec<T> r = (Vec<T>)_mm512_rcp14_pd((__m512d)d);
    r = r * (T(1) - d * r) + r;
    return r * (T(1) - d * r) + r;
  }
#else
  return T(1) / d;
#endif
}

// a / d for such d, within one and a half.
template <class T>
[[gnu::always_inline]] inline Vec<T> quotient(Vec<T> a, Vec<T> d) {
#if defined(__AVX512F__)
  return a * reciprocal<T>(d);
#else
  return a / d;
#endif
}

// exp(x) - 1 = 2^n q + (2^n - 1), which keeps its relative accuracy near zero (n = 0 there).
template <class T>
[[gnu::always_inline]] inline Vec<T> expm1(Vec<T> x) {
  const Vec<T> clamped =
      clamp<T>(x, detail::kSingle<T> ? T(-20) : T(-40), detail::kSingle<T> ? T(89) : T(710));
  const auto e = detail::reduce_exp<T>(clamped);
  // Half of everything, doubled at the end: 2^n itself overflows one step before the result does.
  const Vec<T> half_power = (Vec<T>)(((VecInt<T>)e.shifted - 1) << detail::kMantissaBits<T>);
  const Vec<T> y = (half_power * e.expm1_r() + (half_power - T(0.5))) * T(2);
  return copysign<T>(y, x);  // for -0; NaN keeps being NaN
}

// exp(x) - 1 for x <= 0 only (-0 gives 0).
template <class T>
[[gnu::always_inline]] inline Vec<T> expm1_negative(Vec<T> x) {
  const auto e = detail::reduce_exp<T>(max(broadcast<T>(detail::kSingle<T> ? T(-20) : T(-40)), x));
  const Vec<T> power = e.power();
  return power * e.expm1_r() + (power - T(1));
}

// Zeros, denormals, negative numbers and what is not finite: out of line, as they are rare.
template <class T>
[[gnu::noinline]] Vec<T> log_of_any(Vec<T> x) {
  constexpr int shift = detail::kMantissaBits<T>;
  constexpr Int<T> min_normal = Int<T>(1) << shift;
  constexpr Int<T> infinity = (2 * detail::kExponentBias<T> + 1) << shift;
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  // Denormals are told apart and scaled on their bits, since arithmetic may take them for zero.
  VecInt<T> bits = (VecInt<T>)x;
  const VecInt<T> tiny = bits < min_normal;  // also zero and everything negative
  constexpr Int<T> integer_scale = (detail::kExponentBias<T> + shift) << shift;  // bits of 2^mantissa
  const Vec<T> scaled =
      (Vec<T>)(bits | integer_scale) - T(Int<T>(1) << shift);  // x * 2^(bias - 1 + mantissa bits)
  bits = tiny ? (VecInt<T>)scaled : bits;
  const auto parts = detail::split<T>(bits);
  const Vec<T> e = tiny ? parts.e - T(detail::kExponentBias<T> - 1 + shift) : parts.e;
  Vec<T> y = detail::log_of_parts<T>(e, parts.m - T(1));
  const VecInt<T> ix = (VecInt<T>)x;
  y = ix < 0 ? broadcast<T>(nan) : y;
  y = (ix & std::numeric_limits<Int<T>>::max()) == 0 ? broadcast<T>(-detail::kInfinity<T>) : y;
  y = ix >= infinity ? x : y;
  return x != x ? x : y;
}
template <class T>
[[gnu::always_inline]] inline Vec<T> log(Vec<T> x) {
  using Unsigned = std::make_unsigned_t<Int<T>>;
  constexpr int shift = detail::kMantissaBits<T>;
  // From the bits of the smallest normal number to those of infinity, moved to where integers begin.
  constexpr Unsigned min_normal = Unsigned(1) << shift, sign = Unsigned(1) << (8 * sizeof(T) - 1);
  constexpr auto end = Int<T>((Unsigned(2 * detail::kExponentBias<T> + 1) << shift) - min_normal + sign);
  const auto moved = (VecInt<T>)((VecUnsigned<T>)x - (min_normal - sign));
  if (__builtin_expect(any(moved >= end), 0)) return log_of_any<T>(x);
  const auto parts = detail::split<T>((VecInt<T>)x);
  return detail::log_of_parts<T>(parts.e, parts.m - T(1));
}

// log(1 + x) for x in [0, 1] only, as softplus and its kin need it: without the reduction of log1p, and in
// float without its division.
template <class T>
[[gnu::always_inline]] inline Vec<T> log1p_unit(Vec<T> x) {
  if constexpr (detail::kSingle<T>) {
    return x * detail::polynomial<T>(x, 0.00536482987749, -0.0300658138072, 0.0792045693091, -0.137538050777,
                                     0.191536561561, -0.248571639553, 0.333213226501, -0.499996479647, 1.0);
  } else {
    const Vec<T> u = x + T(1);
    const VecInt<T> upper = u > T(1.41421356237309504880);
    const Vec<T> f = upper ? x * T(0.5) - T(0.5) : x;  // u / 2 - 1, without the rounding of u
    return detail::log_of_parts<T>(upper ? broadcast<T>(1) : broadcast<T>(0), f);
  }
}

// log(1 + x): u = 1 + x is split as usual, and what its rounding lost is added to the small part of the
// argument.
template <class T>
[[gnu::always_inline]] inline Vec<T> log1p(Vec<T> x) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const Vec<T> u = x + T(1);
  const Vec<T> lost = x - (u - T(1));
  const auto parts = detail::split<T>((VecInt<T>)u);
  // lost * 2^-e; for huge u the factor would leave the exponent range, and nothing was lost then
  const Vec<T> inverse =
      (Vec<T>)((detail::kExponentBias<T> << detail::kMantissaBits<T>)-parts.exponent_field);
  const Vec<T> rest =
      u < T(1.0 / std::numeric_limits<T>::epsilon()) * T(4) ? lost * inverse : broadcast<T>(0);
  Vec<T> y = detail::log_of_parts<T>(parts.e, (parts.m - T(1)) + rest);
  y = copysign<T>(y, x);
  y = x < T(-1) ? broadcast<T>(nan) : y;
  y = x == T(-1) ? broadcast<T>(-detail::kInfinity<T>) : y;
  y = x == detail::kInfinity<T> ? x : y;
  return x != x ? x : y;
}

// (exp(2x) - 1) / (exp(2x) + 1)
template <class T>
[[gnu::always_inline]] inline Vec<T> tanh(Vec<T> x) {
  const auto e = detail::reduce_exp<T>(
      clamp<T>(x + x, detail::kSingle<T> ? T(-20) : T(-40), detail::kSingle<T> ? T(20) : T(40)));
  const Vec<T> power = e.power(), t = power * e.expm1_r() + (power - T(1));
  return copysign<T>(quotient<T>(t, t + T(2)), x);
}

// 1 / (1 + exp(-x)) for |x| <= 88 (709 in double); beyond that, sigmoid(x) is 0 or 1 after flushing.
template <class T>
[[gnu::always_inline]] inline Vec<T> sigmoid_bounded(Vec<T> x) {
  const auto e = detail::reduce_exp<T>(-x);
  return reciprocal<T>(e.exp_r() * e.power() + T(1));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> sigmoid(Vec<T> x) {
  constexpr T bound = detail::kSingle<T> ? T(88) : T(709);
  return sigmoid_bounded<T>(clamp<T>(x, -bound, bound));
}

// erf(x) and erf(x / sqrt(2)) share this. float: one odd rational function, scaled for its argument; double:
// an odd polynomial below 1, and 1 - exp(-x^2) R(1 / (2 + x)) above.
enum class ErfOf { x, x_by_sqrt2 };
template <class T, ErfOf kOf = ErfOf::x>
[[gnu::always_inline]] inline Vec<T> erf(Vec<T> x) {
  if constexpr (detail::kSingle<T>) {
    constexpr double h = kOf == ErfOf::x ? 1.0 : 0.5, scale = kOf == ErfOf::x ? 1.0 : 0.70710678118654752440;
    constexpr T bound = T(3.95 / scale);
    const Vec<T> c = clamp<T>(x, -bound, bound);
    const Vec<T> z = c * c;
    const Vec<T> p = detail::polynomial<T>(
        z, 2.0258868358085837e-06 * scale * h * h * h * h * h, 0.00028468709368233857 * scale * h * h * h * h,
        0.0038081888771634553 * scale * h * h * h, 0.0528755340197441 * scale * h * h,
        0.19155112090265067 * scale * h, 1.1283791437525632 * scale);
    const Vec<T> q = detail::polynomial<T>(
        z, 3.783154515730635e-05 * h * h * h * h * h, 0.00117072988071192 * h * h * h * h,
        0.015055148240889426 * h * h * h, 0.11455994005753015 * h * h, 0.5030904367818771 * h, 1.0);
    return clamp<T>(quotient<T>(c * p, q), T(-1), T(1));
  } else {
    if constexpr (kOf == ErfOf::x_by_sqrt2) return erf<T>(x * T(0.70710678118654752440));
    const Vec<T> z = x * x;
    const Vec<T> small =
        x * detail::polynomial<T>(z, 5.9452446790545115834e-11, -1.1365655680781155373e-9,
                                  1.4657877133892517551e-8, -1.6350024812940901503e-7,
                                  1.6460972777732148448e-6, -0.000014925593504401694533,
                                  0.00012055331036794458917, -0.00085483269787392767001,
                                  0.0052239776247808149504, -0.026866170645072889477, 0.11283791670954857463,
                                  -0.37612638903183747604, 1.1283791670955125737);
    const Vec<T> a = min(broadcast<T>(T(6)), abs<T>(x));
    const Vec<T> t = T(1) / (a + T(2));
    const Vec<T> large =
        T(1) - exp<T>(-a * a) * detail::polynomial<T>(
                                    t, 108.83474993154666813, -598.65966046259181779, 1379.9684356039199613,
                                    -1782.7872651019009346, 1421.5372939259046051, -718.4696469236568524,
                                    235.85969548584907743, -61.180201252246471048, 13.920982730664913752,
                                    1.2986640379749903927, 2.1223171448348513709, 1.118641404477679942,
                                    0.56458149108387782893, -7.2747132580400427379e-6);
    return a < T(1) ? small : copysign<T>(large, x);
  }
}

// sin and cos of 2 pi u for u in [0, 1): u is reduced to an eighth of a turn exactly.
template <class T>
[[gnu::always_inline]] inline void sincos_2pi(Vec<T> u, Vec<T>& sine, Vec<T>& cosine) {
  const Vec<T> quarters = u * T(4);
  const Vec<T> shifted = quarters + detail::kRounder<T>;
  const Vec<T> r = (quarters - (shifted - detail::kRounder<T>)) * T(1.5707963267948966192);
  const Vec<T> z = r * r;
  Vec<T> s, c;
  if constexpr (detail::kSingle<T>) {
    s = detail::polynomial<T>(z, -0.00019516963199290735128, 0.0083321757152763695585,
                              -0.16666654905839426864);
    c = detail::polynomial<T>(z, 0.000024438080320612603651, -0.0013887364379298671634,
                              0.041666646804633789004, -0.5);
  } else {
    s = detail::polynomial<T>(z, 1.5896658866728387271e-10, -2.5050755814721433631e-8,
                              2.7557313677602331088e-6, -0.00019841269829767586538, 0.0083333333333223645174,
                              -0.16666666666666631832);
    c = detail::polynomial<T>(z, -1.1359557475236058376e-11, 2.0875721584986215107e-9,
                              -2.7557314340348082244e-7, 0.00002480158728944228659, -0.0013888888888874062725,
                              0.041666666666666599139, -0.5);
  }
  s = r * z * s + r;
  c = z * c + T(1);
  const VecInt<T> quadrant = (VecInt<T>)shifted;  // its two low bits
  const VecInt<T> swap = (quadrant & 1) != 0;
  constexpr Int<T> sign = std::numeric_limits<Int<T>>::min();
  constexpr int top = int(sizeof(T)) * 8 - 2;
  sine = (Vec<T>)((VecInt<T>)(swap ? c : s) ^ ((quadrant << top) & sign));
  cosine = (Vec<T>)((VecInt<T>)(swap ? s : c) ^ (((quadrant + 1) << top) & sign));
}

}  // namespace fastdl::simd

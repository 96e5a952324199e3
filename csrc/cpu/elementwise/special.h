// Special functions on Vec<double>. Floats are computed in double as well, so that a function is compiled
// once, but for the common erfc, ndtr and erfinv, which have shorter polynomials for them, and those made of
// logarithms.
//
// Between their reductions these are polynomials, interpolated at Chebyshev's nodes to a relative error below
// 1e-17 on the interval that is named; t stands for a variable in [-1, 1]. Results are within about 4 units
// in the last place of a double, but beside the zeros of lgamma and digamma on the negative axis, where
// reflection leaves an absolute error. Results that are denormal are flushed.
#pragma once

#include <cmath>

#include "cpu/elementwise/functions.h"

namespace fastdl::simd {
namespace special {

using D = Vec<double>;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kRootHalf = 0.70710678118654752440;
constexpr double kIntegers = 4503599627370496.0;  // 2^52: from here on all doubles are integers

// exp(factor x^2) for |x| <= 40 (10.2 in float): the square in two parts, since exp would magnify its rounding.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp_of_square(Vec<T> x, T factor) {
  // The upper half of its bits, whose square is exact.
  const Vec<T> high = (Vec<T>)((Vec<Int<T>>)x & ~Int<T>(sizeof(T) == 4 ? 0xfff : 0x7ffffff));
  const Vec<T> rest = factor * ((x - high) * (x + high));
  const auto e = detail::reduce_exp<T>(factor * (high * high), rest);
  return detail::scale_by_power<T>(e.exp_r(), e.n, e.shifted);
}

// exp(x^2) erfc(x) for 0 <= x <= 1e100. Times 1 + 2x it is smooth in w = x / (x + 3.75), from 1 at w = 0
// to 1.13 at w = 1 (M. Shepherd and J. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x",
// 1981); for floats, which need x up to 10, in x / (x + 2).
template <class T>
[[gnu::always_inline]] inline Vec<T> scaled_complement(Vec<T> x) {
  const Vec<T> w = x * reciprocal<T>(x + T(sizeof(T) == 4 ? 2 : 3.75)), t = T(2) * w - T(1);
  Vec<T> k;
  if constexpr (sizeof(T) == 4)
    k = detail::polynomial<T>(t, -0.0008044228281, -0.00165996206, 0.004288603105, 0.01297850219,
                              -0.02909821276, -0.07931135526, 0.4074219739, -0.739484743, 0.5539567859);
  else
    k = horner(t, 0.4750252616756552, -0.7555064588467492, 0.762677289817679, -0.5981238128373795,
               0.3805159525538443, -0.19590731023332641, 0.07852051305461424, -0.021795958213859577,
               0.0023027990935266334, 0.001208452593337095, -0.0006210252434549075, 4.071715938785341e-05,
               6.258098869848917e-05, -1.7812711647175665e-05, -5.075500019590887e-06, 3.1287249860920738e-06,
               3.7447468942465283e-07, -4.892962108849504e-07, -2.8010706148395465e-08, 7.480777477449259e-08,
               2.552185612301459e-09, -1.014856520778069e-08, -2.1304201785060737e-10, 8.540944854376887e-10);
  return (T(1) + w * k) / (T(2) * x + T(1));
}

template <class T>
[[gnu::always_inline]] inline Vec<T> erfc(Vec<T> x) {
  const Vec<T> a = min(broadcast<T>(sizeof(T) == 4 ? T(10.2) : T(28)), abs<T>(x));
  const Vec<T> tail = exp_of_square<T>(a, -1) * scaled_complement<T>(a);
  return x < T(0) ? T(2) - tail : tail;
}
[[gnu::noinline]] inline D erfcx(D x) {
  constexpr double root_pi = 1.77245385090551602730;
  const D a = abs<double>(x);
  D y = scaled_complement<double>(min(broadcast<double>(1e100), a));
  y = a > 1e100 ? 1.0 / (a * root_pi) : y;
  return x < 0.0 ? 2.0 * exp_of_square<double>(min(broadcast<double>(27), a), 1) - y : y;
}
// The probability beyond a standard deviations, 0 <= a.
template <class T>
[[gnu::always_inline]] inline Vec<T> normal_tail(Vec<T> a) {
  a = min(broadcast<T>(sizeof(T) == 4 ? T(14) : T(40)), a);
  return T(0.5) * exp_of_square<T>(a, T(-0.5)) * scaled_complement<T>(a * T(kRootHalf));
}
template <class T>
[[gnu::noinline]] Vec<T> ndtr(Vec<T> x) {
  const Vec<T> tail = normal_tail<T>(abs<T>(x));
  return x > T(0) ? T(1) - tail : tail;
}
// log(1 - tail) above zero, log(exp(x^2 / 2) tail) - x^2 / 2 below.
[[gnu::noinline]] inline D log_ndtr(D x) {
  const D a = abs<double>(x);
  const D scaled =
      0.5 * scaled_complement<double>(min(broadcast<double>(1e8), a * kRootHalf));  // then x^2 is all
  const auto above = x > 0.0;
  const D y = log1p<double>(above ? -normal_tail<double>(a) : scaled - 1.0);
  return above ? y : y - 0.5 * (a * a);
}

// The x whose ndtr is 1/2 + c, given |c| and q = 1/2 - |c|: odd in c near 0; beyond that the square root of
// -log q, times a polynomial in its own reciprocal. 0 gives infinity.
template <class T>
[[gnu::always_inline]] inline Vec<T> quantile(Vec<T> c, Vec<T> q) {
  constexpr T central = T(0.36);
  const Vec<T> z = c * c;
  Vec<T> y;
  if constexpr (sizeof(T) == 4)
    y = c * detail::polynomial<T>(z, 392477.483, -146972.442, 30099.4197, -2453.56715, 331.783059, 40.372957,
                                  15.8053418, 5.77110648, 2.62494066, 2.50662827);
  else
    y = c * horner(z, 2.5066282746310007, 2.6249349909536623, 5.772533538695371, 15.667608925877273,
                   47.0357963192713, 149.8285218106139, 496.39601945416814, 1681.5911217781256,
                   6283.0243308434865, 5556.846573017293, 505894.215195977, -9235481.952735374,
                   164157080.21200803, -2185243542.3260736, 22866585308.264595, -183823331885.7903,
                   1119138947150.5461, -4987572375579.865, 15408014256076.764, -29565955794510.156,
                   26856795399849.637);
  const auto outside = abs<T>(c) > central;
  if (any(outside | (c != c))) {
    const Vec<T> r = square_root<T>(-log<T>(q));
    Vec<T> ratio;
    if constexpr (sizeof(T) == 4) {  // q from 0.14 to 2e-8
      const Vec<T> t = T(8.929345092624947) / (r + T(1)) - T(2.7171817485817207);
      ratio = detail::polynomial<T>(t, -2.12929391e-06, -1.16901283e-05, -7.04894161e-05, -0.00039927473,
                                    -0.00243807274, -0.0134516289, -0.0762547429, -0.252739418, 1.1158236);
    } else {
      const D s = 1.0 / (r + 2.0);
      const D t = s * 11.629405233821597 - 2.4182201504660483;  // q from 0.14 to 2e-17
      ratio = horner(t, 1.2001303559392205, -0.24600826463975362, -0.12115322343215673, -0.04229660521277612,
                     -0.013895493805909494, -0.004367256344660912, -0.0013568236821813798,
                     -0.0004151901350189897, -0.00012658311198174982, -3.825409623647936e-05,
                     -1.1552703336525985e-05, -3.4671012523910443e-06, -1.0415515593623065e-06,
                     -3.111534055331093e-07, -9.302435075330377e-08, -2.7697594761350973e-08,
                     -8.44260071572488e-09, -2.506140496593752e-09, -6.246608392524034e-10,
                     -1.8526094216750157e-10, -1.0729221742614385e-10, -3.1611758725466563e-11);
      const auto far = r > 6.2;
      if (any(far)) {
        const D u = s * 22.77345971563981 - 1.7772511848341233;  // to the smallest number
        ratio = far ? horner(u, 1.3920605642529502, -0.025602860288635187, -0.008613034406505399,
                             -0.0009668286822630435, -0.00015087470508900384, -8.89172657916689e-06,
                             -3.4030870480238924e-06, 4.2322986910470546e-07, -2.3785282468176507e-07,
                             8.193674589301793e-08, -3.387709593562518e-08, 1.393885327169416e-08,
                             -6.059215077566613e-09, 2.650644439447991e-09, -9.963834287636338e-10,
                             4.4389867039430046e-10, -4.250230828821818e-10, 2.0381628704156498e-10,
                             6.8494858411221e-11, -3.5234818842243455e-11, -5.225904598969338e-11,
                             2.578581204875907e-11)
                    : ratio;
      }
    }
    y = abs<T>(c) <= central ? y : copysign<T>(r * ratio, c);
  }
  return y;
}
template <class T>
[[gnu::noinline]] Vec<T> erfinv(Vec<T> x) {
  return quantile<T>(T(0.5) * x, T(0.5) - T(0.5) * abs<T>(x)) * T(kRootHalf);
}
[[gnu::noinline]] inline D ndtri(D p) {
  return quantile<double>(p - 0.5, p < 0.5 ? p : 1.0 - p);
}

// sin and cos of pi a, a >= 0.
[[gnu::always_inline]] inline void sincos_pi(D a, D& sine, D& cosine) {
  const D half = 0.5 * a;  // less its whole part exactly
  sincos_2pi<double>(half - per_lane<double>([](double v) { return std::floor(v); }, half), sine, cosine);
}

// log |gamma(x)|. For a = |x| < 8 by steps of 1 to d = a - n, |d| <= 1/2, with lgamma(2 + d) = d Q(d): both
// zeros, 1 and 2, are products there. Beyond, Stirling's series. Below zero
// lgamma(x) = log(pi / (a |sin(pi a)|)) - lgamma(a).
[[gnu::noinline]] inline D lgamma(D x) {
  constexpr double log_pi = 1.14472988584940017414, half_log_2pi = 0.91893853320467274178;
  const D a = abs<double>(x);
  const auto low = a < 0.5, short_of_two = a < 1.5, far = a >= 8.0;
  D d = low ? a : a - 1.0;
  D p = short_of_two ? (low & (a > 1e-17) ? a * (a + 1.0) : a) : broadcast<double>(1);
#pragma GCC unroll 7
  for (int k = 1; k <= 7; ++k) {
    const auto steps = a >= k + 0.5;
    d = steps ? d - 1.0 : d;
    if (k > 1) p = steps ? p * (a - double(k - 1)) : p;
  }
  const D l = log<double>(far ? a : p);
  const D near = d * horner(d, 0.42278433509846713, 0.3224670334241132, -0.06735230105319563,
                            0.02058080842778338, -0.007385551028935545, 0.002890510330865901,
                            -0.0011927539009983087, 0.0005096695196526673, -0.00022315497746292723,
                            9.945761692157133e-05, -4.4923727564247656e-05, 2.050601970174762e-05,
                            -9.45628851510172e-06, 4.3828545383846665e-06, -1.9743106888421067e-06,
                            9.242852225162277e-07, -5.811277768921246e-07, 2.7475390051909663e-07) +
                 (short_of_two ? -l : l);
  const D inverse = 1.0 / a, v = inverse * inverse;
  const D stirling = horner(v, 0.0833333333333333, -0.0027777777776060446, 0.000793650664877517,
                            -0.0005952025847742346, 0.0008372827864695204, -0.0016525849983934733);
  D y = far ? (a - 0.5) * (l - 1.0) + (half_log_2pi - 0.5 + inverse * stirling) : near;
  const auto negative = x < 0.0;
  if (any(negative)) {
    D sine, cosine;
    sincos_pi(a, sine, cosine);
    const D reflected = (log_pi - log<double>(a * abs<double>(sine))) - y;
    y = negative & (a > 1e-17) ? reflected : y;  // below, lgamma(x) = -log a on either side
    y = negative & (a >= kIntegers) ? broadcast<double>(kInf) : y;
  }
  return y;
}

// The derivative of lgamma. For 0 < a < 8 by steps of 1 to y in [1, 2), where it is y - y0 (its zero) times a
// polynomial; the reciprocals of the steps are added up as one fraction. Beyond, the asymptotic series. Below
// zero digamma(x) = digamma(1 - x) + pi / tan(pi |x|).
[[gnu::noinline]] inline D digamma(D x) {
  constexpr double zero = 1.4616321449683622, zero_rest = 9.549995429965697e-17;
  const auto negative = x < 0.0;
  const D a = negative ? 1.0 - x : x;
  const auto below = a < 1.0, far = a >= 8.0;
  D y = below ? a + 1.0 : a, den = below ? a : broadcast<double>(1),
    num = below ? broadcast<double>(-1) : D{};
#pragma GCC unroll 6
  for (int k = 0; k < 6; ++k) {
    const auto steps = y >= 2.0;
    y = steps ? y - 1.0 : y;
    num = steps ? num * y + den : num;
    den = steps ? den * y : den;
  }
  const D ratio = (far ? broadcast<double>(0.5) : num) / (far ? a : den);
  const D t = 2.0 * y - 3.0;
  D result =
      ((y - zero) - zero_rest) *
          horner(t, 0.951055876031833, -0.21181371064073026, 0.06013562106019355, -0.018550615381738605,
                 0.005936795278433826, -0.0019350666647832667, 0.000636888028319074, -0.00021074841215733007,
                 6.995020484160625e-05, -2.325823828431376e-05, 7.741156881253708e-06, -2.578107848270217e-06,
                 8.591324222417666e-07, -2.8628755280038686e-07, 9.500926192924096e-08,
                 -3.166618072027162e-08, 1.10370884388543e-08, -3.6788868183645545e-09, 8.668257373761658e-10,
                 -2.889363639216111e-10, 2.4765474440031764e-10, -8.25512972008104e-11) +
      ratio;
  if (any(far)) {
    const D v = 4.0 * (ratio * ratio);
    result = far ? log<double>(a) - (ratio + v * horner(v, 0.08333333333333286, -0.008333333331166043,
                                                        0.00396825234194323, -0.0041662175196393045,
                                                        0.007519079861002581, -0.017710965960711894))
                 : result;
  }
  if (any(negative)) {
    D sine, cosine;
    sincos_pi(abs<double>(x), sine, cosine);
    const D reflected = result + M_PI * cosine / sine;
    result = negative ? (sine == 0.0 ? broadcast<double>(kNan) : reflected) : result;  // poles
  }
  return result;
}

// The derivative of digamma: by steps of 1 to y >= 8, then the asymptotic series; below zero
// (pi / sin(pi |x|))^2 - trigamma(1 - x).
[[gnu::noinline]] inline D trigamma(D x) {
  const auto negative = x < 0.0;
  D y = negative ? 1.0 - x : x, num{}, den = broadcast<double>(1);
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
    const auto steps = y < 8.0;
    const D square = y * y;
    num = steps ? num * square + den : num;
    den = steps ? den * square : den;
    y = steps ? y + 1.0 : y;
  }
  const D inverse = 1.0 / y, v = inverse * inverse;
  D result = num / den + (1.0 + (0.5 * inverse + v * horner(v, 0.16666666666666652, -0.03333333333249149,
                                                            0.023809522943188756, -0.03333299690971581,
                                                            0.0756947967251632, -0.24699657306551928,
                                                            0.8586715717721535))) *
                             inverse;
  if (any(negative)) {
    D sine, cosine;
    sincos_pi(abs<double>(x), sine, cosine);
    const D turn = M_PI / sine;
    result = negative ? turn * turn - result : result;
  }
  return result;
}

// The modified Bessel functions of order 0 and 1, times exp(-|x|) if `scaled`: polynomials in x^2 / 4, and
// from kLargeBessel on in 1 / x, times exp(x) / sqrt(x).
constexpr double kLargeBessel = 8.0;
template <int order, bool scaled>
[[gnu::noinline]] D bessel_i(D x) {
  D a = abs<double>(x);
  if constexpr (!scaled) a = min(broadcast<double>(1000), a);  // from 714 on the result is infinite
  const auto large = a >= kLargeBessel;
  const D near = min(broadcast<double>(kLargeBessel), a), z = 0.25 * (near * near);
  D y;
  if constexpr (order == 0)
    y = horner(z, 1.0, 1.0000000000000009, 0.2499999999999948, 0.027777777777788643, 0.0017361111110991466,
               6.944444445240514e-05, 1.9290123422052142e-06, 3.9367599937651325e-08, 6.151185080653331e-10,
               7.594093461237802e-12, 7.5936581264081e-14, 6.279425816382418e-16, 4.338239454264185e-18,
               2.6638168379729013e-20, 1.0805568728893e-22, 9.604864662681523e-25);
  else
    y = near * horner(z, 0.5, 0.25000000000000006, 0.04166666666666652, 0.0034722222222225343,
                      0.00017361111111076753, 5.78703703726566e-06, 1.3778659602015222e-07,
                      2.460474960769327e-09, 3.4173256472461263e-11, 3.797039283580161e-13,
                      3.451729636836005e-15, 2.6159960799896376e-17, 1.6705022348546468e-19,
                      9.455144020393155e-22, 3.706605520277272e-24, 2.916825666594092e-26);
  if constexpr (scaled) y = y * exp<double>(-near);
  if (any(large)) {
    const D inverse = 1.0 / a, t = inverse * 16.0 - 1.0;
    D series;
    if constexpr (order == 0)
      series = horner(
          t, 0.4021765094450081, 0.0033605519836678913, 0.00013621607438951463, 1.114303378845176e-05,
          1.4838476780922646e-06, 2.9735992084667734e-07, 8.872014585661555e-08, 3.932512321137824e-08,
          2.156780676115673e-08, 7.559364098665437e-09, -6.856484545962442e-09, -1.3427511481900905e-08,
          -5.0175940345046716e-09, 7.600254486433509e-09, 6.522264862032271e-09, -3.5862834111582305e-09,
          -4.5305710768621196e-09, 1.6084886155781772e-09, 2.163681278413876e-09, -6.327909921997027e-10,
          -6.494591114401118e-10, 1.7698085539456536e-10, 9.114760157514253e-11, -2.4421972688131832e-11);
    else
      series = horner(
          t, 0.38939845902587233, -0.009749577193235765, -0.00021923576383137776, -1.5038547198221758e-05,
          -1.8349102493990178e-06, -3.4838563464253135e-07, -1.0001075046243961e-07, -4.3128498031006734e-08,
          -2.3394122958362557e-08, -8.432168972932417e-09, 6.84757829926934e-09, 1.4051746928735543e-08,
          5.5720183980930355e-09, -7.687251308765992e-09, -6.9444186339873875e-09, 3.501765193290176e-09,
          4.763780078020254e-09, -1.5218214060680734e-09, -2.2624401109204446e-09, 5.870664618471487e-10,
          6.7727478454462e-10, -1.6283264322621244e-10, -9.491890392992048e-11, 2.2421768596847442e-11);
    D far = series * square_root<double>(inverse);
    if constexpr (!scaled) {  // in two halves: the exponential overflows before the function does
      const D root = exp<double>(0.5 * a);
      far = root * far * root;
    }
    y = large ? far : y;
  }
  y = x != x ? x : y;
  return order == 1 ? copysign<double>(y, x) : y;
}

// -x log(x)
template <class T>
[[gnu::noinline]] Vec<T> entr(Vec<T> x) {
  const Vec<T> y = -x * log<T>(x), outside = x < T(0) ? broadcast<T>(-T(kInf)) : x;
  return x > T(0) ? y : outside == T(0) ? broadcast<T>(0) : outside;
}

// sin(pi x) / (pi x)
[[gnu::noinline]] inline D sinc(D x) {
  const D angle = x * 3.14159265358979323846;
  return angle == 0 ? broadcast<double>(1) : sine<double>(angle) / angle;
}

}  // namespace special
}  // namespace fastdl::simd

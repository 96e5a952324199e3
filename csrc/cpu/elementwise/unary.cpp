// y = f(x), and grad_x = grad_y f'(x) in one pass over the gradient and what was saved.
//
//   saved for backward: the output y by sqrt, rsqrt, reciprocal, exp, exp2, expm1, tan; the input x by the
//   others; nothing by neg, sign and the roundings (their gradient is -grad_y or zero, made without a
//   kernel).
//
// Passes: forward one read, one write; backward two reads, one write. Work: ranges of the flattened space
// (loop.h).
#include <cmath>

#include "cpu/elementwise/functions.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

template <class T>
using C = T (*)(T);  // the C library's overload for T

// `single` in double for T = float, where the result keeps half the digits; else `full`.
template <class T, class Single, class Full>
[[gnu::always_inline]] inline Vec<T> by_double(Vec<T> x, Single single, Full full) {
  if constexpr (sizeof(T) == 4)
    return in_double(single, x);
  else
    return full(x);
}

using D = Vec<double>;

// log(x / (1 - x)). Around 1/2 the quotient's rounding is put right: 2x - 1 and the quotient less 1 are exact there. What
// was lost is divided by x, for which a few correct bits are enough: three terms of its series do.
template <class T>
Vec<T> logit(Vec<T> x) {
  const Vec<T> rest = T(1) - x, ratio = x / rest;
  const Vec<T> d = x - T(0.5), inverse = T(2) - d * (T(4) - T(8) * d);
  const Vec<T> lost = ((x + x - T(1)) - (ratio - T(1)) * rest) * inverse;
  const Vec<T> y = simd::log<T>(ratio);
  return (x > T(0.34)) & (x < T(0.66)) ? y + lost : y;
}

// log2 or log10: k log(2) + log(m), times 1 / log(base). The numbers are in two parts, the first so short that products
// with it are exact, since a power of the base must give an integer.
struct LogBase {
  double two_high, two_low, ratio_high, ratio_low;
};
constexpr LogBase kBase2 = {1, 0, 0x1.715476p+0, 0x1.4ae0bf85ddf44p-26},
                  kBase10 = {0x1.344134p-2, 0x1.09f79fef311f1p-26, 0x1.bcb7bp-2, 0x1.526e50e32a6abp-26};

template <class T>
Vec<T> log_to_base(Vec<T> x, const LogBase& base) {
  return log_special<T>(
      x, by_double<T>(
             x,
             [&](D v) {
               D k;
               const D m = log_parts(v, k);
               return k * (base.two_high + base.two_low) + m * (base.ratio_high + base.ratio_low);
             },
             [&](D v) {  // log(m) = high + low, as simd::log's series has it
               const auto parts = detail::split<double>((Vec<int64_t>)v);
               const D f = parts.m - 1.0, s = f / (f + 2.0), half_square = 0.5 * f * f;
               const D series = horner(s * s, 0.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13,
                                       2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21);
               const D high = (D)((Vec<int64_t>)(f - half_square) & ~int64_t(0xffffffff));
               const D low = (f - high) - half_square + s * (half_square + series);
               const D a = parts.e * base.two_high, b = high * base.ratio_high, sum = a + b;
               return sum + (((a - sum) + b) + (parts.e * base.two_low + (low + high) * base.ratio_low +
                                                low * base.ratio_high));
             }));
}

}  // namespace

template <class T>
void unary_forward(Unary op, const StridedLoop<2>& loop) {
  using V = Vec<T>;
  const auto fast = [&](auto f) { map<T>(loop, kGrain, f); };
  const auto full = [&](auto f) { map<T, sizeof(T) == 4>(loop, kGrain, f); };  // doubles would be slower
  const auto slow = [&](auto f) { map<T, true>(loop, kGrainSlow, f); };
  switch (op) {
    case Unary::neg:
      return fast([](V x) { return -x; });
    case Unary::abs:
      return fast([](V x) { return simd::abs<T>(x); });
    case Unary::sign:
      return fast([](V x) {
        const V negative = x < T(0) ? broadcast<T>(-1) : broadcast<T>(0);
        return x > T(0) ? broadcast<T>(1) : negative;
      });
    case Unary::floor:
      return fast([](V x) { return per_lane<T>(static_cast<C<T>>(std::floor), x); });
    case Unary::ceil:
      return fast([](V x) { return per_lane<T>(static_cast<C<T>>(std::ceil), x); });
    case Unary::round:  // halves to even
      return fast([](V x) { return per_lane<T>(static_cast<C<T>>(std::nearbyint), x); });
    case Unary::trunc:
      return fast([](V x) { return per_lane<T>(static_cast<C<T>>(std::trunc), x); });
    case Unary::frac:
      return fast([](V x) { return x - per_lane<T>(static_cast<C<T>>(std::trunc), x); });
    case Unary::square:
      return fast([](V x) { return x * x; });
    case Unary::sqrt:
      return fast([](V x) { return square_root<T>(x); });
    case Unary::rsqrt:
      return fast([](V x) { return T(1) / square_root<T>(x); });
    case Unary::reciprocal:
      return fast([](V x) { return T(1) / x; });
    case Unary::exp:
      return full([](V x) { return simd::exp<T>(x); });
    case Unary::expm1:
      return full([](V x) { return simd::expm1<T>(x); });
    case Unary::log:
      return full([](V x) { return simd::log<T>(x); });
    case Unary::log1p:
      return full([](V x) { return simd::log1p<T>(x); });
    case Unary::log2:
    case Unary::log10:
      return slow([base = op == Unary::log2 ? kBase2 : kBase10](V x) { return log_to_base<T>(x, base); });
    case Unary::sin:
      return slow([](V x) { return sine<T>(x); });
    case Unary::cos:
      return slow([](V x) { return cosine<T>(x); });
    case Unary::tan:
      return slow([](V x) { return tangent<T>(x); });
    case Unary::asin:
      return slow([](V x) { return simd::asin(x); });
    case Unary::acos:
      return slow([](V x) { return simd::acos(x); });
    case Unary::atan:
      return slow([](V x) { return simd::atan(x); });
    case Unary::sinh:  // the series where e^x - e^-x would cancel
      return slow([](V x) {
        return by_double<T>(
            x,
            [](D v) {
              const D e = simd::exp<double>(v), z = v * v;
              return simd::abs<double>(v) < 1e-2 ? v + v * z * (1.0 / 6 + z * (1.0 / 120))
                                                 : 0.5 * e - 0.5 / e;
            },
            [](D v) { return sinh_of_double(v); });
      });
    case Unary::cosh:
      return slow([](V x) {
        return by_double<T>(
            x,
            [](D v) {
              const D e = simd::exp<double>(v);
              return 0.5 * e + 0.5 / e;
            },
            [](D v) { return cosh_of_double(v); });
      });
    case Unary::asinh:
      return slow([](V x) {
        return by_double<T>(
            x,
            [](D v) {
              const D a = simd::abs<double>(v), z = v * v;
              const D large = simd::copysign<double>(log_for_float(a + square_root<double>(z + 1.0)), v);
              return a < 1e-2 ? v * (1.0 - z * (1.0 / 6 - z * (3.0 / 40))) : large;
            },
            [](D v) { return asinh_of_double(v); });
      });
    case Unary::acosh:
      return slow([](V x) {
        return by_double<T>(
            x,
            [](D v) {
              const D y = log_for_float(v + square_root<double>((v - 1.0) * (v + 1.0)));
              return v < 1.0 ? broadcast<double>(std::numeric_limits<double>::quiet_NaN()) : y;
            },
            [](D v) { return acosh_of_double(v); });
      });
    case Unary::atanh:
      return slow([](V x) {
        return by_double<T>(
            x,
            [](D v) {
              const D a = simd::abs<double>(v), z = v * v;
              const D large = simd::copysign<double>(0.5 * log_for_float((1.0 + a) / (1.0 - a)), v);
              return a < 1e-2 ? v + v * z * (1.0 / 3 + z * (1.0 / 5)) : large;
            },
            [](D v) { return atanh_of_double(v); });
      });
    case Unary::erf:
      return full([](V x) { return simd::erf<T>(x); });
    case Unary::exp2:
      return full([](V x) { return simd::exp2<T>(x); });
    case Unary::logit:
      return full([](V x) { return logit<T>(x); });
    case Unary::angle:  // NaN stays
      return fast([](V x) {
        const V right = x != x ? x : broadcast<T>(0);
        return x < T(0) ? broadcast<T>(T(M_PI)) : right;
      });
  }
}

template <class T>
void unary_backward(Unary op, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  const auto fast = [&](auto f) { map<T>(loop, kGrain, f); };
  const auto slow = [&](auto f) { map<T, true>(loop, kGrainSlow, f); };
  switch (op) {
    case Unary::neg:
    case Unary::sign:
    case Unary::floor:
    case Unary::ceil:
    case Unary::round:
    case Unary::trunc:
    case Unary::frac:
    case Unary::angle:
      return;
    case Unary::abs:
      return fast([](V g, V x) {
        const V negative = x < T(0) ? -g : broadcast<T>(0);
        return x > T(0) ? g : negative;
      });
    case Unary::square:
      return fast([](V g, V x) { return g * (T(2) * x); });
    case Unary::sqrt:
      return fast([](V g, V y) { return g / (T(2) * y); });
    case Unary::rsqrt:
      return fast([](V g, V y) { return T(-0.5) * g * (y * y * y); });
    case Unary::reciprocal:
      return fast([](V g, V y) { return -g * (y * y); });
    case Unary::exp:
      return fast([](V g, V y) { return g * y; });
    case Unary::exp2:
      return fast([](V g, V y) { return g * (T(M_LN2) * y); });
    case Unary::expm1:
      return fast([](V g, V y) { return g * (y + T(1)); });
    case Unary::log:
      return fast([](V g, V x) { return g / x; });
    case Unary::log1p:
      return fast([](V g, V x) { return g / (x + T(1)); });
    case Unary::log2:
      return fast([](V g, V x) { return g / (T(M_LN2) * x); });
    case Unary::log10:
      return fast([](V g, V x) { return g / (T(M_LN10) * x); });
    case Unary::sin:
      return slow([](V g, V x) { return g * cosine<T>(x); });
    case Unary::cos:
      return slow([](V g, V x) { return -g * sine<T>(x); });
    case Unary::tan:
      return fast([](V g, V y) { return g * (T(1) + y * y); });
    case Unary::asin:
      return fast([](V g, V x) { return g / square_root<T>(T(1) - x * x); });
    case Unary::acos:
      return fast([](V g, V x) { return -g / square_root<T>(T(1) - x * x); });
    case Unary::atan:
      return fast([](V g, V x) { return g / (T(1) + x * x); });
    case Unary::sinh:
      return slow([](V g, V x) {
        const V e = simd::exp<T>(x);
        return g * (T(0.5) * e + T(0.5) / e);
      });
    case Unary::cosh:
      return slow([](V g, V x) {
        if constexpr (sizeof(T) == 4)
          return g * in_double(
                         [](D v) {
                           const D e = simd::exp<double>(v), z = v * v;
                           return simd::abs<double>(v) < 1e-2 ? v + v * z * (1.0 / 6 + z * (1.0 / 120))
                                                              : 0.5 * e - 0.5 / e;
                         },
                         x);
        else
          return g * sinh_of_double(x);
      });
    case Unary::asinh:
      return fast([](V g, V x) { return g / square_root<T>(x * x + T(1)); });
    case Unary::acosh:
      return fast([](V g, V x) { return g / square_root<T>(x * x - T(1)); });
    case Unary::atanh:
      return fast([](V g, V x) { return g / (T(1) - x * x); });
    case Unary::logit:  // NaN outside of [0, 1]
      return fast([](V g, V x) {
        const V slope = x * (T(1) - x);
        return slope < T(0) ? broadcast<T>(std::numeric_limits<T>::quiet_NaN()) : g / slope;
      });
    case Unary::erf:
      return slow([](V g, V x) { return g * (T(M_2_SQRTPI) * simd::exp_bounded<T>(-x * x)); });
  }
}

#define FASTDL_INSTANTIATE(T)                                   \
  template void unary_forward<T>(Unary, const StridedLoop<2>&); \
  template void unary_backward<T>(Unary, const StridedLoop<3>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

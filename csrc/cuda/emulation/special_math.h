// CUDA's functions that the host's standard library lacks, in double: floats are rounded once. Series and
// Newton's steps, slow and plain.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

namespace fastdl {
namespace emulation {

constexpr double kRootHalf = 0.70710678118654752440, kRootHalfRest = -4.8336466567264567e-17,
                 kRootPi = 1.77245385090551602730;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The product as it stands below 2; beyond it the continued fraction 1 / (x + (1/2) / (x + (2/2) / ..)).
inline double erfcx(double x) {
  if (!(x >= 2)) return std::exp(x * x) * std::erfc(x);
  double fraction = x;
  for (int k = 100; k > 0; --k) fraction = x + 0.5 * k / fraction;
  return 1 / (kRootPi * fraction);
}

inline double log_ndtr(double x) {
  return x < -1 ? std::log(erfcx(-x * kRootHalf) / 2) - x * x / 2
                : std::log1p(-0.5 * std::erfc(x * kRootHalf));
}

// erfc(-x / sqrt(2)) / 2, corrected for the rounding of its argument, which the slope would magnify.
inline double normal_below(double x) {
  const double a = -x * kRootHalf, rest = std::fma(-x, kRootHalf, -a) - x * kRootHalfRest;
  const double half = std::erfc(a) / 2;
  return std::isfinite(rest) ? half - rest * std::exp(-a * a) / kRootPi : half;
}

// Newton's steps on erf near zero.
inline double central_erf_inverse(double x) {
  double y = x;
  for (int step = 0; step < 6; ++step) y -= (std::erf(y) - x) / (2 / kRootPi * std::exp(-y * y));
  return y;
}

// Newton's steps on the logarithm of the smaller tail, which is concave.
inline double normal_quantile(double p) {
  if (std::fabs(p - 0.5) < 0.25) return central_erf_inverse(2 * p - 1) / kRootHalf;
  if (!(p > 0 && p < 1)) return p == 0 ? -kInfinity : p == 1 ? kInfinity : std::nan("");
  const double wanted = std::log(p < 0.5 ? p : 1 - p);
  double x = -std::sqrt(-2 * wanted);
  for (int step = 0; step < 8; ++step)
    x -= (log_ndtr(x) - wanted) * erfcx(-x * kRootHalf) * kRootPi * kRootHalf;
  return p < 0.5 ? x : -x;
}

inline double erf_inverse(double x) {
  if (std::fabs(x) < 0.5) return central_erf_inverse(x);
  return std::copysign(normal_quantile((1 - std::fabs(x)) / 2) * kRootHalf, x);
}

// The sum of (x / 2)^(2k + order) / (k! (k + order)!), whose terms are all positive.
inline double bessel_i(int order, double x) {
  const double a = std::fabs(x), z = a * a / 4;
  double sum = order == 0 ? 1 : a / 2;
  if (a > 720) {
    sum = kInfinity;
  } else {
    double term = sum;
    for (int k = 1; term > 1e-17 * sum; ++k) {
      term *= z / (double(k) * (k + order));
      sum += term;
    }
  }
  return std::isnan(x) ? x : order == 1 ? std::copysign(sum, x) : sum;
}

// The argument's distance from the nearest zero, so that results near zeros have all digits.
inline double sin_pi(double x) {
  double r = std::remainder(x, 2);
  if (std::fabs(r) > 0.5) r = std::copysign(1.0, r) - r;
  return std::sin(3.14159265358979323846 * r);
}
inline double cos_pi(double x) {
  return sin_pi(0.5 - std::fabs(std::remainder(x, 2)));
}

inline double log_gamma(double x) {
  int sign;  // not the C library's global one
  return std::isinf(x) ? kInfinity : lgamma_r(x, &sign);
}

}  // namespace emulation

#define FASTDL_IN_DOUBLE(name, expression) \
  template <class C>                       \
  C name(C x) {                            \
    return C(emulation::expression);       \
  }
FASTDL_IN_DOUBLE(log_gamma, log_gamma(x))
FASTDL_IN_DOUBLE(erfcx, erfcx(x))
FASTDL_IN_DOUBLE(erf_inverse, erf_inverse(x))
FASTDL_IN_DOUBLE(normal_quantile, normal_quantile(x))
FASTDL_IN_DOUBLE(bessel_i0, bessel_i(0, x))
FASTDL_IN_DOUBLE(bessel_i1, bessel_i(1, x))
FASTDL_IN_DOUBLE(sin_pi, sin_pi(x))
FASTDL_IN_DOUBLE(cos_pi, cos_pi(x))
FASTDL_IN_DOUBLE(normal_below, normal_below(x))
#undef FASTDL_IN_DOUBLE

}  // namespace fastdl

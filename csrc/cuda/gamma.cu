// Hurwitz' zeta function and the regularised incomplete gamma functions, by the CPU's algorithms
// (csrc/cpu/elementwise/gamma.h), in float64 whatever the type: sums and exponents of floats would leave half
// of their digits. What takes hundreds of instructions is one function that all kernels call.
#include "cuda/map.h"
#include "cuda/special.h"

namespace fastdl::cuda {
namespace {

constexpr double kPi = 3.14159265358979323846;
// Of a sum or fraction between two looks at what is left.
constexpr int kSteps = 8;

__device__ __forceinline__ double not_a_number() {
  return infinity<double>() - infinity<double>();
}

// c[0] + x (c[1] + x (c[2] + ..))
template <int N>
__device__ __forceinline__ double horner(double x, const double (&c)[N]) {
  double y = c[N - 1];
  FASTDL_UNROLL
  for (int i = N - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

// The sum over k >= 0 of (q + k)^-s for q > 0, s > 1: terms one by one until q + k is 24 (10 if `single`) and s
// at least, or they no longer count, then Euler and Maclaurin's formula for the rest.
__device__ __forceinline__ double zeta_of_positive(double s, double q, bool single) {
  constexpr double kBernoulli[] = {1.0 / 6,       -1.0 / 30, 1.0 / 42,      -1.0 / 30,     5.0 / 66,
                                   -691.0 / 2730, 7.0 / 6,   -3617.0 / 510, 43867.0 / 798, -174611.0 / 330};
  const double enough = std::fmax(single ? 10.0 : 24.0, s);
  double total = 0, y = q;
  FASTDL_ROLLED
  for (; y < enough; y += 1) {
    const double term = std::pow(y, -s);
    total += term;
    if (!(term > 1e-18 * total)) return total;
  }
  const double t = std::pow(y, -s), v = 1 / (y * y);
  double rest = t * y / (s - 1) + 0.5 * t;
  double factor = 0.5 * s * t / y;  // s (s + 1) ... (s + 2j - 2) y^(-s - 2j + 1) / (2j)!
  FASTDL_UNROLL
  for (int j = 1; j <= 10; ++j) {
    rest += kBernoulli[j - 1] * factor;
    factor *= (s + (2 * j - 1)) * (s + 2 * j) * (v * (1.0 / ((2 * j + 1) * (2 * j + 2))));
  }
  return total + rest;
}

// Infinite at s = 1 and the poles q = 0, -1, ...; NaN for s < 1, and for other q < 0 unless s is an integer:
// then the terms below zero are those of two positive arguments.
__device__ __forceinline__ double zeta(double s, double q, bool single) {
  if (s == 1) return infinity<double>();
  if (s < 1) return not_a_number();
  const double below = std::floor(q);
  if (q <= 0 && q == below) return infinity<double>();
  const bool negative = q < 0;
  if (negative && std::floor(s) != s) return not_a_number();
  const bool odd = std::floor(0.5 * s) != 0.5 * s;
  double total = 0;
  FASTDL_ROLLED
  for (int i = negative ? 0 : 2; i < 3; ++i) {
    const double start = !negative ? q : i == 0 ? below + 1 - q : i == 1 ? 1 - q : q - below;
    const double part = zeta_of_positive(s, start, single);
    total = i == 0 ? part : i == 1 ? total - part : odd ? part - total : part + total;
  }
  return total;
}

// P(a, x) and Q = 1 - P for 30 <= a, the smaller one by Gauss and Legendre's rule. With t = a (1 + u),
// t^(a-1) e^-t / gamma(a) dt = sqrt(a / 2 pi) / g(a) e^(a (log(1+u) - u)) / (1+u) du, where log g is
// Stirling's series. From u = x / a - 1 outward, until the integrand has fallen by e^-40.
__device__ __forceinline__ double integrated_gamma(double a, double x, bool upper) {
  static constexpr double kNodes[] = {
      0.038772417506050816, 0.11608407067525521, 0.1926975807013711, 0.2681521850072537, 0.3419940908257585,
      0.413779204371605,    0.4830758016861787,  0.5494671250951282, 0.6125538896679802, 0.6719566846141796,
      0.7273182551899271,   0.7783056514265194,  0.8246122308333117, 0.8659595032122595, 0.9020988069688742,
      0.9328128082786765,   0.9579168192137917,  0.9772599499837743, 0.990726238699457,  0.9982377097105591};
  static constexpr double kWeights[] = {
      0.07750594797842451,  0.07703981816424763,  0.07611036190062598,  0.07472316905796794,
      0.07288658239580377,  0.07061164739128656,  0.06791204581523368,  0.06480401345660076,
      0.061306242492928834, 0.05743976909939129,  0.0532278469839367,   0.04869580763507193,
      0.04387090818567321,  0.03878216797447219,  0.03346019528254789,  0.027937006980023434,
      0.022245849194166653, 0.016421058381906828, 0.010498284531153814, 0.004521277098536349};
  const double start = (x - a) / a;
  const bool right = start >= 0;
  // a (log(1+u) - u) has the slope -a u / (1+u) and the curvature -a / (1+u)^2, least where u is greatest.
  const double slope = a * std::fabs(start) / (1 + start);
  const double reach = 1 + start + (right ? 1.5 * std::sqrt(80 / a) : 0);
  double width = 80 / (slope + std::sqrt(slope * slope + 80 * a / (reach * reach)));
  if (!right) width = std::fmin(width, 1 + start);
  const double outward = right ? 0.5 * width : -0.5 * width, middle = start + outward;
  double total = 0;
  FASTDL_ROLLED
  for (int i = 0; i < 40; ++i) {
    const double node = i % 2 == 0 ? -kNodes[i / 2] : kNodes[i / 2], u = middle + outward * node;
    // log(1 + u) - u, which cancels beside 0
    const double exponent = std::fabs(u) < 1e-3
                                ? u * u * horner(u, {-1.0 / 2, 1.0 / 3, -1.0 / 4, 1.0 / 5, -1.0 / 6, 1.0 / 7})
                                : std::log1p(u) - u;
    total += kWeights[i / 2] * (std::exp(a * exponent) / (1 + u));
  }
  const double stirling =
      horner(1 / (a * a), {1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188}) / a;
  const double tail = std::fmin(0.5 * width * total * std::sqrt(a * (0.5 / kPi)) * std::exp(-stirling), 1.0);
  return upper == right ? tail : 1 - tail;
}

// Q for a < 0.1 and x < a + 1, where it is far below 1: 1 - e^t (1 + a s) with t = log(x^a / gamma(1 + a))
// and s the sum over n > 0 of (-x)^n / (n! (a + n)).
__device__ __forceinline__ double upper_of_small(double a, double x) {
  double power = 1, sum = 0;
  FASTDL_ROLLED
  for (int n = 1; n <= 18; ++n) {
    power *= x * (-1.0 / n);
    sum += power / (a + n);
  }
  const double series =
      horner(a, {0.57721566490153286, -0.82246703342411322, 0.40068563438653143, -0.27058080842778455,
                 0.20738555102867399, -0.16955717699740819, 0.14404989676884612, -0.12550966952474304,
                 0.11133426586956469, -0.10009945751278181, 0.090954017145829042, -0.083353840546109004,
                 0.076932516411352191, -0.071432946295361336, 0.066668705882420468});
  const double t = a * (std::log(x) + series);
  return -std::expm1(t) - std::exp(t) * (a * sum);
}

// P's power series for x < a + 1: the sum of x^k / ((a + 1) ... (a + k)) as one fraction, without divisions.
__device__ __forceinline__ double lower_series(double a, double x, double error) {
  double n = a, power = 1, sum = 1, product = a;
  do {
    FASTDL_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      n += 1;
      power *= x;
      sum = sum * n + power;
      product *= n;
    }
  } while (power > error * sum);
  return sum / product;
}

// Q's continued fraction for x >= a + 1, with one division every few steps.
__device__ __forceinline__ double upper_fraction(double a, double x, double error) {
  double b = x + 1 - a, top = 1, bottom = b, top_before = 0, bottom_before = 1, fraction = 0, last, n = 0;
  do {
    FASTDL_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      n += 1;
      b += 2;
      const double step = n * (a - n);
      const double next = b * top + step * top_before, next_bottom = b * bottom + step * bottom_before;
      top_before = top, bottom_before = bottom, top = next, bottom = next_bottom;
    }
    const double inverse = 1 / bottom;
    last = fraction;
    fraction = top * inverse;
    top = fraction, bottom = 1, top_before *= inverse, bottom_before *= inverse;
  } while (n < 2000 && std::fabs(fraction - last) > std::fmax(error, 1e-15) * fraction);
  return fraction;
}

// P(a, x), or Q = 1 - P, to a relative error of `error` (W. Gautschi, "A computational procedure for
// incomplete gamma functions", 1979). Large a, which would take too many steps, are integrated.
__device__ __forceinline__ double incomplete_gamma(double a, double x, bool upper, double error) {
  const double bottom = upper ? 1 : 0, top = 1 - bottom;
  if (a < 0 || x < 0) return not_a_number();
  // As in PyTorch where the other number is NaN
  if (a == 0) return x > 0 ? top : not_a_number();
  if (x == 0) return bottom;
  if (a == infinity<double>()) return x == a ? not_a_number() : bottom;
  if (x == infinity<double>()) return top;
  if (a != a || x != x) return not_a_number();
  if (a >= 1e30) return x == a ? 0.5 : x < a ? bottom : top;  // no number lies between
  if (a >= 30) return x < 1e-14 * a ? bottom : integrated_gamma(a, x, upper);
  const bool low = x < a + 1;
  if (low && upper && a < 0.1) return upper_of_small(a, x);
  const double front = std::exp(a * std::log(x) - x - log_gamma(a));
  const double part = front * (low ? lower_series(a, x, error) : upper_fraction(a, std::fmin(x, 1e4), error));
  return low == upper ? 1 - part : part;
}

[[gnu::noinline]] __device__ double evaluate(SpecialPair op, double x, double y, bool single) {
  return op == SpecialPair::zeta ? zeta(x, y, single)
                                 : incomplete_gamma(x, y, op == SpecialPair::igammac, single ? 1e-10 : 1e-17);
}

template <class T>
struct SpecialPairOf {
  static constexpr int kPack = sizeof(T) == 2 ? 2 : 1;
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  SpecialPair of;

  __device__ __forceinline__ C operator()(C x, C y) const { return C(evaluate(of, x, y, sizeof(C) == 4)); }
};

}  // namespace

void special_pair(SpecialPair op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
                  const Strided& y, Stream stream) {
  by_dtype(dtype,
           [&]<class T>(T) { map<T, T, T>("special_pair", shape, SpecialPairOf<T>{op}, z, stream, x, y); });
}

}  // namespace fastdl::cuda

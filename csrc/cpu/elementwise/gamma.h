// Functions of two numbers around the gamma function, on Vec<double>: Hurwitz' zeta function and the regularised
// incomplete gamma functions. Their sums stop where no lane has more to add.
#pragma once

#include "cpu/elementwise/special.h"

namespace fastdl::simd {
namespace special {

[[gnu::always_inline]] inline D floor_of(D x) {
  return per_lane<double>([](double v) { return std::floor(v); }, x);
}

// y^-s
[[gnu::noinline]] inline D reciprocal_power(D y, D s, bool single) {
  if (!single) return power<double>(y, -s);
  return y == 1.0 ? y : exp<double>(-s * log<double>(y));
}

// The sum over k >= 0 of (q + k)^-s for q > 0, s > 1: terms one by one until q + k is 24 (10 where `single`
// precision will do) and s at least, or they no longer count, then Euler and Maclaurin's formula for the rest.
[[gnu::noinline]] inline D zeta_of_positive(D s, D q, bool single) {
  const D enough = max(broadcast<double>(single ? 10 : 24), s);
  D total{}, y = q;
  auto going = y < enough, ended = y < y;
  while (any(going)) {
    const D term = reciprocal_power(y, s, single);
    total = going ? total + term : total;
    y = going ? y + 1.0 : y;
    ended |= going & ~(term > 1e-18 * total);
    going = (y < enough) & ~ended;
  }
  const D t = reciprocal_power(y, s, single), v = 1.0 / (y * y);
  D rest = t * y / (s - 1.0) + 0.5 * t;
  D factor = 0.5 * s * t / y;  // s (s + 1) ... (s + 2j - 2) y^(-s - 2j + 1) / (2j)!
  double j = 1;
  for (const double bernoulli : {1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6,
                                 -3617.0 / 510, 43867.0 / 798, -174611.0 / 330}) {
    rest += bernoulli * factor;
    factor *= (s + (2 * j - 1)) * (s + 2 * j) * (v * (1 / ((2 * j + 1) * (2 * j + 2))));
    ++j;
  }
  return ended ? total : total + rest;
}

// Infinite at s = 1 and the poles q = 0, -1, ...; NaN for s < 1, and for other q < 0 unless s is an integer:
// then the terms below zero are those of two positive arguments.
[[gnu::noinline]] inline D zeta(D s0, D q, bool single) {
  const D below = floor_of(q), above = below + 1.0;
  const auto negative = q < 0.0;
  const auto usual = ~(s0 <= 1.0);
  const D s = usual ? s0 : broadcast<double>(2);
  D y = zeta_of_positive(s, negative ? q - below : q, single);
  if (any(negative)) {
    const D others = zeta_of_positive(s, negative ? above - q : q, single) -
                     zeta_of_positive(s, negative ? 1.0 - q : q, single);
    y = negative ? (floor_of(0.5 * s) == 0.5 * s ? y + others : y - others) : y;
    y = negative & (floor_of(s) != s) ? broadcast<double>(kNan) : y;
  }
  y = (q <= 0.0) & (q == below) ? broadcast<double>(kInf) : y;
  const D edge = s0 == 1.0 ? broadcast<double>(kInf) : broadcast<double>(kNan);
  return usual ? y : edge;
}

// P(a, x) and Q = 1 - P for 30 <= a, the smaller one by Gauss and Legendre's rule. With t = a (1 + u),
// t^(a-1) e^-t / gamma(a) dt = sqrt(a / 2 pi) / g(a) e^(a (log(1+u) - u)) / (1+u) du, where log g is Stirling's
// series. From u = x / a - 1 outward, until the integrand has fallen by e^-40.
[[gnu::noinline]] inline D integrated_gamma(D a, D x, bool upper) {
  constexpr double nodes[20] = {
      0.038772417506050816, 0.11608407067525521, 0.1926975807013711, 0.2681521850072537, 0.3419940908257585,
      0.413779204371605,    0.4830758016861787,  0.5494671250951282, 0.6125538896679802, 0.6719566846141796,
      0.7273182551899271,   0.7783056514265194,  0.8246122308333117, 0.8659595032122595, 0.9020988069688742,
      0.9328128082786765,   0.9579168192137917,  0.9772599499837743, 0.990726238699457,  0.9982377097105591};
  constexpr double weights[20] = {
      0.07750594797842451,  0.07703981816424763,  0.07611036190062598,  0.07472316905796794,
      0.07288658239580377,  0.07061164739128656,  0.06791204581523368,  0.06480401345660076,
      0.061306242492928834, 0.05743976909939129,  0.0532278469839367,   0.04869580763507193,
      0.04387090818567321,  0.03878216797447219,  0.03346019528254789,  0.027937006980023434,
      0.022245849194166653, 0.016421058381906828, 0.010498284531153814, 0.004521277098536349};
  const D start = (x - a) / a;
  const auto right = start >= 0.0;
  // a (log(1+u) - u) has the slope -a u / (1+u) and the curvature -a / (1+u)^2, least where u is greatest.
  const D slope = a * abs<double>(start) / (1.0 + start);
  const D reach = 1.0 + start + (right ? 1.5 * square_root<double>(80.0 / a) : D{});
  D width = 80.0 / (slope + square_root<double>(slope * slope + 80.0 * a / (reach * reach)));
  width = right ? width : min(width, 1.0 + start);
  const D outward = right ? 0.5 * width : -0.5 * width, middle = start + outward;
  D total{};
  for (int i = 0; i < 20; ++i)
    for (const double node : {-nodes[i], nodes[i]}) {
      const D u = middle + outward * node;
      // log(1 + u) - u, which cancels beside 0
      const D series = u * u * horner(u, -1.0 / 2, 1.0 / 3, -1.0 / 4, 1.0 / 5, -1.0 / 6, 1.0 / 7);
      const D exponent = abs<double>(u) < 1e-3 ? series : log1p<double>(u) - u;
      total += weights[i] * (exp<double>(a * exponent) / (1.0 + u));
    }
  const D r = 1.0 / (a * a);
  const D stirling = horner(r, 1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188) / a;
  const D tail = min(0.5 * width * total * square_root<double>(a * (0.5 / M_PI)) * exp<double>(-stirling),
                     broadcast<double>(1));
  return (upper ? right : ~right) ? tail : 1.0 - tail;
}

// Q for a < 0.1 and x < a + 1, where it is far below 1: 1 - e^t (1 + a s) with t = log(x^a / gamma(1 + a)) and s the
// sum over n > 0 of (-x)^n / (n! (a + n)).
[[gnu::noinline]] inline D upper_of_small(D a, D x) {
  D power = broadcast<double>(1), sum{};
  for (int n = 1; n <= 18; ++n) {
    power *= x * (-1.0 / n);
    sum += power / (a + double(n));
  }
  const D series =
      horner(a, 0.57721566490153286, -0.82246703342411322, 0.40068563438653143, -0.27058080842778455,
             0.20738555102867399, -0.16955717699740819, 0.14404989676884612, -0.12550966952474304,
             0.11133426586956469, -0.10009945751278181, 0.090954017145829042, -0.083353840546109004,
             0.076932516411352191, -0.071432946295361336, 0.066668705882420468);
  const D t = a * (log<double>(x) + series);
  return -expm1<double>(t) - exp<double>(t) * (a * sum);
}

// P(a, x), or Q = 1 - P: P's power series for x < a + 1, Q's continued fraction beyond (W. Gautschi, "A
// computational procedure for incomplete gamma functions", 1979), both without divisions but one every few
// steps, to a relative error of `error`. Large a, which would take too many steps, are integrated.
[[gnu::noinline]] inline D incomplete_gamma(D a, D x, bool upper, double error) {
  constexpr int kSteps = 8;
  const auto valid = (a >= 0.0) & (x >= 0.0);
  const auto large = (a >= 30.0) & (a < kInf) & (x > 0.0) & (x < kInf);
  const auto low = valid & ~large & (x < a + 1.0) & (a > 0.0) & (a < kInf),
             high = valid & ~large & (x >= a + 1.0) & (x < kInf);
  D y{};
  if (any(low | high)) {
    const D front = exp<double>(a * log<double>(x) - x - lgamma(a));
    if (any(low)) {  // the sum of x^k / ((a + 1) ... (a + k)) as one fraction
      const D z = low ? x : D{};
      D n = low ? a : broadcast<double>(1), power = broadcast<double>(1), sum = power, product = n;
      do {
        for (int k = 0; k < kSteps; ++k) {
          n += 1.0;
          power *= z;
          sum = sum * n + power;
          product *= n;
        }
      } while (any(power > error * sum));
      const D p = front * (sum / product);
      y = low ? (upper ? 1.0 - p : p) : y;
      if (const auto small = low & (a < 0.1); upper && any(small)) {
        const D q = upper_of_small(small ? a : broadcast<double>(0.05), small ? x : broadcast<double>(1));
        y = small ? q : y;
      }
    }
    if (any(high)) {
      const D z = high ? min(broadcast<double>(1e4), x) : broadcast<double>(2);  // beyond, e^-x is 0
      const D c = high ? a : D{};
      D b = z + 1.0 - c, top = broadcast<double>(1), bottom = b;
      D top_before{}, bottom_before = broadcast<double>(1), fraction{}, last, n{};
      do {
        for (int k = 0; k < kSteps; ++k) {
          n += 1.0;
          b += 2.0;
          const D step = n * (c - n);
          const D next = b * top + step * top_before, next_bottom = b * bottom + step * bottom_before;
          top_before = top, bottom_before = bottom, top = next, bottom = next_bottom;
        }
        const D inverse = 1.0 / bottom;
        last = fraction;
        fraction = top * inverse;
        top = fraction, bottom = broadcast<double>(1), top_before *= inverse, bottom_before *= inverse;
      } while (n[0] < 2000 && any(abs<double>(fraction - last) > (error < 1e-15 ? 1e-15 : error) * fraction));
      const D q = front * fraction;
      y = high ? (upper ? q : 1.0 - q) : y;
    }
  }
  if (any(large)) {
    const D integral =
        integrated_gamma(large ? a : broadcast<double>(30), large ? x : broadcast<double>(30), upper);
    y = large ? integral : y;
  }
  const D bottom = broadcast<double>(upper ? 1 : 0), top = 1.0 - bottom, nan = broadcast<double>(kNan);
  y = a >= 1e30 ? (x == a ? broadcast<double>(0.5) : x < a ? bottom : top) : y;  // no number lies between
  y = large & (x < 1e-14 * a) ? bottom : y;
  y = valid ? y : nan;
  y = x == kInf ? top : y;
  y = a == kInf ? (x == kInf ? nan : bottom) : y;
  y = x == 0.0 ? bottom : y;
  y = a == 0.0 ? (x > 0.0 ? top : nan) : y;
  return (a < 0.0) | (x < 0.0) ? nan : y;
}

}  // namespace special
}  // namespace fastdl::simd

// x op y with broadcasting, and the gradients of the products, quotients and extrema that need one pass of
// their own.
//
//   forward     out = x op y                                          two reads, one write
//   mul         grad_x = grad y, grad_y = grad x                      three reads, two writes
//   div         grad_x = grad / y, grad_y = -grad_x z, z = x / y
//   logaddexp   grad_x = grad s, grad_y = grad (1 - s), s = sigmoid(x - y), 1/2 where x = y
//   maximum     grad_x = grad where x > y, half of it on ties, else 0; grad_y likewise; NaN on either side:
//               grad to both
//   remainder   Python's: the sign of y; fmod: C's, the sign of x; floor_divide: floor of the exact quotient
//
// Nothing is saved here; Python keeps what backward needs. Work: ranges of the flattened space (loop.h).
#include <cmath>
#include <type_traits>

#include "cpu/elementwise/functions.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

template <class T>
[[gnu::always_inline]] inline Vec<T> floor_remainder(Vec<T> x, Vec<T> y) {
  const Vec<T> r = truncated_remainder<T>(x, y);
  return (r != T(0)) & ((y < T(0)) != (r < T(0))) ? r + y : r;
}

// The quotient of x minus its remainder, rounded to the integer that it is but for rounding; division by zero
// as IEEE.
template <class T>
[[gnu::always_inline]] inline Vec<T> floor_quotient(Vec<T> x, Vec<T> y) {
  using V = Vec<T>;
  const V r = truncated_remainder<T>(x, y), plain = x / y;
  V q = (x - r) / y;
  q = (r != T(0)) & ((y < T(0)) != (r < T(0))) ? q - T(1) : q;
  const V floored = per_lane<T>([](T v) { return std::floor(v); }, q);
  V result = q - floored > T(0.5) ? floored + T(1) : floored;
  result = q == T(0) ? copysign<T>(V{}, plain) : result;
  return y == T(0) ? plain : result;
}

template <class T>
[[gnu::always_inline]] inline Vec<T> hypotenuse(Vec<T> x, Vec<T> y) {
  if constexpr (sizeof(T) == 4) {
    const Vec<T> root =
        in_double([](Vec<double> a, Vec<double> b) { return square_root<double>(a * a + b * b); }, x, y);
    constexpr T inf = std::numeric_limits<T>::infinity();  // beats NaN
    return (abs<T>(x) == inf) | (abs<T>(y) == inf) ? broadcast<T>(inf) : root;
  } else {
    // Squares neither overflow nor lose their last places.
    const Vec<T> a = abs<T>(x), b = abs<T>(y), most = max(a, b);
    if (!any(~((a < T(1e150)) & (b < T(1e150)) & ((most > T(1e-140)) | (most == T(0))))))
      return square_root<T>(a * a + b * b);
    return per_lane_call<T>([](T a, T b) { return std::hypot(a, b); }, x, y);
  }
}

// max + log(1 + exp(-|x - y|)); infinities of one sign are their own result.
template <class T>
[[gnu::always_inline]] inline Vec<T> log_of_sum(Vec<T> x, Vec<T> y) {
  const Vec<T> result = max(x, y) + simd::log1p<T>(simd::exp<T>(-abs<T>(x - y)));
  return (x == y) & (abs<T>(x) == std::numeric_limits<T>::infinity()) ? x : result;
}

// One step of the integers that order numbers as their values do; from zero to the smallest number of y's
// sign.
template <class T>
[[gnu::always_inline]] inline Vec<T> next_after(Vec<T> x, Vec<T> y) {
  using I = Vec<Int<T>>;
  using U = Vec<std::make_unsigned_t<Int<T>>>;
  constexpr Int<T> magnitude = std::numeric_limits<Int<T>>::max(), sign = std::numeric_limits<Int<T>>::min();
  constexpr int top = 8 * int(sizeof(T)) - 1;
  const I a = (I)x, b = (I)y;
  const I x_order = a ^ ((a >> top) & magnitude), y_order = b ^ ((b >> top) & magnitude);
  const I away = (I)(x_order < y_order) ^ (a >> top);  // -1 where the magnitude grows
  const I step = away | 1;                             // -1 or 1
  const I stepped = (I)((U)a - (U)step);               // -0 and NaN, for which this is not taken, wrap
  const I from_zero = (b & sign) | 1;
  const I moved = (a & magnitude) == 0 ? from_zero : stepped;
  const I same = (I)(a == b) | (I)(((a | b) & magnitude) == 0);
  const Vec<T> result = same != 0 ? y : (Vec<T>)moved;
  return (x != x) | (y != y) ? x + y : result;
}

// x times f(y); zero where x is, whatever f(y), unless y is NaN.
template <class V>
[[gnu::always_inline]] inline V product_with(V x, V y, V f) {
  const V product = x == 0 ? V{} : x * f;
  return y != y ? y : product;
}

// map for two outputs from three inputs: f(g, a, b, first, second).
template <class T, class F>
void map_two(const StridedLoop<5>& loop, F f) {
  for_each_run<2, T, T, T, T, T>(loop, kGrain / 2,
                                 [f](int64_t n, T* first, T* second, const T* g, const T* a, const T* b) {
                                   constexpr int w = kWidth<T>;
                                   int64_t i = 0;
                                   Vec<T> u, v;
                                   for (; i + w <= n; i += w) {
                                     f(load(g + i), load(a + i), load(b + i), u, v);
                                     store(first + i, u);
                                     store(second + i, v);
                                   }
                                   if (i < n) {
                                     const int rest = int(n - i);
                                     f(load_n(g + i, rest), load_n(a + i, rest), load_n(b + i, rest), u, v);
                                     store_n(first + i, u, rest);
                                     store_n(second + i, v, rest);
                                   }
                                 });
}

}  // namespace

template <class T>
void binary_forward(Binary op, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  switch (op) {
    case Binary::add:
      return map_beside<T>(loop, kGrain, [](V x, V y) { return x + y; });
    case Binary::sub:
      return map_beside<T>(loop, kGrain, [](V x, V y) { return x - y; });
    case Binary::mul:
      return map_beside<T>(loop, kGrain, [](V x, V y) { return x * y; });
    case Binary::div:
      return map_beside<T>(loop, kGrain, [](V x, V y) { return x / y; });
    case Binary::floor_divide:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return floor_quotient<T>(x, y); });
    case Binary::trunc_divide:
      return map<T>(loop, kGrain,
                    [](V x, V y) { return per_lane<T>([](T v) { return std::trunc(v); }, x / y); });
    case Binary::remainder:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return floor_remainder<T>(x, y); });
    case Binary::fmod:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return truncated_remainder<T>(x, y); });
    case Binary::pow:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return power<T>(x, y); });
    case Binary::maximum:  // simd::max returns y when x is NaN or y is: left to do is a NaN x
      return map<T>(loop, kGrain, [](V x, V y) { return nan_of(x, max(x, y)); });
    case Binary::minimum:
      return map<T>(loop, kGrain, [](V x, V y) { return nan_of(x, min(x, y)); });
    case Binary::atan2:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return angle<T>(x, y); });
    case Binary::hypot:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return hypotenuse<T>(x, y); });
    case Binary::logaddexp:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return log_of_sum<T>(x, y); });
    case Binary::copysign:
      return map<T>(loop, kGrain, [](V x, V y) { return simd::copysign<T>(x, y); });
    case Binary::nextafter:
      return map<T>(loop, kGrain, [](V x, V y) { return next_after<T>(x, y); });
    case Binary::fmax:
      return map<T>(loop, kGrain, [](V x, V y) { return (x >= y) | (y != y) ? x : y; });
    case Binary::fmin:
      return map<T>(loop, kGrain, [](V x, V y) { return (x <= y) | (y != y) ? x : y; });
    case Binary::xlogy:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return product_with(x, y, simd::log<T>(y)); });
    case Binary::xlog1py:
      return map<T, true>(loop, kGrainSlow, [](V x, V y) { return product_with(x, y, simd::log1p<T>(y)); });
    case Binary::heaviside:
      return map<T>(loop, kGrain, [](V x, V y) {
        const V step = x > T(0) ? broadcast<T>(1) : V{};
        return x == T(0) ? y : step;
      });
    case Binary::left_shift:
    case Binary::right_shift:
      return;
  }
}

template <class T>
void mul_backward(const StridedLoop<5>& loop) {
  using V = Vec<T>;
  map_two<T>(loop, [](V g, V x, V y, V& grad_x, V& grad_y) {
    grad_x = g * y;
    grad_y = g * x;
  });
}

template <class T>
void div_backward(const StridedLoop<5>& loop) {
  using V = Vec<T>;
  map_two<T>(loop, [](V g, V x, V y, V& grad_x, V& grad_y) {
    grad_x = g / y;
    grad_y = -grad_x * (x / y);
  });
}

template <class T>
void extremum_backward(int sign, const StridedLoop<5>& loop) {
  using V = Vec<T>;
  map_two<T>(loop, [s = T(sign)](V g, V x, V y, V& grad_x, V& grad_y) {
    const V a = s * x, b = s * y, shared = a == b ? T(0.5) * g : g;
    grad_x = a < b ? broadcast<T>(0) : shared;
    grad_y = a > b ? broadcast<T>(0) : shared;
  });
}

template <class T>
void logaddexp_backward(const StridedLoop<5>& loop) {
  using V = Vec<T>;
  map_two<T>(loop, [](V g, V x, V y, V& grad_x, V& grad_y) {
    const V share = x == y ? broadcast<T>(0.5) : simd::sigmoid<T>(x - y);
    grad_x = g * share;
    grad_y = g - grad_x;
  });
}

// x ** 0.5 or, inverse, x ** -0.5. sqrt(-0) is -0, (-0) ** 0.5 is 0; (-inf) ** 0.5 is inf.
template <class T>
[[gnu::always_inline]] inline Vec<T> root(Vec<T> x, bool inverse) {
  const Vec<T> plain = square_root<T>(x + T(0));
  const Vec<T> y = x == -std::numeric_limits<T>::infinity() ? -x : plain;
  return inverse ? T(1) / y : y;
}

// Exponents that people write are one or two multiplications, or a root; the rest takes power().
template <class T>
void pow_scalar_forward(T exponent, const StridedLoop<2>& loop) {
  using V = Vec<T>;
  if (exponent == T(2)) return map<T>(loop, kGrain, [](V x) { return x * x; });
  if (exponent == T(3)) return map<T>(loop, kGrain, [](V x) { return x * x * x; });
  if (exponent == T(-1)) return map<T>(loop, kGrain, [](V x) { return T(1) / x; });
  if (exponent == T(-2)) return map<T>(loop, kGrain, [](V x) { return T(1) / (x * x); });
  if (exponent == T(0.5) || exponent == T(-0.5))
    return map<T, true>(loop, kGrain, [inverse = exponent < T(0)](V x) { return root<T>(x, inverse); });
  map<T, true>(loop, kGrainSlow, [y = broadcast<T>(exponent)](V x) { return power<T>(x, y); });
}

template <class T>
void pow_scalar_backward(T exponent, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  if (exponent == T(0)) return map<T>(loop, kGrain, [](V, V) { return broadcast<T>(0); });
  if (exponent == T(2)) return map<T>(loop, kGrain, [](V g, V x) { return g * (T(2) * x); });
  if (exponent == T(3)) return map<T>(loop, kGrain, [](V g, V x) { return g * (T(3) * (x * x)); });
  if (exponent == T(-1)) return map<T>(loop, kGrain, [](V g, V x) { return g * (T(-1) / (x * x)); });
  map<T, true>(loop, kGrainSlow, [exponent, e = broadcast<T>(exponent - 1)](V g, V x) {
    return g * (exponent * (exponent == T(0.5) ? root<T>(x, true) : power<T>(x, e)));
  });
}

#define FASTDL_INSTANTIATE(T)                                     \
  template void binary_forward<T>(Binary, const StridedLoop<3>&); \
  template void mul_backward<T>(const StridedLoop<5>&);           \
  template void div_backward<T>(const StridedLoop<5>&);           \
  template void extremum_backward<T>(int, const StridedLoop<5>&); \
  template void logaddexp_backward<T>(const StridedLoop<5>&);     \
  template void pow_scalar_forward<T>(T, const StridedLoop<2>&);  \
  template void pow_scalar_backward<T>(T, const StridedLoop<3>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

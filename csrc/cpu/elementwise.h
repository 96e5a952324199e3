// Arithmetic on strided, broadcast arrays; the kernels are in elementwise/.
//
// A call describes its operands in a StridedLoop: one iteration space, and for each operand (outputs first) a
// pointer and one byte stride per axis, 0 where it is broadcast. add_axis drops axes of one element and
// merges axes that every operand walks as one, so that two contiguous arrays of any rank arrive as a single
// axis.
//
// An output may be the very memory of an input (same pointer, same strides); any other overlap is the
// caller's to remove.
//
// An operand of a kernel on floats may be stored in half precision: the walk converts it, block by block.
#pragma once

#include <cstdint>

#include "cpu/half.h"

namespace fastdl {

template <int N>
struct StridedLoop {
  static constexpr int kMaxAxes = 64;  // NumPy's limit
  int axes = 0;
  int64_t size = 1;
  int64_t extent[kMaxAxes];     // innermost axis first
  int64_t stride[kMaxAxes][N];  // bytes
  char* data[N];
  Half half[N];

  // Appends the next axis further out.
  void add_axis(int64_t n, const int64_t (&strides)[N]) {
    size *= n;
    if (n == 1) return;
    if (axes > 0) {
      bool mergeable = true;
      for (int i = 0; i < N; ++i) mergeable &= strides[i] == stride[axes - 1][i] * extent[axes - 1];
      if (mergeable) {
        extent[axes - 1] *= n;
        return;
      }
    }
    extent[axes] = n;
    for (int i = 0; i < N; ++i) stride[axes][i] = strides[i];
    ++axes;
  }
};

enum class Binary {
  add,
  sub,
  mul,
  div,
  floor_divide,
  trunc_divide,
  remainder,
  fmod,
  pow,
  maximum,
  minimum,
  atan2,
  hypot,
  logaddexp,  // log(exp(x) + exp(y))
  copysign,
  nextafter,
  fmax,  // of a number and NaN the number
  fmin,
  xlogy,       // x log(y); 0 where x is 0 and y no NaN
  xlog1py,     // x log(1 + y), likewise
  heaviside,   // 0 below zero and for NaN, y at zero, 1 above
  left_shift,  // of integers alone, as those of Bitwise
  right_shift
};
enum class Compare { eq, ne, lt, le, gt, ge };
enum class Bitwise { conjunction, disjunction, difference };  // and, or, xor
enum class Integer { int8, uint8, int16, int32, int64 };
enum class Unary {
  neg,
  abs,
  sign,
  floor,
  ceil,
  round,
  trunc,
  frac,
  square,
  sqrt,
  rsqrt,
  reciprocal,
  exp,
  expm1,
  log,
  log1p,
  log2,
  log10,
  sin,
  cos,
  tan,
  asin,
  acos,
  atan,
  sinh,
  cosh,
  asinh,
  acosh,
  atanh,
  erf,
  exp2,
  logit,
  angle
};
enum class Special {
  lgamma,
  digamma,
  trigamma,
  erfc,
  erfcx,
  erfinv,
  ndtr,
  log_ndtr,
  ndtri,
  i0,
  i0e,
  i1,
  i1e,
  entr,
  sinc
};
enum class SpecialPair { igamma, igammac, zeta };

// Complex numbers in single precision, eight bytes an element, and real ones: see elementwise/complex.cpp.
enum class Complex { add, sub, multiply, multiply_conjugate, divide, scale, shrink, join };
void complex_forward(Complex op, const StridedLoop<3>& loop);
void complex_conjugate(const StridedLoop<2>& loop);
// x (or its conjugate) and i times that
void complex_rows(bool conjugate, const StridedLoop<3>& loop);
// out = x op y
template <class T>
void binary_forward(Binary op, const StridedLoop<3>& loop);
// The same for integers, for some operations. Overflow wraps around, division by zero gives zero, and a shift
// by a negative number or by all bits and more leaves zeros, or the sign to the right.
constexpr bool has_floats(Binary op) {
  return op != Binary::left_shift && op != Binary::right_shift;
}
constexpr bool has_integers(Binary op) {
  return !has_floats(op) || op == Binary::add || op == Binary::sub || op == Binary::mul ||
         op == Binary::floor_divide || op == Binary::trunc_divide || op == Binary::remainder ||
         op == Binary::fmod || op == Binary::maximum || op == Binary::minimum;
}
void integer_forward(Integer type, Binary op, const StridedLoop<3>& loop);
// out = product ? x * y : x + factor * y, of numbers in half precision as they are stored: to the walk they are
// elements of two bytes (no `half` is set in the loop). False, and nothing is done, at a level without instructions
// for that.
bool half_arithmetic(Half half, bool product, float factor, const StridedLoop<3>& loop);
// out = x op y ? 1 : 0, one byte each
template <class T>
void compare(Compare op, const StridedLoop<3>& loop);
void integer_compare(Integer type, Compare op, const StridedLoop<3>& loop);
// out = x op y, bit by bit, of elements of so many bytes; bools are bytes 0 and 1
void bitwise_forward(int64_t bytes, Bitwise op, const StridedLoop<3>& loop);
// out = f(x)
template <class T>
void unary_forward(Unary op, const StridedLoop<2>& loop);
// grad_x = grad_y * f'(x); the third operand is what that needs: x, or the output y (see unary.cpp)
template <class T>
void unary_backward(Unary op, const StridedLoop<3>& loop);
// out = f(x), without a backward kernel
template <class T>
void special_forward(Special function, const StridedLoop<2>& loop);
template <class T>
void special_forward(SpecialPair function, const StridedLoop<3>& loop);

// grad_x, grad_y from grad, x, y
template <class T>
void mul_backward(const StridedLoop<5>& loop);
// grad_x, grad_y from grad, y, z = x / y
template <class T>
void div_backward(const StridedLoop<5>& loop);
// grad_x, grad_y from grad, x, y, for maximum (sign = 1) and minimum (sign = -1): a tie shares the gradient
// equally
template <class T>
void extremum_backward(int sign, const StridedLoop<5>& loop);
// grad_x, grad_y from grad, x, y, of logaddexp
template <class T>
void logaddexp_backward(const StridedLoop<5>& loop);
// out = x ** exponent, and its gradient from grad, x
template <class T>
void pow_scalar_forward(T exponent, const StridedLoop<2>& loop);
template <class T>
void pow_scalar_backward(T exponent, const StridedLoop<3>& loop);
// out = min(max(x, lower), upper); the gradient, from grad, x, passes where lower <= x <= upper
template <class T>
void clamp_forward(T lower, T upper, const StridedLoop<2>& loop);
void integer_abs(Integer type, const StridedLoop<2>& loop);
void integer_clamp(Integer type, int64_t lower, int64_t upper, const StridedLoop<2>& loop);
template <class T>
void clamp_backward(T lower, T upper, const StridedLoop<3>& loop);
// out = condition ? x : y from condition (bytes), x, y; of any dtype by its bits
template <class T>
void where_forward(const StridedLoop<4>& loop);
void where_of_bytes(int64_t bytes, const StridedLoop<4>& loop);
// grad_x, grad_y from condition, grad
template <class T>
void where_backward(const StridedLoop<4>& loop);
// out = x + value * y * z, out = x + value * y / z, out = x + z * (y - x)
template <class T>
void addcmul_forward(T value, const StridedLoop<4>& loop);
template <class T>
void addcdiv_forward(T value, const StridedLoop<4>& loop);
template <class T>
void lerp_forward(const StridedLoop<4>& loop);

}  // namespace fastdl

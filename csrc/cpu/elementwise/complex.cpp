// Arithmetic of complex numbers in single precision.
//
//   sum, difference, product    z = x op y; a product also with conj(y), for gradients
//   quotient                    z = x conj(y) / |y|^2, in double, where no square overflows
//   scale, shrink               z = x y and x / y with a real y
//   join                        z = x + i y of two real numbers
//   conjugate                   z = conj(x)
//   rows                        x and i x: the two rows of a real matrix that multiply interleaved pairs as x does
//
// The walk carries a number as eight bytes (a double it never computes with), so that broadcasting, strides
// and threads are those of every elementwise kernel. One pass. (Complex numbers of 16 bytes and functions of
// complex numbers go by NumPy, or by the real kernels.)
#include <cfloat>

#include "cpu/elementwise.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

// z[i] = f(x[i], y[i]) for numbers of X and Y floats; f gets pointers.
template <int kX, int kY, class F>
void for_pairs(const StridedLoop<3>& loop, F f) {
  using X = std::conditional_t<kX == 2, double, float>;
  using Y = std::conditional_t<kY == 2, double, float>;
  for_each_run<1, double, X, Y>(loop, kGrain / 2, [f](int64_t n, double* out, const X* left, const Y* right) {
    auto* z = reinterpret_cast<float*>(out);
    const auto* x = reinterpret_cast<const float*>(left);
    const auto* y = reinterpret_cast<const float*>(right);
#pragma GCC ivdep  // z is the memory of an input or apart from it
    for (int64_t i = 0; i < n; ++i) f(z + 2 * i, x + kX * i, y + kY * i);
  });
}

void divide(float* z, const float* x, const float* y) {
  const double a = x[0], b = x[1], square = double(y[0]) * y[0] + double(y[1]) * y[1];
  // By zero as by a real zero; by infinity (or NaN) zero (or NaN).
  const bool none = square == 0, far = !(square <= DBL_MAX);
  const double zero = far ? 0.0 : double(none);
  const double c = none || far ? zero : double(y[0]), d = none || far ? 0.0 : double(y[1]);
  const double by = 1 / square;
  z[0] = float((a * c + b * d) * by);
  z[1] = float((b * c - a * d) * by);
}

}  // namespace

void complex_forward(Complex op, const StridedLoop<3>& loop) {
  using P = const float*;
  switch (op) {
    case Complex::add:
      return for_pairs<2, 2>(loop, [](float* z, P x, P y) {
        const float a = x[0] + y[0], b = x[1] + y[1];
        z[0] = a, z[1] = b;
      });
    case Complex::sub:
      return for_pairs<2, 2>(loop, [](float* z, P x, P y) {
        const float a = x[0] - y[0], b = x[1] - y[1];
        z[0] = a, z[1] = b;
      });
    case Complex::multiply:
      return for_pairs<2, 2>(loop, [](float* z, P x, P y) {
        const float a = x[0] * y[0] - x[1] * y[1], b = x[1] * y[0] + x[0] * y[1];
        z[0] = a, z[1] = b;
      });
    case Complex::multiply_conjugate:
      return for_pairs<2, 2>(loop, [](float* z, P x, P y) {
        const float a = x[0] * y[0] + x[1] * y[1], b = x[1] * y[0] - x[0] * y[1];
        z[0] = a, z[1] = b;
      });
    case Complex::divide:
      return for_pairs<2, 2>(loop, divide);
    case Complex::scale:
      return for_pairs<2, 1>(loop, [](float* z, P x, P y) {
        const float a = x[0] * y[0], b = x[1] * y[0];
        z[0] = a, z[1] = b;
      });
    case Complex::shrink:
      return for_pairs<2, 1>(loop, [](float* z, P x, P y) {
        const float a = x[0] / y[0], b = x[1] / y[0];
        z[0] = a, z[1] = b;
      });
    case Complex::join:
      return for_pairs<1, 1>(loop, [](float* z, P x, P y) {
        const float a = x[0], b = y[0];
        z[0] = a, z[1] = b;
      });
  }
}

void complex_conjugate(const StridedLoop<2>& loop) {
  for_each_run<1, uint64_t, uint64_t>(loop, kGrain / 2, [](int64_t n, uint64_t* z, const uint64_t* x) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) z[i] = x[i] ^ (uint64_t(1) << 63);
  });
}

void complex_rows(bool conjugate, const StridedLoop<3>& loop) {
  const uint64_t flip = uint64_t(conjugate) << 63;
  for_each_run<2, uint64_t, uint64_t, uint64_t>(
      loop, kGrain / 2, [flip](int64_t n, uint64_t* z, uint64_t* turned, const uint64_t* x) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
          const uint64_t pair = x[i] ^ flip;
          z[i] = pair;
          turned[i] = ((pair << 32) | (pair >> 32)) ^ (uint64_t(1) << 31);  // (-im, re)
        }
      });
}

}  // namespace fastdl

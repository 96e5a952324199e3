// Products of complex numbers in single precision: z = x y, and z = x conj(y) for gradients.
//
//   re z = re x re y - im x im y      im z = im x re y + re x im y      (conj: with -im y)
//
// The walk carries a number as eight bytes (a double it never computes with), so that broadcasting, strides
// and threads are those of every elementwise kernel. One pass: two reads, one write. (Complex numbers of 16
// bytes and all other functions of complex numbers go by NumPy.)
#include "cpu/elementwise.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

template <bool kConjugate>
void multiply(int64_t n, float* z, const float* x, const float* y) {
#pragma GCC ivdep  // z is the memory of an input or apart from it
  for (int64_t i = 0; i < 2 * n; i += 2) {
    const float a = x[i], b = x[i + 1], c = y[i], d = kConjugate ? -y[i + 1] : y[i + 1];
    z[i] = a * c - b * d;
    z[i + 1] = b * c + a * d;
  }
}

}  // namespace

void complex_multiply(const StridedLoop<3>& loop, bool conjugate) {
  for_each_run<1, double, double, double>(
      loop, kGrain / 2, [conjugate](int64_t n, double* z, const double* x, const double* y) {
        (conjugate ? multiply<true> : multiply<false>)(n, reinterpret_cast<float*>(z),
                                                       reinterpret_cast<const float*>(x),
                                                       reinterpret_cast<const float*>(y));
      });
}

}  // namespace fastdl

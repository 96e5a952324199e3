// GLU halves an axis: x = (a, b), y = a s with s = sigmoid(b); grad_a = g s, grad_b = g a s (1 - s).
//
// Saved: x. The halves are operands with strides, so the walk of elementwise kernels (elementwise/loop.h) takes any axis,
// layout and storage. Passes: one read, one write forward (of half of the elements); two reads, one write backward.
#include "cpu/activation/activation.h"
#include "cpu/elementwise/loop.h"
#include "cpu/simd/for_vectors.h"
#include "cpu/simd/math.h"

namespace fastdl {

template <class T>
void glu_forward(const StridedLoop<3>& loop) {
  map<T, true>(loop, kGrain, [](Vec<T> a, Vec<T> b) { return a * sigmoid<T>(b); });
}

template <class T>
void glu_backward(const StridedLoop<5>& loop) {
  for_each_run<2, T, T, T, T, T>(
      loop, kGrain, [](int64_t n, T* grad_a, T* grad_b, const T* g, const T* a, const T* b) {
        for_vectors<T>(n, [&](int64_t i, auto lanes) {
          const Vec<T> s = sigmoid<T>(get(b + i, lanes)), slope = get(g + i, lanes) * s;
          const Vec<T> other = slope * (T(1) - s) * get(a + i, lanes);
          put(grad_a + i, slope, lanes);
          put(grad_b + i, other, lanes);
        });
      });
}

template void glu_forward<float>(const StridedLoop<3>&);
template void glu_forward<double>(const StridedLoop<3>&);
template void glu_backward<float>(const StridedLoop<5>&);
template void glu_backward<double>(const StridedLoop<5>&);

}  // namespace fastdl

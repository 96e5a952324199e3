// Activation functions: y = f(x) elementwise, and grad_x = grad_y * f'(x).
//
//   relu      y = max(x, 0)                 saved: y           grad_x = y > 0 ? grad_y : 0
//
// Work: ranges of elements over threads. Passes: one read and one write forward, two reads and one write backward.
#include "cpu/activation.h"

#include "cpu/runtime/threads.h"
#include "cpu/simd/math.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 16384;  // elements worth about 10 us at memory speed

// y[i] = f(a[i]...) for one to three arrays, vector body and masked tail.
template <class T, class F, class... In>
void map(T* y, int64_t n, F f, const In*... in) {
  parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
    constexpr int w = kWidth<T>;
    int64_t i = begin;
    for (; i + w <= end; i += w) store<T>(y + i, f(load(in + i)...));
    if (i < end) store_n(y + i, f(load_n(in + i, int(end - i))...), int(end - i));
  });
}

}  // namespace

template <class T>
void relu_forward(T* y, const T* x, int64_t n) {
  // min/max return the second operand on NaN: NaN passes through, as in PyTorch.
  map(y, n, [](Vec<T> v) { return max(broadcast<T>(0), v); }, x);
}

template <class T>
void relu_backward(T* grad_x, const T* grad_y, const T* y, int64_t n) {
  map(grad_x, n, [](Vec<T> g, Vec<T> v) { return v > T(0) ? g : broadcast<T>(0); }, grad_y, y);
}

#define FASTDL_INSTANTIATE(T)                            \
  template void relu_forward<T>(T*, const T*, int64_t); \
  template void relu_backward<T>(T*, const T*, const T*, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

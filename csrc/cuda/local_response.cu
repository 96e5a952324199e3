// Local response normalisation: d = k + alpha / size * sum of x^2 over a window of channels, y = x d^-beta.
// A thread has an element and reads the window's others, which come from the caches; the gradient needs d of
// all of them, so a first launch keeps it.
#include <algorithm>

#include "cuda/norm.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

template <class T>
__device__ __forceinline__ Compute<T> local_d(const T* x, const LocalResponse& p, int64_t i) {
  using C = Compute<T>;
  const int64_t c = i / p.inner % p.channels;
  const int64_t first = std::max<int64_t>(0, c - p.size / 2),
                last = std::min(p.channels - 1, c + (p.size - 1) / 2);
  C sum = 0;
  for (int64_t q = first; q <= last; ++q) {
    const C v = C(widen(x[i + (q - c) * p.inner]));
    sum += v * v;
  }
  return C(p.k) + C(p.alpha / double(p.size)) * sum;
}
// d != null: only d
template <class T>
__global__ void __launch_bounds__(256)
    local_response(T* y, Compute<T>* d, const T* x, LocalResponse p, int64_t size) {
  using C = Compute<T>;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < size; i += int64_t(gridDim.x) * 256) {
    const C value = local_d(x, p, i);
    if (d != nullptr)
      d[i] = value;
    else
      y[i] = narrow<T>(C(widen(x[i])) * std::pow(value, C(-p.beta)));
  }
}
template <class T>
__global__ void __launch_bounds__(256)
    local_response_grad(T* grad_x, const T* grad_y, const T* x, const Compute<T>* d, LocalResponse p,
                        int64_t size) {
  using C = Compute<T>;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < size; i += int64_t(gridDim.x) * 256) {
    const int64_t c = i / p.inner % p.channels;
    const int64_t first = std::max<int64_t>(0, c - (p.size - 1) / 2),
                  last = std::min(p.channels - 1, c + p.size / 2);
    C sum = 0;
    for (int64_t q = first; q <= last; ++q) {
      const int64_t at = i + (q - c) * p.inner;
      sum += C(widen(grad_y[at])) * C(widen(x[at])) * std::pow(d[at], C(-p.beta - 1));
    }
    grad_x[i] = narrow<T>(C(widen(grad_y[i])) * std::pow(d[i], C(-p.beta)) -
                          C(2 * p.alpha * p.beta / double(p.size)) * C(widen(x[i])) * sum);
  }
}
}  // namespace

void local_response_forward(Dtype dtype, void* y, const void* x, const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("local_response_norm", local_response<T>, dim3(grid_for(size, 256)), dim3(256), 0, stream,
           static_cast<T*>(y), static_cast<Compute<T>*>(nullptr), static_cast<const T*>(x), p, size);
  });
}

void local_response_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* x, void* d,
                             const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const dim3 grid(grid_for(size, 256)), block(256);
    launch("local_response_norm_backward", local_response<T>, grid, block, 0, stream,
           static_cast<T*>(nullptr), static_cast<C*>(d), static_cast<const T*>(x), p, size);
    launch("local_response_norm_backward", local_response_grad<T>, grid, block, 0, stream,
           static_cast<T*>(grad_x), static_cast<const T*>(grad_y), static_cast<const T*>(x),
           static_cast<const C*>(d), p, size);
  });
}

}  // namespace fastdl::cuda

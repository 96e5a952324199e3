// Local response normalisation: d = k + alpha / size * sum of x^2 over a window of channels, y = x d^-beta.
//   grad_x = g d^-beta - 2 alpha beta / size * x * sum over the windows that have x of g x d^(-beta - 1)
//
// A thread has an element and reads the window's others, which come from the caches. A power takes as long as all of
// them, so backward a first launch keeps each element's two, and the second adds up what it finds.
#include <stdexcept>

#include "cuda/norm.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

struct Windows {
  uint32_t size;
  int window;
  Divisor inner, channels;

  // Calls f(place) for the channels `before` to `after` around element i.
  template <class F>
  __device__ __forceinline__ void each(uint32_t i, int before, int after, F&& f) const {
    const uint32_t plane = inner.quotient(i);
    const int c = int(plane - channels.quotient(plane) * channels.divisor), step = int(inner.divisor);
    const int first = c < before ? 0 : c - before;
    const int last = c + after < int(channels.divisor) ? c + after : int(channels.divisor) - 1;
    int64_t at = int64_t(i) + int64_t(first - c) * step;
    for (int q = first; q <= last; ++q, at += step) f(at);
  }
};
template <class T>
struct Response {
  using C = Compute<T>;
  Windows windows;
  C k, scale, beta;  // scale: alpha / size

  __device__ __forceinline__ C divisor(const T* x, uint32_t i) const {
    C sum = 0;
    windows.each(i, windows.window / 2, (windows.window - 1) / 2, [&](int64_t at) {
      const C v = C(widen(x[at]));
      sum += v * v;
    });
    return k + scale * sum;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) local_response(T* y, const T* x, Response<T> r) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < r.windows.size; i += gridDim.x * kThreads)
    y[i] = narrow<T>(C(widen(x[i])) * std::pow(r.divisor(x, i), -r.beta));
}
// d^-beta, and g x d^(-beta - 1).
template <class T>
__global__ void __launch_bounds__(kThreads)
    local_response_terms(Compute<T>* powers, Compute<T>* shares, const T* grad_y, const T* x, Response<T> r) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < r.windows.size; i += gridDim.x * kThreads) {
    const C d = r.divisor(x, i), power = std::pow(d, -r.beta);
    powers[i] = power;
    shares[i] = C(widen(grad_y[i])) * C(widen(x[i])) * (power / d);
  }
}
template <class T>
__global__ void __launch_bounds__(kThreads)
    local_response_grad(T* grad_x, const T* grad_y, const T* x, const Compute<T>* powers,
                        const Compute<T>* shares, Response<T> r) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < r.windows.size; i += gridDim.x * kThreads) {
    C sum = 0;
    r.windows.each(i, (r.windows.window - 1) / 2, r.windows.window / 2,
                   [&](int64_t at) { sum += shares[at]; });
    grad_x[i] = narrow<T>(C(widen(grad_y[i])) * powers[i] - 2 * r.scale * r.beta * C(widen(x[i])) * sum);
  }
}

template <class T>
Response<T> response_of(const LocalResponse& p) {
  using C = Compute<T>;
  const int64_t size = p.batch * p.channels * p.inner;
  if (size >= int64_t(1) << 31)
    throw std::invalid_argument("local_response_norm on CUDA is limited to 2^31 elements in one call");
  // A window wider than all channels has no more than these.
  const int window = int(std::min<int64_t>(p.size, 2 * p.channels + 1));
  return {{uint32_t(size), window, Divisor(uint32_t(p.inner)), Divisor(uint32_t(p.channels))},
          C(p.k),
          C(p.alpha / double(p.size)),
          C(p.beta)};
}

}  // namespace

void local_response_forward(Dtype dtype, void* y, const void* x, const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("local_response_norm", local_response<T>, dim3(grid_for(size, kThreads)), dim3(kThreads), 0,
           stream, static_cast<T*>(y), static_cast<const T*>(x), response_of<T>(p));
  });
}

void local_response_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* x, void* scratch,
                             const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    auto *const powers = static_cast<Compute<T>*>(scratch), *const shares = powers + size;
    const Response<T> r = response_of<T>(p);
    const dim3 grid(grid_for(size, kThreads)), block(kThreads);
    const auto *g = static_cast<const T*>(grad_y), *values = static_cast<const T*>(x);
    launch("local_response_norm_backward", local_response_terms<T>, grid, block, 0, stream, powers, shares, g,
           values, r);
    launch("local_response_norm_backward", local_response_grad<T>, grid, block, 0, stream,
           static_cast<T*>(grad_x), g, values, static_cast<const Compute<T>*>(powers),
           static_cast<const Compute<T>*>(shares), r);
  });
}

}  // namespace fastdl::cuda

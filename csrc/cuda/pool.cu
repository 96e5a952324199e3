// Pooling: a thread for each output forward, a thread for each input backward, which gathers from the windows
// that cover it, in order: no atomics, the same bits every time. Neighbouring threads have neighbouring
// places of a row, so taps are read side by side and overlapping windows come from the caches; x, y and the
// offsets cross memory once.
#include "cuda/pool.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// Numbers of places (plane, d, h, w) and back.
struct Places {
  uint32_t count;
  int64_t plane_size;
  Divisor d, h, w;
};
struct Place {
  int64_t plane, d, h, w;
};
__device__ __forceinline__ Place place_of(const Places& p, uint32_t i) {
  Place r;
  uint32_t q = p.w.quotient(i);
  r.w = i - q * p.w.divisor;
  uint32_t s = p.h.quotient(q);
  r.h = q - s * p.h.divisor;
  const uint32_t t = p.d.quotient(s);
  r.d = s - t * p.d.divisor;
  r.plane = t;
  return r;
}
Places places(int64_t planes, int64_t d, int64_t h, int64_t w) {
  const int64_t count = planes * d * h * w;
  if (count >= int64_t(1) << 31)
    throw std::invalid_argument("pooling on CUDA is limited to 2^31 elements in one call");
  const auto by = [](int64_t n) { return Divisor(uint32_t(n > 0 ? n : 1)); };
  return {uint32_t(count), d * h * w, by(d), by(h), by(w)};
}

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads, 2)
    max_forward(T* y, Offset* offsets, const T* x, PoolProblem p, Places outputs) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < outputs.count; i += gridDim.x * kThreads) {
    const Place o = place_of(outputs, i);
    const T* plane = x + o.plane * p.in_plane();
    C best = -infinity<C>();
    int64_t tap = -1;
    for (int64_t kd = p.d.first_tap(o.d), ed = p.d.end_tap(o.d); kd < ed; ++kd)
      for (int64_t kh = p.h.first_tap(o.h), eh = p.h.end_tap(o.h); kh < eh; ++kh) {
        const int64_t d = p.d.start(o.d) + kd * p.d.dilation, h = p.h.start(o.h) + kh * p.h.dilation;
        const T* row = plane + (d * p.h.in + h) * p.w.in + p.w.start(o.w);
        for (int64_t kw = p.w.first_tap(o.w), ew = p.w.end_tap(o.w); kw < ew; ++kw) {
          const C v = C(widen(row[kw * p.w.dilation]));
          if (tap < 0 || v > best || v != v) {  // the first of equals, the last NaN
            best = v;
            tap = (kd * p.h.kernel + kh) * p.w.kernel + kw;
          }
        }
      }
    y[i] = narrow<T>(best);
    if (offsets != nullptr) offsets[i] = Offset(tap < 0 ? 0 : tap);
  }
}

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads, 2)
    max_backward(T* grad_x, const T* grad_y, const Offset* offsets, PoolProblem p, Places inputs) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < inputs.count; i += gridDim.x * kThreads) {
    const Place at = place_of(inputs, i);
    const int64_t base = at.plane * p.out_plane();
    C sum = 0;
    p.d.for_each_hit(at.d, [&](int64_t od, int64_t kd) {
      p.h.for_each_hit(at.h, [&](int64_t oh, int64_t kh) {
        p.w.for_each_hit(at.w, [&](int64_t ow, int64_t kw) {
          const int64_t o = base + (od * p.h.out + oh) * p.w.out + ow;
          if (int64_t(offsets[o]) == (kd * p.h.kernel + kh) * p.w.kernel + kw) sum += C(widen(grad_y[o]));
        });
      });
    });
    grad_x[i] = narrow<T>(sum);
  }
}

template <class Offset>
__global__ void __launch_bounds__(kThreads, 2)
    max_indices(int64_t* indices, const Offset* offsets, PoolProblem p, Places outputs) {
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < outputs.count; i += gridDim.x * kThreads) {
    const Place o = place_of(outputs, i);
    const int64_t tap = int64_t(offsets[i]), kw = tap % p.w.kernel, kh = tap / p.w.kernel % p.h.kernel,
                  kd = tap / p.w.kernel / p.h.kernel;
    const int64_t d = p.d.start(o.d) + kd * p.d.dilation, h = p.h.start(o.h) + kh * p.h.dilation,
                  w = p.w.start(o.w) + kw * p.w.dilation;
    indices[i] = (d * p.h.in + h) * p.w.in + w;
  }
}

template <class C>
__device__ __forceinline__ C covered(const PoolProblem& p, int64_t d, int64_t h, int64_t w, bool include_pad,
                                     int64_t divisor) {
  return divisor != 0 ? C(divisor)
                      : C(p.d.count(d, include_pad) * p.h.count(h, include_pad) * p.w.count(w, include_pad));
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    avg_forward(T* y, const T* x, PoolProblem p, Places outputs, bool include_pad, int64_t divisor) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < outputs.count; i += gridDim.x * kThreads) {
    const Place o = place_of(outputs, i);
    const T* plane = x + o.plane * p.in_plane();
    C sum = 0;
    for (int64_t kd = p.d.first_tap(o.d), ed = p.d.end_tap(o.d); kd < ed; ++kd)
      for (int64_t kh = p.h.first_tap(o.h), eh = p.h.end_tap(o.h); kh < eh; ++kh) {
        const T* row =
            plane + ((p.d.start(o.d) + kd) * p.h.in + p.h.start(o.h) + kh) * p.w.in + p.w.start(o.w);
        for (int64_t kw = p.w.first_tap(o.w), ew = p.w.end_tap(o.w); kw < ew; ++kw) sum += C(widen(row[kw]));
      }
    y[i] = narrow<T>(sum / covered<C>(p, o.d, o.h, o.w, include_pad, divisor));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    avg_backward(T* grad_x, const T* grad_y, PoolProblem p, Places inputs, bool include_pad,
                 int64_t divisor) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < inputs.count; i += gridDim.x * kThreads) {
    const Place at = place_of(inputs, i);
    const int64_t base = at.plane * p.out_plane();
    C sum = 0;
    p.d.for_each_hit(at.d, [&](int64_t od, int64_t) {
      p.h.for_each_hit(at.h, [&](int64_t oh, int64_t) {
        p.w.for_each_hit(at.w, [&](int64_t ow, int64_t) {
          const C g = C(widen(grad_y[base + (od * p.h.out + oh) * p.w.out + ow]));
          sum += g / covered<C>(p, od, oh, ow, include_pad, divisor);
        });
      });
    });
    grad_x[i] = narrow<T>(sum);
  }
}

__device__ __forceinline__ int64_t window_start(int64_t o, const PoolAxis& a) {
  return o * a.in / a.out;
}
__device__ __forceinline__ int64_t window_end(int64_t o, const PoolAxis& a) {
  return ((o + 1) * a.in + a.out - 1) / a.out;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    adaptive_forward(T* y, const T* x, PoolProblem p, Places outputs) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < outputs.count; i += gridDim.x * kThreads) {
    const Place o = place_of(outputs, i);
    const T* plane = x + o.plane * p.in_plane();
    const int64_t d0 = window_start(o.d, p.d), d1 = window_end(o.d, p.d), h0 = window_start(o.h, p.h),
                  h1 = window_end(o.h, p.h), w0 = window_start(o.w, p.w), w1 = window_end(o.w, p.w);
    C sum = 0;
    for (int64_t d = d0; d < d1; ++d)
      for (int64_t h = h0; h < h1; ++h)
        for (int64_t w = w0; w < w1; ++w) sum += C(widen(plane[(d * p.h.in + h) * p.w.in + w]));
    y[i] = narrow<T>(sum / C((d1 - d0) * (h1 - h0) * (w1 - w0)));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    adaptive_backward(T* grad_x, const T* grad_y, PoolProblem p, Places inputs) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < inputs.count; i += gridDim.x * kThreads) {
    const Place at = place_of(inputs, i);
    const T* plane = grad_y + at.plane * p.out_plane();
    // The windows over a place are those from x out / in to (x + 1) out / in, rounded outwards.
    const auto first = [](int64_t x, const PoolAxis& a) { return x * a.out / a.in; };
    const auto last = [](int64_t x, const PoolAxis& a) { return ((x + 1) * a.out + a.in - 1) / a.in; };
    C sum = 0;
    for (int64_t d = first(at.d, p.d), ed = last(at.d, p.d); d < ed; ++d)
      for (int64_t h = first(at.h, p.h), eh = last(at.h, p.h); h < eh; ++h)
        for (int64_t w = first(at.w, p.w), ew = last(at.w, p.w); w < ew; ++w) {
          const int64_t taps = (window_end(d, p.d) - window_start(d, p.d)) *
                               (window_end(h, p.h) - window_start(h, p.h)) *
                               (window_end(w, p.w) - window_start(w, p.w));
          sum += C(widen(plane[(d * p.h.out + h) * p.w.out + w])) / C(taps);
        }
    grad_x[i] = narrow<T>(sum);
  }
}

Places outputs_of(const PoolProblem& p) {
  return places(p.planes, p.d.out, p.h.out, p.w.out);
}
Places inputs_of(const PoolProblem& p) {
  return places(p.planes, p.d.in, p.h.in, p.w.in);
}

template <class... P, class... A>
void launch_over(const char* op, void (*kernel)(P...), const Places& places, Stream stream, A... arguments) {
  if (places.count == 0) return;
  launch(op, kernel, dim3(grid_for(places.count, kThreads)), dim3(kThreads), 0, stream, arguments...);
}

// Calls f with the type of offsets.
template <class F>
void by_offset(const PoolProblem& p, F&& f) {
  if (p.taps() <= 256)
    f(uint8_t{});
  else
    f(int32_t{});
}

}  // namespace

void max_pool_forward(Dtype dtype, void* y, void* offsets, const void* x, const PoolProblem& p,
                      Stream stream) {
  const Places o = outputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    by_offset(p, [&]<class Offset>(Offset) {
      launch_over("max_pool", max_forward<T, Offset>, o, stream, static_cast<T*>(y),
                  static_cast<Offset*>(offsets), static_cast<const T*>(x), p, o);
    });
  });
}

void max_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* offsets,
                       const PoolProblem& p, Stream stream) {
  const Places i = inputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    by_offset(p, [&]<class Offset>(Offset) {
      launch_over("max_pool_backward", max_backward<T, Offset>, i, stream, static_cast<T*>(grad_x),
                  static_cast<const T*>(grad_y), static_cast<const Offset*>(offsets), p, i);
    });
  });
}

void max_pool_indices(int64_t* indices, const void* offsets, const PoolProblem& p, Stream stream) {
  const Places o = outputs_of(p);
  by_offset(p, [&]<class Offset>(Offset) {
    launch_over("max_pool_indices", max_indices<Offset>, o, stream, indices,
                static_cast<const Offset*>(offsets), p, o);
  });
}

void avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& p, bool include_pad,
                      int64_t divisor, Stream stream) {
  const Places o = outputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("avg_pool", avg_forward<T>, o, stream, static_cast<T*>(y), static_cast<const T*>(x), p, o,
                include_pad, divisor);
  });
}

void avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& p, bool include_pad,
                       int64_t divisor, Stream stream) {
  const Places i = inputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("avg_pool_backward", avg_backward<T>, i, stream, static_cast<T*>(grad_x),
                static_cast<const T*>(grad_y), p, i, include_pad, divisor);
  });
}

void adaptive_avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& p, Stream stream) {
  const Places o = outputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("adaptive_avg_pool", adaptive_forward<T>, o, stream, static_cast<T*>(y),
                static_cast<const T*>(x), p, o);
  });
}

void adaptive_avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& p,
                                Stream stream) {
  const Places i = inputs_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("adaptive_avg_pool_backward", adaptive_backward<T>, i, stream, static_cast<T*>(grad_x),
                static_cast<const T*>(grad_y), p, i);
  });
}

}  // namespace fastdl::cuda

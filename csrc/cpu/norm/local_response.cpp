// Local response normalisation of x (N, C, S) across channels:
//
//   d[c] = k + alpha / size * sum of x[j]^2 over the window j in [c - size / 2, c + (size - 1) / 2]
//   y = x d^-beta                                                                      saved: x
//   grad_x[c] = g[c] d[c]^-beta - 2 alpha beta / size * x[c] *
//               sum of g[j] x[j] d[j]^(-beta - 1) over j whose window has c
//
// Work: (sample, strip of S) over threads; a strip holds all channels in scratch that fits the L1 or L2
// cache, so memory is read once per array and written once.
#include "cpu/norm/norm.h"
#include "cpu/norm/rows.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/math.h"

namespace fastdl {
namespace {

using namespace norm;

constexpr int64_t kStrip = 64;  // positions of S handled at a time

// Strips over threads: f(offset of the strip in x, its length, scratch of `planes` x channels x kStrip).
template <class T, class F>
void for_strips(const LocalResponseProblem& p, int64_t planes, F&& f) {
  const int64_t strips = ceil_div(p.inner, kStrip);
  const int64_t size = p.channels * std::min(p.inner, kStrip);
  parallel_for(p.batch * strips, std::max<int64_t>(1, kGrain / 8 / size), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> scratch{size_t(planes * p.channels * kStrip)};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = i % strips * kStrip;
      f(i / strips * p.channels * p.inner + s, std::min(kStrip, p.inner - s), scratch.get());
    }
  });
}

template <class T>
void load_strip(T* to, const T* from, int64_t n) {
  std::copy_n(from, n, to);
  std::fill_n(to + n, kStrip - n, T(0));
}

// The sum over c' in [first, last] of plane[c'], at one vector's place.
template <class T>
[[gnu::always_inline]] inline Vec<T> window_sum(const T* plane, int64_t first, int64_t last,
                                                int64_t channels) {
  Vec<T> sum{};
  for (int64_t c = std::max<int64_t>(0, first); c <= std::min(channels - 1, last); ++c)
    sum += simd::load(plane + c * kStrip);
  return sum;
}

// x (in `values`) squared to `squares`, then d of every channel through f(c, i, x, d).
template <class T, class F>
[[gnu::always_inline]] inline void for_denominators(const LocalResponseProblem& p, const T* x, int64_t at,
                                                    int64_t n, T* values, T* squares, F&& f) {
  constexpr int w = kWidth<T>;
  for (int64_t c = 0; c < p.channels; ++c) {
    load_strip(values + c * kStrip, x + at + c * p.inner, n);
    for (int64_t i = 0; i < kStrip; i += w) {
      const Vec<T> v = simd::load(values + c * kStrip + i);
      simd::store<T>(squares + c * kStrip + i, v * v);
    }
  }
  const int64_t before = p.size / 2, after = (p.size - 1) / 2;
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t i = 0; i < n; i += w) {
      const Vec<T> sum = window_sum<T>(squares + i, c - before, c + after, p.channels);
      f(c, i, simd::load(values + c * kStrip + i), sum * T(p.alpha / double(p.size)) + T(p.k));
    }
}

}  // namespace

template <class T>
void local_response_forward(T* y, const T* x, const LocalResponseProblem& p) {
  constexpr int w = kWidth<T>;
  for_strips<T>(p, 2, [&](int64_t at, int64_t n, T* scratch) {
    T *values = scratch, *squares = values + p.channels * kStrip;
    for_denominators(p, x, at, n, values, squares, [&](int64_t c, int64_t i, Vec<T> v, Vec<T> d) {
      const Vec<T> result = v * simd::exp<T>(simd::log<T>(d) * T(-p.beta));
      T* to = y + at + c * p.inner + i;
      if (n - i >= w)
        simd::store<T>(to, result);
      else
        simd::store_n(to, result, int(n - i));
    });
  });
}

template <class T>
void local_response_backward(T* grad_x, const T* grad_y, const T* x, const LocalResponseProblem& p) {
  constexpr int w = kWidth<T>;
  const T factor = T(2 * p.alpha * p.beta / double(p.size));
  const int64_t before = p.size / 2, after = (p.size - 1) / 2;
  for_strips<T>(p, 4, [&](int64_t at, int64_t n, T* scratch) {
    const int64_t plane = p.channels * kStrip;
    T *values = scratch, *squares = values + plane, *direct = squares + plane, *indirect = direct + plane;
    for_denominators(p, x, at, n, values, squares, [&](int64_t c, int64_t i, Vec<T> v, Vec<T> d) {
      const T* from = grad_y + at + c * p.inner + i;
      const Vec<T> g = n - i >= w ? simd::load(from) : simd::load_n(from, int(n - i));
      const Vec<T> scaled = g * simd::exp<T>(simd::log<T>(d) * T(-p.beta));
      simd::store<T>(direct + c * kStrip + i, scaled);
      simd::store<T>(indirect + c * kStrip + i, scaled * v / d);
    });
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t i = 0; i < n; i += w) {
        // c is in the window of j when j - before <= c <= j + after
        const Vec<T> sum = window_sum<T>(indirect + i, c - after, c + before, p.channels);
        const Vec<T> result =
            simd::load(direct + c * kStrip + i) - simd::load(values + c * kStrip + i) * factor * sum;
        T* to = grad_x + at + c * p.inner + i;
        if (n - i >= w)
          simd::store<T>(to, result);
        else
          simd::store_n(to, result, int(n - i));
      }
  });
}

#define FASTDL_INSTANTIATE(T)                                                         \
  template void local_response_forward<T>(T*, const T*, const LocalResponseProblem&); \
  template void local_response_backward<T>(T*, const T*, const T*, const LocalResponseProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

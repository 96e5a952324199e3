// Softmax and its logarithm along the class axis of (outer, classes, inner).
//
//   softmax       y_c = exp(x_c - m) / sum_k exp(x_k - m), m = max_k x_k     saved: y
//                 grad_x = y * (grad_y - sum_k grad_y_k y_k)
//   log_softmax   y_c = (x_c - m) - log(sum_k exp(x_k - m))                  saved: y
//                 grad_x = grad_y - exp(y) * sum_k grad_y_k
//
// Work: rows, or groups of neighbouring columns, over threads (classes.h). Passes over memory: one read and
// one write forward, two reads and one write backward; the other sweeps of a row or column group find it in
// cache. Where the result is too large to stay there, the exponentials of a row wait in a small scratch row
// and the result is written around the caches.
#include "cpu/softmax.h"

#include "cpu/classes.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

using namespace classes;

constexpr int64_t kScratchRow = 16384;  // elements: longer rows keep their exponentials in the result

template <class T>
bool stream_rows(ClassShape s) {
  return s.classes >= 8 * kWidth<T> && worth_streaming(s.size() * int64_t(sizeof(T)));
}

template <class T>
void softmax_rows(T* y, const T* x, ClassShape s) {
  const int64_t n = s.classes;
  const bool streaming = n <= kScratchRow && stream_rows<T>(s);
  parallel_for(s.outer, grain_for(n), [=](int64_t begin, int64_t end) {
    const memory::Buffer<T> scratch(streaming ? size_t(n) : 0);
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x + row * n;
      T* out = y + row * n;
      T* e = streaming ? scratch.get() : out;
      const T m = row_maximum(in, n);
      constexpr int w = kWidth<T>;
      Vec<T> s0{}, s1{};
      int64_t i = 0;
      for (; i + 2 * w <= n; i += 2 * w) {
        const Vec<T> a = exp_bounded<T>(load(in + i) - m), b = exp_bounded<T>(load(in + i + w) - m);
        store<T>(e + i, a);
        store<T>(e + i + w, b);
        s0 += a;
        s1 += b;
      }
      for (; i < n; i += w) {
        const int count = int(std::min<int64_t>(w, n - i));
        const Vec<T> a = exp_bounded<T>(load_n(in + i, count) - m);
        store_n(e + i, a, count);
        s0 += keep_first<T>(a, count, T(0));
      }
      const T scale = T(1) / reduce_add<T>(s0 + s1);
      write_row(out, n, streaming, [=](Vec<T> v) { return v * scale; }, e);
    }
    fence();
  });
}

template <class T>
void softmax_columns(T* y, const T* x, ClassShape s) {
  for_columns<T>(s, [=](int64_t, int64_t o, int64_t j, auto lanes) {
    constexpr int V = decltype(lanes)::kVectors;
    const T* in = x + o * s.classes * s.inner + j;
    T* out = y + o * s.classes * s.inner + j;
    Vec<T> m[V], sum[V];
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) {
      m[k] = broadcast<T>(-kInfinity<T>);
      sum[k] = broadcast<T>(0);
    }
    for (int64_t c = 0; c < s.classes; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) m[k] = max(lanes.load(in + c * s.inner, k), m[k]);
    for (int64_t c = 0; c < s.classes; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) {
        const Vec<T> e = exp_bounded<T>(lanes.load(in + c * s.inner, k) - m[k]);
        lanes.store(out + c * s.inner, k, e);
        sum[k] += e;
      }
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) sum[k] = T(1) / sum[k];
    for (int64_t c = 0; c < s.classes; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k)
        lanes.store(out + c * s.inner, k, lanes.load(out + c * s.inner, k) * sum[k]);
  });
}

// grad_x = write(grad_y, y, sum_k term(grad_y_k, y_k)): both backward passes have this form.
template <class T, class Term, class Write>
void backward(T* grad_x, const T* grad_y, const T* y, ClassShape s, Term term, Write write) {
  if (s.inner == 1) {
    const bool streaming = stream_rows<T>(s);
    for_rows<T>(s, [=](int64_t, int64_t row) {
      const int64_t at = row * s.classes;
      const T sum = row_sum<T>(s.classes, term, grad_y + at, y + at);
      write_row(
          grad_x + at, s.classes, streaming,
          [=](Vec<T> g, Vec<T> v) { return write(g, v, broadcast<T>(sum)); }, grad_y + at, y + at);
    });
    return;
  }
  for_columns<T>(s, [=](int64_t, int64_t o, int64_t j, auto lanes) {
    constexpr int V = decltype(lanes)::kVectors;
    const int64_t at = o * s.classes * s.inner + j;
    Vec<T> sum[V];
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) sum[k] = broadcast<T>(0);
    for (int64_t c = 0, i = at; c < s.classes; ++c, i += s.inner)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) sum[k] += term(lanes.load(grad_y + i, k), lanes.load(y + i, k));
    for (int64_t c = 0, i = at; c < s.classes; ++c, i += s.inner)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k)
        lanes.store(grad_x + i, k, write(lanes.load(grad_y + i, k), lanes.load(y + i, k), sum[k]));
  });
}

}  // namespace

template <class T>
void softmax_forward(T* y, const T* x, ClassShape s) {
  if (s.inner == 1)
    softmax_rows(y, x, s);
  else
    softmax_columns(y, x, s);
}

template <class T>
void softmax_backward(T* grad_x, const T* grad_y, const T* y, ClassShape s) {
  backward(
      grad_x, grad_y, y, s, [](Vec<T> g, Vec<T> v) { return g * v; },
      [](Vec<T> g, Vec<T> v, Vec<T> sum) { return v * (g - sum); });
}

template <class T>
void log_softmax_forward(T* y, const T* x, ClassShape s) {
  if (s.inner == 1) {
    const bool streaming = stream_rows<T>(s);
    for_rows<T>(s, [=](int64_t, int64_t row) {
      const T* in = x + row * s.classes;
      const auto [m, log_sum] = row_statistics(in, s.classes, [](int64_t, int64_t) {});
      write_row(
          y + row * s.classes, s.classes, streaming,
          [m = m, log_sum = log_sum](Vec<T> v) { return (v - m) - log_sum; }, in);
    });
    return;
  }
  for_columns<T>(s, [=](int64_t, int64_t o, int64_t j, auto lanes) {
    constexpr int V = decltype(lanes)::kVectors;
    const int64_t at = o * s.classes * s.inner + j;
    Vec<T> m[V], log_sum[V];
    column_statistics(lanes, x + at, s, m, log_sum, [](int64_t, int, Vec<T>) {});
    for (int64_t c = 0, i = at; c < s.classes; ++c, i += s.inner)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) lanes.store(y + i, k, (lanes.load(x + i, k) - m[k]) - log_sum[k]);
  });
}

template <class T>
void log_softmax_backward(T* grad_x, const T* grad_y, const T* y, ClassShape s) {
  backward(
      grad_x, grad_y, y, s, [](Vec<T> g, Vec<T>) { return g; },
      [](Vec<T> g, Vec<T> v, Vec<T> sum) { return g - exp_bounded<T>(v) * sum; });
}

#define FASTDL_INSTANTIATE(T)                                            \
  template void softmax_forward<T>(T*, const T*, ClassShape);            \
  template void softmax_backward<T>(T*, const T*, const T*, ClassShape); \
  template void log_softmax_forward<T>(T*, const T*, ClassShape);        \
  template void log_softmax_backward<T>(T*, const T*, const T*, ClassShape);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// Losses of rows of scores x, C classes each:
//
//   multi-margin       w_t / C  sum over i != t of max(0, margin - x_t + x_i)^p, t the row's target
//   multilabel margin  1 / C    sum over labels j and classes i that no label names of max(0, 1 - x_j + x_i)
//
// Backward finds again which gaps are open: nothing is saved. Work: rows over threads. Passes: x once, and
// for several labels the row again, from the first-level cache.
#include "cpu/margin_loss.h"

#include <algorithm>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/sweep.h"

namespace fastdl {
namespace {

using namespace sweep;

int64_t grain_for(int64_t n) {
  return std::max<int64_t>(1, 8192 / (n + 32));
}

template <class T>
[[gnu::always_inline]] inline Vec<T> positive(Vec<T> gap) {  // what is no number opens no gap, as in PyTorch
  return gap > Vec<T>{} ? gap : Vec<T>{};
}

// f(x[0, own), ...) + f(x(own, n), ...)
template <class F>
[[gnu::always_inline]] inline auto beside(int64_t own, int64_t n, F f) {
  return f(int64_t(0), own) + f(own + 1, n - own - 1);
}

// A row of scores with those that labels name at minus infinity: they open no gap. f(others, labels, their
// count).
template <class T, class F>
void for_labelled(const T* x, const int64_t* target, int64_t rows, int64_t classes, F f) {
  parallel_for(rows, grain_for(4 * classes), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> others{size_t(classes)};
    for (int64_t row = begin; row < end; ++row) {
      const int64_t* labels = target + row * classes;
      const int64_t count = std::find(labels, labels + classes, int64_t(-1)) - labels;
      std::copy_n(x + row * classes, classes, others.get());
      for (int64_t k = 0; k < count; ++k) others[labels[k]] = -kInfinity<T>;
      f(row, others.get(), labels, count);
    }
  });
}

}  // namespace

template <class T>
void multi_margin_forward(T* losses, const MultiMargin<T>& m) {
  using V = Vec<T>;
  parallel_for(m.rows, grain_for(m.classes), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = m.x + row * m.classes;
      const int64_t own = m.target[row];
      const T bound = m.margin - x[own];
      const T sum = beside(own, m.classes, [&](int64_t at, int64_t n) {
        if (m.p == 1) return row_sum<T>(n, [=](V v) { return positive<T>(v + bound); }, x + at);
        return row_sum<T>(
            n,
            [=](V v) {
              const V gap = positive<T>(v + bound);
              return gap * gap;
            },
            x + at);
      });
      losses[row] = sum / T(m.classes) * (m.weight ? m.weight[own] : T(1));
    }
  });
}

template <class T>
void multi_margin_backward(T* grad_x, const T* grad, const MultiMargin<T>& m) {
  using V = Vec<T>;
  parallel_for(m.rows, grain_for(m.classes), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = m.x + row * m.classes;
      T* out = grad_x + row * m.classes;
      const int64_t own = m.target[row];
      const T bound = m.margin - x[own];
      const T g = grad[row] / T(m.classes) * (m.weight ? m.weight[own] : T(1));
      if (m.p == 1)
        write_row(out, m.classes, false, [=](V v) { return v + bound > T(0) ? broadcast(g) : V{}; }, x);
      else
        write_row(out, m.classes, false, [=](V v) { return T(2) * g * positive<T>(v + bound); }, x);
      out[own] = -beside(own, m.classes, [&](int64_t at, int64_t n) {
        return row_sum<T>(n, [](V v) { return v; }, out + at);
      });
    }
  });
}

template <class T>
void multilabel_margin_forward(T* losses, const T* x, const int64_t* target, int64_t rows, int64_t classes) {
  using V = Vec<T>;
  for_labelled(x, target, rows, classes,
               [=](int64_t row, const T* others, const int64_t* labels, int64_t count) {
                 T sum = 0;
                 for (int64_t k = 0; k < count; ++k) {
                   const T bound = x[row * classes + labels[k]] - T(1);
                   sum += row_sum<T>(classes, [=](V v) { return positive<T>(v - bound); }, others);
                 }
                 losses[row] = sum / T(classes);
               });
}

template <class T>
void multilabel_margin_backward(T* grad_x, const T* grad, const T* x, const int64_t* target, int64_t rows,
                                int64_t classes) {
  using V = Vec<T>;
  for_labelled(x, target, rows, classes,
               [=](int64_t row, const T* others, const int64_t* labels, int64_t count) {
                 T* out = grad_x + row * classes;
                 const T g = grad[row] / T(classes);
                 std::fill_n(out, classes, T(0));
                 for (int64_t k = 0; k < count; ++k) {
                   const T bound = x[row * classes + labels[k]] - T(1);
                   const auto open = [=](V v) { return v > bound ? broadcast(g) : V{}; };
                   write_row(out, classes, false, [=](V sum, V v) { return sum + open(v); }, out, others);
                   out[labels[k]] -= row_sum<T>(classes, open, others);
                 }
               });
}

#define FASTDL_INSTANTIATE(T)                                                                 \
  template void multi_margin_forward<T>(T*, const MultiMargin<T>&);                           \
  template void multi_margin_backward<T>(T*, const T*, const MultiMargin<T>&);                \
  template void multilabel_margin_forward<T>(T*, const T*, const int64_t*, int64_t, int64_t); \
  template void multilabel_margin_backward<T>(T*, const T*, const T*, const int64_t*, int64_t, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// Softmax and its logarithm along the class axis of (outer, classes, inner).
//
//   softmax       y_c = exp(x_c - m) / sum_k exp(x_k - m), m = max_k x_k     saved: y
//                 grad_x = y * (grad_y - sum_k grad_y_k y_k)
//   log_softmax   y_c = (x_c - m) - log(sum_k exp(x_k - m))                  saved: y
//                 grad_x = grad_y - exp(y) * sum_k grad_y_k
//
// Work: rows, or groups of neighbouring columns, over threads (classes.h). Many rows of few classes are taken
// a vector of them at a time; where columns are too few for the lanes, each becomes a row in a scratch array.
// Passes over memory: one read and one write forward, two reads and one write backward; the other sweeps of a
// row or column group find it in cache. Where the result is too large to stay there, the exponentials of a
// row wait in a small scratch row and the result is written around the caches.
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

// Columns are taken out where less than a quarter of a vector's lanes would have one and they are long.
template <class T>
bool narrow(ClassShape s) {
  return 4 * s.inner <= kWidth<T> && s.classes >= 128;
}
// f(first element, room for `rows` rows) for every column.
template <class T, class F>
void for_narrow_columns(ClassShape s, int rows, F f) {
  parallel_for(s.outer, grain_for(s.classes * s.inner), [&](int64_t begin, int64_t end) {
    const memory::Buffer<T> room(size_t(rows * s.classes));
    for (int64_t o = begin; o < end; ++o)
      for (int64_t j = 0; j < s.inner; ++j) f(o * s.classes * s.inner + j, room.get());
  });
}
template <class T>
void take_column(T* row, const T* x, ClassShape s) {
  for (int64_t c = 0; c < s.classes; ++c) row[c] = x[c * s.inner];
}
template <class T>
void put_column(T* y, const T* row, ClassShape s) {
  for (int64_t c = 0; c < s.classes; ++c) y[c * s.inner] = row[c];
}

// The exponentials in `e`; returns the inverse of their sum: of blocks in T, of these in double. May work in
// place.
template <class T>
[[gnu::noinline]] T exponentials(T* e, const T* in, int64_t n) {
  const T m = row_maximum(in, n);
  constexpr int w = kWidth<T>;
  double total = 0;
  for (int64_t i = 0; i < n;) {
    const int64_t end = std::min<int64_t>(n, i + 64 * w);
    Vec<T> s0{}, s1{};
    for (; i + 2 * w <= end; i += 2 * w) {
      const Vec<T> a = exp_bounded<T>(load(in + i) - m), b = exp_bounded<T>(load(in + i + w) - m);
      store<T>(e + i, a);
      store<T>(e + i + w, b);
      s0 += a;
      s1 += b;
    }
    for (; i < end; i += w) {
      const int count = int(std::min<int64_t>(w, end - i));
      const Vec<T> a = exp_bounded<T>(load_n(in + i, count) - m);
      store_n(e + i, a, count);
      s0 += keep_first<T>(a, count, T(0));
    }
    total += double(reduce_add<T>(s0 + s1));
  }
  return T(1 / total);
}

template <class T>
void softmax_rows(T* y, const T* x, ClassShape s) {
  const int64_t n = s.classes;
  const bool streaming = n <= kScratchRow && stream_rows<T>(s);
  parallel_for(s.outer, grain_for(n), [=](int64_t begin, int64_t end) {
    const memory::Buffer<T> scratch(streaming ? size_t(n) : 0);
    for (int64_t row = begin; row < end; ++row) {
      T* out = y + row * n;
      T* e = streaming ? scratch.get() : out;
      const T scale = exponentials(e, x + row * n, n);
      write_row(out, n, streaming, [=](Vec<T> v) { return v * scale; }, e);
    }
    fence();
  });
}

// A group of columns; may work in place.
template <class T, class L>
[[gnu::noinline]] void softmax_group(T* out, const T* in, ClassShape s, L lanes) {
  constexpr int V = L::kVectors;
  Vec<T> m[V];
  LongSum<T> sum[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; ++k) m[k] = broadcast<T>(-kInfinity<T>);
  for (int64_t c = 0; c < s.classes; ++c)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) m[k] = max(lanes.load(in + c * s.inner, k), m[k]);
  for (int64_t begin = 0; begin < s.classes; begin += kColumnBlock) {
    const int64_t end = std::min(begin + kColumnBlock, s.classes);
    Vec<T> part[V] = {};
    for (int64_t c = begin; c < end; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) {
        const Vec<T> e = exp_bounded<T>(lanes.load(in + c * s.inner, k) - m[k]);
        lanes.store(out + c * s.inner, k, e);
        part[k] += e;
      }
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) sum[k].add(part[k]);
  }
  Vec<T> scale[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; ++k) scale[k] = T(1) / sum[k].total;
  for (int64_t c = 0; c < s.classes; ++c)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k)
      lanes.store(out + c * s.inner, k, lanes.load(out + c * s.inner, k) * scale[k]);
}
template <class T, class L>
[[gnu::noinline]] void log_softmax_group(T* out, const T* in, ClassShape s, L lanes) {
  constexpr int V = L::kVectors;
  Vec<T> m[V], log_sum[V];
  column_statistics(lanes, in, s, m, log_sum, [](int64_t, int, Vec<T>) {});
  for (int64_t c = 0, i = 0; c < s.classes; ++c, i += s.inner)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) lanes.store(out + i, k, (lanes.load(in + i, k) - m[k]) - log_sum[k]);
}

// Rows of few classes by a function of a group of columns, out of line: two of them share the way there and
// back.
template <class T>
bool short_rows(ClassShape s) {
  return few_classes<T>(s) && s.classes <= 80;
}
template <class T>
using Group = void (*)(T*, const T*, ClassShape, Lanes<T, 1, false>);
template <class T>
void by_groups(T* y, const T* x, ClassShape s, Group<T> group) {
  for_short_rows<T>(s, x, [=](int64_t, int64_t row, T* copy, auto lanes) {
    group(copy, copy, {1, s.classes, kWidth<T>}, {});
    deinterleave<T>(y + row * s.classes, s.classes, copy, lanes.positions, s.classes);
  });
}

template <class T>
[[gnu::noinline]] void log_softmax_row(T* y, const T* x, int64_t n, bool streaming) {
  const auto [m, log_sum] = row_statistics(x, n, [](int64_t, int64_t) {});
  write_row(y, n, streaming, [m = m, log_sum = log_sum](Vec<T> v) { return (v - m) - log_sum; }, x);
}
template <class T, class Term, class Write>
[[gnu::noinline]] void backward_row(T* grad_x, const T* grad_y, const T* y, int64_t n, bool streaming,
                                    Term term, Write write) {
  const T sum = row_sum<T>(n, term, grad_y, y);
  write_row(
      grad_x, n, streaming, [=](Vec<T> g, Vec<T> v) { return write(g, v, broadcast<T>(sum)); }, grad_y, y);
}

// grad_x = write(grad_y, y, sum_k term(grad_y_k, y_k)): both backward passes have this form.
template <class T, class Term, class Write>
void backward(T* grad_x, const T* grad_y, const T* y, ClassShape s, Term term, Write write) {
  if (s.inner == 1) {
    const bool streaming = stream_rows<T>(s);
    for_rows<T>(s, [=](int64_t, int64_t row) {
      const int64_t at = row * s.classes;
      backward_row(grad_x + at, grad_y + at, y + at, s.classes, streaming, term, write);
    });
    return;
  }
  if (narrow<T>(s))
    return for_narrow_columns<T>(s, 2, [=](int64_t at, T* g) {
      T* const kept = g + s.classes;
      take_column(g, grad_y + at, s);
      take_column(kept, y + at, s);
      backward_row<T>(g, g, kept, s.classes, false, term, write);
      put_column(grad_x + at, g, s);
    });
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
  if (short_rows<T>(s)) return by_groups<T>(y, x, s, softmax_group<T, Lanes<T, 1, false>>);
  if (s.inner == 1) return softmax_rows(y, x, s);
  if (narrow<T>(s))
    return for_narrow_columns<T>(s, 1, [=](int64_t at, T* row) {
      take_column(row, x + at, s);
      const T scale = exponentials(row, row, s.classes);
      for (int64_t c = 0; c < s.classes; ++c) row[c] *= scale;
      put_column(y + at, row, s);
    });
  for_columns<T>(s, [=](int64_t, int64_t o, int64_t j, auto lanes) {
    const int64_t at = o * s.classes * s.inner + j;
    softmax_group(y + at, x + at, s, lanes);
  });
}

template <class T>
void softmax_backward(T* grad_x, const T* grad_y, const T* y, ClassShape s) {
  backward(
      grad_x, grad_y, y, s, [](Vec<T> g, Vec<T> v) { return g * v; },
      [](Vec<T> g, Vec<T> v, Vec<T> sum) { return v * (g - sum); });
}

template <class T>
void log_softmax_forward(T* y, const T* x, ClassShape s) {
  if (few_classes<T>(s)) return by_groups<T>(y, x, s, log_softmax_group<T, Lanes<T, 1, false>>);
  if (s.inner == 1) {
    const bool streaming = stream_rows<T>(s);
    return for_rows<T>(s, [=](int64_t, int64_t row) {
      log_softmax_row(y + row * s.classes, x + row * s.classes, s.classes, streaming);
    });
  }
  if (narrow<T>(s))
    return for_narrow_columns<T>(s, 1, [=](int64_t at, T* row) {
      take_column(row, x + at, s);
      log_softmax_row<T>(row, row, s.classes, false);
      put_column(y + at, row, s);
    });
  for_columns<T>(s, [=](int64_t, int64_t o, int64_t j, auto lanes) {
    const int64_t at = o * s.classes * s.inner + j;
    log_softmax_group(y + at, x + at, s, lanes);
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

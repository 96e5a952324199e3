// Adaptive pooling with uneven windows (where in is a multiple of out, the windows are regular and max.cpp
// and avg.cpp do it), and access by flat indices, which max-unpooling and the adaptive maximum's gradient
// need.
//
//   window o of an axis covers [floor(o*in/out), ceil((o+1)*in/out)): never empty, neighbours may share one
//   input
//
// Averages: output rows forward, input rows backward, rows first and then columns, as in avg.cpp. Maxima:
// the columns of each input row first, kept while windows share that row, then the rows, which keeps
// row-major order among ties; wide windows are read one after the other (wide_max.h). Index access: one plane
// belongs to one thread, so scattering needs no atomics and the last of several values for one place wins.
#include <atomic>

#include "cpu/pool/pool.h"
#include "cpu/pool/side_by_side.h"
#include "cpu/pool/wide_max.h"
#include "cpu/rows.h"

namespace fastdl {
namespace {

struct Windows {
  std::vector<int64_t> begin, end;   // of each output, among the inputs
  std::vector<int64_t> first, last;  // of each input, the outputs [first, last) that cover it
  explicit Windows(const PoolAxis& a)
      : begin(size_t(a.out)), end(size_t(a.out)), first(size_t(a.in), a.out), last(size_t(a.in), 0) {
    for (int64_t o = 0; o < a.out; ++o) {
      begin[size_t(o)] = o * a.in / a.out;
      end[size_t(o)] = ceil_div((o + 1) * a.in, a.out);
      for (int64_t x = begin[size_t(o)]; x < end[size_t(o)]; ++x) {
        first[size_t(x)] = std::min(first[size_t(x)], o);
        last[size_t(x)] = o + 1;
      }
    }
  }
  int64_t widest() const {
    int64_t most = 1;
    for (size_t o = 0; o < begin.size(); ++o) most = std::max(most, end[o] - begin[o]);
    return most;
  }
  int64_t most_hits() const {
    int64_t most = 1;
    for (size_t x = 0; x < first.size(); ++x) most = std::max(most, last[x] - first[x]);
    return most;
  }
  int64_t count(int64_t o) const { return end[size_t(o)] - begin[size_t(o)]; }
};

// to += scale * from
template <class T>
void add_row(T* to, const T* from, int64_t n, T scale) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}

// f(plane) for all planes; it returns -1 or which of the plane's n values has a bad index. The lowest is the
// result.
template <class F>
int64_t for_each_plane(int64_t planes, int64_t n, int64_t positions, F&& f) {
  std::atomic<int64_t> bad{-1};
  parallel_for(planes, rows_grain(4 * n + positions), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t at = f(plane);
      if (at < 0) continue;
      int64_t known = bad.load();
      while ((known < 0 || plane * n + at < known) && !bad.compare_exchange_weak(known, plane * n + at)) {
      }
    }
  });
  return bad.load();
}

}  // namespace

template <class T>
void adaptive_avg_pool_forward(T* y, const T* x, const PoolProblem& p) {
  if (p.planes * p.out_plane() == 0) return;
  if (side_by_side::adaptive_worthwhile<T>(p)) return side_by_side::adaptive_avg_pool_forward<T>(y, x, p);
  const Windows d(p.d), h(p.h), w(p.w);
  const int64_t rows = p.planes * p.d.out * p.h.out;
  parallel_for(rows, rows_grain(p.planes * p.in_plane() / rows + p.w.out), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> line(size_t(p.w.in));
    RowCursor at(begin, p.d.out, p.h.out);
    for (int64_t row = begin; row < end; ++row, at.next()) {
      fill(line.get(), p.w.in, T(0));
      for (int64_t i = d.begin[size_t(at.d)]; i < d.end[size_t(at.d)]; ++i)
        for (int64_t j = h.begin[size_t(at.h)]; j < h.end[size_t(at.h)]; ++j)
          add_row(line.get(), x + ((at.plane * p.d.in + i) * p.h.in + j) * p.w.in, p.w.in, T(1));
      for (int64_t o = 0; o < p.w.out; ++o) {
        T sum = 0;
        for (int64_t k = w.begin[size_t(o)]; k < w.end[size_t(o)]; ++k) sum += line[k];
        y[row * p.w.out + o] = sum / T(d.count(at.d) * h.count(at.h) * w.count(o));
      }
    }
  });
}

template <class T>
void adaptive_avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p) {
  if (p.planes * p.in_plane() == 0) return;
  if (side_by_side::adaptive_worthwhile<T>(p))
    return side_by_side::adaptive_avg_pool_backward<T>(grad_x, grad_y, p);
  const Windows d(p.d), h(p.h), w(p.w);
  parallel_for(p.planes * p.d.in * p.h.in, rows_grain(2 * p.w.in), [&](int64_t begin, int64_t end) {
    // Output rows spread over the input's columns, kept while input rows share them.
    RowCache cache(d.most_hits(), h.most_hits(), p.d.out, p.h.out);
    memory::Buffer<T> lines(size_t(cache.slots() * p.w.in)), shares(size_t(p.w.out));
    const auto spread = [&](const T* g, int64_t rows, T* line) {
      for (int64_t o = 0; o < p.w.out; ++o) shares[o] = g[o] / T(rows * w.count(o));
      for (int64_t k = 0; k < p.w.in; ++k) {
        T sum = 0;
        for (int64_t o = w.first[size_t(k)]; o < w.last[size_t(k)]; ++o) sum += shares[o];
        line[k] = sum;
      }
    };
    RowCursor at(begin, p.d.in, p.h.in);
    for (int64_t row = begin; row < end; ++row, at.next()) {
      T* to = grad_x + row * p.w.in;
      bool first = true;
      for (int64_t i = d.first[size_t(at.d)]; i < d.last[size_t(at.d)]; ++i)
        for (int64_t j = h.first[size_t(at.h)]; j < h.last[size_t(at.h)]; ++j, first = false) {
          bool fresh;
          T* line = lines + cache.slot(at.plane, i, j, fresh) * p.w.in;
          if (fresh)
            spread(grad_y + ((at.plane * p.d.out + i) * p.h.out + j) * p.w.out, d.count(i) * h.count(j),
                   line);
          if (first)
            std::memcpy(to, line, size_t(p.w.in) * sizeof(T));
          else
            add_row(to, line, p.w.in, T(1));
        }
      if (first) fill(to, p.w.in, T(0));
    }
  });
}

template <class T>
void adaptive_max_pool_forward(T* y, int64_t* indices, const T* x, const PoolProblem& p) {
  if (p.planes * p.out_plane() == 0) return;
  const bool wide = p.in_plane() < (int64_t{1} << 31) &&
                    WideMax<T>::worthwhile(p.w.in / p.w.out, p.in_plane() / p.out_plane(), 1);
  if (!wide && side_by_side::adaptive_worthwhile<T>(p))
    return side_by_side::adaptive_max_pool_forward<T>(y, indices, x, p);
  const Windows d(p.d), h(p.h), w(p.w);
  const int64_t rows = p.planes * p.d.out * p.h.out, pitch = round_up<T>(p.w.out);
  if (wide)
    return parallel_for(rows, rows_grain(p.planes * p.in_plane() / rows), [&](int64_t begin, int64_t end) {
      RowCursor at(begin, p.d.out, p.h.out);
      const PerRow steps{p.h.in * p.w.in, p.w.in};
      for (int64_t row = begin; row < end; ++row, at.next()) {
        const int64_t corner = d.begin[size_t(at.d)] * steps.d + h.begin[size_t(at.h)] * steps.h;
        for (int64_t o = 0; o < p.w.out; ++o) {
          const int64_t first = corner + w.begin[size_t(o)];
          y[row * p.w.out + o] = wide_max(x + at.plane * p.in_plane() + first, d.count(at.d), h.count(at.h),
                                          w.count(o), steps, first, steps, indices[row * p.w.out + o]);
        }
      }
    });
  // Column o of tap j is begin + j, or the window's last column again: seeing it twice changes nothing.
  const int64_t taps = w.widest();
  memory::Buffer<Int<T>> columns(size_t(taps * pitch));
  for (int64_t j = 0; j < taps; ++j)
    for (int64_t o = 0; o < pitch; ++o)
      columns[j * pitch + o] =
          o < p.w.out ? Int<T>(std::min(w.begin[size_t(o)] + j, w.end[size_t(o)] - 1)) : 0;

  parallel_for(rows, rows_grain(4 * (p.planes * p.in_plane() / rows + p.w.out)),
               [&](int64_t begin, int64_t end) {
                 RowCache cache(d.widest(), h.widest(), p.d.in, p.h.in);
                 memory::Buffer<T> best(size_t(cache.slots() * pitch));
                 memory::Buffer<Int<T>> column(size_t(cache.slots() * pitch));
                 const auto better = [](Vec<T> v, Vec<T> b) { return (v > b) | (v != v); };
                 RowCursor at(begin, p.d.out, p.h.out);
                 for (int64_t row = begin; row < end; ++row, at.next()) {
                   bool first = true;
                   for (int64_t i = d.begin[size_t(at.d)]; i < d.end[size_t(at.d)]; ++i)
                     for (int64_t j = h.begin[size_t(at.h)]; j < h.end[size_t(at.h)]; ++j, first = false) {
                       bool fresh;
                       const int64_t slot = cache.slot(at.plane, i, j, fresh) * pitch,
                                     line = (i * p.h.in + j) * p.w.in;
                       if (fresh) {
                         const T* from = x + at.plane * p.in_plane() + line;
                         for (int64_t o = 0; o < pitch; o += kWidth<T>) {
                           Vec<Int<T>> c = load<Int<T>>(columns + o);
                           Vec<T> b = gather<T>(from, c);
                           for (int64_t k = 1; k < taps; ++k) {
                             const Vec<Int<T>> next = load<Int<T>>(columns + k * pitch + o);
                             const Vec<T> v = gather<T>(from, next);
                             const auto take = better(v, b);
                             b = take ? v : b;
                             c = take ? next : c;
                           }
                           store<T>(best + slot + o, b);
                           store<Int<T>>(column + slot + o, c);
                         }
                       }
                       T* y_row = y + row * p.w.out;
                       int64_t* where = indices + row * p.w.out;
                       for (int64_t o = 0; o < p.w.out; ++o) {
                         const T v = best[slot + o];
                         const bool take = first | (v > y_row[o]) | (v != v);
                         y_row[o] = take ? v : y_row[o];
                         where[o] = take ? line + column[slot + o] : where[o];
                       }
                     }
                 }
               });
}

template <class T>
int64_t scatter_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n,
                       int64_t positions) {
  return for_each_plane(planes, n, positions, [=](int64_t plane) -> int64_t {
    fill(y + plane * positions, positions, T(0));
    for (int64_t i = plane * n; i < (plane + 1) * n; ++i) {
      if (uint64_t(indices[i]) >= uint64_t(positions)) return i - plane * n;
      y[plane * positions + indices[i]] = x[i];
    }
    return -1;
  });
}

template <class T>
int64_t scatter_add_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n,
                           int64_t positions) {
  return for_each_plane(planes, n, positions, [=](int64_t plane) -> int64_t {
    fill(y + plane * positions, positions, T(0));
    for (int64_t i = plane * n; i < (plane + 1) * n; ++i) {
      if (uint64_t(indices[i]) >= uint64_t(positions)) return i - plane * n;
      y[plane * positions + indices[i]] += x[i];
    }
    return -1;
  });
}

template <class T>
int64_t gather_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n,
                      int64_t positions) {
  return for_each_plane(planes, n, 0, [=](int64_t plane) -> int64_t {
    for (int64_t i = plane * n; i < (plane + 1) * n; ++i) {
      if (uint64_t(indices[i]) >= uint64_t(positions)) return i - plane * n;
      y[i] = x[plane * positions + indices[i]];
    }
    return -1;
  });
}

#define FASTDL_INSTANTIATE(T)                                                                      \
  template void adaptive_avg_pool_forward<T>(T*, const T*, const PoolProblem&);                    \
  template void adaptive_avg_pool_backward<T>(T*, const T*, const PoolProblem&);                   \
  template void adaptive_max_pool_forward<T>(T*, int64_t*, const T*, const PoolProblem&);          \
  template int64_t scatter_planes<T>(T*, const T*, const int64_t*, int64_t, int64_t, int64_t);     \
  template int64_t scatter_add_planes<T>(T*, const T*, const int64_t*, int64_t, int64_t, int64_t); \
  template int64_t gather_planes<T>(T*, const T*, const int64_t*, int64_t, int64_t, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// What similarity and distance losses need of two arrays of rows, without an array of differences or
// products.
//
//   row products         a = x1 . x2, b = x1 . x1, c = x2 . x2
//                        grad_x1 = ga x2 + 2 gb x1,   grad_x2 = ga x1 + 2 gc x2
//   pairwise distance    r = (sum |d|^p)^(1/p), d = x1 - x2 + eps; p = inf: max |d|; p = 0: how many d are
//                        not 0
//                        grad_x1 = g sign(d) (|d| / r)^(p-1), zero where r = 0; p = inf: g sign(d), shared
//                        by equal maxima
//   all pairs            the same of each row of x1 with each of x2, eps = 0. p = inf: equal maxima get the
//                        whole gradient each
//
// Work: rows over threads. Passes: one read of both arrays forward, one read and one write per gradient
// backward. All pairs: x2 is transposed, so that lanes are its rows, and read from cache for each row of x1.
#include "cpu/distance.h"

#include <algorithm>
#include <cmath>

#include "cpu/elementwise/functions.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/side_by_side.h"
#include "cpu/sweep.h"

namespace fastdl {
namespace {

using namespace sweep;

constexpr int64_t kBlock = 4096;

int64_t grain_for(int64_t n) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(n, 1));
}

// row_sum of a row of any length, blocks added up in double.
template <class T, class F, class... In>
[[gnu::always_inline]] inline double long_row_sum(int64_t n, F f, const In*... in) {
  double sum = 0;
  for (int64_t i = 0; i < n; i += kBlock) sum += double(row_sum<T>(std::min(kBlock, n - i), f, (in + i)...));
  return sum;
}

template <class T>
[[gnu::always_inline]] inline Vec<T> sign(Vec<T> d) {
  return d > T(0) ? broadcast<T>(1) : (d < T(0) ? broadcast<T>(-1) : d * T(0));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> power(Vec<T> magnitude, T p) {  // 0^p = 0 for p > 0
  return magnitude == T(0) ? broadcast<T>(0) : exp<T>(p * log<T>(magnitude));
}

template <class T>
T max_magnitude(const T* x1, const T* x2, T eps, int64_t n) {
  T largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T d = std::abs(x1[i] - x2[i] + eps);
    if (!(d <= largest)) largest = d;  // takes a NaN and keeps it
    if (d != d) break;
  }
  return largest;
}

// (sum |u - v + e|^p)^(1/p)
template <class T>
[[gnu::noinline]] double row_distance(const T* u, const T* v, double p, T e, int64_t n) {
  using V = Vec<T>;
  if (p == 2)
    return std::sqrt(long_row_sum<T>(
        n,
        [=](V s, V t) {
          const V d = s - t + e;
          return d * d;
        },
        u, v));
  if (p == 1) return long_row_sum<T>(n, [=](V s, V t) { return abs<T>(s - t + e); }, u, v);
  if (std::isinf(p)) return double(max_magnitude(u, v, e, n));
  if (p == 0)
    return long_row_sum<T>(
        n, [=](V s, V t) { return s - t + e != T(0) ? broadcast<T>(1) : broadcast<T>(0); }, u, v);
  const T q = T(p);
  return std::pow(long_row_sum<T>(n, [=](V s, V t) { return power<T>(abs<T>(s - t + e), q); }, u, v), 1 / p);
}

}  // namespace

template <class T>
void row_products_forward(T* sums, const T* x1, const T* x2, int64_t rows, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  if (n <= w)  // lanes are rows
    return parallel_for(ceil_div(rows, w), ceil_div(grain_for(n), w), [=](int64_t begin, int64_t end) {
      alignas(64) T u[w * w], v[w * w];
      for (int64_t i = begin * w; i < std::min(rows, end * w); i += w) {
        const int count = int(std::min(w, rows - i));
        interleave(u, x1 + i * n, n, count, n);
        interleave(v, x2 + i * n, n, count, n);
        Vec<T> a{}, b{}, c{};
        for (int64_t j = 0; j < n * w; j += w) {
          const Vec<T> s = load(u + j), t = load(v + j);
          a += s * t, b += s * s, c += t * t;
        }
        store_n(sums + i, a, count);
        store_n(sums + rows + i, b, count);
        store_n(sums + 2 * rows + i, c, count);
      }
    });
  parallel_for(rows, grain_for(n), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double a = 0, b = 0, c = 0;
      auto product = [](Vec<T> u, Vec<T> v) { return u * v; };
      for (int64_t j = 0; j < n; j += kBlock) {  // a block of both rows stays in L1 for its three sums
        const int64_t count = std::min(kBlock, n - j);
        const T *u = x1 + i * n + j, *v = x2 + i * n + j;
        a += double(row_sum<T>(count, product, u, v));
        b += double(row_sum<T>(count, product, u, u));
        c += double(row_sum<T>(count, product, v, v));
      }
      sums[i] = T(a);
      sums[rows + i] = T(b);
      sums[2 * rows + i] = T(c);
    }
  });
}

template <class T>
void row_products_backward(T* grad_x1, T* grad_x2, const T* grad_sums, const T* x1, const T* x2, int64_t rows,
                           int64_t n) {
  const bool streaming = n >= 8 * kWidth<T> && worth_streaming(rows * n * int64_t(sizeof(T)));
  parallel_for(rows, grain_for(n), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *u = x1 + i * n, *v = x2 + i * n;
      const T a = grad_sums[i], b = 2 * grad_sums[rows + i], c = 2 * grad_sums[2 * rows + i];
      if (grad_x1)
        write_row(grad_x1 + i * n, n, streaming, [=](Vec<T> s, Vec<T> t) { return a * t + b * s; }, u, v);
      if (grad_x2)
        write_row(grad_x2 + i * n, n, streaming, [=](Vec<T> s, Vec<T> t) { return a * s + c * t; }, u, v);
    }
    fence();
  });
}

template <class T>
void pairwise_distance_forward(T* distance, const T* x1, const T* x2, double p, double eps, int64_t rows,
                               int64_t n) {
  parallel_for(rows, grain_for(n), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) distance[i] = T(row_distance(x1 + i * n, x2 + i * n, p, T(eps), n));
  });
}

template <class T>
void pairwise_distance_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2,
                                const T* distance, double p, double eps, int64_t rows, int64_t n) {
  const T e = T(eps);
  const bool streaming = n >= 8 * kWidth<T> && worth_streaming(rows * n * int64_t(sizeof(T)));
  parallel_for(rows, grain_for(n), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *u = x1 + i * n, *v = x2 + i * n;
      T* out = grad_x1 + i * n;
      const T g = grad_distance[i], r = distance[i];
      if (r == T(0) || p == 0) {
        write_row(out, n, streaming, [] { return Vec<T>{}; });
      } else if (p == 2) {
        const T scale = g / r;
        write_row(out, n, streaming, [=](Vec<T> s, Vec<T> t) { return scale * (s - t + e); }, u, v);
      } else if (p == 1) {
        write_row(out, n, streaming, [=](Vec<T> s, Vec<T> t) { return g * sign<T>(s - t + e); }, u, v);
      } else if (std::isinf(p)) {
        int64_t maxima = 0;
        for (int64_t j = 0; j < n; ++j) maxima += std::abs(u[j] - v[j] + e) == r;
        const T share = g / T(maxima);
        write_row(
            out, n, streaming,
            [=](Vec<T> s, Vec<T> t) {
              const Vec<T> d = s - t + e;
              return abs<T>(d) == r ? share * sign<T>(d) : broadcast<T>(0);
            },
            u, v);
      } else {
        const T exponent = T(p - 1), inverse = T(1) / r;
        write_row(
            out, n, streaming,
            [=](Vec<T> s, Vec<T> t) {
              const Vec<T> d = s - t + e;
              // At d = 0 with p < 1 the slope is infinite; zero, as in PyTorch, keeps training alive.
              return g * sign<T>(d) * power<T>(abs<T>(d) * inverse, exponent);
            },
            u, v);
      }
    }
    fence();
  });
}

namespace {

// The rows of x2 in lanes: element m of row r of a batch's matrix is row(b, m)[r]; zeros behind the last row.
template <class T>
class Lanes {
 public:
  Lanes(const T* x, const CdistProblem& p)
      : n_(p.n),
        width_(ceil_div(p.count2, kStep) * kStep),
        // Rows a power of two apart would compete for the same cache sets.
        pitch_(width_ % 256 == 0 ? width_ + kStep : width_),
        data_(size_t(p.batch * p.n * pitch_)) {
    parallel_for(p.batch * p.n, grain_for(width_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = x + i / n_ * p.count2 * n_ + i % n_;
        T* to = data_ + i * pitch_;
        for (int64_t r = 0; r < p.count2; ++r) to[r] = from[r * n_];
        std::fill(to + p.count2, to + width_, T(0));
      }
    });
  }
  static constexpr int64_t kStep = 2 * kWidth<T>;
  const T* row(int64_t b, int64_t m) const { return data_ + (b * n_ + m) * pitch_; }
  int64_t width() const { return width_; }
  int64_t pitch() const { return pitch_; }

 private:
  int64_t n_, width_, pitch_;
  memory::Buffer<T> data_;
};

// One row of x1 with all of x2: `values` are distances to be found, or the scaled gradients of `lengths`.
template <class T>
struct Pairs {
  const T* x;
  const Lanes<T>& others;
  int64_t batch, n, count;
  T p;
  T* values;
  const T* lengths;
  int64_t first = 0;  // of the rows of x2
};

// values[r] = sum with sum = step(sum, d) for each d = x[m] - x2[r, m]; values has room for whole steps.
template <class T, class Step>
void row_distances(const Pairs<T>& pairs) {
  constexpr int w = kWidth<T>;
  const Step step{pairs.p};
  for (int64_t r = pairs.first; r < pairs.others.width(); r += Lanes<T>::kStep) {
    Vec<T> first{}, second{};
    for (int64_t m = 0; m < pairs.n; ++m) {
      const T* y = pairs.others.row(pairs.batch, m) + r;
      first = step(first, pairs.x[m] - load(y));
      second = step(second, pairs.x[m] - load(y + w));
    }
    store(pairs.values + r, first);
    store(pairs.values + r + w, second);
  }
}

// grad[m] = sum over r of slope(d, values[r], lengths[r]); both have zeros behind the last row.
template <class T, class Slope>
void row_slopes(const Pairs<T>& pairs, T* grad) {
  const Slope slope{pairs.p};
  const auto columns = [&]<int count>(int64_t m) {  // some at a time: no sum waits for itself
    Vec<T> sums[count]{};
    const T* y = pairs.others.row(pairs.batch, m);
    const int64_t pitch = pairs.others.pitch();
    for (int64_t r = 0; r < pairs.count; r += kWidth<T>) {
      const Vec<T> value = load(pairs.values + r), length = load(pairs.lengths + r);
      for (int k = 0; k < count; ++k)
        sums[k] += slope(pairs.x[m + k] - load(y + k * pitch + r), value, length);
    }
    for (int k = 0; k < count; ++k) grad[m + k] = reduce_add<T>(sums[k]);
  };
  int64_t m = 0;
  for (; m + 4 <= pairs.n; m += 4) columns.template operator()<4>(m);
  for (; m < pairs.n; ++m) columns.template operator()<1>(m);
}

template <class T>
[[gnu::noinline]] Vec<T> any_power(Vec<T> magnitude, T p) {
  return power<T>(magnitude, p);
}

// What is summed for a distance, and its slopes.
template <class T>
struct Squares {
  T p;
  Vec<T> operator()(Vec<T> sum, Vec<T> d) const { return sum + d * d; }
  Vec<T> operator()(Vec<T> d, Vec<T> g, Vec<T>) const { return g * d; }
};
template <class T>
struct Magnitudes {
  T p;
  Vec<T> operator()(Vec<T> sum, Vec<T> d) const { return sum + abs<T>(d); }
  Vec<T> operator()(Vec<T> d, Vec<T> g, Vec<T>) const { return g * sign<T>(d); }
};
template <class T>
struct Largest {
  T p;
  Vec<T> operator()(Vec<T> most, Vec<T> d) const {  // takes a NaN and keeps it
    return (abs<T>(d) <= most) | (most != most) ? most : abs<T>(d);
  }
  Vec<T> operator()(Vec<T> d, Vec<T> g, Vec<T> r) const { return abs<T>(d) == r ? g * sign<T>(d) : Vec<T>{}; }
};
template <class T>
struct Powers {  // p = 0: how many are not 0
  T p;
  Vec<T> operator()(Vec<T> sum, Vec<T> d) const {
    return sum + (p == T(0) ? (d != T(0) ? broadcast<T>(1) : Vec<T>{}) : any_power(abs<T>(d), p));
  }
  Vec<T> operator()(Vec<T> d, Vec<T> g, Vec<T> r) const {
    // At d = 0 with p < 1 the slope is infinite; zero, as in PyTorch.
    return g == T(0) ? Vec<T>{} : g * sign<T>(d) * any_power(abs<T>(d) / r, p - T(1));
  }
};

// f(pairs, its index in all batches) for every row of x1.
template <class T, class F>
void for_rows(const T* x1, const T* x2, double p, const CdistProblem& problem, F f) {
  const Lanes<T> lanes(x2, problem);
  const int64_t width = lanes.width();
  parallel_for(problem.batch * problem.count1, grain_for(problem.n * width), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> values{size_t(width)}, lengths{size_t(width)};
    std::fill_n(values.get(), width, T(0));
    std::fill_n(lengths.get(), width, T(0));
    for (int64_t i = begin; i < end; ++i)
      f(Pairs<T>{x1 + i * problem.n, lanes, i / problem.count1, problem.n, problem.count2, T(p), values.get(),
                 lengths.get()},
        lengths.get(), i);
  });
}

}  // namespace

namespace {

// The distances of one row of x1, in pairs.values.
template <class T>
[[gnu::noinline]] void distances_of(const Pairs<T>& pairs) {
  const T p = pairs.p;
  T* values = pairs.values;
  const int64_t begin = pairs.first, end = pairs.count;
  if (p == T(2)) {
    row_distances<T, Squares<T>>(pairs);
    for (int64_t r = begin; r < end; r += kWidth<T>) store(values + r, square_root<T>(load(values + r)));
  } else if (p == T(1)) {
    row_distances<T, Magnitudes<T>>(pairs);
  } else if (std::isinf(p)) {
    row_distances<T, Largest<T>>(pairs);
  } else {
    row_distances<T, Powers<T>>(pairs);
    if (p != T(0))
      for (int64_t r = begin; r < end; r += kWidth<T>)
        store(values + r, any_power(load(values + r), T(1) / p));
  }
}

}  // namespace

template <class T>
void cdist_forward(T* distance, const T* x1, const T* x2, double p, const CdistProblem& problem) {
  for_rows(x1, x2, p, problem, [&](const Pairs<T>& pairs, T*, int64_t i) {
    distances_of(pairs);
    std::copy_n(pairs.values, problem.count2, distance + i * problem.count2);
  });
}

// Rows of some vectors are compared pair by pair: lanes would be padded where there are few of them.
template <class T>
void pdist_forward(T* distance, const T* x, double p, int64_t count, int64_t n) {
  const auto pairs_before = [=](int64_t i) { return i * (2 * count - i - 1) / 2; };
  if (n < 4 * kWidth<T> && count > 2 * kWidth<T>)
    return for_rows(x, x, p, {1, count, count, n}, [&](Pairs<T> pairs, T*, int64_t i) {
      pairs.first = (i + 1) / Lanes<T>::kStep * Lanes<T>::kStep;
      distances_of(pairs);
      std::copy(pairs.values + i + 1, pairs.values + count, distance + pairs_before(i));
    });
  parallel_for(pairs_before(count), grain_for(n), [=](int64_t begin, int64_t end) {
    int64_t i = 0;
    while (pairs_before(i + 1) <= begin) ++i;
    int64_t j = i + 1 + begin - pairs_before(i);
    for (int64_t k = begin; k < end; ++k) {
      distance[k] = T(row_distance(x + i * n, x + j * n, p, T(0), n));
      if (++j == count) j = ++i + 1;
    }
  });
}

template <class T>
void cdist_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2, const T* distance, double p,
                    const CdistProblem& problem) {
  if (p == 0) {
    std::fill_n(grad_x1, problem.batch * problem.count1 * problem.n, T(0));
    return;
  }
  const auto row = p == 2          ? &row_slopes<T, Squares<T>>
                   : p == 1        ? &row_slopes<T, Magnitudes<T>>
                   : std::isinf(p) ? &row_slopes<T, Largest<T>>
                                   : &row_slopes<T, Powers<T>>;
  for_rows(x1, x2, p, problem, [&](const Pairs<T>& pairs, T* lengths, int64_t i) {
    const T *g = grad_distance + i * problem.count2, *length = distance + i * problem.count2;
    for (int64_t r = 0; r < problem.count2; ++r) {
      lengths[r] = length[r];
      pairs.values[r] = length[r] == T(0) ? T(0) : p == 2 ? g[r] / length[r] : g[r];
    }
    row(pairs, grad_x1 + i * problem.n);
  });
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void row_products_forward<T>(T*, const T*, const T*, int64_t, int64_t);                        \
  template void row_products_backward<T>(T*, T*, const T*, const T*, const T*, int64_t, int64_t);         \
  template void pairwise_distance_forward<T>(T*, const T*, const T*, double, double, int64_t, int64_t);   \
  template void pairwise_distance_backward<T>(T*, const T*, const T*, const T*, const T*, double, double, \
                                              int64_t, int64_t);                                          \
  template void cdist_forward<T>(T*, const T*, const T*, double, const CdistProblem&);                    \
  template void pdist_forward<T>(T*, const T*, double, int64_t, int64_t);                                 \
  template void cdist_backward<T>(T*, const T*, const T*, const T*, const T*, double, const CdistProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

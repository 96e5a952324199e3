// What similarity and distance losses need of two arrays of rows, without an array of differences or
// products.
//
//   row products         a = x1 . x2, b = x1 . x1, c = x2 . x2
//                        grad_x1 = ga x2 + 2 gb x1,   grad_x2 = ga x1 + 2 gc x2
//   pairwise distance    r = (sum |d|^p)^(1/p), d = x1 - x2 + eps; p = inf: max |d|; p = 0: how many d are
//   not 0
//                        grad_x1 = g sign(d) (|d| / r)^(p-1), zero where r = 0; p = inf: g sign(d), shared by
//                        equal maxima
//   all pairs            the same of each row of x1 with each of x2, eps = 0. p = inf: equal maxima get the
//                        whole gradient each
//
// Work: rows over threads. Passes: one read of both arrays forward, one read and one write per gradient
// backward. All pairs: x2 is transposed, so that lanes are its rows, and read from cache for each row of x1.
#include "cpu/distance.h"

#include <algorithm>
#include <cmath>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
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
[[gnu::always_inline]] inline Vec<T> root(Vec<T> v) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) v[i] = std::sqrt(v[i]);
  return v;
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

}  // namespace

template <class T>
void row_products_forward(T* sums, const T* x1, const T* x2, int64_t rows, int64_t n) {
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
  const T e = T(eps), q = T(p);
  parallel_for(rows, grain_for(n), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *u = x1 + i * n, *v = x2 + i * n;
      double r;
      if (p == 2) {
        r = std::sqrt(long_row_sum<T>(
            n,
            [=](Vec<T> s, Vec<T> t) {
              const Vec<T> d = s - t + e;
              return d * d;
            },
            u, v));
      } else if (p == 1) {
        r = long_row_sum<T>(n, [=](Vec<T> s, Vec<T> t) { return abs<T>(s - t + e); }, u, v);
      } else if (std::isinf(p)) {
        r = double(max_magnitude(u, v, e, n));
      } else if (p == 0) {
        r = long_row_sum<T>(
            n, [=](Vec<T> s, Vec<T> t) { return s - t + e != T(0) ? broadcast<T>(1) : broadcast<T>(0); }, u,
            v);
      } else {
        r = std::pow(long_row_sum<T>(
                         n, [=](Vec<T> s, Vec<T> t) { return power<T>(abs<T>(s - t + e), q); }, u, v),
                     1 / p);
      }
      distance[i] = T(r);
    }
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
      : n_(p.n), width_((p.count2 + kStep - 1) / kStep * kStep), data_(size_t(p.batch * p.n * width_)) {
    parallel_for(p.batch * p.n, grain_for(width_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = x + i / n_ * p.count2 * n_ + i % n_;
        T* to = data_ + i * width_;
        for (int64_t r = 0; r < p.count2; ++r) to[r] = from[r * n_];
        std::fill(to + p.count2, to + width_, T(0));
      }
    });
  }
  static constexpr int64_t kStep = 2 * kWidth<T>;
  const T* row(int64_t b, int64_t m) const { return data_ + (b * n_ + m) * width_; }
  int64_t width() const { return width_; }

 private:
  int64_t n_, width_;
  memory::Buffer<T> data_;
};

// f(b, row of x1, its index in all batches) for every row of x1.
template <class T, class F>
void for_rows(const T* x1, const CdistProblem& p, int64_t width, F&& f) {
  parallel_for(p.batch * p.count1, grain_for(p.n * width), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> scratch{size_t(width)};
    for (int64_t i = begin; i < end; ++i) f(i / p.count1, x1 + i * p.n, i, scratch.get());
  });
}

// result[r] = finish(sum) with sum = step(sum, d) for each d = x1[m] - x2[r, m].
template <class T, class Step, class Finish>
void distances(T* result, const T* x1, const Lanes<T>& x2, const CdistProblem& p, Step step, Finish finish) {
  constexpr int w = kWidth<T>;
  for_rows(x1, p, x2.width(), [&](int64_t b, const T* x, int64_t i, T* scratch) {
    for (int64_t r = 0; r < x2.width(); r += Lanes<T>::kStep) {
      Vec<T> first{}, second{};
      for (int64_t m = 0; m < p.n; ++m) {
        const T* y = x2.row(b, m) + r;
        first = step(first, x[m] - load(y));
        second = step(second, x[m] - load(y + w));
      }
      store(scratch + r, finish(first));
      store(scratch + r + w, finish(second));
    }
    std::copy_n(scratch, p.count2, result + i * p.count2);
  });
}

// grad_x1[m] = sum over r of slope(d, scale(g[r], distance[r]), distance[r])
template <class T, class Scale, class Slope>
void distance_slopes(T* grad_x1, const T* g, const T* x1, const Lanes<T>& x2, const T* distance,
                     const CdistProblem& p, Scale scale, Slope slope) {
  constexpr int w = kWidth<T>;
  for_rows(x1, p, x2.width(), [&](int64_t b, const T* x, int64_t i, T* scratch) {
    const T *grad = g + i * p.count2, *length = distance + i * p.count2;
    std::fill(scratch, scratch + x2.width(), T(0));
    for (int64_t r = 0; r < p.count2; ++r) scratch[r] = scale(grad[r], length[r]);
    for (int64_t m = 0; m < p.n; ++m) {
      const T* y = x2.row(b, m);
      Vec<T> sum{};
      int64_t r = 0;
      for (; r + w <= p.count2; r += w) sum += slope(x[m] - load(y + r), load(scratch + r), load(length + r));
      if (r < p.count2) {
        const int rest = int(p.count2 - r);
        sum += slope(x[m] - load_n(y + r, rest), load_n(scratch + r, rest), load_n(length + r, rest));
      }
      grad_x1[i * p.n + m] = reduce_add<T>(sum);
    }
  });
}

}  // namespace

template <class T>
void cdist_forward(T* distance, const T* x1, const T* x2, double p, const CdistProblem& problem) {
  using V = Vec<T>;
  const Lanes<T> lanes(x2, problem);
  const auto same = [](V sum) { return sum; };
  const auto run = [&](auto step, auto finish) { distances(distance, x1, lanes, problem, step, finish); };
  if (p == 2) return run([](V sum, V d) { return sum + d * d; }, [](V sum) { return root<T>(sum); });
  if (p == 1) return run([](V sum, V d) { return sum + abs<T>(d); }, same);
  if (p == 0) return run([](V sum, V d) { return sum + (d != T(0) ? broadcast<T>(1) : V{}); }, same);
  if (std::isinf(p))  // takes a NaN and keeps it
    return run([](V most, V d) { return (abs<T>(d) <= most) | (most != most) ? most : abs<T>(d); }, same);
  const T q = T(p), inverse = T(1 / p);
  run([=](V sum, V d) { return sum + power<T>(abs<T>(d), q); },
      [=](V sum) { return power<T>(sum, inverse); });
}

template <class T>
void cdist_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2, const T* distance, double p,
                    const CdistProblem& problem) {
  using V = Vec<T>;
  const Lanes<T> lanes(x2, problem);
  const auto run = [&](auto scale, auto slope) {
    distance_slopes(grad_x1, grad_distance, x1, lanes, distance, problem, scale, slope);
  };
  const auto plain = [](T g, T) { return g; };
  if (p == 0)
    std::fill_n(grad_x1, problem.batch * problem.count1 * problem.n, T(0));
  else if (p == 2)
    run([](T g, T r) { return r == T(0) ? T(0) : g / r; }, [](V d, V c, V) { return c * d; });
  else if (p == 1)
    run(plain, [](V d, V c, V) { return c * sign<T>(d); });
  else if (std::isinf(p))
    run(plain, [](V d, V c, V r) { return abs<T>(d) == r ? c * sign<T>(d) : V{}; });
  else
    run([](T g, T r) { return r == T(0) ? T(0) : g; },
        [exponent = T(p - 1)](V d, V c, V r) {
          // At d = 0 with p < 1 the slope is infinite; zero, as in PyTorch.
          return c == T(0) ? V{} : c * sign<T>(d) * power<T>(abs<T>(d) / r, exponent);
        });
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void row_products_forward<T>(T*, const T*, const T*, int64_t, int64_t);                        \
  template void row_products_backward<T>(T*, T*, const T*, const T*, const T*, int64_t, int64_t);         \
  template void pairwise_distance_forward<T>(T*, const T*, const T*, double, double, int64_t, int64_t);   \
  template void pairwise_distance_backward<T>(T*, const T*, const T*, const T*, const T*, double, double, \
                                              int64_t, int64_t);                                          \
  template void cdist_forward<T>(T*, const T*, const T*, double, const CdistProblem&);                    \
  template void cdist_backward<T>(T*, const T*, const T*, const T*, const T*, double, const CdistProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// What similarity and distance losses need of two arrays of rows, without an array of differences or
// products.
//
//   row products         a = x1 . x2, b = x1 . x1, c = x2 . x2
//                        grad_x1 = ga x2 + 2 gb x1,   grad_x2 = ga x1 + 2 gc x2
//   pairwise distance    r = (sum |d|^p)^(1/p), d = x1 - x2 + eps; p = inf: max |d|; p = 0: how many d are
//   not 0
//                        grad_x1 = g sign(d) (|d| / r)^(p-1), zero where r = 0; p = inf: g sign(d), shared by
//                        equal maxima
//
// Work: rows over threads. Passes: one read of both arrays forward, one read and one write per gradient
// backward.
#include "cpu/distance.h"

#include <cmath>

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

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void row_products_forward<T>(T*, const T*, const T*, int64_t, int64_t);                        \
  template void row_products_backward<T>(T*, T*, const T*, const T*, const T*, int64_t, int64_t);         \
  template void pairwise_distance_forward<T>(T*, const T*, const T*, double, double, int64_t, int64_t);   \
  template void pairwise_distance_backward<T>(T*, const T*, const T*, const T*, const T*, double, double, \
                                              int64_t, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// What all normalisations are made of, on one contiguous row: moments, gradient sums, and two affine maps.
//
// Moments are computed block by block, each block read twice while it sits in the L1 cache: its mean first,
// then the sums of deviations from that (rounded) mean and of their squares, which correct one another;
// blocks are merged in float64 by Chan's formula. One pass over memory, and no cancellation however large the
// mean. Everything is inline in level units, like simd/.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/simd/simd.h"

namespace fastdl::norm {

using simd::kWidth;
using simd::Vec;

inline constexpr int64_t kGrain = 16384;  // elements worth about 10 us
inline constexpr int64_t kBlock = 2048;   // elements of a block: 8 or 16 kB

struct Moments {
  double count = 0, mean = 0, m2 = 0;  // m2: sum of squared deviations from mean

  void merge(const Moments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    const double total = count + other.count, delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

template <class T>
[[gnu::always_inline]] inline Vec<simd::Int<T>> first_lanes(int n) {
  Vec<simd::Int<T>> lane;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) lane[i] = simd::Int<T>(i);
  return lane < simd::Int<T>(n);
}

// Of `rows` rows of n numbers, `step` apart: together at most kBlock, or one row.
template <class T>
[[gnu::always_inline]] inline Moments block_moments(const T* x, int64_t rows, int64_t step, int64_t n) {
  using V = Vec<T>;
  constexpr int w = kWidth<T>;
  const double count = double(rows * n);
  V s[4] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * step;
    int64_t i = 0;
    for (; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) s[k] += simd::load(row + i + k * w);
    for (; i + w <= n; i += w) s[0] += simd::load(row + i);
    if (i < n) s[1] += simd::load_n(row + i, int(n - i));
  }
  const T pivot = T(double(simd::reduce_add<T>((s[0] + s[1]) + (s[2] + s[3]))) / count);

  const V p = simd::broadcast<T>(pivot);
  V d[2] = {}, q[2] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * step;
    int64_t i = 0;
    for (; i + 2 * w <= n; i += 2 * w)
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        const V v = simd::load(row + i + k * w) - p;
        d[k] += v;
        q[k] = v * v + q[k];
      }
    for (; i + w <= n; i += w) {
      const V v = simd::load(row + i) - p;
      d[0] += v;
      q[0] = v * v + q[0];
    }
    if (i < n) {
      const V v = first_lanes<T>(int(n - i)) ? simd::load_n(row + i, int(n - i)) - p : simd::broadcast<T>(0);
      d[1] += v;
      q[1] = v * v + q[1];
    }
  }
  const double deviation = double(simd::reduce_add<T>(d[0] + d[1])),
               squares = double(simd::reduce_add<T>(q[0] + q[1]));
  return {count, double(pivot) + deviation / count,
          std::max(squares - deviation * deviation / count, squares * 0)};
}

template <class T>
[[gnu::noinline]] Moments row_moments(const T* x, int64_t n) {
  if (n <= kBlock) return block_moments(x, 1, 0, n);
  Moments all;
  for (int64_t i = 0; i < n; i += kBlock) all.merge(block_moments(x + i, 1, 0, std::min(kBlock, n - i)));
  return all;
}

// Of `rows` rows of n numbers, `step` apart: short ones share their ends.
template <class T>
[[gnu::noinline]] Moments rows_moments(const T* x, int64_t rows, int64_t step, int64_t n) {
  const int64_t most = n > kBlock / 2 ? 1 : kBlock / n;
  Moments all;
  for (int64_t r = 0; r < rows; r += most)
    all.merge(most == 1 ? row_moments(x + r * step, n)
                        : block_moments(x + r * step, std::min(most, rows - r), step, n));
  return all;
}

// A float64 mean as the sum of a T and a small rest: x - high is exact for x near it, the rest goes where b
// goes.
template <class T>
struct Center {
  T high;
  double rest;
  explicit Center(double mean) : high(T(mean)), rest(mean - double(high)) {}
};

// y = (x - center) * a + b
template <class T>
[[gnu::noinline]] void row_affine(T* y, const T* x, int64_t n, T center, T a, T b) {
  constexpr int w = kWidth<T>;
  const Vec<T> shift = simd::broadcast<T>(b);
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) {
    const Vec<T> first = (simd::load(x + i) - center) * a + shift;
    const Vec<T> second = (simd::load(x + i + w) - center) * a + shift;
    simd::store<T>(y + i, first);  // a line's halves at once, where vectors are half a line
    simd::store<T>(y + i + w, second);
  }
  for (; i + w <= n; i += w) simd::store<T>(y + i, (simd::load(x + i) - center) * a + shift);
  if (i < n) simd::store_n(y + i, (simd::load_n(x + i, int(n - i)) - center) * a + shift, int(n - i));
}

// Sums of g and of g * (x - center).
struct GradSums {
  double g = 0, gx = 0;
  void add(const GradSums& other) {
    g += other.g;
    gx += other.gx;
  }
};
// Over `rows` rows of n numbers, `step` apart.
template <class T>
[[gnu::noinline]] GradSums rows_grad_sums(const T* g, const T* x, int64_t rows, int64_t step, int64_t n,
                                          T center) {
  using V = Vec<T>;
  constexpr int w = kWidth<T>;
  GradSums sums;
  V s[2] = {}, sx[2] = {};
  int64_t summed = 0;  // numbers in s and sx
  const auto flush = [&] {
    sums.add({double(simd::reduce_add<T>(s[0] + s[1])), double(simd::reduce_add<T>(sx[0] + sx[1]))});
    s[0] = s[1] = sx[0] = sx[1] = V{};
    summed = 0;
  };
  for (int64_t r = 0; r < rows; ++r, g += step, x += step)
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t end = std::min(n, begin + kBlock);
      if (summed + end - begin > kBlock) flush();
      int64_t i = begin;
      for (; i + 2 * w <= end; i += 2 * w)
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          const V v = simd::load(g + i + k * w);
          s[k] += v;
          sx[k] = v * (simd::load(x + i + k * w) - center) + sx[k];
        }
      for (; i + w <= end; i += w) {
        const V v = simd::load(g + i);
        s[0] += v;
        sx[0] = v * (simd::load(x + i) - center) + sx[0];
      }
      if (i < end) {  // lanes beyond the end: g is 0, and so is center - center
        const V v = simd::load_n(g + i, int(end - i));
        s[1] += v;
        const V d =
            first_lanes<T>(int(end - i)) ? simd::load_n(x + i, int(end - i)) - center : simd::broadcast<T>(0);
        sx[1] = v * d + sx[1];
      }
      summed += end - begin;
    }
  flush();
  return sums;
}

// grad_x = g * a + (x - center) * b + c
template <class T>
[[gnu::noinline]] void row_combine(T* grad_x, const T* g, const T* x, int64_t n, T center, T a, T b, T c) {
  constexpr int w = kWidth<T>;
  const Vec<T> shift = simd::broadcast<T>(c);
  int64_t i = 0;
  for (; i + w <= n; i += w)
    simd::store<T>(grad_x + i, simd::load(g + i) * a + ((simd::load(x + i) - center) * b + shift));
  if (i < n)
    simd::store_n(
        grad_x + i,
        simd::load_n(g + i, int(n - i)) * a + ((simd::load_n(x + i, int(n - i)) - center) * b + shift),
        int(n - i));
}

}  // namespace fastdl::norm

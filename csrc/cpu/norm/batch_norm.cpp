// Batch normalisation of x (N, C, S), per channel over N and S (n = N S numbers):
//
//   y = (x - mean) r w + b,  r = 1 / sqrt(var + eps)          saved: x, mean, var
//   grad_b = sum g,  grad_w = r sum g (x - mean)
//   grad_x = w r (g - grad_b / n - (x - mean) r grad_w / n)   (with given statistics: w r g)
//
// Two layouts (in_columns chooses). Rows: a channel's N rows of S numbers, cut into fixed pieces of rows. With
// enough channels for the threads one task takes a channel from statistics to result, so that the second pass
// finds it in the L2 cache: one read and one write of memory forward, two reads and one write backward. With
// few channels the pieces are the tasks, in two phases. Columns (small S, above all matrices (N, C)): C S
// columns side by side in vectors, tiles of rows as tasks; the S columns of a channel are merged at the end.
// Partial sums belong to pieces and tiles, not to threads: the result does not depend on the number of
// threads.
#include <vector>

#include "cpu/norm/norm.h"
#include "cpu/norm/rows.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/map_vectors.h"

namespace fastdl {
namespace {

using namespace norm;

constexpr int64_t kPieceElements = 32768;              // of a channel: a piece of its rows
constexpr int64_t kTileRows = 64, kTileColumns = 512;  // 128 kB of float32: read again from L2

// A row costs its beginning and end, and neighbouring rows of a channel lie far apart; a column costs its merge
// into the channel, which a few rows of the batch do not outweigh.
bool in_columns(const BatchNormProblem& p) {
  return p.inner < 8 || (p.inner < 50 && p.inner <= 5 * p.batch);
}

// y = (x - center) * a + b for one channel.
template <class T>
struct Affine {
  T center, a, b;
};
template <class T>
Affine<T> affine_of(double mean, double var, double eps, const T* weight, const T* bias, int64_t c) {
  const Center<T> center(mean);
  const double a = (weight ? double(weight[c]) : 1.0) / std::sqrt(var + eps);
  return {center.high, T(a), T((bias ? double(bias[c]) : 0.0) - center.rest * a)};
}

// grad_x = g * a + (x - center) * b + c for one channel, and the sums that the other gradients are made of.
template <class T>
struct Combination {
  T center, a, b, c;
};
template <class T>
Combination<T> combination_of(const GradSums& sums, double mean, double var, double eps, double count,
                              const T* weight, int64_t c, bool training, T* grad_weight, T* grad_bias) {
  const Center<T> center(mean);
  const double r = 1.0 / std::sqrt(var + eps);
  const double gx = sums.gx - center.rest * sums.g;
  if (grad_weight) grad_weight[c] = T(gx * r);
  if (grad_bias) grad_bias[c] = T(sums.g);
  const double a = (weight ? double(weight[c]) : 1.0) * r;
  if (!training) return {center.high, T(a), T(0), T(0)};
  const double b = -a * r * r * gx / count;
  return {center.high, T(a), T(b), T(-a * sums.g / count - b * center.rest)};
}

// For every channel: total = reduce(c, n0, n1) over pieces of the batch, merged in order; finish(c, total);
// then apply(c, n0, n1) for the pieces again.
template <class Total, class Reduce, class Merge, class Finish, class Apply>
void by_channel(const BatchNormProblem& p, Reduce reduce, Merge merge, Finish finish, Apply apply) {
  const int64_t rows = std::max<int64_t>(1, kPieceElements / p.inner);
  const int64_t pieces = ceil_div(p.batch, rows);
  const auto end_of = [&](int64_t piece) { return std::min(p.batch, (piece + 1) * rows); };
  if (pieces == 1 || p.channels >= 2 * num_threads()) {
    parallel_for(p.channels, std::max<int64_t>(1, kGrain / (p.batch * p.inner)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t c = begin; c < end; ++c) {
                     Total total;
                     for (int64_t i = 0; i < pieces; ++i) merge(total, reduce(c, i * rows, end_of(i)));
                     finish(c, total);
                     for (int64_t i = 0; i < pieces; ++i) apply(c, i * rows, end_of(i));
                   }
                 });
    return;
  }
  std::vector<Total> partial(size_t(p.channels * pieces));
  parallel_tasks(p.channels * pieces, [&](int64_t task) {
    const int64_t c = task / pieces, i = task % pieces;
    partial[size_t(task)] = reduce(c, i * rows, end_of(i));
  });
  for (int64_t c = 0; c < p.channels; ++c) {
    Total total;
    for (int64_t i = 0; i < pieces; ++i) merge(total, partial[size_t(c * pieces + i)]);
    finish(c, total);
  }
  parallel_tasks(p.channels * pieces,
                 [&](int64_t task) { apply(task / pieces, task % pieces * rows, end_of(task % pieces)); });
}

// Columns: tiles of kTileRows x kTileColumns over the matrix (batch, channels * inner).
struct Tiles {
  int64_t columns, down, across;
  explicit Tiles(const BatchNormProblem& p)
      : columns(p.channels * p.inner),
        down(ceil_div(p.batch, kTileRows)),
        across(ceil_div(columns, kTileColumns)) {}

  template <class F>  // f(tile row, first row, last row, first column, last column)
  void for_each(const BatchNormProblem& p, F&& f) const {
    const int64_t tile = std::min(p.batch, kTileRows) * std::min(columns, kTileColumns);
    parallel_for(down * across, std::max<int64_t>(1, kGrain / tile), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = i / across * kTileRows, c = i % across * kTileColumns;
        f(i / across, r, std::min(p.batch, r + kTileRows), c, std::min(columns, c + kTileColumns));
      }
    });
  }
};

// f(first, last) over ranges of channels, whose columns' parts from all tile rows are merged.
template <class F>
void for_channels(const BatchNormProblem& p, const Tiles& tiles, F&& f) {
  parallel_for(p.channels, std::max<int64_t>(1, kGrain / 4 / (tiles.down * p.inner)), f);
}

// f(column, lanes) over [begin, end) in steps of one vector.
template <class T, class F>
[[gnu::always_inline]] inline void for_column_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int w = kWidth<T>;
  int64_t c = begin;
  if constexpr (simd::kBytes < 64 && !simd::kForSize)  // a choice of moves for each is much for short vectors
    for (; c + w <= end; c += w) f(c, w);
  for (; c < end; c += w) f(c, int(std::min<int64_t>(w, end - c)));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> get(const T* p, int lanes) {
  return lanes == kWidth<T> ? simd::load(p) : simd::load_n(p, lanes);
}
template <class T>
[[gnu::always_inline]] inline void put(T* p, Vec<T> v, int lanes) {
  if (lanes == kWidth<T>)
    simd::store<T>(p, v);
  else
    simd::store_n(p, v, lanes);
}

// Adds f(r, c, lanes)[k] over rows [r0, r1) into sums[k][c - c0], k < N: columns inside rows, so that memory
// is walked in order; four rows at a time, so that the sums are fetched and stored a quarter as often.
template <int N, class T, class F>
[[gnu::always_inline]] inline void sum_columns(T (*sums)[kTileColumns], int64_t r0, int64_t r1, int64_t c0,
                                               int64_t c1, F&& f) {
  for (int k = 0; k < N; ++k) std::fill_n(sums[k], c1 - c0, T(0));
  int64_t r = r0;
  for (; r + 4 <= r1; r += 4)
    for_column_vectors<T>(c0, c1, [&](int64_t c, int lanes) {
      Vec<T> v[4][N];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) f(r + i, c, lanes, v[i]);
#pragma GCC unroll 2
      for (int k = 0; k < N; ++k) {
        T* sum = sums[k] + (c - c0);
        put(sum, get(static_cast<const T*>(sum), lanes) + ((v[0][k] + v[1][k]) + (v[2][k] + v[3][k])), lanes);
      }
    });
  for (; r < r1; ++r)
    for_column_vectors<T>(c0, c1, [&](int64_t c, int lanes) {
      Vec<T> v[N];
      f(r, c, lanes, v);
      for (int k = 0; k < N; ++k) {
        T* sum = sums[k] + (c - c0);
        put(sum, get(static_cast<const T*>(sum), lanes) + v[k], lanes);
      }
    });
}

template <class T>
void column_moments(double* mean, double* var, const T* x, const BatchNormProblem& p) {
  const Tiles tiles(p);
  const int64_t m = tiles.columns;
  memory::Buffer<T> partial(
      size_t(tiles.down * m * 3));  // of every tile row: pivots, sums of deviations, of squares
  tiles.for_each(p, [&](int64_t down, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    T pivot[1][kTileColumns], sums[2][kTileColumns];
    sum_columns<1>(pivot, r0, r1, c0, c1,
                   [&](int64_t r, int64_t c, int lanes, Vec<T>* v) { v[0] = get(x + r * m + c, lanes); });
    for (int64_t i = 0; i < c1 - c0; ++i) pivot[0][i] /= T(r1 - r0);
    sum_columns<2>(sums, r0, r1, c0, c1, [&](int64_t r, int64_t c, int lanes, Vec<T>* v) {
      v[0] = get(x + r * m + c, lanes) - get(static_cast<const T*>(pivot[0] + (c - c0)), lanes);
      v[1] = v[0] * v[0];
    });
    T* out = partial.get() + down * 3 * m + c0;
    std::copy_n(pivot[0], c1 - c0, out);
    std::copy_n(sums[0], c1 - c0, out + m);
    std::copy_n(sums[1], c1 - c0, out + 2 * m);
  });
  // The common mean first, then every part's squares about it: no division in the loops, tile rows in order.
  const double total = double(p.batch * p.inner);
  for_channels(p, tiles, [&](int64_t first, int64_t last) {
    const auto parts = [&](auto&& add) {
      for (int64_t down = 0; down < tiles.down; ++down) {
        const T* in = partial.get() + down * 3 * m;
        const double count = double(std::min(p.batch, (down + 1) * kTileRows) - down * kTileRows);
        for (int64_t c = first; c < last; ++c)
          for (int64_t i = c * p.inner; i < (c + 1) * p.inner; ++i)
            add(c, count, 1 / count, double(in[i]), double(in[m + i]), double(in[2 * m + i]));
      }
    };
    std::fill(mean + first, mean + last, 0.0);
    std::fill(var + first, var + last, 0.0);
    parts([&](int64_t c, double count, double, double pivot, double d, double) {
      mean[c] += pivot * count + d;
    });
    for (int64_t c = first; c < last; ++c) mean[c] /= total;
    parts([&](int64_t c, double count, double share, double pivot, double d, double q) {
      const double off = pivot + d * share - mean[c];
      var[c] += std::max(q - d * d * share, q * 0) + count * off * off;
    });
    for (int64_t c = first; c < last; ++c) var[c] /= total;
  });
}

template <class T>
void apply_columns(T* y, const T* x, const double* mean, const double* var, const T* weight, const T* bias,
                   const BatchNormProblem& p) {
  const Tiles tiles(p);
  const int64_t m = tiles.columns;
  memory::Buffer<T> columns(size_t(3 * m));
  T *center = columns, *a = center + m, *b = a + m;
  for (int64_t c = 0; c < p.channels; ++c) {
    const Affine<T> f = affine_of(mean[c], var[c], p.eps, weight, bias, c);
    std::fill_n(center + c * p.inner, p.inner, f.center);
    std::fill_n(a + c * p.inner, p.inner, f.a);
    std::fill_n(b + c * p.inner, p.inner, f.b);
  }
  tiles.for_each(p, [&](int64_t, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    for (int64_t r = r0; r < r1; ++r)
      for_column_vectors<T>(c0, c1, [&](int64_t c, int lanes) {
        put(y + r * m + c,
            (get(x + r * m + c, lanes) - get(center + c, lanes)) * get(a + c, lanes) + get(b + c, lanes),
            lanes);
      });
  });
}

template <class T>
void backward_columns(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x, const T* weight,
                      const double* mean, const double* var, bool training, const BatchNormProblem& p) {
  const Tiles tiles(p);
  const int64_t m = tiles.columns;
  memory::Buffer<T> columns(size_t(4 * m)), partial(size_t(tiles.down * 2 * m));
  T *center = columns, *a = center + m, *b = a + m, *shift = b + m;
  for (int64_t c = 0; c < p.channels; ++c)
    std::fill_n(center + c * p.inner, p.inner, Center<T>(mean[c]).high);
  tiles.for_each(p, [&](int64_t down, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    T sums[2][kTileColumns];
    sum_columns<2>(sums, r0, r1, c0, c1, [&](int64_t r, int64_t c, int lanes, Vec<T>* v) {
      v[0] = get(grad_y + r * m + c, lanes);
      v[1] = v[0] * (get(x + r * m + c, lanes) - get(static_cast<const T*>(center + c), lanes));
    });
    T* out = partial.get() + down * 2 * m + c0;
    std::copy_n(sums[0], c1 - c0, out);
    std::copy_n(sums[1], c1 - c0, out + m);
  });
  std::vector<GradSums> sums(static_cast<size_t>(p.channels));
  for_channels(p, tiles, [&](int64_t first, int64_t last) {
    for (int64_t down = 0; down < tiles.down; ++down) {
      const T* in = partial.get() + down * 2 * m;
      for (int64_t c = first; c < last; ++c)
        for (int64_t i = c * p.inner; i < (c + 1) * p.inner; ++i)
          sums[size_t(c)].add({double(in[i]), double(in[m + i])});
    }
    for (int64_t c = first; c < last; ++c) {
      const Combination<T> f =
          combination_of(sums[size_t(c)], mean[c], var[c], p.eps, double(p.batch * p.inner), weight, c,
                         training, grad_weight, grad_bias);
      std::fill_n(a + c * p.inner, p.inner, f.a);
      std::fill_n(b + c * p.inner, p.inner, f.b);
      std::fill_n(shift + c * p.inner, p.inner, f.c);
    }
  });
  if (!grad_x) return;
  tiles.for_each(p, [&](int64_t, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    for (int64_t r = r0; r < r1; ++r)
      for_column_vectors<T>(c0, c1, [&](int64_t c, int lanes) {
        const int64_t i = r * m + c;
        put(grad_x + i,
            get(grad_y + i, lanes) * get(a + c, lanes) +
                ((get(x + i, lanes) - get(center + c, lanes)) * get(b + c, lanes) + get(shift + c, lanes)),
            lanes);
      });
  });
}

}  // namespace

template <class T>
void batch_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        const BatchNormProblem& p) {
  if (in_columns(p)) {
    column_moments(mean, var, x, p);
    apply_columns(y, x, mean, var, weight, bias, p);
    return;
  }
  memory::Buffer<Affine<T>> maps{size_t(p.channels)};
  const auto row = [&](int64_t c, int64_t n) { return (n * p.channels + c) * p.inner; };
  by_channel<Moments>(
      p,
      [&](int64_t c, int64_t n0, int64_t n1) {
        return rows_moments(x + row(c, n0), n1 - n0, p.channels * p.inner, p.inner);
      },
      [](Moments& total, const Moments& part) { total.merge(part); },
      [&](int64_t c, const Moments& total) {
        mean[c] = total.mean;
        var[c] = total.m2 / total.count;
        maps.get()[c] = affine_of(mean[c], var[c], p.eps, weight, bias, c);
      },
      [&](int64_t c, int64_t n0, int64_t n1) {
        const Affine<T> f = maps.get()[c];
        for (int64_t n = n0; n < n1; ++n)
          row_affine(y + row(c, n), x + row(c, n), p.inner, f.center, f.a, f.b);
      });
}

template <class T>
void batch_norm_inference(T* y, const T* x, const double* mean, const double* var, const T* weight,
                          const T* bias, const BatchNormProblem& p) {
  if (in_columns(p)) return apply_columns(y, x, mean, var, weight, bias, p);
  parallel_for(p.batch * p.channels, std::max<int64_t>(1, kGrain / p.inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Affine<T> f =
          affine_of(mean[i % p.channels], var[i % p.channels], p.eps, weight, bias, i % p.channels);
      row_affine(y + i * p.inner, x + i * p.inner, p.inner, f.center, f.a, f.b);
    }
  });
}

template <class T>
void batch_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var, bool training,
                         const BatchNormProblem& p) {
  if (in_columns(p))
    return backward_columns(grad_x, grad_weight, grad_bias, grad_y, x, weight, mean, var, training, p);
  memory::Buffer<Combination<T>> maps{size_t(p.channels)};
  const auto row = [&](int64_t c, int64_t n) { return (n * p.channels + c) * p.inner; };
  by_channel<GradSums>(
      p,
      [&](int64_t c, int64_t n0, int64_t n1) {
        return rows_grad_sums(grad_y + row(c, n0), x + row(c, n0), n1 - n0, p.channels * p.inner, p.inner,
                              Center<T>(mean[c]).high);
      },
      [](GradSums& total, const GradSums& part) { total.add(part); },
      [&](int64_t c, const GradSums& sums) {
        maps.get()[c] = combination_of(sums, mean[c], var[c], p.eps, double(p.batch * p.inner), weight, c,
                                       training, grad_weight, grad_bias);
      },
      [&](int64_t c, int64_t n0, int64_t n1) {
        if (!grad_x) return;
        const Combination<T> f = maps.get()[c];
        for (int64_t n = n0; n < n1; ++n)
          row_combine(grad_x + row(c, n), grad_y + row(c, n), x + row(c, n), p.inner, f.center, f.a, f.b,
                      f.c);
      });
}

template <class T>
void update_running(T* running, int64_t step, const double* statistic, int64_t n, double momentum,
                    double factor) {
  for (int64_t i = 0; i < n; ++i) {
    T& r = running[i * step];
    r = T((1 - momentum) * double(r) + momentum * (statistic[i] * factor));
  }
}

#define FASTDL_INSTANTIATE(T)                                                                           \
  template void batch_norm_forward<T>(T*, double*, double*, const T*, const T*, const T*,               \
                                      const BatchNormProblem&);                                         \
  template void batch_norm_inference<T>(T*, const T*, const double*, const double*, const T*, const T*, \
                                        const BatchNormProblem&);                                       \
  template void batch_norm_backward<T>(T*, T*, T*, const T*, const T*, const T*, const double*,         \
                                       const double*, bool, const BatchNormProblem&);                   \
  template void update_running<T>(T*, int64_t, const double*, int64_t, double, double);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

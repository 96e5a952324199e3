// LU decomposition and triangular systems, both by halving.
//
//   factor      the left half of the columns; then U of the right half by a triangular system, the rest of the right
//               half minus L U, and that rest's own factor. Panels of 16 columns are eliminated one column at a time,
//               in a copy whose columns are contiguous. Pivots are the largest |x| of their column (of complex
//               numbers |re| + |im|, as in LAPACK).
//   substitute  half of the unknowns; their product with the other half's coefficients off the right side; the other
//               half. Systems of 8 rows are solved one row at a time.
//
// So all but O(n^2) of the work is products: gemm's for real numbers from some size on, plain loops else. Work: right
// sides over threads, a stretch of columns each, and threads inside of gemm; matrices of a batch are the caller's.
#include "cpu/linalg/linalg.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cpu/gemm/gemm.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kPanel = 16, kLeaf = 8;  // columns that are eliminated, rows that are solved, one by one
constexpr int64_t kGemmWork = 2048;        // multiplications from which a product is gemm's

template <class T>
constexpr bool is_real = std::is_floating_point_v<T>;

// std::complex's product asks for NaN and calls a function; this one does not.
template <class T>
T times(T a, T b) {
  if constexpr (is_real<T>)
    return a * b;
  else
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

// y -= f x
template <class T>
void subtract_multiple(T* __restrict y, const T* __restrict x, T f, int64_t n) {
  for (int64_t j = 0; j < n; ++j) y[j] -= times(f, x[j]);
}

// y -= f[0] x[0] + f[1] x[1] + ..: k rows x, `ld` apart, by factors `step` apart.
template <class T>
void subtract_rows(T* __restrict y, const T* f, int64_t step, const T* x, int64_t ld, int64_t k, int64_t n) {
  int64_t p = 0;
  for (; p + 4 <= k; p += 4) {  // four at a time: y is loaded and stored once
    const T f0 = f[p * step], f1 = f[(p + 1) * step], f2 = f[(p + 2) * step], f3 = f[(p + 3) * step];
    const T *x0 = x + p * ld, *x1 = x0 + ld, *x2 = x1 + ld, *x3 = x2 + ld;
    for (int64_t j = 0; j < n; ++j)
      y[j] -= times(f0, x0[j]) + times(f1, x1[j]) + (times(f2, x2[j]) + times(f3, x3[j]));
  }
  for (; p < k; ++p) subtract_multiple(y, x + p * ld, f[p * step], n);
}

// C -= A B, of m x n, A of m x k.
template <class T>
void subtract_product(int64_t m, int64_t n, int64_t k, MatrixView<T> a, const T* b, T* c, int64_t ld) {
  if constexpr (is_real<T>)
    if (m * n * k >= kGemmWork) return gemm<T>(m, n, k, T(-1), a, matrix(b, ld), T(1), c, ld);
  for (int64_t i = 0; i < m; ++i) subtract_rows(c + i * ld, a.data + i * a.row, a.col, b, ld, k, n);
}

// What pivots are compared by.
template <class T>
auto size(T x) {
  if constexpr (is_real<T>)
    return std::abs(x);
  else
    return std::abs(x.real()) + std::abs(x.imag());
}

template <class T>
void exchange_rows(T* a, int64_t ld, int64_t columns, const int32_t* pivots, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k)
    if (pivots[k] != k) std::swap_ranges(a + k * ld, a + k * ld + columns, a + pivots[k] * ld);
}

// X of A X = B in the place of B, by the triangle A: on the calling thread, or on all where gemm takes a product.
template <class T>
void substitute(MatrixView<T> a, bool upper, bool unit, int64_t n, T* b, int64_t columns, int64_t ldb) {
  if (n > kLeaf) {
    const int64_t half = n / 2, rest = n - half;
    const MatrixView<T> corner{a.data + half * (a.row + a.col), a.row, a.col};
    T* below = b + half * ldb;
    if (upper) {
      substitute(corner, upper, unit, rest, below, columns, ldb);
      subtract_product<T>(half, columns, rest, {a.data + half * a.col, a.row, a.col}, below, b, ldb);
      substitute(a, upper, unit, half, b, columns, ldb);
    } else {
      substitute(a, upper, unit, half, b, columns, ldb);
      subtract_product<T>(rest, columns, half, {a.data + half * a.row, a.row, a.col}, b, below, ldb);
      substitute(corner, upper, unit, rest, below, columns, ldb);
    }
    return;
  }
  for (int64_t step = 0; step < n; ++step) {
    const int64_t i = upper ? n - 1 - step : step, first = upper ? i + 1 : 0;
    T* row = b + i * ldb;
    subtract_rows(row, a.data + i * a.row + first * a.col, a.col, b + first * ldb, ldb, step, columns);
    const T pivot = a.data[i * (a.row + a.col)];
    if (!unit)
      for (int64_t j = 0; j < columns; ++j) row[j] /= pivot;
  }
}

template <class T>
void solve_triangle(MatrixView<T> a, bool upper, bool unit, int64_t n, T* b, int64_t columns, int64_t ldb) {
  // Right sides are independent: each thread takes some columns through all steps.
  constexpr int64_t kColumns = 64;
  const int64_t grain = n * n < 4096 ? columns : kColumns;
  parallel_for(columns, grain, [&](int64_t first, int64_t end) {
    substitute(a, upper, unit, n, b + first, end - first, ldb);
  });
}

// The first `n` columns of a matrix of `rows` >= n rows; `pivots` count from 0.
template <class T>
void factor(T* a, int64_t ld, int64_t rows, int64_t n, bool exchange, int32_t* pivots) {
  if (n > kPanel) {
    const int64_t half = n / 2, rest = n - half;
    T *right = a + half, *lower = a + half * ld, *corner = lower + half;
    factor(a, ld, rows, half, exchange, pivots);
    exchange_rows(right, ld, rest, pivots, half);
    solve_triangle(matrix<T>(a, ld), false, true, half, right, rest, ld);
    subtract_product(rows - half, rest, half, matrix<T>(lower, ld), right, corner, ld);
    factor(corner, ld, rows - half, rest, exchange, pivots + half);
    exchange_rows(lower, ld, half, pivots + half, rest);
    for (int64_t k = half; k < n; ++k) pivots[k] += int32_t(half);
    return;
  }
  // A panel: a copy with contiguous columns, since all loops run along them.
  std::vector<T> columns(size_t(n * rows));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < n; ++k) columns[size_t(k * rows + i)] = a[i * ld + k];
  for (int64_t k = 0; k < n; ++k) {
    T* column = columns.data() + k * rows;
    int64_t best = k;
    if (exchange) {
      auto largest = size(column[k]);
      for (int64_t i = k + 1; i < rows && largest == largest; ++i) {  // NaN is a pivot: it says what it met
        const auto s = size(column[i]);
        if (!(s <= largest)) largest = s, best = i;
      }
    }
    pivots[k] = int32_t(best);
    if (best != k)
      for (int64_t j = 0; j < n; ++j)
        std::swap(columns[size_t(j * rows + k)], columns[size_t(j * rows + best)]);
    if (const T pivot = column[k]; pivot != T(0))
      for (int64_t i = k + 1; i < rows; ++i) column[i] /= pivot;
    for (int64_t j = k + 1; j < n; ++j) {
      T* other = columns.data() + j * rows;
      subtract_multiple(other + k + 1, column + k + 1, other[k], rows - k - 1);
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < n; ++k) a[i * ld + k] = columns[size_t(k * rows + i)];
}

template <class T>
int32_t factor_all(T* a, int64_t rows, int64_t columns, bool exchange, int32_t* pivots) {
  const int64_t steps = std::min(rows, columns);
  factor(a, columns, rows, steps, exchange, pivots);
  if (columns > steps) {
    exchange_rows(a + steps, columns, columns - steps, pivots, steps);
    solve_triangle(matrix<T>(a, columns), false, true, steps, a + steps, columns - steps, columns);
  }
  int32_t info = 0;
  for (int64_t k = steps; k-- > 0;) {
    pivots[k] += 1;
    if (a[k * columns + k] == T(0)) info = int32_t(k + 1);
  }
  return info;
}

template <class T>
void solve_by_factors(const T* packed, const int32_t* pivots, bool transposed, int64_t n, T* b,
                      int64_t columns) {
  const MatrixView<T> a = matrix(packed, n, transposed);
  const auto exchange = [&](int64_t k) {
    if (const int64_t other = pivots[k] - 1; other != k)
      std::swap_ranges(b + k * columns, b + (k + 1) * columns, b + other * columns);
  };
  if (!transposed)
    for (int64_t k = 0; k < n; ++k) exchange(k);
  solve_triangle(a, false, !transposed, n, b, columns, columns);
  solve_triangle(a, true, transposed, n, b, columns, columns);
  if (transposed)
    for (int64_t k = n; k-- > 0;) exchange(k);
}

// f(T{}) for the numbers of a field.
template <class F>
auto by_field(Field field, F&& f) {
  switch (field) {
    case Field::float32:
      return f(float{});
    case Field::float64:
      return f(double{});
    case Field::complex64:
      return f(std::complex<float>{});
    case Field::complex128:
      break;
  }
  return f(std::complex<double>{});
}

}  // namespace

int32_t lu_factor(Field field, void* a, int64_t rows, int64_t columns, bool exchange, int32_t* pivots) {
  return by_field(
      field, [&]<class T>(T) { return factor_all(static_cast<T*>(a), rows, columns, exchange, pivots); });
}

void triangular_solve(Field field, const void* a, int64_t row, int64_t column, bool upper, bool unit,
                      int64_t n, void* b, int64_t columns) {
  by_field(field, [&]<class T>(T) {
    solve_triangle<T>({static_cast<const T*>(a), row, column}, upper, unit, n, static_cast<T*>(b), columns,
                      columns);
  });
}

void lu_solve(Field field, const void* packed, const int32_t* pivots, bool transposed, int64_t n, void* b,
              int64_t columns) {
  by_field(field, [&]<class T>(T) {
    solve_by_factors(static_cast<const T*>(packed), pivots, transposed, n, static_cast<T*>(b), columns);
  });
}

void lu_order(const int32_t* pivots, int64_t steps, int64_t rows, int64_t* order) {
  std::iota(order, order + rows, 0);
  for (int64_t k = 0; k < steps; ++k) std::swap(order[k], order[pivots[k] - 1]);
}

}  // namespace fastdl

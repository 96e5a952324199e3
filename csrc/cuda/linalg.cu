// LU decomposition and triangular systems, by panels of 32 columns or rows.
//
//   factor       a panel's columns one at a time by a block for each matrix: the largest of the column, rows
//                exchanged, the column divided, its multiples off the others. Then for the rest of the matrix: the
//                panel's exchanges, U of its rows by L's triangle, and L U off what lies below. A matrix that fits into
//                47 KB is one panel.
//   substitute   32 unknowns one at a time, a thread for each right side; then their product with the coefficients
//                below (upper: above) them off the right sides.
//
// So of 2/3 n^3 operations all but some n^2 32 are products of tiles in shared memory, which read and write the rest of
// the matrix n / 32 times: for n = 4096 in float32 some 6 GB, 1.4 ms at an H200's bandwidth, and 46 GFLOP. What keeps a
// single small matrix waiting is the panel: n steps of a search, an exchange and an update with barriers between them,
// 1 to 2 us each. Pivots are the largest |x| of their column, of complex numbers |re| + |im|, the first of equals; a NaN
// is a pivot. Every element is computed by one thread in one order: the same bits every time.
#include "cuda/linalg.h"

#include <algorithm>

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

// (More than 48 KB of shared memory, with what block_reduce has, must be asked for, which launch() does by the dynamic
// part alone.)
constexpr int kPanel = 32, kPanelBytes = 47 << 10, kAskedFor = (48 << 10) + 16;
constexpr uint64_t kExchange = 11;  // device.py: OPERATIONS

template <class R>
struct alignas(2 * sizeof(R)) Complex {
  R re, im;
};
template <class R>
__device__ __forceinline__ Complex<R> operator*(Complex<R> a, Complex<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class R>
__device__ __forceinline__ Complex<R> operator+(Complex<R> a, Complex<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class R>
__device__ __forceinline__ Complex<R> operator-(Complex<R> a, Complex<R> b) {
  return {a.re - b.re, a.im - b.im};
}
// By the larger part of b (R. Smith, 1962): |b|^2 may overflow where the quotient does not.
template <class R>
__device__ __forceinline__ Complex<R> operator/(Complex<R> a, Complex<R> b) {
  if (std::fabs(b.re) >= std::fabs(b.im)) {
    const R ratio = b.im / b.re, scale = b.re + b.im * ratio;
    return {(a.re + a.im * ratio) / scale, (a.im - a.re * ratio) / scale};
  }
  const R ratio = b.re / b.im, scale = b.re * ratio + b.im;
  return {(a.re * ratio + a.im) / scale, (a.im * ratio - a.re) / scale};
}
// What pivots are compared by; 0 of zero alone.
template <class R>
__device__ __forceinline__ R size_of(R x) {
  return std::fabs(x);
}
template <class R>
__device__ __forceinline__ R size_of(Complex<R> x) {
  return std::fabs(x.re) + std::fabs(x.im);
}
template <class T>
using Size = decltype(size_of(T{}));

template <class R>
struct Candidate {
  R size;
  int row;
};
// NaN before numbers, larger before smaller, of equals the first.
struct Better {
  template <class R>
  __device__ __forceinline__ Candidate<R> operator()(Candidate<R> a, Candidate<R> b) const {
    const bool a_is_nan = a.size != a.size, b_is_nan = b.size != b.size;
    if (a_is_nan != b_is_nan) return a_is_nan ? a : b;
    if (a_is_nan || a.size == b.size) return a.row < b.row ? a : b;
    return a.size > b.size ? a : b;
  }
};

// Columns `first`, ... of the matrices from row `first` on, in shared memory or where they are.
template <class T>
__global__ void __launch_bounds__(1024)
    factor_panel(T* matrices, int rows, int columns, int first, int width, bool in_shared, bool exchange,
                 int32_t* pivots, int steps) {
  FASTDL_DYNAMIC_SHARED(T, space);
  T* const corner = matrices + int64_t(blockIdx.x) * rows * columns + int64_t(first) * columns + first;
  int32_t* const own = pivots + int64_t(blockIdx.x) * steps + first;
  const int height = rows - first, threads = int(blockDim.x), thread = int(threadIdx.x);
  const int warp = thread / 32, warps = threads / 32, lane = lane_id();
  // An odd step, so that neither rows nor columns lie in one bank.
  T* const panel = in_shared ? space : corner;
  const int64_t step = in_shared ? width | 1 : columns;
  if (in_shared) {
    for (int i = warp; i < height; i += warps)
      for (int j = lane; j < width; j += 32) panel[i * step + j] = corner[int64_t(i) * columns + j];
    sync_threads();
  }
  for (int k = 0; k < width; ++k) {
    T* const top = panel + k * step;
    int best = k;
    if (exchange) {
      Candidate<Size<T>> found{Size<T>(-1), height};
      for (int i = k + thread; i < height; i += threads)
        found = Better{}(found, Candidate<Size<T>>{size_of(panel[i * step + k]), i});
      best = block_reduce(found, Candidate<Size<T>>{Size<T>(-1), height}, Better{}).row;
      if (best != k) {
        for (int j = thread; j < width; j += threads) {
          const T other = panel[best * step + j];
          panel[best * step + j] = top[j];
          top[j] = other;
        }
        sync_threads();
      }
    }
    if (thread == 0) own[k] = first + best + 1;
    if (const T pivot = top[k]; size_of(pivot) != 0)
      for (int i = k + 1 + thread; i < height; i += threads)
        panel[i * step + k] = panel[i * step + k] / pivot;
    sync_threads();
    for (int i = k + 1 + warp; i < height; i += warps) {
      T* const row = panel + i * step;
      const T factor = row[k];
      for (int j = k + 1 + lane; j < width; j += 32) row[j] = row[j] - factor * top[j];
    }
    sync_threads();
  }
  if (in_shared)
    for (int i = warp; i < height; i += warps)
      for (int j = lane; j < width; j += 32) corner[int64_t(i) * columns + j] = panel[i * step + j];
}

struct Smallest {
  __device__ __forceinline__ int operator()(int a, int b) const { return a < b ? a : b; }
};
// A block for each matrix.
template <class T>
__global__ void __launch_bounds__(128)
    first_zero(int32_t* info, const T* matrices, int rows, int columns, int steps) {
  const T* const matrix = matrices + int64_t(blockIdx.x) * rows * columns;
  int found = steps;
  for (int k = int(threadIdx.x); k < steps && found == steps; k += 128)
    if (size_of(matrix[int64_t(k) * columns + k]) == 0) found = k;
  found = block_reduce(found, steps, Smallest{});
  if (threadIdx.x == 0) info[blockIdx.x] = found == steps ? 0 : found + 1;
}

// A thread takes a column of all through every exchange; columns from `skip` on are `skipped` further.
template <class T>
__global__ void __launch_bounds__(128)
    exchange_steps(T* matrices, int64_t count, int64_t matrix_size, int64_t step, int64_t columns,
                   int64_t skip, int64_t skipped, const int32_t* pivots, int64_t pivots_batch, int first,
                   int end, int rows, bool backwards, Report report) {
  const int64_t at = int64_t(blockIdx.x) * 128 + threadIdx.x;
  if (at >= columns) return;
  for (int64_t m = blockIdx.y; m < count; m += gridDim.y) {
    T* const column = matrices + m * matrix_size + (at < skip ? at : at + skipped);
    const int32_t* const own = pivots + m * pivots_batch;
    for (int n = first; n < end; ++n) {
      const int k = backwards ? end - 1 - (n - first) : n, other = own[k] - 1;
      if (other == k || report.out_of_range(m * pivots_batch + k, other, rows)) continue;
      const T held = column[k * step];
      column[k * step] = column[other * step];
      column[other * step] = held;
    }
  }
}

template <class T>
constexpr int kColumns = sizeof(T) == 16 ? 32 : 64;

// Right sides of a strip of columns, by the n <= kPanel rows of a triangle.
template <class T>
__global__ void __launch_bounds__(kColumns<T>)
    substitute(const T* triangles, int64_t a_batch, int64_t a_row, int64_t a_column, bool upper, bool unit,
               int n, T* right, int64_t b_batch, int64_t b_row, int64_t columns, int64_t count) {
  FASTDL_SHARED(T, a, kPanel * kPanel);
  FASTDL_SHARED(T, x, kPanel * kColumns<T>);
  const int thread = int(threadIdx.x);
  const int64_t column = int64_t(blockIdx.x) * kColumns<T> + thread;
  for (int64_t m = blockIdx.y; m < count; m += gridDim.y) {
    const T* const triangle = triangles + m * a_batch;
    T* const b = right + m * b_batch + column;
    sync_threads();  // the matrix before has been read
    for (int e = thread; e < n * n; e += kColumns<T>) {
      const int i = e / n, j = e % n;
      a[i * kPanel + j] = triangle[i * a_row + j * a_column];
    }
    sync_threads();
    if (column >= columns) continue;
    for (int i = 0; i < n; ++i) x[i * kColumns<T> + thread] = b[i * b_row];
    for (int done = 0; done < n; ++done) {
      const int i = upper ? n - 1 - done : done, first = upper ? i + 1 : 0;
      T value = x[i * kColumns<T> + thread];
      for (int j = first; j < first + done; ++j)
        value = value - a[i * kPanel + j] * x[j * kColumns<T> + thread];
      x[i * kColumns<T> + thread] = unit ? value : value / a[i * kPanel + i];
    }
    for (int i = 0; i < n; ++i) b[i * b_row] = x[i * kColumns<T> + thread];
  }
}

constexpr int kTileThreads = 256, kSide = 16;  // a tile's threads, as rows and columns of 16
template <class T>
constexpr int kTile = sizeof(T) == 16 ? 32 : 64;

// C -= A B with k <= kPanel columns of A: a block for each tile of C, a thread for every sixteenth row and column.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    subtract_product(T* results, int64_t c_batch, int64_t c_row, int64_t m, int64_t n, const T* left,
                     int64_t a_batch, int64_t a_row, int64_t a_column, const T* right, int64_t b_batch,
                     int64_t b_row, int k, int64_t count) {
  constexpr int tile = kTile<T>, per = tile / kSide, a_step = tile + 1;
  FASTDL_SHARED(T, a, kPanel * a_step);  // (k, row)
  FASTDL_SHARED(T, b, kPanel * tile);    // (k, column)
  const int thread = int(threadIdx.x), y = thread / kSide, x = thread % kSide;
  const int64_t row = int64_t(blockIdx.y) * tile, column = int64_t(blockIdx.x) * tile;
  const bool along_k = a_column == 1;  // how A's elements lie side by side
  for (int64_t matrix = blockIdx.z; matrix < count; matrix += gridDim.z) {
    const T* const from_a = left + matrix * a_batch;
    const T* const from_b = right + matrix * b_batch;
    T* const to = results + matrix * c_batch;
    sync_threads();  // the tiles before have been read
    for (int e = thread; e < kPanel * tile; e += kTileThreads) {
      const int i = along_k ? e / kPanel : e % tile, p = along_k ? e % kPanel : e / tile;
      a[p * a_step + i] = row + i < m && p < k ? from_a[(row + i) * a_row + p * a_column] : T{};
      const int j = e % tile, q = e / tile;
      b[e] = column + j < n && q < k ? from_b[q * b_row + column + j] : T{};
    }
    sync_threads();
    T sum[per][per] = {};
    FASTDL_UNROLL_BY(4)
    for (int p = 0; p < kPanel; ++p) {
      T u[per], v[per];
      FASTDL_UNROLL
      for (int i = 0; i < per; ++i) {
        u[i] = a[p * a_step + y + i * kSide];
        v[i] = b[p * tile + x + i * kSide];
      }
      FASTDL_UNROLL
      for (int i = 0; i < per; ++i) FASTDL_UNROLL
      for (int j = 0; j < per; ++j) sum[i][j] = sum[i][j] + u[i] * v[j];
    }
    FASTDL_UNROLL
    for (int i = 0; i < per; ++i) FASTDL_UNROLL
    for (int j = 0; j < per; ++j) {
      const int64_t r = row + y + i * kSide, c = column + x + j * kSide;
      if (r < m && c < n) to[r * c_row + c] = to[r * c_row + c] - sum[i][j];
    }
  }
}

unsigned grid_of(int64_t count) {
  return unsigned(std::min<int64_t>(count, 65535));
}

// A batch of matrices with rows side by side (C order), or any steps for what is only read.
template <class T>
struct View {
  T* data;
  int64_t batch, row, column;
  View at(int64_t i, int64_t j) const { return {data + i * row + j * column, batch, row, column}; }
};

template <class T>
void subtract(View<T> c, int64_t m, int64_t n, View<const T> a, View<const T> b, int64_t k, int64_t count,
              Stream stream) {
  if (m == 0 || n == 0) return;
  const dim3 grid(unsigned(ceil_div(n, kTile<T>)), unsigned(ceil_div(m, kTile<T>)), grid_of(count));
  launch("subtract_product", subtract_product<T>, grid, dim3(kTileThreads), 0, stream, c.data, c.batch, c.row,
         m, n, a.data, a.batch, a.row, a.column, b.data, b.batch, b.row, int(k), count);
}

template <class T>
View<const T> constant(View<T> x) {
  return {x.data, x.batch, x.row, x.column};
}

template <class T>
void solve(View<const T> a, bool upper, bool unit, int64_t n, View<T> b, int64_t columns, int64_t count,
           Stream stream) {
  const dim3 grid(unsigned(ceil_div(columns, kColumns<T>)), grid_of(count));
  for (int64_t done = 0; done < n; done += kPanel) {
    const int64_t size = std::min<int64_t>(kPanel, n - done), left = n - done - size;
    const int64_t first = upper ? left : done, rest = upper ? 0 : done + size;
    const View<const T> corner = a.at(first, first);
    const View<T> rows = b.at(first, 0);
    launch("substitute", substitute<T>, grid, dim3(kColumns<T>), 0, stream, corner.data, a.batch, a.row,
           a.column, upper, unit, int(size), rows.data, b.batch, b.row, columns, count);
    subtract(b.at(rest, 0), left, columns, a.at(rest, first), constant(rows), size, count, stream);
  }
}

template <class T>
void factor(T* matrices, int64_t count, int64_t rows, int64_t columns, bool exchange, int32_t* pivots,
            int32_t* info, Stream stream) {
  const int64_t steps = std::min(rows, columns), item = int64_t(sizeof(T));
  const View<T> a{matrices, rows * columns, columns, 1};
  const auto bytes = [&](int64_t height, int64_t width) { return height * (width | 1) * item; };
  const int64_t width = bytes(rows, steps) <= kPanelBytes ? steps : kPanel;
  for (int64_t first = 0; first < steps; first += width) {
    const int64_t size = std::min(width, steps - first), height = rows - first;
    const int64_t fitting = bytes(height, size);
    const int64_t needed = fitting > kPanelBytes ? std::max<int64_t>(fitting, kAskedFor) : fitting;
    const bool in_shared = needed <= shared_memory() - (1 << 10);  // block_reduce has some, too
    const int threads = height * size <= 1024 ? 32 : height * size <= 16384 ? 256 : 1024;
    launch("factor_panel", factor_panel<T>, dim3(unsigned(count)), dim3(unsigned(threads)),
           in_shared ? size_t(needed) : 0, stream, matrices, int(rows), int(columns), int(first), int(size),
           in_shared, exchange, pivots, int(steps));
    const int64_t next = first + size, right = columns - next;
    if (exchange && columns > size)
      launch("exchange_rows", exchange_steps<T>,
             dim3(unsigned(ceil_div(columns - size, 128)), grid_of(count)), dim3(128), 0, stream, matrices,
             count, rows * columns, columns, columns - size, first, size, pivots, steps, int(first),
             int(next), int(rows), false, Report{nullptr, kExchange});  // which are all rows
    if (right == 0) continue;
    solve(constant(a.at(first, first)), false, true, size, a.at(first, next), right, count, stream);
    for (int64_t k = first; k < next; k += kPanel)
      subtract(a.at(next, next), rows - next, right, constant(a.at(next, k)), constant(a.at(k, next)),
               std::min<int64_t>(kPanel, next - k), count, stream);
  }
  launch("first_zero", first_zero<T>, dim3(unsigned(count)), dim3(128), 0, stream, info, matrices, int(rows),
         int(columns), int(steps));
}

// f(T{}) for the numbers of a field.
template <class F>
void by_field(Field field, F&& f) {
  switch (field) {
    case Field::float32:
      return f(float{});
    case Field::float64:
      return f(double{});
    case Field::complex64:
      return f(Complex<float>{});
    case Field::complex128:
      return f(Complex<double>{});
  }
}

}  // namespace

void lu_factor(Field field, void* a, int64_t count, int64_t rows, int64_t columns, bool exchange,
               int32_t* pivots, int32_t* info, Stream stream) {
  if (count == 0 || rows == 0 || columns == 0) return;
  by_field(field, [&]<class T>(T) {
    factor(static_cast<T*>(a), count, rows, columns, exchange, pivots, info, stream);
  });
}

void exchange_rows(Field field, void* x, int64_t count, int64_t rows, int64_t columns, const int32_t* pivots,
                   int64_t pivots_batch, int64_t steps, bool backwards, uint64_t* report, Stream stream) {
  if (count == 0 || columns == 0 || steps == 0) return;
  by_field(field, [&]<class T>(T) {
    launch("exchange_rows", exchange_steps<T>, dim3(unsigned(ceil_div(columns, 128)), grid_of(count)),
           dim3(128), 0, stream, static_cast<T*>(x), count, rows * columns, columns, columns, columns,
           int64_t(0), pivots, pivots_batch, 0, int(steps), int(rows), backwards, Report{report, kExchange});
  });
}

void triangular_solve(Field field, const Matrices& a, bool upper, bool unit, int64_t n, void* b,
                      int64_t count, int64_t columns, Stream stream) {
  if (count == 0 || columns == 0) return;
  by_field(field, [&]<class T>(T) {
    solve<T>({static_cast<const T*>(a.data), a.batch, a.row, a.column}, upper, unit, n,
             {static_cast<T*>(b), n * columns, columns, 1}, columns, count, stream);
  });
}

}  // namespace fastdl::cuda

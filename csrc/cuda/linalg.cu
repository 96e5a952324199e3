// LU decomposition and triangular systems, by panels of 32 columns or rows.
//
//   factor       a panel's columns one at a time: the largest of the column, rows exchanged, the column divided, its
//                multiples off the others. By a block for each matrix, in shared memory; where that holds no panel (an
//                H200: from 1808 rows of float32), by a launch for each column and a block for every 64 rows. Then for
//                the rest of the matrix: the panel's exchanges, U of its rows by L's triangle, and L U off what lies
//                below. A matrix that fits into 47 KB is one panel.
//   substitute   32 unknowns one at a time, a thread for each right side; then their product with the coefficients
//                below (upper: above) them off the right sides.
//
// So of 2/3 n^3 operations all but some n^2 32 are products of tiles in shared memory, which read and write the rest of
// the matrix n / 32 times: for n = 4096 in float32 some 6 GB, 1.4 ms at an H200's bandwidth, and 46 GFLOP. What keeps a
// single matrix waiting is the panel, n steps that wait for each other. Counted, not measured: in shared memory 1000
// cycles for search, exchange and four barriers and 1.5 for a row, 1 to 2 us; by many blocks 3 us, of which a launch
// after another takes one, and memory's latency four times another. Pivots are the largest |x| of their column, of
// complex numbers |re| + |im|, the first of equals; a NaN is a pivot. Every element is computed by one thread in one
// order: the same bits every time.
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
// A lane's number. (The words of 16 bytes, shuffled one by one, would go through memory.)
template <class R>
__device__ __forceinline__ R from_lane(R x, int lane) {
  return shuffle(x, lane);
}
template <class R>
__device__ __forceinline__ Complex<R> from_lane(Complex<R> x, int lane) {
  return {shuffle(x.re, lane), shuffle(x.im, lane)};
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

template <class T>
constexpr int kPanelThreads = sizeof(T) == 16 ? 512 : 1024;  // as registers allow

// Columns `first`, ... of the matrices from row `first` on, in shared memory by columns, an odd number of elements
// apart, so that neither rows nor columns lie in one bank. A thread has every so manieth row to itself, and what it does
// there waits for nobody.
template <class T>
__global__ void __launch_bounds__(kPanelThreads<T>)
    factor_panel(T* matrices, int rows, int columns, int first, int width, bool exchange, int32_t* pivots,
                 int steps) {
  constexpr int kAtOnce = 4, kLoads = 8;  // columns; rows
  FASTDL_DYNAMIC_SHARED(T, panel);
  T* const corner = matrices + int64_t(blockIdx.x) * rows * columns + int64_t(first) * columns + first;
  int32_t* const own = pivots + int64_t(blockIdx.x) * steps + first;
  const int height = rows - first, pitch = height | 1, threads = int(blockDim.x), thread = int(threadIdx.x);
  const int warp = thread / 32, warps = threads / 32, lane = lane_id();
  FASTDL_ROLLED
  for (int j = lane; j < width; j += 32) FASTDL_ROLLED
  for (int i = warp; i < height; i += kLoads * warps) {
    T values[kLoads];
    FASTDL_UNROLL
    for (int r = 0; r < kLoads; ++r)
      if (i + r * warps < height) values[r] = corner[int64_t(i + r * warps) * columns + j];
    FASTDL_UNROLL
    for (int r = 0; r < kLoads; ++r)
      if (i + r * warps < height) panel[j * pitch + i + r * warps] = values[r];
  }
  sync_threads();
  int begin = thread;  // the thread's first row from k on
  for (int k = 0; k < width; ++k) {
    T* const column = panel + k * pitch;
    if (begin < k) begin += threads;
    int best = k;
    if (exchange) {
      Candidate<Size<T>> found{Size<T>(-1), height};
      FASTDL_ROLLED
      for (int i = begin; i < height; i += threads)
        found = Better{}(found, Candidate<Size<T>>{size_of(column[i]), i});
      best = block_reduce(found, Candidate<Size<T>>{Size<T>(-1), height}, Better{}).row;
    }
    sync_threads();  // all rows have the step before
    if (best != k) {
      FASTDL_ROLLED
      for (int j = thread; j < width; j += threads) {
        const T other = panel[j * pitch + best];
        panel[j * pitch + best] = panel[j * pitch + k];
        panel[j * pitch + k] = other;
      }
      sync_threads();
    }
    if (thread == 0) own[k] = first + best + 1;
    const T pivot = column[k];
    FASTDL_ROLLED
    for (int i = begin == k ? k + threads : begin; i < height; i += threads) {
      T factor = column[i];
      if (size_of(pivot) != 0) column[i] = factor = factor / pivot;
      FASTDL_ROLLED
      for (int j = k + 1; j < width; j += kAtOnce) {
        T top[kAtOnce], value[kAtOnce];
        FASTDL_UNROLL
        for (int c = 0; c < kAtOnce; ++c)
          if (j + c < width) top[c] = panel[(j + c) * pitch + k], value[c] = panel[(j + c) * pitch + i];
        FASTDL_UNROLL
        for (int c = 0; c < kAtOnce; ++c)
          if (j + c < width) panel[(j + c) * pitch + i] = value[c] - factor * top[c];
      }
    }
  }
  sync_threads();
  FASTDL_ROLLED
  for (int j = lane; j < width; j += 32) FASTDL_UNROLL_BY(4)
  for (int i = warp; i < height; i += warps) corner[int64_t(i) * columns + j] = panel[j * pitch + i];
}

// What a block tells the others of a column: its largest element, and the panel's row of it.
template <class T>
struct Offer {
  T row[kPanel];
  Candidate<Size<T>> best;
};
constexpr int kShareThreads = 256, kAhead = 8, kShare = kShareThreads / 32 * kAhead, kShares = 256;
static_assert(kShare >= kPanel);  // all of the diagonal is the first block's

// Step k of a panel of at most kPanel columns that stays where it is, shared by `blocks` blocks of `share` rows: by the
// offers that the launch before made of column k, rows are exchanged and column k eliminated; then column k + 1 is
// searched. k = -1: only that. A warp takes kAhead rows together, a lane a column of each; what is done to a single
// element of each row, lane r does for row r. Nobody reads other blocks' rows in the matrix: the new top one comes with
// its offer, the old one as the last of the offers.
template <class T>
__global__ void __launch_bounds__(kShareThreads)
    factor_column(T* matrices, int rows, int columns, int first, int width, int k, int share, int blocks,
                  bool exchange, int32_t* pivots, int steps, const Offer<T>* made, Offer<T>* making) {
  const int matrix = int(blockIdx.x) / blocks, block = int(blockIdx.x) % blocks;
  const int warp = int(threadIdx.x) / 32, lane = lane_id(), height = rows - first;
  const int begin = block * share, end = begin + share < height ? begin + share : height;
  T* const corner = matrices + int64_t(matrix) * rows * columns + int64_t(first) * columns + first + lane;
  const Candidate<Size<T>> none{Size<T>(-1), height};
  made += int64_t(matrix) * (blocks + 1);
  making += int64_t(matrix) * (blocks + 1);
  int best = k;
  T below{}, top{};  // the row that leaves step k's place, and the one that comes there
  if (k >= 0) {
    below = top = made[blocks].row[lane];
    if (exchange) {
      Candidate<Size<T>> found = none;
      FASTDL_ROLLED
      for (int b = lane; b < blocks; b += 4 * 32) {
        Candidate<Size<T>> offered[4];
        FASTDL_UNROLL
        for (int n = 0; n < 4; ++n) offered[n] = b + n * 32 < blocks ? made[b + n * 32].best : none;
        FASTDL_UNROLL
        for (int n = 0; n < 4; ++n) found = Better{}(found, offered[n]);
      }
      best = warp_reduce(found, Better{}).row;
      top = made[best / share].row[lane];
    }
    if (warp == 0 && block == 0) {
      if (lane == 0) pivots[int64_t(matrix) * steps + first + k] = first + best + 1;
      if (lane < width) corner[int64_t(k) * columns] = top;
    }
    if (warp == 0 && lane < k && best >= begin && best < end) corner[int64_t(best) * columns] = below;
  }
  const T pivot = from_lane(top, k);
  const bool mine = lane >= k && lane < width, right = k >= 0 && lane > k;
  Candidate<Size<T>> found = none;
  for (int next = begin + warp * kAhead; next < end; next += kShare) {
    T* const at = corner + int64_t(next) * columns;
    T values[kAhead] = {}, quotient{}, searched{};
    FASTDL_UNROLL
    for (int r = 0; r < kAhead; ++r)
      if (mine && next + r > k && next + r < end) values[r] = at[int64_t(r) * columns];
    FASTDL_UNROLL
    for (int r = 0; r < kAhead; ++r) {
      if (next + r == best) values[r] = below;
      if (const T factor = from_lane(values[r], k); lane == r) quotient = factor;
    }
    if (size_of(pivot) != 0) quotient = quotient / pivot;
    FASTDL_UNROLL
    for (int r = 0; r < kAhead; ++r) {
      const T factor = from_lane(quotient, r);
      values[r] = lane == k ? factor : right ? values[r] - factor * top : values[r];
      if (const T value = from_lane(values[r], k + 1); lane == r) searched = value;
      if (k >= 0 && mine && next + r > k && next + r < end) at[int64_t(r) * columns] = values[r];
    }
    if (lane < kAhead && next + lane > k && next + lane < end)
      found = Better{}(found, Candidate<Size<T>>{size_of(searched), next + lane});
  }
  if (k + 1 == width) return;
  found = block_reduce(found, none, Better{});  // and all rows of the block are written
  if (lane >= width) return;
  if (warp == 0) making[block].row[lane] = corner[int64_t(found.row) * columns];
  if (warp == 0 && lane == 0) making[block].best = found;
  if (warp == 1 && block == 0) making[blocks].row[lane] = corner[int64_t(k + 1) * columns];
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

// Shared memory for a panel, which is asked for above 48 KB; -1 where it does not fit.
int64_t panel_bytes(int64_t height, int64_t width, int64_t item) {
  const int64_t fitting = (height | 1) * width * item;
  const int64_t needed = fitting > kPanelBytes ? std::max<int64_t>(fitting, kAskedFor) : fitting;
  return needed <= shared_memory() - (1 << 10) ? needed : -1;  // block_reduce has some, too
}
// Columns of a panel, all where the matrix fits unasked.
int64_t panel_width(int64_t rows, int64_t steps, int64_t item) {
  return (rows | 1) * steps * item <= kPanelBytes ? steps : std::min<int64_t>(steps, kPanel);
}

template <class T>
void factor(T* matrices, int64_t count, int64_t rows, int64_t columns, bool exchange, int32_t* pivots,
            int32_t* info, void* scratch, Stream stream) {
  const int64_t steps = std::min(rows, columns), item = int64_t(sizeof(T));
  const View<T> a{matrices, rows * columns, columns, 1};
  const int64_t width = panel_width(rows, steps, item);
  for (int64_t first = 0; first < steps; first += width) {
    const int64_t size = std::min(width, steps - first), height = rows - first;
    const int64_t bytes = panel_bytes(height, size, item);
    if (bytes >= 0) {
      launch("factor_panel", factor_panel<T>, dim3(unsigned(count)),
             dim3(unsigned(std::min<int64_t>(kPanelThreads<T>, ceil_div(height, 32) * 32))), size_t(bytes),
             stream, matrices, int(rows), int(columns), int(first), int(size), exchange, pivots, int(steps));
    } else {
      const int64_t share = kShare * ceil_div(height, kShare * kShares), blocks = ceil_div(height, share);
      auto *made = static_cast<Offer<T>*>(scratch), *making = made + count * (blocks + 1);
      for (int k = -1; k < size; ++k, std::swap(made, making))
        launch("factor_column", factor_column<T>, dim3(unsigned(count * blocks)), dim3(kShareThreads), 0,
               stream, matrices, int(rows), int(columns), int(first), int(size), k, int(share), int(blocks),
               exchange, pivots, int(steps), made, making);
    }
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

int64_t lu_scratch(Field field, int64_t count, int64_t rows, int64_t columns) {
  int64_t bytes = 0;
  by_field(field, [&]<class T>(T) {
    const int64_t width = panel_width(rows, std::min(rows, columns), sizeof(T));
    if (panel_bytes(rows, width, sizeof(T)) < 0)  // which needs most is the first one
      bytes =
          2 * count * (std::min<int64_t>(kShares, ceil_div(rows, kShare)) + 1) * int64_t(sizeof(Offer<T>));
  });
  return bytes;
}

void lu_factor(Field field, void* a, int64_t count, int64_t rows, int64_t columns, bool exchange,
               int32_t* pivots, int32_t* info, void* scratch, Stream stream) {
  if (count == 0 || rows == 0 || columns == 0) return;
  by_field(field, [&]<class T>(T) {
    factor(static_cast<T*>(a), count, rows, columns, exchange, pivots, info, scratch, stream);
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

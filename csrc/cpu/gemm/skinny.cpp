// Products with a short side: raw(i, j) = sum over k of x(i, k) y(j, k) for i < s <= 16, j < n. The long
// matrix y is read once, from where it lies, in the order in which it lies (such products wait for memory,
// and a packed copy would cost as much as the product):
//
//   dot    y's rows are contiguous (a linear layer's weight): accumulators of S x R dot products, k along the
//   vectors;
//          the lanes are added up at the end. With several groups of x's rows, k goes in blocks that keep y's
//          in L1.
//   axpy   y's columns are contiguous (the other transpose): j along the vectors; kDepth steps of k at a time
//          sweep over as many columns as their sums stay in L1, long runs of whole rows where S is small.
//
// Threads share n (dot) or k (axpy): ranges of y's rows, one stretch of memory each, with one partial result
// per range, added up in the order of the ranges. A side too short for all threads is made up for by the
// other. How the work is cut depends on shape and thread count alone.
#include "cpu/gemm/skinny.h"

#include <algorithm>
#include <utility>

#include "cpu/gemm/pack.h"
#include "cpu/gemm/share.h"
#include "cpu/gemm/tile.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl::tile {
namespace {

using namespace simd;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32, kTemporaries = 1, kDotRows = 4;
#elif defined(__AVX2__)
constexpr int kRegisters = 16, kTemporaries = 1, kDotRows = 2;
#else
constexpr int kRegisters = 16, kTemporaries = 2, kDotRows = 2;
#endif
constexpr int64_t kDotDepth = 1024;  // of a block of k, when y's rows are needed again

// ---- dot ----

// Adds up the lanes of each of N vectors: each round interleaves two vectors and adds the halves.
template <class T, int N>
[[gnu::always_inline]] inline void add_lanes(Vec<T>* x, T* out) {
  constexpr int w = kWidth<T>;
  constexpr auto lanes = std::make_integer_sequence<int, w>{};
  if constexpr (N > w) {
    add_lanes<T, N / 2>(x, out);
    add_lanes<T, N / 2>(x + N / 2, out + N / 2);
  } else {
#pragma GCC unroll 8
    for (int half = N / 2; half > 0; half /= 2)
#pragma GCC unroll 16
      for (int i = 0; i < half; ++i)
        x[i] = zip_low<T>(x[i], x[i + half], lanes) + zip_high<T>(x[i], x[i + half], lanes);
    // Now lane l holds part of sum l % N.
    T part[w];
    store<T>(part, x[0]);
    for (int i = 0; i < N; ++i) {
      T sum = part[i];
      for (int l = i + N; l < w; l += N) sum += part[l];
      out[i] = sum;
    }
  }
}

template <class T, int S, int R>
void dot_tile(const T* x, int64_t x_step, const T* const* y, int64_t k, T* out) {
  constexpr int w = kWidth<T>;
  Vec<T> acc[S * R];
#pragma GCC unroll 16
  for (int i = 0; i < S * R; ++i) acc[i] = Vec<T>{};
  const auto step = [&](auto&& read, int64_t p) __attribute__((always_inline)) {
    Vec<T> row[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) row[r] = read(y[r] + p);
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) {
      const Vec<T> xi = read(x + i * x_step + p);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[i * R + r] += xi * row[r];
    }
  };
  int64_t p = 0;
  for (; p + w <= k; p += w) step([](const T* from) { return load(from); }, p);
  if (p < k) step([rest = int(k - p)](const T* from) { return load_n(from, rest); }, p);
  add_lanes<T, S * R>(acc, out);
}

// A single row of each: four chains of additions.
template <class T>
T dot_of_two(const T* x, const T* y, int64_t k) {
  constexpr int w = kWidth<T>;
  Vec<T> sum[4] = {};
  int64_t p = 0;
  for (; p + 4 * w <= k; p += 4 * w)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[i] += load(x + p + i * w) * load(y + p + i * w);
  for (; p < k; p += w) {
    const int rest = int(std::min<int64_t>(w, k - p));
    sum[0] += load_n(x + p, rest) * load_n(y + p, rest);
  }
  return reduce_add<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// R rows of y against S of x over steps [0, k): adds to (or sets) raw(i, j).
template <class T, int S>
void dot_rows(const T* x, int64_t x_step, const T* y, int64_t y_step, int64_t rows, int64_t k, bool add,
              T* raw, int64_t ld) {
  constexpr int R = S == kDotRows ? 4 : 8;
  for (int64_t j = 0; j < rows; j += R) {
    const int here = int(std::min<int64_t>(R, rows - j));
    const T* row[R];
    for (int r = 0; r < R; ++r) row[r] = y + (j + std::min(r, here - 1)) * y_step;
    T sum[S * R];
    dot_tile<T, S, R>(x, x_step, row, k, sum);
    for (int i = 0; i < S; ++i)
      for (int r = 0; r < here; ++r)
        raw[i * ld + j + r] = sum[i * R + r] + (add ? raw[i * ld + j + r] : T(0));
  }
}

template <class T>
void dot(int s, int64_t n, int64_t k, const T* x, int64_t x_step, const T* y, int64_t y_step, T* raw,
         int64_t ld) {
  if (s == 1 && n == 1) return void(*raw = dot_of_two(x, y, k));
  const int64_t depth = s <= kDotRows ? k : kDotDepth, block = s <= kDotRows ? n : 8;
  for (int64_t j = 0; j < n; j += block) {
    const int64_t rows = std::min(block, n - j);
    for (int64_t p = 0; p < k; p += depth) {
      const int64_t kc = std::min(depth, k - p);
      const T* from = y + j * y_step + p;
      for (int i = 0; i < s;) {
        const T* xi = x + i * x_step + p;
        T* to = raw + i * ld + j;
        if (s - i >= kDotRows)
          dot_rows<T, kDotRows>(xi, x_step, from, y_step, rows, kc, p > 0, to, ld), i += kDotRows;
        else if (s - i >= 2)
          dot_rows<T, 2>(xi, x_step, from, y_step, rows, kc, p > 0, to, ld), i += 2;
        else
          dot_rows<T, 1>(xi, x_step, from, y_step, rows, kc, p > 0, to, ld), i += 1;
      }
    }
  }
}

// ---- axpy ----

// Vectors of columns that R rows can accumulate at a time: R * V accumulators, R or V operands, and one more.
constexpr int kMostColumns = 6;
constexpr int columns_for(int rows) {
  for (int v = kMostColumns; v > 1; --v)
    if (rows * v + std::min(rows, v) + kTemporaries <= kRegisters) return v;
  return 1;
}
constexpr int kAxpyRows = [] {
  int rows = 1;
  while (rows < kSkinny && columns_for(rows + 1) > 1) ++rows;
  return rows;
}();
constexpr int64_t kDepth = 16;
constexpr int64_t kLies = 64;        // elements between two steps of an x that is read in place
constexpr int kNarrow = 4;           // rows of x that are not worth a whole panel
constexpr int64_t kSums = 16 << 10;  // bytes of the sums of a block of columns: a part of L1

template <class T, int R, int V>
void axpy_tile(int64_t kc, const T* x, int64_t x_step, const T* y, int64_t y_step, bool ahead, bool add,
               T* raw, int64_t ld, int lanes) {
  constexpr int w = kWidth<T>;
  Vec<T> acc[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[i][v] = add ? load(raw + i * ld + v * w) : Vec<T>{};
  for (int64_t p = 0; p < kc; ++p) {
    Vec<T> row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      row[v] = V > 1 || lanes == w ? load(y + v * w) : load_n(y, lanes);
      if (ahead) __builtin_prefetch(y + v * w + kDepth * y_step, 0, 2);  // the next sweep's
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[i][v] += x[i] * row[v];
    x += x_step;
    y += y_step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store<T>(raw + i * ld + v * w, acc[i][v]);
}

// All columns from j on, V vectors at a time, the rest by halves. raw's rows have room for whole vectors.
template <class T, int R, int V>
void axpy_columns(int64_t j, int64_t n, int64_t kc, const T* x, int64_t x_step, const T* y, int64_t y_step,
                  bool ahead, bool add, T* raw, int64_t ld) {
  constexpr int w = kWidth<T>;
  for (; j + V * w <= n; j += V * w)
    axpy_tile<T, R, V>(kc, x, x_step, y + j, y_step, ahead, add, raw + j, ld, w);
  if constexpr (V > 1)
    axpy_columns<T, R, V / 2>(j, n, kc, x, x_step, y, y_step, ahead, add, raw, ld);
  else if (j < n)
    axpy_tile<T, R, 1>(kc, x, x_step, y + j, y_step, ahead, add, raw + j, ld, int(n - j));
}

template <class T, int R>
void axpy_rows(int64_t n, int64_t kc, const T* x, int64_t x_step, const T* y, int64_t y_step, bool ahead,
               bool add, T* raw, int64_t ld) {
  axpy_columns<T, R, columns_for(R)>(0, n, kc, x, x_step, y, y_step, ahead, add, raw, ld);
}

template <class T>
using AxpyRows = void (*)(int64_t, int64_t, const T*, int64_t, const T*, int64_t, bool, bool, T*, int64_t);
template <class T, int... I>
constexpr auto axpy_table(std::integer_sequence<int, I...>) {
  struct {
    AxpyRows<T> at[sizeof...(I)];
  } table{{&axpy_rows<T, I + 1>...}};
  return table;
}

// x(i, p) lies at x[p * x_step + i].
template <class T>
void axpy(int s, int64_t n, int64_t k, const T* x, int64_t x_step, const T* y, int64_t y_step, T* raw,
          int64_t ld) {
  static constexpr auto table = axpy_table<T>(std::make_integer_sequence<int, kAxpyRows>{});
  constexpr int64_t unit = 2 * kMostColumns * kWidth<T>;
  const int groups = int(ceil_div(s, kAxpyRows));
  const int64_t depth =
      n <= kMostColumns * kWidth<T> ? k : kDepth;  // few columns stay in registers all along
  // Equal blocks: a last one of a few columns would read a few lines of every row, all over the memory of y.
  const int64_t most = std::max<int64_t>(kSums / int64_t(sizeof(T)) / s, unit);
  const int64_t blocks = std::max<int64_t>((n + most / 2) / most, 1), per_unit = blocks * unit;
  const int64_t block = ceil_div(n, per_unit) * unit;
  for (int64_t j = 0; j < n; j += block)
    for (int64_t p = 0; p < k; p += depth)
      for (int g = 0; g < groups; ++g) {
        const int i0 = s * g / groups, i1 = s * (g + 1) / groups;
        // Several rows of x make a sweep long enough to fetch the next one's meanwhile.
        const bool ahead = s > 2 && g == 0;
        table.at[i1 - i0 - 1](std::min(block, n - j), std::min(depth, k - p), x + p * x_step + i0, x_step,
                              y + p * y_step + j, y_step, ahead, p > 0, raw + i0 * ld + j, ld);
      }
}

// ---- result ----

// Columns [j0, j1) of the raw product, raw(i, j - j0), to their place in C.
template <class T>
void write(const T* raw, int64_t ld, int s, int64_t j0, int64_t j1, bool transposed, const Store<T>& out) {
  if (!transposed) {
    Store<T> store = out;
    store.c += j0;
    if (store.bias_col) store.bias_col += j0;
    finish<T>(raw, ld, s, int(j1 - j0), store);
    return;
  }
  constexpr int block = 16;
  T turned[block * kSkinny];
  for (int64_t j = j0; j < j1; j += block) {
    const int rows = int(std::min<int64_t>(block, j1 - j));
    for (int i = 0; i < s; ++i)
      for (int r = 0; r < rows; ++r) turned[r * kSkinny + i] = raw[i * ld + (j - j0) + r];
    Store<T> store = out;
    store.c += j * out.ldc;
    if (store.bias_row) store.bias_row += j;
    finish<T>(turned, kSkinny, rows, s, store);
  }
}

}  // namespace

template <class T>
void multiply_skinny(int s, int64_t n, int64_t k, MatrixView<T> x, MatrixView<T> y, bool transposed, T alpha,
                     T beta, T* c, int64_t ldc, const GemmEpilogue<T>& epilogue) {
  constexpr int w = kWidth<T>;
  const bool dots = y.col == 1;
  const Store<T> out{c, ldc, alpha, beta, epilogue.bias_row, epilogue.bias_col, epilogue.activation};

  // x as the kernels want it: rows of k (dot), or its elements of one step side by side (axpy).
  const bool lies = dots ? x.col == 1 : (s == 1 || x.row == 1) && x.col <= kLies;
  const int64_t x_step = dots ? (lies ? x.row : k) : lies ? x.col : s <= kNarrow ? s : kSkinny;
  Scratch<T, 2048> packed(lies ? 0 : dots ? s * k : x_step * k);
  const T* xs = lies ? x.data : packed.get();
  if (!lies && dots) {
    for (int i = 0; i < s; ++i)
      for (int64_t p = 0; p < k; ++p) packed.get()[i * k + p] = x.data[i * x.row + p * x.col];
  } else if (!lies && s <= kNarrow) {
    for (int64_t p = 0; p < k; ++p)
      for (int i = 0; i < s; ++i) packed.get()[p * s + i] = x.data[i * x.row + p * x.col];
  } else if (!lies) {
    pack_panel<T, kSkinny>(packed.get(), x.data, x.row, x.col, s, k);
  }

  const auto compute = [&](int64_t j0, int64_t j1, int64_t k0, int64_t k1, T* raw, int64_t ld) {
    if (dots)
      dot<T>(s, j1 - j0, k1 - k0, xs + k0, x_step, y.data + j0 * y.row + k0, y.row, raw, ld);
    else
      axpy<T>(s, j1 - j0, k1 - k0, xs + k0 * x_step, x_step, y.data + k0 * y.col + j0, y.col, raw, ld);
  };
  const auto padded = [](int64_t columns) { return ceil_div(columns, w) * w; };

  // Reading y at 10 GB/s or multiplying at 50 GFLOP/s, per thread.
  const double microseconds = double(n) * double(k) * std::max(1e-4 * double(sizeof(T)), 4e-5 * s);
  const int64_t unit = dots ? 8 : 8 * w, units = ceil_div(n, unit);
  const int64_t most = std::min(int64_t(microseconds / 10), int64_t{num_threads()} * 2);
  // A partial result of s columns costs as much as some 4 s rows of y.
  const int64_t ranges = dots ? (units < num_threads() * int64_t{2} ? std::min(k / 1024, most) : 1)
                              : std::min(k / std::max<int64_t>(64, 16 * s), most);
  if (ranges > 1) {
    const int64_t ld = padded(n), size = s * ld;
    memory::Buffer<T> partial(size_t(ranges * size));
    // Where ranges are fewer than threads their columns are shared out, too.
    const int64_t pieces = ranges < num_threads() ? std::min(units, ceil_div(2 * num_threads(), ranges)) : 1;
    share(ranges * pieces, microseconds, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t r = t / pieces, piece = t % pieces, j0 = units * piece / pieces * unit;
        compute(j0, std::min(n, units * (piece + 1) / pieces * unit), k * r / ranges, k * (r + 1) / ranges,
                partial.get() + r * size + j0, ld);
      }
    });
    T* sum = partial.get();
    add_parts(sum, sum, size, ranges);
    write<T>(sum, ld, s, 0, n, transposed, out);
    return;
  }
  share(units, microseconds, [&](int64_t begin, int64_t end) {
    const int64_t j0 = begin * unit, j1 = std::min(n, end * unit), ld = padded(j1 - j0);
    Scratch<T, 2048> raw(s * ld);
    compute(j0, j1, 0, k, raw.get(), ld);
    write<T>(raw.get(), ld, s, j0, j1, transposed, out);
  });
}

#define FASTDL_INSTANTIATE(T)                                                                           \
  template void multiply_skinny<T>(int, int64_t, int64_t, MatrixView<T>, MatrixView<T>, bool, T, T, T*, \
                                   int64_t, const GemmEpilogue<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::tile

// C = A B in half precision: floats are multiplied and added up, C is rounded once.
//
// Products in bfloat16 go to bfloat16.cpp where the processor multiplies pairs and they win, but for those of few rows.
//
// A product with a side of at most kFewRows and contiguous k waits for the memory of its long operand: dot
// products that convert it in registers. One with a short side does nearly so, and a batch of small ones
// waits for that of its results. These go in strips along the longer side of C, over threads: a strip of the
// long operand is converted in the second-level cache, multiplied there by the short one (converted once, or
// with each strip where a batch has several), and its result rounded from there. So memory is passed over
// once, in two bytes a number. Other products convert both operands and the result as a whole, which costs
// them a few per cent.
#include "cpu/gemm/half.h"

#include <algorithm>
#include <cstring>

#include "cpu/gemm/bfloat16.h"
#include "cpu/gemm/share.h"
#include "cpu/gemm/tile.h"
#include "cpu/runtime/memory.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace {

constexpr int kFewRows = 4;
constexpr int64_t kShortSide = 64;
constexpr int64_t kStrip = 64 << 10;            // floats of a strip: 256 KB, a part of L2
constexpr int64_t kTinyProduct = 24 * 24 * 24;  // multiplications: packing it would take longer
constexpr int64_t kSmallProduct = 1 << 24;      // multiplications: one thread's work in a batch

struct Product {
  Half half;
  int64_t m, n, k;
  float alpha;
  GemmEpilogue<float> epilogue;
};

// Rows [i0, i1) and columns [j0, j1) of C from operands already converted for them.
void multiply(const Product& p, MatrixView<float> a, MatrixView<float> b, int64_t i0, int64_t i1, int64_t j0,
              int64_t j1, float* sums, uint16_t* c) {
  const int64_t rows = i1 - i0, cols = j1 - j0;
  GemmEpilogue<float> epilogue = p.epilogue;
  if (epilogue.bias_row) epilogue.bias_row += i0;
  if (epilogue.bias_col) epilogue.bias_col += j0;
  gemm<float>(rows, cols, p.k, p.alpha, a, b, 0.0f, sums, cols, epilogue);
  if (cols == p.n) return narrow(c + i0 * p.n, sums, rows * cols, p.half);
  for (int64_t i = 0; i < rows; ++i) narrow(c + (i0 + i) * p.n + j0, sums + i * cols, cols, p.half);
}

// sums(i, j) = sum over k of x(i, k) y(j, k) for S rows of floats x and four rows of y.
template <class Format, int S>
void dots(const float* x, int64_t x_step, const uint16_t* const* y, int64_t k, float* sums, int64_t ld) {
  using namespace simd;
  constexpr int w = kWidth<float>;
  Vec<float> acc[S][4] = {};
  int64_t p = 0;
  for (; p + w <= k; p += w)
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const Vec<float> row = Format::load(y[r] + p);
#pragma GCC unroll 4
      for (int i = 0; i < S; ++i) acc[i][r] += load(x + i * x_step + p) * row;
    }
  if (p < k) {
    const int rest = int(k - p);
    for (int r = 0; r < 4; ++r) {
      uint16_t last[w] = {};
      std::memcpy(last, y[r] + p, size_t(rest) * sizeof(uint16_t));
      const Vec<float> row = Format::load(last);
      for (int i = 0; i < S; ++i) acc[i][r] += load_n(x + i * x_step + p, rest) * row;
    }
  }
  for (int i = 0; i < S; ++i)
    for (int r = 0; r < 4; ++r) sums[i * ld + r] = reduce_add<float>(acc[i][r]);
}

template <class Format>
void dots_of(int rows, const float* x, int64_t x_step, const uint16_t* const* y, int64_t k, float* sums,
             int64_t ld) {
  if (rows == 4) return dots<Format, 4>(x, x_step, y, k, sums, ld);
  for (int i = 0; i < rows;) {
    const bool two = rows - i >= 2;
    (two ? dots<Format, 2> : dots<Format, 1>)(x + i * x_step, x_step, y, k, sums + i * ld, ld);
    i += two ? 2 : 1;
  }
}

// C (or its transpose) of s <= kFewRows rows x, times the transpose of n rows y, contiguous along k.
void multiply_few(const Product& p, int64_t s, int64_t n, MatrixView<uint16_t> x, MatrixView<uint16_t> y,
                  bool transposed, uint16_t* c) {
  constexpr int64_t kColumns = 32;  // of C at a time
  memory::Buffer<float> rows(size_t(s * p.k));
  if (x.col == 1)
    widen(rows.get(), x, s, p.k, p.half);
  else
    for (int64_t i = 0; i < s; ++i)
      for (int64_t q = 0; q < p.k; ++q)
        widen(rows.get() + i * p.k + q, x.data + i * x.row + q * x.col, 1, p.half);
  const double microseconds = double(n) * double(p.k) * std::max(1e-4, 3e-5 * double(s));
  tile::share(ceil_div(n, kColumns), microseconds, [&](int64_t begin, int64_t end) {
    for (int64_t j0 = begin * kColumns; j0 < std::min(n, end * kColumns); j0 += kColumns) {
      const int64_t j1 = std::min(n, j0 + kColumns);
      float sums[kFewRows * kColumns], finished[kFewRows * kColumns];
      for (int64_t j = j0; j < j1; j += 4) {
        const uint16_t* from[4];
        for (int r = 0; r < 4; ++r) from[r] = y.data + std::min(j + r, j1 - 1) * y.row;
        const auto multiply = p.half == Half::float16 ? dots_of<simd::Float16> : dots_of<simd::BFloat16>;
        multiply(int(s), rows.get(), p.k, from, p.k, sums + (j - j0), kColumns);
      }
      const int64_t count = j1 - j0;
      const float* of_x = transposed ? p.epilogue.bias_col : p.epilogue.bias_row;
      const float* of_y = transposed ? p.epilogue.bias_row : p.epilogue.bias_col;
      tile::finish<float>(
          sums, kColumns, int(s), int(count),
          {finished, kColumns, p.alpha, 0.0f, of_x, of_y ? of_y + j0 : nullptr, p.epilogue.activation});
      for (int64_t i = 0; i < s; ++i)
        if (!transposed)
          narrow(c + i * p.n + j0, finished + i * kColumns, count, p.half);
        else
          for (int64_t j = j0; j < j1; ++j)
            narrow(c + j * p.n + i, finished + i * kColumns + (j - j0), 1, p.half);
    }
  });
}

// The batch in strips of `extent` rows or columns of C.
void multiply_strips(const Product& p, int64_t batch, int64_t extent, MatrixView<uint16_t> a,
                     const int64_t* offsets_a, MatrixView<uint16_t> b, const int64_t* offsets_b,
                     uint16_t* c) {
  const bool along_n = p.n >= p.m;
  const int64_t longer = along_n ? p.n : p.m, shorter = along_n ? p.m : p.n;
  const int64_t strips = ceil_div(longer, extent);
  memory::Buffer<float> shared(batch == 1 ? size_t(shorter * p.k) : 0);
  MatrixView<float> once{};
  if (batch == 1)
    once = along_n ? widen(shared.get(), {a.data + offsets_a[0], a.row, a.col}, p.m, p.k, p.half)
                   : widen(shared.get(), {b.data + offsets_b[0], b.row, b.col}, p.k, p.n, p.half);
  const double microseconds = double(batch) * double(p.m * p.n * p.k) * 2e-5 +
                              double(batch) * double(p.m * p.k + p.k * p.n + p.m * p.n) * 2e-4;
  tile::share(batch * strips, microseconds, [&](int64_t begin, int64_t end) {
    memory::Buffer<float> own(batch == 1 ? 0 : size_t(shorter * p.k)), strip(size_t(extent * p.k)),
        sums(size_t(extent * shorter));
    MatrixView<float> held = once;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t item = task / strips, from = task % strips * extent, to = std::min(longer, from + extent);
      const MatrixView<uint16_t> left{a.data + offsets_a[item], a.row, a.col},
          right{b.data + offsets_b[item], b.row, b.col};
      uint16_t* result = c + item * p.m * p.n;
      const bool fresh = batch > 1 && (task == begin || from == 0);
      if (along_n) {
        if (fresh) held = widen(own.get(), left, p.m, p.k, p.half);
        const auto y =
            widen(strip.get(), {right.data + from * right.col, right.row, right.col}, p.k, to - from, p.half);
        multiply(p, held, y, 0, p.m, from, to, sums.get(), result);
      } else {
        if (fresh) held = widen(own.get(), right, p.k, p.n, p.half);
        const auto y =
            widen(strip.get(), {left.data + from * left.row, left.row, left.col}, to - from, p.k, p.half);
        multiply(p, y, held, from, to, 0, p.n, sums.get(), result);
      }
    }
  });
}

void multiply_whole(const Product& p, MatrixView<uint16_t> a, MatrixView<uint16_t> b, uint16_t* c,
                    const Addend& added = {}) {
  memory::Buffer<float> left(size_t(p.m * p.k)), right(size_t(p.k * p.n)), sums(size_t(p.m * p.n));
  const auto x = widen(left.get(), a, p.m, p.k, p.half), y = widen(right.get(), b, p.k, p.n, p.half);
  if (added.data) widen_all(sums.get(), added.data, p.m * p.n, p.half);
  gemm<float>(p.m, p.n, p.k, p.alpha, x, y, added.beta, sums.get(), p.n, p.epilogue);
  narrow_all(c, sums.get(), p.m * p.n, p.half);
}

// Tiny products, as many at a time as stay with their floats in a near cache.
void multiply_tiny(const Product& p, int64_t batch, MatrixView<uint16_t> a, const int64_t* offsets_a,
                   MatrixView<uint16_t> b, const int64_t* offsets_b, uint16_t* c) {
  constexpr int64_t kPiece = 8192;
  const int64_t left = p.m * p.k, right = p.k * p.n, result = p.m * p.n;
  const int64_t step = std::clamp<int64_t>(kPiece / (left + right + result), 1, batch);
  tile::share(ceil_div(batch, step), double(batch) * 0.1, [&](int64_t begin, int64_t end) {
    memory::Buffer<float> x(size_t(step * left)), y(size_t(step * right)), sums(size_t(step * result));
    memory::Buffer<int64_t> places(size_t(2 * step));
    for (int64_t first = begin * step; first < std::min(batch, end * step); first += step) {
      const int64_t count = std::min(step, batch - first);
      MatrixView<float> u, v;
      for (int64_t i = 0; i < count; ++i) {
        u = widen(x.get() + i * left, {a.data + offsets_a[first + i], a.row, a.col}, p.m, p.k, p.half);
        v = widen(y.get() + i * right, {b.data + offsets_b[first + i], b.row, b.col}, p.k, p.n, p.half);
        places[i] = i * left, places[step + i] = i * right;
      }
      u.data = x.get(), v.data = y.get();
      gemm_batched<float>(count, p.m, p.n, p.k, p.alpha, u, places.get(), v, places.get() + step, 0.0f,
                          sums.get(), result, p.n, p.epilogue);
      narrow(c + first * result, sums.get(), count * result, p.half);
    }
  });
}

}  // namespace

MatrixView<float> widen(float* y, MatrixView<uint16_t> x, int64_t rows, int64_t cols, Half half) {
  const bool by_rows = x.col == 1;
  const int64_t lines = by_rows ? rows : cols, length = by_rows ? cols : rows,
                pitch = by_rows ? x.row : x.col;
  if (pitch == length)
    widen_all(y, x.data, lines * length, half);
  else
    parallel_for(lines, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, length)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i)
                     widen(y + i * length, x.data + i * pitch, length, half);
                 });
  return by_rows ? MatrixView<float>{y, length, 1} : MatrixView<float>{y, 1, length};
}

void gemm_half(Half half, int64_t batch, int64_t m, int64_t n, int64_t k, float alpha, MatrixView<uint16_t> a,
               const int64_t* offsets_a, MatrixView<uint16_t> b, const int64_t* offsets_b, uint16_t* c,
               const GemmEpilogue<float>& epilogue, const Addend& added) {
  const Product p{half, m, n, k, alpha, epilogue};
  const bool few_rows = m <= kFewRows && b.row == 1, few_columns = n <= kFewRows && n < m && a.col == 1;
  if (!added.data && k > 0 && (few_rows || few_columns) && batch * m * n > 0) {
    const double microseconds = double(batch) * double(m * k + k * n) * 1e-4;
    tile::share(batch, microseconds, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const MatrixView<uint16_t> x{a.data + offsets_a[i], a.row, a.col},
            y{b.data + offsets_b[i], b.row, b.col};
        if (few_rows)
          multiply_few(p, m, n, x, y.transposed(), false, c + i * m * n);
        else
          multiply_few(p, n, m, y.transposed(), x, true, c + i * m * n);
      }
    });
    return;
  }
  const bool small = batch > 1 && m * n * k <= kSmallProduct;
  if (!added.data && batch > 1 && m * n * k > 0 && m * n * k <= kTinyProduct)
    return multiply_tiny(p, batch, a, offsets_a, b, offsets_b, c);
  // (A long sum for fewer tiles than threads is shared along k by the engine for floats.)
  const int64_t tiles = batch * ceil_div(m, tile::kRows) * ceil_div(n, 32);
  const bool long_sum = k >= 4096 && tiles < num_threads();
  if (half == Half::bfloat16 && batch * m * n * k > 0 && !long_sum && pair_products_win(m, n, k)) {
    const auto one = [&](int64_t i) {
      gemm_pairs(m, n, k, alpha, {a.data + offsets_a[i], a.row, a.col}, {b.data + offsets_b[i], b.row, b.col},
                 c + i * m * n, epilogue, added.data ? added.data + i * m * n : nullptr, added.beta);
    };
    if (!small)
      for (int64_t i = 0; i < batch; ++i) one(i);
    else
      tile::share(batch, double(batch) * tile::product_microseconds<float>(m, n, k),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) one(i);
                  });
    return;
  }
  if (added.data || (std::min(m, n) > kShortSide && !small)) {
    for (int64_t i = 0; i < batch; ++i)
      multiply_whole(p, {a.data + offsets_a[i], a.row, a.col}, {b.data + offsets_b[i], b.row, b.col},
                     c + i * m * n, {added.data ? added.data + i * m * n : nullptr, added.beta});
    return;
  }
  // As long as fits, in whole vectors; and for each thread some strips.
  const int64_t longer = std::max(m, n), shorter = std::min(m, n);
  int64_t extent = kStrip / std::max<int64_t>(1, std::max(k, shorter));
  extent = std::min(extent, longer * batch / (int64_t{num_threads()} * 4));
  extent = std::clamp<int64_t>(extent / 16 * 16, 16, std::max<int64_t>(16, longer));
  multiply_strips(p, batch, extent, a, offsets_a, b, offsets_b, c);
}

}  // namespace fastdl

// Products so small that choosing, packing and a general tile would cost more than the arithmetic: rows of C
// in registers, rows of B (contiguous) read from where they lie, elements of A broadcast. The last vector of
// a row is masked; there is no epilogue but alpha. A single column against contiguous rows: dot products. A small
// B of any strides is made contiguous first.
#include "cpu/gemm/tiny.h"

#include <algorithm>

#include "cpu/simd/simd.h"

namespace fastdl::tile {
namespace {

using namespace simd;

// R rows by C vectors, of which the last one has `last` lanes.
template <class T, int R, int C>
void tiny_block(int64_t k, T alpha, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t b_row,
                int last, T* c, int64_t ldc) {
  constexpr int w = kWidth<T>;
  Vec<T> sum[R * C] = {};
  for (int64_t p = 0; p < k; ++p, a += a_col, b += b_row) {
    Vec<T> row[C];
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) row[v] = v + 1 < C ? load(b + v * w) : load_n(b + v * w, last);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T x = a[r * a_row];
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) sum[r * C + v] += x * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) {
      const Vec<T> y = alpha * sum[r * C + v];
      if (v + 1 < C)
        store<T>(c + r * ldc + v * w, y);
      else
        store_n(c + r * ldc + v * w, y, last);
    }
}

template <class T, int R>
void tiny_rows(int64_t n, int64_t k, T alpha, const T* a, int64_t a_row, int64_t a_col, const T* b,
               int64_t b_row, T* c, int64_t ldc) {
  constexpr int w = kWidth<T>, most = R == 1 ? 8 : R == 4 ? 2 : 1;
  int64_t j = 0;
  if constexpr (most > 1)
    for (; n - j >= most * w; j += most * w)
      tiny_block<T, R, most>(k, alpha, a, a_row, a_col, b + j, b_row, w, c + j, ldc);
  for (; j < n; j += w)
    tiny_block<T, R, 1>(k, alpha, a, a_row, a_col, b + j, b_row, int(std::min<int64_t>(w, n - j)), c + j,
                        ldc);
}

template <class T>
T dot(const T* a, const T* b, int64_t k) {
  constexpr int w = kWidth<T>;
  Vec<T> sum[2] = {};
  int64_t p = 0;
  for (; p + 2 * w <= k; p += 2 * w)
    for (int v = 0; v < 2; ++v) sum[v] += load(a + p + v * w) * load(b + p + v * w);
  for (; p < k; p += w) {
    const int n = int(std::min<int64_t>(w, k - p));
    sum[0] += n == w ? load(a + p) * load(b + p) : load_n(a + p, n) * load_n(b + p, n);
  }
  return reduce_add<T>(sum[0] + sum[1]);
}

}  // namespace

template <class T>
void multiply_tiny(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T* c,
                   int64_t ldc) {
  T turned[kTurned];
  if (b.col != 1 && n > 1) {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t p = 0; p < k; ++p) turned[p * n + j] = b.data[p * b.row + j * b.col];
    b = {turned, n, 1};
  }
  int64_t i = 0;
  if (n == 1 && k >= kWidth<T> && a.col == 1 && b.row == 1) {  // a lane for each k, not for each column
    for (; i < m; ++i) c[i * ldc] = alpha * dot(a.data + i * a.row, b.data, k);
    return;
  }
  const auto rows = [&]<int R>() {
    tiny_rows<T, R>(n, k, alpha, a.data + i * a.row, a.row, a.col, b.data, b.row, c + i * ldc, ldc);
    i += R;
  };
  if (n <= kWidth<T>)  // more rows leave no room for two vectors, which take turns with A's elements
    while (m - i >= 8) rows.template operator()<8>();
  while (m - i >= 4) rows.template operator()<4>();
  switch (m - i) {
    case 3:
      return rows.template operator()<3>();
    case 2:
      return rows.template operator()<2>();
    case 1:
      return rows.template operator()<1>();
  }
}

#define FASTDL_INSTANTIATE(T) \
  template void multiply_tiny<T>(int64_t, int64_t, int64_t, T, MatrixView<T>, MatrixView<T>, T*, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::tile

// Products of short sums: C row by row, in the order of memory. A register tile would take longer to begin
// and to end than to multiply.
//
// A row's k numbers stay in registers, broadcast, while the columns of B pass, packed with the bias in panels
// of one vector for L1: per vector of C k multiply-adds, each with a load of its own, and one store. A last
// vector of a row that is not whole begins earlier, and its first lanes are computed twice. Work: over rows.
#include "cpu/gemm/thin.h"

#include <algorithm>
#include <array>
#include <utility>

#include "cpu/gemm/share.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {
namespace {

using namespace simd;

constexpr int64_t kPanelBytes = 24 << 10;  // of a block of columns: a part of L1
constexpr int64_t kFewRows = 32;           // packing B and this many rows take as long as other ways
constexpr int64_t kFewVectors = kBytes == 64 ? 5 : 2;  // a row of so many costs less than its part of tiles

// n >= kWidth columns of rows [i0, i1): panel v holds columns from min(v * kWidth, n - kWidth) on, k steps and
// the bias.
template <class T, int K>
void thin_rows(MatrixView<T> a, const T* bias, int64_t i0, int64_t i1, const T* panels, int64_t n, T* c,
               int64_t ldc) {
  constexpr int w = kWidth<T>;
  for (int64_t i = i0; i < i1; ++i) {
    Vec<T> x[K];
#pragma GCC unroll 8
    for (int p = 0; p < K; ++p) x[p] = broadcast(a.data[i * a.row + p * a.col]);
    const T own = bias ? bias[i] : T(0);
    T* to = c + i * ldc;
    const T* panel = panels;
    for (int64_t j = 0;;) {
      Vec<T> sum = own + load(panel + K * w);
#pragma GCC unroll 8
      for (int p = 0; p < K; ++p) sum += x[p] * load(panel + p * w);
      store<T>(to + j, sum);
      panel += (K + 1) * w;
      j += w;
      if (j + w <= n) continue;
      if (j >= n) break;
      j = n - w;
    }
  }
}

template <class T>
using ThinRows = void (*)(MatrixView<T>, const T*, int64_t, int64_t, const T*, int64_t, T*, int64_t);
template <class T, int... K>
constexpr auto thin_table(std::integer_sequence<int, K...>) {
  return std::array<ThinRows<T>, sizeof...(K)>{&thin_rows<T, K + 1>...};
}

}  // namespace

template <class T>
bool is_thin(int64_t m, int64_t n, int64_t k, T beta, const GemmEpilogue<T>& epilogue) {
  return k <= kThin && n >= kFewVectors * kWidth<T> && m >= kFewRows && beta == T(0) &&
         epilogue.activation == GemmActivation::none;
}

template <class T>
void multiply_thin(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T* c,
                   int64_t ldc, const GemmEpilogue<T>& epilogue) {
  constexpr int w = kWidth<T>;
  static constexpr auto rows = thin_table<T>(std::make_integer_sequence<int, int(kThin)>{});
  constexpr int64_t room = kPanelBytes / int64_t(sizeof(T));
  alignas(64) T panels[room];
  const int64_t most = room / (w * (k + 1)) * w, blocks = ceil_div(n, most);
  for (int64_t block = 0; block < blocks; ++block) {
    // (The last block begins earlier where it would be shorter than a vector.)
    const int64_t end = std::min(n, (block + 1) * most), begin = std::min(block * most, end - w);
    T* to = panels;
    for (int64_t j = begin; j < end; j += w) {
      const int64_t first = std::min(j, end - w);
      for (int64_t p = 0; p < k; ++p, to += w) {
        const T* from = b.data + p * b.row + first * b.col;
        if (b.col == 1)
          store<T>(to, alpha * load(from));
        else
          for (int lane = 0; lane < w; ++lane) to[lane] = alpha * from[lane * b.col];
      }
      store<T>(to, epilogue.bias_col ? load(epilogue.bias_col + first) : Vec<T>{});
      to += w;
    }
    share(m, product_microseconds<T>(m, end - begin, k + 4), [&](int64_t i0, int64_t i1) {
      rows[size_t(k - 1)](a, epilogue.bias_row, i0, i1, panels, end - begin, c + begin, ldc);
    });
  }
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template bool is_thin<T>(int64_t, int64_t, int64_t, T, const GemmEpilogue<T>&);                         \
  template void multiply_thin<T>(int64_t, int64_t, int64_t, T, MatrixView<T>, MatrixView<T>, T*, int64_t, \
                                 const GemmEpilogue<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::tile

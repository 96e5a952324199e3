// One step's product of a recurrent layer, C = A panel (+ C), for a panel of kNR columns: up to three rows have
// too few sums to hide the latency of a multiply-add, so they take several steps of k at a time in sums of
// their own, which are added at the end; more rows are the register tile of gemm/tile.h. One call is one
// thread's; the layer shares out units (forward.cpp, backward.cpp).
#include "cpu/rnn/product.h"

#include "cpu/simd/simd.h"

namespace fastdl::rnn {
namespace {

using namespace simd;

// S steps of k at a time, R x 2 vectors each: 8 to 12 chains of additions.
template <class T, int R, int S>
void thin(int64_t k, const T* a, int64_t a_row, int64_t a_step, const T* panel, int cols, T* c, int64_t ldc,
          bool add) {
  constexpr int w = kWidth<T>, nr = kNR<T>;
  static_assert(nr == 2 * w);
  Vec<T> acc[S][R][2];
#pragma GCC unroll 16
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) acc[s][i][0] = acc[s][i][1] = Vec<T>{};
  const auto step = [&](int s) __attribute__((always_inline)) {
    const Vec<T> low = load(panel + s * nr), high = load(panel + s * nr + w);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const T x = a[i * a_row + s * a_step];
      acc[s][i][0] += x * low;
      acc[s][i][1] += x * high;
    }
  };
  int64_t p = 0;
  for (; p + S <= k; p += S, a += S * a_step, panel += S * nr)
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) step(s);
  for (; p < k; ++p, a += a_step, panel += nr) step(0);
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      Vec<T> sum = acc[0][i][v];
#pragma GCC unroll 16
      for (int s = 1; s < S; ++s) sum += acc[s][i][v];
      T* to = c + i * ldc + v * w;
      const int lanes = std::min(w, cols - v * w);
      if (lanes == w)
        store<T>(to, add ? load(to) + sum : sum);
      else if (lanes > 0)
        store_n(to, add ? load_n(to, lanes) + sum : sum, lanes);
    }
}

}  // namespace

template <class T>
void multiply_thin(int rows, int64_t k, const T* a, int64_t a_row, int64_t a_step, const T* panel, int cols,
                   T* c, int64_t ldc, bool add) {
  if (rows == 1)
    thin<T, 1, 4>(k, a, a_row, a_step, panel, cols, c, ldc, add);
  else if (rows == 2)
    thin<T, 2, 2>(k, a, a_row, a_step, panel, cols, c, ldc, add);
  else
    thin<T, 3, 2>(k, a, a_row, a_step, panel, cols, c, ldc, add);
}

template void multiply_thin<float>(int, int64_t, const float*, int64_t, int64_t, const float*, int, float*,
                                   int64_t, bool);
template void multiply_thin<double>(int, int64_t, const double*, int64_t, int64_t, const double*, int,
                                    double*, int64_t, bool);

}  // namespace fastdl::rnn

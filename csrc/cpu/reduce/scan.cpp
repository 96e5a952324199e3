// Running sums along the middle axis of (outer, n, inner), forwards or from the end; kept in double.
//
//   inner = 1   four rows at a time, one chain of additions each: a single one would wait for its latency
//   inner > 1   a tile of columns' sums in the first-level cache, rows in order
//
// Work: rows and tiles over threads (a single row runs on one). Passes: one read, one write.
#include <algorithm>
#include <type_traits>

#include "cpu/elementwise/functions.h"
#include "cpu/reduce.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;
constexpr int64_t kGrain = 8192;  // elements worth about 10 us

// R rows from x on, n apart; step 1 or -1.
template <int R, class T>
void scan_rows(T* y, const T* x, int64_t n, int64_t first, int64_t step) {
  double sum[R] = {};
  for (int64_t i = 0, at = first; i < n; ++i, at += step)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) y[r * n + at] = T(sum[r] += double(x[r * n + at]));
}

// `count` sums in double += a row, and the row of sums as T.
template <class T>
void add_row(T* y, const T* x, int64_t count, double* sums) {
  using Part = std::conditional_t<sizeof(T) == 8, Vec<T>, typename HalfOf<T>::type>;
  constexpr int w = kWidth<double>;
  int64_t c = 0;
  for (; c + w <= count; c += w) {
    Part part;
    std::memcpy(&part, x + c, sizeof part);
    const Vec<double> sum = load(sums + c) + __builtin_convertvector(part, Vec<double>);
    store<double>(sums + c, sum);
    part = __builtin_convertvector(sum, Part);
    std::memcpy(y + c, &part, sizeof part);
  }
  for (; c < count; ++c) y[c] = T(sums[c] += double(x[c]));
}

}  // namespace

template <class T>
void running_sum(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end) {
  if (outer * n * inner == 0) return;
  const int64_t first = from_end ? n - 1 : 0, step = from_end ? -1 : 1;
  if (inner == 1) {
    parallel_for((outer + 3) / 4, std::max<int64_t>(1, kGrain / (4 * n)), [&](int64_t begin, int64_t end) {
      int64_t o = begin * 4;
      for (; o + 4 <= std::min(outer, end * 4); o += 4) scan_rows<4>(y + o * n, x + o * n, n, first, step);
      for (; o < std::min(outer, end * 4); ++o) scan_rows<1>(y + o * n, x + o * n, n, first, step);
    });
    return;
  }
  constexpr int64_t tile = 512;
  const int64_t tiles = (inner + tile - 1) / tile;
  const int64_t grain = std::max<int64_t>(1, kGrain / (n * std::min(tile, inner)));
  parallel_for(outer * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      alignas(64) double sums[tile] = {};
      const int64_t c = task % tiles * tile, base = task / tiles * n * inner + c;
      for (int64_t i = 0, at = first; i < n; ++i, at += step)
        add_row(y + base + at * inner, x + base + at * inner, std::min(tile, inner - c), sums);
    }
  });
}

template void running_sum<float>(float*, const float*, int64_t, int64_t, int64_t, bool);
template void running_sum<double>(double*, const double*, int64_t, int64_t, int64_t, bool);

}  // namespace fastdl

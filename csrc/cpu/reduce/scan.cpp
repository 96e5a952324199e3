// Running sums along the middle axis of (outer, n, inner), forwards or from the end, and products; kept in
// double.
//
//   inner = 1   along a row, the sums within a vector in log2(width) steps; short rows four at a time, one
//               chain of additions each
//   inner > 1   a tile of columns' sums in the first-level cache, rows in order; few columns as short rows
//
// Work: rows and tiles over threads (a single row runs on one). Passes: one read, one write.
#include <algorithm>
#include <functional>
#include <type_traits>

#include "cpu/elementwise/functions.h"
#include "cpu/reduce.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;
constexpr int64_t kGrain = 8192;  // elements worth about 10 us
constexpr int64_t kShortRow = 16;

// Doubles as kWidth<double> elements.
template <class T>
[[gnu::always_inline]] inline void store_narrow(T* p, Vec<double> v) {
  if constexpr (sizeof(T) == 8) {
    store(p, v);
  } else {
    const Half part = to_single(v);
    std::memcpy(p, &part, sizeof part);
  }
}

// Lane i of the result is lane i - step of v, or i + step from the end; `none` where there is none.
template <int step, bool from_end>
[[gnu::always_inline]] inline Vec<double> moved(Vec<double> v, Vec<double> none) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    constexpr int w = kWidth<double>;
    return __builtin_shufflevector(v, none, (from_end ? i + step : i < step ? w + i : i - step)...);
  }(std::make_integer_sequence<int, kWidth<double>>());
}

// R chains of n results, `between` apart and each with its sum in a register; from y and x on in `step`s.
template <int R, class T, class A, class F>
void scan_together(T* y, const T* x, int64_t n, int64_t step, int64_t between, A start, F f) {
  A sum[R];
  std::fill_n(sum, R, start);
  for (int64_t i = 0; i < n; ++i, y += step, x += step)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) y[r * between] = T(sum[r] = f(sum[r], A(x[r * between])));
}

// One row, of sums or products; f(start, v) is v. Those within a vector do not depend on those before it:
// from vector to vector one operation waits for another.
template <bool from_end, class T, class F>
void scan_row(T* y, const T* x, int64_t n, double start, F f) {
  constexpr int w = kWidth<double>;
  const Vec<double> none = broadcast(start);
  Vec<double> before = none;  // the same in all lanes
  const auto vector = [&](int64_t i) {
    Vec<double> v = load_wide(x + i);
    v = f(v, moved<1, from_end>(v, none));
    if constexpr (w > 2) v = f(v, moved<2, from_end>(v, none));
    if constexpr (w > 4) v = f(v, moved<4, from_end>(v, none));
    store_narrow(y + i, f(v, before));
    before = f(before, broadcast<double>(v[from_end ? 0 : w - 1]));
  };
  if constexpr (from_end) {
    int64_t i = n;
    for (; i >= w; i -= w) vector(i - w);
    for (double sum = before[0]; i-- > 0;) y[i] = T(sum = f(sum, double(x[i])));
  } else {
    int64_t i = 0;
    for (; i + w <= n; i += w) vector(i);
    for (double sum = before[0]; i < n; ++i) y[i] = T(sum = f(sum, double(x[i])));
  }
}

template <bool from_end, class T>
void scan_rows(T* y, const T* x, int64_t outer, int64_t n) {
  parallel_for((outer + 3) / 4, std::max<int64_t>(1, kGrain / (4 * n)), [&](int64_t begin, int64_t end) {
    int64_t o = begin * 4;
    const int64_t last = std::min(outer, end * 4);
    const int64_t first = from_end ? n - 1 : 0;
    if (n < kShortRow)
      for (; o + 4 <= last; o += 4)
        scan_together<4>(y + o * n + first, x + o * n + first, n, from_end ? -1 : 1, n, 0.0, std::plus());
    for (; o < last; ++o) scan_row<from_end>(y + o * n, x + o * n, n, 0, std::plus());
  });
}

// `count` sums in double += a row, and the row of sums as T.
template <class T>
void add_row(T* y, const T* x, int64_t count, double* sums) {
  constexpr int w = kWidth<double>;
  int64_t c = 0;
  for (; c + w <= count; c += w) {
    const Vec<double> sum = load(sums + c) + load_wide(x + c);
    store<double>(sums + c, sum);
    store_narrow(y + c, sum);
  }
  for (; c < count; ++c) y[c] = T(sums[c] += double(x[c]));
}

// Few columns, two to four at a time.
constexpr int64_t kFewColumns = 8;
template <class T, class A, class F>
void scan_few_columns(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end, A start,
                      F f) {
  const int64_t step = from_end ? -inner : inner;
  parallel_for(outer, std::max<int64_t>(1, kGrain / (n * inner)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o)
      for (int64_t c = 0, count; c < inner; c += count) {
        const int64_t left = inner - c, at = (o * n + (from_end ? n - 1 : 0)) * inner + c;
        count = left == 5 ? 3 : std::min<int64_t>(left, 4);
        (count == 2   ? scan_together<2, T, A, F>
         : count == 3 ? scan_together<3, T, A, F>
                      : scan_together<4, T, A, F>)(y + at, x + at, n, step, 1, start, f);
      }
  });
}

}  // namespace

template <class T>
void running_sum(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end) {
  if (outer * n * inner == 0) return;
  const int64_t first = from_end ? n - 1 : 0, step = from_end ? -1 : 1;
  if (inner == 1) {
    return from_end ? scan_rows<true>(y, x, outer, n) : scan_rows<false>(y, x, outer, n);
  }
  if (inner < kFewColumns) return scan_few_columns(y, x, outer, n, inner, from_end, 0.0, std::plus());
  constexpr int64_t tile = 512;
  const int64_t tiles = ceil_div(inner, tile);
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

// Rows of T, four chains at a time, or rows of columns; accumulated in A by f.
template <class T, class A, class F>
void scan_chains(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end, A start, F f) {
  if (outer * n * inner == 0) return;
  const int64_t first = from_end ? n - 1 : 0, step = from_end ? -1 : 1;
  if (inner == 1) {
    parallel_for((outer + 3) / 4, std::max<int64_t>(1, kGrain / (4 * n)), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin * 4; o < std::min(outer, end * 4); o += 4) {
        if (o + 4 > outer) {  // alone a row's sum stays in its register
          for (int64_t r = o; r < outer; ++r) {
            A sum = start;
            for (int64_t i = 0, at = r * n + first; i < n; ++i, at += step) y[at] = T(sum = f(sum, A(x[at])));
          }
          continue;
        }
        scan_together<4>(y + o * n + first, x + o * n + first, n, step, n, start, f);
      }
    });
    return;
  }
  if (inner < kFewColumns) return scan_few_columns(y, x, outer, n, inner, from_end, start, f);
  constexpr int64_t tile = 256;
  const int64_t tiles = ceil_div(inner, tile);
  const int64_t grain = std::max<int64_t>(1, kGrain / (n * std::min(tile, inner)));
  parallel_for(outer * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      A sums[tile];
      const int64_t c = task % tiles * tile, base = task / tiles * n * inner + c;
      const int64_t count = std::min(tile, inner - c);
      std::fill(sums, sums + count, start);
      for (int64_t i = 0, at = base + first * inner; i < n; ++i, at += step * inner)
        for (int64_t j = 0; j < count; ++j) y[at + j] = T(sums[j] = f(sums[j], A(x[at + j])));
    }
  });
}

template <>
void running_sum<int64_t>(int64_t* y, const int64_t* x, int64_t outer, int64_t n, int64_t inner,
                          bool from_end) {
  scan_chains(y, x, outer, n, inner, from_end, uint64_t{0}, std::plus());
}

template <class T>
void running_product(T* y, const T* x, int64_t outer, int64_t n, int64_t inner) {
  using A = std::conditional_t<std::is_same_v<T, int64_t>, uint64_t, double>;  // overflow wraps
  // The products of some floats are numbers in double, whichever they are; not so those of doubles.
  if constexpr (std::is_same_v<T, float>)
    if (inner == 1 && n >= kShortRow)
      return parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o) scan_row<false>(y + o * n, x + o * n, n, 1, std::multiplies());
      });
  scan_chains(y, x, outer, n, inner, false, A(1), std::multiplies());
}
template void running_product<int64_t>(int64_t*, const int64_t*, int64_t, int64_t, int64_t);
template void running_product<float>(float*, const float*, int64_t, int64_t, int64_t);
template void running_product<double>(double*, const double*, int64_t, int64_t, int64_t);

template void running_sum<float>(float*, const float*, int64_t, int64_t, int64_t, bool);
template void running_sum<double>(double*, const double*, int64_t, int64_t, int64_t, bool);

}  // namespace fastdl

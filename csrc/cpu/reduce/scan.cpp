// Running sums along the middle axis of (outer, n, inner), forwards or from the end; kept in double.
//
//   inner = 1   along a row, the sums within a vector in log2(width) steps
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

// kWidth<double> elements as doubles, and back.
template <class T>
[[gnu::always_inline]] inline Vec<double> load_wide(const T* p) {
  if constexpr (sizeof(T) == 8) {
    return load(p);
  } else {
    Half part;
    std::memcpy(&part, p, sizeof part);
    return to_double(part);
  }
}
template <class T>
[[gnu::always_inline]] inline void store_narrow(T* p, Vec<double> v) {
  if constexpr (sizeof(T) == 8) {
    store(p, v);
  } else {
    const Half part = to_single(v);
    std::memcpy(p, &part, sizeof part);
  }
}

// Lane i of the result is lane i - step of v, or i + step from the end; zero where there is none.
template <int step, bool from_end>
[[gnu::always_inline]] inline Vec<double> moved(Vec<double> v) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    constexpr int w = kWidth<double>;
    return __builtin_shufflevector(v, Vec<double>{}, (from_end ? i + step : i < step ? w + i : i - step)...);
  }(std::make_integer_sequence<int, kWidth<double>>());
}

// One row. The sums within a vector do not depend on those before it: only one addition waits for another.
template <bool from_end, class T>
void scan_row(T* y, const T* x, int64_t n) {
  constexpr int w = kWidth<double>;
  double before = 0;
  const auto vector = [&](int64_t i) {
    Vec<double> v = load_wide(x + i);
    v += moved<1, from_end>(v);
    if constexpr (w > 2) v += moved<2, from_end>(v);
    if constexpr (w > 4) v += moved<4, from_end>(v);
    v += before;
    store_narrow(y + i, v);
    before = v[from_end ? 0 : w - 1];
  };
  if constexpr (from_end) {
    int64_t i = n;
    for (; i >= w; i -= w) vector(i - w);
    while (i-- > 0) y[i] = T(before += double(x[i]));
  } else {
    int64_t i = 0;
    for (; i + w <= n; i += w) vector(i);
    for (; i < n; ++i) y[i] = T(before += double(x[i]));
  }
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

}  // namespace

template <class T>
void running_sum(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end) {
  if (outer * n * inner == 0) return;
  const int64_t first = from_end ? n - 1 : 0, step = from_end ? -1 : 1;
  if (inner == 1) {
    parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        from_end ? scan_row<true>(y + o * n, x + o * n, n) : scan_row<false>(y + o * n, x + o * n, n);
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

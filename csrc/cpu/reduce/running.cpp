// Running extremes and running log-sum-exp along the middle axis of (outer, n, inner).
//
//   extremes      values[i] the extreme of x[0 .. i], indices[i] its last place; NaN wins and stays. A row
//                 takes a vector at a time, most of which replace nothing; columns compare with the row of
//                 results before.
//   log-sum-exp   in double. A row in blocks: with their maximum m (of the sum so far, too), exp(x - m) is
//                 added up and m + log of the sums is the result; where a block spans more than exp can,
//                 one by one. Columns keep a maximum and the sum relative to it.
//
// Work: rows and tiles of columns over threads (a single row runs on one). Passes: one read, one write.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/elementwise/functions.h"
#include "cpu/reduce.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;
using D = Vec<double>;
constexpr int64_t kGrain = 4096;  // elements worth about 10 us
constexpr int64_t kTile = 256;    // columns, or elements of a row's block
constexpr double kInf = std::numeric_limits<double>::infinity();

// f(o, first column, columns) for all rows of results.
template <class F>
void over_columns(int64_t outer, int64_t n, int64_t inner, F&& f) {
  const int64_t tiles = ceil_div(inner, kTile);
  const int64_t grain = std::max<int64_t>(1, kGrain / (n * std::min(kTile, inner)));
  parallel_for(outer * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task % tiles * kTile;
      f(task / tiles, c, std::min(kTile, inner - c));
    }
  });
}

template <bool largest, class V>
[[gnu::always_inline]] inline auto replaces(V v, V best) {
  return (largest ? v >= best : v <= best) | (v != v);
}

template <bool largest, class T>
void extreme_row(const T* x, int64_t n, T* values, int64_t* indices) {
  T best = x[0];
  int64_t at = 0;
  const auto step = [&](int64_t i) {
    if (replaces<largest>(x[i], best)) best = x[i], at = i;
    values[i] = best;
    indices[i] = at;
  };
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, int64_t>) {
    constexpr int w = kWidth<T>;
    for (; i + w <= n; i += w) {
      const Vec<T> all = broadcast(best);
      if (i > 0 && !any(replaces<largest>(load(x + i), all))) {
        store(values + i, all);
        std::fill_n(indices + i, w, at);
      } else {
        for (int64_t j = i; j < i + w; ++j) step(j);
      }
    }
  }
  for (; i < n; ++i) step(i);
}

template <bool largest, class T>
void extreme(const T* x, int64_t outer, int64_t n, int64_t inner, T* values, int64_t* indices) {
  if (inner == 1)
    return parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        extreme_row<largest>(x + o * n, n, values + o * n, indices + o * n);
    });
  over_columns(outer, n, inner, [&](int64_t o, int64_t first, int64_t count) {
    const int64_t base = o * n * inner + first;
    std::copy_n(x + base, count, values + base);
    std::fill_n(indices + base, count, int64_t{0});
    for (int64_t i = 1; i < n; ++i) {
      const int64_t at = base + i * inner;
      const T* __restrict in = x + at;
      T* __restrict best = values + at;
      int64_t* __restrict where = indices + at;
      const T* __restrict last_best = best - inner;
      const int64_t* __restrict last = where - inner;
      for (int64_t c = 0; c < count; ++c) {
        const bool take = replaces<largest>(in[c], last_best[c]);
        best[c] = take ? in[c] : last_best[c];
        where[c] = take ? i : last[c];
      }
    }
  });
}

double log_add(double a, double b) {
  if (a == b && std::isinf(a)) return a;
  return std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}

// One block, in the order of the sums; returns the last result. `block` has room for a whole vector more.
double logsumexp_block(double* block, int64_t count, double before) {
  constexpr int w = kWidth<double>;
  constexpr double span = 600;  // exp(-span) is a normal number
  std::fill_n(block + count, w, block[count - 1]);
  D high = broadcast(before), low = broadcast(kInf), sum{};
  for (int64_t i = 0; i < count; i += w) {
    const D v = load(block + i);
    high = v > high ? v : high;
    low = (v < low) & (v > -kInf) ? v : low;
    sum += v;  // NaN shows in it
  }
  const double most = reduce_max<double>(high);
  double least = std::min(-reduce_max<double>(-low), before > -kInf ? before : kInf);
  const double total = reduce_add<double>(sum);
  const double m = most == -kInf ? 0 : most;
  if (least == kInf) least = m;
  if (!(m - least <= span) || m == kInf || (total != total && most != -kInf)) {
    for (int64_t i = 0; i < count; ++i) block[i] = before = log_add(before, block[i]);
    return before;
  }
  for (int64_t i = 0; i < count; i += w) store<double>(block + i, exp<double>(load(block + i) - m));
  double running = std::exp(before - m);
  for (int64_t i = 0; i < count; ++i) block[i] = running += block[i];
  for (int64_t i = 0; i < count; i += w) store<double>(block + i, m + log<double>(load(block + i)));
  return block[count - 1];
}

template <class T>
void logsumexp_row(T* y, const T* x, int64_t n, bool from_end) {
  alignas(64) double block[kTile + kWidth<double>];
  double before = -kInf;
  for (int64_t i = 0; i < n; i += kTile) {
    const int64_t count = std::min(kTile, n - i);
    const int64_t first = from_end ? n - i - count : i;
    for (int64_t j = 0; j < count; ++j) block[j] = double(x[first + j]);
    if (from_end) std::reverse(block, block + count);
    before = logsumexp_block(block, count, before);
    if (from_end) std::reverse(block, block + count);
    for (int64_t j = 0; j < count; ++j) y[first + j] = T(block[j]);
  }
}

}  // namespace

template <class T>
void running_extreme(bool largest, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
                     int64_t* indices) {
  if (outer * n * inner == 0) return;
  if (largest)
    extreme<true>(x, outer, n, inner, values, indices);
  else
    extreme<false>(x, outer, n, inner, values, indices);
}

template <class T>
void running_logsumexp(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end) {
  if (outer * n * inner == 0) return;
  if (inner == 1)
    return parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) logsumexp_row(y + o * n, x + o * n, n, from_end);
    });
  over_columns(outer, n, inner, [&](int64_t o, int64_t first, int64_t count) {
    constexpr int w = kWidth<double>;
    alignas(64) double most[kTile + w], sum[kTile + w] = {}, row[kTile + w] = {};
    std::fill_n(most, kTile + w, -kInf);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = (o * n + (from_end ? n - 1 - i : i)) * inner + first;
      for (int64_t c = 0; c < count; ++c) row[c] = double(x[at + c]);
      for (int64_t c = 0; c < count; c += w) {
        const D v = load(row + c), m = load(most + c), s = load(sum + c);
        // The smaller of both, relative to the larger; equal infinities have no difference.
        const D e = v == m ? broadcast<double>(1) : exp<double>(-abs<double>(v - m));
        const D top = v > m ? v : m, total = v > m ? s * e + 1.0 : s + e;
        store<double>(most + c, top);
        store<double>(sum + c, total);
        store<double>(row + c, top + log<double>(total));
      }
      for (int64_t c = 0; c < count; ++c) y[at + c] = T(row[c]);
    }
  });
}

template void running_extreme<float>(bool, const float*, int64_t, int64_t, int64_t, float*, int64_t*);
template void running_extreme<double>(bool, const double*, int64_t, int64_t, int64_t, double*, int64_t*);
template void running_extreme<int64_t>(bool, const int64_t*, int64_t, int64_t, int64_t, int64_t*, int64_t*);
template void running_logsumexp<float>(float*, const float*, int64_t, int64_t, int64_t, bool);
template void running_logsumexp<double>(double*, const double*, int64_t, int64_t, int64_t, bool);

}  // namespace fastdl

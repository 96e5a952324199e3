// The largest or smallest element along one axis of (outer, n, inner), and the first place where it is. NaN
// beats everything, the first NaN wins, as in PyTorch.
//
//   inner = 1   a vector pass finds the value, a second one stops at its first occurrence (the row is in
//   cache by then) inner > 1   a tile of columns keeps value and index in registers' reach; rows are visited
//   in order, only a strictly
//               better value replaces: the first of equals stays
//
// Work: outputs over threads; a single long row is cut into slices, joined in order. Passes: the input once
// (rows longer than the cache: up to twice).
#include <algorithm>
#include <limits>

#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;
constexpr int64_t kGrain = 16384;  // elements worth about 10 us

template <bool largest, class V>
[[gnu::always_inline]] inline auto better(V candidate, V than) {
  if constexpr (largest)
    return (candidate > than) | ((candidate != candidate) & (than == than));
  else
    return (candidate < than) | ((candidate != candidate) & (than == than));
}

template <class M>
bool reduce_any(M mask) {
  const auto words = (Vec<int64_t>)mask;
  int64_t all = 0;
  for (int i = 0; i < kWidth<int64_t>; ++i) all |= words[i];
  return all != 0;
}

template <bool largest, class T>
int64_t first_extreme(const T* x, int64_t n) {
  constexpr int width = kWidth<T>;
  T best = x[0];
  if (n >= 4 * width) {
    using M = Vec<Int<T>>;
    Vec<T> top[4];
    for (int j = 0; j < 4; ++j) top[j] = load(x + j * width);
    M missing = (M)(top[0] != top[0]) | (M)(top[1] != top[1]) | (M)(top[2] != top[2]) | (M)(top[3] != top[3]);
    const auto take = [&](Vec<T>& slot, Vec<T> v) {
      missing |= (M)(v != v);
      if constexpr (largest)
        slot = max(slot, v);
      else
        slot = min(slot, v);
    };
    int64_t i = 4 * width;
    for (; i + 4 * width <= n; i += 4 * width)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) take(top[j], load(x + i + j * width));
    for (; i + width <= n; i += width) take(top[0], load(x + i));
    take(top[1], load(x + n - width));  // overlapping: harmless for an extreme
    T lanes[4 * width];
    for (int j = 0; j < 4; ++j) store(lanes + j * width, top[j]);
    best = lanes[0];
    for (T lane : lanes)
      if (largest ? lane > best : lane < best) best = lane;
    if (reduce_any(missing)) best = std::numeric_limits<T>::quiet_NaN();
  } else {
    int64_t at = 0;
    for (int64_t i = 1; i < n; ++i) {
      const bool take = better<largest>(x[i], best);
      best = take ? x[i] : best;
      at = take ? i : at;
    }
    return at;
  }
  if (best != best) {
    for (int64_t i = 0;; ++i)
      if (x[i] != x[i]) return i;
  }
  constexpr int64_t block = 64;
  int64_t i = 0;
  for (; i + block <= n; i += block) {
    bool found = false;
    for (int64_t j = 0; j < block; ++j) found |= x[i + j] == best;
    if (found) break;
  }
  while (x[i] != best) ++i;
  return i;
}

template <bool largest, class T>
void rows(const T* x, int64_t outer, int64_t n, T* values, int64_t* indices) {
  const int threads = num_threads();
  if (outer < 2 * threads && threads > 1 && n >= 8 * kGrain) {
    const int64_t slices = threads * fastdl::detail::kChunksPerThread;
    memory::Buffer<int64_t> partial(size_t(outer * slices));
    parallel_tasks(outer * slices, [&](int64_t task) {
      const int64_t slice = task % slices, begin = n * slice / slices, end = n * (slice + 1) / slices;
      partial[task] = begin + first_extreme<largest>(x + task / slices * n + begin, end - begin);
    });
    for (int64_t o = 0; o < outer; ++o) {
      const T* row = x + o * n;
      int64_t best = partial[o * slices];
      for (int64_t s = 1; s < slices; ++s)
        if (better<largest>(row[partial[o * slices + s]], row[best])) best = partial[o * slices + s];
      indices[o] = best;
      if (values) values[o] = row[best];
    }
    return;
  }
  parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      indices[o] = first_extreme<largest>(x + o * n, n);
      if (values) values[o] = x[o * n + indices[o]];
    }
  });
}

template <bool largest, class T>
void columns(const T* x, int64_t outer, int64_t n, int64_t inner, T* values, int64_t* indices) {
  constexpr int64_t tile = 512;
  const int64_t tiles = (inner + tile - 1) / tile;
  const int64_t work = n * inner / tiles;
  parallel_for(outer * tiles, std::max<int64_t>(1, kGrain / work), [&](int64_t first, int64_t last) {
    alignas(64) T best[tile];
    alignas(64) Int<T> where[tile];
    for (int64_t task = first; task < last; ++task) {
      const int64_t o = task / tiles, begin = inner * (task % tiles) / tiles,
                    end = inner * (task % tiles + 1) / tiles;
      const int64_t count = end - begin;
      int64_t* to = indices + o * inner + begin;
      // An index lane is as wide as T: for float, blocks of rows short enough for 32 bits, each relative to
      // its base.
      constexpr int64_t limit = int64_t(1) << 30;
      std::copy_n(x + o * n * inner + begin, count, best);
      std::fill_n(to, count, int64_t{0});
      for (int64_t base = 0; base < n; base += limit) {
        std::fill_n(where, count, Int<T>(-1));
        for (int64_t r = 0; r < std::min(limit, n - base); ++r) {
          const T* row = x + (o * n + base + r) * inner + begin;
          for (int64_t c = 0; c < count; ++c) {
            const bool take = better<largest>(row[c], best[c]);
            best[c] = take ? row[c] : best[c];
            where[c] = take ? Int<T>(r) : where[c];
          }
        }
        for (int64_t c = 0; c < count; ++c)
          if (where[c] >= 0) to[c] = base + where[c];
      }
      if (values) std::copy_n(best, count, values + o * inner + begin);
    }
  });
}

template <bool largest, class T>
void run(const T* x, int64_t outer, int64_t n, int64_t inner, T* values, int64_t* indices) {
  if (outer * inner == 0) return;
  if (inner == 1)
    rows<largest>(x, outer, n, values, indices);
  else
    columns<largest>(x, outer, n, inner, values, indices);
}

}  // namespace

template <class T>
void extreme_index(bool largest, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
                   int64_t* indices) {
  if (largest)
    run<true>(x, outer, n, inner, values, indices);
  else
    run<false>(x, outer, n, inner, values, indices);
}

template void extreme_index<float>(bool, const float*, int64_t, int64_t, int64_t, float*, int64_t*);
template void extreme_index<double>(bool, const double*, int64_t, int64_t, int64_t, double*, int64_t*);

}  // namespace fastdl

// The largest or smallest element along one axis of (outer, n, inner), and the first place where it is. NaN
// beats everything, the first NaN wins, as in PyTorch.
//
//   inner = 1   every lane keeps its best value and where it came, lanes are compared at the end; short rows
//               become columns, a vector of rows at a time
//   inner > 1   a tile of columns keeps value and index in registers' reach; rows are visited in order, only
//               a strictly better value replaces: the first of equals stays
//
// Work: outputs over threads; a single long row is cut into slices, joined in order. Passes: the input once.
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/side_by_side.h"
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

// The integers of T's size, and what no element loses to.
template <class T>
using Place = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <bool largest, class T>
constexpr T kWorst =
    std::is_integral_v<T>
        ? (largest ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max())
        : (largest ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity());

template <class T>
[[gnu::always_inline]] inline Vec<T> load_part(const T* x, int n) {
  if constexpr (std::is_integral_v<T>) {
    Vec<T> v{};
    std::memcpy(&v, x, size_t(n) * sizeof(T));
    return v;
  } else {
    return load_n(x, n);
  }
}

// A value and its position in every lane.
template <class T>
struct Best {
  Vec<T> value;
  Vec<Place<T>> at;
};
template <bool largest, class T>
[[gnu::always_inline]] inline Best<T> better_of(const Best<T>& a, const Best<T>& b) {
  using M = Vec<Place<T>>;
  // Better, or NaN where there was none: not "worse or equal", which is false for NaN on either side.
  const M wins = ~(largest ? (M)(b.value <= a.value) : (M)(b.value >= a.value)) & (M)(a.value == a.value);
  const M equal = (M)(b.value == a.value) | ((M)(a.value != a.value) & (M)(b.value != b.value));
  const M replace = wins | (equal & (M)(b.at < a.at));
  return {replace ? b.value : a.value, replace ? b.at : a.at};
}
template <bool largest, class T, int step = kWidth<T> / 2>
[[gnu::always_inline]] inline int64_t best_lane(const Best<T>& x) {
  if constexpr (step == 0) {
    return x.at[0];
  } else {
    const Best<T> turned = [&]<int... i>(std::integer_sequence<int, i...>) -> Best<T> {
      return {__builtin_shufflevector(x.value, x.value, ((i + step) % kWidth<T>)...),
              __builtin_shufflevector(x.at, x.at, ((i + step) % kWidth<T>)...)};
    }(std::make_integer_sequence<int, kWidth<T>>());
    return best_lane<largest, T, step / 2>(better_of<largest, T>(x, turned));
  }
}

// C vectors wide; C * kWidth<T> <= n < 2^31.
template <bool largest, int C, class T>
int64_t first_extreme_of(const T* x, int64_t n) {
  constexpr int width = kWidth<T>;
  using M = Vec<Place<T>>;
  M lane;
  for (int i = 0; i < width; ++i) lane[i] = i;
  // The end of a row, filled up with what loses against everything but itself, and then by its place.
  const auto load_end = [&](const T* p, int64_t count) __attribute__((always_inline)) {
    return lane < Place<T>(count) ? load_part(p, int(count)) : Vec<T>{} + kWorst<largest, T>;
  };
  Best<T> best[C];
#pragma GCC unroll 4
  for (int j = 0; j < C; ++j) best[j] = {load(x + j * width), lane + Place<T>(j * width)};
  // Later positions replace only by a better value: the first of equals stays.
  const auto take = [&](int j, Vec<T> v, int64_t i) __attribute__((always_inline)) {
    const M worse = largest ? (M)(v <= best[j].value) : (M)(v >= best[j].value);
    const M replace = ~worse & (M)(best[j].value == best[j].value);
    best[j].value = replace ? v : best[j].value;
    best[j].at = replace ? lane + Place<T>(i) : best[j].at;
  };
  int64_t i = C * width;
  for (; i + C * width <= n; i += C * width)
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) take(j, load(x + i + j * width), i + j * width);
  for (; i + width <= n; i += width) take(0, load(x + i), i);
  if (i < n) take(0, load_end(x + i, n - i), i);
#pragma GCC unroll 4
  for (int j = 1; j < C; ++j) best[0] = better_of<largest, T>(best[0], best[j]);
  return best_lane<largest, T>(best[0]);
}

template <bool largest, class T>
int64_t first_extreme(const T* x, int64_t n) {
  constexpr int width = kWidth<T>;
  if (n <= std::numeric_limits<int32_t>::max()) {
    if (n >= 8 * width) return first_extreme_of<largest, 4>(x, n);
    return first_extreme_of<largest, 1>(x, n);
  }
  T best = x[0];
  int64_t at = 0;
  for (int64_t i = 1; i < n; ++i) {
    const bool take = better<largest>(x[i], best);
    best = take ? x[i] : best;
    at = take ? i : at;
  }
  return at;
}

constexpr int64_t kColumns = 512;  // of a tile

// column_extremes of a vector of columns at most and n < 2^31, in registers.
template <bool largest, class T>
[[gnu::noinline]] void vector_extremes(const T* x, int64_t n, int64_t inner, int64_t count, T* values,
                                       int64_t* indices) {
  Vec<T> top = load_part(x, int(count));
  Vec<Place<T>> at{};
  for (int64_t r = 1; r < n; ++r) {
    const Vec<T> v = load_part(x + r * inner, int(count));
    const auto worse = largest ? (Vec<Place<T>>)(v <= top) : (Vec<Place<T>>)(v >= top);
    const Vec<Place<T>> take = ~worse & (Vec<Place<T>>)(top == top);
    top = take ? v : top;
    at = take ? Vec<Place<T>>{} + Place<T>(r) : at;
  }
  for (int64_t c = 0; c < count; ++c) indices[c] = at[c];
  if (values) std::memcpy(values, &top, size_t(count) * sizeof(T));
}

// The extremes of `count` columns over n rows, the first at x.
template <bool largest, class T>
void column_extremes(const T* x, int64_t n, int64_t inner, int64_t count, T* values, int64_t* indices) {
  constexpr int width = kWidth<T>;
  alignas(64) T best[kColumns + width] = {};
  alignas(64) Place<T> where[kColumns + width];
  // An index lane is as wide as T: for float, blocks of rows short enough for 32 bits, each relative to its
  // base.
  constexpr int64_t limit = int64_t(1) << 30;
  if (count <= width && n <= limit) return vector_extremes<largest>(x, n, inner, count, values, indices);
  std::copy_n(x, count, best);
  std::fill_n(indices, count, int64_t{0});
  for (int64_t base = 0; base < n; base += limit) {
    std::fill_n(where, count, Place<T>(-1));
    for (int64_t r = 0; r < std::min(limit, n - base); ++r) {
      const T* row = x + (base + r) * inner;
      for (int64_t c = 0; c < count; c += width) {  // best and where have room for a whole vector
        const Vec<T> v = count - c < width ? load_part(row + c, int(count - c)) : load(row + c);
        const Vec<T> top = load(best + c);
        const auto worse = largest ? (Vec<Place<T>>)(v <= top) : (Vec<Place<T>>)(v >= top);
        const Vec<Place<T>> take = ~worse & (Vec<Place<T>>)(top == top);
        store<T>(best + c, take ? v : top);
        store<Place<T>>(where + c, take ? Vec<Place<T>>{} + Place<T>(r) : load(where + c));
      }
    }
    for (int64_t c = 0; c < count; ++c)
      if (where[c] >= 0) indices[c] = base + where[c];
  }
  if (values) std::copy_n(best, count, values);
}

// What is compiled for the largest and for the smallest; how it is called is not.
template <class T>
struct Loops {
  int64_t (*row)(const T* x, int64_t n);
  void (*columns)(const T* x, int64_t n, int64_t inner, int64_t count, T* values, int64_t* indices);
  void (*few_columns)(const T* x, int64_t n, int64_t inner, int64_t count, T* values, int64_t* indices);
  bool (*better)(T candidate, T than);
};
template <bool largest, class T>
Loops<T> loops_of() {
  return {first_extreme<largest, T>, column_extremes<largest, T>, vector_extremes<largest, T>,
          [](T candidate, T than) -> bool { return better<largest>(candidate, than); }};
}

// As many short rows as a vector has lanes become columns: one comparison serves them all, and no lanes are
// compared with each other.
template <class T>
constexpr int64_t kShortRow = (std::is_integral_v<T> ? 1 : 2) * kWidth<T>;
template <class T>
void short_rows(const Loops<T>& loops, const T* x, int64_t outer, int64_t n, T* values, int64_t* indices) {
  using Float = std::conditional_t<sizeof(T) == 4, float, double>;  // of an integer the bits
  constexpr int64_t w = kWidth<T>;
  parallel_for(ceil_div(outer, w), std::max<int64_t>(1, kGrain / (w * n)), [&](int64_t begin, int64_t end) {
    alignas(64) T columns[kShortRow<T> * w];
    for (int64_t o = begin * w; o < std::min(outer, end * w); o += w) {
      const int64_t count = std::min(w, outer - o);
      interleave(reinterpret_cast<Float*>(columns), reinterpret_cast<const Float*>(x + o * n), n, int(count),
                 n);
      loops.few_columns(columns, n, w, count, values ? values + o : nullptr, indices + o);
    }
  });
}

template <class T>
void rows(const Loops<T>& loops, const T* x, int64_t outer, int64_t n, T* values, int64_t* indices) {
  const int threads = num_threads();
  if (outer < 2 * threads && threads > 1 && n >= 8 * kGrain) {
    const int64_t slices = threads * fastdl::detail::kChunksPerThread;
    memory::Buffer<int64_t> partial(size_t(outer * slices));
    parallel_tasks(outer * slices, [&](int64_t task) {
      const int64_t slice = task % slices, begin = n * slice / slices, end = n * (slice + 1) / slices;
      partial[task] = begin + loops.row(x + task / slices * n + begin, end - begin);
    });
    for (int64_t o = 0; o < outer; ++o) {
      const T* row = x + o * n;
      int64_t best = partial[o * slices];
      for (int64_t s = 1; s < slices; ++s)
        if (loops.better(row[partial[o * slices + s]], row[best])) best = partial[o * slices + s];
      indices[o] = best;
      if (values) values[o] = row[best];
    }
    return;
  }
  if (n <= kShortRow<T>) return short_rows(loops, x, outer, n, values, indices);
  parallel_for(outer, std::max<int64_t>(1, kGrain / n), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      indices[o] = loops.row(x + o * n, n);
      if (values) values[o] = x[o * n + indices[o]];
    }
  });
}

// Columns in tiles; the rows of a few tiles in slices, too, for every thread to have some.
template <class T>
void columns(const Loops<T>& loops, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
             int64_t* indices) {
  const int64_t tiles = ceil_div(inner, kColumns), work = n * inner / tiles;
  const auto tile = [=](int64_t task, int64_t first, int64_t last, T* best, int64_t* where) {
    const int64_t o = task / tiles, begin = inner * (task % tiles) / tiles,
                  end = inner * (task % tiles + 1) / tiles;
    loops.columns(x + (o * n + first) * inner + begin, last - first, inner, end - begin,
                  best ? best + o * inner + begin : nullptr, where + o * inner + begin);
  };
  const int64_t slices = std::min<int64_t>(ceil_div(2 * num_threads(), outer * tiles), work / (4 * kGrain));
  if (slices <= 1 || num_threads() == 1)
    return parallel_for(outer * tiles, std::max<int64_t>(1, kGrain / work), [=](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) tile(task, 0, n, values, indices);
    });
  const int64_t size = outer * inner;
  memory::Buffer<T> best(size_t(slices * size));
  memory::Buffer<int64_t> where(size_t(slices * size));
  parallel_tasks(outer * tiles * slices, [&](int64_t task) {
    const int64_t s = task % slices;
    tile(task / slices, n * s / slices, n * (s + 1) / slices, best + s * size, where + s * size);
  });
  for (int64_t i = 0; i < size; ++i) {
    int64_t top = 0;
    for (int64_t s = 1; s < slices; ++s)
      if (loops.better(best[s * size + i], best[top * size + i])) top = s;
    indices[i] = n * top / slices + where[top * size + i];
    if (values) values[i] = best[top * size + i];
  }
}

}  // namespace

template <class T>
void extreme_index(bool largest, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
                   int64_t* indices) {
  if (outer * inner == 0) return;
  const Loops<T> loops = largest ? loops_of<true, T>() : loops_of<false, T>();
  if (inner == 1)
    rows(loops, x, outer, n, values, indices);
  else
    columns(loops, x, outer, n, inner, values, indices);
}

#define FASTDL_INSTANTIATE(T) \
  template void extreme_index<T>(bool, const T*, int64_t, int64_t, int64_t, T*, int64_t*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(int64_t)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// Folds over any set of axes: out[k] = join over r of map(x[k, r], y[k, r]).
//
// Everything is accumulated in double: float32 sums are right to the last bit but for the final rounding, whatever the
// length and the split, and converting costs nothing beside reading memory. Two shapes of loop, by where x is contiguous:
//
//   rows      the innermost axis is reduced: four vector accumulators run along it, lanes are joined at the end of an
//             output (halving order); short rows go side by side, one per lane
//   columns   the innermost axis is kept: a tile of kTile accumulators in the first-level cache, to which four rows at a
//             time are added; a few columns (fewer than half a tile) are repeated side by side, so that
//             vectors are full, and folded at the end
//
// Work: outputs over threads; where those are too few for that, the reduced space is cut into slices as well, whose
// partial results are joined in slice order. Passes: each input is read once.
#include <algorithm>
#include <array>

#include "cpu/elementwise/functions.h"
#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;
using D = Vec<double>;
constexpr int w = kWidth<double>;
constexpr int64_t kGrain = 16384;  // elements worth about 10 us
constexpr int64_t kTile = 1024;    // columns that a task holds accumulators for
constexpr int64_t kShortRow = 4 * w;  // rows up to here are folded side by side
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Add {
  static constexpr double start = 0;
  template <class V>
  static V join(V a, V b) {
    return a + b;
  }
};
struct Multiply {
  static constexpr double start = 1;
  template <class V>
  static V join(V a, V b) {
    return a * b;
  }
};
struct Max {
  static constexpr double start = -kInf;
  static D join(D a, D b) { return a != a ? a : max(a, b); }  // simd::max gives b if either is NaN
  static double join(double a, double b) { return a != a || a > b ? a : b; }
};
struct Min {
  static constexpr double start = kInf;
  static D join(D a, D b) { return a != a ? a : min(a, b); }
  static double join(double a, double b) { return a != a || a < b ? a : b; }
};

// w elements, or the first n of them, as doubles.
template <class T>
[[gnu::always_inline]] inline D load_wide(const T* p) {
  if constexpr (sizeof(T) == 8)
    return load(p);
  else {
    typename HalfOf<float>::type part;
    std::memcpy(&part, p, sizeof part);
    return __builtin_convertvector(part, D);
  }
}
template <class T>
[[gnu::always_inline]] inline D load_wide_n(const T* p, int n) {
  if constexpr (sizeof(T) == 8)
    return load_n(p, n);
  else {
    typename HalfOf<float>::type part{};
    std::memcpy(&part, p, size_t(n) * sizeof(float));
    return __builtin_convertvector(part, D);
  }
}

// The lanes below n of `value`, the others of `rest`.
[[gnu::always_inline]] inline D first_lanes(D value, D rest, int n) {
  Vec<int64_t> lane;
#pragma GCC unroll 8
  for (int i = 0; i < w; ++i) lane[i] = i;
  return lane < int64_t(n) ? value : rest;
}

// How y comes: not at all, one per element, or one for the whole row.
enum class Second { none, each, constant };

template <class U, Second second>
struct Y {
  const U* p;
  D constant;
  explicit Y(const char* y) : p(reinterpret_cast<const U*>(y)) {
    if constexpr (second == Second::constant) constant = broadcast<double>(double(*p));
  }
  [[gnu::always_inline]] D at(int64_t i) const {
    if constexpr (second == Second::each) return load_wide(p + i);
    else if constexpr (second == Second::constant) return constant;
    else return D{};
  }
  [[gnu::always_inline]] D at_n(int64_t i, int n) const {
    if constexpr (second == Second::each) return load_wide_n(p + i, n);
    else return at(i);
  }
};

template <class T, class U, Second second, class Join, class Map>
struct Folder {
  const ReduceProblem& p;
  const Map map;

  // Walks the reduced space from flat position `begin` to `end`, calling row(x, y, count) for runs of its last axis.
  template <class Row>
  void walk(int64_t begin, int64_t end, const char* x, const char* y, Row&& row) const {
    const int axes = p.reduced_axes;
    if (axes == 0) {
      if (begin < end) row(x, y, int64_t{1});
      return;
    }
    const auto& inner = p.reduced[axes - 1];
    if (axes == 1) {
      if (begin < end) row(x + begin * inner.x, y + begin * inner.y, end - begin);
      return;
    }
    int64_t index[ReduceProblem::kMaxAxes];
    int64_t rest = begin / inner.extent, column = begin % inner.extent;
    for (int a = axes - 2; a >= 0; --a) {
      index[a] = rest % p.reduced[a].extent;
      rest /= p.reduced[a].extent;
      x += index[a] * p.reduced[a].x;
      y += index[a] * p.reduced[a].y;
    }
    for (int64_t position = begin; position < end; column = 0) {
      const int64_t count = std::min(inner.extent - column, end - position);
      row(x + column * inner.x, y + column * inner.y, count);
      position += count;
      for (int a = axes - 2; a >= 0; --a) {
        x += p.reduced[a].x;
        y += p.reduced[a].y;
        if (++index[a] < p.reduced[a].extent) break;
        x -= index[a] * p.reduced[a].x;
        y -= index[a] * p.reduced[a].y;
        index[a] = 0;
      }
    }
  }

  // The first `axes` kept axes: where output number k is, in the inputs and in the result.
  void locate(int64_t k, int axes, const char*& x, const char*& y, int64_t& out) const {
    x = p.x, y = p.y, out = 0;
    if (axes == 1) {  // the common case, without divisions
      x += k * p.kept[0].x;
      y += k * p.kept[0].y;
      out = k * p.kept[0].out;
      return;
    }
    for (int a = axes - 1; a >= 0; --a) {
      const int64_t index = k % p.kept[a].extent;
      k /= p.kept[a].extent;
      x += index * p.kept[a].x;
      y += index * p.kept[a].y;
      out += index * p.kept[a].out;
    }
  }

  // ---- rows

  [[gnu::always_inline]] void fold_row(const T* x, const char* y_bytes, int64_t n, D (&acc)[4]) const {
    const Y<U, second> y(y_bytes);
    int64_t i = 0;
    for (; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        acc[j] = Join::join(acc[j], map(load_wide(x + i + j * w), y.at(i + j * w)));
    for (; i + w <= n; i += w) acc[0] = Join::join(acc[0], map(load_wide(x + i), y.at(i)));
    if (i < n) {
      const int rest = int(n - i);
      acc[1] = first_lanes(Join::join(acc[1], map(load_wide_n(x + i, rest), y.at_n(i, rest))), acc[1], rest);
    }
  }

  double fold_one(const char* x, const char* y, int64_t begin, int64_t end) const {
    D acc[4];
    for (D& a : acc) a = broadcast<double>(Join::start);
    walk(begin, end, x, y, [&](const char* xr, const char* yr, int64_t n) { fold_row(reinterpret_cast<const T*>(xr), yr, n, acc); });
    const D all = Join::join(Join::join(acc[0], acc[1]), Join::join(acc[2], acc[3]));
    double lanes[w];
    store(lanes, all);
#pragma GCC unroll 4
    for (int step = w / 2; step > 0; step /= 2)
#pragma GCC unroll 4
      for (int i = 0; i < step; ++i) lanes[i] = Join::join(lanes[i], lanes[i + step]);
    return lanes[0];
  }

  // Outputs k .. k + w - 1, each a short row: one output per lane, no joining of lanes.
  void fold_short_rows(int64_t k, double* out) const {
    const auto& kept = p.kept[0];
    const auto& reduced = p.reduced[0];
    const char *x = p.x + k * kept.x, *y = p.y + k * kept.y;
    D acc = broadcast<double>(Join::start);
    for (int64_t r = 0; r < reduced.extent; ++r, x += reduced.x, y += reduced.y) {
      D vx, vy{};
#pragma GCC unroll 8
      for (int i = 0; i < w; ++i) {
        vx[i] = double(*reinterpret_cast<const T*>(x + i * kept.x));
        if constexpr (second != Second::none) vy[i] = double(*reinterpret_cast<const U*>(y + i * kept.y));
      }
      acc = Join::join(acc, map(vx, vy));
    }
#pragma GCC unroll 8
    for (int i = 0; i < w; ++i) out[(k + i) * kept.out] = acc[i];
  }

  void rows(double* out) const {
    const int64_t slices = slice_count(p.kept_size);
    if (slices == 1 && p.kept_axes == 1 && p.reduced_axes == 1 && p.reduced_size <= kShortRow) {
      parallel_for(p.kept_size / w, std::max<int64_t>(1, kGrain / 2 / (w * p.reduced_size)), [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) fold_short_rows(block * w, out);
      });
      for (int64_t k = p.kept_size / w * w; k < p.kept_size; ++k)
        out[k * p.kept[0].out] = fold_one(p.x + k * p.kept[0].x, p.y + k * p.kept[0].y, 0, p.reduced_size);
      return;
    }
    if (slices == 1) {
      parallel_for(p.kept_size, std::max<int64_t>(1, kGrain / p.reduced_size), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const char *x, *y;
          int64_t place;
          locate(k, p.kept_axes, x, y, place);
          out[place] = fold_one(x, y, 0, p.reduced_size);
        }
      });
      return;
    }
    memory::Buffer<double> partial(size_t(slices * p.kept_size));
    parallel_tasks(slices * p.kept_size, [&](int64_t task) {
      const int64_t slice = task % slices;
      const char *x, *y;
      int64_t place;
      locate(task / slices, p.kept_axes, x, y, place);
      partial[slice * p.kept_size + place] =
          fold_one(x, y, p.reduced_size * slice / slices, p.reduced_size * (slice + 1) / slices);
    });
    join_slices(partial, slices, out);
  }

  // ---- columns

  // acc[c] = join with `count` rows of `columns` elements, row_x and row_y bytes apart.
  void fold_rows(const char* x, const char* y_bytes, int64_t count, int64_t row_x, int64_t row_y, int64_t columns,
                 double* acc) const {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
      fold_into<4>(x + r * row_x, y_bytes + r * row_y, row_x, row_y, columns, acc);
    for (; r < count; ++r) fold_into<1>(x + r * row_x, y_bytes + r * row_y, row_x, row_y, columns, acc);
  }
  template <int kRows>
  [[gnu::always_inline]] void fold_into(const char* x, const char* y_bytes, int64_t row_x, int64_t row_y,
                                        int64_t columns, double* acc) const {
    const T* row[kRows];
    for (int j = 0; j < kRows; ++j) row[j] = reinterpret_cast<const T*>(x + j * row_x);
    const auto y = [&]<int... j>(std::integer_sequence<int, j...>) {
      return std::array<Y<U, second>, kRows>{Y<U, second>(y_bytes + j * row_y)...};
    }(std::make_integer_sequence<int, kRows>());
    int64_t c = 0;
    for (; c + w <= columns; c += w) {
      D a = load(acc + c);
#pragma GCC unroll 4
      for (int j = 0; j < kRows; ++j) a = Join::join(a, map(load_wide(row[j] + c), y[size_t(j)].at(c)));
      store(acc + c, a);
    }
    if (c < columns) {
      const int rest = int(columns - c);
      D a = load_n(acc + c, rest);
#pragma GCC unroll 4
      for (int j = 0; j < kRows; ++j) a = Join::join(a, map(load_wide_n(row[j] + c, rest), y[size_t(j)].at_n(c, rest)));
      store_n(acc + c, a, rest);
    }
  }

  // One task: `columns` columns from `x`, positions [begin, end) of the reduced space.
  void fold_tile(const char* x, const char* y, int64_t columns, int64_t begin, int64_t end, double* out,
                 int64_t out_stride) const {
    alignas(64) double acc[kTile];
    const auto* inner = p.reduced_axes > 0 ? &p.reduced[p.reduced_axes - 1] : nullptr;
    // Rows that follow each other in memory form one long row of `repeats` times the columns.
    int64_t repeats = 1;
    if (inner && inner->x == columns * int64_t(sizeof(T)) && columns <= kTile / 2 &&
        (second == Second::none || (second == Second::each && inner->y == columns * int64_t(sizeof(U)))))
      repeats = kTile / columns;
    std::fill_n(acc, columns * repeats, Join::start);
    walk(begin, end, x, y, [&](const char* xr, const char* yr, int64_t count) {
      const int64_t row_x = inner ? inner->x : 0, row_y = inner ? inner->y : 0;
      const int64_t blocks = count / repeats;
      fold_rows(xr, yr, blocks, row_x * repeats, row_y * repeats, columns * repeats, acc);
      const int64_t done = blocks * repeats;
      if (done < count) fold_rows(xr + done * row_x, yr + done * row_y, count - done, row_x, row_y, columns, acc);
    });
    for (int64_t c = 0; c < columns; ++c) {
      double all = acc[c];
      for (int64_t j = 1; j < repeats; ++j) all = Join::join(all, acc[j * columns + c]);
      out[c * out_stride] = all;
    }
  }

  void columns(double* out) const {
    const auto& inner = p.kept[p.kept_axes - 1];
    const int64_t outer = p.kept_size / inner.extent;
    const int64_t tiles = (inner.extent + kTile - 1) / kTile;
    const int64_t slices = slice_count(outer * tiles);
    memory::Buffer<double> partial(slices > 1 ? size_t(slices * p.kept_size) : 0);
    const int64_t tasks = outer * tiles * slices;
    const int64_t work = p.kept_size * p.reduced_size / std::max<int64_t>(tasks, 1);
    parallel_for(tasks, std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1)), [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t slice = task % slices, tile = task / slices % tiles;
        const char *x, *y;
        int64_t place;
        locate(task / slices / tiles, p.kept_axes - 1, x, y, place);
        const int64_t column = inner.extent * tile / tiles, end = inner.extent * (tile + 1) / tiles;
        double* to = slices > 1 ? partial + slice * p.kept_size : out;
        fold_tile(x + column * inner.x, y + column * inner.y, end - column, p.reduced_size * slice / slices,
                  p.reduced_size * (slice + 1) / slices, to + place + column * inner.out, inner.out);
      }
    });
    if (slices > 1) join_slices(partial, slices, out);
  }

  // Into how many slices the reduced space is cut, given `tasks` pieces of work without slicing.
  int64_t slice_count(int64_t tasks) const {
    const int64_t wanted = fastdl::detail::kChunksPerThread * num_threads();
    if (num_threads() == 1 || tasks * 2 >= wanted) return 1;
    const int64_t by_work = p.kept_size * p.reduced_size / (2 * kGrain);
    return std::clamp<int64_t>(std::min(wanted / tasks, by_work), 1, p.reduced_size);
  }
  void join_slices(const double* partial, int64_t slices, double* out) const {
    for (int64_t k = 0; k < p.kept_size; ++k) {
      double all = partial[k];
      for (int64_t s = 1; s < slices; ++s) all = Join::join(all, partial[s * p.kept_size + k]);
      out[k] = all;
    }
  }
};

template <class T, class U, Second second, class Join, class Map>
void run(const ReduceProblem& p, Map map, double* out) {
  const Folder<T, U, second, Join, Map> folder{p, map};
  const bool inner_is_kept = p.kept_axes > 0 && p.kept[p.kept_axes - 1].x == int64_t(sizeof(T)) &&
                             !(p.reduced_axes > 0 && p.reduced[p.reduced_axes - 1].x == int64_t(sizeof(T)));
  if (inner_is_kept) folder.columns(out);
  else folder.rows(out);
}
template <class T, class Join, class Map>
void run_one(const ReduceProblem& p, double* out, Map map) {
  run<T, T, Second::none, Join>(p, [map](D x, D) { return map(x); }, out);
}
template <class T, class U, class Map>
void run_two(const ReduceProblem& p, double* out, Map map) {
  // The stride of y along the axis in which x is contiguous.
  int64_t along = 0;
  if (p.reduced_axes > 0 && p.reduced[p.reduced_axes - 1].x == int64_t(sizeof(T))) along = p.reduced[p.reduced_axes - 1].y;
  else if (p.kept_axes > 0) along = p.kept[p.kept_axes - 1].y;
  if (along == 0) run<T, U, Second::constant, Add>(p, map, out);
  else run<T, U, Second::each, Add>(p, map, out);
}

}  // namespace

template <class T>
void fold(Fold op, const ReduceProblem& p, double parameter, double* out) {
  if (p.kept_size == 0) return;
  if (p.reduced_size == 0) {
    double start = Add::start;
    if (op == Fold::product) start = Multiply::start;
    if (op == Fold::maximum || op == Fold::maximum_abs) start = Max::start;
    if (op == Fold::minimum || op == Fold::minimum_abs) start = Min::start;
    std::fill_n(out, p.kept_size, start);
    return;
  }
  switch (op) {
    case Fold::sum:
      return run_one<T, Add>(p, out, [](D x) { return x; });
    case Fold::sum_abs:
      return run_one<T, Add>(p, out, [](D x) { return simd::abs<double>(x); });
    case Fold::sum_square:
      return run_one<T, Add>(p, out, [](D x) { return x * x; });
    case Fold::sum_power:
      return run_one<T, Add>(p, out, [e = broadcast<double>(parameter)](D x) { return power<double>(simd::abs<double>(x), e); });
    case Fold::nonzero:
      return run_one<T, Add>(p, out, [](D x) { return x != 0.0 ? broadcast<double>(1) : D{}; });
    case Fold::product:
      return run_one<T, Multiply>(p, out, [](D x) { return x; });
    case Fold::maximum:
      return run_one<T, Max>(p, out, [](D x) { return x; });
    case Fold::minimum:
      return run_one<T, Min>(p, out, [](D x) { return x; });
    case Fold::maximum_abs:
      return run_one<T, Max>(p, out, [](D x) { return simd::abs<double>(x); });
    case Fold::minimum_abs:
      return run_one<T, Min>(p, out, [](D x) { return simd::abs<double>(x); });
    case Fold::sum_product:
      return run_two<T, T>(p, out, [](D x, D y) { return x * y; });
    case Fold::sum_deviation:
      return run_two<T, double>(p, out, [](D x, D y) { return (x - y) * (x - y); });
    case Fold::sum_exp:
      return run_two<T, double>(p, out, [](D x, D y) { return simd::exp<double>(x - y); });
  }
}

template void fold<float>(Fold, const ReduceProblem&, double, double*);
template void fold<double>(Fold, const ReduceProblem&, double, double*);

}  // namespace fastdl

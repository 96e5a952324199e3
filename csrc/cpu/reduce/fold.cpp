// Folds over any set of axes: out[k] = join over r of map(x[k, r], y[k, r]).
//
// Sums are kept in double: lanes of T add up blocks of 32 vectors at most (4 chains of 8), whose sums go to
// double accumulators; errors of a block are a few roundings of its own size, whatever the length of the
// whole. Maps that need it (powers, deviations, exponentials, products of everything) are computed in double
// altogether. Two shapes of loop, by where x is contiguous:
//
//   rows      the innermost axis is reduced: four vector chains run along it, lanes are joined at the end of
//   an output
//             (halving order); short rows go side by side, one per lane
//   columns   the innermost axis is kept: a tile of kTile double accumulators in the first-level cache, to
//   which eight
//             rows at a time are added; a few columns (fewer than half a tile) are repeated side by side, so
//             that vectors are full, and folded at the end
//
// Work: outputs over threads; where those are too few for that, the reduced space is cut into slices as well,
// whose partial results are joined in slice order. Passes: each input is read once.
#include <algorithm>
#include <array>

#include "cpu/elementwise/functions.h"
#include "cpu/gemm/pack.h"
#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;
using D = Vec<double>;
constexpr int w = kWidth<double>;
constexpr int64_t kGrain = 16384;     // elements worth about 10 us
constexpr int64_t kTile = 1024;       // columns that a task holds accumulators for
constexpr int64_t kShortRow = 3 * w;  // rows up to here are folded side by side
constexpr int kDepth = 8;             // additions in T before a chain goes to double
constexpr double kInf = std::numeric_limits<double>::infinity();

// join works on vectors and on single numbers.
struct Add {
  static constexpr double start = 0;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    return a + b;
  }
};
struct Multiply {
  static constexpr double start = 1;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    return a * b;
  }
};
struct Max {
  static constexpr double start = -kInf;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    if constexpr (sizeof(V) == kBytes)
      return a != a ? a : max(a, b);  // simd::max gives b if either is NaN
    else
      return a != a || a > b ? a : b;
  }
};
struct Min {
  static constexpr double start = kInf;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    if constexpr (sizeof(V) == kBytes)
      return a != a ? a : min(a, b);
    else
      return a != a || a < b ? a : b;
  }
};

// kWidth<C> elements of T as C, or the first n of them.
template <class C, class T>
[[gnu::always_inline]] inline Vec<C> load_as(const T* p) {
  if constexpr (sizeof(T) == sizeof(C)) {
    return load(p);
  } else {
    typename HalfOf<float>::type part;
    std::memcpy(&part, p, sizeof part);
    return __builtin_convertvector(part, D);
  }
}
template <class C, class T>
[[gnu::always_inline]] inline Vec<C> load_as_n(const T* p, int n) {
  if constexpr (sizeof(T) == sizeof(C)) {
    return load_n(p, n);
  } else {
    typename HalfOf<float>::type part{};
    std::memcpy(&part, p, size_t(n) * sizeof(float));
    return __builtin_convertvector(part, D);
  }
}

// The lanes below n of `value`, the others of `rest`.
template <class C>
[[gnu::always_inline]] inline Vec<C> first_lanes(Vec<C> value, Vec<C> rest, int n) {
  Vec<Int<C>> lane;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<C>; ++i) lane[i] = i;
  return lane < Int<C>(n) ? value : rest;
}

// All lanes joined, halving: lane i with lane i + step, which is always a whole vector's work and no branch.
template <class Join, int step = w / 2>
[[gnu::always_inline]] inline double join_lanes(D v) {
  if constexpr (step == 0) {
    return v[0];
  } else {
    const D turned = [&]<int... i>(std::integer_sequence<int, i...>) {
      return __builtin_shufflevector(v, v, ((i + step) % w)...);
    }(std::make_integer_sequence<int, w>());
    return join_lanes<Join, step / 2>(Join::join(v, turned));
  }
}

// w vectors, each joined to one lane of the result: every round joins the halves of two.
template <class Join>
[[gnu::always_inline]] inline D join_transposed(D (&v)[w]) {
  constexpr auto order = std::make_integer_sequence<int, w>{};
#pragma GCC unroll 4
  for (int half = w / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      v[i] = Join::join(tile::zip_low<double>(v[i], v[i + half], order),
                        tile::zip_high<double>(v[i], v[i + half], order));
  return v[0];
}

// How y comes: not at all, one per element, or one for the whole row.
enum class Second { none, each, constant };

template <class C, class U, Second second>
struct Y {
  const U* p;
  Vec<C> constant;
  explicit Y(const char* y) : p(reinterpret_cast<const U*>(y)) {
    if constexpr (second == Second::constant) constant = broadcast<C>(C(*p));
  }
  [[gnu::always_inline]] Vec<C> at(int64_t i) const {
    if constexpr (second == Second::each)
      return load_as<C>(p + i);
    else if constexpr (second == Second::constant)
      return constant;
    else
      return Vec<C>{};
  }
  [[gnu::always_inline]] Vec<C> at_n(int64_t i, int n) const {
    if constexpr (second == Second::each)
      return load_as_n<C>(p + i, n);
    else
      return at(i);
  }
};

// Where results go: doubles, or T.
template <class T>
struct Output {
  const FoldOutput& to;
  void put(int64_t place, double value) const {
    if (to.as_double)
      static_cast<double*>(to.data)[place] = value * to.scale;
    else
      static_cast<T*>(to.data)[place] = T(value * to.scale);
  }
  void put(int64_t place, int64_t stride, const double* values, int64_t count) const {
    if (to.as_double) {
      auto* out = static_cast<double*>(to.data) + place;
      for (int64_t i = 0; i < count; ++i) out[i * stride] = values[i] * to.scale;
    } else if (stride == 1) {
      auto* out = static_cast<T*>(to.data) + place;
      for (int64_t i = 0; i < count; ++i) out[i] = T(values[i] * to.scale);
    } else {
      for (int64_t i = 0; i < count; ++i) put(place + i * stride, values[i]);
    }
  }
};

// T, U: elements of x and y; C: what map is computed in (T or double).
template <class T, class U, class C, Second second, class Join, class Map>
struct Folder {
  static constexpr int v = kWidth<C>;
  using V = Vec<C>;
  const ReduceProblem& p;
  const Map map;
  const Output<T> out;

  // Walks the reduced space from flat position `begin` to `end`, calling row(x, y, count) for runs of its
  // last axis.
  template <class Row>
  void walk(int64_t begin, int64_t end, const char* x, const char* y, Row&& row) const {
    const int axes = p.reduced_axes;
    if (begin >= end) return;
    if (axes == 0) return row(x, y, int64_t{1});
    const auto& inner = p.reduced[axes - 1];
    if (axes == 1) return row(x + begin * inner.x, y + begin * inner.y, end - begin);
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
  void locate(int64_t k, int axes, const char*& x, const char*& y, int64_t& place) const {
    x = p.x, y = p.y, place = 0;
    if (axes == 1) {  // the common case, without divisions
      x += k * p.kept[0].x;
      y += k * p.kept[0].y;
      place = k * p.kept[0].out;
      return;
    }
    for (int a = axes - 1; a >= 0; --a) {
      const int64_t index = k % p.kept[a].extent;
      k /= p.kept[a].extent;
      x += index * p.kept[a].x;
      y += index * p.kept[a].y;
      place += index * p.kept[a].out;
    }
  }

  // acc[0 .. v) = join with the lanes of value, as doubles.
  [[gnu::always_inline]] static void flush(D (&acc)[2], V value) {
    if constexpr (sizeof(C) == 8) {
      acc[0] = Join::join(acc[0], value);
    } else {
      acc[0] = Join::join(acc[0], widen<0>(value));
      acc[1] = Join::join(acc[1], widen<1>(value));
    }
  }
  [[gnu::always_inline]] static void flush(double* acc, V value) {
    if constexpr (sizeof(C) == 8) {
      store(acc, Join::join(load(acc), value));
    } else {
      store(acc, Join::join(load(acc), widen<0>(value)));
      store(acc + w, Join::join(load(acc + w), widen<1>(value)));
    }
  }

  // ---- rows

  [[gnu::always_inline]] void fold_row(const T* x, const char* y_bytes, int64_t n, D (&acc)[2]) const {
    const Y<C, U, second> y(y_bytes);
    const V start = broadcast<C>(C(Join::start));
    int64_t i = 0;
    while (i + 4 * v <= n) {
      V chain[4] = {start, start, start, start};
      const int64_t end = std::min(n - 4 * v, i + (kDepth - 1) * 4 * v);
      for (; i <= end; i += 4 * v)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          chain[j] = Join::join(chain[j], map(load_as<C>(x + i + j * v), y.at(i + j * v)));
      flush(acc, Join::join(Join::join(chain[0], chain[1]), Join::join(chain[2], chain[3])));
    }
    if (i == n) return;
    V chain = start;
    for (; i + v <= n; i += v) chain = Join::join(chain, map(load_as<C>(x + i), y.at(i)));
    if (i < n) {
      const int rest = int(n - i);
      chain = first_lanes<C>(Join::join(chain, map(load_as_n<C>(x + i, rest), y.at_n(i, rest))), chain, rest);
    }
    flush(acc, chain);
  }

  // The joined positions [begin, end) of one output, spread over the lanes.
  [[gnu::always_inline]] D fold_lanes(const char* x, const char* y, int64_t begin, int64_t end) const {
    D acc[2] = {broadcast<double>(Join::start), broadcast<double>(Join::start)};
    if (p.reduced_axes == 1 && begin == 0)
      fold_row(reinterpret_cast<const T*>(x), y, end, acc);
    else
      walk(begin, end, x, y, [&](const char* xr, const char* yr, int64_t n) {
        fold_row(reinterpret_cast<const T*>(xr), yr, n, acc);
      });
    return sizeof(C) == 8 ? acc[0] : Join::join(acc[0], acc[1]);
  }
  double fold_one(const char* x, const char* y, int64_t begin, int64_t end) const {
    return join_lanes<Join>(fold_lanes(x, y, begin, end));
  }

  // Outputs k .. k + w - 1: their lanes are joined all at once, so that the end of a row costs a few
  // instructions instead of waiting for a chain of them.
  [[gnu::noinline]] void fold_several(int64_t k) const {
    D lanes[w];
    int64_t place[w];
#pragma GCC unroll 1
    for (int i = 0; i < w; ++i) {
      const char *x, *y;
      locate(k + i, p.kept_axes, x, y, place[i]);
      lanes[i] = fold_lanes(x, y, 0, p.reduced_size);
    }
    double values[w];
    store(values, join_transposed<Join>(lanes));
    if (p.kept_axes == 1)
      out.put(place[0], p.kept[0].out, values, w);
    else
      for (int i = 0; i < w; ++i) out.put(place[i], values[i]);
  }

  // Outputs k .. k + w - 1, each a short row: one output per lane, no joining of lanes.
  void fold_short_rows(int64_t k) const {
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
    double values[w];
    store(values, acc);
    out.put(k * kept.out, kept.out, values, w);
  }

  void rows() const {
    const int64_t slices = slice_count(p.kept_size);
    if (slices > 1) {
      memory::Buffer<double> partial(size_t(slices * p.kept_size));
      parallel_tasks(slices * p.kept_size, [&](int64_t task) {
        const int64_t slice = task % slices;
        const char *x, *y;
        int64_t place;
        locate(task / slices, p.kept_axes, x, y, place);
        partial[slice * p.kept_size + place] =
            fold_one(x, y, p.reduced_size * slice / slices, p.reduced_size * (slice + 1) / slices);
      });
      return join_slices(partial, slices);
    }
    int64_t done = 0;
    if (p.kept_axes == 1 && p.reduced_axes == 1 && p.reduced_size <= kShortRow) {
      const int64_t blocks = p.kept_size / w;
      parallel_for(blocks, std::max<int64_t>(1, kGrain / 2 / (w * p.reduced_size)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t block = begin; block < end; ++block) fold_short_rows(block * w);
                   });
      done = blocks * w;
    }
    parallel_for(p.kept_size - done, std::max<int64_t>(1, kGrain / (p.reduced_size + 32)),
                 [&](int64_t begin, int64_t end) {
                   int64_t k = done + begin;
                   for (; k + w <= done + end; k += w) fold_several(k);
                   for (; k < done + end; ++k) {
                     const char *x, *y;
                     int64_t place;
                     locate(k, p.kept_axes, x, y, place);
                     out.put(place, fold_one(x, y, 0, p.reduced_size));
                   }
                 });
  }

  // ---- columns

  // acc[c] = join with `count` rows of `columns` elements, row_x and row_y bytes apart.
  void fold_rows(const char* x, const char* y, int64_t count, int64_t row_x, int64_t row_y, int64_t columns,
                 double* acc) const {
    for (; count >= 8; count -= 8, x += 8 * row_x, y += 8 * row_y)
      fold_into<8>(x, y, row_x, row_y, columns, acc);
    if (count & 4) fold_into<4>(x, y, row_x, row_y, columns, acc), x += 4 * row_x, y += 4 * row_y;
    if (count & 2) fold_into<2>(x, y, row_x, row_y, columns, acc), x += 2 * row_x, y += 2 * row_y;
    if (count & 1) fold_into<1>(x, y, row_x, row_y, columns, acc);
  }
  // Rows first .. first + n - 1 joined pairwise.
  template <int n, class Row>
  [[gnu::always_inline]] static V tree(const Row& row, int first = 0) {
    if constexpr (n == 1)
      return row(first);
    else
      return Join::join(tree<n / 2>(row, first), tree<n / 2>(row, first + n / 2));
  }
  template <int kRows>
  [[gnu::always_inline]] void fold_into(const char* x, const char* y_bytes, int64_t row_x, int64_t row_y,
                                        int64_t columns, double* acc) const {
    const auto y = [&]<int... j>(std::integer_sequence<int, j...>) {
      return std::array<Y<C, U, second>, kRows>{Y<C, U, second>(y_bytes + j * row_y)...};
    }(std::make_integer_sequence<int, kRows>());
    const auto row = [&](int j) { return reinterpret_cast<const T*>(x + j * row_x); };
    int64_t c = 0;
    for (; c + v <= columns; c += v)
      flush(acc + c, tree<kRows>([&](int j) { return map(load_as<C>(row(j) + c), y[size_t(j)].at(c)); }));
    if (c < columns) {  // acc has room for a whole vector
      const int rest = int(columns - c);
      const V all =
          tree<kRows>([&](int j) { return map(load_as_n<C>(row(j) + c, rest), y[size_t(j)].at_n(c, rest)); });
      flush(acc + c, first_lanes<C>(all, broadcast<C>(C(Join::start)), rest));
    }
  }

  // One task: `columns` columns from `x`, positions [begin, end) of the reduced space; results to `acc`.
  void fold_tile(const char* x, const char* y, int64_t columns, int64_t begin, int64_t end,
                 double* acc) const {
    const auto* inner = p.reduced_axes > 0 ? &p.reduced[p.reduced_axes - 1] : nullptr;
    // Rows that follow each other in memory form one long row of `repeats` times the columns.
    int64_t repeats = 1;
    if (inner && inner->x == columns * int64_t(sizeof(T)) && columns <= kTile / 2 &&
        (second == Second::none || (second == Second::each && inner->y == columns * int64_t(sizeof(U)))))
      repeats = std::clamp<int64_t>((end - begin) / 8, 1, kTile / columns);
    std::fill_n(acc, columns * repeats + v, Join::start);
    walk(begin, end, x, y, [&](const char* xr, const char* yr, int64_t count) {
      const int64_t row_x = inner ? inner->x : 0, row_y = inner ? inner->y : 0;
      const int64_t blocks = count / repeats, done = blocks * repeats;
      fold_rows(xr, yr, blocks, row_x * repeats, row_y * repeats, columns * repeats, acc);
      if (done < count)
        fold_rows(xr + done * row_x, yr + done * row_y, count - done, row_x, row_y, columns, acc);
    });
    for (int64_t j = 1; j < repeats; ++j)
      for (int64_t c = 0; c < columns; ++c) acc[c] = Join::join(acc[c], acc[j * columns + c]);
  }

  void columns() const {
    const auto& inner = p.kept[p.kept_axes - 1];
    const int64_t outer = p.kept_size / inner.extent;
    const int64_t tiles = (inner.extent + kTile - 1) / kTile;
    const int64_t slices = slice_count(outer * tiles);
    memory::Buffer<double> partial(slices > 1 ? size_t(slices * p.kept_size) : 0);
    const int64_t tasks = outer * tiles * slices;
    const int64_t work = p.kept_size * p.reduced_size / tasks;
    parallel_for(tasks, std::max<int64_t>(1, kGrain / (work + 32)), [&](int64_t first, int64_t last) {
      alignas(64) double acc[kTile + kWidth<float>];
      for (int64_t task = first; task < last; ++task) {
        const int64_t slice = task % slices, tile = task / slices % tiles;
        const char *x, *y;
        int64_t place;
        locate(task / slices / tiles, p.kept_axes - 1, x, y, place);
        const int64_t column = inner.extent * tile / tiles,
                      count = inner.extent * (tile + 1) / tiles - column;
        fold_tile(x + column * inner.x, y + column * inner.y, count, p.reduced_size * slice / slices,
                  p.reduced_size * (slice + 1) / slices, acc);
        place += column * inner.out;
        if (slices == 1) {
          out.put(place, inner.out, acc, count);
        } else {
          double* to = partial + slice * p.kept_size + place;
          for (int64_t c = 0; c < count; ++c) to[c * inner.out] = acc[c];
        }
      }
    });
    if (slices > 1) join_slices(partial, slices);
  }

  // Into how many slices the reduced space is cut, given `tasks` pieces of work without slicing.
  int64_t slice_count(int64_t tasks) const {
    const int64_t wanted = fastdl::detail::kChunksPerThread * num_threads();
    if (num_threads() == 1 || tasks * 2 >= wanted) return 1;
    // Less than five grains would not wake a thread.
    const int64_t by_work =
        p.kept_size * p.reduced_size < 5 * kGrain ? 1 : p.kept_size * p.reduced_size / kGrain;
    return std::clamp<int64_t>(std::min(wanted / tasks, by_work), 1, p.reduced_size);
  }
  void join_slices(const double* partial, int64_t slices) const {
    for (int64_t k = 0; k < p.kept_size; ++k) {
      double all = partial[k];
      for (int64_t s = 1; s < slices; ++s) all = Join::join(all, partial[s * p.kept_size + k]);
      out.put(k, all);
    }
  }
};

template <class T, class U, class C, Second second, class Join, class Map>
void run(const ReduceProblem& p, Map map, const FoldOutput& out) {
  const Folder<T, U, C, second, Join, Map> folder{p, map, {out}};
  const bool inner_is_kept = p.kept_axes > 0 && p.kept[p.kept_axes - 1].x == int64_t(sizeof(T)) &&
                             !(p.reduced_axes > 0 && p.reduced[p.reduced_axes - 1].x == int64_t(sizeof(T)));
  if (inner_is_kept)
    folder.columns();
  else
    folder.rows();
}
// map(x) computed in C.
template <class T, class C, class Join, class Map>
void run_one(const ReduceProblem& p, const FoldOutput& out, Map map) {
  run<T, T, C, Second::none, Join>(p, [map](auto x, auto) { return map(x); }, out);
}
// map(x, y) with y of type U.
template <class T, class U, class C, class Map>
void run_two(const ReduceProblem& p, const FoldOutput& out, Map map) {
  // The stride of y along the axis in which x is contiguous.
  int64_t along = 0;
  if (p.reduced_axes > 0 && p.reduced[p.reduced_axes - 1].x == int64_t(sizeof(T)))
    along = p.reduced[p.reduced_axes - 1].y;
  else if (p.kept_axes > 0)
    along = p.kept[p.kept_axes - 1].y;
  if (along == 0)
    run<T, U, C, Second::constant, Add>(p, map, out);
  else
    run<T, U, C, Second::each, Add>(p, map, out);
}

// The element type of a vector.
template <class V>
using Lane = std::remove_reference_t<decltype(std::declval<V&>()[0])>;
template <class V>
[[gnu::always_inline]] inline V magnitude(V x) {
  return simd::abs<Lane<V>>(x);
}

}  // namespace

template <class T>
void fold(Fold op, const ReduceProblem& p, double parameter, const FoldOutput& out) {
  if (p.kept_size == 0) return;
  if (p.reduced_size == 0) {
    double start = Add::start;
    if (op == Fold::product) start = Multiply::start;
    if (op == Fold::maximum || op == Fold::maximum_abs) start = Max::start;
    if (op == Fold::minimum || op == Fold::minimum_abs) start = Min::start;
    for (int64_t k = 0; k < p.kept_size; ++k) Output<T>{out}.put(k, start);
    return;
  }
  switch (op) {
    case Fold::sum:
      return run_one<T, T, Add>(p, out, [](auto x) { return x; });
    case Fold::sum_abs:
      return run_one<T, T, Add>(p, out, [](auto x) { return magnitude(x); });
    case Fold::sum_square:  // in double: squares of floats overflow and underflow early
      return run_one<T, double, Add>(p, out, [](D x) { return x * x; });
    case Fold::sum_power:
      return run_one<T, double, Add>(
          p, out, [e = broadcast<double>(parameter)](D x) { return power<double>(magnitude(x), e); });
    case Fold::nonzero:
      return run_one<T, double, Add>(p, out, [](D x) { return x != 0.0 ? broadcast<double>(1) : D{}; });
    case Fold::product:
      return run_one<T, double, Multiply>(p, out, [](D x) { return x; });
    case Fold::maximum:
      return run_one<T, T, Max>(p, out, [](auto x) { return x; });
    case Fold::minimum:
      return run_one<T, T, Min>(p, out, [](auto x) { return x; });
    case Fold::maximum_abs:
      return run_one<T, T, Max>(p, out, [](auto x) { return magnitude(x); });
    case Fold::minimum_abs:
      return run_one<T, T, Min>(p, out, [](auto x) { return magnitude(x); });
    case Fold::sum_product:
      return run_two<T, T, T>(p, out, [](auto x, auto y) { return x * y; });
    case Fold::sum_deviation:
      return run_two<T, double, double>(p, out, [](D x, D y) { return (x - y) * (x - y); });
    case Fold::sum_exp:
      return run_two<T, double, double>(p, out, [](D x, D y) { return simd::exp<double>(x - y); });
  }
}

template void fold<float>(Fold, const ReduceProblem&, double, const FoldOutput&);
template void fold<double>(Fold, const ReduceProblem&, double, const FoldOutput&);

}  // namespace fastdl

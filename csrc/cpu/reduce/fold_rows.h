// Folds whose innermost axis is reduced. Four chains of vectors run along a row; the lanes of several rows
// are joined together, which takes a few instructions a row instead of a chain that waits for itself.
//
// Work: outputs over threads; where those are too few, the reduced space is cut into slices as well, whose
// partial results are joined in slice order. Passes: x (and y) once, in the order of memory.
#pragma once

#include "cpu/reduce/folder.h"

namespace fastdl {
namespace {

constexpr int64_t kShortRow = 24;

// The arithmetic as the frame calls it; several and short_rows (rows shorter than kShortRow) take w outputs
// at a time from k on while there are as many before `end`, and return where they stopped.
struct RowLoops {
  double (*one)(const FoldFrame&, const char* x, const char* y, int64_t begin, int64_t end);
  int64_t (*several)(const FoldFrame&, int64_t k, int64_t end);
  int64_t (*short_rows)(const FoldFrame&, int64_t k, int64_t end);
};

template <class T, class U, class C, Second second, class Join, class Map, int chains = 4>
struct RowFolder : Folder<T, U, C, second, Join, Map, chains> {
  using Base = Folder<T, U, C, second, Join, Map, chains>;
  using Base::p, Base::at, Base::at_n, Base::v, Base::Base;
  using typename Base::V;

  [[gnu::always_inline]] void fold_row(const char* x, const char* y, int64_t n, D (&acc)[2]) const {
    constexpr int64_t item = sizeof(T), y_item = second == Second::each ? sizeof(U) : 0;
    constexpr int64_t step = chains * v;
    while (n >= step) {
      const int64_t count = std::min(n / step, kDepth * 4 / chains);
      V sums[chains];
      this->chain(sums, x, y, step * item, step * y_item, count, kPage);
      if constexpr (chains == 4)
        Base::flush(acc, Join::join(Join::join(sums[0], sums[1]), Join::join(sums[2], sums[3])));
      else if constexpr (chains == 2)
        Base::flush(acc, Join::join(sums[0], sums[1]));
      else
        Base::flush(acc, sums[0]);
      x += count * step * item;
      y += count * step * y_item;
      n -= count * step;
    }
    if (n == 0) return;
    V sum = broadcast<C>(C(Join::start));
    if constexpr (chains > 1)
      for (; n >= v; n -= v, x += v * item, y += v * y_item) sum = Join::join(sum, at(x, y, 0, kPage));
    if (n > 0) sum = Join::join(sum, at_n(x, y, int(n), broadcast<C>(C(Join::start))));
    Base::flush(acc, sum);
  }

  // Of several axes' pieces: out of line, the loop is long.
  [[gnu::noinline]] void fold_piece(const char* x, const char* y, int64_t n, D (&acc)[2]) const {
    fold_row(x, y, n, acc);
  }

  // The joined positions [begin, end) of one output, spread over the lanes.
  [[gnu::noinline]] D fold_lanes(const char* x, const char* y, int64_t begin, int64_t end) const {
    D acc[2] = {broadcast<double>(Join::start), broadcast<double>(Join::start)};
    if (p.reduced_axes == 1 && begin == 0)
      fold_row(x, y, end, acc);
    else
      this->walk(begin, end, x, y,
                 [&](const char* xr, const char* yr, int64_t n) { fold_piece(xr, yr, n, acc); });
    return sizeof(C) == 8 ? acc[0] : Join::join(acc[0], acc[1]);
  }
  double fold_one(const char* x, const char* y, int64_t begin, int64_t end) const {
    return join_lanes<Join>(fold_lanes(x, y, begin, end));
  }

  void fold_several(int64_t k) const {
    D lanes[w];
    int64_t place[w];
#pragma GCC unroll 1
    for (int i = 0; i < w; ++i) {
      const char *x, *y;
      this->locate(k + i, p.kept_axes, x, y, place[i]);
      lanes[i] = fold_lanes(x, y, 0, p.reduced_size);
    }
    double values[w];
    store(values, join_transposed<Join>(lanes));
    if (p.kept_axes == 1)
      this->put(place[0], p.kept[0].out, values, w);
    else
      for (int i = 0; i < w; ++i) this->put(place[i], values[i]);
  }

  // Elements `stride` bytes apart as doubles; floats are put together first and converted as one.
  template <class E>
  [[gnu::always_inline]] static D column(const char* from, int64_t stride) {
    if constexpr (sizeof(E) == 2) {
      E some[kWidth<float>] = {};
      for (int i = 0; i < w; ++i) std::memcpy(some + i, from + i * stride, sizeof(E));
      return widen<0>(E::Format::load(&some->bits));
    } else {
      return column_of_floats<E>(from, stride);
    }
  }
  template <class E>
  [[gnu::always_inline]] static D column_of_floats(const char* from, int64_t stride) {
    std::conditional_t<std::is_same_v<E, float>, Half, D> v;
#pragma GCC unroll 8
    for (int i = 0; i < w; ++i)
      v[i] = std::remove_reference_t<decltype(v[0])>(*reinterpret_cast<const E*>(from + i * stride));
    if constexpr (std::is_same_v<E, float>)
      return to_double(v);
    else
      return v;
  }

  // One output per lane, no joining of lanes.
  void fold_short_rows(int64_t k) const {
    const auto& kept = p.kept[0];
    const auto& reduced = p.reduced[0];
    const char *x = p.x + k * kept.x, *y = p.y + k * kept.y;
    D acc = broadcast<double>(Join::start);
    for (int64_t r = 0; r < reduced.extent; ++r, x += reduced.x, y += reduced.y) {
      D vy{};
      if constexpr (second != Second::none) vy = column<U>(y, kept.y);
      acc = Join::join(acc, this->map(column<T>(x, kept.x), vy));
    }
    double values[w];
    store(values, acc);
    this->put_apart(k * kept.out, kept.out, values, w);
  }

  static constexpr RowLoops loops = {
      [](const FoldFrame& f, const char* x, const char* y, int64_t begin, int64_t end) {
        return static_cast<const RowFolder&>(f).fold_one(x, y, begin, end);
      },
      [](const FoldFrame& f, int64_t k, int64_t end) {
        for (; k + w <= end; k += w) static_cast<const RowFolder&>(f).fold_several(k);
        return k;
      },
      [](const FoldFrame& f, int64_t k, int64_t end) {
        for (; k + w <= end; k += w) static_cast<const RowFolder&>(f).fold_short_rows(k);
        return k;
      }};
};

void fold_rows(const FoldFrame& f, const RowLoops& loops) {
  const ReduceProblem& p = f.p;
  const int64_t slices = f.slice_count(p.kept_size);
  if (slices > 1) {
    memory::Buffer<double> partial(size_t(slices * p.kept_size));
    parallel_tasks(slices * p.kept_size, [&](int64_t task) {
      const int64_t slice = task % slices;
      const char *x, *y;
      int64_t place;
      f.locate(task / slices, p.kept_axes, x, y, place);
      partial[slice * p.kept_size + place] =
          loops.one(f, x, y, p.reduced_size * slice / slices, p.reduced_size * (slice + 1) / slices);
    });
    return f.join_slices(partial, slices);
  }
  const bool are_short = p.kept_axes == 1 && p.reduced_axes == 1 && p.reduced_size < kShortRow;
  const auto together = are_short ? loops.short_rows : loops.several;
  parallel_for(p.kept_size, std::max<int64_t>(1, kGrain / (p.reduced_size + 32)),
               [&](int64_t k, int64_t end) {
                 for (k = together(f, k, end); k < end; ++k) {
                   const char *x, *y;
                   int64_t place;
                   f.locate(k, p.kept_axes, x, y, place);
                   f.put(place, loops.one(f, x, y, 0, p.reduced_size));
                 }
               });
}

}  // namespace
}  // namespace fastdl

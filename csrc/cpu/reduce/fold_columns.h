// Folds whose innermost axis is kept. A task owns kTile columns and their double accumulators in the
// first-level cache; kDepth rows at a time are joined in registers, four vectors of columns side by side, and
// added to them. Few columns are repeated side by side, so that vectors are full, and folded at the end.
//
// Work: tiles of columns (and outer kept axes) over threads; where those are too few, the rows are cut into
// slices as well, joined in order. Many rows of many columns are cut into few wide tiles and more slices: a
// row's piece of a narrow tile ends before the hardware has noticed that it is read in order (400 x 10000: 45
// GB/s instead of 60 or more). Passes: x (and y) once.
#pragma once

#include "cpu/reduce/folder.h"

namespace fastdl {
namespace {

constexpr int64_t kTile = 1024;           // columns that a task holds accumulators for
constexpr int64_t kWideTile = 8 * kTile;  // the same, in the second-level cache
constexpr int64_t kWide = 256;            // fewer columns are repeated up to this width

// The arithmetic as the frame calls it: acc[c] = join with `count` rows of `columns` elements, row_x and
// row_y bytes apart.
using ColumnLoop = void (*)(const FoldFrame&, const char* x, const char* y, int64_t count, int64_t row_x,
                            int64_t row_y, int64_t columns, double* acc);

template <class T, class U, class C, Second second, class Join, class Map, int chains = 4>
struct ColumnFolder : Folder<T, U, C, second, Join, Map, chains> {
  using Base = Folder<T, U, C, second, Join, Map, chains>;
  using Base::at_n, Base::v, Base::Base;
  using typename Base::V;

  void fold_rows(const char* x, const char* y, int64_t count, int64_t row_x, int64_t row_y, int64_t columns,
                 double* acc) const {
    constexpr int64_t item = sizeof(T), y_item = second == Second::each ? sizeof(U) : 0;
    // Asked for ahead: the next rows, or where there are none, the columns of the next task; of wide tiles
    // the same rows' next columns.
    const int64_t ahead = columns > kTile ? 4 * kBytes : count > kDepth ? kDepth * row_x : kPage;
    for (int64_t rows; count > 0; count -= rows, x += rows * row_x, y += rows * row_y) {
      rows = std::min(count, kDepth);
      int64_t c = 0;
      if constexpr (chains > 1)
        for (; c + chains * v <= columns; c += chains * v) {
          V sums[chains];
          this->chain(sums, x + c * item, y + c * y_item, row_x, row_y, rows, ahead);
#pragma GCC unroll 4
          for (int j = 0; j < chains; ++j) Base::flush(acc + c + j * v, sums[j]);
        }
      for (; c + v <= columns; c += v) {
        V sum[1];
        this->chain(sum, x + c * item, y + c * y_item, row_x, row_y, rows, ahead);
        Base::flush(acc + c, sum[0]);
      }
      if (c == columns) continue;
      V sum = broadcast<C>(C(Join::start));  // acc has room for a whole vector
      for (int64_t r = 0; r < rows; ++r)
        sum = Join::join(sum, at_n(x + r * row_x + c * item, y + r * row_y + c * y_item, int(columns - c),
                                   broadcast<C>(C(Join::start))));
      Base::flush(acc + c, sum);
    }
  }

  static void loop(const FoldFrame& f, const char* x, const char* y, int64_t count, int64_t row_x,
                   int64_t row_y, int64_t columns, double* acc) {
    static_cast<const ColumnFolder&>(f).fold_rows(x, y, count, row_x, row_y, columns, acc);
  }
};

// One task: `columns` columns from `x`, positions [begin, end) of the reduced space; results to `acc`.
void fold_tile(const FoldFrame& f, ColumnLoop loop, const char* x, const char* y, int64_t columns,
               int64_t begin, int64_t end, double* acc) {
  const ReduceProblem& p = f.p;
  const auto* inner = p.reduced_axes > 0 ? &p.reduced[p.reduced_axes - 1] : nullptr;
  // Rows that follow each other in memory form one long row of `repeats` times the columns.
  int64_t repeats = 1;
  if (inner && inner->x == columns * f.x_item && columns <= kWide / 2 &&
      (f.y_comes == Second::none || (f.y_comes == Second::each && inner->y == columns * f.y_item)))
    repeats = std::clamp<int64_t>((end - begin) / kDepth, 1, kWide / columns);
  std::fill_n(acc, columns * repeats + kWidth<float>, f.start);
  f.walk(begin, end, x, y, [&](const char* xr, const char* yr, int64_t count) {
    const int64_t row_x = inner ? inner->x : 0, row_y = inner ? inner->y : 0;
    const int64_t blocks = count / repeats, done = blocks * repeats;
    loop(f, xr, yr, blocks, row_x * repeats, row_y * repeats, columns * repeats, acc);
    loop(f, xr + done * row_x, yr + done * row_y, count - done, row_x, row_y, columns, acc);
  });
  for (int64_t j = 1; j < repeats; ++j) f.merge(acc, acc + j * columns, columns);
}

void fold_columns(const FoldFrame& f, ColumnLoop loop) {
  const ReduceProblem& p = f.p;
  const auto& inner = p.kept[p.kept_axes - 1];
  const int64_t outer = p.kept_size / inner.extent;
  // Slices have to be joined: wide tiles are for rows that are many against those.
  const int64_t wide_tiles = ceil_div(inner.extent, kWideTile);
  const bool wide = inner.extent > kTile && p.reduced_size * outer * wide_tiles >= 64 * num_threads();
  const int64_t tiles = wide ? wide_tiles : ceil_div(inner.extent, kTile);
  const int64_t slices = f.slice_count(outer * tiles);
  memory::Buffer<double> partial(slices > 1 ? size_t(slices * p.kept_size) : 0);
  const int64_t tasks = outer * tiles * slices;
  const int64_t work = p.kept_size * p.reduced_size / tasks;
  parallel_for(tasks, std::max<int64_t>(1, kGrain / (work + 32)), [&](int64_t first, int64_t last) {
    alignas(64) double in_first_level[kTile + kWidth<float>];
    memory::Buffer<double> in_second_level(wide ? size_t(kWideTile + kWidth<float>) : 0);
    double* acc = wide ? in_second_level.get() : in_first_level;
    for (int64_t task = first; task < last; ++task) {
      const int64_t slice = task % slices, tile = task / slices % tiles;
      const char *x, *y;
      int64_t place;
      f.locate(task / slices / tiles, p.kept_axes - 1, x, y, place);
      const int64_t column = inner.extent * tile / tiles, count = inner.extent * (tile + 1) / tiles - column;
      fold_tile(f, loop, x + column * inner.x, y + column * inner.y, count, p.reduced_size * slice / slices,
                p.reduced_size * (slice + 1) / slices, acc);
      place += column * inner.out;
      if (slices == 1) {
        f.put(place, inner.out, acc, count);
      } else {
        double* to = partial + slice * p.kept_size + place;
        for (int64_t c = 0; c < count; ++c) to[c * inner.out] = acc[c];
      }
    }
  });
  if (slices > 1) f.join_slices(partial, slices);
}

}  // namespace
}  // namespace fastdl

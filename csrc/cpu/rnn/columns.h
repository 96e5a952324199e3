// The gates' gradients, which lie in panels of units (product.h), as operands of the products that follow the
// steps backward.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/gemm/pack.h"
#include "cpu/rnn/product.h"

namespace fastdl::rnn {

// The gates' gradients as the left operand of a product, straight from their panels, beginning with `column`
// (unit j of column c is column c * hidden + j). f(panel, first lane there, first lane here, count) for each
// run of neighbours among `count` columns from `first`.
template <class T>
struct Columns {
  UnitPanels<T> d;
  int64_t hidden;
  int column;
  template <class F>
  void for_runs(int64_t first, int64_t count, F&& f) const {
    for (int64_t i = 0; i < count;) {
      const int64_t j = (first + i) % hidden, lane = j % kNR<T>;
      const int64_t run = std::min({count - i, hidden - j, kNR<T> - lane});
      f(d.at(j / kNR<T>, column + int((first + i) / hidden), 0) + lane, i, run);
      i += run;
    }
  }
};

// Transposed: columns of d are the product's rows, k runs over rows of d. A panel of the tile may take its
// lanes from two groups or gates. Each row is copied in whole pieces of kMR, whose size the compiler knows;
// what is too much the next run or the next row overwrites, and the last rows are copied exactly.
template <class T>
struct PackColumns {
  Columns<T> columns;
  int64_t row;
  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    struct {
      const T* from;
      int64_t at, count;
    } runs[kMR<T>];
    int n = 0;
    columns.for_runs(first, count, [&](const T* from, int64_t i, int64_t run) {
      runs[n++] = {from + (row + k0) * kNR<T>, i, run};
    });
    const int64_t whole = std::max<int64_t>(0, kc - 1 - kMR<T> / kNR<T>);
    for (int64_t k = 0; k < whole; ++k)
      for (int r = 0; r < n; ++r)
        std::memcpy(panel + k * kMR<T> + runs[r].at, runs[r].from + k * kNR<T>, kMR<T> * sizeof(T));
    for (int64_t k = whole; k < kc; ++k)
      for (int r = 0; r < n; ++r)
        std::copy_n(runs[r].from + k * kNR<T>, runs[r].count, panel + k * kMR<T> + runs[r].at);
  }
};

// As it is: k runs over columns of d.
template <class T>
struct PackRows {
  Columns<T> columns;
  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    columns.for_runs(k0, kc, [&](const T* from, int64_t k, int64_t run) {
      tile::pack_panel<T, kMR<T>>(panel + k * kMR<T>, from + first * kNR<T>, kNR<T>, 1, count, run);
    });
  }
};

}  // namespace fastdl::rnn

// The recurrent product of one step, rows x K times K x columns, as pieces that a fused step can interleave
// with its gate arithmetic: a block of rows (the register tile's height) times a panel of columns (its
// width).
//
// Weights are packed once per call and stay in cache over all steps: panel (group, gate) holds the columns of
// 2 vectors of hidden units of one gate, so that a group's gates end up beside each other. The left operand
// is kept in the register tile's own order and written there by the step that makes it (Operand::put), rows
// of up to kThin sequences in plain order.
#pragma once

#include <algorithm>

#include "common/rnn.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/panels.h"
#include "cpu/gemm/tile.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl::rnn {

using tile::kMR;
using tile::kNR;

inline constexpr int64_t kPanelBytes = 24 << 10;  // of a panel at a time: stays in L1 for all blocks of rows
inline constexpr int kThin = 3;  // rows that the register tile would compute with too few accumulators

inline constexpr int64_t kFewRows = 64;  // of a whole sequence: fewer do not pay for panels of their own

// c (+)= a * panel for 1..kThin rows: element (i, k) of a at [i * a_row + k * a_step]. Several steps of k at
// a time in accumulators of their own, so that latency does not bound what should be bound by reading the
// panel.
template <class T>
void multiply_thin(int rows, int64_t k, const T* a, int64_t a_row, int64_t a_step, const T* panel, int cols,
                   T* c, int64_t ldc, bool add);

// How the rows of a batch are cut into blocks.
struct Blocks {
  int64_t height;
  bool thin;  // one block in plain row order
  template <class T>
  static Blocks of(int64_t batch) {
    if (batch <= kThin) return {batch, true};
    return {ceil_div(batch, ceil_div(batch, kMR<T>)), false};
  }
  int64_t count(int64_t rows) const { return ceil_div(rows, height); }
  int rows(int64_t block, int64_t all) const {  // of `all` rows, how many are in the block
    return int(std::clamp<int64_t>(all - block * height, 0, height));
  }
};

// How steps keep what belongs to hidden units: gates, states, and their gradients. A group is as many units
// as the register tile is wide; unit j of row r and column (gate) c is in group j / kNR, at lane j % kNR of
// row r of the group's panel c. So a tile is contiguous, wherever it is: rows of a matrix would lie a power
// of two apart and compete for the same cache sets. Lanes beyond the last unit exist and are never used.
template <class T>
struct UnitPanels {
  static constexpr int kLanes = kNR<std::remove_const_t<T>>;
  T* data;
  int64_t rows;
  int columns;

  static int64_t groups(int64_t units) { return ceil_div(units, kLanes); }
  static size_t size(int64_t units, int64_t rows, int columns) {
    return size_t(groups(units) * columns * rows * kLanes);
  }
  int64_t stride() const { return rows * kLanes; }  // from one column of a group to the next
  T* at(int64_t group, int column, int64_t row) const {
    return data + ((group * columns + column) * rows + row) * kLanes;
  }
  // f(group, column, units): what lies at at(group, column, row) is of units [group * kNR, .. + units).
  template <class F>
  void for_each(int64_t units, F&& f) const {
    for (int64_t g = 0; g < groups(units); ++g)
      for (int c = 0; c < columns; ++c) f(g, c, size_t(std::min<int64_t>(kLanes, units - g * kLanes)));
  }
  // n rows from and to a matrix whose columns are `units` for each column of the panels.
  void read(const T* from, int64_t ld, int64_t units, int64_t row, int64_t n) const {
    for_each(units, [&](int64_t g, int c, size_t count) {
      for (int64_t r = 0; r < n; ++r)
        std::memcpy(at(g, c, row + r), from + r * ld + c * units + g * kLanes, count * sizeof(T));
    });
  }
  void write(T* to, int64_t ld, int64_t units, int64_t row, int64_t n) const {
    for_each(units, [&](int64_t g, int c, size_t count) {
      for (int64_t r = 0; r < n; ++r)
        std::memcpy(to + r * ld + c * units + g * kLanes, at(g, c, row + r), count * sizeof(T));
    });
  }
};

// How many places of an operand `length` numbers take (pairs.h: an even number).
template <class T>
inline int64_t segment(int64_t length) {
  return length;
}

// A left operand, batch x depth.
template <class T>
class Operand {
 public:
  Operand(Blocks blocks, int64_t batch, int64_t depth)
      : blocks_(blocks),
        depth_(depth),
        data_(size_t((blocks.thin ? batch : blocks.count(batch) * kMR<T>)*depth)) {}

  int64_t depth() const { return depth_; }
  const T* block(int64_t b) const { return data_.get() + b * kMR<T> * depth_; }
  int64_t row_step() const { return blocks_.thin ? depth_ : 1; }
  int64_t k_step() const { return blocks_.thin ? 1 : kMR<T>; }

  // Columns k0 .. k0 + kc of the first `rows` rows of block b, from a matrix in row order.
  void put(int64_t b, int rows, int64_t k0, int64_t kc, const T* from, int64_t ld) {
    if (blocks_.thin) {
      for (int i = 0; i < rows; ++i)
        std::memcpy(data_.get() + i * depth_ + k0, from + i * ld, size_t(kc) * sizeof(T));
    } else {
      tile::pack_panel<T, kMR<T>>(data_.get() + (b * depth_ + k0) * kMR<T>, from, ld, 1, rows, kc);
    }
  }

 private:
  Blocks blocks_;
  int64_t depth_;
  memory::Buffer<T> data_;
};

// Packed weights: `gates` matrices of depth x units, depth in segments of an operand.
template <class T>
class Panels {
 public:
  // Element (k, unit j) of gate g is at w[g * gate_stride + j * unit_stride + k * k_stride].
  Panels(const T* w, int64_t segment, int64_t units, int gates, int64_t gate_stride, int64_t unit_stride,
         int64_t k_stride, int segments = 1)
      : depth_(segment * segments),
        units_(units),
        gates_(gates),
        data_(size_t(ceil_div(units, kNR<T>) * gates * depth_ * kNR<T>)) {
    const int64_t panels = groups() * gates, depth = depth_;
    parallel_for(panels, std::max<int64_t>(1, 32768 / (depth * kNR<T>)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / gates, gate = i % gates;
        tile::pack_panel<T, kNR<T>>(data_.get() + i * depth * kNR<T>,
                                    w + gate * gate_stride + group * kNR<T> * unit_stride, unit_stride,
                                    k_stride, columns(group), depth);
      }
    });
  }

  int64_t depth() const { return depth_; }
  int64_t units() const { return units_; }
  int gates() const { return gates_; }
  int64_t groups() const { return ceil_div(units_, kNR<T>); }
  int columns(int64_t group) const { return int(std::min<int64_t>(kNR<T>, units_ - group * kNR<T>)); }

  // For blocks [b0, b1) of `rows` rows in all: c (+)= a * panel, the first row of block b at c + b * height *
  // ldc.
  void multiply(const Operand<T>& a, Blocks blocks, int64_t b0, int64_t b1, int64_t rows, int64_t group,
                int gate, T* c, int64_t ldc, bool add) const {
    const T* panel = data_.get() + (group * gates_ + gate) * depth_ * kNR<T>;
    const int cols = columns(group);
    const int64_t step = ceil_div(depth_, ceil_div(depth_ * kNR<T> * int64_t(sizeof(T)), kPanelBytes));
    for (int64_t k = 0; k < depth_; k += step) {
      const int64_t kc = std::min(step, depth_ - k);
      for (int64_t b = b0; b < b1; ++b) {
        const int here = blocks.rows(b, rows);
        if (here == 0) break;
        const T* from = a.block(b) + k * a.k_step();
        T* to = c + b * blocks.height * ldc;
        if (here <= kThin)
          multiply_thin<T>(here, kc, from, a.row_step(), a.k_step(), panel + k * kNR<T>, cols, to, ldc,
                           add || k > 0);
        else
          tile::kernel_for<T>(here, cols)(
              kc, from, kMR<T>, panel + k * kNR<T>, kNR<T>, cols,
              {to, ldc, T(1), add || k > 0 ? T(1) : T(0), nullptr, nullptr, GemmActivation::none});
      }
    }
  }

 private:
  int64_t depth_, units_;
  int gates_;
  memory::Buffer<T> data_;
};

// A part of one step's work: block rows and groups of hidden units shared out over `row_parts` x
// `unit_parts`.
struct Grid {
  int64_t row_parts, unit_parts;
  int64_t parts() const { return row_parts * unit_parts; }
  // The split over at most `members` threads whose largest part is smallest; of equals the one that leaves
  // each thread the fewest weights, because these come from its cache in every step.
  static Grid of(int64_t members, int64_t blocks, int64_t groups) {
    Grid best{1, 1};
    int64_t least = blocks * groups;
    for (int64_t rows = 1; rows <= std::min(members, blocks); ++rows) {
      const int64_t units = std::min(members / rows, groups);
      const int64_t largest = ceil_div(blocks, rows) * ceil_div(groups, units);
      if (largest < least) least = largest, best = {rows, units};
    }
    return best;
  }
};

// The steps of a sequence in pieces whose gates fit the caches: cut(0) = 0 .. cut(pieces) = steps.
struct Pieces {
  int64_t steps, count;
  static Pieces of(int64_t steps, int64_t rows, int64_t row_bytes) {
    const int64_t most = std::max<int64_t>(256, (8 << 20) / row_bytes);
    return {steps, std::min(steps, ceil_div(rows, most))};
  }
  int64_t cut(int64_t i) const { return steps * i / count; }
};

// What one thread takes for a step's product, microseconds: arithmetic, or reading the weights from L2. S:
// how they are stored.
template <class T, class S>
double step_microseconds(int64_t rows, int64_t columns, int64_t depth) {
  if (sizeof(S) < sizeof(T)) depth = ceil_div(depth, 2);  // pairs
  const double read = double(columns * depth) * sizeof(T) / 1e5;
  return std::max(tile::product_microseconds<T>(rows, columns, depth), read);
}

// The row of the packed sequence that holds the state of sequence r before time t; none (-1): the initial
// state.
inline int64_t row_before(const RnnProblem& p, int direction, int64_t t, int64_t r) {
  const int64_t from = direction == 0 ? t - 1 : t + 1;
  const bool exists = from >= 0 && from < p.steps() && r < p.batch_sizes[size_t(from)];
  return exists ? p.starts[size_t(from)] + r : -1;
}

// Steps worth less than this are not shared: meeting costs some tenths of a microsecond.
inline constexpr double kShareMicroseconds = 1.5;

}  // namespace fastdl::rnn

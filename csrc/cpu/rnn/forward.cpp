// Recurrent layers forward. Formulas and packed layout: kernels/reference/rnn.py; N rows, B sequences, T
// steps.
//
// 1. Input products of many steps at once: gates (N x G H) = x W_ih^T + b, one GEMM for a piece of the
// sequence
//    whose gates (8 MB) stay in cache until its steps have used them. The gates array itself where it is kept
//    for backward, else one buffer for all pieces.
// 2. Steps: gates += h W_hh^T, then the gate arithmetic while the tile is in L1, which also writes h in the
// order
//    in which the next step's product reads it. W_hh is packed once; threads own hidden units (their weights
//    stay in their L2) or rows or directions, and meet once per step (parallel_phases).
//
// Cells with two products per step (gru_before: W_hn (r h) after r; a projected LSTM: W_hr m after m) run two
// phases per step. The first step needs no packed weights: nothing for zero states, else a plain GEMM.
//
// Kept for backward: y, gates after their functions (GRU: and W_hn h + b_hn), c of each step (LSTM). h_n and
// c_n hold the running state: sequences that ended keep theirs, sequences that start later begin with h0, c0.
#include <algorithm>
#include <optional>

#include "cpu/gemm/gemm.h"
#include "cpu/rnn/cells.h"
#include "cpu/rnn/product.h"
#include "cpu/rnn/rnn.h"
#include "cpu/runtime/phases.h"

namespace fastdl {
namespace {

using namespace rnn;

template <class T>
class Direction {
 public:
  Direction(const RnnProblem& p, const RnnForward<T>& io, int d)
      : p_(p),
        w_(io.weights[d]),
        d_(d),
        H(p.hidden),
        P(p.output),
        B(p.batch()),
        blocks_(Blocks::of<T>(B)),
        x_(io.x),
        y_(io.y + d * P),
        y_ld_(p.directions * P),
        h_(io.h_n + d * B * P),
        c_(io.c_n ? io.c_n + d * B * H : nullptr),
        cells_(io.cells ? io.cells + d * p.rows() * H : nullptr),
        mask_(io.mask ? io.mask + d * B * P : nullptr),
        gates_ld_(p.columns() * H),
        keep_(io.gates != nullptr),
        bias_(size_t(w_.b_ih ? p.gates() * H : 0)) {
    const bool two = p.projected() || p.cell == RnnCell::gru_before;
    const bool several = p.steps() > 1;
    if (w_.b_ih) {  // what the input product adds; the GRU's b_hn stays inside the reset gate
      std::copy_n(w_.b_ih, p.gates() * H, bias_.get());
      const int64_t both = (p.cell == RnnCell::gru ? 2 : p.gates()) * H;
      for (int64_t i = 0; i < both; ++i) bias_[size_t(i)] += w_.b_hh[i];
    }
    const int first = p.cell == RnnCell::gru_before ? 2 : int(p.gates());
    if (several) {
      main_.emplace(w_.w_hh, P, H, first, H * P, P, 1);
      state_[0].emplace(blocks_, B, P);
      state_[1].emplace(blocks_, B, P);
    }
    if (two) {
      if (p.projected())
        second_.emplace(w_.w_hr, H, P, 1, 0, H, 1);
      else
        second_.emplace(w_.w_hh + 2 * H * H, H, H, 1, 0, H, 1);
      inner_.emplace(blocks_, B, H);
    }
    const T* h0 = io.h0 ? io.h0 + d * B * P : nullptr;
    const auto start = [](T* state, const T* from, int64_t n) {
      if (from)
        std::copy_n(from, n, state);
      else
        std::fill_n(state, n, T(0));
    };
    start(h_, h0, B * P);
    if (c_) start(c_, io.c0 ? io.c0 + d * B * H : nullptr, B * H);
    from_zero_ = !h0;
  }

  int stages() const { return second_ ? 2 : 1; }
  int64_t blocks() const { return blocks_.count(B); }
  int64_t time(int64_t step) const { return d_ == 0 ? step : p_.steps() - 1 - step; }

  // The input product of the steps whose rows are [row0, row1), to gates: row r of the sequence at gates + r
  // * gates_ld.
  void input(T* gates, int64_t row0, int64_t row1) {
    gates_ = gates;
    gemm<T>(false, true, row1 - row0, p_.gates() * H, p_.input, T(1), x_ + row0 * p_.input, p_.input, w_.w_ih,
            p_.input, T(0), gates + row0 * gates_ld_, gates_ld_, {nullptr, bias_.get(), Activation::none});
  }

  // The first step's recurrent product, while h_ is h0.
  void first_product() {
    const int64_t t = time(0), n = p_.batch_sizes[size_t(t)];
    T* gates = gates_ + p_.starts[size_t(t)] * gates_ld_;
    if (from_zero_) {
      if (p_.cell == RnnCell::gru)
        for (int64_t r = 0; r < n; ++r) std::fill_n(gates + r * gates_ld_ + 3 * H, H, T(0));
      return;
    }
    memory::Buffer<T> masked(mask_ ? size_t(n * P) : 0);
    for (int64_t i = 0; mask_ && i < n * P; ++i) masked[i] = h_[i] * mask_[i];
    const T* h = mask_ ? masked.get() : h_;
    const auto product = [&](int64_t gate, int64_t count, int64_t column, T beta) {
      gemm<T>(false, true, n, count * H, P, T(1), h, P, w_.w_hh + gate * H * P, P, beta, gates + column * H,
              gates_ld_);
    };
    if (p_.cell == RnnCell::gru) {
      product(0, 2, 0, T(1));
      product(2, 1, 3, T(0));
    } else {
      product(0, p_.cell == RnnCell::gru_before ? 2 : p_.gates(), 0, T(1));
    }
  }

  // One thread's part of one stage of a step.
  void run(int64_t step, int stage, const Grid& grid, int64_t part) {
    const int64_t t = time(step), n = p_.batch_sizes[size_t(t)], row0 = p_.starts[size_t(t)];
    const int64_t units = stage == 1 && p_.projected() ? P : H, groups = ceil_div(units, kNR<T>);
    const bool last = step + 1 == p_.steps();
    const int64_t next =
        last ? 0 : p_.batch_sizes[size_t(time(step + 1))];  // more rows than n: some start there
    const int64_t blocks = blocks_.count(std::max(n, next)), rp = part / grid.unit_parts,
                  up = part % grid.unit_parts;
    const int64_t b0 = blocks * rp / grid.row_parts, b1 = blocks * (rp + 1) / grid.row_parts;
    const int64_t g0 = groups * up / grid.unit_parts, g1 = groups * (up + 1) / grid.unit_parts;
    T* gates = gates_ + row0 * gates_ld_;
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t j = g * kNR<T>;
      const int cols = int(std::min<int64_t>(kNR<T>, units - j));
      if (stage == 1) {
        if (p_.projected())
          second_->multiply(*inner_, blocks_, b0, b1, n, g, 0, h_ + j, P, false);
        else
          second_->multiply(*inner_, blocks_, b0, b1, n, g, 0, gates + 2 * H + j, gates_ld_, true);
      } else if (step > 0) {
        for (int gate = 0; gate < main_->gates(); ++gate) {
          const bool apart = gate == 2 && p_.cell == RnnCell::gru;
          main_->multiply(*state_[step & 1], blocks_, b0, b1, n, g, gate, gates + (apart ? 3 : gate) * H + j,
                          gates_ld_, !apart);
        }
      }
      for (int64_t b = b0; b < b1; ++b) {
        finish(stage, b, blocks_.rows(b, n), row0, j, cols);
        if (!last && (stage == 1 || !second_)) hand_on(b, blocks_.rows(b, next), j, cols, step + 1);
      }
    }
  }

 private:
  // Gate arithmetic of block b, units [j, j + cols).
  void finish(int stage, int64_t b, int rows, int64_t row0, int64_t j, int cols) {
    const int64_t r = b * blocks_.height, row = row0 + r;
    alignas(64) T scratch[kMR<T> * kNR<T>];
    ForwardTile<T> tile{};
    tile.rows = rows, tile.cols = cols, tile.hidden = H;
    tile.gates = gates_ + row * gates_ld_ + j, tile.gates_ld = gates_ld_;
    tile.h = h_ + r * P + j, tile.h_ld = P;
    tile.y = y_ + row * y_ld_ + j, tile.y_ld = y_ld_;
    tile.inner_ld = kNR<T>;
    tile.keep = keep_;
    switch (p_.cell) {
      case RnnCell::tanh:
        simple_forward<T, true>(tile);
        break;
      case RnnCell::relu:
        simple_forward<T, false>(tile);
        break;
      case RnnCell::lstm:
        if (stage == 1) {
          for (int i = 0; i < rows; ++i) std::copy_n(tile.h + i * P, cols, tile.y + i * y_ld_);
          break;
        }
        tile.c = c_ + r * H + j;
        tile.cells = cells_ ? cells_ + row * H + j : nullptr;
        tile.inner = p_.projected() ? scratch : nullptr;
        lstm_forward<T>(tile);
        break;
      case RnnCell::gru:
        tile.bias_n = w_.b_hh ? w_.b_hh + 2 * H + j : nullptr;
        gru_forward<T>(tile);
        break;
      case RnnCell::gru_before:
        tile.inner = scratch;
        stage == 0 ? gru_before_reset<T>(tile) : gru_before_update<T>(tile);
        break;
    }
    if (stage == 0 && second_) inner_->put(b, rows, j, cols, scratch, kNR<T>);
  }

  // What the product of `step` needs of block b: h, or h0 of sequences that start there.
  void hand_on(int64_t b, int rows, int64_t j, int cols, int64_t step) {
    const int64_t r = b * blocks_.height;
    alignas(64) T scratch[kMR<T> * kNR<T>];
    const T* h = h_ + r * P + j;
    int64_t ld = P;
    if (mask_) {
      for (int i = 0; i < rows; ++i)
        for (int k = 0; k < cols; ++k) scratch[i * kNR<T> + k] = h[i * P + k] * mask_[(r + i) * P + j + k];
      h = scratch, ld = kNR<T>;
    }
    state_[step & 1]->put(b, rows, j, cols, h, ld);
  }

  const RnnProblem& p_;
  const RnnWeights<T>& w_;
  const int d_;
  const int64_t H, P, B;
  const Blocks blocks_;
  const T* x_;
  T* y_;
  int64_t y_ld_;
  T *h_, *c_, *cells_;
  const T* mask_;
  T* gates_ = nullptr;
  int64_t gates_ld_;
  bool keep_, from_zero_;
  memory::Buffer<T> bias_;
  std::optional<Panels<T>> main_, second_;
  std::optional<Operand<T>> state_[2], inner_;
};

}  // namespace

template <class T>
void rnn_forward(const RnnProblem& p, const RnnForward<T>& io) {
  const int64_t columns = p.columns() * p.hidden, steps = p.steps();
  const Pieces pieces = Pieces::of(steps, p.rows(), columns * int64_t(sizeof(T)));
  std::optional<Direction<T>> directions[2];
  for (int d = 0; d < p.directions; ++d) directions[d].emplace(p, io, d);
  const int stages = directions[0]->stages();

  int64_t longest = 0;
  for (int64_t i = 0; i < pieces.count; ++i)
    longest = std::max(longest, p.starts[size_t(pieces.cut(i + 1))] - p.starts[size_t(pieces.cut(i))]);
  memory::Buffer<T> buffer(io.gates ? 0 : size_t(p.directions * longest * columns));

  const double work = step_microseconds<T>(p.batch(), p.gates() * p.hidden, p.output) * p.directions;
  const bool share = num_threads() > 1 && work >= kShareMicroseconds;
  const Grid grid = Grid::of(share ? std::max(1, num_threads() / p.directions) : 1, directions[0]->blocks(),
                             ceil_div(p.hidden, kNR<T>));
  const int64_t slices = share ? grid.parts() * p.directions : 1;

  for (int64_t i = 0; i < pieces.count; ++i) {
    int64_t first[2], count[2]{};
    for (int d = 0; d < p.directions; ++d) {
      const int64_t piece = d == 0 ? i : pieces.count - 1 - i;
      const int64_t t0 = pieces.cut(piece), t1 = pieces.cut(piece + 1);
      const int64_t row0 = p.starts[size_t(t0)], row1 = p.starts[size_t(t1)];
      directions[d]->input(
          io.gates ? io.gates + d * p.rows() * columns : buffer.get() + (d * longest - row0) * columns, row0,
          row1);
      first[d] = d == 0 ? t0 : steps - t1;
      count[d] = t1 - t0;
      if (i == 0) directions[d]->first_product();
    }
    const int64_t longer = std::max(count[0], count[1]);
    parallel_phases(longer * stages, slices, work * double(longer) >= 50, [&](int64_t phase, int64_t slice) {
      const int64_t step = phase / stages;
      const int stage = int(phase % stages);
      for (int d = 0; d < p.directions; ++d) {
        if (step >= count[d] || (slices > 1 && slice / grid.parts() != d)) continue;
        directions[d]->run(first[d] + step, stage, grid, slices > 1 ? slice % grid.parts() : 0);
      }
    });
  }
}

template void rnn_forward<float>(const RnnProblem&, const RnnForward<float>&);
template void rnn_forward<double>(const RnnProblem&, const RnnForward<double>&);

}  // namespace fastdl

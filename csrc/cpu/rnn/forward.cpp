// Recurrent layers forward. Formulas and packed layout: kernels/reference/rnn.py; N rows, B sequences, T
// steps.
//
// 1. Input products of some steps at once, as many as keep a thread's gates in its L2: gates = x W_ih^T, for
//    the hidden units that the thread owns.
// 2. Those steps: gates += h W_hh^T, then bias and gate arithmetic while the tile is in L1, which also writes
//    h in the order in which the next step's product reads it.
// Both weights are packed once; threads own hidden units (the weights stay in their L2) or rows or
// directions, and meet once per step and once per input product, all in one parallel region
// (parallel_phases). Where steps are so few that packing W_ih does not pay, the input product is a plain
// GEMM.
//
// Cells with two products per step (gru_before: W_hn (r h) after r; a projected LSTM: W_hr m after m) run two
// phases per step. The first step multiplies only if there is an h0.
//
// In bfloat16 (S = uint16_t) products are those of pairs.h, everything else is computed in floats, and what
// leaves for y and for the next step's product is rounded. Weights are always packed: as floats they would
// have to be converted.
//
// Kept for backward: y, gates after their functions (GRU: and W_hn h + b_hn), c of each step (LSTM), both as
// UnitPanels. The running state is in panels, too: sequences that ended keep theirs, sequences that start
// later begin with h0, c0.
#include <algorithm>
#include <optional>

#include "cpu/gemm/gemm.h"
#include "cpu/gemm/share.h"
#include "cpu/rnn/cells.h"
#include "cpu/rnn/pairs.h"
#include "cpu/rnn/rnn.h"
#include "cpu/rnn/stored.h"
#include "cpu/runtime/phases.h"

namespace fastdl {
namespace {

using namespace rnn;

constexpr int64_t kGateBytes = 512 << 10;  // of gates between input product and steps, per thread
constexpr int64_t kInputRows = 64;         // at least, so that W_ih is read for many rows

// The plan of phases: one to begin with, then for each piece of the sequence its input product and its steps.
struct Plan {
  int64_t steps, piece, stages;
  int64_t phases() const { return 1 + ceil_div(steps, piece) + steps * stages; }
  int64_t pieces() const { return ceil_div(steps, piece); }
  int64_t begin(int64_t i) const { return std::min(steps, i * piece); }
  struct Phase {
    int64_t piece, step;  // step < 0: the piece's input product
    int stage;
  };
  Phase at(int64_t phase) const {  // phase 1 is the first after the beginning
    const int64_t whole = 1 + piece * stages, i = (phase - 1) / whole, rest = (phase - 1) % whole;
    if (rest == 0) return {i, -1, 0};
    return {i, begin(i) + (rest - 1) / stages, int((rest - 1) % stages)};
  }
};

template <class T, class S>
bool packs_input(const RnnProblem& p) {
  return kRounds<T, S> || (p.steps() > 1 && p.rows() >= kFewRows / 4);
}

template <class T, class S>
class Direction {
 public:
  // `rows`: of the longest piece.
  Direction(const RnnProblem& p, const RnnForward<T, S>& io, int d, const Grid& grid, const Plan& plan,
            int64_t rows)
      : p_(p),
        w_(io.weights[d]),
        d_(d),
        H(p.hidden),
        P(p.output),
        B(p.batch()),
        grid_(grid),
        plan_(plan),
        blocks_(Blocks::of<T>(B)),
        x_(io.x),
        h0_(io.h0, d * B * P, B * P),
        mask_(io.mask ? io.mask + d * B * P : nullptr),
        y_(io.y + d * P),
        y_ld_(p.directions * P),
        h_n_(io.h_n + d * B * P),
        c_n_(io.c_n ? io.c_n + d * B * H : nullptr),
        keep_(io.gates != nullptr),
        bias_(size_t(p.columns() * H)),
        state_data_(UnitPanels<T>::size(P, B, 1) + (c_n_ ? UnitPanels<T>::size(H, B, 1) : 0)),
        gate_data_(keep_ ? 0 : UnitPanels<T>::size(H, rows, int(p.columns()))) {
    const int columns = int(p.columns());
    gates_ = {gate_data_, rows, columns};
    if (keep_)
      gates_ = {io.gates + int64_t(d * UnitPanels<T>::size(H, p.rows(), columns)), p.rows(), columns};
    if (io.cells) cells_ = {io.cells + int64_t(d * UnitPanels<T>::size(H, p.rows(), 1)), p.rows(), 1};
    add_biases();
    if (p.projected())
      second_.emplace(w_.w_hr, H, P, 1, 0, H, 1);
    else if (p.cell == RnnCell::gru_before)
      second_.emplace(w_.w_hh + 2 * H * H, H, H, 1, 0, H, 1);
    if (second_) inner_.emplace(blocks_, B, H);
    if (p.steps() > 1 || (kRounds<T, S> && h0_)) {
      const int first = p.cell == RnnCell::gru_before ? 2 : int(p.gates());
      main_.emplace(w_.w_hh, P, H, first, H * P, P, 1);
      state_[0].emplace(blocks_, B, P);
      state_[1].emplace(blocks_, B, P);
    }
    if (packs_input<T, S>(p)) {
      input_.emplace(w_.w_ih, p.input, H, int(p.gates()), H * p.input, p.input, 1);
      for (auto& x : packed_x_) x.emplace(kRowBlocks, rows, p.input);
    }
    h_ = {state_data_, B, 1};
    c_ = {c_n_ ? state_data_ + UnitPanels<T>::size(P, B, 1) : nullptr, B, 1};
    const auto start = [&](const UnitPanels<T>& state, const T* from, int64_t units) {
      if (from)
        state.read(from, units, units, 0, B);
      else
        std::fill_n(state.data, UnitPanels<T>::size(units, B, 1), T(0));
    };
    start(h_, h0_, P);
    if (c_n_) start(c_, Floats<T, S>(io.c0, d * B * H, B * H), H);
    if constexpr (!kRounds<T, S>)
      if (!input_) plain_products();
  }

  // What the first phases read: the first piece of x, h0.
  void begin(int64_t part) {
    if (input_) pack_x(0, part);
    if (!h0_ || !main_) return;
    const Share own = share(part, blocks_.count(B), UnitPanels<T>::groups(P));
    const int64_t n = p_.batch_sizes[size_t(time(0))];
    for (int64_t g = own.g0; g < own.g1; ++g)
      for (int64_t b = own.b0; b < own.b1; ++b) hand_on(b, blocks_.rows(b, n), g, 0);
  }

  // One thread's part of the input product of a piece; and x of the next is packed.
  void input(int64_t piece, int64_t part) {
    if (!input_) return;
    if (piece + 1 < plan_.pieces()) pack_x(piece + 1, part);
    const Range rows = rows_of(piece);
    const Share own = share(part, kRowBlocks.count(rows.count), input_->groups());
    const int gates = input_->gates();
    const int64_t panels = (own.g1 - own.g0) * gates;
    const double work = tile::product_microseconds<T>((own.b1 - own.b0) * kMR<T>, panels * kNR<T>, p_.input);
    tile::share(panels, work, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t g = own.g0 + i / gates;
        const int gate = int(i % gates);
        input_->multiply(*packed_x_[piece & 1], kRowBlocks, own.b0, own.b1, rows.count, g, gate,
                         gates_.at(g, gate, gate_row(rows.first, piece)), kNR<T>, false);
      }
    });
  }

  // One thread's part of one stage of a step.
  void run(int64_t piece, int64_t step, int stage, int64_t part) {
    const int64_t t = time(step), n = p_.batch_sizes[size_t(t)];
    const int64_t row = gate_row(p_.starts[size_t(t)], piece);
    const bool last = step + 1 == p_.steps();
    const int64_t next =
        last ? 0 : p_.batch_sizes[size_t(time(step + 1))];  // more rows than n: some start there
    const int64_t units = stage == 1 ? P : H;
    const Share own = share(part, blocks_.count(std::max(n, next)), UnitPanels<T>::groups(units));
    for (int64_t g = own.g0; g < own.g1; ++g) {
      multiply(step, stage, g, own, n, row);
      for (int64_t b = own.b0; b < own.b1; ++b) {
        finish(stage, b, blocks_.rows(b, n), p_.starts[size_t(t)], row, g);
        if (!last && (stage == 1 || !second_)) hand_on(b, blocks_.rows(b, next), g, step + 1);
      }
    }
  }

  void end() {
    leave(h_, h_n_, P, B);
    if (c_n_) leave(c_, c_n_, H, B);
  }

 private:
  static constexpr Blocks kRowBlocks{kMR<T>, false};  // of x
  struct Range {
    int64_t first, count;
  };
  struct Share {
    int64_t b0, b1, g0, g1;  // blocks of rows, groups of units
  };

  int64_t time(int64_t step) const { return d_ == 0 ? step : p_.steps() - 1 - step; }
  Share share(int64_t part, int64_t blocks, int64_t groups) const {
    const int64_t rp = part / grid_.unit_parts, up = part % grid_.unit_parts;
    return {blocks * rp / grid_.row_parts, blocks * (rp + 1) / grid_.row_parts,
            groups * up / grid_.unit_parts, groups * (up + 1) / grid_.unit_parts};
  }
  // The rows of a piece's steps.
  Range rows_of(int64_t piece) const {
    const int64_t begin = plan_.begin(piece), end = plan_.begin(piece + 1);
    const int64_t t0 = d_ == 0 ? begin : p_.steps() - end, t1 = d_ == 0 ? end : p_.steps() - begin;
    return {p_.starts[size_t(t0)], p_.starts[size_t(t1)] - p_.starts[size_t(t0)]};
  }
  int64_t gate_row(int64_t row, int64_t piece) const { return keep_ ? row : row - rows_of(piece).first; }

  void add_biases() {  // the GRU's b_hn stays inside the reset gate
    std::fill_n(bias_.get(), p_.columns() * H, T(0));
    if (!w_.b_ih) return;
    const int64_t all = p_.gates() * H, both = (p_.cell == RnnCell::gru ? 2 : p_.gates()) * H;
    const Floats<T, S> b_ih(w_.b_ih, 0, all), b_hh(w_.b_hh, 0, all);
    std::copy_n(b_ih.get(), all, bias_.get());
    for (int64_t i = 0; i < both; ++i) bias_[size_t(i)] += b_hh.get()[i];
    if (p_.cell == RnnCell::gru) std::copy_n(b_hh.get() + 2 * H, H, bias_.get() + 3 * H);
  }

  // Both products without packed weights: of all steps x, of a single step h0.
  void plain_products() {
    const int64_t n = p_.rows(), ld = p_.columns() * H, I = p_.input;
    memory::Buffer<T> sums(size_t(n * ld));
    gemm<T>(false, true, n, p_.gates() * H, I, T(1), x_, I, w_.w_ih, I, T(0), sums, ld);
    const bool apart = p_.cell == RnnCell::gru;
    for (int64_t r = 0; apart && r < n; ++r) std::fill_n(sums.get() + r * ld + 3 * H, H, T(0));
    if (p_.steps() == 1 && h0_) {
      memory::Buffer<T> masked(mask_ ? size_t(n * P) : 0);
      for (int64_t i = 0; mask_ && i < n * P; ++i) masked[i] = h0_[i] * mask_[i];
      const auto product = [&](int64_t gate, int64_t count, int64_t column) {
        gemm<T>(false, true, n, count * H, P, T(1), mask_ ? masked.get() : h0_, P, w_.w_hh + gate * H * P, P,
                T(1), sums.get() + column * H, ld);
      };
      product(0, p_.cell >= RnnCell::gru ? 2 : p_.gates(), 0);
      if (apart) product(2, 1, 3);
    }
    gates_.read(sums, ld, H, 0, n);
  }

  void multiply(int64_t step, int stage, int64_t g, const Share& own, int64_t n, int64_t row) {
    if (stage == 1) {
      const bool projected = p_.projected();
      second_->multiply(*inner_, blocks_, own.b0, own.b1, n, g, 0,
                        projected ? h_.at(g, 0, 0) : gates_.at(g, 2, row), kNR<T>, !projected);
      return;
    }
    if (step == 0 && !h0_) {
      if (p_.cell == RnnCell::gru) {
        const int64_t r0 = own.b0 * blocks_.height, r1 = std::min(n, own.b1 * blocks_.height);
        if (r1 > r0) std::fill_n(gates_.at(g, 3, row + r0), (r1 - r0) * kNR<T>, T(0));
      }
      return;
    }
    if (!main_) return;
    for (int gate = 0; gate < main_->gates(); ++gate) {
      const bool apart = gate == 2 && p_.cell == RnnCell::gru;
      main_->multiply(*state_[step & 1], blocks_, own.b0, own.b1, n, g, gate,
                      gates_.at(g, apart ? 3 : gate, row), kNR<T>, !apart);
    }
  }

  // Gate arithmetic of block b, group g. The step's rows begin at `row0`, and at `gate_row` of the gates.
  void finish(int stage, int64_t b, int rows, int64_t row0, int64_t gate_row, int64_t g) {
    const int64_t r = b * blocks_.height, j = g * kNR<T>;
    alignas(64) T scratch[kMR<T> * kNR<T>];
    ForwardTile<T> tile{};
    tile.rows = rows;
    tile.cols = int(std::min<int64_t>(kNR<T>, (stage == 1 ? P : H) - j));
    tile.gates = gates_.at(g, 0, gate_row + r), tile.gate_stride = gates_.stride();
    tile.bias = bias_.get() + j, tile.hidden = H;
    tile.h = h_.at(g, 0, r);
    S* const y = y_ + (row0 + r) * y_ld_ + j;
    const TileView<T> leaves = fill_tile(y, y_ld_, tile.h);  // h once more
    tile.y = leaves.data, tile.y_ld = leaves.ld;
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
          for (int i = 0; i < rows; ++i) std::copy_n(tile.h + i * kNR<T>, tile.cols, tile.y + i * tile.y_ld);
          break;
        }
        tile.c = c_.at(g, 0, r);
        tile.cells = keep_ ? cells_.at(g, 0, row0 + r) : nullptr;
        tile.inner = p_.projected() ? scratch : nullptr;
        lstm_forward<T>(tile);
        break;
      case RnnCell::gru:
        gru_forward<T>(tile);
        break;
      case RnnCell::gru_before:
        tile.inner = scratch;
        stage == 0 ? gru_before_reset<T>(tile) : gru_before_update<T>(tile);
        break;
    }
    if (stage == 0 && second_)
      inner_->put(b, rows, j, tile.cols, scratch, kNR<T>);
    else
      leave_tile(y, y_ld_, tile.y, tile.y_ld, rows, tile.cols);
  }

  // What the product of `step` needs of block b: h, or h0 of sequences that start there.
  void hand_on(int64_t b, int rows, int64_t g, int64_t step) {
    const int64_t r = b * blocks_.height, j = g * kNR<T>;
    const int cols = int(std::min<int64_t>(kNR<T>, P - j));
    alignas(64) T scratch[kMR<T> * kNR<T>];
    const T* h = h_.at(g, 0, r);
    if (mask_) {
      for (int i = 0; i < rows; ++i)
        for (int k = 0; k < cols; ++k)
          scratch[i * kNR<T> + k] = h[i * kNR<T> + k] * mask_[(r + i) * P + j + k];
      h = scratch;
    }
    state_[step & 1]->put(b, rows, j, cols, h, kNR<T>);
  }

  void pack_x(int64_t piece, int64_t part) {
    const Range rows = rows_of(piece);
    const int64_t blocks = kRowBlocks.count(rows.count);
    for (int64_t b = blocks * part / grid_.parts(); b < blocks * (part + 1) / grid_.parts(); ++b)
      packed_x_[piece & 1]->put(b, kRowBlocks.rows(b, rows.count), 0, p_.input,
                                x_ + (rows.first + b * kRowBlocks.height) * p_.input, p_.input);
  }

  const RnnProblem& p_;
  const RnnWeights<S>& w_;
  const int d_;
  const int64_t H, P, B;
  const Grid grid_;
  const Plan plan_;
  const Blocks blocks_;
  const S* x_;
  const Floats<T, S> h0_;
  const T* mask_;
  S* y_;
  int64_t y_ld_;
  S *h_n_, *c_n_;
  bool keep_;
  memory::Buffer<T> bias_, state_data_, gate_data_;
  UnitPanels<T> gates_{}, cells_{}, h_{}, c_{};
  std::optional<Panels<S>> input_, main_, second_;
  std::optional<Operand<S>> packed_x_[2], state_[2], inner_;
};

}  // namespace

template <class T>
int64_t rnn_panel_width() {
  return kNR<T>;
}

template <class T, class S>
void rnn_forward(const RnnProblem& p, const RnnForward<T, S>& io) {
  const int64_t steps = p.steps();
  const double work = step_microseconds<T, S>(p.batch(), p.gates() * p.hidden, p.output) * p.directions;
  const bool share = num_threads() > 1 && work >= kShareMicroseconds;
  const Grid grid = Grid::of(share ? std::max(1, num_threads() / p.directions) : 1,
                             Blocks::of<T>(p.batch()).count(p.batch()), UnitPanels<T>::groups(p.hidden));
  const int64_t slices = share ? grid.parts() * p.directions : 1;

  const int stages = p.projected() || p.cell == RnnCell::gru_before ? 2 : 1;
  const int64_t row_bytes = p.columns() * p.hidden * int64_t(sizeof(T)) / grid.unit_parts;
  const int64_t piece = std::max(kInputRows, kGateBytes / row_bytes) / p.batch();
  const Plan plan{steps, packs_input<T, S>(p) ? std::clamp<int64_t>(piece, 1, steps) : steps, stages};
  std::optional<Direction<T, S>> directions[2];
  for (int d = 0; d < p.directions; ++d)
    directions[d].emplace(p, io, d, grid, plan, p.starts[size_t(plan.begin(1))]);

  parallel_phases(plan.phases(), slices, work * double(steps) >= 50, [&](int64_t phase, int64_t slice) {
    for (int d = 0; d < p.directions; ++d) {
      if (slices > 1 && slice / grid.parts() != d) continue;
      const int64_t part = slices > 1 ? slice % grid.parts() : 0;
      if (phase == 0) {
        directions[d]->begin(part);
        continue;
      }
      const Plan::Phase now = plan.at(phase);
      if (now.step < 0)
        directions[d]->input(now.piece, part);
      else
        directions[d]->run(now.piece, now.step, now.stage, part);
    }
  });
  for (int d = 0; d < p.directions; ++d) directions[d]->end();
}

template int64_t rnn_panel_width<float>();
template int64_t rnn_panel_width<double>();
template void rnn_forward(const RnnProblem&, const RnnForward<float>&);
template void rnn_forward(const RnnProblem&, const RnnForward<double>&);
#if defined(__AVX512F__) && defined(__AVX512BW__)
template void rnn_forward(const RnnProblem&, const RnnForward<float, uint16_t>&);
#else  // never called
template <>
void rnn_forward(const RnnProblem&, const RnnForward<float, uint16_t>&) {}
#endif

}  // namespace fastdl

// Recurrent layers backward through time. Formulas and packed layout: kernels/reference/rnn.py.
//
// 1. Steps, last to first: grad_h = grad_y + (gradients of the next step's gates) W_hh + what bypasses the
// product,
//    then the gates' gradients (N x G H) while the tile is in L1; they are also written in the order in which
//    the next product reads them. W_hh is packed once; threads and phases as in forward.cpp.
// 2. After each piece of the sequence, while its gates' gradients (8 MB) are in cache, the large products:
// grad_x,
//    and the weights' gradients added up over pieces. Their buffer is reused: it never reaches memory.
//
// The state's gradient (grad_h0, grad_c0) is carried in place from grad_h_n, grad_c_n: a sequence that ends
// early joins with its own, one that starts late (direction 1) leaves with what is in its row. The last
// product, for grad_h0, is a plain GEMM and only done where it is wanted.
//
// Gradients of gates per row: simple H; LSTM i, f, g, o; GRU r, z, n, W_hn h + b_hn; GRU, reset before, r, z,
// n.
#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/gemm/gemm.h"
#include "cpu/rnn/cells.h"
#include "cpu/rnn/product.h"
#include "cpu/rnn/rnn.h"
#include "cpu/runtime/phases.h"

namespace fastdl {
namespace {

using namespace rnn;

template <class T>
class BackwardDirection {
 public:
  BackwardDirection(const RnnProblem& p, const RnnBackward<T>& io, int d, int64_t longest, int64_t row_parts)
      : p_(p),
        io_(io),
        w_(io.weights[d]),
        d_(d),
        H(p.hidden),
        P(p.output),
        B(p.batch()),
        blocks_(Blocks::of<T>(B)),
        ld_(p.columns() * H),
        y_ld_(p.directions * P),
        y_(io.y + d * P),
        grad_y_(io.grad_y ? io.grad_y + d * P : nullptr),
        carry_(io.grad_h0 + d * B * P),
        dc_(io.grad_c0 ? io.grad_c0 + d * B * H : nullptr),
        h0_(io.h0 ? io.h0 + d * B * P : nullptr),
        c0_(io.c0 ? io.c0 + d * B * H : nullptr),
        mask_(io.mask ? io.mask + d * B * P : nullptr),
        gates_(io.gates ? io.gates + d * p.rows() * ld_ : nullptr),
        cells_(io.cells ? io.cells + d * p.rows() * H : nullptr),
        two_(p.projected() || p.cell == RnnCell::gru_before),
        depth_((p.cell == RnnCell::gru_before ? 2 : p.gates()) * H),
        d_gates_(size_t(longest * ld_)),
        bias_(size_t(row_parts * ld_)),
        row_parts_(row_parts),
        zeros_(size_t(std::max(H, P))),
        inner_grad_(size_t(two_ ? B * H : 0)),
        inner_value_(size_t(two_ ? longest * H : 0)),
        output_grad_(size_t(p.projected() ? longest * P : 0)) {
    const auto start = [](T* state, const T* from, int64_t n) {
      if (from)
        std::copy_n(from, n, state);
      else
        std::fill_n(state, n, T(0));
    };
    start(carry_, io.grad_h_n ? io.grad_h_n + d * B * P : nullptr, B * P);
    if (dc_) start(dc_, io.grad_c_n ? io.grad_c_n + d * B * H : nullptr, B * H);
    std::fill_n(bias_.get(), row_parts * ld_, T(0));
    std::fill_n(zeros_.get(), std::max(H, P), T(0));
    if (p.steps() > 1) {
      main_.emplace(w_.w_hh, depth_, P, 1, 0, 1, P);
      state_[0].emplace(blocks_, B, depth_);
      state_[1].emplace(blocks_, B, depth_);
    }
    if (p.projected()) {
      second_.emplace(w_.w_hr, P, H, 1, 0, 1, H);
      inner_.emplace(blocks_, B, P);
    } else if (two_) {
      second_.emplace(w_.w_hh + 2 * H * H, H, H, 1, 0, 1, H);
      inner_.emplace(blocks_, B, H);
    }
  }

  int stages() const { return two_ ? 2 : 1; }
  // Steps count from the sequence's last to its first.
  int64_t time(int64_t step) const { return d_ == 0 ? p_.steps() - 1 - step : step; }
  void begin(int64_t row0) { row0_ = row0; }

  void run(int64_t step, int stage, const Grid& grid, int64_t part) {
    const int64_t t = time(step), n = p_.batch_sizes[size_t(t)];
    const int64_t before = step == 0 ? 0 : p_.batch_sizes[size_t(time(step - 1))];  // rows with a product
    const int64_t units = stage == 0 ? P : H, groups = ceil_div(units, kNR<T>);
    const int64_t blocks = blocks_.count(std::max(n, before)), rp = part / grid.unit_parts,
                  up = part % grid.unit_parts;
    const int64_t b0 = blocks * rp / grid.row_parts, b1 = blocks * (rp + 1) / grid.row_parts;
    const int64_t g0 = groups * up / grid.unit_parts, g1 = groups * (up + 1) / grid.unit_parts;
    const bool adds = p_.cell >= RnnCell::gru;  // to what bypasses the product
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t j = g * kNR<T>;
      const int cols = int(std::min<int64_t>(kNR<T>, units - j));
      if (stage == 1)
        second_->multiply(*inner_, blocks_, b0, b1, n, g, 0, inner_grad_.get() + j, H, false);
      else if (before > 0)
        main_->multiply(*state_[step & 1], blocks_, b0, b1, before, g, 0, carry_ + j, P, adds);
      for (int64_t b = b0; b < b1; ++b) {
        if (stage == 0 && mask_) mask_carry(b * blocks_.height, blocks_.rows(b, before), j, cols);
        if (const int rows = blocks_.rows(b, n)) finish(stage, b, rows, t, j, cols, step, rp);
      }
    }
  }

  // The products of a piece, times [t0, t1).
  void products(int64_t t0, int64_t t1, bool add_x, bool last) {
    const int64_t row1 = p_.starts[size_t(t1)], rows = row1 - row0_, G = p_.gates() * H, I = p_.input;
    T* d = d_gates_.get();
    if (io_.grad_x)
      gemm<T>(false, false, rows, I, G, T(1), d, ld_, w_.w_ih, I, add_x ? T(1) : T(0), io_.grad_x + row0_ * I,
              I);
    if (io_.need_weights) {
      const RnnGradients<T>& out = io_.grad_weights[d_];
      gemm<T>(true, false, G, I, rows, T(1), d, ld_, io_.x + row0_ * I, I, added_ih_ ? T(1) : T(0), out.w_ih,
              I);
      if (p_.projected())
        gemm<T>(true, false, P, H, rows, T(1), output_grad_.get(), P, inner_value_.get(), H,
                added_ih_ ? T(1) : T(0), out.w_hr, H);
      added_ih_ = true;
      recurrent_weights(t0, t1);
    }
    if (!last) return;
    if (io_.need_weights) finish_weights();
    if (!io_.need_state) return;
    // The first step's gates to h0.
    const int64_t t = time(p_.steps() - 1), n = p_.batch_sizes[size_t(t)];
    d += (p_.starts[size_t(t)] - row0_) * ld_;
    if (p_.cell == RnnCell::gru) {
      gemm<T>(false, false, n, P, 2 * H, T(1), d, ld_, w_.w_hh, P, T(1), carry_, P);
      gemm<T>(false, false, n, P, H, T(1), d + 3 * H, ld_, w_.w_hh + 2 * H * P, P, T(1), carry_, P);
    } else {
      gemm<T>(false, false, n, P, depth_, T(1), d, ld_, w_.w_hh, P, p_.cell >= RnnCell::gru ? T(1) : T(0),
              carry_, P);
      if (mask_) mask_carry(0, int(n), 0, int(P));
    }
  }

 private:
  void mask_carry(int64_t r0, int rows, int64_t j, int cols) {
    for (int64_t i = r0 * P + j; rows > 0; --rows, i += P)
      for (int64_t k = i; k < i + cols; ++k) carry_[k] *= mask_[k];
  }

  // The row of h (or c, with its own stride) before time t, or the initial state's, or zeros.
  const T* before(const T* values, int64_t ld, const T* initial, int64_t initial_ld, int64_t t,
                  int64_t r) const {
    const int64_t from = d_ == 0 ? t - 1 : t + 1;
    if (from >= 0 && from < p_.steps() && r < p_.batch_sizes[size_t(from)])
      return values + (p_.starts[size_t(from)] + r) * ld;
    return initial ? initial + r * initial_ld : zeros_.get();
  }

  void finish(int stage, int64_t b, int rows, int64_t t, int64_t j, int cols, int64_t step,
              int64_t row_part) {
    const int64_t r = b * blocks_.height, row = p_.starts[size_t(t)] + r;
    const bool last = step + 1 == p_.steps();
    if (p_.projected() && stage == 0) {  // the gradient of the output, to be multiplied by W_hr
      T* g = output_grad_.get() + (row - row0_) * P + j;
      for (int i = 0; i < rows; ++i)
        for (int k = 0; k < cols; ++k)
          g[i * P + k] = carry_[(r + i) * P + j + k] + (grad_y_ ? grad_y_[(row + i) * y_ld_ + j + k] : T(0));
      inner_->put(b, rows, j, cols, g, P);
      return;
    }
    const T *h_before[kMR<T>], *c_before[kMR<T>];
    for (int i = 0; i < rows; ++i) {
      if (!p_.projected()) h_before[i] = before(y_, y_ld_, h0_, P, t, r + i) + j;
      if (cells_) c_before[i] = before(cells_, H, c0_, H, t, r + i) + j;
    }
    BackwardTile<T> tile{};
    tile.rows = rows, tile.cols = cols, tile.hidden = H;
    tile.gates = gates_ ? gates_ + row * ld_ + j : nullptr, tile.gates_ld = ld_;
    tile.d = d_gates_.get() + (row - row0_) * ld_ + j, tile.d_ld = ld_;
    tile.carry = carry_ + r * P + j, tile.carry_ld = P;
    tile.grad_y = grad_y_ ? grad_y_ + row * y_ld_ + j : nullptr, tile.grad_y_ld = y_ld_;
    tile.y = y_ + row * y_ld_ + j, tile.y_ld = y_ld_;
    tile.h_before = h_before, tile.c_before = c_before;
    tile.bias = bias_.get() + row_part * ld_ + j;
    int known = int(p_.gates());  // gates that the next step's product needs
    switch (p_.cell) {
      case RnnCell::tanh:
        simple_backward<T, true>(tile);
        break;
      case RnnCell::relu:
        simple_backward<T, false>(tile);
        break;
      case RnnCell::lstm:
        tile.dc = dc_ + r * H + j;
        tile.cells = cells_ + row * H + j;
        if (p_.projected()) {
          tile.carry = inner_grad_.get() + r * H + j, tile.carry_ld = H;
          tile.grad_y = nullptr;
          tile.inner = inner_value_.get() + (row - row0_) * H + j;
        }
        lstm_backward<T>(tile);
        break;
      case RnnCell::gru:
        gru_backward<T>(tile);
        break;
      case RnnCell::gru_before:
        if (stage == 0) {
          gru_before_update_backward<T>(tile);
          inner_->put(b, rows, j, cols, tile.d + 2 * H, ld_);
          return;
        }
        tile.through = inner_grad_.get() + r * H + j, tile.through_ld = H;
        tile.inner = inner_value_.get() + (row - row0_) * H + j;
        gru_before_reset_backward<T>(tile);
        known = 2;
        break;
    }
    if (last) return;
    for (int gate = 0; gate < known; ++gate) {
      const int column = gate == 2 && p_.cell == RnnCell::gru ? 3 : gate;
      state_[(step + 1) & 1]->put(b, rows, gate * H + j, cols, tile.d + column * H, ld_);
    }
  }

  // grad W_hh += gates' gradients of rows [row, row + n) ^T h, h the states before them.
  void add_recurrent(int64_t row, int64_t n, const T* h, int64_t h_ld) {
    if (n == 0) return;
    T* out = io_.grad_weights[d_].w_hh;
    const T* d = d_gates_.get() + (row - row0_) * ld_;
    const T beta = added_hh_ ? T(1) : T(0);
    added_hh_ = true;
    const auto product = [&](int64_t column, int64_t gate, int64_t count) {
      gemm<T>(true, false, count * H, P, n, T(1), d + column * H, ld_, h, h_ld, beta, out + gate * H * P, P);
    };
    if (p_.cell == RnnCell::gru) {
      product(0, 0, 2);
      product(3, 2, 1);
    } else {
      product(0, 0, p_.cell == RnnCell::gru_before ? 2 : p_.gates());
    }
  }

  void recurrent_weights(int64_t t0, int64_t t1) {
    const int64_t rows = p_.starts[size_t(t1)] - row0_;
    if (p_.cell == RnnCell::gru_before)
      gemm<T>(true, false, H, H, rows, T(1), d_gates_.get() + 2 * H, ld_, inner_value_.get(), H,
              added_hh_ ? T(1) : T(0), io_.grad_weights[d_].w_hh + 2 * H * H, H);
    if (p_.uniform() && !mask_) {  // the states before are y itself, a step away
      const bool begins = d_ == 0 ? t0 == 0 : t1 == p_.steps();
      const int64_t n = rows - (begins ? B : 0), shift = d_ == 0 ? -B : B;
      const int64_t rest = row0_ + (begins && d_ == 0 ? B : 0);
      add_recurrent(rest, n, y_ + (rest + shift) * y_ld_, y_ld_);
      if (begins && h0_) add_recurrent(d_ == 0 ? row0_ : row0_ + n, B, h0_, P);
      return;
    }
    memory::Buffer<T> h(size_t(rows * P));
    for (int64_t t = t0; t < t1; ++t) {
      T* to = h.get() + (p_.starts[size_t(t)] - row0_) * P;
      for (int64_t r = 0; r < p_.batch_sizes[size_t(t)]; ++r, to += P) {
        std::copy_n(before(y_, y_ld_, h0_, P, t, r), P, to);
        for (int64_t k = 0; mask_ && k < P; ++k) to[k] *= mask_[r * P + k];
      }
    }
    add_recurrent(row0_, rows, h, P);
  }

  void finish_weights() {
    const RnnGradients<T>& out = io_.grad_weights[d_];
    const int64_t known = p_.cell == RnnCell::gru_before ? 2 : p_.gates();
    if (!added_hh_) std::fill_n(out.w_hh, known * H * P, T(0));
    if (!out.b_ih) return;
    T* sum = bias_.get();
    for (int64_t part = 1; part < row_parts_; ++part)
      for (int64_t i = 0; i < ld_; ++i) sum[i] += sum[part * ld_ + i];
    std::copy_n(sum, p_.gates() * H, out.b_ih);
    std::copy_n(sum, p_.gates() * H, out.b_hh);
    if (p_.cell == RnnCell::gru) std::copy_n(sum + 3 * H, H, out.b_hh + 2 * H);
  }

  const RnnProblem& p_;
  const RnnBackward<T>& io_;
  const RnnWeights<T>& w_;
  const int d_;
  const int64_t H, P, B;
  const Blocks blocks_;
  const int64_t ld_, y_ld_;
  const T *y_, *grad_y_;
  T *carry_, *dc_;
  const T *h0_, *c0_, *mask_, *gates_, *cells_;
  const bool two_;       // products per step
  const int64_t depth_;  // of the product with W_hh
  memory::Buffer<T> d_gates_, bias_;
  const int64_t row_parts_;
  memory::Buffer<T> zeros_, inner_grad_, inner_value_, output_grad_;
  std::optional<Panels<T>> main_, second_;
  std::optional<Operand<T>> state_[2], inner_;
  int64_t row0_ = 0;  // of the piece at work
  bool added_ih_ = false, added_hh_ = false;
};

}  // namespace

template <class T>
void rnn_backward(const RnnProblem& p, const RnnBackward<T>& io) {
  const int64_t columns = p.columns() * p.hidden, steps = p.steps();
  const Pieces pieces = Pieces::of(steps, p.rows(), columns * int64_t(sizeof(T)));
  int64_t longest = 0;
  for (int64_t i = 0; i < pieces.count; ++i)
    longest = std::max(longest, p.starts[size_t(pieces.cut(i + 1))] - p.starts[size_t(pieces.cut(i))]);

  const double work = step_microseconds<T>(p.batch(), p.output, p.gates() * p.hidden) * p.directions;
  const bool share = num_threads() > 1 && work >= kShareMicroseconds;
  const Grid grid = Grid::of(share ? std::max(1, num_threads() / p.directions) : 1,
                             Blocks::of<T>(p.batch()).count(p.batch()), ceil_div(p.hidden, kNR<T>));
  const int64_t slices = share ? grid.parts() * p.directions : 1;

  std::optional<BackwardDirection<T>> directions[2];
  for (int d = 0; d < p.directions; ++d) directions[d].emplace(p, io, d, longest, grid.row_parts);
  const int stages = directions[0]->stages();

  std::vector<bool> written(
      static_cast<size_t>(pieces.count));  // pieces of grad_x that one direction has filled
  for (int64_t i = 0; i < pieces.count; ++i) {
    const auto piece = [&](int d) { return d == 0 ? pieces.count - 1 - i : i; };
    int64_t first[2], count[2]{};
    for (int d = 0; d < p.directions; ++d) {
      const int64_t t0 = pieces.cut(piece(d)), t1 = pieces.cut(piece(d) + 1);
      directions[d]->begin(p.starts[size_t(t0)]);
      first[d] = d == 0 ? steps - t1 : t0;
      count[d] = t1 - t0;
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
    for (int d = 0; d < p.directions; ++d) {
      const int64_t at = piece(d);
      directions[d]->products(pieces.cut(at), pieces.cut(at + 1), written[size_t(at)], i + 1 == pieces.count);
      written[size_t(at)] = true;
    }
  }
}

template void rnn_backward<float>(const RnnProblem&, const RnnBackward<float>&);
template void rnn_backward<double>(const RnnProblem&, const RnnBackward<double>&);

}  // namespace fastdl

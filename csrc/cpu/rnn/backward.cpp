// Recurrent layers backward through time. Formulas and packed layout: kernels/reference/rnn.py.
//
// 1. Steps, last to first: grad_h = grad_y + (gradients of the next step's gates) W_hh + what bypasses the
//    product, then the gates' gradients while the tile is in L1; they are also written in the order in which
//    the next product reads them. W_hh is packed once; threads and phases as in forward.cpp.
// 2. After each piece of the sequence, while its gates' gradients (8 MB) are in cache, the large products:
//    grad_x, and the weights' gradients added up over pieces, packed straight from the panels of units that
//    the steps leave. Their buffer is reused: it never reaches memory.
//
// The state's gradient is carried in panels from grad_h_n, grad_c_n: a sequence that ends early joins with
// its own, one that starts late (direction 1) leaves with what is in its row. The last product, for grad_h0,
// is a plain GEMM and only done where it is wanted.
//
// In bfloat16 (S = uint16_t) steps multiply by pairs (pairs.h), all in one piece: gates' gradients are
// rounded and lie in a matrix, from which pairs_backward.cpp forms the large products.
//
// Gradients of gates per row: simple H; LSTM i, f, g, o; GRU r, z, n, W_hn h + b_hn; GRU, reset before, r, z,
// n.
#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/gemm/gemm.h"
#include "cpu/gemm/panels.h"
#include "cpu/rnn/cells.h"
#include "cpu/rnn/columns.h"
#include "cpu/rnn/pairs_backward.h"
#include "cpu/rnn/rnn.h"
#include "cpu/rnn/stored.h"
#include "cpu/runtime/phases.h"

namespace fastdl {
namespace {

using namespace rnn;

template <class T, class S>
class BackwardDirection {
 public:
  // `rounded`: the matrix of gates' gradients in bfloat16.
  BackwardDirection(const RnnProblem& p, const RnnBackward<T, S>& io, int d, int64_t longest,
                    int64_t row_parts, GateMatrix<S> rounded)
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
        h0_(io.h0 ? io.h0 + d * B * P : nullptr),
        c0_(io.c0, d * B * H, B * H),
        mask_(io.mask ? io.mask + d * B * P : nullptr),
        two_(p.projected() || p.cell == RnnCell::gru_before),
        known_(p.cell == RnnCell::gru_before ? 2 : p.gates()),
        rounded_(rounded),
        d_gates_(kRounds<T, S> ? 0 : UnitPanels<T>::size(H, longest, int(p.columns()))),
        plain_(size_t(!kRounds<T, S> && p.rows() < kFewRows ? p.rows() * ld_ : 0)),
        carried_(UnitPanels<T>::size(P, B, 1) + (io.grad_c0 ? UnitPanels<T>::size(H, B, 1) : 0)),
        bias_(size_t(row_parts * ld_)),
        row_parts_(row_parts),
        zero_cells_(size_t(H)),
        zero_state_(size_t(P)),
        inner_grad_data_(two_ ? UnitPanels<T>::size(H, B, 1) : 0),
        inner_value_(size_t(two_ ? longest * H : 0)),
        output_grad_(size_t(p.projected() ? longest * P : 0)) {
    const int columns = int(p.columns());
    if (io.gates)
      gates_ = {io.gates + int64_t(d * UnitPanels<T>::size(H, p.rows(), columns)), p.rows(), columns};
    if (io.cells) cells_ = {io.cells + int64_t(d * UnitPanels<T>::size(H, p.rows(), 1)), p.rows(), 1};
    grad_gates_ = {d_gates_, longest, columns};
    inner_grad_ = {inner_grad_data_, B, 1};
    const auto start = [&](UnitPanels<T>& state, T* data, const T* from, int64_t units) {
      state = {data, B, 1};
      if (from)
        state.read(from, units, units, 0, B);
      else
        std::fill_n(data, UnitPanels<T>::size(units, B, 1), T(0));
    };
    start(carry_, carried_, Floats<T, S>(io.grad_h_n, d * B * P, B * P), P);
    if (io.grad_c0)
      start(dc_, carried_ + UnitPanels<T>::size(P, B, 1), Floats<T, S>(io.grad_c_n, d * B * H, B * H), H);
    std::fill_n(bias_.get(), row_parts * ld_, T(0));
    std::fill_n(zero_cells_.get(), H, T(0));
    std::fill_n(zero_state_.get(), P, S(0));
    if (p.steps() > 1 || (kRounds<T, S> && io.need_state)) {
      main_.emplace(w_.w_hh, H, P, 1, 0, 1, P, int(known_));
      state_[0].emplace(blocks_, B, known_ * segment<S>(H));
      state_[1].emplace(blocks_, B, known_ * segment<S>(H));
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
      if (stage == 0) fetch(g, b0 * blocks_.height, std::min(n, b1 * blocks_.height), p_.starts[size_t(t)]);
      const int cols = int(std::min<int64_t>(kNR<T>, units - j));
      if (stage == 1)
        second_->multiply(*inner_, blocks_, b0, b1, n, g, 0, inner_grad_.at(g, 0, 0), kNR<T>, false);
      else if (before > 0)
        main_->multiply(*state_[step & 1], blocks_, b0, b1, before, g, 0, carry_.at(g, 0, 0), kNR<T>, adds);
      for (int64_t b = b0; b < b1; ++b) {
        if (stage == 0 && mask_)
          apply_mask(carry_.at(g, 0, b * blocks_.height), kNR<T>, b * blocks_.height, blocks_.rows(b, before),
                     j, cols);
        if (const int rows = blocks_.rows(b, n)) finish(stage, b, rows, t, g, cols, step, rp);
      }
    }
  }

  // The products of a piece, times [t0, t1).
  void products(int64_t t0, int64_t t1, bool add_x, bool last) {
    if constexpr (kRounds<T, S>) {
      if (io_.need_weights) pairs_weight_gradients(p_, io_, d_, rounded_, inner_value_, output_grad_);
    } else {
      const int64_t row1 = p_.starts[size_t(t1)], rows = row1 - row0_, I = p_.input;
      if (plain_) grad_gates_.write(plain_, ld_, H, 0, rows);
      if (io_.grad_x) input_gradient(rows, add_x ? T(1) : T(0));
      if (io_.need_weights) {
        const RnnGradients<T>& out = io_.grad_weights[d_];
        weight_product(0, 0, p_.gates(), 0, rows, io_.x + row0_ * I, I, I, out.w_ih, added_ih_);
        if (p_.projected())
          gemm<T>(true, false, P, H, rows, T(1), output_grad_.get(), P, inner_value_.get(), H,
                  added_ih_ ? T(1) : T(0), out.w_hr, H);
        added_ih_ = true;
        recurrent_weights(t0, t1);
      }
      if (last && io_.need_weights && !added_hh_)
        std::fill_n(io_.grad_weights[d_].w_hh, known_ * H * P, T(0));
    }
    if (!last) return;
    if (io_.need_weights) finish_biases();
    if (io_.need_state) finish_state();
  }

 private:
  Columns<T> columns(int column) const { return {grad_gates_, H, column}; }

  void input_gradient(int64_t rows, T beta) {
    const int64_t G = p_.gates() * H, I = p_.input;
    T* out = io_.grad_x + row0_ * I;
    if (plain_) {
      gemm<T>(false, false, rows, I, G, T(1), plain_, ld_, w_.w_ih, I, beta, out, I);
      return;
    }
    if (!w_ih_) {
      w_ih_.emplace(size_t(tile::packed_b_size<T>(G, I)));
      tile::pack_b<T>(w_ih_->get(), G, I, tile::PackB<T>{matrix(w_.w_ih, I)});
    }
    tile::gemm_panels<T>(rows, I, G, PackRows<T>{columns(0)}, tile::Packed<T>{w_ih_->get()}, T(1), beta, out,
                         I);
  }

  // Rows of `gate`.. of a weight's gradient: += (columns `column`.. of the gates' gradients, `n` rows from
  // `row`)^T values.
  void weight_product(int column, int64_t gate, int64_t count, int64_t row, int64_t n, const T* values,
                      int64_t ld, int64_t width, T* out, bool add) {
    const T beta = add ? T(1) : T(0);
    out += gate * H * width;
    if (plain_)
      gemm<T>(true, false, count * H, width, n, T(1), plain_ + row * ld_ + column * H, ld_, values, ld, beta,
              out, width);
    else
      tile::gemm_panels<T>(count * H, width, n, PackColumns<T>{columns(column), row},
                           tile::PackB<T>{matrix(values, ld)}, T(1), beta, out, width);
  }

  void apply_mask(T* h, int64_t ld, int64_t row, int rows, int64_t j, int cols) const {
    for (int i = 0; i < rows; ++i)
      for (int k = 0; k < cols; ++k) h[i * ld + k] *= mask_[(row + i) * P + j + k];
  }

  // Asks for what finish() will read of rows [r0, r1) of the step at `row`, while the product is computed.
  void fetch(int64_t group, int64_t r0, int64_t r1, int64_t row) const {
    const auto lines = [&](const T* from) {
      for (int64_t i = 0; i < (r1 - r0) * kNR<T>; i += 64 / int64_t(sizeof(T)))
        __builtin_prefetch(from + i, 0, 2);
    };
    for (int c = 0; gates_.data && c < gates_.columns; ++c) lines(gates_.at(group, c, row + r0));
    if (cells_.data) lines(cells_.at(group, 0, row + r0));
  }

  const S* h_before(int64_t t, int64_t r) const {
    const int64_t row = row_before(p_, d_, t, r);
    return row >= 0 ? y_ + row * y_ld_ : h0_ ? h0_ + r * P : zero_state_.get();
  }

  void finish(int stage, int64_t b, int rows, int64_t t, int64_t group, int cols, int64_t step,
              int64_t row_part) {
    constexpr int size = kMR<T> * kNR<T>;
    alignas(64) T wide_grad[kRounds<T, S> ? size : 1], wide_h[kRounds<T, S> ? size : 1],
        wide_inner[kRounds<T, S> ? size : 1], wide_d[kRounds<T, S> ? 4 * size : 1];
    const int64_t r = b * blocks_.height, row = p_.starts[size_t(t)] + r, j = group * kNR<T>;
    const auto grad_y = read_tile<T>(grad_y_ && stage == 0 ? grad_y_ + row * y_ld_ + j : nullptr, y_ld_, rows,
                                     cols, wide_grad);
    if (p_.projected() && stage == 0) {  // the gradient of the output, to be multiplied by W_hr
      S* const to = output_grad_.get() + (row - row0_) * P + j;
      const auto g = fill_tile<T>(to, P, wide_inner);
      for (int i = 0; i < rows; ++i)
        for (int k = 0; k < cols; ++k)
          g.data[i * g.ld + k] =
              carry_.at(group, 0, r + i)[k] + (grad_y.data ? grad_y.data[i * grad_y.ld + k] : T(0));
      inner_->put(b, rows, j, cols, g.data, g.ld);
      return leave_tile(to, P, g.data, g.ld, rows, cols);
    }
    const T *before[kMR<T>], *c_before[kMR<T>];
    for (int i = 0; i < rows; ++i) {
      if (p_.cell >= RnnCell::gru)
        before[i] = read_tile<T>(h_before(t, r + i) + j, 0, 1, cols, wide_h + i * kNR<T>).data;
      if (!cells_.data) continue;
      const int64_t from = row_before(p_, d_, t, r + i);
      c_before[i] = from >= 0 ? cells_.at(group, 0, from) : c0_ ? c0_ + (r + i) * H + j : zero_cells_.get();
    }
    BackwardTile<T> tile{};
    tile.rows = rows, tile.cols = cols, tile.hidden = H;
    if (gates_.data) tile.gates = gates_.at(group, 0, row), tile.gate_stride = gates_.stride();
    if constexpr (kRounds<T, S>)
      tile.d = wide_d, tile.d_stride = size;
    else
      tile.d = grad_gates_.at(group, 0, row - row0_), tile.d_stride = grad_gates_.stride();
    tile.carry = carry_.at(group, 0, r);
    tile.grad_y = grad_y.data, tile.grad_y_ld = grad_y.ld;
    tile.h_before = before, tile.c_before = c_before;
    tile.bias = bias_.get() + row_part * ld_ + j;
    const bool keeps_inner = p_.projected() || (two_ && stage == 1);
    S* const inner = keeps_inner ? inner_value_.get() + (row - row0_) * H + j : nullptr;
    if (keeps_inner) {
      const auto view = fill_tile<T>(inner, H, wide_inner);
      tile.inner = view.data, tile.inner_ld = view.ld;
    }
    if (p_.cell <= RnnCell::relu) {
      const auto y = read_tile<T>(y_ + row * y_ld_ + j, y_ld_, rows, cols, wide_h);
      tile.y = y.data, tile.y_ld = y.ld;
    }
    switch (p_.cell) {
      case RnnCell::tanh:
        simple_backward<T, true>(tile);
        break;
      case RnnCell::relu:
        simple_backward<T, false>(tile);
        break;
      case RnnCell::lstm:
        tile.dc = dc_.at(group, 0, r);
        tile.cells = cells_.at(group, 0, row);
        if (p_.projected()) tile.carry = inner_grad_.at(group, 0, r);
        lstm_backward<T>(tile);
        break;
      case RnnCell::gru:
        gru_backward<T>(tile);
        break;
      case RnnCell::gru_before:
        if (stage == 0) {
          gru_before_update_backward<T>(tile);
          inner_->put(b, rows, j, cols, tile.d + 2 * tile.d_stride, kNR<T>);
          break;
        }
        tile.through = inner_grad_.at(group, 0, r);
        gru_before_reset_backward<T>(tile);
        break;
    }
    if (keeps_inner) leave_tile(inner, H, tile.inner, tile.inner_ld, rows, cols);
    hand_on(stage, b, rows, row, j, cols, step, tile);
  }

  // The gates' gradients to what follows: the matrix of them, the next step's product.
  void hand_on(int stage, int64_t b, int rows, int64_t row, int64_t j, int cols, int64_t step,
               const BackwardTile<T>& tile) {
    const bool first = p_.cell == RnnCell::gru_before && stage == 0;  // of two: z and n, r comes later
    if constexpr (kRounds<T, S>)
      for (int c = first ? 1 : 0; c < (p_.cell == RnnCell::gru_before && !first ? 1 : p_.columns()); ++c)
        round_rows(rounded_.at(row, c) + j, rounded_.ld, tile.d + c * tile.d_stride, kNR<T>, rows, cols);
    if (first || (step + 1 == p_.steps() && !(kRounds<T, S> && main_))) return;
    for (int gate = 0; gate < known_; ++gate) {  // those that the next step's product needs
      const int column = gate == 2 && p_.cell == RnnCell::gru ? 3 : gate;
      Operand<S>& to = *state_[(step + 1) & 1];
      if constexpr (kRounds<T, S>)
        to.put(b, rows, gate * segment<S>(H) + j, cols, rounded_.at(row, column) + j, rounded_.ld);
      else
        to.put(b, rows, gate * H + j, cols, tile.d + column * tile.d_stride, kNR<T>);
    }
  }

  // grad W_hh += gates' gradients of rows [row, row + n) ^T h, h the states before them.
  void add_recurrent(int64_t row, int64_t n, const T* h, int64_t h_ld) {
    if (n == 0) return;
    T* out = io_.grad_weights[d_].w_hh;
    const auto product = [&](int column, int64_t gate, int64_t count) {
      weight_product(column, gate, count, row - row0_, n, h, h_ld, P, out, added_hh_);
    };
    if (p_.cell == RnnCell::gru) {
      product(0, 0, 2);
      product(3, 2, 1);
    } else {
      product(0, 0, p_.cell == RnnCell::gru_before ? 2 : p_.gates());
    }
    added_hh_ = true;
  }

  void recurrent_weights(int64_t t0, int64_t t1) {
    const int64_t rows = p_.starts[size_t(t1)] - row0_;
    if (p_.cell == RnnCell::gru_before)
      weight_product(2, 2, 1, 0, rows, inner_value_.get(), H, H, io_.grad_weights[d_].w_hh, added_hh_);
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
        std::copy_n(h_before(t, r), P, to);
        for (int64_t k = 0; mask_ && k < P; ++k) to[k] *= mask_[r * P + k];
      }
    }
    add_recurrent(row0_, rows, h, P);
  }

  void finish_biases() {
    const RnnGradients<S>& out = io_.grad_weights[d_];
    if (!out.b_ih) return;
    T* sum = bias_.get();
    for (int64_t part = 1; part < row_parts_; ++part)
      for (int64_t i = 0; i < ld_; ++i) sum[i] += sum[part * ld_ + i];
    leave(sum, out.b_ih, p_.gates() * H);
    leave(sum, out.b_hh, p_.gates() * H);
    if (p_.cell == RnnCell::gru) leave(sum + 3 * H, out.b_hh + 2 * H, H);
  }

  void finish_state() {
    S* grad_h0 = io_.grad_h0 + d_ * B * P;
    const bool adds = p_.cell >= RnnCell::gru;
    const int64_t t = time(p_.steps() - 1), n = p_.batch_sizes[size_t(t)];
    if constexpr (kRounds<T, S>) {  // one product more
      const double work = step_microseconds<T, S>(n, P, known_ * H);
      tile::share(UnitPanels<T>::groups(P), work, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g)
          main_->multiply(*state_[p_.steps() & 1], blocks_, 0, blocks_.count(n), n, g, 0, carry_.at(g, 0, 0),
                          kNR<T>, adds);
      });
      if (mask_)
        for (int64_t g = 0; g < UnitPanels<T>::groups(P); ++g)
          apply_mask(carry_.at(g, 0, 0), kNR<T>, 0, int(n), g * kNR<T>,
                     int(std::min<int64_t>(kNR<T>, P - g * kNR<T>)));
    }
    leave(carry_, grad_h0, P, B);
    if (dc_.data) leave(dc_, io_.grad_c0 + d_ * B * H, H, B);
    if constexpr (!kRounds<T, S>) {  // the first step's gates to h0
      memory::Buffer<T> d(size_t(n * ld_));
      grad_gates_.write(d, ld_, H, p_.starts[size_t(t)] - row0_, n);
      if (p_.cell == RnnCell::gru) {
        gemm<T>(false, false, n, P, 2 * H, T(1), d, ld_, w_.w_hh, P, T(1), grad_h0, P);
        gemm<T>(false, false, n, P, H, T(1), d + 3 * H, ld_, w_.w_hh + 2 * H * P, P, T(1), grad_h0, P);
      } else {
        gemm<T>(false, false, n, P, known_ * H, T(1), d, ld_, w_.w_hh, P, adds ? T(1) : T(0), grad_h0, P);
        if (mask_) apply_mask(grad_h0, P, 0, int(n), 0, int(P));
      }
    }
  }

  const RnnProblem& p_;
  const RnnBackward<T, S>& io_;
  const RnnWeights<S>& w_;
  const int d_;
  const int64_t H, P, B;
  const Blocks blocks_;
  const int64_t ld_, y_ld_;
  const S *y_, *grad_y_, *h0_;
  const Floats<T, S> c0_;
  const T* mask_;
  const bool two_;       // products per step
  const int64_t known_;  // gates in the product with W_hh
  const GateMatrix<S> rounded_;
  memory::Buffer<T> d_gates_, plain_, carried_, bias_;  // plain: d as a matrix, where rows are few
  const int64_t row_parts_;
  memory::Buffer<T> zero_cells_;
  memory::Buffer<S> zero_state_;
  memory::Buffer<T> inner_grad_data_;
  memory::Buffer<S> inner_value_, output_grad_;
  UnitPanels<const T> gates_{}, cells_{};
  UnitPanels<T> grad_gates_{}, carry_{}, dc_{}, inner_grad_{};
  std::optional<memory::Buffer<T>> w_ih_;  // packed
  std::optional<Panels<S>> main_, second_;
  std::optional<Operand<S>> state_[2], inner_;
  int64_t row0_ = 0;  // of the piece at work
  bool added_ih_ = false, added_hh_ = false;
};

}  // namespace

template <class T, class S>
void rnn_backward(const RnnProblem& p, const RnnBackward<T, S>& io) {
  const int64_t columns = p.columns() * p.hidden, steps = p.steps();
  const Pieces pieces =
      kRounds<T, S> ? Pieces{steps, 1} : Pieces::of(steps, p.rows(), columns * int64_t(sizeof(T)));
  int64_t longest = 0;
  for (int64_t i = 0; i < pieces.count; ++i)
    longest = std::max(longest, p.starts[size_t(pieces.cut(i + 1))] - p.starts[size_t(pieces.cut(i))]);

  const double work = step_microseconds<T, S>(p.batch(), p.output, p.gates() * p.hidden) * p.directions;
  const bool share = num_threads() > 1 && work >= kShareMicroseconds;
  const Grid grid = Grid::of(share ? std::max(1, num_threads() / p.directions) : 1,
                             Blocks::of<T>(p.batch()).count(p.batch()), ceil_div(p.hidden, kNR<T>));
  const int64_t slices = share ? grid.parts() * p.directions : 1;

  memory::Buffer<S> rounded(size_t(kRounds<T, S> ? p.rows() * p.directions * columns : 0));
  std::optional<BackwardDirection<T, S>> directions[2];
  for (int d = 0; d < p.directions; ++d)
    directions[d].emplace(p, io, d, longest, grid.row_parts, GateMatrix<S>(p, rounded, d));
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
  if constexpr (kRounds<T, S>)
    if (io.grad_x) pairs_input_gradient(p, io, rounded);
}

template void rnn_backward(const RnnProblem&, const RnnBackward<float>&);
template void rnn_backward(const RnnProblem&, const RnnBackward<double>&);
#if defined(__AVX512F__) && defined(__AVX512BW__)
template void rnn_backward(const RnnProblem&, const RnnBackward<float, uint16_t>&);
#else  // never called
template <>
void rnn_backward(const RnnProblem&, const RnnBackward<float, uint16_t>&) {}
#endif

}  // namespace fastdl

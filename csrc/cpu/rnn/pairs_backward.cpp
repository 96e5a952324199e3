// Gates' gradients D (N x columns, rounded once) to those of weights and inputs: D^T x, D^T (states before)
// and D W_ih, each a product of the whole sequence that is rounded once. Both directions' share in grad_x is
// one product, over the columns of both.
#include "cpu/rnn/pairs_backward.h"

#include <algorithm>
#include <cstring>

#include "cpu/gemm/bfloat16.h"
#include "cpu/half.h"
#include "cpu/rnn/product.h"

namespace fastdl::rnn {
namespace {

using Bits = uint16_t;

// to (m x n, C order) = A^T B for k rows of A and B; zeros where there are none.
void product(Bits* to, int64_t m, int64_t n, int64_t k, const Bits* a, int64_t a_ld, const Bits* b,
             int64_t b_ld) {
  if (m * n == 0) return;
  if (k == 0)
    std::fill_n(to, m * n, Bits(0));
  else
    gemm_pairs(m, n, k, 1.0f, MatrixView<Bits>{a, 1, a_ld}, MatrixView<Bits>{b, b_ld, 1}, to, {});
}

// The state before each row, as W_hh met it.
void states_before(const RnnProblem& p, const RnnBackward<float, Bits>& io, int d, Bits* to) {
  const int64_t P = p.output, ld = p.directions * P;
  const auto half = Half::bfloat16;
  memory::Buffer<float> h(size_t(io.mask ? P : 0));
  for (int64_t t = 0; t < p.steps(); ++t)
    for (int64_t r = 0; r < p.batch_sizes[size_t(t)]; ++r, to += P) {
      const int64_t row = row_before(p, d, t, r), first = (d * p.batch() + r) * P;
      if (row >= 0)
        std::copy_n(io.y + row * ld + d * P, P, to);
      else if (io.h0)
        std::copy_n(io.h0 + first, P, to);
      else
        std::fill_n(to, P, Bits(0));
      if (!io.mask) continue;
      widen(h, to, P, half);
      for (int64_t k = 0; k < P; ++k) h[k] *= io.mask[first + k];
      narrow(to, h, P, half);
    }
}

}  // namespace

void pairs_weight_gradients(const RnnProblem& p, const RnnBackward<float, Bits>& io, int d,
                            const GateMatrix<Bits>& gates, const Bits* inner, const Bits* output_grad) {
  const int64_t H = p.hidden, P = p.output, I = p.input, N = p.rows(), B = p.batch();
  const RnnGradients<Bits>& out = io.grad_weights[d];
  product(out.w_ih, p.gates() * H, I, N, gates.at(0, 0), gates.ld, io.x, I);
  if (p.projected()) product(out.w_hr, P, H, N, output_grad, P, inner, H);

  // The states before are y itself, a step away, unless each has to be looked for.
  const bool shifted = p.uniform() && !io.h0 && !io.mask;
  memory::Buffer<Bits> looked_for(size_t(shifted ? 0 : N * P));
  if (!shifted) states_before(p, io, d, looked_for);
  const Bits* h = shifted ? io.y + d * P + (d == 0 ? 0 : B * p.directions * P) : looked_for.get();
  const int64_t h_ld = shifted ? p.directions * P : P, first = shifted && d == 0 ? B : 0;
  const auto recurrent = [&](int column, int64_t gate, int64_t count) {
    product(out.w_hh + gate * H * P, count * H, P, shifted ? N - B : N, gates.at(first, column), gates.ld, h,
            h_ld);
  };
  if (p.cell == RnnCell::gru) {
    recurrent(0, 0, 2);
    recurrent(3, 2, 1);
  } else if (p.cell == RnnCell::gru_before) {
    recurrent(0, 0, 2);
    product(out.w_hh + 2 * H * P, H, P, N, gates.at(0, 2), gates.ld, inner, H);
  } else {
    recurrent(0, 0, p.gates());
  }
}

void pairs_input_gradient(const RnnProblem& p, const RnnBackward<float, Bits>& io, Bits* gates) {
  const int64_t each = p.gates() * p.hidden, I = p.input;
  if (I == 0) return;
  const GateMatrix<Bits> first(p, gates, 0);
  memory::Buffer<Bits> both(size_t(p.directions == 2 ? 2 * each * I : 0));
  for (int d = 0; both && d < 2; ++d) std::copy_n(io.weights[d].w_ih, each * I, both + d * each * I);
  gemm_pairs(p.rows(), I, p.directions * each, 1.0f, MatrixView<Bits>{first.at(0, 0), first.ld, 1},
             MatrixView<Bits>{both ? both.get() : io.weights[0].w_ih, I, 1}, io.grad_x, {});
}

}  // namespace fastdl::rnn

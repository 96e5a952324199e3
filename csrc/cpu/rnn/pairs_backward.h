// The large products that follow a recurrent layer's steps backward, in bfloat16; see pairs_backward.cpp.
#pragma once

#include "cpu/rnn/rnn.h"

namespace fastdl::rnn {

// A direction's gradients of gates, one row for each of the sequence. Those of both directions lie side by
// side, and in each the columns that W_ih makes are neighbours, without a gap between the directions: the
// GRU's fourth column (W_hn h + b_hn) is the first one of direction 0, or the last.
template <class S>
struct GateMatrix {
  S* data;
  int64_t hidden, ld;
  int columns, turn;

  GateMatrix(const RnnProblem& p, S* all, int d)
      : data(all + d * p.columns() * p.hidden),
        hidden(p.hidden),
        ld(p.directions * p.columns() * p.hidden),
        columns(int(p.columns())),
        turn(p.cell == RnnCell::gru && p.directions == 2 && d == 0 ? 1 : 0) {}
  S* at(int64_t row, int column) const { return data + row * ld + (column + turn) % columns * hidden; }
};

// Of W_ih, W_hh and W_hr of direction d. inner and output_grad: N x H and N x P, of cells with two products.
void pairs_weight_gradients(const RnnProblem& p, const RnnBackward<float, uint16_t>& io, int d,
                            const GateMatrix<uint16_t>& gates, const uint16_t* inner,
                            const uint16_t* output_grad);
// Of x, from all directions' gates.
void pairs_input_gradient(const RnnProblem& p, const RnnBackward<float, uint16_t>& io, uint16_t* gates);

}  // namespace fastdl::rnn

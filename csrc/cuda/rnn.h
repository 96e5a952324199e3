// Recurrent layers on CUDA: all steps of a layer, and back through time. The cells and the packed layout are
// those of common/rnn.h and kernels/reference/rnn.py. Products over all rows at once
// (inputs by W_ih, gradients of weights and of inputs) are the caller's.
#pragma once

#include "common/rnn.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// Which launches compute the steps: those estimated to be the fastest, or the first of these that the problem
// fits, but none before the one asked for.
enum class RnnLaunches : int { automatic, resident, grid, steps };

// Element type T, computed in C; N rows, B sequences, G gates, H hidden units, P = output. Null: not there.
struct RnnForward {
  void *y, *h_n, *c_n;  // N x P, rows y_step elements apart; B x P; B x H
  int64_t y_step;
  void *gates, *cells;                    // for backward: columns() x N x H, N x H
  void *carry, *update;                   // C, B x H: the LSTM's c; gru_before's z
  const void* a;                          // N x G H: W_ih x
  const void *h0, *c0, *mask;             // B x P, B x H, B x P
  const void *w_hh, *b_ih, *b_hh, *w_hr;  // biases: both or neither
};

struct RnnBackward {
  void *grad_a, *grad_b;  // N x G H: of W_ih x and of W_hh h; one array but for the GRU
  void* grad_h0;          // B x P
  void *cell, *direct,
      *sum;              // C, B x H: gradients of c, of h beside the product, of h between a step's products
  void *before, *reset;  // for weights' gradients: N x P, (masked) h before each row; N x H, r times it
  void *output, *product;  // of a projecting LSTM: N x P, h's gradient; N x H, what is projected
  const void* grad_y;
  int64_t grad_y_step;
  const void *grad_h_n, *grad_c_n, *y;
  int64_t y_step;
  const void *gates, *cells, *h0, *c0, *mask;
  const void *w_hh, *w_hr;  // transposed, P x G H and H x P, where there is scratch
};

// Bytes of `scratch`, 0 for one launch with the weights in registers.
int64_t rnn_forward_scratch(Dtype dtype, const RnnProblem& p, bool tf32, RnnLaunches launches);
int64_t rnn_backward_scratch(Dtype dtype, const RnnProblem& p, bool tf32, RnnLaunches launches);
// An entry for each direction; the second one is the reverse.
// `specialised`: with kernels for compute capability 9.0 (rnn_specialised.h), where they fit.
void rnn_forward(Dtype dtype, const RnnProblem& p, const std::vector<RnnForward>& f, void* scratch, bool tf32,
                 RnnLaunches launches, bool specialised, Stream stream);
void rnn_backward(Dtype dtype, const RnnProblem& p, const std::vector<RnnBackward>& f, void* scratch,
                  bool tf32, RnnLaunches launches, bool specialised, Stream stream);

}  // namespace fastdl::cuda

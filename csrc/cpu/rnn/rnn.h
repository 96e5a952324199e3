// Recurrent layers, forward and backward through time; see forward.cpp and backward.cpp.
//
// T is what is computed in, S how arrays of the layer are stored: like it, or uint16_t, bfloat16 beside
// floats, where has_pair_products().
#pragma once

#include "common/rnn.h"

namespace fastdl {

template <class S>
struct RnnWeights {
  const S *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;  // the last three may be null
};

// What forward keeps is laid out for the kernels (UnitPanels in product.h): `width` hidden units side by
// side, W = ceil(H / width) groups of them; a number of this build.
template <class T>
int64_t rnn_panel_width();

// D directions, N rows, B sequences, P = output, H = hidden, I = input; null where not wanted or missing.
template <class T, class S = T>
struct RnnForward {
  S* y;           // N x D P
  S* h_n;         // D x B x P
  S* c_n;         // D x B x H
  T* gates;       // D x W x columns() x N x width, null: not kept
  T* cells;       // D x W x N x width, null: not kept
  const S* x;     // N x I
  const S* h0;    // D x B x P
  const S* c0;    // D x B x H
  const T* mask;  // D x B x P, LSTM only
  RnnWeights<S> weights[2];
};

template <class S>
struct RnnGradients {
  S *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

template <class T, class S = T>
struct RnnBackward {
  S* grad_x;
  S* grad_h0;  // always: the state's gradient on its way through time
  S* grad_c0;  // always for LSTM
  bool need_state;
  bool need_weights;
  RnnGradients<S> grad_weights[2];
  const S *grad_y, *grad_h_n, *grad_c_n;
  const S *x, *h0, *c0, *y;
  const T *mask, *gates, *cells;
  RnnWeights<S> weights[2];
};

template <class T, class S>
void rnn_forward(const RnnProblem& p, const RnnForward<T, S>& io);
template <class T, class S>
void rnn_backward(const RnnProblem& p, const RnnBackward<T, S>& io);

}  // namespace fastdl

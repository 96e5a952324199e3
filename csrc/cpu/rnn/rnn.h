// Recurrent layers, forward and backward through time; see forward.cpp and backward.cpp.
#pragma once

#include "common/rnn.h"

namespace fastdl {

template <class T>
struct RnnWeights {
  const T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;  // the last three may be null
};

// What forward keeps is laid out for the kernels (UnitPanels in product.h): `width` hidden units side by
// side, W = ceil(H / width) groups of them; a number of this build.
template <class T>
int64_t rnn_panel_width();

// D directions, N rows, B sequences, P = output, H = hidden, I = input; null where not wanted or missing.
template <class T>
struct RnnForward {
  T* y;           // N x D P
  T* h_n;         // D x B x P
  T* c_n;         // D x B x H
  T* gates;       // D x W x columns() x N x width, null: not kept
  T* cells;       // D x W x N x width, null: not kept
  const T* x;     // N x I
  const T* h0;    // D x B x P
  const T* c0;    // D x B x H
  const T* mask;  // D x B x P, LSTM only
  RnnWeights<T> weights[2];
};

template <class T>
struct RnnGradients {
  T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

template <class T>
struct RnnBackward {
  T* grad_x;
  T* grad_h0;  // always: the state's gradient on its way through time
  T* grad_c0;  // always for LSTM
  bool need_state;
  bool need_weights;
  RnnGradients<T> grad_weights[2];
  const T *grad_y, *grad_h_n, *grad_c_n;
  const T *x, *h0, *c0, *mask, *y, *gates, *cells;
  RnnWeights<T> weights[2];
};

template <class T>
void rnn_forward(const RnnProblem& p, const RnnForward<T>& io);
template <class T>
void rnn_backward(const RnnProblem& p, const RnnBackward<T>& io);

}  // namespace fastdl

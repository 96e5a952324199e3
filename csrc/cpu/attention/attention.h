// Scaled dot-product attention, y = dropout(softmax(scale * Q K^T + mask)) V; see forward.cpp, backward.cpp,
// and few.cpp for a handful of queries. Dimensions: B batch, H heads of queries, G heads of keys and values
// (each serves H / G heads of queries in a row), L queries, S keys, E and V the sizes of a query and a value.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace fastdl::attention {

// (batch, head, row, size): any strides, the last axis contiguous.
template <class T>
struct Heads {
  T* data;
  int64_t batch, head, row;
  T* at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

// Element (b, h, i, j) at the given strides, 0 along axes that are broadcast. At most one of the two is
// there: `added` to the scores, or `allowed` (0: key j is invisible to query i).
template <class T>
struct Mask {
  const T* added;
  const uint8_t* allowed;
  int64_t batch, head, row, col;
};

struct Problem {
  int64_t batch, heads, groups, queries, keys, size, value_size;
  bool causal;   // query i sees keys 0 .. i
  double scale;  // of the scores
  double p;      // probability of a weight being dropped
  Philox philox;
};

// lse (B, H, L): base-2 logarithm of sum_j exp(score_ij), infinite for a row that sees nothing (its y is 0).
template <class T>
void forward(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
             const Mask<T>& mask, const Problem& problem);

// Where to add the gradient of the mask: null, or zeros of the mask's shape but with all S columns.
template <class T>
struct MaskGradient {
  T* data;
  int64_t batch, head, row;  // 0 along axes that are broadcast
};

template <class T>
void backward(Heads<T> grad_query, Heads<T> grad_key, Heads<T> grad_value, const MaskGradient<T>& grad_mask,
              Heads<const T> grad_y, Heads<const T> query, Heads<const T> key, Heads<const T> value,
              const Mask<T>& mask, Heads<const T> y, const T* lse, const Problem& problem);

// Is this a case for forward_few, and for backward_few if the mask wants no gradient? Few rows (queries of
// all heads that share one of keys), nothing causal, nothing dropped.
template <class T>
bool is_few(const Problem& problem);
template <class T>
void forward_few(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
                 const Mask<T>& mask, const Problem& problem);
template <class T>
void backward_few(Heads<T> grad_query, Heads<T> grad_key, Heads<T> grad_value, Heads<const T> grad_y,
                  Heads<const T> query, Heads<const T> key, Heads<const T> value, const Mask<T>& mask,
                  Heads<const T> y, const T* lse, const Problem& problem);

}  // namespace fastdl::attention

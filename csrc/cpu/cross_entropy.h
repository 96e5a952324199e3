// Softmax cross entropy over (outer, classes, inner) logits, from class indices or class probabilities, and
// the negative log likelihood of given log-probabilities; see cross_entropy.cpp and nll_loss.cpp.
//
// Functions that take class indices return the position of the first index that is out of range, or -1. They
// never read or write outside their arrays, but the results are undefined then.
#pragma once

#include <type_traits>

#include "common/classes.h"
#include "cpu/half.h"

namespace fastdl {

template <class T>
struct ClassTargets {
  const int64_t* index;  // one per position, 0 <= index < classes, or ignore_index
  const T* weight;       // one per class, or null: all ones
  int64_t ignore_index;
  T smoothing;
  Reduction reduction;
};

template <class T>
struct ProbabilityTargets {
  const T* probability;  // shape of the logits
  const T* weight;       // one per class, or null
  T smoothing;
  Reduction reduction;
};

// loss: one number, or one per position without reduction. statistics: 2 numbers per position (maximum; log
// of the sum of exp(x - maximum)), 3 with probabilities (the sum of weighted probabilities). normaliser: what
// "mean" divided by.
template <class T>
int64_t cross_entropy_forward(T* loss, T* statistics, T* normaliser, const T* x, ClassTargets<T> target,
                              ClassShape shape);
template <class T>
int64_t cross_entropy_backward(T* grad_x, const T* grad_loss, const T* x, const T* statistics,
                               const T* normaliser, ClassTargets<T> target, ClassShape shape);
template <class T>
void cross_entropy_probabilities_forward(T* loss, T* statistics, const T* x, ProbabilityTargets<T> target,
                                         ClassShape shape);
template <class T>
void cross_entropy_probabilities_backward(T* grad_x, const T* grad_loss, const T* x, const T* statistics,
                                          ProbabilityTargets<T> target, ClassShape shape);

template <class T>
using ComputedIn = std::conditional_t<sizeof(T) == 2, float, T>;  // where uint16_t stores numbers in `half`
template <class T>
int64_t nll_loss_forward(ComputedIn<T>* loss, ComputedIn<T>* normaliser, const T* x,
                         ClassTargets<ComputedIn<T>> target, ClassShape shape, Half half);
template <class T>
int64_t nll_loss_backward(T* grad_x, const T* grad_loss, const ComputedIn<T>* normaliser,
                          ClassTargets<ComputedIn<T>> target, ClassShape shape, Half half);

}  // namespace fastdl

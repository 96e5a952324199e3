// Losses that compare arrays element by element, with their reduction in the same pass; see
// pointwise_loss.cpp.
#pragma once

#include "common/classes.h"

namespace fastdl {

enum class PointwiseLoss {
  mse,
  l1,
  smooth_l1,
  huber,
  binary_cross_entropy,
  binary_cross_entropy_with_logits,
  kl_div,
  kl_div_log_target,
  poisson_nll,
  poisson_nll_log_input,
  gaussian_nll,
  gaussian_nll_variance,  // backward only: the gradient of gaussian_nll for its variance
  soft_margin,
  hinge_embedding,
  margin_ranking,
};

// An array that is repeated along the elements: element i is data[i % period]. Null data: all ones.
template <class T>
struct Operand {
  const T* data;
  int64_t period;
};

template <class T>
struct PointwiseProblem {
  PointwiseLoss loss;
  Reduction reduction;
  int64_t size;
  T parameter;  // beta, delta, margin or eps, as the loss has it
  bool full;    // whether constant terms count (Poisson, Gaussian)
  Operand<T> operands[4];
};

// Returns the position of the first input outside the loss's domain (binary cross entropy: [0, 1]), or -1.
template <class T>
int64_t pointwise_loss_forward(T* loss, const PointwiseProblem<T>& problem);
template <class T>
void pointwise_loss_backward(T* grad_x, const T* grad_loss, const PointwiseProblem<T>& problem);

}  // namespace fastdl

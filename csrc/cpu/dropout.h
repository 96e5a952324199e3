// Dropout and its relatives; see dropout.cpp.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace fastdl {

struct DropoutProblem {
  int64_t rows, length;  // one random word for each row of `length` elements; length 1: one per element
  double p;              // probability of being dropped, 0 <= p <= 1
  double scale;          // kept elements become x * scale + kept_bias,
  double kept_bias;      // dropped ones x * 0 + dropped_bias
  double dropped_bias;
  Philox philox;
};

// y comes from the pool (aligned).
template <class T>
void dropout(T* y, const T* x, const DropoutProblem& problem);

// Randomized leaky ReLU: y = x > 0 ? x : a x with a uniform in [lower, upper) per element; and its backward,
// which draws the same a again.
template <class T>
void rrelu_forward(T* y, const T* x, int64_t n, double lower, double upper, Philox philox);
template <class T>
void rrelu_backward(T* grad_x, const T* grad_y, const T* x, int64_t n, double lower, double upper,
                    Philox philox);

}  // namespace fastdl

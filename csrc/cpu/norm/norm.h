// Normalisation: batch, layer (and RMS), group (and instance), local response. Statistics are float64 for
// both dtypes: they are few, and a mean that is exact beyond float32 is what keeps (x - mean) right when
// |mean| is large. Gradients of weight and bias may be null (not wanted); weight and bias may be null (1 and
// 0).
#pragma once

#include <cstdint>

#include "cpu/half.h"

namespace fastdl {

struct BatchNormProblem {
  int64_t batch, channels, inner;  // x (batch, channels, inner)
  double eps;
};

// mean and var (biased), one of each per channel, and y = (x - mean) / sqrt(var + eps) * weight + bias.
template <class T>
void batch_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        const BatchNormProblem& problem);
// The same y from given statistics.
template <class T>
void batch_norm_inference(T* y, const T* x, const double* mean, const double* var, const T* weight,
                          const T* bias, const BatchNormProblem& problem);
void batch_norm_inference_stored(Half half, uint16_t* y, const uint16_t* x, const double* mean,
                                 const double* var, const float* weight, const float* bias,
                                 const BatchNormProblem& problem);
// `training`: mean and var are the batch's own, so that gradients flow through them as well. grad_x may be
// null.
template <class T>
void batch_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var, bool training,
                         const BatchNormProblem& problem);

// running = (1 - momentum) * running + momentum * statistic * factor, elements `step` apart
template <class T>
void update_running(T* running, int64_t step, const double* statistic, int64_t n, double momentum,
                    double factor);

// Rows of `length` numbers, each normalised by itself; weight and bias (length). mean == null: RMS norm,
// where `var` is the mean of the squares and nothing is subtracted.
template <class T>
void layer_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        int64_t rows, int64_t length, double eps);
template <class T>
void layer_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var, int64_t rows, int64_t length,
                         double eps);

struct GroupNormProblem {
  int64_t batch, groups, channels, inner;  // x (batch, groups * channels, inner): `channels` per group
  double eps;
};

// mean and var (batch, groups); weight and bias (groups * channels).
template <class T>
void group_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        const GroupNormProblem& problem);
template <class T>
void group_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var,
                         const GroupNormProblem& problem);

struct LocalResponseProblem {
  int64_t batch, channels, inner, size;
  double alpha, beta, k;
};

// y = x (k + alpha / size * sum of x^2 over the window)^-beta; the window of channel c is [c - size / 2, c +
// (size - 1) / 2].
template <class T>
void local_response_forward(T* y, const T* x, const LocalResponseProblem& problem);
template <class T>
void local_response_backward(T* grad_x, const T* grad_y, const T* x, const LocalResponseProblem& problem);

}  // namespace fastdl

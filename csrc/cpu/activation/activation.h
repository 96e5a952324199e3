// Activation functions on CPU: elementwise maps (map.cpp), one that knows about channels (channels.cpp), and one of two
// halves (glu.cpp).
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "cpu/elementwise.h"

namespace fastdl {

// y = f(x), and grad_x = grad_y * f'(x), where `saved` is x or y as the table in common/activation.h says.
// y and grad_x come from the pool (aligned); n numbers each.
template <class T>
void activation_forward(Activation f, T* y, const T* x, int64_t n, const double* parameters);
template <class T>
void activation_backward(Activation f, T* grad_x, const T* grad_y, const T* saved, int64_t n,
                         const double* parameters);

// PReLU of x (outer, channels, inner); weight (channels).
template <class T>
void prelu_forward(T* y, const T* x, const T* weight, int64_t outer, int64_t channels, int64_t inner);
// grad_x and grad_weight may each be null.
template <class T>
void prelu_backward(T* grad_x, T* grad_weight, const T* grad_y, const T* x, const T* weight, int64_t outer,
                    int64_t channels, int64_t inner);

// y = a * sigmoid(b), operands y, a, b; grad_a, grad_b, grad_y, a, b.
template <class T>
void glu_forward(const StridedLoop<3>& loop);
template <class T>
void glu_backward(const StridedLoop<5>& loop);

}  // namespace fastdl

// Activation functions, elementwise over n numbers; see activation.cpp.
#pragma once

#include <cstdint>

namespace fastdl {

template <class T>
void relu_forward(T* y, const T* x, int64_t n);
template <class T>
void relu_backward(T* grad_x, const T* grad_y, const T* y, int64_t n);

}  // namespace fastdl

// softmax and log_softmax along the middle axis of (outer, classes, inner); see softmax.cpp.
#pragma once

#include "common/classes.h"

namespace fastdl {

template <class T>
void softmax_forward(T* y, const T* x, ClassShape shape);
template <class T>
void softmax_backward(T* grad_x, const T* grad_y, const T* y, ClassShape shape);
template <class T>
void log_softmax_forward(T* y, const T* x, ClassShape shape);
template <class T>
void log_softmax_backward(T* grad_x, const T* grad_y, const T* y, ClassShape shape);

}  // namespace fastdl

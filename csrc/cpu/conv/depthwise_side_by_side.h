// Depthwise convolution with the channels side by side; see depthwise_side_by_side.cpp.
#pragma once

#include "cpu/conv/algorithm.h"

namespace fastdl::side_by_side {

// Whether the planes of kWidth channels stay in L2, and channels fill most lanes.
template <class T>
bool suits(const ConvProblem& p);

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias);
template <class T>
void grad_x(const ConvProblem& p, T* grad_x, const T* grad_y, const T* w, const T* bias);
template <class T>
void grad_w(const ConvProblem& p, T* grad_w, const T* grad_y, const T* x);

}  // namespace fastdl::side_by_side

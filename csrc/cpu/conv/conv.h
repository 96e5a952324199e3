// Convolution: the three maps of a ConvProblem (csrc/common/conv.h), each done by an algorithm of the
// list in choose.cpp that accepts it and expects to win. All arrays are in C order: x, grad_x (batch,
// in_channels, in...), y, grad_y (batch, out_channels, out...), w, grad_w (out_channels, in_channels /
// groups, kernel...).
//
// The transposed convolution is conv_grad_x (its bias has in_channels entries), its gradient conv_forward.
#pragma once

#include <string>

#include "common/conv.h"

namespace fastdl {

template <class T>
void conv_forward(ConvProblem p, T* y, const T* x, const T* w, const T* bias);  // bias may be null
template <class T>
void conv_grad_x(ConvProblem p, T* grad_x, const T* grad_y, const T* w, const T* bias);
template <class T>
void conv_grad_w(ConvProblem p, T* grad_w, const T* grad_y, const T* x);
// sums[c] = sum over n, i of y[n, c, i]: the gradient of a bias.
template <class T>
void conv_grad_bias(T* sums, const T* y, int64_t batch, int64_t channels, int64_t size);

enum class ConvPass { forward, grad_x, grad_w };

// "auto", or the name of one algorithm that every convolution has to use from now on; one that cannot do a
// problem raises with the reason. The environment variable FASTDL_CONV_ALGORITHM is the initial setting.
void set_conv_algorithm(const std::string& name);
std::string conv_algorithm();
// The algorithm that would compute this pass.
template <class T>
std::string conv_choice(ConvProblem p, ConvPass pass);
// "name: reason" for every algorithm; "" where it accepts.
template <class T>
std::vector<std::pair<std::string, std::string>> conv_algorithms(const ConvProblem& p);

}  // namespace fastdl

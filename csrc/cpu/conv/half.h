// The maps of conv.h on arrays in half precision, biases in float32; see half.cpp.
#pragma once

#include "common/conv.h"
#include "cpu/half.h"

namespace fastdl {

void conv_forward_half(Half half, const ConvProblem& p, uint16_t* y, const uint16_t* x, const uint16_t* w,
                       const float* bias);
void conv_grad_x_half(Half half, const ConvProblem& p, uint16_t* grad_x, const uint16_t* grad_y,
                      const uint16_t* w, const float* bias);
void conv_grad_w_half(Half half, const ConvProblem& p, uint16_t* grad_w, const uint16_t* grad_y,
                      const uint16_t* x);
void conv_grad_bias_half(Half half, uint16_t* sums, const uint16_t* y, int64_t batch, int64_t channels,
                         int64_t size);

}  // namespace fastdl

// Convolutions in bfloat16 by the processor's products of pairs; see pairs.cpp.
#pragma once

#include "common/conv.h"

namespace fastdl {

// Only where has_pair_products(); extents, channels and batch are at least 1. bias may be null.
void conv_forward_pairs(const ConvProblem& p, uint16_t* y, const uint16_t* x, const uint16_t* w,
                        const float* bias);
void conv_grad_x_pairs(const ConvProblem& p, uint16_t* grad_x, const uint16_t* grad_y, const uint16_t* w,
                       const float* bias);
void conv_grad_w_pairs(const ConvProblem& p, uint16_t* grad_w, const uint16_t* grad_y, const uint16_t* x);

}  // namespace fastdl

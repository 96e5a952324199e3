// The weight gradient of 1x1 convolutions with few channels as dot products of rows: see dot_rows.cpp.
#pragma once

#include "cpu/conv/conv.h"

namespace fastdl {

// Whether that is faster than the matrix engine.
bool has_few_weights(const ConvProblem& p);

// Of one group, whose channels begin at gy and x in the first image.
void grad_w_by_rows(const ConvProblem& p, float* gw, const float* gy, const float* x);

}  // namespace fastdl

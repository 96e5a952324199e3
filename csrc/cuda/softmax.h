// Softmax and its logarithm along one axis of x (outer, classes, inner), on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

void softmax_forward(bool log, Dtype dtype, void* y, const void* x, Classes shape, Stream stream);
void softmax_backward(bool log, Dtype dtype, void* grad_x, const void* grad_y, const void* y, Classes shape,
                      Stream stream);

}  // namespace fastdl::cuda

// Pooling by windows of 2 and 3 taps an axis in one slice. Each returns false, and has done nothing, for problems that
// it has no kernels for.
#pragma once

#include "common/pool.h"
#include "cuda/types.h"

namespace fastdl::cuda {

bool small_max_forward(Dtype dtype, void* y, void* offsets, const void* x, const PoolProblem& problem,
                       Stream stream);
bool small_max_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* offsets,
                        const PoolProblem& problem, Stream stream);
bool small_avg_forward(Dtype dtype, void* y, const void* x, const PoolProblem& problem, bool include_pad,
                       int64_t divisor, Stream stream);
bool small_avg_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& problem,
                        bool include_pad, int64_t divisor, Stream stream);

}  // namespace fastdl::cuda

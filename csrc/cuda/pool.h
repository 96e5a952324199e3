// Pooling on CUDA; the geometry is common/pool.h's. One- and two-dimensional problems have trivial leading
// axes.
#pragma once

#include "common/pool.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// offsets: the tap of each maximum, one byte for up to 256 taps, else int32; null: not wanted
void max_pool_forward(Dtype dtype, void* y, void* offsets, const void* x, const PoolProblem& problem,
                      Stream stream);
void max_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* offsets,
                       const PoolProblem& problem, Stream stream);
void max_pool_indices(int64_t* indices, const void* offsets, const PoolProblem& problem, Stream stream);
// divisor 0: the number of positions that a window covers
void avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& problem, bool include_pad,
                      int64_t divisor, Stream stream);
void avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& problem,
                       bool include_pad, int64_t divisor, Stream stream);
// Windows [o in / out, (o + 1) in / out), rounded outwards; of the problem only in and out count.
void adaptive_avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& problem,
                               Stream stream);
void adaptive_avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& problem,
                                Stream stream);

}  // namespace fastdl::cuda

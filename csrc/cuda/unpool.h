// Adaptive maximum pooling, and values placed by the index of a maximum, on CUDA.
#pragma once

#include "common/pool.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// Windows [o in / out, (o + 1) in / out), rounded outwards; of the problem only planes, in and out count.
void adaptive_max_pool_forward(Dtype dtype, void* y, int64_t* indices, const void* x,
                               const PoolProblem& problem, Stream stream);
// The same of one output a plane, which is then the tap of a window as large as the plane: indices (null: not wanted)
// of 1, 4 or 8 bytes.
void plane_max_forward(Dtype dtype, void* y, void* indices, int bytes, const void* x,
                       const PoolProblem& problem, Stream stream);
// indices as forward makes them: a gradient whose index is not in its own window counts for nothing.
void adaptive_max_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* indices,
                                const PoolProblem& problem, uint64_t* report, Stream stream);

// planes of `values` values for `places` places. owners: (planes, places) zeros. The last of several wins.
void max_unpool_forward(Dtype dtype, void* y, const void* x, const int64_t* indices, int* owners,
                        int64_t planes, int64_t values, int64_t places, uint64_t* report, Stream stream);
void max_unpool_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* indices,
                         int64_t planes, int64_t values, int64_t places, uint64_t* report, Stream stream);

}  // namespace fastdl::cuda

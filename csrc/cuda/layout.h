// Elements chosen by an index along one axis, the gradient of that, and running sums, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// x (outer, extent, inner), index and y (outer, count, inner).
struct Gather {
  int64_t outer, extent, count, inner;
};

// y[o, j, i] = x[o, index[o, j, i], i]; elements of 1, 2, 4 or 8 bytes. A bad index gives 0 and is reported.
void gather_forward(int bytes, void* y, const void* x, const int64_t* index, const Gather& problem,
                    uint64_t* report, Stream stream);
// grad_x[o, index[o, j, i], i] += grad_y[o, j, i] from zero, in the order of j; grad_x is float, for float64
// double.
void gather_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* index,
                     const Gather& problem, uint64_t* report, Stream stream);
// keys[o, j, i] = the place in grad_x that an entry is added to, -1: none
void gather_places(int64_t* keys, const int64_t* index, const Gather& problem, uint64_t* report,
                   Stream stream);

// Elements that running_sum needs in scratch (float, for float64 double).
int64_t running_sum_scratch(int64_t outer, int64_t length, int64_t inner);
// y[o, k, i] = x[o, 0, i] + .. + x[o, k, i]; from_end: x[o, k, i] + .. to the last
void running_sum(Dtype dtype, void* y, const void* x, int64_t outer, int64_t length, int64_t inner,
                 bool from_end, void* scratch, Stream stream);

}  // namespace fastdl::cuda

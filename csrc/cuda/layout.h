// Elements chosen by an index along one axis, or joined with others, on CUDA.
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
// clang-format off
#define FASTDL_CUDA_JOIN(X) X(add) X(prod) X(amax) X(amin)
// clang-format on
#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Join : int { FASTDL_CUDA_JOIN(FASTDL_CUDA_ENUMERATOR) };
// out[o, index[o, j, i], i] joined with source[o, j, i] in the order of j; out is float, for float64 double.
// integers: both are int64, whatever dtype says; one: the source is one element for all.
void scatter_join(Join op, Dtype dtype, bool integers, void* out, const void* source, bool one,
                  const int64_t* index, const Gather& problem, uint64_t* report, Stream stream);
// keys[o, j, i] = the place in grad_x that an entry is added to, -1: none
void gather_places(int64_t* keys, const int64_t* index, const Gather& problem, uint64_t* report,
                   Stream stream);

}  // namespace fastdl::cuda

// Running sums, products, extremes and logarithms of sums along an axis, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// x and y are (outer, length, inner): y[o, k, i] is made of x[o, 0, i] .. x[o, k, i]; from_end: of those from
// k on.
struct Running {
  int64_t outer, length, inner;
  bool from_end;
};

// clang-format off
#define FASTDL_CUDA_SCAN(X) X(sum) X(product) X(logsumexp)
// clang-format on
#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Scan : int { FASTDL_CUDA_SCAN(FASTDL_CUDA_ENUMERATOR) };

// Bytes of scratch memory.
int64_t running_scratch(const Running& problem);
void running(Scan op, Dtype dtype, void* y, const void* x, const Running& problem, void* scratch,
             Stream stream);
// The largest (or smallest) so far and its last place; NaN wins. `integers`: x is int64, whatever dtype says.
void running_extreme(bool largest, Dtype dtype, bool integers, void* values, int64_t* indices, const void* x,
                     const Running& problem, void* scratch, Stream stream);

}  // namespace fastdl::cuda

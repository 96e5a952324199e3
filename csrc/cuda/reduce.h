// Reductions over some axes of an array with strides, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
#define FASTDL_CUDA_FOLD(X) X(sum) X(nansum) X(prod) X(amax) X(amin) X(norm) X(nonzero) X(largest) X(smallest)
// clang-format on
#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Fold : int { FASTDL_CUDA_FOLD(FASTDL_CUDA_ENUMERATOR) };

// Axes with their extents and strides (in elements): those that stay, in the order of the output (dense), and
// those that are reduced, in any order.
struct Reduce {
  const void* x;
  int64_t item;  // bytes of an element
  Shape kept, kept_strides, reduced, reduced_strides;
};

// Bytes of scratch memory for partial results.
int64_t reduce_scratch(const Reduce& problem);

// y = fold of x, times scale. nansum: of what is not NaN; norm: (sum |x|^p)^(1/p); largest and smallest: of
// |x|. wide: y in the computing type.
void fold(Fold op, Dtype dtype, void* y, bool wide, const Reduce& problem, double scale, double p,
          void* scratch, Stream stream);
// var = sum (x - mean)^2 / max(0, n - correction), and mean
void moments(Dtype dtype, void* var, void* mean, const Reduce& problem, double correction, void* scratch,
             Stream stream);
void logsumexp(Dtype dtype, void* y, const Reduce& problem, void* scratch, Stream stream);
// The largest (or smallest) values and the first places where they stand in the order of the reduced axes;
// NaN wins.
void extreme(bool largest, Dtype dtype, void* values, int64_t* indices, const Reduce& problem, void* scratch,
             Stream stream);
// How many bytes of x are not zero.
void count_true(int64_t* counts, const Reduce& problem, void* scratch, Stream stream);

}  // namespace fastdl::cuda

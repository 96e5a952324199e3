// Special functions of one array, and the gradients of most of them, and functions of two, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
// y = f(x)
#define FASTDL_CUDA_SPECIAL(X) \
  X(lgamma) X(digamma) X(trigamma) X(erfc) X(erfcx) X(erfinv) X(ndtr) X(log_ndtr) X(ndtri) X(i0) X(i0e) X(i1) X(i1e) \
  X(logit) X(entr) X(sinc)
// grad_x = grad_y f'(x); trigamma's derivative is not among the functions.
#define FASTDL_CUDA_SPECIAL_GRADIENT(X) \
  X(lgamma) X(digamma) X(erfc) X(erfcx) X(erfinv) X(ndtr) X(log_ndtr) X(ndtri) X(i0) X(i0e) X(i1) X(i1e) \
  X(logit) X(entr) X(sinc)
// z = f(x, y): P(x, y) and 1 - P, the sum over k >= 0 of (k + y)^-x
#define FASTDL_CUDA_SPECIAL_PAIR(X) X(igamma) X(igammac) X(zeta)
// clang-format on

#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Special : int { FASTDL_CUDA_SPECIAL(FASTDL_CUDA_ENUMERATOR) };
enum class SpecialGradient : int { FASTDL_CUDA_SPECIAL_GRADIENT(FASTDL_CUDA_ENUMERATOR) };
enum class SpecialPair : int { FASTDL_CUDA_SPECIAL_PAIR(FASTDL_CUDA_ENUMERATOR) };

void special(Special op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, Stream stream);
void special_gradient(SpecialGradient op, Dtype dtype, const Shape& shape, const Strided& grad_x,
                      const Strided& grad_y, const Strided& x, Stream stream);
void special_pair(SpecialPair op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
                  const Strided& y, Stream stream);  // gamma.cu

}  // namespace fastdl::cuda

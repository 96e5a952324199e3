// What the kernels of normalisation share: a row's or channel's statistics as they are used. The mean is kept
// as two numbers of the computing type, so that x - mean is right where |mean| is large.
#pragma once

#include "cuda/norm.h"
#include "cuda/rows.h"

namespace fastdl::cuda {

template <class C>
struct Statistics {
  C high, low, r;  // mean = high + low, r = 1 / sqrt(var + eps)

  __device__ __forceinline__ C normalised(C x) const { return ((x - high) - low) * r; }
};
template <class C>
__device__ __forceinline__ Statistics<C> statistics(const double* mean, const double* var, int64_t i, C eps) {
  Statistics<C> s;
  const double m = mean != nullptr ? mean[i] : 0.0;
  s.high = C(m);
  s.low = C(m - double(s.high));
  s.r = 1 / std::sqrt(C(var[i]) + eps);
  return s;
}

}  // namespace fastdl::cuda

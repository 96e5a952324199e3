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
__device__ __forceinline__ Statistics<C> statistics_of(double mean, double var, C eps) {
  Statistics<C> s;
  s.high = C(mean);
  s.low = C(mean - double(s.high));
  s.r = 1 / std::sqrt(C(var) + eps);
  return s;
}
template <class C>
__device__ __forceinline__ Statistics<C> statistics(const double* mean, const double* var, int64_t i, C eps) {
  return statistics_of<C>(mean != nullptr ? mean[i] : 0.0, var[i], eps);
}

}  // namespace fastdl::cuda

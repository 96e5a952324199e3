// What a p-norm adds up, shared by the distances of corresponding rows and of all pairs of rows.
#pragma once

#include <cmath>

#include "cuda/numeric.h"

namespace fastdl::cuda {

enum class Norm { zero, one, two, infinite, any };
inline Norm norm_of(double p) {
  return p == 0                      ? Norm::zero
         : p == 1                    ? Norm::one
         : p == 2                    ? Norm::two
         : p == __builtin_huge_val() ? Norm::infinite
                                     : Norm::any;
}

// x^p for x >= 0; what is rounded to 16 bits can do with less.
template <class T>
__device__ __forceinline__ Compute<T> power(Compute<T> x, Compute<T> p) {
  if constexpr (sizeof(T) == 2)
    return std::exp2(p * std::log2(x));
  else
    return std::pow(x, p);
}

template <class C>
__device__ __forceinline__ C sign(C x) {  // of NaN NaN
  return x > 0 ? C(1) : x < 0 ? C(-1) : x;
}

template <class T, class C>
__device__ __forceinline__ C term(C size, Norm norm, C p) {  // what a distance adds up
  switch (norm) {
    case Norm::zero:
      return size != 0 ? C(1) : C(0);
    case Norm::two:
      return size * size;
    case Norm::any:
      return size == 0 ? C(0) : power<T>(size, p);
    default:
      return size;
  }
}

}  // namespace fastdl::cuda

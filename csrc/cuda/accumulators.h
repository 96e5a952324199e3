// What reductions and running ones accumulate where a number is not enough.
#pragma once

#include "cuda/numeric.h"

namespace fastdl::cuda {

// A sum of exponentials, s e^m, m being the largest exponent, so that nothing overflows; -infinity and 0:
// none.
template <class C>
struct Exponentials {
  C m, s;

  __device__ __forceinline__ Exponentials joined(Exponentials other) const {
    const C d = other.m - m;
    const C e = m == other.m ? C(1) : std::exp(-std::fabs(d));  // of equal infinities d is NaN
    return {larger(m, other.m), d > 0 ? s * e + other.s : s + other.s * e};
  }
  __device__ __forceinline__ C logarithm() const { return m - m == 0 ? m + std::log(s) : m; }
};

template <class C, class Index = int64_t>
struct Place {
  C value;
  Index index;
};

}  // namespace fastdl::cuda

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
    const C top = larger(m, other.m);
    return {top, in_units_of(top) + other.in_units_of(top)};
  }
  __device__ __forceinline__ C in_units_of(C top) const {  // of e^top
    return m == top ? s : s * std::exp(m - top);           // equal infinities: exp(0)
  }
  __device__ __forceinline__ C logarithm() const { return m - m == 0 ? m + std::log(s) : m; }
};

template <class C>
struct Place {
  C value;
  int64_t index;  // -1: nothing yet
};

}  // namespace fastdl::cuda

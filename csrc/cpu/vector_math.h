// The elementary functions of simd/math.h over whole arrays: what the other kernels compute with, on show for
// the accuracy tests (and for whoever wants to measure them).
#pragma once

#include <cstdint>

namespace fastdl {

enum class VectorFunction { exp, expm1, log, log1p, log1p_unit, tanh, sigmoid, erf, sin_2pi, cos_2pi };

template <class T>
void vector_math(VectorFunction function, T* y, const T* x, int64_t n);

}  // namespace fastdl

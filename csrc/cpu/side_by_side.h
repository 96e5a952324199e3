// Planes (or images) side by side: element e of `count` <= kWidth<T> of them as the lanes of one vector. What
// then is done to a plane costs the same whatever its rows' length, strides and padding are.
#pragma once

#include <cstdint>

#include "cpu/simd/simd.h"

namespace fastdl {

// to[e * width + n] = from[n * plane + e], zero for n >= count.
template <class T>
void interleave(T* to, const T* from, int64_t plane, int count, int64_t elements);

// to[n * plane + e] = from[e * width + n] + add for n < count.
template <class T>
void deinterleave(T* to, int64_t plane, const T* from, int count, int64_t elements, T add = T(0));

}  // namespace fastdl

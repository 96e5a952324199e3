// Numbers of one dtype as another.
#pragma once

#include <cstdint>

namespace fastdl {

enum class Number { boolean, uint8, int32, int64, float16, bfloat16, float32, float64 };

// y[i] = x[i], converted as C does; to boolean: is x[i] not zero? To the half precisions: by way of
// float, rounded to nearest, ties to even (float64 twice). False: there is no kernel for this pair.
bool convert(void* y, Number to, const void* x, Number from, int64_t n);

}  // namespace fastdl

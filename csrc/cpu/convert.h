// Numbers of one dtype as another.
#pragma once

#include <cstdint>

namespace fastdl {

enum class Number { boolean, uint8, int64, float32, float64 };

// y[i] = x[i], converted as C does; to boolean: is x[i] not zero? `to` is not uint8.
void convert(void* y, Number to, const void* x, Number from, int64_t n);

}  // namespace fastdl

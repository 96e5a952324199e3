// Indices from outside, checked before a kernel follows them.
#pragma once

#include "bindings/cpu/array.h"
#include "cpu/layout.h"

namespace fastdl::binding {

// Raises IndexError with place and value of index number `at`, which is outside [low, extent).
[[noreturn]] void refuse_index(const char* op, const In<int64_t>& index, int64_t at, int64_t low,
                               int64_t extent, const char* argument);

// Raises it of the first index outside [0, extent).
void check_index(const char* op, const In<int64_t>& index, int64_t extent, const char* argument = "index");

}  // namespace fastdl::binding

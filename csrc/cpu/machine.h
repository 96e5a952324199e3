// The machine's limits, measured: what every benchmark's fraction is relative to. See machine.cpp.
#pragma once

#include <cstdint>

namespace fastdl {

double machine_fma(double seconds);                                // float32 GFLOP/s of all threads
double machine_copy(float* to, const float* from, int64_t count);  // seconds for one parallel copy

}  // namespace fastdl

// Padding on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

constexpr int kPadAxes = 4;
enum class Padding { constant, reflect, replicate, circular };

// `before` and `after` may be negative: they cut off.
struct PadAxis {
  int64_t in = 1, out = 1, before = 0, after = 0;
};

// Elements of 2, 4 or 8 bytes; value: the constant's bits.
void pad(int item, void* y, const void* x, const PadAxis (&axes)[kPadAxes], Padding mode, uint64_t value,
         Stream stream);
void pad_backward(Dtype dtype, void* grad_x, const void* grad_y, const PadAxis (&axes)[kPadAxes],
                  Padding mode, Stream stream);

}  // namespace fastdl::cuda

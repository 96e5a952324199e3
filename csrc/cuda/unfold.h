// Windows of images as columns (im2col) and back, for unfold, fold and the explicit convolution.
#pragma once

#include "common/pool.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// columns: (planes, taps, outputs) from x: (planes, inputs); zeros outside.
void unfold(Dtype dtype, void* columns, const void* x, const PoolProblem& problem, Stream stream);
// The transpose: columns are added up where they came from.
void fold(Dtype dtype, void* x, const void* columns, const PoolProblem& problem, Stream stream);

}  // namespace fastdl::cuda

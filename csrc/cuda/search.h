// Places in sorted rows, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// places[i]: how many elements of the value's sorted row are smaller (right: not larger). Rows of `length`,
// each for `per_row` values in a row. `integers`: int64, whatever dtype says (float32 or float64).
void searchsorted(Dtype dtype, bool integers, int64_t* places, const void* rows, const void* values,
                  int64_t length, int64_t per_row, int64_t count, bool right, Stream stream);

}  // namespace fastdl::cuda

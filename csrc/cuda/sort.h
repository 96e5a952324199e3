// Sorting along the last axis, and the first few in order, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

enum class SortKey : int { float32, float64, int32, int64 };

// The first k of each of `rows` rows of n elements (n < 2^31), in ascending or descending order, stably: equal
// elements keep their order, and NaN counts as largest.
struct Sort {
  int64_t rows, n, k;
  bool descending;
};

// Bytes of scratch memory.
int64_t sort_scratch(SortKey type, const Sort& problem);
void sort(SortKey type, void* values, int64_t* indices, const void* x, const Sort& problem, void* scratch,
          Stream stream);

}  // namespace fastdl::cuda

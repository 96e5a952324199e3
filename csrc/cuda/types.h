// What bindings and kernels of the CUDA backend share, without any of CUDA's headers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

struct CUstream_st;

namespace fastdl {

using Stream = CUstream_st*;

// Element types in memory. Arithmetic is in float, for float64 in double.
enum class Dtype : int { float32, float16, bfloat16, float64 };

namespace cuda {

// An array by its address and strides (in elements, one per axis of the shape beside it), or one number for
// all.
struct Strided {
  void* data = nullptr;
  std::vector<int64_t> strides;
  double value = 0;
};
using Shape = std::vector<int64_t>;

// Where a softmax or a loss finds its classes: x is (outer, classes, inner).
struct Classes {
  int64_t outer, classes, inner;
  constexpr int64_t positions() const { return outer * inner; }
};

}  // namespace cuda
}  // namespace fastdl

// Dropout on CUDA: the masks of csrc/common/philox.h, bit for bit those of the CPU.
#pragma once

#include "cuda/random.h"

namespace fastdl::cuda {

struct Dropout {
  int64_t size, length;  // elements; one decision for each run of `length` of them
  double p, scale, kept_bias, dropped_bias;
  Key key;
};
// y = x * scale + kept_bias, or x * 0 + dropped_bias with probability p
void dropout(Dtype dtype, void* y, const void* x, const Dropout& problem, Stream stream);

// y = x where x > 0, else a * x, a uniform in [lower, upper); backward for grad_y != null
void rrelu(Dtype dtype, void* out, const void* grad_y, const void* x, int64_t size, double lower,
           double upper, Key key, Stream stream);

}  // namespace fastdl::cuda

// Running statistics of batch normalisation on CUDA, in place.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// running = (1 - momentum) * running + momentum * statistic * factor, for up to two of them (null: left out).
struct Running {
  void *mean, *var;
  const double *batch_mean, *batch_var;
  int64_t channels;
  double momentum, unbias;  // the variance's factor
};
// batches (null: not counted) goes up by one.
void update_running(Dtype dtype, const Running& running, int64_t* batches, Stream stream);

}  // namespace fastdl::cuda

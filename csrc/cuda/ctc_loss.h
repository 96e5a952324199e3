// Connectionist temporal classification on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// log_probs (frames, batch, classes), targets (batch, longest); lengths of each sequence.
struct Ctc {
  int64_t frames, batch, classes, longest, blank;
  const int64_t *targets, *input_lengths, *target_lengths;

  int64_t states() const { return 2 * longest + 1; }
};

// loss (batch), alpha (batch, frames, states): both float, for float64 double.
void ctc_loss_forward(Dtype dtype, void* loss, void* alpha, const void* log_probs, const Ctc& problem,
                      uint64_t* report, Stream stream);
// beta: as large as alpha, overwritten. grad_loss (batch) has the type of log_probs, loss that of alpha.
void ctc_loss_backward(Dtype dtype, void* grad, void* beta, const void* grad_loss, const void* log_probs,
                       const void* loss, const void* alpha, bool zero_infinity, const Ctc& problem,
                       Stream stream);

}  // namespace fastdl::cuda

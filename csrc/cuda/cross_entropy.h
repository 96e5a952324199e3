// Softmax cross entropy and negative log likelihood on CUDA. Statistics, losses and divisors are float
// (double for float64), also for 16-bit logits.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

enum class Reduction : int { none, mean, sum };

struct CrossEntropy {
  Classes shape;
  const int64_t* target;      // (positions), or
  const void* probabilities;  // like x
  const void* weight;         // per class, or null
  const void* weight_total;   // sum of weight, in the computing type; needed for smoothing with weight
  int64_t ignore_index;
  double smoothing;
};

// losses, and per position the statistics m, log s and (for probabilities) sum of w q. Labels are checked:
// `report`.
void cross_entropy_forward(Dtype dtype, void* losses, void* statistics, const void* x,
                           const CrossEntropy& problem, uint64_t* report, Stream stream);
// grad_loss: one number, or one per position for Reduction::none; for the mean it is divided by *normaliser.
void cross_entropy_backward(Dtype dtype, void* grad_x, const void* grad_loss, const void* x,
                            const void* statistics, const void* normaliser, const CrossEntropy& problem,
                            Reduction reduction, Stream stream);

// losses = -w_t x_t; backward writes every element of grad_x.
void nll_loss_forward(Dtype dtype, void* losses, const void* x, const CrossEntropy& problem, uint64_t* report,
                      Stream stream);
void nll_loss_backward(Dtype dtype, void* grad_x, const void* grad_loss, const void* normaliser,
                       const CrossEntropy& problem, Reduction reduction, Stream stream);

// loss (of x's type) = sum of losses, for the mean divided by the sum of the weights of the targets that
// count (or by the positions, for probabilities), which is written to *normaliser (computing type) unless
// that is null. scratch: loss_scratch(positions) doubles.
int64_t loss_scratch(int64_t positions);
void loss_reduce(Dtype dtype, void* loss, void* normaliser, const void* losses, double* scratch,
                 const CrossEntropy& problem, Reduction reduction, Stream stream);
// losses in the computing type to x's type, for Reduction::none; see elementwise.h's convert.

}  // namespace fastdl::cuda

// Losses that compare arrays element by element, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
#define FASTDL_CUDA_LOSS(X) \
  X(mse_loss) X(l1_loss) X(smooth_l1_loss) X(huber_loss) X(binary_cross_entropy) X(binary_cross_entropy_with_logits) \
  X(kl_div) X(poisson_nll_loss) X(gaussian_nll_loss) X(gaussian_nll_loss_variance) X(soft_margin_loss) \
  X(hinge_embedding_loss) X(margin_ranking_loss)
// clang-format on
#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class PointwiseLoss : int { FASTDL_CUDA_LOSS(FASTDL_CUDA_ENUMERATOR) };

// x, the target and up to two more arrays (weights, a variance; a number 1 where there is none), broadcast to
// shape; first and second are flags of the loss, number its margin, beta, delta or eps.
struct LossProblem {
  PointwiseLoss op;
  Shape shape;
  Strided x, target, third, fourth;
  bool first, second;
  double number;
};
void pointwise_loss_values(Dtype dtype, const Strided& losses, const LossProblem& problem, Stream stream);
// *loss = sum of the losses times scale; scratch: pointwise_loss_scratch() doubles.
int64_t pointwise_loss_scratch();
void pointwise_loss_sum(Dtype dtype, void* loss, double* scratch, const LossProblem& problem, double scale,
                        Stream stream);
// grad_x = grad_loss (one number or like x) times the slope times scale
void pointwise_loss_backward(Dtype dtype, const Strided& grad_x, const Strided& grad_loss,
                             const LossProblem& problem, double scale, Stream stream);

}  // namespace fastdl::cuda

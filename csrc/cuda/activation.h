// Activation functions on CUDA: y = f(x), grad_x = f'(..) grad_y. a, b and c are the function's parameters.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
#define FASTDL_CUDA_ACTIVATION(X) \
  X(relu) X(leaky_relu) X(sigmoid) X(tanh) X(gelu) X(gelu_tanh) X(silu) X(mish) X(elu) X(softplus) X(hardtanh) \
  X(hardsigmoid) X(hardswish) X(hardshrink) X(softshrink) X(tanhshrink) X(softsign) X(logsigmoid) X(threshold)
// Two inputs: prelu(x, weight), its gradients (grad, x, weight) of x and (grad, x) of the weight before the sum,
// glu(a, b), and glu's gradients of a (grad, b) and of b (grad, a, b).
#define FASTDL_CUDA_ACTIVATION_PAIR(X) X(prelu) X(prelu_weight) X(glu)
#define FASTDL_CUDA_ACTIVATION_TRIPLE(X) X(prelu_x) X(glu_b)
// clang-format on

#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Activation : int { FASTDL_CUDA_ACTIVATION(FASTDL_CUDA_ENUMERATOR) };
enum class ActivationPair : int { FASTDL_CUDA_ACTIVATION_PAIR(FASTDL_CUDA_ENUMERATOR) };
enum class ActivationTriple : int { FASTDL_CUDA_ACTIVATION_TRIPLE(FASTDL_CUDA_ENUMERATOR) };

void activation_forward(Activation op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x,
                        double a, double b, double c, Stream stream);
// saved: y for relu, sigmoid and tanh, x for the others
void activation_backward(Activation op, Dtype dtype, const Shape& shape, const Strided& grad_x,
                         const Strided& grad_y, const Strided& saved, double a, double b, double c,
                         Stream stream);
void activation_pair(ActivationPair op, Dtype dtype, const Shape& shape, const Strided& out, const Strided& x,
                     const Strided& y, Stream stream);
void activation_triple(ActivationTriple op, Dtype dtype, const Shape& shape, const Strided& out,
                       const Strided& x, const Strided& y, const Strided& z, Stream stream);

}  // namespace fastdl::cuda

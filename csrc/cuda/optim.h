// Optimizer updates on CUDA, over lists of arrays in few launches.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
#define FASTDL_CUDA_RULE(X) X(sgd) X(adam) X(adagrad) X(rmsprop) X(adadelta) X(adamax) X(nadam) X(radam) X(scale)
// clang-format on
#define FASTDL_CUDA_ENUMERATOR(name) name,
enum class Rule : int { FASTDL_CUDA_RULE(FASTDL_CUDA_ENUMERATOR) };

constexpr int kStates = 3;   // state arrays of a parameter, at most
constexpr int kFactors = 3;  // numbers that depend on a parameter's step count

// Addresses of one parameter's arrays (a state may be null), their size, and its counts: both in the host's
// memory or both on the device.
struct Parameter {
  void *param, *states[kStates];
  int64_t size;
  float* step;        // null for rules that do not count
  float* mu_product;  // nadam's
};
// What all parameters share; the rule decides what it means (optim.cu).
struct Settings {
  double lr, weight_decay;
  bool maximize, decoupled, nesterov, first;
  double a, b, eps;
  double beta1, momentum_decay;  // for factors
};

// grads: one for each parameter. scratch: kFactors numbers (float, for float64 double) for each parameter if
// steps are counted on the device; null if the host counts.
void optimizer_step(Rule rule, Dtype dtype, const std::vector<Parameter>& parameters,
                    const std::vector<const void*>& grads, const Settings& settings, void* scratch,
                    Stream stream);

}  // namespace fastdl::cuda

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
// steps are counted on the device; null if the host counts. scale: p = a p, with scratch also times the
// number there, within -b .. b; 0 if first.
void optimizer_step(Rule rule, Dtype dtype, const std::vector<Parameter>& parameters,
                    const std::vector<const void*>& grads, const Settings& settings, void* scratch,
                    Stream stream);

// The p-norm of many arrays as if they were one; p may be 0 (how many are not 0), inf or -inf. Each call of
// norm_parts leaves numbers in `partials`, how many norm_parts_count says; finish_norm makes the norm of all
// of them, float or double.
struct Extent1d {
  const void* data;
  int64_t size;
};
int64_t norm_parts_count(const std::vector<Extent1d>& arrays);
void norm_parts(Dtype dtype, double* partials, const std::vector<Extent1d>& arrays, double p, Stream stream);
void finish_norm(void* norm, bool wide, const double* partials, int64_t count, double p, Stream stream);

}  // namespace fastdl::cuda

// The elementwise activation functions: one line each. Enumeration, kernel dispatch and bindings are
// generated from this list; the functions themselves are the functors of csrc/cpu/activation/functions.h.
//
//   name of the kernels, functor, what backward reads (x: the input, y: the output), parameters
#pragma once

#define FASTDL_FOR_EACH_ACTIVATION(X)               \
  X(relu, Relu, "y", )                              \
  X(leaky_relu, LeakyRelu, "x", "negative_slope")   \
  X(sigmoid, Sigmoid, "y", )                        \
  X(tanh, Tanh, "y", )                              \
  X(gelu, Gelu, "x", )                              \
  X(gelu_tanh, GeluTanh, "x", )                     \
  X(silu, Silu, "x", )                              \
  X(mish, Mish, "x", )                              \
  X(elu, Elu, "x", "alpha", "scale", "input_scale") \
  X(softplus, Softplus, "x", "beta", "threshold")   \
  X(hardtanh, Hardtanh, "x", "min_val", "max_val")  \
  X(hardsigmoid, Hardsigmoid, "x", )                \
  X(hardswish, Hardswish, "x", )                    \
  X(hardshrink, Hardshrink, "x", "lambd")           \
  X(softshrink, Softshrink, "x", "lambd")           \
  X(tanhshrink, Tanhshrink, "x", )                  \
  X(softsign, Softsign, "x", )                      \
  X(logsigmoid, Logsigmoid, "x", )                  \
  X(threshold, Threshold, "x", "threshold", "value")

namespace fastdl {

enum class Activation {
#define FASTDL_NAME(name, ...) name,
  FASTDL_FOR_EACH_ACTIVATION(FASTDL_NAME)
#undef FASTDL_NAME
};

inline constexpr int kMaxActivationParameters = 3;

}  // namespace fastdl

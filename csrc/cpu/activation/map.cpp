// Elementwise activation functions: y = f(x), and grad_x = grad_y * f'(x).
//
// functions.h has the formulas, common/activation.h the table that the dispatch below is generated from. To
// add one: a functor, a line in the table, the NumPy definition, the operation, the module. Work: ranges of
// elements over threads. Passes: one read and one write forward, two reads and one write backward.
#include "cpu/activation/activation.h"

#include <tuple>

#include "cpu/activation/functions.h"
#include "cpu/simd/map.h"

namespace fastdl {
namespace {

// Is there an exponential in it, or in its derivative?
constexpr bool is_long(Activation f, bool derivative) {
  switch (f) {
    case Activation::sigmoid:
    case Activation::tanh:
      return !derivative;  // which follows from y
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::silu:
    case Activation::mish:
    case Activation::elu:
    case Activation::softplus:
    case Activation::tanhshrink:
    case Activation::logsigmoid:
      return true;
    default:
      return false;
  }
}

// F{parameters[0], ...} for as many as the table names.
template <class F, class T, class... Names>
F make(const double* parameters, Names...) {
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return F{T(parameters[i])...};
  }(std::make_index_sequence<sizeof...(Names)>{});
}

}  // namespace

template <class T>
void activation_forward(Activation f, T* y, const T* x, int64_t n, const double* parameters) {
  using simd::Vec;
  switch (f) {
#define FASTDL_CASE(name, Functor, saved, ...)                                        \
  case Activation::name: {                                                            \
    const auto function = make<Functor<T>, T>(parameters __VA_OPT__(, ) __VA_ARGS__); \
    constexpr bool kLong = is_long(Activation::name, false);                          \
    return simd::map<kLong>(y, n, [=](Vec<T> v) { return function.forward(v); }, x);  \
  }
    FASTDL_FOR_EACH_ACTIVATION(FASTDL_CASE)
#undef FASTDL_CASE
  }
}

template <class T>
void activation_backward(Activation f, T* grad_x, const T* grad_y, const T* saved, int64_t n,
                         const double* parameters) {
  using simd::Vec;
  switch (f) {
#define FASTDL_CASE(name, Functor, kept, ...)                                            \
  case Activation::name: {                                                               \
    const auto function = make<Functor<T>, T>(parameters __VA_OPT__(, ) __VA_ARGS__);    \
    constexpr bool kLong = is_long(Activation::name, true);                              \
    const auto derivative = [=](Vec<T> g, Vec<T> v) { return function.backward(g, v); }; \
    return simd::map<kLong>(grad_x, n, derivative, grad_y, saved);                       \
  }
    FASTDL_FOR_EACH_ACTIVATION(FASTDL_CASE)
#undef FASTDL_CASE
  }
}

template void activation_forward<float>(Activation, float*, const float*, int64_t, const double*);
template void activation_forward<double>(Activation, double*, const double*, int64_t, const double*);
template void activation_backward<float>(Activation, float*, const float*, const float*, int64_t,
                                         const double*);
template void activation_backward<double>(Activation, double*, const double*, const double*, int64_t,
                                          const double*);

}  // namespace fastdl

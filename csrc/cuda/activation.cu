// Activation functions: y = f(x) and grad_x = grad_y f'(x), elementwise (map.h). Forward reads x and writes
// y, backward reads two arrays and writes one; bytes are the limit, so each function is computed in full
// precision.
#include "cuda/activation.h"

#include "cuda/map.h"

namespace fastdl::cuda {
namespace {

template <class C>
__device__ __forceinline__ C clip(C x, C low, C high) {
  return smaller(larger(x, low), high);
}

constexpr double kSqrtHalf = 0.7071067811865476, kInverseSqrt2Pi = 0.3989422804014327;
constexpr double kGeluCubic = 0.044715, kTwiceGeluFactor = 2 * 0.7978845608028654;  // 2 sqrt(2 / pi)

template <class T>
struct Forward {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_ACTIVATION(FASTDL_CUDA_COUNT);
  using C = Compute<T>;
  Activation op;
  C a, b, c;

  __device__ __forceinline__ C operator()(C x) const {
    switch (op) {
      case Activation::relu:
        return larger(x, C(0));
      case Activation::leaky_relu:
        return x > 0 ? x : x * a;
      case Activation::sigmoid:
        return sigmoid(x);
      case Activation::tanh:
        return std::tanh(x);
      case Activation::gelu:
        return x * C(0.5) * (1 + std::erf(x * C(kSqrtHalf)));
      case Activation::gelu_tanh:
        return x * sigmoid(C(kTwiceGeluFactor) * (x + C(kGeluCubic) * x * x * x));
      case Activation::silu:
        return x * sigmoid(x);
      case Activation::mish:
        return x * std::tanh(softplus(x));
      case Activation::elu:
        return x > 0 ? x * b : std::expm1(x * c) * (a * b);
      case Activation::softplus:
        return x * a > b ? x : softplus(x * a) / a;
      case Activation::hardtanh:
        return clip(x, a, b);
      case Activation::hardsigmoid:
        return clip(x + 3, C(0), C(6)) / 6;
      case Activation::hardswish:
        return x * clip(x + 3, C(0), C(6)) / 6;
      case Activation::hardshrink:
        return x >= -a && x <= a ? C(0) : x;
      case Activation::softshrink:
        return x > a ? x - a : x < -a ? x + a : x * 0;
      case Activation::tanhshrink:
        return x - std::tanh(x);
      case Activation::softsign:
        return x / (1 + std::fabs(x));
      case Activation::logsigmoid:
        return -softplus(-x);
      case Activation::threshold:
        return x <= a ? b : x;
    }
    return x;
  }
};

template <class T>
struct Backward {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_ACTIVATION(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  Activation op;
  C a, b, c;

  __device__ __forceinline__ C operator()(C g, C x) const {
    switch (op) {
      case Activation::relu:
        return x <= 0 ? C(0) : g;
      case Activation::leaky_relu:
        return x > 0 ? g : g * a;
      case Activation::sigmoid:
        return g * x * (1 - x);
      case Activation::tanh:
        return g * (1 - x * x);
      case Activation::gelu:
        return g * (C(0.5) * (1 + std::erf(x * C(kSqrtHalf))) +
                    x * std::exp(C(-0.5) * x * x) * C(kInverseSqrt2Pi));
      case Activation::gelu_tanh: {
        x = clip(x, C(-32), C(32));  // saturated there
        const C s = sigmoid(C(kTwiceGeluFactor) * (x + C(kGeluCubic) * x * x * x));
        return g * (s + x * s * (1 - s) * C(kTwiceGeluFactor) * (1 + 3 * C(kGeluCubic) * x * x));
      }
      case Activation::silu: {
        const C s = sigmoid(x);
        return g * s * (1 + x * (1 - s));
      }
      case Activation::mish: {
        x = smaller(x, C(40));  // saturated there
        const C t = std::tanh(softplus(x));
        return g * (t + x * (1 - t * t) * sigmoid(x));
      }
      case Activation::elu:
        return g * (x > 0 ? b : std::exp(x * c) * (a * b * c));
      case Activation::softplus:
        return x * a > b ? g : g * sigmoid(x * a);
      case Activation::hardtanh:
        return x <= a || x >= b ? C(0) : g;
      case Activation::hardsigmoid:
        return x > -3 && x < 3 ? g / 6 : C(0);
      case Activation::hardswish:
        return x <= -3 ? C(0) : x >= 3 ? g : g * (x / 3 + C(0.5));
      case Activation::hardshrink:
      case Activation::softshrink:
        return x >= -a && x <= a ? C(0) : g;
      case Activation::tanhshrink: {
        const C t = std::tanh(x);
        return g * (t * t);
      }
      case Activation::softsign: {
        const C d = 1 + std::fabs(x);
        return g / (d * d);
      }
      case Activation::logsigmoid:
        return g * sigmoid(-x);
      case Activation::threshold:
        return x <= a ? C(0) : g;
    }
    return g;
  }
};

template <class T>
struct Pair {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_ACTIVATION_PAIR(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  ActivationPair op;

  __device__ __forceinline__ C operator()(C x, C y) const {
    switch (op) {
      case ActivationPair::prelu:
        return x > 0 ? x : x * y;
      case ActivationPair::prelu_weight:
        return y > 0 ? C(0) : x * y;
      case ActivationPair::glu:
        return x * sigmoid(y);
    }
    return x;
  }
};

template <class T>
struct Triple {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_ACTIVATION_TRIPLE(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  ActivationTriple op;

  __device__ __forceinline__ C operator()(C g, C x, C y) const {
    switch (op) {
      case ActivationTriple::prelu_x:
        return x > 0 ? g : g * y;
      case ActivationTriple::glu_b: {
        const C s = sigmoid(y);
        return g * x * s * (1 - s);
      }
    }
    return g;
  }
};

}  // namespace

void activation_forward(Activation op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x,
                        double a, double b, double c, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    map<T, T>("activation_forward", shape, Forward<T>{op, C(a), C(b), C(c)}, y, stream, x);
  });
}

void activation_backward(Activation op, Dtype dtype, const Shape& shape, const Strided& grad_x,
                         const Strided& grad_y, const Strided& saved, double a, double b, double c,
                         Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    map<T, T, T>("activation_backward", shape, Backward<T>{op, C(a), C(b), C(c)}, grad_x, stream, grad_y,
                 saved);
  });
}

void activation_pair(ActivationPair op, Dtype dtype, const Shape& shape, const Strided& out, const Strided& x,
                     const Strided& y, Stream stream) {
  by_dtype(dtype,
           [&]<class T>(T) { map<T, T, T>("activation_pair", shape, Pair<T>{op}, out, stream, x, y); });
}

void activation_triple(ActivationTriple op, Dtype dtype, const Shape& shape, const Strided& out,
                       const Strided& x, const Strided& y, const Strided& z, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T, T, T>("activation_triple", shape, Triple<T>{op}, out, stream, x, y, z);
  });
}

}  // namespace fastdl::cuda

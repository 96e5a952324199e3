// Elementwise arithmetic: y = f(x), f(a, b), f(a, b, c), comparisons and choices, of broadcast and strided arrays.
//
// Here are the functions; the loop, strides and packs of 16 bytes are map.h's. There is one kernel per type and number
// of operands, not per function: a struct such as UnaryOf holds the operation's number, on which a thread branches once
// (with_operation), before its elements. 16-bit types are computed in float and rounded once. Passes: each operand is
// read and the result written once, which is the limit; nothing is saved.
#include "cuda/elementwise.h"

#include "cuda/map.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct UnaryOf {
  static constexpr int kPack = kWidest<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_UNARY(FASTDL_CUDA_COUNT);
  using C = Compute<T>;
  Unary op;
  C a, b;

  __device__ __forceinline__ C operator()(C x) const {
    switch (op) {
      case Unary::copy:
        return x;
      case Unary::neg:
        return -x;
      case Unary::abs:
        return std::fabs(x);
      case Unary::sign:
        return C(x > 0) - C(x < 0);
      case Unary::floor:
        return std::floor(x);
      case Unary::ceil:
        return std::ceil(x);
      case Unary::round:
        return std::rint(x);
      case Unary::trunc:
        return std::trunc(x);
      case Unary::frac:
        return x - std::trunc(x);
      case Unary::square:
        return x * x;
      case Unary::sqrt:
        return std::sqrt(x);
      case Unary::rsqrt:
        return 1 / std::sqrt(x);
      case Unary::reciprocal:
        return 1 / x;
      case Unary::exp:
        return std::exp(x);
      case Unary::log:
        return std::log(x);
      case Unary::clamp:
        return smaller(larger(x, a), b);
    }
    return x;
  }
};

template <class T>
struct FunctionOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_FUNCTION(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  Function op;
  C a;

  __device__ __forceinline__ C operator()(C x) const {
    switch (op) {
      case Function::expm1:
        return std::expm1(x);
      case Function::log1p:
        return std::log1p(x);
      case Function::log2:
        return std::log2(x);
      case Function::log10:
        return std::log10(x);
      case Function::sin:
        return std::sin(x);
      case Function::cos:
        return std::cos(x);
      case Function::tan:
        return std::tan(x);
      case Function::asin:
        return std::asin(x);
      case Function::acos:
        return std::acos(x);
      case Function::atan:
        return std::atan(x);
      case Function::sinh:
        return std::sinh(x);
      case Function::cosh:
        return std::cosh(x);
      case Function::asinh:
        return std::asinh(x);
      case Function::acosh:
        return std::acosh(x);
      case Function::atanh:
        return std::atanh(x);
      case Function::erf:
        return std::erf(x);
      case Function::exp2:
        return std::exp2(x);
      case Function::pow_scalar:
        return std::pow(x, a);
    }
    return x;
  }
};

template <class T>
struct GradientOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_GRADIENT(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  Gradient op;
  C a, b;

  __device__ __forceinline__ C operator()(C g, C s) const {
    constexpr C kLn2 = C(0.6931471805599453), kLn10 = C(2.302585092994046),
                kTwoOverSqrtPi = C(1.1283791670955126);
    switch (op) {
      case Gradient::abs:
        return g * (C(s > 0) - C(s < 0));
      case Gradient::square:
        return g * (2 * s);
      case Gradient::sqrt:
        return g / (2 * s);
      case Gradient::rsqrt:
        return C(-0.5) * g * (s * s * s);
      case Gradient::reciprocal:
        return -g * (s * s);
      case Gradient::exp:
        return g * s;
      case Gradient::expm1:
        return g * (s + 1);
      case Gradient::log:
        return g / s;
      case Gradient::log1p:
        return g / (s + 1);
      case Gradient::log2:
        return g / (s * kLn2);
      case Gradient::log10:
        return g / (s * kLn10);
      case Gradient::tan:
        return g * (1 + s * s);
      case Gradient::asin:
        return g / std::sqrt(1 - s * s);
      case Gradient::acos:
        return -g / std::sqrt(1 - s * s);
      case Gradient::atan:
        return g / (1 + s * s);
      case Gradient::asinh:
        return g / std::sqrt(s * s + 1);
      case Gradient::acosh:
        return g / std::sqrt(s * s - 1);
      case Gradient::atanh:
        return g / (1 - s * s);
      case Gradient::clamp:
        return s >= a && s <= b ? g : C(0);
      case Gradient::sin:
        return g * std::cos(s);
      case Gradient::cos:
        return -g * std::sin(s);
      case Gradient::sinh:
        return g * std::cosh(s);
      case Gradient::cosh:
        return g * std::sinh(s);
      case Gradient::erf:
        return g * (kTwoOverSqrtPi * std::exp(-s * s));
      case Gradient::exp2:
        return g * (kLn2 * s);
      case Gradient::pow_scalar:
        return a == 0 ? g * s * 0 : g * (a * std::pow(s, a - 1));
    }
    return g;
  }
};

template <class T>
struct BinaryOf {
  static constexpr int kPack = kWidest<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_BINARY(FASTDL_CUDA_COUNT);
  using C = Compute<T>;
  Binary op;

  __device__ __forceinline__ C operator()(C x, C y) const {
    switch (op) {
      case Binary::add:
        return x + y;
      case Binary::sub:
        return x - y;
      case Binary::mul:
        return x * y;
      case Binary::div:
        return x / y;
      case Binary::maximum:
        return larger(x, y);
      case Binary::minimum:
        return smaller(x, y);
    }
    return x;
  }
};

template <class T>
struct BinaryFunctionOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_BINARY_FUNCTION(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  BinaryFunction op;

  __device__ __forceinline__ C operator()(C x, C y) const {
    switch (op) {
      case BinaryFunction::fmod:
        return std::fmod(x, y);
      case BinaryFunction::pow:
        return std::pow(x, y);
      case BinaryFunction::atan2:
        return std::atan2(x, y);
      case BinaryFunction::hypot:
        return std::hypot(x, y);
      case BinaryFunction::floor_divide: {
        if (y == 0) return x / y;
        const C r = std::fmod(x, y);
        C q = (x - r) / y - C(r != 0 && (r < 0) != (y < 0));
        return q == 0 ? std::copysign(C(0), x / y) : std::rint(q);
      }
      case BinaryFunction::remainder: {
        const C r = std::fmod(x, y);
        return r != 0 && (y < 0) != (r < 0) ? r + y : r;
      }
      case BinaryFunction::logaddexp:  // equal ones by themselves: infinities have no difference
        return x == y ? x + C(0.6931471805599453) : larger(x, y) + std::log1p(std::exp(-std::fabs(x - y)));
      case BinaryFunction::copysign:
        return std::copysign(x, y);
      case BinaryFunction::nextafter:
        return std::nextafter(x, y);
      case BinaryFunction::fmax:
        return x >= y || y != y ? x : y;
      case BinaryFunction::fmin:
        return x <= y || y != y ? x : y;
      case BinaryFunction::xlogy:
        return y != y ? y : x == 0 ? C(0) : x * std::log(y);
      case BinaryFunction::xlog1py:
        return y != y ? y : x == 0 ? C(0) : x * std::log1p(y);
      case BinaryFunction::heaviside:
        return x == 0 ? y : C(x > 0);
    }
    return x;
  }
};

template <class T>
struct CompareOf {
  static constexpr int kPack = kWidest<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_COMPARE(FASTDL_CUDA_COUNT);
  using C = Compute<T>;
  Compare op;

  __device__ __forceinline__ bool operator()(C x, C y) const {
    switch (op) {
      case Compare::eq:
        return x == y;
      case Compare::ne:
        return x != y;
      case Compare::lt:
        return x < y;
      case Compare::le:
        return x <= y;
      case Compare::gt:
        return x > y;
      case Compare::ge:
        return x >= y;
    }
    return false;
  }
};

template <class T>
struct TernaryOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_TERNARY(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  Ternary op;
  C a;

  __device__ __forceinline__ C operator()(C x, C y, C z) const {
    switch (op) {
      case Ternary::addcmul:
        return x + a * y * z;
      case Ternary::addcdiv:
        return x + a * y / z;
      case Ternary::lerp:
        return std::fabs(z) < C(0.5) ? x + z * (y - x) : y - (y - x) * (1 - z);
      case Ternary::div_y:
        return -x * (y / z);
      case Ternary::maximum_x:
        return y < z ? C(0) : y == z ? x / 2 : x;
      case Ternary::minimum_x:
        return y > z ? C(0) : y == z ? x / 2 : x;
      case Ternary::logaddexp_x:
        return y == z ? x / 2 : x / (1 + std::exp(z - y));
    }
    return x;
  }
};

template <class T>
struct Where {
  static constexpr int kPack = kShort<T>;
  using C = Compute<T>;
  __device__ __forceinline__ C operator()(bool condition, C x, C y) const { return condition ? x : y; }
};

template <class To, class From>
struct Convert {
  static constexpr int kPack = kShort<To> < kShort<From> ? kShort<To> : kShort<From>;
  __device__ __forceinline__ Compute<To> operator()(Compute<From> x) const { return Compute<To>(x); }
};

}  // namespace

void unary(Unary op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, double a, double b,
           Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T>("unary", shape, UnaryOf<T>{op, Compute<T>(a), Compute<T>(b)}, y, stream, x);
  });
}

void function(Function op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, double a,
              Stream stream) {
  by_dtype(dtype,
           [&]<class T>(T) { map<T, T>("function", shape, FunctionOf<T>{op, Compute<T>(a)}, y, stream, x); });
}

void gradient(Gradient op, Dtype dtype, const Shape& shape, const Strided& grad_x, const Strided& grad_y,
              const Strided& saved, double a, double b, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T, T>("gradient", shape, GradientOf<T>{op, Compute<T>(a), Compute<T>(b)}, grad_x, stream, grad_y,
                 saved);
  });
}

void binary(Binary op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x, const Strided& y,
            Stream stream) {
  by_dtype(dtype, [&]<class T>(T) { map<T, T, T>("binary", shape, BinaryOf<T>{op}, z, stream, x, y); });
}

void binary_function(BinaryFunction op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
                     const Strided& y, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T, T>("binary_function", shape, BinaryFunctionOf<T>{op}, z, stream, x, y);
  });
}

void compare(Compare op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
             const Strided& y, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) { map<bool, T, T>("compare", shape, CompareOf<T>{op}, z, stream, x, y); });
}

void ternary(Ternary op, Dtype dtype, const Shape& shape, const Strided& out, const Strided& x,
             const Strided& y, const Strided& z, double a, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T, T, T>("ternary", shape, TernaryOf<T>{op, Compute<T>(a)}, out, stream, x, y, z);
  });
}

void where(Dtype dtype, const Shape& shape, const Strided& out, const Strided& condition, const Strided& x,
           const Strided& y, Stream stream) {
  by_dtype(dtype,
           [&]<class T>(T) { map<T, bool, T, T>("where", shape, Where<T>{}, out, stream, condition, x, y); });
}

void convert(Dtype to, Dtype from, const Shape& shape, const Strided& y, const Strided& x, Stream stream) {
  by_dtype(to, [&]<class To>(To) {
    by_dtype(from, [&]<class From>(From) {
      if constexpr (!std::is_same_v<To, From>)
        map<To, From>("convert", shape, Convert<To, From>{}, y, stream, x);
    });
  });
}

}  // namespace fastdl::cuda

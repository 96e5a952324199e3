// Special functions: one read, one write, and between them some 50 to 200 instructions an element, as much
// time as its bytes take on the way. So a thread has one access of 4 or 8 bytes instead of several packs,
// which keeps the code of 31 functions in four types short. Where CUDA has a function it is that one (a few
// units in the last place); the others are below. A gradient computes its slope in the same pass.
#include "cuda/special.h"

#include "cuda/map.h"

namespace fastdl::cuda {
namespace {

constexpr double kPi = 3.14159265358979323846, kRootHalf = 0.70710678118654752440,
                 kTwoOverRootPi = 1.12837916709551257390, kRootTwoPi = 2.50662827463100050242;

template <class C>
__device__ __forceinline__ C not_a_number() {
  return infinity<C>() - infinity<C>();
}

// From here on the asymptotic series of digamma and trigamma have all digits.
template <class C>
constexpr C kFarGamma = sizeof(C) == 8 ? C(10) : C(6);

// f(x) = f(x + 1) - 1 / x up to kFarGamma; below zero f(1 - x) - pi / tan(pi x): -inf at 0 (inf at -0), NaN
// at the other poles.
template <class C>
__device__ C digamma(C x) {
  const bool negative = x < 0;
  C y = negative ? 1 - x : x, sum = 0;
  FASTDL_ROLLED
  for (; y < kFarGamma<C>; y += 1) sum += 1 / y;
  const C z = 1 / (y * y);
  const C series =
      z * (C(1.0 / 12) -
           z * (C(1.0 / 120) -
                z * (C(1.0 / 252) -
                     z * (C(1.0 / 240) - z * (C(1.0 / 132) - z * (C(691.0 / 32760) - z * C(1.0 / 12)))))));
  const C result = std::log(y) - C(0.5) / y - series - sum;
  if (!negative) return result;
  const C sine = sin_pi(x);
  return sine == 0 ? not_a_number<C>() : result - C(kPi) * cos_pi(x) / sine;
}

// f(x) = f(x + 1) + 1 / x^2; below zero (pi / sin(pi x))^2 - f(1 - x).
template <class C>
__device__ C trigamma(C x) {
  const bool negative = x < 0;
  C y = negative ? 1 - x : x, sum = 0;
  FASTDL_ROLLED
  for (; y < kFarGamma<C>; y += 1) {
    const C inverse = 1 / y;
    sum += inverse * inverse;
  }
  const C inverse = 1 / y, z = inverse * inverse;
  const C series =
      z * (C(1.0 / 6) -
           z * (C(1.0 / 30) -
                z * (C(1.0 / 42) -
                     z * (C(1.0 / 30) - z * (C(5.0 / 66) - z * (C(691.0 / 2730) - z * C(7.0 / 6)))))));
  const C result = sum + (1 + C(0.5) * inverse + series) * inverse;
  if (!negative) return result;
  const C turn = C(kPi) / sin_pi(x);
  return turn * turn - result;
}

// exp(-|x|) times the modified Bessel function of order 0 or 1: the product, and from where that would
// overflow on the asymptotic series 1 - (m - 1) / (8x) + (m - 1) (m - 9) / (2! (8x)^2) - .. over
// sqrt(2 pi x), m = 4 kOrder^2.
template <int kOrder, class C>
__device__ C scaled_bessel(C x) {
  constexpr C kFar = sizeof(C) == 8 ? C(200) : C(30);
  const C a = std::fabs(x);
  C y;
  if (a < kFar) {
    y = std::exp(-a) * (kOrder == 0 ? bessel_i0(a) : bessel_i1(a));
  } else {
    const C inverse = 1 / a;
    C term = 1, sum = 1;
    FASTDL_UNROLL
    for (int k = 1; k <= 8; ++k) {
      term *= C((2 * k - 1) * (2 * k - 1) - 4 * kOrder) / C(8 * k) * inverse;
      sum += term;
    }
    y = sum * std::sqrt(inverse / C(2 * kPi));
  }
  return kOrder == 1 ? std::copysign(y, x) : y;
}

template <class C>
__device__ __forceinline__ C log_ndtr(C x) {
  if (x < -1) return std::log(erfcx(-x * C(kRootHalf)) / 2) - x * x / 2;
  return std::log1p(-normal_below(-x));
}

// log(x / (1 - x)); around 1/2, where the quotient's rounding would cover the result, by 2 x - 1, which is
// exact.
template <class C>
__device__ __forceinline__ C logit(C x) {
  return std::fabs(x - C(0.5)) < C(0.25) ? std::log1p((2 * x - 1) / (1 - x)) : std::log(x / (1 - x));
}

template <class C>
__device__ __forceinline__ C sinc(C x) {
  return x == 0 ? C(1) : sin_pi(x) / (C(kPi) * x);
}

template <class T>
struct SpecialOf {
  static constexpr int kPack = sizeof(T) == 2 ? 2 : 1;
  static constexpr int kOperations = 0 FASTDL_CUDA_SPECIAL(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  Special op;

  __device__ __forceinline__ C operator()(C x) const {
    switch (op) {
      case Special::lgamma:
        return log_gamma(x);
      case Special::digamma:
        return digamma(x);
      case Special::trigamma:
        return trigamma(x);
      case Special::erfc:
        return std::erfc(x);
      case Special::erfcx:
        return erfcx(x);
      case Special::erfinv:
        return erf_inverse(x);
      case Special::ndtr:
        return normal_below(x);
      case Special::log_ndtr:
        return log_ndtr(x);
      case Special::ndtri:
        return normal_quantile(x);
      case Special::i0:
        return bessel_i0(x);
      case Special::i0e:
        return scaled_bessel<0>(x);
      case Special::i1:
        return bessel_i1(x);
      case Special::i1e:
        return scaled_bessel<1>(x);
      case Special::logit:
        return logit(x);
      case Special::entr:
        return x < 0 ? -infinity<C>() : x == 0 ? C(0) : -x * std::log(x);
      case Special::sinc:
        return sinc(x);
    }
    return x;
  }
};

template <class T>
struct SpecialGradientOf {
  static constexpr int kPack = SpecialOf<T>::kPack;
  static constexpr int kOperations = 0 FASTDL_CUDA_SPECIAL_GRADIENT(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = 1;
  using C = Compute<T>;
  SpecialGradient op;

  static __device__ __forceinline__ C sign(C x) { return C(x > 0) - C(x < 0); }
  // y / x of what grows as x / 2 at 0
  static __device__ __forceinline__ C over(C y, C x) { return x == 0 ? C(0.5) : y / x; }

  __device__ __forceinline__ C operator()(C g, C x) const {
    switch (op) {
      case SpecialGradient::lgamma:
        return g * digamma(x);
      case SpecialGradient::digamma:
        return g * trigamma(x);
      case SpecialGradient::erfc:
        return g * (-C(kTwoOverRootPi) * std::exp(-x * x));
      case SpecialGradient::erfcx:
        return g * (2 * x * erfcx(x) - C(kTwoOverRootPi));
      case SpecialGradient::erfinv: {
        const C y = erf_inverse(x);
        return g * (std::exp(y * y) / C(kTwoOverRootPi));
      }
      case SpecialGradient::ndtr:
        return g * (std::exp(x * x / -2) / C(kRootTwoPi));
      case SpecialGradient::log_ndtr:
        return g * (C(2 / kRootTwoPi) / erfcx(-x * C(kRootHalf)));
      case SpecialGradient::ndtri: {
        const C y = normal_quantile(x);
        return g * (C(kRootTwoPi) * std::exp(y * y / 2));
      }
      case SpecialGradient::i0:
        return g * bessel_i1(x);
      case SpecialGradient::i0e:
        return g * (scaled_bessel<1>(x) - sign(x) * scaled_bessel<0>(x));
      case SpecialGradient::i1:
        return g * (bessel_i0(x) - over(bessel_i1(x), x));
      case SpecialGradient::i1e: {
        const C y = scaled_bessel<1>(x);
        return g * (scaled_bessel<0>(x) - sign(x) * y - over(y, x));
      }
      case SpecialGradient::logit:
        return g / (x * (1 - x));
      case SpecialGradient::entr:
        return g * (-1 - std::log(x));
      case SpecialGradient::sinc:
        return x == 0 ? C(0) : g * ((cos_pi(x) - sinc(x)) / x);
    }
    return g;
  }
};

}  // namespace

void special(Special op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) { map<T, T>("special", shape, SpecialOf<T>{op}, y, stream, x); });
}

void special_gradient(SpecialGradient op, Dtype dtype, const Shape& shape, const Strided& grad_x,
                      const Strided& grad_y, const Strided& x, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    map<T, T, T>("special_gradient", shape, SpecialGradientOf<T>{op}, grad_x, stream, grad_y, x);
  });
}

}  // namespace fastdl::cuda

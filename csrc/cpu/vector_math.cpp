// The functions of simd/math.h, one after the other over an array (vector_math.h says what for). Work: ranges
// over threads (simd/map.h). Passes: one read, one write.
#include "cpu/vector_math.h"

#include "cpu/simd/map.h"
#include "cpu/simd/math.h"

namespace fastdl {
namespace {

template <class T>
struct Functions {
  using V = simd::Vec<T>;
  static V sin_2pi(V u) {
    V sine, cosine;
    simd::sincos_2pi<T>(u, sine, cosine);
    return sine;
  }
  static V cos_2pi(V u) {
    V sine, cosine;
    simd::sincos_2pi<T>(u, sine, cosine);
    return cosine;
  }
};

}  // namespace

template <class T>
void vector_math(VectorFunction function, T* y, const T* x, int64_t n) {
  using V = simd::Vec<T>;
  switch (function) {
    case VectorFunction::exp:
      return simd::map<true>(y, n, [](V v) { return simd::exp<T>(v); }, x);
    case VectorFunction::expm1:
      return simd::map<true>(y, n, [](V v) { return simd::expm1<T>(v); }, x);
    case VectorFunction::log:
      return simd::map<true>(y, n, [](V v) { return simd::log<T>(v); }, x);
    case VectorFunction::log1p:
      return simd::map<true>(y, n, [](V v) { return simd::log1p<T>(v); }, x);
    case VectorFunction::log1p_unit:
      return simd::map<true>(y, n, [](V v) { return simd::log1p_unit<T>(v); }, x);
    case VectorFunction::tanh:
      return simd::map<true>(y, n, [](V v) { return simd::tanh<T>(v); }, x);
    case VectorFunction::sigmoid:
      return simd::map<true>(y, n, [](V v) { return simd::sigmoid<T>(v); }, x);
    case VectorFunction::erf:
      return simd::map<true>(y, n, [](V v) { return simd::erf<T>(v); }, x);
    case VectorFunction::sin_2pi:
      return simd::map<true>(y, n, [](V v) { return Functions<T>::sin_2pi(v); }, x);
    case VectorFunction::cos_2pi:
      return simd::map<true>(y, n, [](V v) { return Functions<T>::cos_2pi(v); }, x);
  }
}

template void vector_math<float>(VectorFunction, float*, const float*, int64_t);
template void vector_math<double>(VectorFunction, double*, const double*, int64_t);

}  // namespace fastdl

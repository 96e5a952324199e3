// The functions of simd/math.h, one after the other over an array (vector_math.h says what for): vector by vector,
// as nobody waits for them. Passes: one read, one write.
#include "cpu/vector_math.h"

#include <algorithm>

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

template <class T, class F>
void each_vector(T* y, int64_t n, const T* x, F f) {
  constexpr int64_t w = simd::kWidth<T>;
  for (int64_t i = 0; i < n; i += w) {
    const int count = int(std::min(w, n - i));
    simd::store_n(y + i, f(simd::load_n(x + i, count)), count);
  }
}

}  // namespace

template <class T>
void vector_math(VectorFunction function, T* y, const T* x, int64_t n) {
  using V = simd::Vec<T>;
  switch (function) {
    case VectorFunction::exp:
      return each_vector(y, n, x, [](V v) { return simd::exp<T>(v); });
    case VectorFunction::expm1:
      return each_vector(y, n, x, [](V v) { return simd::expm1<T>(v); });
    case VectorFunction::log:
      return each_vector(y, n, x, [](V v) { return simd::log<T>(v); });
    case VectorFunction::log1p:
      return each_vector(y, n, x, [](V v) { return simd::log1p<T>(v); });
    case VectorFunction::log1p_unit:
      return each_vector(y, n, x, [](V v) { return simd::log1p_unit<T>(v); });
    case VectorFunction::tanh:
      return each_vector(y, n, x, [](V v) { return simd::tanh<T>(v); });
    case VectorFunction::sigmoid:
      return each_vector(y, n, x, [](V v) { return simd::sigmoid<T>(v); });
    case VectorFunction::erf:
      return each_vector(y, n, x, [](V v) { return simd::erf<T>(v); });
    case VectorFunction::sin_2pi:
      return each_vector(y, n, x, [](V v) { return Functions<T>::sin_2pi(v); });
    case VectorFunction::cos_2pi:
      return each_vector(y, n, x, [](V v) { return Functions<T>::cos_2pi(v); });
  }
}

template void vector_math<float>(VectorFunction, float*, const float*, int64_t);
template void vector_math<double>(VectorFunction, double*, const double*, int64_t);

}  // namespace fastdl

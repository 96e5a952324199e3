// y = f(x) for the special functions of special.h and gamma.h. Their gradients are formulas of other functions, in
// Python.
//
// Passes: one read, one write. Work: ranges of the flattened space (loop.h). The function is reached through
// a pointer: one loop for all of them, and a call is little beside some hundred instructions per vector. (erfc of
// floats takes fifty.)
#include "cpu/elementwise/special.h"

#include "cpu/elementwise/gamma.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

using Function = Vec<double> (*)(Vec<double>);

Function function_of(Special f) {
  switch (f) {
    case Special::lgamma:
      return special::lgamma;
    case Special::digamma:
      return special::digamma;
    case Special::trigamma:
      return special::trigamma;
    case Special::erfc:
      return special::erfc<double>;
    case Special::erfcx:
      return special::erfcx;
    case Special::erfinv:
      return special::erfinv<double>;
    case Special::ndtr:
      return special::ndtr<double>;
    case Special::log_ndtr:
      return special::log_ndtr;
    case Special::ndtri:
      return special::ndtri;
    case Special::i0:
      return special::bessel_i<0, false>;
    case Special::i0e:
      return special::bessel_i<0, true>;
    case Special::i1:
      return special::bessel_i<1, false>;
    case Special::i1e:
      return special::bessel_i<1, true>;
    case Special::entr:
      return special::entr<double>;
    case Special::sinc:
      return special::sinc;
  }
  __builtin_unreachable();
}

// Null where floats are computed in double.
Vec<float> (*single_function_of(Special f))(Vec<float>) {
  switch (f) {
    case Special::erfinv:
      return special::erfinv<float>;
    case Special::ndtr:
      return special::ndtr<float>;
    case Special::entr:
      return special::entr<float>;
    default:
      return nullptr;
  }
}

// Floats that are denormal are numbers in double, but instructions take them for zero within a kernel. Are
// there any?
Vec<int32_t> tiny(Vec<float> x) {
  const auto bits = (Vec<int32_t>)x;
  return ((bits & 0x7f800000) == 0) & ((bits & 0x7fffff) != 0);
}
[[gnu::noinline]] void widen_exactly(Vec<float> x, double* wide) {
  const auto bits = (Vec<int32_t>)x;
  const auto small = tiny(x);
  for (int i = 0; i < kWidth<float>; ++i)
    wide[i] = small[i] ? std::copysign(double(bits[i] & 0x7fffff) * 0x1p-149, double(bits[i])) : double(x[i]);
}

template <class F, class... X>
[[gnu::noinline]] Vec<float> of_floats(F f, X... x) {
  if (!any((tiny(x) | ...))) return in_double(f, x...);
  constexpr int w = kWidth<double>;
  double wide[sizeof...(X)][2 * w];
  int i = 0;
  (widen_exactly(x, wide[i++]), ...);
  return [&]<size_t... I>(std::index_sequence<I...>) {
    return narrow(f(load(wide[I])...), f(load(wide[I] + w)...));
  }(std::make_index_sequence<sizeof...(X)>());
}

}  // namespace

template <class T>
void special_forward(Special function, const StridedLoop<2>& loop) {
  if constexpr (sizeof(T) == 4) {
    if (function == Special::erfc)
      return map<T, true>(loop, kGrainSlow, [](Vec<T> x) { return special::erfc<T>(x); });
    if (const auto f = single_function_of(function)) return map<T, true>(loop, kGrainSlow, f);
  }
  map<T, true>(loop, kGrainSlow, [f = function_of(function)](Vec<T> x) {
    if constexpr (sizeof(T) == 4)
      return of_floats(f, x);
    else
      return f(x);
  });
}

template <class T>
void special_forward(SpecialPair function, const StridedLoop<3>& loop) {
  constexpr double error = sizeof(T) == 4 ? 1e-10 : 1e-17;
  map<T, true>(loop, kGrainSlow / 16, [function](Vec<T> x, Vec<T> y) {
    const auto f = [function](Vec<double> a, Vec<double> b) {
      return function == SpecialPair::zeta
                 ? special::zeta(a, b, sizeof(T) == 4)
                 : special::incomplete_gamma(a, b, function == SpecialPair::igammac, error);
    };
    if constexpr (sizeof(T) == 4)
      return of_floats(f, x, y);
    else
      return f(x, y);
  });
}

template void special_forward<float>(Special, const StridedLoop<2>&);
template void special_forward<double>(Special, const StridedLoop<2>&);
template void special_forward<float>(SpecialPair, const StridedLoop<3>&);
template void special_forward<double>(SpecialPair, const StridedLoop<3>&);

}  // namespace fastdl

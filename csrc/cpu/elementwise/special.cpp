// y = f(x) for the special functions of special.h. Their gradients are formulas of other functions, in
// Python.
//
// Passes: one read, one write. Work: ranges of the flattened space (loop.h). The function is reached through
// a pointer: one loop for all of them, and a call is little beside some hundred instructions per vector.
#include "cpu/elementwise/special.h"

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
    case Special::logit:
      return special::logit<double>;
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
    case Special::erfc:
      return special::erfc<float>;
    case Special::erfinv:
      return special::erfinv<float>;
    case Special::ndtr:
      return special::ndtr<float>;
    case Special::logit:
      return special::logit<float>;
    case Special::entr:
      return special::entr<float>;
    default:
      return nullptr;
  }
}

// Floats that are denormal are numbers in double, but instructions take them for zero within a kernel.
Vec<float> of_floats(Function f, Vec<float> x) {
  const auto bits = (Vec<int32_t>)x;
  const Vec<int32_t> fraction = bits & 0x7fffff;
  const Vec<int32_t> tiny = ((bits & 0x7f800000) == 0) & (fraction != 0);
  if (!any(tiny)) return in_double(f, x);
  constexpr int w = kWidth<double>;
  double wide[2 * w];
  for (int i = 0; i < 2 * w; ++i)
    wide[i] = tiny[i] ? std::copysign(double(fraction[i]) * 0x1p-149, double(bits[i])) : double(x[i]);
  return narrow(f(load(wide)), f(load(wide + w)));
}

}  // namespace

template <class T>
void special_forward(Special function, const StridedLoop<2>& loop) {
  if constexpr (sizeof(T) == 4)
    if (const auto f = single_function_of(function)) return map<T>(loop, kGrainSlow, f);
  map<T>(loop, kGrainSlow, [f = function_of(function)](Vec<T> x) {
    if constexpr (sizeof(T) == 4)
      return of_floats(f, x);
    else
      return f(x);
  });
}

template void special_forward<float>(Special, const StridedLoop<2>&);
template void special_forward<double>(Special, const StridedLoop<2>&);

}  // namespace fastdl

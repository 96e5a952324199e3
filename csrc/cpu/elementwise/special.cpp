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
      return special::erfc;
    case Special::erfcx:
      return special::erfcx;
    case Special::erfinv:
      return special::erfinv;
    case Special::ndtr:
      return special::ndtr;
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
  }
  __builtin_unreachable();
}

}  // namespace

template <class T>
void special_forward(Special function, const StridedLoop<2>& loop) {
  map<T>(loop, kGrainSlow, [f = function_of(function)](Vec<T> x) { return with_double<T>(f, x); });
}

template void special_forward<float>(Special, const StridedLoop<2>&);
template void special_forward<double>(Special, const StridedLoop<2>&);

}  // namespace fastdl

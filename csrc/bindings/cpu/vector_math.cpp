#include "cpu/vector_math.h"

#include <algorithm>
#include <iterator>

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

constexpr const char* kNames[] = {"exp",  "expm1",   "log", "log1p",   "log1p_unit",
                                  "tanh", "sigmoid", "erf", "sin_2pi", "cos_2pi"};

py::array bind_vector_math(const std::string& function, const py::array& x) {
  const auto* name = std::find(std::begin(kNames), std::end(kNames), function);
  if (name == std::end(kNames)) throw py::value_error("vector_math: unknown function '" + function + "'");
  return by_dtype("vector_math", x, [&]<class T>(T) {
    const In<T> in(x, "vector_math", "x");
    py::array y = empty<T>(in.shape());
    KernelScope scope(in.size());
    vector_math<T>(VectorFunction(name - kNames), data<T>(y), in, in.size());
    return y;
  });
}

}  // namespace

void register_vector_math(py::module_& m) {
  m.def("vector_math", &bind_vector_math, py::arg("function"), py::arg("x"));
}

}  // namespace fastdl::binding

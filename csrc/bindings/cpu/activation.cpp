#include "cpu/activation.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

py::array bind_relu_forward(const py::array& x) {
  return by_dtype("relu", x, [&]<class T>(T) {
    const In<T> in(x, "relu", "x");
    py::array y = empty<T>(in.shape());
    KernelScope scope(in.size());
    relu_forward<T>(data<T>(y), in, in.size());
    return y;
  });
}

py::array bind_relu_backward(const py::array& grad_y, const py::array& y) {
  return by_dtype("relu_backward", y, [&]<class T>(T) {
    const In<T> g(grad_y, "relu_backward", "grad_y"), out(y, "relu_backward", "y");
    if (g.size() != out.size()) throw py::value_error("relu_backward: grad_y and y differ in size");
    py::array grad_x = empty<T>(out.shape());
    KernelScope scope(out.size());
    relu_backward<T>(data<T>(grad_x), g, out, out.size());
    return grad_x;
  });
}

}  // namespace

void register_activation(py::module_& m) {
  m.def("relu_forward", &bind_relu_forward, py::arg("x"));
  m.def("relu_backward", &bind_relu_backward, py::arg("grad_y"), py::arg("y"));
}

}  // namespace fastdl::binding

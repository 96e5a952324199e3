#include "cpu/softmax.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

ClassShape class_shape(std::span<const int64_t> shape, int64_t dim, const char* op) {
  const auto rank = int64_t(shape.size());
  if (dim < 0 || dim >= rank)
    throw py::index_error(std::string(op) + ": dim " + std::to_string(dim) + " is out of range for " +
                          std::to_string(rank) + " dimensions");
  return {size_of(shape.first(size_t(dim))), shape[size_t(dim)], size_of(shape.subspan(size_t(dim) + 1))};
}

constexpr int64_t kPiece = 8192;  // numbers in half precision that are converted at a time

template <auto ForFloat, auto ForDouble>
py::array forward(const char* op, const py::array& x, int64_t dim) {
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half);
    const Shape shape = in.shape();
    const ClassShape problem = class_shape(shape, dim, op);
    py::array y = empty_array(stored_dtype<T>(half), shape);
    KernelScope scope(in.size());
    if constexpr (sizeof(T) == 2)
      rows_in_floats(
          half, data<T>(y), problem.outer, problem.classes * problem.inner, kPiece,
          [&](int64_t, int64_t count, float* to, const float* from) {
            ForFloat(to, from, {count, problem.classes, problem.inner});
          },
          in.get());
    else if constexpr (sizeof(T) == 4)
      ForFloat(data<T>(y), in, problem);
    else
      ForDouble(data<T>(y), in, problem);
    return y;
  });
}

template <auto ForFloat, auto ForDouble>
py::array backward(const char* op, const py::array& grad_y, const py::array& y, int64_t dim) {
  return by_stored(op, y, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half), out(y, op, "y", half);
    const Shape shape = out.shape();
    const ClassShape problem = class_shape(shape, dim, op);
    if (g.shape() != shape) throw py::value_error(std::string(op) + ": grad_y and y differ in shape");
    py::array grad_x = empty_array(stored_dtype<T>(half), shape);
    KernelScope scope(out.size());
    if constexpr (sizeof(T) == 2)
      rows_in_floats(
          half, data<T>(grad_x), problem.outer, problem.classes * problem.inner, kPiece,
          [&](int64_t, int64_t count, float* to, const float* g_floats, const float* y_floats) {
            ForFloat(to, g_floats, y_floats, {count, problem.classes, problem.inner});
          },
          g.get(), out.get());
    else if constexpr (sizeof(T) == 4)
      ForFloat(data<T>(grad_x), g, out, problem);
    else
      ForDouble(data<T>(grad_x), g, out, problem);
    return grad_x;
  });
}

}  // namespace

void register_softmax(py::module_& m) {
  m.def(
      "softmax_forward",
      [](const py::array& x, int64_t dim) {
        return forward<&softmax_forward<float>, &softmax_forward<double>>("softmax", x, dim);
      },
      py::arg("x"), py::arg("dim"));
  m.def(
      "softmax_backward",
      [](const py::array& grad_y, const py::array& y, int64_t dim) {
        return backward<&softmax_backward<float>, &softmax_backward<double>>("softmax_backward", grad_y, y,
                                                                             dim);
      },
      py::arg("grad_y"), py::arg("y"), py::arg("dim"));
  m.def(
      "log_softmax_forward",
      [](const py::array& x, int64_t dim) {
        return forward<&log_softmax_forward<float>, &log_softmax_forward<double>>("log_softmax", x, dim);
      },
      py::arg("x"), py::arg("dim"));
  m.def(
      "log_softmax_backward",
      [](const py::array& grad_y, const py::array& y, int64_t dim) {
        return backward<&log_softmax_backward<float>, &log_softmax_backward<double>>("log_softmax_backward",
                                                                                     grad_y, y, dim);
      },
      py::arg("grad_y"), py::arg("y"), py::arg("dim"));
}

}  // namespace fastdl::binding

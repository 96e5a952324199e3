// Complex numbers of single precision: see cpu/elementwise/complex.cpp.
#include <complex>

#include "bindings/cpu/strided.h"

namespace fastdl::binding {
namespace {

using Pair = std::complex<float>;

// An operand of complex numbers, or of real ones.
std::pair<Operand, int64_t> pairs_of(const py::array& x, const char* op, const char* argument, bool complex) {
  if (complex)
    check_stored<Pair>(x, op, argument, Half::none);
  else
    check_stored<float>(x, op, argument, Half::none);
  return {operand_of(x), complex ? int64_t(sizeof(Pair)) : int64_t(sizeof(float))};
}

py::array bind_complex(Complex op, const char* name, const py::array& x, const py::array& y,
                       const py::object& out) {
  auto [a, item_a] = pairs_of(x, name, "x", op != Complex::join);
  auto [b, item_b] = pairs_of(y, name, "y", op < Complex::scale);
  Result<Pair> z(name, broadcast_shape(name, {&a, &b}), out, {{&a, item_a}, {&b, item_b}});
  const auto loop = make_loop<3>(z.shape(), {z.operand(), &a, &b});
  launch(loop, [&] { complex_forward(op, loop); });
  return z.array();
}

py::array bind_complex_conjugate(const py::array& x, const py::object& out) {
  constexpr const char* name = "complex_conjugate";
  auto [a, item] = pairs_of(x, name, "x", true);
  Result<Pair> z(name, broadcast_shape(name, {&a}), out, {{&a, item}});
  const auto loop = make_loop<2>(z.shape(), {z.operand(), &a});
  launch(loop, [&] { complex_conjugate(loop); });
  return z.array();
}

py::array bind_complex_rows(const py::array& x, bool conjugate) {
  constexpr const char* name = "complex_rows";
  Operand a = pairs_of(x, name, "x", true).first;
  const Shape shape = broadcast_shape(name, {&a});
  if (shape.size() < 2) throw py::value_error("complex_rows: x must have at least 2 dimensions");
  Shape rows = shape;
  rows[rows.size() - 2] *= 2, rows.back() *= 2;
  py::array result = empty_array(stored_dtype<float>(Half::none), rows);
  // Two results of x's shape, whose rows alternate.
  Operand even = operand_of(result), odd = even;
  Shape strides(result.strides(), result.strides() + result.ndim());
  strides[strides.size() - 2] *= 2, strides.back() *= 2;
  const std::vector<py::ssize_t> extents(shape.begin(), shape.end()), steps(strides.begin(), strides.end());
  for (Operand* each : {&even, &odd}) each->shape = extents.data(), each->strides = steps.data();
  odd.data += steps[steps.size() - 2] / 2;
  const auto loop = make_loop<3>(shape, {&even, &odd, &a});
  launch(loop, [&] { complex_rows(conjugate, loop); });
  return result;
}

void def_complex(py::module_& m, Complex op, const char* name) {
  m.def(
      name,
      [op, name](const py::array& x, const py::array& y, const py::object& out) {
        return bind_complex(op, name, x, y, out);
      },
      py::arg("x"), py::arg("y"), py::arg("out") = py::none());
}

}  // namespace

void register_complex(py::module_& m) {
  def_complex(m, Complex::add, "complex_add");
  def_complex(m, Complex::sub, "complex_sub");
  def_complex(m, Complex::multiply, "complex_multiply");
  def_complex(m, Complex::multiply_conjugate, "complex_multiply_conjugate");
  def_complex(m, Complex::divide, "complex_divide");
  def_complex(m, Complex::scale, "complex_scale");
  def_complex(m, Complex::shrink, "complex_shrink");
  def_complex(m, Complex::join, "complex_join");
  m.def("complex_conjugate", &bind_complex_conjugate, py::arg("x"), py::arg("out") = py::none());
  m.def("complex_rows", &bind_complex_rows, py::arg("x"), py::arg("conjugate") = false);
}

}  // namespace fastdl::binding

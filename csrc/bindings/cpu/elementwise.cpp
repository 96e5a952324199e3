// The elementwise part of the kernel contract: out= writes into an array of the caller (its own input, too).
#include <bit>

#include "bindings/cpu/strided.h"

namespace fastdl::binding {
namespace {

using Object = py::object;

template <class T>
Input input(Source<T>& source) {
  return {&source, source.item};
}

// Sums, differences and products in half precision by the kernel that converts in registers. A number c becomes the
// factor: c y is -0 + c y, x + c is x + c 1; left of a sum it must be one of bfloat16. False: that kernel does not
// compute it.
bool in_registers(Binary op, StridedLoop<3> loop) {
  const Half half = loop.half[0];
  if (op != Binary::add && op != Binary::sub && op != Binary::mul) return false;
  const bool product = op == Binary::mul;
  const int number = loop.half[1] == Half::none ? 1 : loop.half[2] == Half::none ? 2 : 0;
  uint16_t constant = product ? 0x8000 : half == Half::float16 ? 0x3c00 : 0x3f80;  // -0, 1
  float factor = op == Binary::sub ? -1 : 1;
  if (number) {
    const float value = *reinterpret_cast<float*>(loop.data[number]);
    const auto bits = std::bit_cast<uint32_t>(value);
    loop.data[number] = reinterpret_cast<char*>(&constant);
    if (product || number == 2) {
      factor *= value;
    } else {
      if (half == Half::float16 || (bits & 0xffff) != 0) return false;
      constant = uint16_t(bits >> 16);
    }
    if (product && number == 2) {
      std::swap(loop.data[1], loop.data[2]);
      for (int axis = 0; axis < loop.axes; ++axis) std::swap(loop.stride[axis][1], loop.stride[axis][2]);
    }
  }
  std::fill_n(loop.half, 3, Half::none);
  return half_arithmetic(half, product && !number, factor, loop);
}

py::array bind_binary(Binary op, const char* name, const Object& x, const Object& y, const Object& out) {
  const auto run = [&]<class T>(T, auto stored) {
    Source<T> a(x, name, "x", stored), b(y, name, "y", stored);
    Result<T> z(name, broadcast_shape(name, {&a, &b}), out, {input(a), input(b)}, stored);
    const auto loop = make_loop<3>(z.shape(), {z.operand(), &a, &b});
    launch(loop, [&] {
      if constexpr (std::is_same_v<T, int64_t>)
        integer_forward(stored, op, loop);
      else if (stored == Half::none || !in_registers(op, loop))
        binary_forward<T>(op, loop);
    });
    return z.array();
  };
  if (!has_integers(op)) return by_dtype_of(name, {x, y}, run);
  return by_dtype_or_integer(name, {x, y}, [&]<class T>(T, auto stored) {
    if constexpr (!std::is_same_v<T, int64_t>)
      if (!has_floats(op)) throw py::type_error(std::string(name) + ": defined for integer arrays only");
    return run(T{}, stored);
  });
}

py::array bind_compare(Compare op, const char* name, const Object& x, const Object& y, const Object& out) {
  return by_dtype_or_integer(name, {x, y}, [&]<class T>(T, auto stored) {
    Source<T> a(x, name, "x", stored), b(y, name, "y", stored);
    Result<bool> z(name, broadcast_shape(name, {&a, &b}), out, {input(a), input(b)});
    const auto loop = make_loop<3>(z.shape(), {z.operand(), &a, &b});
    launch(loop, [&] {
      if constexpr (std::is_same_v<T, int64_t>)
        integer_compare(stored, op, loop);
      else
        compare<T>(op, loop);
    });
    return z.array();
  });
}

py::array bind_bitwise(Bitwise op, const char* name, const Object& x, const Object& y, const Object& out) {
  // Bools or integers; the other operand may be a number (for bools: not 0 counts as 1).
  const auto run = [&]<class T>(T, auto stored) {
    Source<T> a(x, name, "x", stored), b(y, name, "y", stored);
    Result<T> z(name, broadcast_shape(name, {&a, &b}), out, {input(a), input(b)}, stored);
    const auto loop = make_loop<3>(z.shape(), {z.operand(), &a, &b});
    launch(loop, [&] { bitwise_forward(a.item, op, loop); });
    return z.array();
  };
  for (const Object& object : {x, y}) {
    if (!is_array(object)) continue;
    const auto& array = reinterpret_cast<const py::array&>(object);
    if (is_dtype<bool>(array)) return run(bool{}, Half::none);
    const auto type = integer_of(array);
    if (!type) raise_dtype(array, name, "input", "bool or an integer dtype");
    return run(int64_t{}, *type);
  }
  throw py::type_error(std::string(name) + ": at least one operand must be an array");
}

template <class F>
py::array bind_unary(const char* name, const Object& x, const Object& out, F&& kernel) {
  return by_dtype_of(name, {x}, [&]<class T>(T, Half half) {
    Source<T> a(x, name, "x", half);
    Result<T> y(name, broadcast_shape(name, {&a}), out, {input(a)}, half);
    const auto loop = make_loop<2>(y.shape(), {y.operand(), &a});
    launch(loop, [&] { kernel(T{}, loop); });
    return y.array();
  });
}

template <class F>
py::array bind_integers(const char* name, Integer type, const Object& x, const Object& out, F&& kernel) {
  Source<int64_t> a(x, name, "x", type);
  Result<int64_t> y(name, broadcast_shape(name, {&a}), out, {input(a)}, type);
  const auto loop = make_loop<2>(y.shape(), {y.operand(), &a});
  launch(loop, [&] { kernel(loop); });
  return y.array();
}

// One result from a gradient and a saved array of the same shape.
template <class F>
py::array gradient(const char* name, const Object& grad_y, const Object& saved, F&& kernel) {
  return by_dtype_of(name, {saved}, [&]<class T>(T, Half half) {
    Source<T> g(grad_y, name, "grad_y", half), s(saved, name, "the saved array", half);
    Result<T> grad_x(name, broadcast_shape(name, {&g, &s}), Object(), {}, half);
    const auto loop = make_loop<3>(grad_x.shape(), {grad_x.operand(), &g, &s});
    launch(loop, [&] { kernel(T{}, loop); });
    return grad_x.array();
  });
}

// Two results of the broadcast shape from three arrays.
template <class F>
py::tuple two_gradients(const char* name, const Object& grad, const Object& x, const Object& y, F&& kernel) {
  return by_dtype_of(name, {grad}, [&]<class T>(T, Half half) {
    Source<T> g(grad, name, "grad", half), a(x, name, "x", half), b(y, name, "y", half);
    const Shape shape = broadcast_shape(name, {&g, &a, &b});
    Result<T> grad_x(name, shape, Object(), {}, half), grad_y(name, shape, Object(), {}, half);
    const auto loop = make_loop<5>(shape, {grad_x.operand(), grad_y.operand(), &g, &a, &b});
    launch(loop, [&] { kernel(T{}, loop); });
    return py::make_tuple(grad_x.array(), grad_y.array());
  });
}

// out = f(x, y, z)
template <class F>
py::array ternary(const char* name, const Object& x, const Object& y, const Object& z, const Object& out,
                  F&& kernel) {
  return by_dtype_of(name, {x, y, z}, [&]<class T>(T, Half half) {
    Source<T> a(x, name, "x", half), b(y, name, "y", half), c(z, name, "z", half);
    Result<T> result(name, broadcast_shape(name, {&a, &b, &c}), out, {input(a), input(b), input(c)}, half);
    const auto loop = make_loop<4>(result.shape(), {result.operand(), &a, &b, &c});
    launch(loop, [&] { kernel(T{}, loop); });
    return result.array();
  });
}

py::array bind_where(const Object& condition, const Object& x, const Object& y) {
  const auto run = [&]<class T>(T, auto stored) {
    Source<bool> c(condition, "where", "condition");
    Source<T> a(x, "where", "x", stored), b(y, "where", "y", stored);
    Result<T> z("where", broadcast_shape("where", {&c, &a, &b}), Object(), {input(c), input(a), input(b)},
                stored);
    const auto loop = make_loop<4>(z.shape(), {z.operand(), &c, &a, &b});
    launch(loop, [&] {
      if constexpr (std::is_integral_v<T>)
        where_of_bytes(a.item, loop);
      else
        where_forward<T>(loop);
    });
    return z.array();
  };
  for (const Object& object : {x, y})
    if (is_array(object) && is_dtype<bool>(reinterpret_cast<const py::array&>(object)))
      return run(bool{}, Half::none);
  return by_dtype_or_integer("where", {x, y}, run);
}

py::tuple bind_where_backward(const Object& grad, const Object& condition) {
  return by_dtype_of("where_backward", {grad}, [&]<class T>(T, Half half) {
    Source<bool> c(condition, "where_backward", "condition");
    Source<T> g(grad, "where_backward", "grad", half);
    const Shape shape = broadcast_shape("where_backward", {&c, &g});
    Result<T> grad_x("where_backward", shape, Object(), {input(c), input(g)}, half),
        grad_y("where_backward", shape, Object(), {input(c), input(g)}, half);
    const auto loop = make_loop<4>(shape, {grad_x.operand(), grad_y.operand(), &c, &g});
    launch(loop, [&] { where_backward<T>(loop); });
    return py::make_tuple(grad_x.array(), grad_y.array());
  });
}

py::array bind_pow_scalar(const Object& x, double exponent, const Object& out) {
  return bind_unary("pow", x, out, [=]<class T>(T, const StridedLoop<2>& loop) {
    pow_scalar_forward<T>(T(exponent), loop);
  });
}

py::array bind_clamp(const Object& x, const Object& low, const Object& high, const Object& out) {
  if (is_array(x))
    if (const auto type = integer_of(reinterpret_cast<const py::array&>(x))) {
      const auto lower = low.cast<int64_t>(), upper = high.cast<int64_t>();
      return bind_integers("clamp", *type, x, out,
                           [&](const StridedLoop<2>& loop) { integer_clamp(*type, lower, upper, loop); });
    }
  const auto lower = low.cast<double>(), upper = high.cast<double>();
  return bind_unary("clamp", x, out, [=]<class T>(T, const StridedLoop<2>& loop) {
    clamp_forward<T>(T(lower), T(upper), loop);
  });
}

// Functions of integers, by the kernels of operations that they are: modulo 2^bits.
std::optional<py::array> of_integers(Unary op, const char* label, Integer type, const Object& x,
                                     const Object& out) {
  if (op == Unary::neg) return bind_binary(Binary::sub, label, py::int_(0), x, out);
  if (op == Unary::square) return bind_binary(Binary::mul, label, x, x, out);
  if (op == Unary::sign) return bind_clamp(x, py::int_(type == Integer::uint8 ? 0 : -1), py::int_(1), out);
  if (op != Unary::abs) return std::nullopt;
  return bind_integers(label, type, x, out, [&](const StridedLoop<2>& loop) { integer_abs(type, loop); });
}

// neg and abs of half precision, whose sign is a bit.
py::array of_signs(Unary op, const char* label, Half half, const Object& x, const Object& out) {
  Source<float> a(x, label, "x", half);
  Result<float> y(label, broadcast_shape(label, {&a}), out, {input(a)}, half);
  Operand bits = *y.operand(), mask;
  uint16_t of_sign = op == Unary::neg ? 0x8000 : 0x7fff;
  mask.data = reinterpret_cast<char*>(&of_sign);
  bits.half = a.half = Half::none;
  const auto loop = make_loop<3>(y.shape(), {&bits, &a, &mask});
  launch(loop, [&] {
    bitwise_forward(sizeof of_sign, op == Unary::neg ? Bitwise::difference : Bitwise::conjunction, loop);
  });
  return y.array();
}

// The operation is a value, not a template argument: one function for all, a tenth of the code.
void def_binary(py::module_& m, Binary op, const char* name, const char* label) {
  m.def(
      name,
      [op, label](const Object& x, const Object& y, const Object& out) {
        return bind_binary(op, label, x, y, out);
      },
      py::arg("x"), py::arg("y"), py::arg("out") = py::none());
}
void def_bitwise(py::module_& m, Bitwise op, const char* name, const char* label) {
  m.def(
      name,
      [op, label](const Object& x, const Object& y, const Object& out) {
        return bind_bitwise(op, label, x, y, out);
      },
      py::arg("x"), py::arg("y"), py::arg("out") = py::none());
}
void def_compare(py::module_& m, Compare op, const char* name, const char* label) {
  m.def(
      name,
      [op, label](const Object& x, const Object& y, const Object& out) {
        return bind_compare(op, label, x, y, out);
      },
      py::arg("x"), py::arg("y"), py::arg("out") = py::none());
}
void def_unary(py::module_& m, Unary op, const char* name, const char* label) {
  m.def(
      name,
      [op, label](const Object& x, const Object& out) {
        if (is_array(x)) {
          const auto& array = reinterpret_cast<const py::array&>(x);
          if (const auto type = integer_of(array))
            if (auto y = of_integers(op, label, *type, x, out)) return *y;
          const Half half = half_of(array);
          if (half != Half::none && (op == Unary::neg || op == Unary::abs))
            return of_signs(op, label, half, x, out);
        }
        return bind_unary(label, x, out,
                          [op]<class T>(T, const StridedLoop<2>& loop) { unary_forward<T>(op, loop); });
      },
      py::arg("x"), py::arg("out") = py::none());
}
void def_special(py::module_& m, Special function, const char* name, const char* label) {
  m.def(
      name,
      [function, label](const Object& x, const Object& out) {
        return bind_unary(label, x, out, [function]<class T>(T, const StridedLoop<2>& loop) {
          special_forward<T>(function, loop);
        });
      },
      py::arg("x"), py::arg("out") = py::none());
}
void def_special(py::module_& m, SpecialPair function, const char* name, const char* label) {
  m.def(
      name,
      [function, label](const Object& x, const Object& y) {
        return by_dtype_of(label, {x, y}, [&]<class T>(T, Half half) {
          Source<T> a(x, label, "x", half), b(y, label, "y", half);
          Result<T> z(label, broadcast_shape(label, {&a, &b}), py::none(), {input(a), input(b)}, half);
          const auto loop = make_loop<3>(z.shape(), {z.operand(), &a, &b});
          launch(loop, [&] { special_forward<T>(function, loop); });
          return z.array();
        });
      },
      py::arg("x"), py::arg("y"));
}
void def_unary_backward(py::module_& m, Unary op, const char* name, const char* saved) {
  m.def(
      name,
      [op, name](const Object& grad_y, const Object& array) {
        return gradient(name, grad_y, array,
                        [op]<class T>(T, const StridedLoop<3>& loop) { unary_backward<T>(op, loop); });
      },
      py::arg("grad_y"), py::arg(saved));
}

}  // namespace

void register_elementwise(py::module_& m) {
  def_binary(m, Binary::add, "add_forward", "add");
  def_binary(m, Binary::sub, "sub_forward", "sub");
  def_binary(m, Binary::mul, "mul_forward", "mul");
  def_binary(m, Binary::div, "div_forward", "div");
  def_binary(m, Binary::floor_divide, "floor_divide_forward", "floor_divide");
  def_binary(m, Binary::trunc_divide, "trunc_divide_forward", "trunc_divide");
  def_binary(m, Binary::left_shift, "left_shift_forward", "bitwise_left_shift");
  def_binary(m, Binary::right_shift, "right_shift_forward", "bitwise_right_shift");
  def_binary(m, Binary::remainder, "remainder_forward", "remainder");
  def_binary(m, Binary::fmod, "fmod_forward", "fmod");
  def_binary(m, Binary::pow, "pow_forward", "pow");
  def_binary(m, Binary::maximum, "maximum_forward", "maximum");
  def_binary(m, Binary::minimum, "minimum_forward", "minimum");
  def_binary(m, Binary::atan2, "atan2_forward", "atan2");
  def_binary(m, Binary::hypot, "hypot_forward", "hypot");
  def_binary(m, Binary::logaddexp, "logaddexp_forward", "logaddexp");
  def_binary(m, Binary::copysign, "copysign_forward", "copysign");
  def_binary(m, Binary::nextafter, "nextafter_forward", "nextafter");
  def_binary(m, Binary::fmax, "fmax_forward", "fmax");
  def_binary(m, Binary::fmin, "fmin_forward", "fmin");
  def_binary(m, Binary::xlogy, "xlogy_forward", "xlogy");
  def_binary(m, Binary::xlog1py, "xlog1py_forward", "xlog1py");
  def_binary(m, Binary::heaviside, "heaviside_forward", "heaviside");
  def_compare(m, Compare::eq, "eq_forward", "eq");
  def_compare(m, Compare::ne, "ne_forward", "ne");
  def_compare(m, Compare::lt, "lt_forward", "lt");
  def_compare(m, Compare::le, "le_forward", "le");
  def_compare(m, Compare::gt, "gt_forward", "gt");
  def_compare(m, Compare::ge, "ge_forward", "ge");
  def_bitwise(m, Bitwise::conjunction, "bitwise_and_forward", "bitwise_and");
  def_bitwise(m, Bitwise::disjunction, "bitwise_or_forward", "bitwise_or");
  def_bitwise(m, Bitwise::difference, "bitwise_xor_forward", "bitwise_xor");

  def_unary(m, Unary::neg, "neg_forward", "neg");
  def_unary(m, Unary::abs, "abs_forward", "abs");
  def_unary(m, Unary::sign, "sign_forward", "sign");
  def_unary(m, Unary::floor, "floor_forward", "floor");
  def_unary(m, Unary::ceil, "ceil_forward", "ceil");
  def_unary(m, Unary::round, "round_forward", "round");
  def_unary(m, Unary::trunc, "trunc_forward", "trunc");
  def_unary(m, Unary::frac, "frac_forward", "frac");
  def_unary(m, Unary::square, "square_forward", "square");
  def_unary(m, Unary::sqrt, "sqrt_forward", "sqrt");
  def_unary(m, Unary::rsqrt, "rsqrt_forward", "rsqrt");
  def_unary(m, Unary::reciprocal, "reciprocal_forward", "reciprocal");
  def_unary(m, Unary::exp, "exp_forward", "exp");
  def_unary(m, Unary::expm1, "expm1_forward", "expm1");
  def_unary(m, Unary::log, "log_forward", "log");
  def_unary(m, Unary::log1p, "log1p_forward", "log1p");
  def_unary(m, Unary::log2, "log2_forward", "log2");
  def_unary(m, Unary::log10, "log10_forward", "log10");
  def_unary(m, Unary::sin, "sin_forward", "sin");
  def_unary(m, Unary::cos, "cos_forward", "cos");
  def_unary(m, Unary::tan, "tan_forward", "tan");
  def_unary(m, Unary::asin, "asin_forward", "asin");
  def_unary(m, Unary::acos, "acos_forward", "acos");
  def_unary(m, Unary::atan, "atan_forward", "atan");
  def_unary(m, Unary::sinh, "sinh_forward", "sinh");
  def_unary(m, Unary::cosh, "cosh_forward", "cosh");
  def_unary(m, Unary::asinh, "asinh_forward", "asinh");
  def_unary(m, Unary::acosh, "acosh_forward", "acosh");
  def_unary(m, Unary::atanh, "atanh_forward", "atanh");
  def_unary(m, Unary::erf, "erf_forward", "erf");
  def_unary(m, Unary::exp2, "exp2_forward", "exp2");
  def_unary(m, Unary::logit, "logit_forward", "logit");
  def_unary(m, Unary::angle, "angle_forward", "angle");
  def_special(m, Special::lgamma, "lgamma_forward", "lgamma");
  def_special(m, Special::digamma, "digamma_forward", "digamma");
  def_special(m, Special::trigamma, "trigamma_forward", "trigamma");
  def_special(m, Special::erfc, "erfc_forward", "erfc");
  def_special(m, Special::erfcx, "erfcx_forward", "erfcx");
  def_special(m, Special::erfinv, "erfinv_forward", "erfinv");
  def_special(m, Special::ndtr, "ndtr_forward", "ndtr");
  def_special(m, Special::log_ndtr, "log_ndtr_forward", "log_ndtr");
  def_special(m, Special::ndtri, "ndtri_forward", "ndtri");
  def_special(m, Special::i0, "i0_forward", "i0");
  def_special(m, Special::i0e, "i0e_forward", "i0e");
  def_special(m, Special::i1, "i1_forward", "i1");
  def_special(m, Special::i1e, "i1e_forward", "i1e");
  def_special(m, Special::entr, "entr_forward", "entr");
  def_special(m, Special::sinc, "sinc_forward", "sinc");
  def_special(m, SpecialPair::igamma, "igamma_forward", "igamma");
  def_special(m, SpecialPair::igammac, "igammac_forward", "igammac");
  def_special(m, SpecialPair::zeta, "zeta_forward", "zeta");
  def_unary_backward(m, Unary::abs, "abs_backward", "x");
  def_unary_backward(m, Unary::square, "square_backward", "x");
  def_unary_backward(m, Unary::sqrt, "sqrt_backward", "y");
  def_unary_backward(m, Unary::rsqrt, "rsqrt_backward", "y");
  def_unary_backward(m, Unary::reciprocal, "reciprocal_backward", "y");
  def_unary_backward(m, Unary::exp, "exp_backward", "y");
  def_unary_backward(m, Unary::exp2, "exp2_backward", "y");
  def_unary_backward(m, Unary::expm1, "expm1_backward", "y");
  def_unary_backward(m, Unary::log, "log_backward", "x");
  def_unary_backward(m, Unary::log1p, "log1p_backward", "x");
  def_unary_backward(m, Unary::log2, "log2_backward", "x");
  def_unary_backward(m, Unary::log10, "log10_backward", "x");
  def_unary_backward(m, Unary::sin, "sin_backward", "x");
  def_unary_backward(m, Unary::cos, "cos_backward", "x");
  def_unary_backward(m, Unary::tan, "tan_backward", "y");
  def_unary_backward(m, Unary::asin, "asin_backward", "x");
  def_unary_backward(m, Unary::acos, "acos_backward", "x");
  def_unary_backward(m, Unary::atan, "atan_backward", "x");
  def_unary_backward(m, Unary::sinh, "sinh_backward", "x");
  def_unary_backward(m, Unary::cosh, "cosh_backward", "x");
  def_unary_backward(m, Unary::asinh, "asinh_backward", "x");
  def_unary_backward(m, Unary::acosh, "acosh_backward", "x");
  def_unary_backward(m, Unary::atanh, "atanh_backward", "x");
  def_unary_backward(m, Unary::erf, "erf_backward", "x");
  def_unary_backward(m, Unary::logit, "logit_backward", "x");

  m.def(
      "mul_backward",
      [](const Object& grad, const Object& x, const Object& y) {
        return two_gradients("mul_backward", grad, x, y,
                             []<class T>(T, const StridedLoop<5>& l) { mul_backward<T>(l); });
      },
      py::arg("grad"), py::arg("x"), py::arg("y"));
  m.def(
      "div_backward",
      [](const Object& grad, const Object& x, const Object& y) {
        return two_gradients("div_backward", grad, x, y,
                             []<class T>(T, const StridedLoop<5>& l) { div_backward<T>(l); });
      },
      py::arg("grad"), py::arg("x"), py::arg("y"));
  m.def(
      "maximum_backward",
      [](const Object& grad, const Object& x, const Object& y) {
        return two_gradients("maximum_backward", grad, x, y,
                             []<class T>(T, const StridedLoop<5>& l) { extremum_backward<T>(1, l); });
      },
      py::arg("grad"), py::arg("x"), py::arg("y"));
  m.def(
      "minimum_backward",
      [](const Object& grad, const Object& x, const Object& y) {
        return two_gradients("minimum_backward", grad, x, y,
                             []<class T>(T, const StridedLoop<5>& l) { extremum_backward<T>(-1, l); });
      },
      py::arg("grad"), py::arg("x"), py::arg("y"));
  m.def(
      "logaddexp_backward",
      [](const Object& grad, const Object& x, const Object& y) {
        return two_gradients("logaddexp_backward", grad, x, y,
                             []<class T>(T, const StridedLoop<5>& l) { logaddexp_backward<T>(l); });
      },
      py::arg("grad"), py::arg("x"), py::arg("y"));

  m.def("pow_scalar_forward", &bind_pow_scalar, py::arg("x"), py::arg("exponent"),
        py::arg("out") = py::none());
  m.def(
      "pow_scalar_backward",
      [](const Object& grad_y, const Object& x, double exponent) {
        return gradient("pow_backward", grad_y, x, [=]<class T>(T, const StridedLoop<3>& loop) {
          pow_scalar_backward<T>(T(exponent), loop);
        });
      },
      py::arg("grad_y"), py::arg("x"), py::arg("exponent"));
  m.def("clamp_forward", &bind_clamp, py::arg("x"), py::arg("lower"), py::arg("upper"),
        py::arg("out") = py::none());
  m.def(
      "clamp_backward",
      [](const Object& grad_y, const Object& x, double lower, double upper) {
        return gradient("clamp_backward", grad_y, x, [=]<class T>(T, const StridedLoop<3>& loop) {
          clamp_backward<T>(T(lower), T(upper), loop);
        });
      },
      py::arg("grad_y"), py::arg("x"), py::arg("lower"), py::arg("upper"));

  m.def("where_forward", &bind_where, py::arg("condition"), py::arg("x"), py::arg("y"));
  m.def("where_backward", &bind_where_backward, py::arg("grad"), py::arg("condition"));
  m.def(
      "addcmul_forward",
      [](const Object& x, const Object& y, const Object& z, double value, const Object& out) {
        return ternary("addcmul", x, y, z, out,
                       [=]<class T>(T, const StridedLoop<4>& loop) { addcmul_forward<T>(T(value), loop); });
      },
      py::arg("x"), py::arg("y"), py::arg("z"), py::arg("value"), py::arg("out") = py::none());
  m.def(
      "addcdiv_forward",
      [](const Object& x, const Object& y, const Object& z, double value, const Object& out) {
        return ternary("addcdiv", x, y, z, out,
                       [=]<class T>(T, const StridedLoop<4>& loop) { addcdiv_forward<T>(T(value), loop); });
      },
      py::arg("x"), py::arg("y"), py::arg("z"), py::arg("value"), py::arg("out") = py::none());
  m.def(
      "lerp_forward",
      [](const Object& x, const Object& y, const Object& z, const Object& out) {
        return ternary("lerp", x, y, z, out,
                       []<class T>(T, const StridedLoop<4>& loop) { lerp_forward<T>(loop); });
      },
      py::arg("x"), py::arg("y"), py::arg("z"), py::arg("out") = py::none());
}

}  // namespace fastdl::binding

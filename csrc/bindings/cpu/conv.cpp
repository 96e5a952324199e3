#include "cpu/conv/conv.h"

#include <array>

#include "bindings/cpu/array.h"
#include "cpu/conv/half.h"

namespace fastdl::binding {
namespace {

using Ints = std::vector<int64_t>;
using Needs = std::array<bool, 3>;
using OptionalArray = std::optional<py::array>;

int64_t work(const ConvProblem& p) {
  return int64_t(std::min(p.macs() / 8, 1e15));
}

template <class T>
Parameter<T> bias_of(const OptionalArray& bias, int64_t channels, const char* op, Half half) {
  if (bias && (bias->ndim() != 1 || bias->shape(0) != channels))
    throw py::value_error(std::string(op) + ": bias must have one entry per output channel");
  return Parameter<T>(bias, op, "bias", half);
}

// Of input, weight and bias: arrays for those that are needed, else None and a null pointer.
template <class T>
struct Gradients {
  std::array<py::object, 3> arrays{py::none(), py::none(), py::none()};
  std::array<T*, 3> data{};

  Gradients(Needs needs, Half half, const Shape& x, const Shape& weight, int64_t bias) {
    const Shape* shapes[] = {&x, &weight, nullptr};
    for (size_t i = 0; i < 3; ++i) {
      if (!needs[i]) continue;
      py::array array = empty_array(stored_dtype<T>(half), shapes[i] ? *shapes[i] : Shape{bias});
      data[i] = binding::data<T>(array);
      arrays[i] = array;
    }
  }
};

// The kernels by how numbers are stored.
template <class T>
void forward(Half half, const ConvProblem& p, T* y, const T* x, const T* w, const Computed<T>* bias) {
  if constexpr (std::is_same_v<T, uint16_t>)
    conv_forward_half(half, p, y, x, w, bias);
  else
    conv_forward<T>(p, y, x, w, bias);
}
template <class T>
void gradient_x(Half half, const ConvProblem& p, T* gx, const T* gy, const T* w, const Computed<T>* bias) {
  if constexpr (std::is_same_v<T, uint16_t>)
    conv_grad_x_half(half, p, gx, gy, w, bias);
  else
    conv_grad_x<T>(p, gx, gy, w, bias);
}
template <class T>
void gradient_w(Half half, const ConvProblem& p, T* gw, const T* gy, const T* x) {
  if constexpr (std::is_same_v<T, uint16_t>)
    conv_grad_w_half(half, p, gw, gy, x);
  else
    conv_grad_w<T>(p, gw, gy, x);
}
template <class T>
void gradient_bias(Half half, T* sums, const T* y, int64_t batch, int64_t channels, int64_t size) {
  if constexpr (std::is_same_v<T, uint16_t>)
    conv_grad_bias_half(half, sums, y, batch, channels, size);
  else
    conv_grad_bias<T>(sums, y, batch, channels, size);
}

void same_shape(const py::array& array, const Shape& shape, const char* op, const char* argument) {
  if (shape_of(array) != shape)
    throw py::value_error(std::string(op) + ": " + argument + " has the wrong shape");
}

// (batch, channels, extent...) with as many spatial axes as `like`.
Shape image_shape(int64_t batch, int64_t channels, const Extent& extent, const py::array& like) {
  Shape shape{batch, channels};
  for (py::ssize_t axis = kSpatial - (like.ndim() - 2); axis < kSpatial; ++axis)
    shape.push_back(extent[size_t(axis)]);
  return shape;
}

py::array bind_conv_forward(const py::array& x, const py::array& weight, const OptionalArray& bias,
                            Ints stride, Ints padding, Ints dilation, int64_t groups) {
  constexpr const char* op = "conv_forward";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half), w(weight, op, "weight", half);
    const ConvProblem p = conv_problem(op, in.shape(), w.shape(), {stride, padding, dilation, groups});
    const auto b = bias_of<T>(bias, p.out_channels, op, half);
    py::array y = empty_array(stored_dtype<T>(half), image_shape(p.batch, p.out_channels, p.out, x));
    KernelScope scope(work(p));
    forward<T>(half, p, data<T>(y), in, w, b);
    return y;
  });
}

py::tuple bind_conv_backward(const py::array& grad_y, const py::array& x, const py::array& weight,
                             Ints stride, Ints padding, Ints dilation, int64_t groups, Needs needs) {
  constexpr const char* op = "conv_backward";
  return by_stored(op, grad_y, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half), in(x, op, "x", half), w(weight, op, "weight", half);
    const ConvProblem p = conv_problem(op, in.shape(), w.shape(), {stride, padding, dilation, groups});
    same_shape(grad_y, image_shape(p.batch, p.out_channels, p.out, x), op, "grad_y");
    const Gradients<T> gradients(needs, half, in.shape(), w.shape(), p.out_channels);
    const auto [gx, gw, gb] = gradients.data;
    {
      KernelScope scope(work(p));
      if (gx) gradient_x<T>(half, p, gx, g, w, nullptr);
      if (gw) gradient_w<T>(half, p, gw, g, in);
      if (gb) gradient_bias<T>(half, gb, g, p.batch, p.out_channels, p.out_size());
    }
    return py::make_tuple(gradients.arrays[0], gradients.arrays[1], gradients.arrays[2]);
  });
}

// In the transposed functions x and grad_y have the roles of the problem's y and x.
py::array transpose_forward(const py::array& x, const py::array& weight, const OptionalArray& bias,
                            Ints stride, Ints padding, Ints output_padding, Ints dilation, int64_t groups) {
  constexpr const char* op = "conv_transpose_forward";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half), w(weight, op, "weight", half);
    const ConvProblem p = conv_transpose_problem(op, in.shape(), w.shape(),
                                                 {stride, padding, dilation, groups}, output_padding);
    const auto b = bias_of<T>(bias, p.in_channels, op, half);
    py::array y = empty_array(stored_dtype<T>(half), image_shape(p.batch, p.in_channels, p.in, x));
    KernelScope scope(work(p));
    gradient_x<T>(half, p, data<T>(y), in, w, b);
    return y;
  });
}

py::tuple transpose_backward(const py::array& grad_y, const py::array& x, const py::array& weight,
                             Ints stride, Ints padding, Ints dilation, int64_t groups, Needs needs) {
  constexpr const char* op = "conv_transpose_backward";
  return by_stored(op, grad_y, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half), in(x, op, "x", half), w(weight, op, "weight", half);
    const ConvProblem p = conv_transpose_gradient_problem(op, in.shape(), w.shape(),
                                                          {stride, padding, dilation, groups}, g.shape());
    const Gradients<T> gradients(needs, half, in.shape(), w.shape(), p.in_channels);
    const auto [gx, gw, gb] = gradients.data;
    {
      KernelScope scope(work(p));
      if (gx) forward<T>(half, p, gx, g, w, nullptr);
      if (gw) gradient_w<T>(half, p, gw, in, g);
      if (gb) gradient_bias<T>(half, gb, g, p.batch, p.in_channels, p.in_size());
    }
    return py::make_tuple(gradients.arrays[0], gradients.arrays[1], gradients.arrays[2]);
  });
}

ConvPass pass_of(const std::string& name) {
  if (name == "forward") return ConvPass::forward;
  if (name == "grad_x") return ConvPass::grad_x;
  if (name == "grad_weight") return ConvPass::grad_w;
  throw py::value_error("conv_choice: pass must be 'forward', 'grad_x' or 'grad_weight', got '" + name + "'");
}

}  // namespace

void register_conv(py::module_& m) {
  using py::arg;
  constexpr Needs all{true, true, true};
  m.def("conv_forward", &bind_conv_forward, arg("x"), arg("weight"), arg("bias").none(true), arg("stride"),
        arg("padding"), arg("dilation"), arg("groups"));
  m.def("conv_backward", &bind_conv_backward, arg("grad_y"), arg("x"), arg("weight"), arg("stride"),
        arg("padding"), arg("dilation"), arg("groups"), arg("needs") = all);
  m.def("conv_transpose_forward", &transpose_forward, arg("x"), arg("weight"), arg("bias").none(true),
        arg("stride"), arg("padding"), arg("output_padding"), arg("dilation"), arg("groups"));
  m.def("conv_transpose_backward", &transpose_backward, arg("grad_y"), arg("x"), arg("weight"), arg("stride"),
        arg("padding"), arg("dilation"), arg("groups"), arg("needs") = all);

  m.def("set_conv_algorithm", &set_conv_algorithm, arg("name"),
        "Force one convolution algorithm for this process, or 'auto'.");
  m.def("conv_algorithm", &conv_algorithm, "The setting of set_conv_algorithm.");
  m.def(
      "conv_algorithms",
      [](const Shape& x, const Shape& weight, Ints stride, Ints padding, Ints dilation, int64_t groups,
         bool wide) {
        const ConvProblem p = conv_problem("conv_algorithms", x, weight, {stride, padding, dilation, groups});
        return wide ? conv_algorithms<double>(p) : conv_algorithms<float>(p);
      },
      arg("x_shape"), arg("weight_shape"), arg("stride"), arg("padding"), arg("dilation"), arg("groups"),
      arg("float64") = false,
      "(name, why it refuses this problem or '') of every algorithm, in order of preference.");
  m.def(
      "conv_choice",
      [](const std::string& pass, const Shape& x, const Shape& weight, Ints stride, Ints padding,
         Ints dilation, int64_t groups, bool wide) {
        const ConvProblem p = conv_problem("conv_choice", x, weight, {stride, padding, dilation, groups});
        return wide ? conv_choice<double>(p, pass_of(pass)) : conv_choice<float>(p, pass_of(pass));
      },
      arg("direction"), arg("x_shape"), arg("weight_shape"), arg("stride"), arg("padding"), arg("dilation"),
      arg("groups"), arg("float64") = false,
      "Name of the algorithm that computes 'forward', 'grad_x' or 'grad_weight'.");
}

}  // namespace fastdl::binding

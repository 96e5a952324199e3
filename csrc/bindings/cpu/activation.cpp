#include "cpu/activation/activation.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "bindings/cpu/strided.h"
#include "cpu/layout.h"

namespace fastdl::binding {
namespace {

using Object = py::object;
using Parameters = std::array<double, kMaxActivationParameters>;

struct Entry {
  Activation function;
  const char* name;
  const char* saved;  // backward's second argument
  std::vector<const char*> parameters;
};

void check_sizes(const Entry& entry, int64_t grad_y, int64_t saved) {
  if (grad_y != saved)
    throw py::value_error(std::string(entry.name) + "_backward: grad_y and " + entry.saved +
                          " differ in size");
}

// A copy of an array whose elements lie as `strides` (those of a dense array; C order if there are none) say.
py::array reordered(const py::array& array, const Shape& strides) {
  const Shape shape = shape_of(array);
  std::vector<size_t> axes(shape.size());
  std::iota(axes.begin(), axes.end(), size_t{0});
  if (!strides.empty())
    std::stable_sort(axes.begin(), axes.end(), [&](size_t a, size_t b) { return strides[a] > strides[b]; });
  Shape extents, steps;
  for (size_t axis : axes) {
    extents.push_back(shape[axis]);
    steps.push_back(int64_t(array.strides(py::ssize_t(axis))));
  }
  py::array copy = empty_array(array.dtype(), shape, strides.empty() ? nullptr : strides.data());
  copy_strided(static_cast<char*>(copy.mutable_data()), static_cast<const char*>(array.data()),
               extents.data(), steps.data(), int(extents.size()), array.itemsize());
  return copy;
}

// Functions of single elements take arrays that are dense in another order than C's (transposed ones) as they
// lie, and their results lie alike.
template <class T>
struct Lying {
  Lying(const py::array& array, const char* op, const char* argument) : shape(shape_of(array)) {
    check_stored<T>(array, op, argument, Half::none);
    source = operand_of(array);
    other_order = order_of({{&source, int64_t(sizeof(T))}}, shape, sizeof(T), strides);
    if (other_order) return;
    strides.clear();
    in.emplace(array, op, argument);
  }
  const T* get() const { return other_order ? reinterpret_cast<const T*>(source.data) : in->get(); }
  bool copied() const { return !other_order && in->array().ptr() != source.owner.ptr(); }
  int64_t size() const { return size_of(shape); }
  py::array like() const { return empty_array(dtype_of<T>(), shape, other_order ? strides.data() : nullptr); }
  Shape shape, strides;
  Operand source;
  bool other_order;
  std::optional<In<T>> in;
};

template <class T>
void compute(const Entry& entry, T* y, const T* x, int64_t n, const Parameters& parameters, Half half) {
  KernelScope scope(n);
  if constexpr (std::is_same_v<T, uint16_t>) {
    const auto function = [&](float* y, const float* x, int64_t n) {
      activation_forward<float>(entry.function, y, x, n, parameters.data());
    };
    in_floats(half, y, n, function, x);
  } else {
    activation_forward<T>(entry.function, y, x, n, parameters.data());
  }
}

// Into the memory of `out`, which is x itself or apart from it.
py::array forward_into(const Entry& entry, const Object& given, const py::array& x,
                       const Parameters& parameters) {
  if (!is_array(given)) throw py::type_error(std::string(entry.name) + "_forward: out must be an array");
  auto out = py::reinterpret_borrow<py::array>(given);
  const Shape shape = shape_of(x);
  if (!is_plain(out) || !out.writeable() || shape_of(out) != shape || !out.dtype().equal(x.dtype()))
    throw py::value_error(std::string(entry.name) + "_forward: out must be writable, in C order, of shape " +
                          shape_text(shape) + " and of x's dtype");
  Operand source = operand_of(x);
  separate(operand_of(out), x.itemsize(), source, x.itemsize());
  const auto& apart = reinterpret_cast<const py::array&>(source.owner);
  const py::array in = is_plain(apart) ? apart : contiguous_copy(apart);
  by_stored(entry.name, in, [&]<class T>(T, Half half) {
    compute<T>(entry, data<T>(out), static_cast<const T*>(in.data()), in.size(), parameters, half);
  });
  return out;
}

py::array forward(const Entry& entry, const py::array& x, const Parameters& parameters, const Object& out) {
  if (!out.is_none()) return forward_into(entry, out, x, parameters);
  return by_stored(entry.name, x, [&]<class T>(T, Half half) {
    if constexpr (std::is_same_v<T, uint16_t>) {
      const In<T> in(x, entry.name, "x", half);
      py::array y = empty_array(half_dtype(half), in.shape());
      compute<T>(entry, data<T>(y), in, in.size(), parameters, half);
      return y;
    } else {
      const Lying<T> in(x, entry.name, "x");
      py::array y = in.copied() ? in.in->array() : in.like();  // a copy is ours to write over
      compute<T>(entry, data<T>(y), in.get(), in.size(), parameters, half);
      return y;
    }
  });
}

py::array backward(const Entry& entry, const py::array& grad_y, const py::array& saved,
                   const Parameters& parameters) {
  if (const Half half = half_of(saved); half != Half::none) {
    const In<uint16_t> g(grad_y, entry.name, "grad_y", half), kept(saved, entry.name, entry.saved, half);
    check_sizes(entry, g.size(), kept.size());
    py::array grad_x = empty_array(half_dtype(half), kept.shape());
    KernelScope scope(kept.size());
    const auto function = [&](float* grad_x, const float* grad_y, const float* saved, int64_t n) {
      activation_backward<float>(entry.function, grad_x, grad_y, saved, n, parameters.data());
    };
    in_floats(half, data<uint16_t>(grad_x), kept.size(), function, g.get(), kept.get());
    return grad_x;
  }
  return by_dtype(entry.name, saved, [&]<class T>(T) {
    const Lying<T> kept(saved, entry.name, entry.saved);
    std::optional<Lying<T>> g(std::in_place, grad_y, entry.name, "grad_y");
    check_sizes(entry, g->size(), kept.size());
    if ((g->other_order || kept.other_order) && g->strides != kept.strides) {
      if (g->shape != kept.shape)
        return backward(entry, contiguous_copy(grad_y), contiguous_copy(saved), parameters);
      g.emplace(reordered(grad_y, kept.strides), entry.name, "grad_y");
    }
    py::array grad_x = kept.like();
    KernelScope scope(kept.size());
    activation_backward<T>(entry.function, data<T>(grad_x), g->get(), kept.get(), kept.size(),
                           parameters.data());
    return grad_x;
  });
}

// Both kernels of one activation, with as many keyword parameters as it has.
void define(py::module_& m, const Entry& entry) {
  const std::string f = std::string(entry.name) + "_forward", b = std::string(entry.name) + "_backward";
  const auto x = py::arg("x"), g = py::arg("grad_y"), s = py::arg(entry.saved);
  const py::arg_v out = py::arg("out") = py::none();
  const auto& p = entry.parameters;
  switch (p.size()) {
    case 0:
      m.def(
          f.c_str(), [entry](const py::array& a, const Object& out) { return forward(entry, a, {}, out); }, x,
          out);
      m.def(
          b.c_str(), [entry](const py::array& a, const py::array& c) { return backward(entry, a, c, {}); }, g,
          s);
      break;
    case 1:
      m.def(
          f.c_str(),
          [entry](const py::array& a, double p0, const Object& out) { return forward(entry, a, {p0}, out); },
          x, py::arg(p[0]), out);
      m.def(
          b.c_str(),
          [entry](const py::array& a, const py::array& c, double p0) { return backward(entry, a, c, {p0}); },
          g, s, py::arg(p[0]));
      break;
    case 2:
      m.def(
          f.c_str(),
          [entry](const py::array& a, double p0, double p1, const Object& out) {
            return forward(entry, a, {p0, p1}, out);
          },
          x, py::arg(p[0]), py::arg(p[1]), out);
      m.def(
          b.c_str(),
          [entry](const py::array& a, const py::array& c, double p0, double p1) {
            return backward(entry, a, c, {p0, p1});
          },
          g, s, py::arg(p[0]), py::arg(p[1]));
      break;
    case 3:
      m.def(
          f.c_str(),
          [entry](const py::array& a, double p0, double p1, double p2, const Object& out) {
            return forward(entry, a, {p0, p1, p2}, out);
          },
          x, py::arg(p[0]), py::arg(p[1]), py::arg(p[2]), out);
      m.def(
          b.c_str(),
          [entry](const py::array& a, const py::array& c, double p0, double p1, double p2) {
            return backward(entry, a, c, {p0, p1, p2});
          },
          g, s, py::arg(p[0]), py::arg(p[1]), py::arg(p[2]));
      break;
  }
}

// x as (outer, channels, inner): channels is axis 1, as in PyTorch; a single weight takes all elements as its
// channel.
struct Channels {
  int64_t outer, channels, inner;
};
template <class T>
Channels channels_of(const In<T>& x, int64_t weights, const char* op) {
  if (weights == 1) return {1, 1, x.size()};
  const int64_t channels = x.ndim() >= 2 ? x.dim(1) : 1;
  if (weights != channels)
    throw py::value_error(std::string(op) + ": weight has " + std::to_string(weights) + " elements, x has " +
                          std::to_string(channels) + " channels");
  return {x.dim(0), channels, channels == 0 || x.dim(0) == 0 ? 0 : x.size() / (x.dim(0) * channels)};
}

py::array bind_prelu_forward(const py::array& x, const py::array& weight) {
  return by_dtype("prelu", x, [&]<class T>(T) {
    const In<T> in(x, "prelu", "x"), w(weight, "prelu", "weight");
    const Channels c = channels_of(in, w.size(), "prelu");
    py::array y = empty<T>(in.shape());
    KernelScope scope(in.size());
    prelu_forward<T>(data<T>(y), in, w, c.outer, c.channels, c.inner);
    return y;
  });
}

py::tuple bind_prelu_backward(const py::array& grad_y, const py::array& x, const py::array& weight,
                              bool need_x, bool need_weight) {
  return by_dtype("prelu_backward", x, [&]<class T>(T) {
    const In<T> g(grad_y, "prelu_backward", "grad_y"), in(x, "prelu_backward", "x"),
        w(weight, "prelu_backward", "weight");
    if (g.size() != in.size()) throw py::value_error("prelu_backward: grad_y and x differ in size");
    const Channels c = channels_of(in, w.size(), "prelu_backward");
    py::object grad_x = py::none(), grad_weight = py::none();
    T *gx = nullptr, *gw = nullptr;
    if (need_x) {
      py::array array = empty<T>(in.shape());
      gx = data<T>(array);
      grad_x = array;
    }
    if (need_weight) {
      py::array array = empty<T>(w.shape());
      gw = data<T>(array);
      grad_weight = array;
    }
    {
      KernelScope scope(in.size());
      prelu_backward<T>(gx, gw, g, in, w, c.outer, c.channels, c.inner);
    }
    return py::make_tuple(grad_x, grad_weight);
  });
}

// The halves of an operand along an axis, as operands of the shape of one.
struct Halves {
  Shape shape;
  Operand first, second;

  Halves(const Operand& x, int64_t dim) {
    if (dim < 0 || dim >= x.ndim) throw py::value_error("glu: dim out of range");
    if (x.shape[dim] % 2 != 0) throw py::value_error("glu: x must have an even size along dim");
    shape.assign(x.shape, x.shape + x.ndim);
    extents_.assign(x.shape, x.shape + x.ndim);
    extents_[size_t(dim)] = shape[size_t(dim)] /= 2;
    first = second = x;
    first.shape = second.shape = extents_.data();
    second.data += extents_[size_t(dim)] * x.strides[dim];
  }
  Halves(const Halves&) = delete;

 private:
  std::vector<py::ssize_t> extents_;
};

py::array bind_glu_forward(const py::array& x, int64_t dim) {
  return by_dtype_of("glu", {x}, [&]<class T>(T, Half half) {
    const Source<T> in(x, "glu", "x", half);
    const Halves halves(in, dim);
    Result<T> y("glu", halves.shape, Object(), {}, half);
    const auto loop = make_loop<3>(halves.shape, {y.operand(), &halves.first, &halves.second});
    launch(loop, [&] { glu_forward<T>(loop); });
    return y.array();
  });
}

py::array bind_glu_backward(const py::array& grad_y, const py::array& x, int64_t dim) {
  return by_dtype_of("glu_backward", {x}, [&]<class T>(T, Half half) {
    const Source<T> g(grad_y, "glu_backward", "grad_y", half), in(x, "glu_backward", "x", half);
    const Halves halves(in, dim);
    if (!std::equal(g.shape, g.shape + g.ndim, halves.shape.begin(), halves.shape.end()))
      throw py::value_error("glu_backward: grad_y must have the shape of one half of x");
    Result<T> grad_x("glu_backward", Shape(in.shape, in.shape + in.ndim), Object(), {}, half);
    const Halves grads(*grad_x.operand(), dim);
    const auto loop =
        make_loop<5>(halves.shape, {&grads.first, &grads.second, &g, &halves.first, &halves.second});
    launch(loop, [&] { glu_backward<T>(loop); });
    return grad_x.array();
  });
}

}  // namespace

void register_activation(py::module_& m) {
#define FASTDL_DEFINE(name, Functor, saved, ...) define(m, {Activation::name, #name, saved, {__VA_ARGS__}});
  FASTDL_FOR_EACH_ACTIVATION(FASTDL_DEFINE)
#undef FASTDL_DEFINE
  m.def("prelu_forward", &bind_prelu_forward, py::arg("x"), py::arg("weight"));
  m.def("prelu_backward", &bind_prelu_backward, py::arg("grad_y"), py::arg("x"), py::arg("weight"),
        py::arg("need_x") = true, py::arg("need_weight") = true);
  m.def("glu_forward", &bind_glu_forward, py::arg("x"), py::arg("dim"));
  m.def("glu_backward", &bind_glu_backward, py::arg("grad_y"), py::arg("x"), py::arg("dim"));
}

}  // namespace fastdl::binding

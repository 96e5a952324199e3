#include "cpu/random.h"

#include "bindings/cpu/array.h"
#include "cpu/dropout.h"

namespace fastdl::binding {
namespace {

// Calls f(float{}) or f(double{}) for a dtype.
template <class F>
auto by_dtype_of(const char* op, const py::dtype& dtype, F&& f) {
  if (dtype.equal(dtype_of<float>())) return f(float{});
  if (dtype.equal(dtype_of<double>())) return f(double{});
  throw py::type_error(std::string(op) + ": dtype must be float32 or float64, got " +
                       py::str(dtype).cast<std::string>());
}

py::array bind_random_uniform(const Shape& shape, const py::dtype& dtype, double low, double high,
                              uint64_t seed, uint64_t offset) {
  return by_dtype_of("random_uniform", dtype, [&]<class T>(T) {
    py::array y = empty<T>(shape);
    KernelScope scope(y.size());
    random_uniform<T>(data<T>(y), y.size(), low, high, {seed, offset});
    return y;
  });
}

py::array bind_random_normal(const Shape& shape, const py::dtype& dtype, double mean, double std,
                             uint64_t seed, uint64_t offset) {
  return by_dtype_of("random_normal", dtype, [&]<class T>(T) {
    py::array y = empty<T>(shape);
    KernelScope scope(y.size());
    random_normal<T>(data<T>(y), y.size(), mean, std, {seed, offset});
    return y;
  });
}

py::array bind_random_bernoulli(const py::array& p, uint64_t seed, uint64_t offset) {
  return by_dtype("random_bernoulli", p, [&]<class T>(T) {
    const In<T> in(p, "random_bernoulli", "p");
    py::array y = empty<T>(in.shape());
    KernelScope scope(in.size());
    random_bernoulli<T>(data<T>(y), in, in.size(), {seed, offset});
    return y;
  });
}

py::array bind_random_integers(const Shape& shape, int64_t low, int64_t high, uint64_t seed,
                               uint64_t offset) {
  if (low >= high) throw py::value_error("random_integers: low must be below high");
  py::array y = empty<int64_t>(shape);
  KernelScope scope(y.size());
  random_integers(data<int64_t>(y), y.size(), low, uint64_t(high) - uint64_t(low), {seed, offset});
  return y;
}

py::array bind_random_permutation(int64_t n, uint64_t seed, uint64_t offset) {
  py::array y = empty<int64_t>({n});
  KernelScope scope(n);
  random_permutation(data<int64_t>(y), n, {seed, offset});
  return y;
}

// The words 0 .. n - 1 of a stream: for tests, and for whoever wants to build something else on them.
py::array bind_philox_words(int64_t n, uint64_t seed, uint64_t offset) {
  py::array y = empty<uint32_t>({n});
  uint32_t* to = data<uint32_t>(y);
  const Philox philox{seed, offset};
  uint32_t words[4];
  for (int64_t i = 0; i < n; ++i) {
    if (i % 4 == 0) philox(uint64_t(i) / 4, words);
    to[i] = words[i % 4];
  }
  return y;
}

py::array apply_dropout(const char* op, const char* argument, const py::array& x, double p, double scale,
                        uint64_t seed, uint64_t offset, int64_t length, double kept_bias,
                        double dropped_bias) {
  if (!(p >= 0 && p <= 1)) throw py::value_error(std::string(op) + ": p must be between 0 and 1");
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, argument);
    py::array y = empty<T>(in.shape());
    if (in.size() == 0) return y;
    if (length < 1 || in.size() % length != 0)
      throw py::value_error(std::string(op) + ": length must divide the number of elements");
    KernelScope scope(in.size());
    dropout<T>(data<T>(y), in,
               {in.size() / length, length, p, scale, kept_bias, dropped_bias, {seed, offset}});
    return y;
  });
}

py::array bind_dropout_forward(const py::array& x, double p, double scale, uint64_t seed, uint64_t offset,
                               int64_t length, double kept_bias, double dropped_bias) {
  return apply_dropout("dropout_forward", "x", x, p, scale, seed, offset, length, kept_bias, dropped_bias);
}

py::array bind_dropout_backward(const py::array& grad_y, double p, double scale, uint64_t seed,
                                uint64_t offset, int64_t length) {
  return apply_dropout("dropout_backward", "grad_y", grad_y, p, scale, seed, offset, length, 0, 0);
}

py::array bind_rrelu_forward(const py::array& x, double lower, double upper, uint64_t seed, uint64_t offset) {
  return by_dtype("rrelu_forward", x, [&]<class T>(T) {
    const In<T> in(x, "rrelu_forward", "x");
    py::array y = empty<T>(in.shape());
    KernelScope scope(in.size());
    rrelu_forward<T>(data<T>(y), in, in.size(), lower, upper, {seed, offset});
    return y;
  });
}

py::array bind_rrelu_backward(const py::array& grad_y, const py::array& x, double lower, double upper,
                              uint64_t seed, uint64_t offset) {
  return by_dtype("rrelu_backward", x, [&]<class T>(T) {
    const In<T> g(grad_y, "rrelu_backward", "grad_y"), in(x, "rrelu_backward", "x");
    if (g.size() != in.size()) throw py::value_error("rrelu_backward: grad_y and x differ in size");
    py::array grad_x = empty<T>(in.shape());
    KernelScope scope(in.size());
    rrelu_backward<T>(data<T>(grad_x), g, in, in.size(), lower, upper, {seed, offset});
    return grad_x;
  });
}

}  // namespace

void register_random(py::module_& m) {
  const auto seed = py::arg("seed"), offset = py::arg("offset");
  m.def("random_uniform", &bind_random_uniform, py::arg("shape"), py::arg("dtype"), py::arg("low"),
        py::arg("high"), seed, offset);
  m.def("random_normal", &bind_random_normal, py::arg("shape"), py::arg("dtype"), py::arg("mean"),
        py::arg("std"), seed, offset);
  m.def("random_bernoulli", &bind_random_bernoulli, py::arg("p"), seed, offset);
  m.def("random_integers", &bind_random_integers, py::arg("shape"), py::arg("low"), py::arg("high"), seed,
        offset);
  m.def("random_permutation", &bind_random_permutation, py::arg("n"), seed, offset);
  m.def("philox_words", &bind_philox_words, py::arg("n"), seed, offset);
  m.def("dropout_forward", &bind_dropout_forward, py::arg("x"), py::arg("p"), py::arg("scale"), seed, offset,
        py::arg("length") = 1, py::arg("kept_bias") = 0.0, py::arg("dropped_bias") = 0.0);
  m.def("dropout_backward", &bind_dropout_backward, py::arg("grad_y"), py::arg("p"), py::arg("scale"), seed,
        offset, py::arg("length") = 1);
  m.def("rrelu_forward", &bind_rrelu_forward, py::arg("x"), py::arg("lower"), py::arg("upper"), seed, offset);
  m.def("rrelu_backward", &bind_rrelu_backward, py::arg("grad_y"), py::arg("x"), py::arg("lower"),
        py::arg("upper"), seed, offset);
}

}  // namespace fastdl::binding

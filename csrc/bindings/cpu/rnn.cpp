#include "cpu/rnn/rnn.h"
#include "cpu/gemm/bfloat16.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

using Arrays = std::vector<std::optional<py::array>>;
constexpr int kPerDirection = 5;  // w_ih, w_hh, b_ih, b_hh, w_hr

RnnCell cell_named(const std::string& name) {
  static constexpr std::pair<const char*, RnnCell> names[] = {{"rnn_tanh", RnnCell::tanh},
                                                              {"rnn_relu", RnnCell::relu},
                                                              {"lstm", RnnCell::lstm},
                                                              {"gru", RnnCell::gru},
                                                              {"gru_before", RnnCell::gru_before}};
  for (const auto& [known, value] : names)
    if (name == known) return value;
  throw py::value_error("rnn: cell must be rnn_tanh, rnn_relu, lstm, gru or gru_before, got '" + name + "'");
}

void check_shape(const py::array& array, const Shape& expected, const std::string& argument) {
  const Shape shape = shape_of(array);
  if (shape == expected) return;
  const auto text = [](const Shape& s) {
    std::string all = "(";
    for (size_t i = 0; i < s.size(); ++i) all += (i ? ", " : "") + std::to_string(s[i]);
    return all + ")";
  };
  throw py::value_error("rnn: " + argument + " must have shape " + text(expected) + ", got " + text(shape));
}
void check_shape(const std::optional<py::array>& array, const Shape& expected, const std::string& argument) {
  if (array) check_shape(*array, expected, argument);
}

RnnProblem problem_of(const std::string& cell, const py::array& x, const py::array& batch_sizes,
                      const Arrays& weights) {
  RnnProblem p{};
  p.cell = cell_named(cell);
  const size_t count = weights.size();
  if (count != kPerDirection && count != 2 * kPerDirection)
    throw py::value_error("rnn: weights must be 5 for each of 1 or 2 directions, got " +
                          std::to_string(count));
  p.directions = int(count) / kPerDirection;
  const In<int64_t> sizes(batch_sizes, "rnn", "batch_sizes");
  if (sizes.ndim() != 1 || sizes.size() == 0)
    throw py::value_error("rnn: batch_sizes must have one entry per step and at least one");
  p.batch_sizes.assign(sizes.get(), sizes.get() + sizes.size());
  p.starts.push_back(0);
  for (size_t t = 0; t < p.batch_sizes.size(); ++t) {
    const int64_t n = p.batch_sizes[t];
    if (n < 1 || (t > 0 && n > p.batch_sizes[t - 1]))
      throw py::value_error("rnn: batch_sizes must be positive and never rise, got " + std::to_string(n) +
                            " in step " + std::to_string(t));
    p.starts.push_back(p.starts.back() + n);
  }
  if (x.ndim() != 2 || x.shape(0) != p.rows())
    throw py::value_error("rnn: x must be (rows, input), with as many rows as batch_sizes add up to: " +
                          std::to_string(p.rows()));
  p.input = int64_t(x.shape(1));
  for (int d = 0; d < p.directions; ++d) {
    const auto* w = &weights[size_t(d * kPerDirection)];
    if (!w[0] || !w[1] || w[0]->ndim() != 2 || w[1]->ndim() != 2)
      throw py::value_error("rnn: w_ih and w_hh must be matrices");
    if (d == 0) {
      p.hidden = int64_t(w[1]->shape(0)) / p.gates();
      p.output = int64_t(w[1]->shape(1));
      if (p.hidden < 1 || p.output < 1) throw py::value_error("rnn: w_hh must not be empty");
    }
    const int64_t rows = p.gates() * p.hidden;
    check_shape(*w[0], {rows, p.input}, "w_ih");
    check_shape(*w[1], {rows, p.output}, "w_hh");
    if (bool(w[2]) != bool(w[3])) throw py::value_error("rnn: b_ih and b_hh must both be given, or neither");
    check_shape(w[2], {rows}, "b_ih");
    check_shape(w[3], {rows}, "b_hh");
    check_shape(w[4], {p.output, p.hidden}, "w_hr");
    if (bool(w[4]) != p.projected() || (p.projected() && p.cell != RnnCell::lstm))
      throw py::value_error(
          "rnn: w_hr must be given where an LSTM's w_hh has fewer columns than hidden units");
  }
  return p;
}

void check_states(const RnnProblem& p, const std::optional<py::array>& h, const std::optional<py::array>& c,
                  const std::optional<py::array>& mask, const char* h_name, const char* c_name) {
  const int64_t d = p.directions;
  check_shape(h, {d, p.batch(), p.output}, h_name);
  check_shape(c, {d, p.batch(), p.hidden}, c_name);
  check_shape(mask, {d, p.batch(), p.output}, "mask");
  if (p.cell != RnnCell::lstm && (c || mask))
    throw py::value_error(std::string("rnn: ") + c_name + " and mask are the LSTM's");
}

// Sequences whose steps wait for the weights, where two bytes a number are quicker anyhow.
constexpr int64_t kFewSequences = 3;

// f(T{}, S{}, half): what is computed in, and how x is stored. In half precision where the processor has
// products for it that are quicker: elsewhere the layer is float32's. The same in both passes.
template <class F>
py::tuple by_layer(const char* op, const py::array& x, const RnnProblem& p, F&& f) {
  if (half_of(x) == Half::bfloat16 &&
      (has_quick_pair_products() || (has_pair_products() && p.batch() <= kFewSequences)))
    return f(float{}, uint16_t{}, Half::bfloat16);
  return by_dtype(op, x, [&]<class T>(T) { return f(T{}, T{}, Half::none); });
}

// The weights of all directions, kept alive.
template <class T>
struct Weights {
  Weights(const Arrays& arrays, const char* op, Half half) {
    static constexpr const char* names[] = {"w_ih", "w_hh", "b_ih", "b_hh", "w_hr"};
    in.reserve(arrays.size());
    for (size_t i = 0; i < arrays.size(); ++i) in.emplace_back(arrays[i], op, names[i % kPerDirection], half);
    for (size_t d = 0; d * kPerDirection < in.size(); ++d) {
      const auto* w = &in[d * kPerDirection];
      of[d] = {w[0], w[1], w[2], w[3], w[4]};
    }
  }
  std::vector<OptionalIn<T>> in;
  RnnWeights<T> of[2]{};
};

template <class T>
T* make(py::object& into, const Shape& shape, Half half) {
  py::array made = empty_array(stored_dtype<T>(half), shape);
  into = made;
  return data<T>(made);
}

int64_t work(const RnnProblem& p) {
  return p.rows() * (p.input + p.output) * p.gates() * p.hidden / 16;
}

py::tuple bind_rnn_forward(const std::string& cell, const py::array& x, const py::array& batch_sizes,
                           const std::optional<py::array>& h0, const std::optional<py::array>& c0,
                           const Arrays& weights, const std::optional<py::array>& mask, bool keep) {
  constexpr const char* op = "rnn_forward";
  const RnnProblem p = problem_of(cell, x, batch_sizes, weights);
  return by_layer(op, x, p, [&]<class T, class S>(T, S, Half half) -> py::tuple {
    check_states(p, h0, c0, mask, "h0", "c0");
    const In<S> in(x, op, "x", half);
    const OptionalIn<S> h(h0, op, "h0", half), c(c0, op, "c0", half);
    const OptionalIn<T> m(mask, op, "mask");
    const Weights<S> w(weights, op, half);
    const int64_t D = p.directions, N = p.rows();
    const int64_t width = rnn_panel_width<T>(), groups = (p.hidden + width - 1) / width;
    py::object y = py::none(), h_n = py::none(), c_n = py::none(), gates = py::none(), cells = py::none();
    RnnForward<T, S> io{};
    io.y = make<S>(y, {N, D * p.output}, half), io.h_n = make<S>(h_n, {D, p.batch(), p.output}, half);
    if (p.cell == RnnCell::lstm) {
      io.c_n = make<S>(c_n, {D, p.batch(), p.hidden}, half);
      if (keep) io.cells = make<T>(cells, {D, groups, N, width}, Half::none);
    }
    if (keep && p.keeps_gates()) io.gates = make<T>(gates, {D, groups, p.columns(), N, width}, Half::none);
    io.x = in, io.h0 = h, io.c0 = c, io.mask = m;
    io.weights[0] = w.of[0], io.weights[1] = w.of[1];
    {
      KernelScope scope(work(p));
      rnn_forward(p, io);
    }
    return py::make_tuple(y, h_n, c_n, gates, cells);
  });
}

py::tuple bind_rnn_backward(const std::string& cell, const std::optional<py::array>& grad_y,
                            const std::optional<py::array>& grad_h_n,
                            const std::optional<py::array>& grad_c_n, const py::array& x,
                            const py::array& batch_sizes, const std::optional<py::array>& h0,
                            const std::optional<py::array>& c0, const Arrays& weights,
                            const std::optional<py::array>& mask, const py::array& y,
                            const std::optional<py::array>& gates, const std::optional<py::array>& cells,
                            bool need_x, bool need_state, bool need_weights) {
  constexpr const char* op = "rnn_backward";
  const RnnProblem p = problem_of(cell, x, batch_sizes, weights);
  return by_layer(op, x, p, [&]<class T, class S>(T, S, Half half) -> py::tuple {
    const int64_t D = p.directions, N = p.rows(), H = p.hidden;
    const bool lstm = p.cell == RnnCell::lstm;
    check_states(p, h0, c0, mask, "h0", "c0");
    check_states(p, grad_h_n, grad_c_n, {}, "grad_h_n", "grad_c_n");
    check_shape(y, {N, D * p.output}, "y");
    check_shape(grad_y, {N, D * p.output}, "grad_y");
    const int64_t width = rnn_panel_width<T>(), groups = (H + width - 1) / width;
    check_shape(gates, {D, groups, p.columns(), N, width}, "gates");
    check_shape(cells, {D, groups, N, width}, "cells");
    if (bool(gates) != p.keeps_gates() || bool(cells) != lstm)
      throw py::value_error("rnn_backward: gates and cells must be what rnn_forward returned with keep=True");
    const In<S> in(x, op, "x", half), out(y, op, "y", half);
    const OptionalIn<S> gy(grad_y, op, "grad_y", half), gh(grad_h_n, op, "grad_h_n", half),
        gc(grad_c_n, op, "grad_c_n", half), h(h0, op, "h0", half), c(c0, op, "c0", half);
    const OptionalIn<T> m(mask, op, "mask"), kept(gates, op, "gates"), cs(cells, op, "cells");
    const Weights<S> w(weights, op, half);
    RnnBackward<T, S> io{};
    py::object grad_x = py::none(), grad_h0 = py::none(), grad_c0 = py::none(), grad_weights = py::none();
    if (need_x) io.grad_x = make<S>(grad_x, {N, p.input}, half);
    io.grad_h0 = make<S>(grad_h0, {D, p.batch(), p.output}, half);
    if (lstm) io.grad_c0 = make<S>(grad_c0, {D, p.batch(), H}, half);
    if (need_weights) {
      py::list list;
      for (int d = 0; d < p.directions; ++d) {
        S** into[kPerDirection] = {&io.grad_weights[d].w_ih, &io.grad_weights[d].w_hh,
                                   &io.grad_weights[d].b_ih, &io.grad_weights[d].b_hh,
                                   &io.grad_weights[d].w_hr};
        for (int i = 0; i < kPerDirection; ++i) {
          const auto& weight = weights[size_t(d * kPerDirection + i)];
          py::object grad = py::none();
          if (weight) *into[i] = make<S>(grad, shape_of(*weight), half);
          list.append(grad);
        }
      }
      grad_weights = list;
    }
    io.need_state = need_state, io.need_weights = need_weights;
    io.grad_y = gy, io.grad_h_n = gh, io.grad_c_n = gc;
    io.x = in, io.h0 = h, io.c0 = c, io.mask = m, io.y = out, io.gates = kept, io.cells = cs;
    io.weights[0] = w.of[0], io.weights[1] = w.of[1];
    {
      KernelScope scope(work(p));
      rnn_backward(p, io);
    }
    if (!need_state) grad_h0 = py::none(), grad_c0 = py::none();
    return py::make_tuple(grad_x, grad_h0, grad_c0, grad_weights);
  });
}

}  // namespace

void register_rnn(py::module_& m) {
  using py::arg;
  m.def("rnn_forward", &bind_rnn_forward, arg("cell"), arg("x"), arg("batch_sizes"), arg("h0"), arg("c0"),
        arg("weights"), arg("mask"), arg("keep"));
  m.def("rnn_backward", &bind_rnn_backward, arg("cell"), arg("grad_y"), arg("grad_h_n"), arg("grad_c_n"),
        arg("x"), arg("batch_sizes"), arg("h0"), arg("c0"), arg("weights"), arg("mask"), arg("y"),
        arg("gates"), arg("cells"), arg("need_x"), arg("need_state"), arg("need_weights"));
}

}  // namespace fastdl::binding

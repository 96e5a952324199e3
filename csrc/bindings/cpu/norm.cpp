#include "cpu/norm/norm.h"

#include <algorithm>
#include <limits>

#include "bindings/cpu/array.h"
#include "cpu/linear.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

using Optional = std::optional<py::array>;

void require_size(const Optional& array, int64_t size, const char* op, const char* name) {
  if (array && array->size() != size)
    throw py::value_error(std::string(op) + ": " + name + " must have " + std::to_string(size) +
                          " elements, got " + std::to_string(array->size()));
}

// A gradient that may not be wanted: None and a null pointer then.
template <class T>
struct Wanted {
  py::object array = py::none();
  T* pointer = nullptr;
  Wanted(bool wanted, std::span<const int64_t> shape, Half half = Half::none) {
    if (!wanted) return;
    py::array made = empty_array(stored_dtype<T>(half), shape);
    pointer = data<T>(made);
    array = made;
  }
  Wanted(bool wanted, int64_t size) : Wanted(wanted, std::span<const int64_t>(&size, 1)) {}
  void fill(T value) {
    if (pointer) std::fill_n(pointer, py::reinterpret_borrow<py::array>(array).size(), value);
  }
};

// Numbers in half precision that are converted at a time where every piece has sums of its own: more than
// kHalfPiece.
constexpr int64_t kSumPiece = 32768;

// channels_in_floats, compiled once.
void convert_channels(Half half, const BatchNormProblem& p, uint16_t* y, const uint16_t* const* x, int inputs,
                      OnFloats run, const void* f) {
  constexpr int64_t kApart = 80;
  const int64_t size = p.batch * p.inner, threads = num_threads();
  if (p.channels < 2 * threads && size > kSumPiece) {
    const int64_t all = size * p.channels, step = all + kApart;
    const memory::Buffer<float> blocks(size_t(step * (inputs + 1)));
    const float* floats[kMostInputs];
    for (int k = 0; k < inputs; ++k) {
      floats[k] = blocks + (k + 1) * step;
      widen_all(blocks + (k + 1) * step, x[k], all, half);
    }
    run(f, 0, p.channels, blocks, floats);
    if (y) narrow_all(y, blocks, all, half);
    return;
  }
  const int64_t together = std::clamp<int64_t>(kSumPiece / size, 1, ceil_div(p.channels, threads));
  const int64_t groups = ceil_div(p.channels, together), step = size * together + kApart;
  parallel_for(groups, std::max<int64_t>(1, 16384 / (size * together)), [&](int64_t begin, int64_t end) {
    const memory::Buffer<float> blocks(size_t(step * (inputs + 1)));
    for (int64_t group = begin; group < end; ++group) {
      const int64_t c = group * together, count = std::min(together, p.channels - c),
                    run_of = count * p.inner;
      const float* floats[kMostInputs];
      for (int k = 0; k < inputs; ++k) {
        float* to = blocks + (k + 1) * step;
        floats[k] = to;
        for (int64_t i = 0; i < p.batch; ++i)
          widen(to + i * run_of, x[k] + (i * p.channels + c) * p.inner, run_of, half);
      }
      run(f, c, count, blocks, floats);
      for (int64_t i = 0; y && i < p.batch; ++i)
        narrow(y + (i * p.channels + c) * p.inner, blocks + i * run_of, run_of, half);
    }
  });
}

// f(first channel, channels, y, x...) for floats (batch, channels, inner), where y and x are stored in half
// precision: as many channels at a time as stay in cache between the passes of their kernel. Few large ones are
// converted as a whole.
template <class F, class... X>
void channels_in_floats(Half half, const BatchNormProblem& p, uint16_t* y, const F& f, const X*... x) {
  const uint16_t* const inputs[] = {x...};
  convert_channels(half, p, y, inputs, int(sizeof...(X)), &on_floats<F, X...>, &f);
}

template <class T>
T* behind(T* pointer, int64_t n) {
  return pointer ? pointer + n : nullptr;
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

BatchNormProblem batch_norm_problem(const py::array& x, double eps, const char* op) {
  require(x.ndim() >= 2, op, "x must have at least two dimensions (N, C, ...)");
  const int64_t outer = x.shape(0), channels = x.shape(1);
  return {outer, channels, x.size() == 0 ? 0 : int64_t(x.size()) / (outer * channels), eps};
}

py::tuple bind_batch_norm_forward(const py::array& x, const Optional& weight, const Optional& bias,
                                  double eps) {
  constexpr const char* op = "batch_norm_forward";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half);
    const Parameter<T> w(weight, op, "weight", half), b(bias, op, "bias", half);
    const BatchNormProblem problem = batch_norm_problem(in.array(), eps, op);
    require_size(weight, problem.channels, op, "weight");
    require_size(bias, problem.channels, op, "bias");
    py::array y = empty_array(stored_dtype<T>(half), in.shape()), mean = empty<double>({problem.channels}),
              var = empty<double>({problem.channels});
    double *m = data<double>(mean), *v = data<double>(var);
    if (in.size() == 0) {
      std::fill_n(m, problem.channels, kNan);
      std::fill_n(v, problem.channels, kNan);
    } else {
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2)
        channels_in_floats(
            half, problem, data<T>(y),
            [&](int64_t c, int64_t count, float* to, const float* from) {
              batch_norm_forward<float>(to, m + c, v + c, from, behind<const float>(w, c),
                                        behind<const float>(b, c),
                                        {problem.batch, count, problem.inner, eps});
            },
            in.get());
      else
        batch_norm_forward<T>(data<T>(y), m, v, in, w, b, problem);
    }
    return py::make_tuple(y, mean, var);
  });
}

py::array bind_batch_norm_inference(const py::array& x, const py::array& mean, const py::array& var,
                                    const Optional& weight, const Optional& bias, double eps) {
  constexpr const char* op = "batch_norm_inference";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half);
    const Parameter<T> w(weight, op, "weight", half), b(bias, op, "bias", half), m(mean, op, "mean", half),
        v(var, op, "var", half);
    const BatchNormProblem problem = batch_norm_problem(in.array(), eps, op);
    require_size(weight, problem.channels, op, "weight");
    require_size(bias, problem.channels, op, "bias");
    require_size(mean, problem.channels, op, "mean");
    require_size(var, problem.channels, op, "var");
    py::array y = empty_array(stored_dtype<T>(half), in.shape());
    if (in.size() > 0) {
      const Computed<T>*mean_of = m, *var_of = v;
      const std::vector<double> m64(mean_of, mean_of + problem.channels),
          v64(var_of, var_of + problem.channels);
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2)
        batch_norm_inference_stored(half, data<T>(y), in, m64.data(), v64.data(), w, b, problem);
      else
        batch_norm_inference<T>(data<T>(y), in, m64.data(), v64.data(), w, b, problem);
    }
    return y;
  });
}

py::tuple bind_batch_norm_backward(const py::array& grad_y, const py::array& x, const Optional& weight,
                                   const py::array& mean, const py::array& var, double eps, bool training,
                                   bool need_x, bool need_weight, bool need_bias) {
  constexpr const char* op = "batch_norm_backward";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half), in(x, op, "x", half);
    const Parameter<T> w(weight, op, "weight", half);
    const In<double> m(mean, op, "mean"), v(var, op, "var");
    const BatchNormProblem problem = batch_norm_problem(in.array(), eps, op);
    require(g.size() == in.size(), op, "grad_y and x differ in size");
    require(m.size() == problem.channels && v.size() == problem.channels, op,
            "mean and var must have one element per channel");
    require_size(weight, problem.channels, op, "weight");
    Wanted<T> gx(need_x, in.shape(), half);
    Wanted<Computed<T>> gw(need_weight, problem.channels), gb(need_bias, problem.channels);
    if (in.size() == 0) {
      gw.fill(0);
      gb.fill(0);
    } else {
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2)
        channels_in_floats(
            half, problem, gx.pointer,
            [&](int64_t c, int64_t count, float* to, const float* grad, const float* from) {
              batch_norm_backward<float>(gx.pointer ? to : nullptr, behind(gw.pointer, c),
                                         behind(gb.pointer, c), grad, from, behind<const float>(w, c),
                                         m.get() + c, v.get() + c, training,
                                         {problem.batch, count, problem.inner, eps});
            },
            g.get(), in.get());
      else
        batch_norm_backward<T>(gx.pointer, gw.pointer, gb.pointer, g, in, w, m, v, training, problem);
    }
    return py::make_tuple(gx.array, gw.array, gb.array);
  });
}

void update_one(const Optional& running, const py::array& statistic, double momentum, double factor) {
  constexpr const char* op = "update_running";
  if (!running) return;
  by_dtype(op, *running, [&]<class T>(T) {
    const In<double> s(statistic, op, "mean and var");
    py::array r = *running;
    require(r.ndim() == 1 && r.size() == s.size(), op, "running and batch's statistics differ in size");
    update_running<T>(static_cast<T*>(r.mutable_data()), r.strides(0) / int64_t(sizeof(T)), s, s.size(),
                      momentum, factor);
  });
}

void bind_update_running(const Optional& running_mean, const Optional& running_var, const py::array& mean,
                         const py::array& var, double momentum, double unbias, const Optional& batches) {
  if (batches && (!is_dtype<int64_t>(*batches) || batches->size() != 1))
    throw py::type_error("update_running: batches must be one int64");
  update_one(running_mean, mean, momentum, 1);
  update_one(running_var, var, momentum, unbias);
  if (batches) {
    py::array count = *batches;
    *static_cast<int64_t*>(count.mutable_data()) += 1;
  }
}

int64_t rows_of(int64_t size, int64_t length, const char* op) {
  require(length >= 1 && size % length == 0, op, "length must divide the number of elements of x");
  return size / length;
}

// `centred`: with a mean; else RMS norm, whose statistic is the mean square.
py::tuple layer_forward(const char* op, const py::array& x, const Optional& weight, const Optional& bias,
                        int64_t length, double eps, bool centred) {
  return by_stored(op, x, [&]<class T>(T, Half half) -> py::tuple {
    const In<T> in(x, op, "x", half);
    const Parameter<T> w(weight, op, "weight", half), b(bias, op, "bias", half);
    const int64_t rows = rows_of(in.size(), length, op);
    require_size(weight, length, op, "weight");
    require_size(bias, length, op, "bias");
    py::array y = empty_array(stored_dtype<T>(half), in.shape()), var = empty<double>({rows});
    Wanted<double> mean(centred, rows);
    double *m = mean.pointer, *v = data<double>(var);
    {
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2)
        rows_in_floats(
            half, data<T>(y), rows, length, kHalfPiece,
            [&](int64_t first, int64_t count, float* to, const float* from) {
              layer_norm_forward<float>(to, behind(m, first), v + first, from, w, b, count, length, eps);
            },
            in.get());
      else
        layer_norm_forward<T>(data<T>(y), m, v, in, w, b, rows, length, eps);
    }
    if (centred) return py::make_tuple(y, mean.array, var);
    return py::make_tuple(y, var);
  });
}

py::tuple bind_layer_norm_forward(const py::array& x, const Optional& weight, const Optional& bias,
                                  int64_t length, double eps) {
  return layer_forward("layer_norm_forward", x, weight, bias, length, eps, true);
}

py::tuple bind_rms_norm_forward(const py::array& x, const Optional& weight, int64_t length, double eps) {
  return layer_forward("rms_norm_forward", x, weight, std::nullopt, length, eps, false);
}

py::tuple layer_backward(const char* op, const py::array& grad_y, const py::array& x, const Optional& weight,
                         const Optional& mean, const py::array& var, int64_t length, double eps, bool need_x,
                         bool need_weight, bool need_bias) {
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half), in(x, op, "x", half);
    const Parameter<T> w(weight, op, "weight", half);
    const OptionalIn<double> m(mean, op, "mean");
    const In<double> v(var, op, "var");
    const int64_t rows = rows_of(in.size(), length, op);
    require(g.size() == in.size(), op, "grad_y and x differ in size");
    require(v.size() == rows && (!mean || mean->size() == rows), op,
            "statistics must have one element per row");
    require_size(weight, length, op, "weight");
    Wanted<T> gx(need_x, in.shape(), half);
    Wanted<Computed<T>> gw(need_weight, length), gb(need_bias, length);
    {
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2) {
        // Every piece has sums of its own, rows of a matrix for each of the two gradients.
        const int64_t step = std::clamp<int64_t>(kSumPiece / length, 1, std::max<int64_t>(1, rows));
        const int64_t pieces = (rows + step - 1) / step, size = pieces * length;
        const memory::Buffer<float> sums_w(size_t(gw.pointer ? size : 0)),
            sums_b(size_t(gb.pointer ? size : 0));
        const auto of = [&](const memory::Buffer<float>& sums, int64_t first) {
          return behind(sums.get(), first / step * length);
        };
        rows_in_floats(
            half, gx.pointer, rows, length, kSumPiece,
            [&](int64_t first, int64_t count, float* to, const float* grad, const float* from) {
              layer_norm_backward<float>(gx.pointer ? to : nullptr, of(sums_w, first), of(sums_b, first),
                                         grad, from, w, behind<const double>(m, first), v.get() + first,
                                         count, length, eps);
            },
            g.get(), in.get());
        if (gw.pointer) sum_rows<float>(pieces, length, matrix<float>(sums_w.get(), length), gw.pointer);
        if (gb.pointer) sum_rows<float>(pieces, length, matrix<float>(sums_b.get(), length), gb.pointer);
      } else {
        layer_norm_backward<T>(gx.pointer, gw.pointer, gb.pointer, g, in, w, m, v, rows, length, eps);
      }
    }
    return py::make_tuple(gx.array, gw.array, gb.array);
  });
}

py::tuple bind_rms_norm_backward(const py::array& grad_y, const py::array& x, const Optional& weight,
                                 const py::array& square, int64_t length, double eps, bool need_x,
                                 bool need_weight) {
  const py::tuple grads = layer_backward("rms_norm_backward", grad_y, x, weight, std::nullopt, square, length,
                                         eps, need_x, need_weight, false);
  return py::make_tuple(grads[0], grads[1]);
}

py::tuple bind_layer_norm_backward(const py::array& grad_y, const py::array& x, const Optional& weight,
                                   const py::array& mean, const py::array& var, int64_t length, double eps,
                                   bool need_x, bool need_weight, bool need_bias) {
  return layer_backward("layer_norm_backward", grad_y, x, weight, mean, var, length, eps, need_x, need_weight,
                        need_bias);
}

GroupNormProblem group_norm_problem(const py::array& x, int64_t groups, double eps, const char* op) {
  require(x.ndim() >= 2, op, "x must have at least two dimensions (N, C, ...)");
  require(groups >= 1 && x.shape(1) % groups == 0, op, "groups must divide the number of channels");
  const int64_t batch = x.shape(0), channels = x.shape(1);
  return {batch, groups, channels / groups, x.size() == 0 ? 0 : int64_t(x.size()) / (batch * channels), eps};
}

py::tuple bind_group_norm_forward(const py::array& x, const Optional& weight, const Optional& bias,
                                  int64_t groups, double eps) {
  constexpr const char* op = "group_norm_forward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    const OptionalIn<T> w(weight, op, "weight"), b(bias, op, "bias");
    const GroupNormProblem problem = group_norm_problem(in.array(), groups, eps, op);
    require_size(weight, in.dim(1), op, "weight");
    require_size(bias, in.dim(1), op, "bias");
    py::array y = empty<T>(in.shape()), mean = empty<double>({problem.batch, groups}),
              var = empty<double>({problem.batch, groups});
    if (in.size() == 0) {
      std::fill_n(data<double>(mean), mean.size(), kNan);
      std::fill_n(data<double>(var), var.size(), kNan);
    } else {
      KernelScope scope(in.size());
      group_norm_forward<T>(data<T>(y), data<double>(mean), data<double>(var), in, w, b, problem);
    }
    return py::make_tuple(y, mean, var);
  });
}

py::tuple bind_group_norm_backward(const py::array& grad_y, const py::array& x, const Optional& weight,
                                   const py::array& mean, const py::array& var, int64_t groups, double eps,
                                   bool need_x, bool need_weight, bool need_bias) {
  constexpr const char* op = "group_norm_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y"), in(x, op, "x");
    const OptionalIn<T> w(weight, op, "weight");
    const In<double> m(mean, op, "mean"), v(var, op, "var");
    const GroupNormProblem problem = group_norm_problem(in.array(), groups, eps, op);
    require(g.size() == in.size(), op, "grad_y and x differ in size");
    require(m.size() == problem.batch * groups && v.size() == m.size(), op,
            "mean and var must have one element per group of every sample");
    require_size(weight, in.dim(1), op, "weight");
    Wanted<T> gx(need_x, in.shape()), gw(need_weight, in.dim(1)), gb(need_bias, in.dim(1));
    if (in.size() == 0) {
      gw.fill(0);
      gb.fill(0);
    } else {
      KernelScope scope(in.size());
      group_norm_backward<T>(gx.pointer, gw.pointer, gb.pointer, g, in, w, m, v, problem);
    }
    return py::make_tuple(gx.array, gw.array, gb.array);
  });
}

LocalResponseProblem local_response_problem(const py::array& x, int64_t size, double alpha, double beta,
                                            double k, const char* op) {
  require(x.ndim() >= 2, op, "x must have at least two dimensions (N, C, ...)");
  require(size >= 1, op, "size must be positive");
  const int64_t batch = x.shape(0), channels = x.shape(1);
  return {batch, channels, x.size() == 0 ? 0 : int64_t(x.size()) / (batch * channels), size, alpha, beta, k};
}

py::array bind_local_response_forward(const py::array& x, int64_t size, double alpha, double beta, double k) {
  constexpr const char* op = "local_response_norm_forward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    const LocalResponseProblem problem = local_response_problem(in.array(), size, alpha, beta, k, op);
    py::array y = empty<T>(in.shape());
    if (in.size() > 0) {
      KernelScope scope(in.size());
      local_response_forward<T>(data<T>(y), in, problem);
    }
    return y;
  });
}

py::array bind_local_response_backward(const py::array& grad_y, const py::array& x, int64_t size,
                                       double alpha, double beta, double k) {
  constexpr const char* op = "local_response_norm_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y"), in(x, op, "x");
    require(g.size() == in.size(), op, "grad_y and x differ in size");
    const LocalResponseProblem problem = local_response_problem(in.array(), size, alpha, beta, k, op);
    py::array grad_x = empty<T>(in.shape());
    if (in.size() > 0) {
      KernelScope scope(in.size());
      local_response_backward<T>(data<T>(grad_x), g, in, problem);
    }
    return grad_x;
  });
}

}  // namespace

void register_norm(py::module_& m) {
  const auto x = py::arg("x"), g = py::arg("grad_y"), weight = py::arg("weight"), bias = py::arg("bias"),
             mean = py::arg("mean"), var = py::arg("var"), eps = py::arg("eps"), length = py::arg("length"),
             groups = py::arg("groups"), need_x = py::arg("need_x"), need_weight = py::arg("need_weight"),
             need_bias = py::arg("need_bias");
  m.def("batch_norm_forward", &bind_batch_norm_forward, x, weight, bias, eps);
  m.def("batch_norm_inference", &bind_batch_norm_inference, x, mean, var, weight, bias, eps);
  m.def("batch_norm_backward", &bind_batch_norm_backward, g, x, weight, mean, var, eps, py::arg("training"),
        need_x, need_weight, need_bias);
  m.def("update_running", &bind_update_running, py::arg("running_mean"), py::arg("running_var"), mean, var,
        py::arg("momentum"), py::arg("unbias"), py::arg("batches"));
  m.def("layer_norm_forward", &bind_layer_norm_forward, x, weight, bias, length, eps);
  m.def("layer_norm_backward", &bind_layer_norm_backward, g, x, weight, mean, var, length, eps, need_x,
        need_weight, need_bias);
  m.def("rms_norm_forward", &bind_rms_norm_forward, x, weight, length, eps);
  m.def("rms_norm_backward", &bind_rms_norm_backward, g, x, weight, py::arg("square"), length, eps, need_x,
        need_weight);
  m.def("group_norm_forward", &bind_group_norm_forward, x, weight, bias, groups, eps);
  m.def("group_norm_backward", &bind_group_norm_backward, g, x, weight, mean, var, groups, eps, need_x,
        need_weight, need_bias);
  const auto size = py::arg("size"), alpha = py::arg("alpha"), beta = py::arg("beta"), k = py::arg("k");
  m.def("local_response_norm_forward", &bind_local_response_forward, x, size, alpha, beta, k);
  m.def("local_response_norm_backward", &bind_local_response_backward, g, x, size, alpha, beta, k);
}

}  // namespace fastdl::binding

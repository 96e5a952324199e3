// Pooling, as Python sees it. The spatial rank is the length of `kernel` (or `size`); all axes before the
// spatial ones are planes. Geometry arrives validated with messages for people; here it is checked again so
// far that no call can read or write outside its arrays.
#include "cpu/pool/pool.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

using Sizes = std::vector<int64_t>;

// `spatial` goes in as the last rank extents of the input; the planes are all extents before.
PoolProblem problem(const char* op, const Shape& leading, const Sizes& in, const Sizes& out) {
  const size_t rank = in.size();
  if (rank < 1 || rank > 3 || out.size() != rank)
    raise(op, "needs 1 to 3 spatial axes, as many of input as of output");
  PoolProblem p;
  p.planes = size_of(leading);
  PoolAxis* axes[3] = {&p.d, &p.h, &p.w};
  for (size_t i = 0; i < rank; ++i) {
    PoolAxis& axis = *axes[3 - rank + i];
    axis.in = in[i];
    axis.out = out[i];
    if (in[i] < 0 || out[i] < 0 || in[i] >= kLargest || out[i] >= kLargest)
      raise(op, "sizes must lie in [0, 2^31)");
  }
  return p;
}

void set_windows(const char* op, PoolProblem& p, const Sizes& kernel, const Sizes& stride,
                 const Sizes& padding, const Sizes& dilation) {
  const size_t rank = kernel.size();
  if (stride.size() != rank || padding.size() != rank || dilation.size() != rank)
    raise(op, "kernel, stride, padding and dilation differ in length");
  PoolAxis* axes[3] = {&p.d, &p.h, &p.w};
  for (size_t i = 0; i < rank; ++i) {
    PoolAxis& a = *axes[3 - rank + i];
    for (int64_t value : {kernel[i], stride[i], dilation[i]})
      if (value < 1 || value >= kLargest) raise(op, "kernel, stride and dilation must lie in [1, 2^31)");
    a.kernel = kernel[i];
    a.stride = stride[i];
    a.pad = padding[i];
    a.dilation = dilation[i];
    const int64_t reach = (a.kernel - 1) * a.dilation + 1;
    if (reach >= kLargest || a.pad < 0 || 2 * a.pad > reach)
      raise(op, "padding must lie between 0 and half of the window");
    if (a.out > 0 && a.start(a.out - 1) >= a.in) raise(op, "the last window starts behind the input");
  }
  if (p.d.kernel * p.h.kernel >= kLargest || p.d.kernel * p.h.kernel * p.w.kernel >= kLargest)
    raise(op, "a window may have less than 2^31 taps");
}

struct Split {
  Shape leading;
  Sizes spatial;
};
Split split_shape(const char* op, const py::array& x, size_t rank) {
  const Shape shape = shape_of(x);
  if (shape.size() < rank) raise(op, "input has fewer axes than the window");
  return {Shape(shape.begin(), shape.end() - std::ptrdiff_t(rank)),
          Sizes(shape.end() - std::ptrdiff_t(rank), shape.end())};
}
Shape joined(Shape leading, const Sizes& spatial) {
  leading.insert(leading.end(), spatial.begin(), spatial.end());
  return leading;
}

template <class F>
auto by_offset(const PoolProblem& p, F&& f) {
  return p.taps() <= 256 ? f(uint8_t{}) : f(int32_t{});
}

py::tuple bind_max_pool_forward(const py::array& x, const Sizes& kernel, const Sizes& stride,
                                const Sizes& padding, const Sizes& dilation, const Sizes& output, bool save) {
  constexpr const char* op = "max_pool_forward";
  const Split shape = split_shape(op, x, kernel.size());
  PoolProblem p = problem(op, shape.leading, shape.spatial, output);
  set_windows(op, p, kernel, stride, padding, dilation);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(joined(shape.leading, output));
    return by_offset(p, [&]<class Offset>(Offset) {
      py::object offsets = py::none();
      Offset* to = nullptr;
      if (save) {
        py::array array = empty<Offset>(joined(shape.leading, output));
        to = data<Offset>(array);
        offsets = std::move(array);
      }
      {
        KernelScope scope(in.size());
        max_pool_forward<T, Offset>(data<T>(y), to, in, p);
      }
      return py::make_tuple(std::move(y), std::move(offsets));
    });
  });
}

py::array bind_max_pool_backward(const py::array& grad_y, const py::array& offsets, const Sizes& size,
                                 const Sizes& kernel, const Sizes& stride, const Sizes& padding,
                                 const Sizes& dilation) {
  constexpr const char* op = "max_pool_backward";
  const Split shape = split_shape(op, grad_y, kernel.size());
  PoolProblem p = problem(op, shape.leading, size, shape.spatial);
  set_windows(op, p, kernel, stride, padding, dilation);
  return by_dtype(op, grad_y, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y");
    py::array grad_x = empty<T>(joined(shape.leading, size));
    by_offset(p, [&]<class Offset>(Offset) {
      const In<Offset> saved(offsets, op, "offsets");
      if (saved.size() != g.size()) raise(op, "grad_y and offsets differ in size");
      KernelScope scope(p.planes * p.in_plane());
      max_pool_backward<T, Offset>(data<T>(grad_x), g, saved, p);
    });
    return grad_x;
  });
}

py::array bind_max_pool_indices(const py::array& offsets, const Sizes& size, const Sizes& kernel,
                                const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  constexpr const char* op = "max_pool_indices";
  const Split shape = split_shape(op, offsets, kernel.size());
  PoolProblem p = problem(op, shape.leading, size, shape.spatial);
  set_windows(op, p, kernel, stride, padding, dilation);
  return by_offset(p, [&]<class Offset>(Offset) {
    const In<Offset> saved(offsets, op, "offsets");
    py::array indices = empty<int64_t>(saved.shape());
    KernelScope scope(saved.size());
    max_pool_indices<Offset>(data<int64_t>(indices), saved, p);
    return indices;
  });
}

py::array bind_avg_pool_forward(const py::array& x, const Sizes& kernel, const Sizes& stride,
                                const Sizes& padding, const Sizes& output, bool count_include_pad,
                                std::optional<int64_t> divisor) {
  constexpr const char* op = "avg_pool_forward";
  const Split shape = split_shape(op, x, kernel.size());
  PoolProblem p = problem(op, shape.leading, shape.spatial, output);
  set_windows(op, p, kernel, stride, padding, Sizes(kernel.size(), 1));
  if (divisor == 0) raise(op, "divisor must not be 0");
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(joined(shape.leading, output));
    KernelScope scope(in.size());
    avg_pool_forward<T>(data<T>(y), in, p, count_include_pad, divisor.value_or(0));
    return y;
  });
}

py::array bind_avg_pool_backward(const py::array& grad_y, const Sizes& size, const Sizes& kernel,
                                 const Sizes& stride, const Sizes& padding, bool count_include_pad,
                                 std::optional<int64_t> divisor) {
  constexpr const char* op = "avg_pool_backward";
  const Split shape = split_shape(op, grad_y, kernel.size());
  PoolProblem p = problem(op, shape.leading, size, shape.spatial);
  set_windows(op, p, kernel, stride, padding, Sizes(kernel.size(), 1));
  if (divisor == 0) raise(op, "divisor must not be 0");
  return by_dtype(op, grad_y, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y");
    py::array grad_x = empty<T>(joined(shape.leading, size));
    KernelScope scope(p.planes * p.in_plane());
    avg_pool_backward<T>(data<T>(grad_x), g, p, count_include_pad, divisor.value_or(0));
    return grad_x;
  });
}

PoolProblem adaptive_problem(const char* op, const Shape& leading, const Sizes& in, const Sizes& out) {
  const PoolProblem p = problem(op, leading, in, out);
  if (p.in_plane() == 0 && p.out_plane() > 0) raise(op, "the input's spatial axes must not be empty");
  return p;
}

py::array bind_adaptive_avg_pool_forward(const py::array& x, const Sizes& output) {
  constexpr const char* op = "adaptive_avg_pool_forward";
  const Split shape = split_shape(op, x, output.size());
  const PoolProblem p = adaptive_problem(op, shape.leading, shape.spatial, output);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(joined(shape.leading, output));
    KernelScope scope(in.size());
    adaptive_avg_pool_forward<T>(data<T>(y), in, p);
    return y;
  });
}

py::array bind_adaptive_avg_pool_backward(const py::array& grad_y, const Sizes& size) {
  constexpr const char* op = "adaptive_avg_pool_backward";
  const Split shape = split_shape(op, grad_y, size.size());
  const PoolProblem p = adaptive_problem(op, shape.leading, size, shape.spatial);
  return by_dtype(op, grad_y, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y");
    py::array grad_x = empty<T>(joined(shape.leading, size));
    KernelScope scope(p.planes * p.in_plane());
    adaptive_avg_pool_backward<T>(data<T>(grad_x), g, p);
    return grad_x;
  });
}

py::tuple bind_adaptive_max_pool_forward(const py::array& x, const Sizes& output) {
  constexpr const char* op = "adaptive_max_pool_forward";
  const Split shape = split_shape(op, x, output.size());
  const PoolProblem p = adaptive_problem(op, shape.leading, shape.spatial, output);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(joined(shape.leading, output)),
              indices = empty<int64_t>(joined(shape.leading, output));
    {
      KernelScope scope(in.size());
      adaptive_max_pool_forward<T>(data<T>(y), data<int64_t>(indices), in, p);
    }
    return py::make_tuple(std::move(y), std::move(indices));
  });
}

enum class Access { scatter, scatter_add, gather };

// x and y over planes of `n` values and `positions` places: which is which depends on the direction.
template <Access kAccess>
py::array by_index(const char* op, const py::array& x, const py::array& indices, const Sizes& size,
                   size_t rank) {
  const Split shape = split_shape(op, indices, rank);
  const int64_t planes = size_of(shape.leading), n = size_of(shape.spatial);
  for (int64_t extent : size)
    if (extent < 0 || extent >= kLargest) raise(op, "sizes must lie in [0, 2^31)");
  const int64_t positions = size_of(size);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, kAccess == Access::scatter ? "x" : "grad_y");
    const In<int64_t> at(indices, op, "indices");
    if (in.size() != planes * (kAccess == Access::gather ? positions : n))
      raise(op, "indices do not fit the input");
    py::array y = empty<T>(joined(shape.leading, kAccess == Access::gather ? shape.spatial : size));
    int64_t bad;
    {
      KernelScope scope(planes * (n + positions));
      if constexpr (kAccess == Access::scatter)
        bad = scatter_planes<T>(data<T>(y), in, at, planes, n, positions);
      else if constexpr (kAccess == Access::scatter_add)
        bad = scatter_add_planes<T>(data<T>(y), in, at, planes, n, positions);
      else
        bad = gather_planes<T>(data<T>(y), in, at, planes, n, positions);
    }
    if (bad >= 0)
      throw py::index_error(std::string(op) + ": indices[" + std::to_string(bad) + "] (flattened) is " +
                            std::to_string(at[bad]) + ", outside of a plane of " + std::to_string(positions) +
                            " positions");
    return y;
  });
}

py::array bind_max_unpool_forward(const py::array& x, const py::array& indices, const Sizes& output) {
  return by_index<Access::scatter>("max_unpool", x, indices, output, output.size());
}
py::array bind_max_unpool_backward(const py::array& grad_y, const py::array& indices, size_t rank) {
  const Split shape = split_shape("max_unpool_backward", grad_y, rank);
  return by_index<Access::gather>("max_unpool_backward", grad_y, indices, shape.spatial, rank);
}
py::array bind_adaptive_max_pool_backward(const py::array& grad_y, const py::array& indices,
                                          const Sizes& size) {
  return by_index<Access::scatter_add>("adaptive_max_pool_backward", grad_y, indices, size, size.size());
}

}  // namespace

void register_pool(py::module_& m) {
  using py::arg;
  m.def("max_pool_forward", &bind_max_pool_forward, arg("x"), arg("kernel"), arg("stride"), arg("padding"),
        arg("dilation"), arg("output"), arg("save"));
  m.def("max_pool_backward", &bind_max_pool_backward, arg("grad_y"), arg("offsets"), arg("size"),
        arg("kernel"), arg("stride"), arg("padding"), arg("dilation"));
  m.def("max_pool_indices", &bind_max_pool_indices, arg("offsets"), arg("size"), arg("kernel"), arg("stride"),
        arg("padding"), arg("dilation"));
  m.def("avg_pool_forward", &bind_avg_pool_forward, arg("x"), arg("kernel"), arg("stride"), arg("padding"),
        arg("output"), arg("count_include_pad"), arg("divisor"));
  m.def("avg_pool_backward", &bind_avg_pool_backward, arg("grad_y"), arg("size"), arg("kernel"),
        arg("stride"), arg("padding"), arg("count_include_pad"), arg("divisor"));
  m.def("adaptive_avg_pool_forward", &bind_adaptive_avg_pool_forward, arg("x"), arg("output"));
  m.def("adaptive_avg_pool_backward", &bind_adaptive_avg_pool_backward, arg("grad_y"), arg("size"));
  m.def("adaptive_max_pool_forward", &bind_adaptive_max_pool_forward, arg("x"), arg("output"));
  m.def("adaptive_max_pool_backward", &bind_adaptive_max_pool_backward, arg("grad_y"), arg("indices"),
        arg("size"));
  m.def("max_unpool_forward", &bind_max_unpool_forward, arg("x"), arg("indices"), arg("output"));
  m.def("max_unpool_backward", &bind_max_unpool_backward, arg("grad_y"), arg("indices"), arg("rank"));
}

}  // namespace fastdl::binding

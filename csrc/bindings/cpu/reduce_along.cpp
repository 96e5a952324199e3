// Reductions along one axis, or over the flattened array when `axis` is None: extremes with their places,
// counts, sums of integers, and running results.
#include "bindings/cpu/array.h"
#include "cpu/half.h"
#include "cpu/reduce.h"

namespace fastdl::binding {
namespace {

// One axis of a C-order array, or all of it flattened, as (outer, n, inner); and the shape without it.
struct Along {
  int64_t outer = 1, n, inner = 1;
  Shape shape;

  template <class T>
  Along(const char* op, const In<T>& in, std::optional<int64_t> axis, bool keepdim) : n(in.size()) {
    if (!axis) {
      if (keepdim) shape.assign(size_t(in.ndim()), 1);
      return;
    }
    const int64_t at = *axis < 0 ? *axis + in.ndim() : *axis;
    if (at < 0 || at >= in.ndim())
      throw py::index_error(std::string(op) + ": axis " + std::to_string(*axis) + " of an array with " +
                            std::to_string(in.ndim()) + " axes");
    n = in.dim(int(at));
    for (int a = 0; a < in.ndim(); ++a) {
      if (a != at) (a < at ? outer : inner) *= in.dim(a);
      if (a != at)
        shape.push_back(in.dim(a));
      else if (keepdim)
        shape.push_back(1);
    }
  }
};

// Values and first places of the extremes along `axis`, or of the flattened array when it is None.
template <bool largest>
py::tuple bind_extreme(const py::array& x, std::optional<int64_t> axis, bool keepdim) {
  constexpr const char* name = largest ? "max" : "min";
  const auto run = [&]<class T>(T, Half half) {
    const In<T> in(x, name, "x", half);
    const Along a(name, in, axis, keepdim);
    if (a.n == 0 && a.outer * a.inner > 0)
      throw py::value_error(std::string(name) + ": no elements to choose from");
    py::array values = empty_array(stored_dtype<T>(half), a.shape), indices = empty<int64_t>(a.shape);
    if (a.n > 0) {
      KernelScope scope(in.size());
      if constexpr (sizeof(T) == 2)
        rows_in_floats(
            half, nullptr, a.outer, a.n * a.inner, kHalfPiece,
            [&](int64_t first, int64_t count, float* found,
                const float* floats) {  // found: as long as floats
              extreme_index<float>(largest, floats, count, a.n, a.inner, found,
                                   data<int64_t>(indices) + first * a.inner);
              narrow(data<T>(values) + first * a.inner, found, count * a.inner, half);
            },
            in.get());
      else
        extreme_index<T>(largest, in, a.outer, a.n, a.inner, data<T>(values), data<int64_t>(indices));
    }
    return py::make_tuple(std::move(values), std::move(indices));
  };
  if (is_dtype<int64_t>(x)) return run(int64_t{}, Half::none);
  return by_stored(name, x, run);
}

py::array bind_count_true(const py::array& x, std::optional<int64_t> axis, bool keepdim) {
  const In<bool> in(x, "count_true", "x");
  const Along a("count_true", in, axis, keepdim);
  py::array counts = empty<int64_t>(a.shape);
  KernelScope scope(in.size());
  count_true(data<int64_t>(counts), reinterpret_cast<const uint8_t*>(in.get()), a.outer, a.n, a.inner);
  return counts;
}

py::array bind_sum_integers(const py::array& x, std::optional<int64_t> axis, bool keepdim, bool product) {
  const auto run = [&]<class T>(T) {
    const In<T> in(x, "sum_integers", "x");
    const Along a("sum_integers", in, axis, keepdim);
    py::array sums = empty<int64_t>(a.shape);
    KernelScope scope(in.size());
    sum_integers<T>(product, data<int64_t>(sums), in, a.outer, a.n, a.inner);
    return sums;
  };
  return is_dtype<int32_t>(x) ? run(int32_t{}) : run(int64_t{});
}

// kernel(T{}, y, x, a) for float, double and int64.
template <class F>
py::array running(const char* name, const py::array& x, int64_t axis, F&& kernel) {
  const auto run = [&]<class T>(T) {
    const In<T> in(x, name, "x");
    const Along a(name, in, axis, true);
    py::array y = empty<T>(in.shape());
    T* out = data<T>(y);
    KernelScope scope(in.size());
    kernel(out, in.get(), a);
    return y;
  };
  return by_number(name, x, run);
}
py::array bind_running_sum(const py::array& x, int64_t axis, bool from_end) {
  return running("running_sum", x, axis, [from_end]<class T>(T* y, const T* in, const Along& a) {
    running_sum<T>(y, in, a.outer, a.n, a.inner, from_end);
  });
}
py::array bind_running_product(const py::array& x, int64_t axis) {
  return running("running_product", x, axis, []<class T>(T* y, const T* in, const Along& a) {
    running_product<T>(y, in, a.outer, a.n, a.inner);
  });
}
py::array bind_running_logsumexp(const py::array& x, int64_t axis, bool from_end) {
  return by_dtype("running_logsumexp", x, [&]<class T>(T) {
    const In<T> in(x, "running_logsumexp", "x");
    const Along a("running_logsumexp", in, axis, true);
    py::array y = empty<T>(in.shape());
    T* out = data<T>(y);
    KernelScope scope(in.size());
    running_logsumexp<T>(out, in, a.outer, a.n, a.inner, from_end);
    return y;
  });
}
// The extremes so far along `axis`, and their last places.
template <bool largest>
py::tuple bind_running_extreme(const py::array& x, int64_t axis) {
  constexpr const char* name = largest ? "running_max" : "running_min";
  const auto run = [&]<class T>(T) {
    const In<T> in(x, name, "x");
    const Along a(name, in, axis, true);
    py::array values = empty<T>(in.shape()), indices = empty<int64_t>(in.shape());
    {
      KernelScope scope(in.size());
      running_extreme<T>(largest, in, a.outer, a.n, a.inner, data<T>(values), data<int64_t>(indices));
    }
    return py::make_tuple(std::move(values), std::move(indices));
  };
  return is_dtype<int64_t>(x) ? run(int64_t{}) : by_dtype(name, x, run);
}

}  // namespace

void register_reduce_along(py::module_& m) {
  const auto axis = py::arg("axis") = py::none();
  const auto keepdim = py::arg("keepdim") = false;
  m.def("max_forward", &bind_extreme<true>, py::arg("x"), axis, keepdim);
  m.def("min_forward", &bind_extreme<false>, py::arg("x"), axis, keepdim);
  m.def("count_true", &bind_count_true, py::arg("x"), axis, keepdim);
  m.def("sum_integers", &bind_sum_integers, py::arg("x"), axis, keepdim, py::arg("product") = false);
  m.def("running_sum", &bind_running_sum, py::arg("x"), py::arg("axis"), py::arg("from_end") = false);
  m.def("running_product", &bind_running_product, py::arg("x"), py::arg("axis"));
  m.def("running_max", &bind_running_extreme<true>, py::arg("x"), py::arg("axis"));
  m.def("running_min", &bind_running_extreme<false>, py::arg("x"), py::arg("axis"));
  m.def("running_logsumexp", &bind_running_logsumexp, py::arg("x"), py::arg("axis"),
        py::arg("from_end") = false);
}

}  // namespace fastdl::binding

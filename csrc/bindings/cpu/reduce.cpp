// The reductions' part of the kernel contract: folds over any axes, and the views that broadcasting makes.
// `axes` is a tuple of axis numbers, or None for all; keepdim leaves axes of one element where an axis was
// reduced.
#include "cpu/reduce/half.h"

#include <algorithm>
#include <cmath>

#include "bindings/cpu/strided.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
void register_reduce_along(py::module_& m);

namespace {

using Axes = std::optional<std::vector<int64_t>>;
constexpr int kMaxAxes = ReduceProblem::kMaxAxes;

// Which axes of an array are reduced, and what comes out.
struct Plan {
  bool reduced[kMaxAxes] = {};
  int64_t out_stride[kMaxAxes];  // elements, of kept axes
  Shape out_shape;
  int64_t kept_size = 1, reduced_size = 1;

  Plan(const char* op, const Operand& x, const Axes& axes, bool keepdim) {
    if (!axes)
      std::fill_n(reduced, x.ndim, true);
    else
      for (int64_t axis : *axes) {
        if (axis < -x.ndim || axis >= x.ndim)
          throw py::index_error(std::string(op) + ": axis " + std::to_string(axis) + " of an array with " +
                                std::to_string(x.ndim) + " axes");
        bool& mark = reduced[axis < 0 ? axis + x.ndim : axis];
        if (mark)
          throw py::value_error(std::string(op) + ": axis " + std::to_string(axis) + " is given twice");
        mark = true;
      }
    for (int axis = x.ndim - 1; axis >= 0; --axis) {
      if (reduced[axis]) {
        reduced_size *= x.shape[axis];
      } else {
        out_stride[axis] = kept_size;
        kept_size *= x.shape[axis];
      }
    }
    for (int axis = 0; axis < x.ndim; ++axis) {
      if (!reduced[axis])
        out_shape.push_back(x.shape[axis]);
      else if (keepdim)
        out_shape.push_back(1);
    }
  }

  // The axes that `shape` lacks or has with extent 1: what broadcasting to x would have repeated.
  Plan(const char* op, const Operand& x, const Shape& shape) : out_shape(shape) {
    const int missing = x.ndim - int(shape.size());
    bool fits = missing >= 0;
    for (int axis = x.ndim - 1; axis >= 0 && fits; --axis) {
      const int64_t extent = axis < missing ? 1 : shape[size_t(axis - missing)];
      fits = extent == 1 || extent == x.shape[axis];
      if (extent == 1 && x.shape[axis] != 1) {
        reduced[axis] = true;
        reduced_size *= x.shape[axis];
      } else {
        out_stride[axis] = kept_size;
        kept_size *= x.shape[axis];
      }
    }
    if (!fits)
      throw py::value_error(std::string(op) + ": shape " + shape_text(shape) + " does not broadcast to " +
                            shape_text(Shape(x.shape, x.shape + x.ndim)));
  }
};

// The problem for x, and y with byte strides `y_stride` per axis of x. False if x is not contiguous along any
// axis, or y then neither contiguous nor constant: both have to be copied to C order first.
bool describe(const Operand& x, int64_t item, const char* y, const int64_t* y_stride, int64_t y_item,
              const Plan& plan, ReduceProblem& problem) {
  problem = {};
  problem.x = x.data;
  problem.y = y;
  int order[kMaxAxes], count = 0;
  for (int axis = 0; axis < x.ndim; ++axis) {
    if (x.shape[axis] == 1) continue;
    int place = count++;
    // Axes that repeat the same elements are outermost: each pass reads them as they lie. Of two axes with one stride
    // (windows, and their elements) the longer one makes the rows.
    const auto outside = [&](int other) {
      const int64_t step = std::abs(x.strides[axis]), beside = std::abs(x.strides[other]);
      return step == 0 ||
             (beside != 0 && (beside < step || (beside == step && x.shape[axis] < x.shape[other])));
    };
    for (; place > 0 && outside(order[place - 1]); --place) order[place] = order[place - 1];
    order[place] = axis;
  }
  for (int i = 0; i < count; ++i) {
    const int axis = order[i];
    const int64_t stride = y_stride ? y_stride[axis] : 0;
    if (plan.reduced[axis])
      problem.add_reduced({x.shape[axis], x.strides[axis], stride, 0});
    else
      problem.add_kept({x.shape[axis], x.strides[axis], stride, plan.out_stride[axis]});
  }
  // add() drops axes of one element only; those of none matter to nobody else.
  if (count == 0) return true;
  bool fits = x.strides[order[count - 1]] == item;
  for (int i = 0; i < count && y_stride; ++i)  // the loop may follow any of these
    fits = fits && (x.strides[order[i]] != item || y_stride[order[i]] == 0 || y_stride[order[i]] == y_item);
  return fits;
}

template <class T>
Operand array_of(const py::array& array, const char* op, const char* argument) {
  if (!is_dtype<T>(array))
    raise_dtype(array, op, argument, py::str(dtype_of<T>()).template cast<std::string>().c_str());
  return operand_of(array);
}

void to_c_order(Operand& operand) {
  operand = operand_of(contiguous_copy(reinterpret_cast<const py::array&>(operand.owner)));
}

// One fold of an array.
template <class T>
void fold_into(const FoldOutput& out, Fold op, Operand& x, const Plan& plan, double parameter = 0) {
  ReduceProblem problem;
  if (!describe(x, sizeof(T), nullptr, nullptr, 0, plan, problem)) {
    to_c_order(x);
    describe(x, sizeof(T), nullptr, nullptr, 0, plan, problem);
  }
  KernelScope scope(plan.kept_size * std::max<int64_t>(plan.reduced_size, 1));
  fold<T>(op, problem, parameter, out);
}
// One fold of an array beside one number per output.
template <class T, class Beside>
void fold_beside(double* out, Fold op, Operand& x, const Beside* beside, const Plan& plan) {
  int64_t stride[kMaxAxes];
  for (int axis = 0; axis < x.ndim; ++axis)
    stride[axis] = plan.reduced[axis] ? 0 : plan.out_stride[axis] * int64_t(sizeof(Beside));
  ReduceProblem problem;
  const auto* y = reinterpret_cast<const char*>(beside);
  if (!describe(x, sizeof(T), y, stride, sizeof(Beside), plan, problem)) {
    to_c_order(x);
    describe(x, sizeof(T), y, stride, sizeof(Beside), plan, problem);
  }
  KernelScope scope(plan.kept_size * std::max<int64_t>(plan.reduced_size, 1));
  fold<T>(op, problem, 0, {out, true});
}
template <class T>
py::array fold_array(Fold op, Operand& x, const Plan& plan, double scale = 1) {
  py::array out = empty<T>(plan.out_shape);
  fold_into<T>({data<T>(out), false, scale}, op, x, plan);
  return out;
}

// The results as T: finish(k) for every output.
template <class T, class F>
py::array finish(const Plan& plan, F&& value) {
  py::array out = empty<T>(plan.out_shape);
  T* to = data<T>(out);
  KernelScope scope(plan.kept_size);
  parallel_for(plan.kept_size, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) to[k] = T(value(k));
  });
  return py::array(std::move(out));
}

template <class F>
py::array simple(const char* name, const py::array& x, const Axes& axes, bool keepdim, Fold op,
                 double parameter, F&& f) {
  return by_dtype(name, x, [&]<class T>(T) {
    Operand in = array_of<T>(x, name, "x");
    const Plan plan(name, in, axes, keepdim);
    memory::Buffer<double> folded(size_t(plan.kept_size));
    fold_into<T>({folded.get(), true}, op, in, plan, parameter);
    return finish<T>(plan, [&](int64_t k) { return f(folded[k], plan); });
  });
}

// The fold of an array stored in half precision: along the last run of reduced axes as floats, along others
// as doubles; times scale, to the power of `exponent`, rounded once.
py::array fold_stored(Fold op, Half half, const py::array& x, const Plan& plan, double scale = 1,
                      double parameter = 0, double exponent = 1) {
  py::array y = empty_array(half_dtype(half), plan.out_shape);
  uint16_t* to = data<uint16_t>(y);
  const In<uint16_t> in(x, "reduce", "x", half);
  Shape shape = in.shape();
  const auto is_kept = [&](int axis) { return !plan.reduced[axis] && shape[size_t(axis)] != 1; };
  int64_t outer = 1, n = 1, inner = 1;
  int axis = in.ndim() - 1;
  for (; axis >= 0 && !plan.reduced[axis]; --axis) inner *= shape[size_t(axis)];
  for (; axis >= 0 && !is_kept(axis); --axis) {
    n *= shape[size_t(axis)];
    shape[size_t(axis)] = 1;
  }
  for (; axis >= 0; --axis) outer *= shape[size_t(axis)];

  KernelScope scope(in.size());
  const memory::Buffer<double> folded(size_t(outer * inner)), all(size_t(plan.kept_size));
  double* results = folded.get();
  if (in.size() > 0) fold_half(op, half, in, outer, n, inner, parameter, results);
  if (in.size() == 0 || outer * inner > plan.kept_size) {  // nothing to fold, or some left
    Shape strides(shape.size());
    int64_t stride = sizeof(double);
    for (size_t a = shape.size(); a-- > 0; stride *= shape[a]) strides[a] = stride;
    ReduceProblem problem;
    problem.x = reinterpret_cast<const char*>(results);
    if (in.size() == 0) problem.reduced_size = plan.reduced_size, problem.kept_size = plan.kept_size;
    for (size_t a = 0; in.size() > 0 && a < shape.size(); ++a)
      if (plan.reduced[a])
        problem.add_reduced({shape[a], strides[a], 0, 0});
      else
        problem.add_kept({shape[a], strides[a], 0, plan.out_stride[a]});
    results = all.get();
    fold<double>(in.size() == 0 ? op : joining(op), problem, 0, {results, true});
  }
  parallel_for(plan.kept_size, 16384, [&](int64_t begin, int64_t end) {
    float floats[256];
    for (int64_t k = begin; k < end; k += 256) {
      const int64_t count = std::min<int64_t>(256, end - k);
      for (int64_t i = 0; i < count; ++i) floats[i] = float(results[k + i] * scale);
      if (exponent != 1)
        for (int64_t i = 0; i < count; ++i)
          floats[i] = float(exponent == 0.5 ? std::sqrt(results[k + i]) : std::pow(results[k + i], exponent));
      narrow(to + k, floats, count, half);
    }
  });
  return y;
}

// A fold over the axes that plan_of(operand) names, of float, double or half precision.
template <class F>
py::array fold_any(const char* name, Fold op, const py::array& x, bool is_mean, F&& plan_of) {
  return by_stored(name, x, [&]<class T>(T, Half half) {
    Operand in = operand_of(x);
    const Plan plan = plan_of(in);
    const double scale = is_mean ? 1.0 / double(plan.reduced_size) : 1;  // nothing: 0 * inf is NaN
    if constexpr (sizeof(T) == 2)
      return fold_stored(op, half, x, plan, scale);
    else
      return fold_array<T>(op, in, plan, scale);
  });
}

// f(Stored{}, T{}) for the most frequent integers, and bools as bytes; nothing for others.
template <class F>
std::optional<py::array> of_integers(const py::array& x, F&& f) {
  if (is_dtype<bool>(x)) return f(bool{}, uint8_t{});
  if (is_dtype<uint8_t>(x)) return f(uint8_t{}, uint8_t{});
  if (is_dtype<int64_t>(x)) return f(int64_t{}, int64_t{});
  if (is_dtype<int32_t>(x)) return f(int32_t{}, int32_t{});
  return std::nullopt;
}
// Over the last run of neighbouring axes, then over the others.
std::optional<py::array> extremes_of_integers(const char* name, bool largest, const py::array& x,
                                              const Axes& axes, bool keepdim) {
  return of_integers(x, [&]<class Stored, class T>(Stored, T) {
    const In<Stored> in(x, name, "x");
    const Plan plan(name, operand_of(in.array()), axes, keepdim);
    if (plan.reduced_size == 0 && plan.kept_size > 0)
      throw py::value_error(std::string(name) + ": no elements to choose from");
    Shape shape = in.shape();
    const std::span<const int64_t> all(shape);
    size_t end = shape.size();
    while (end > 0 && (!plan.reduced[end - 1] || shape[end - 1] == 1)) --end;
    size_t begin = end;
    while (begin > 0 && (plan.reduced[begin - 1] || shape[begin - 1] == 1)) --begin;
    const int64_t outer = size_of(all.first(begin)), n = size_of(all.subspan(begin, end - begin)),
                  inner = size_of(all.subspan(end));
    std::fill(shape.begin() + std::ptrdiff_t(begin), shape.begin() + std::ptrdiff_t(end), 1);
    const bool last = size_of(shape) == plan.kept_size;
    py::array y = empty_array(dtype_of<Stored>(), last ? plan.out_shape : shape);
    {
      T* to = data<T>(y);
      KernelScope scope(in.size());
      extreme_integer<T>(largest, to, reinterpret_cast<const T*>(in.get()), outer, n, inner);
    }
    return last ? std::optional(y) : extremes_of_integers(name, largest, y, axes, keepdim);
  });
}

template <Fold op>
py::array bind_fold(const py::array& x, const Axes& axes, bool keepdim) {
  constexpr const char* name = op == Fold::sum          ? "sum"
                               : op == Fold::sum_number ? "nansum"
                               : op == Fold::product    ? "prod"
                               : op == Fold::maximum    ? "amax"
                                                        : "amin";
  if constexpr (op == Fold::maximum || op == Fold::minimum)
    if (auto y = extremes_of_integers(name, op == Fold::maximum, x, axes, keepdim)) return *y;
  return fold_any(name, op, x, false, [&](const Operand& in) { return Plan(name, in, axes, keepdim); });
}

py::array bind_mean(const py::array& x, const Axes& axes, bool keepdim) {
  return fold_any("mean", Fold::sum, x, true,
                  [&](const Operand& in) { return Plan("mean", in, axes, keepdim); });
}

py::array bind_norm(const py::array& x, double p, const Axes& axes, bool keepdim) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  Fold op = Fold::sum_power;
  if (p == 0) op = Fold::nonzero;
  if (p == 1) op = Fold::sum_abs;
  if (p == 2) op = Fold::sum_square;
  if (p == inf) op = Fold::maximum_abs;
  if (p == -inf) op = Fold::minimum_abs;
  if (const Half half = half_of(x); half != Half::none) {
    const Plan plan("norm", operand_of(x), axes, keepdim);
    if (plan.reduced_size == 0 && std::isinf(p)) op = Fold::sum;  // 0
    const bool powers = op == Fold::sum_power || op == Fold::sum_square;
    return fold_stored(op, half, x, plan, 1, p, powers ? 1 / p : 1);
  }
  if (op == Fold::sum_square)
    return by_dtype("norm", x, [&]<class T>(T) {
      Operand in = array_of<T>(x, "norm", "x");
      const Plan plan("norm", in, axes, keepdim);
      py::array out = empty<T>(plan.out_shape);
      fold_into<T>({data<T>(out), false, 1, true}, op, in, plan);
      return out;
    });
  return simple("norm", x, axes, keepdim, op, p, [=](double folded, const Plan& plan) {
    if (op == Fold::sum_power) return std::pow(folded, 1 / p);
    return plan.reduced_size == 0 ? 0.0 : folded;
  });
}

py::tuple bind_var(const py::array& x, double correction, const Axes& axes, bool keepdim) {
  return by_dtype("var", x, [&]<class T>(T) {
    Operand in = array_of<T>(x, "var", "x");
    const Plan plan("var", in, axes, keepdim);
    memory::Buffer<double> mean(size_t(plan.kept_size)), deviation(size_t(plan.kept_size));
    fold_into<T>({mean.get(), true, 1.0 / double(plan.reduced_size)}, Fold::sum, in, plan);
    fold_beside<T>(deviation.get(), Fold::sum_deviation, in, mean.get(), plan);
    const double degrees = std::max(0.0, double(plan.reduced_size) - correction);
    py::array var = finish<T>(plan, [&](int64_t k) { return deviation[k] / degrees; });
    return py::make_tuple(std::move(var), finish<T>(plan, [&](int64_t k) { return mean[k]; }));
  });
}

py::array bind_logsumexp(const py::array& x, const Axes& axes, bool keepdim) {
  return by_dtype("logsumexp", x, [&]<class T>(T) {
    Operand in = array_of<T>(x, "logsumexp", "x");
    const Plan plan("logsumexp", in, axes, keepdim);
    memory::Buffer<double> sum(size_t(plan.kept_size));
    memory::Buffer<T> shift(size_t(plan.kept_size));
    fold_into<T>({shift.get(), false}, Fold::maximum, in, plan);
    for (int64_t k = 0; k < plan.kept_size; ++k)
      if (std::isinf(shift[k])) shift[k] = 0;  // inf - inf would be NaN
    fold_beside<T>(sum.get(), Fold::sum_exp, in, shift.get(), plan);
    return finish<T>(plan, [&](int64_t k) { return std::log(sum[k]) + double(shift[k]); });
  });
}

py::array bind_sum_to(const py::array& x, const Shape& shape) {
  return fold_any("sum_to", Fold::sum, x, false,
                  [&](const Operand& in) { return Plan("sum_to", in, shape); });
}

py::array bind_sum_product_to(const py::array& x, const py::array& y, const Shape& shape) {
  return by_dtype("sum_product_to", x, [&]<class T>(T) {
    Operand a = array_of<T>(x, "sum_product_to", "x"), b = array_of<T>(y, "sum_product_to", "y");
    if (broadcast_shape("sum_product_to", {&a, &b}) != Shape(a.shape, a.shape + a.ndim))
      throw py::value_error("sum_product_to: y must broadcast to the shape of x");
    const Plan plan("sum_product_to", a, shape);
    const auto describe_both = [&](ReduceProblem& problem) {
      int64_t stride[kMaxAxes];
      for (int axis = 0; axis < a.ndim; ++axis) stride[axis] = b.stride(axis, a.ndim);
      return describe(a, sizeof(T), b.data, stride, sizeof(T), plan, problem);
    };
    ReduceProblem problem;
    if (!describe_both(problem)) {
      to_c_order(a);
      to_c_order(b);
      describe_both(problem);
    }
    py::array out = empty<T>(shape);
    {
      KernelScope scope(plan.kept_size * std::max<int64_t>(plan.reduced_size, 1));
      fold<T>(Fold::sum_product, problem, 0, {data<T>(out), false});
    }
    return out;
  });
}

// A view on the memory of x; `flags` are those of x that it keeps.
py::array view_of(const py::array& x, const Shape& shape, const py::ssize_t* strides, int flags) {
  const auto* proxy = py::detail::array_proxy(x.ptr());
  auto& api = py::detail::npy_api::get();
  py::object view = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, py::dtype(x.dtype()).release().ptr(), int(shape.size()),
      reinterpret_cast<const Py_intptr_t*>(shape.data()), reinterpret_cast<const Py_intptr_t*>(strides),
      proxy->data, proxy->flags & flags, nullptr));
  if (!view) throw py::error_already_set();
  if (api.PyArray_SetBaseObject_(view.ptr(), py::object(x).release().ptr()) != 0)
    throw py::error_already_set();
  return py::reinterpret_steal<py::array>(view.release());
}

// A view of x with any strides (bytes), inside of the memory that x reaches.
py::array bind_strided(const py::array& x, const Shape& shape, const std::vector<py::ssize_t>& strides) {
  const char* op = "strided";
  require(shape.size() == strides.size() && int(shape.size()) <= kMaxAxes, op,
          "shape and strides must have one entry for each axis, 64 at most");
  // How far the bytes reach in front of the first element and behind it.
  const auto reach = [&](int ndim, const auto* extents, const py::ssize_t* steps) {
    std::pair<int64_t, int64_t> ends{0, int64_t(x.itemsize())};
    for (int axis = 0; axis < ndim; ++axis) {
      require(extents[axis] >= 0, op, "extents must not be negative");
      if (extents[axis] == 0) return std::pair<int64_t, int64_t>{0, 0};
      int64_t step;
      if (__builtin_mul_overflow(int64_t(extents[axis] - 1), int64_t(steps[axis]), &step) ||
          __builtin_add_overflow(step > 0 ? ends.second : ends.first, step,
                                 step > 0 ? &ends.second : &ends.first))
        throw py::value_error("strided: the view reaches outside of the array");
    }
    return ends;
  };
  const auto [low, high] = reach(int(x.ndim()), x.shape(), x.strides());
  const auto [first, last] = reach(int(shape.size()), shape.data(), strides.data());
  require(low <= first && last <= high, op, "the view reaches outside of the array");
  return view_of(x, shape, strides.data(),
                 py::detail::npy_api::NPY_ARRAY_ALIGNED_ | py::detail::npy_api::NPY_ARRAY_WRITEABLE_);
}

// A view of x with the given shape: axes repeated by stride 0, read-only if there are any.
py::array bind_broadcast_to(const py::array& x, const Shape& shape) {
  const auto* proxy = py::detail::array_proxy(x.ptr());
  const int ndim = int(shape.size()), missing = ndim - proxy->nd;
  bool fits = missing >= 0 && ndim <= kMaxAxes, repeats = false;
  py::ssize_t strides[kMaxAxes];
  for (int axis = 0; axis < ndim && fits; ++axis) {
    const int64_t extent = axis < missing ? 1 : int64_t(proxy->dimensions[axis - missing]);
    fits = shape[size_t(axis)] >= 0 && (extent == 1 || extent == shape[size_t(axis)]);
    strides[axis] = axis < missing || extent == 1 ? 0 : proxy->strides[axis - missing];
    repeats |= shape[size_t(axis)] != extent;
  }
  if (!fits)
    throw py::value_error("broadcast_to: shape " + shape_text(shape_of(x)) + " does not broadcast to " +
                          shape_text(shape));
  const int writable = repeats || !x.writeable() ? 0 : py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view_of(x, shape, strides, py::detail::npy_api::NPY_ARRAY_ALIGNED_ | writable);
}

}  // namespace

void register_reduce(py::module_& m) {
  const auto axes = py::arg("axes") = py::none();
  const auto keepdim = py::arg("keepdim") = false;
  m.def("sum_forward", &bind_fold<Fold::sum>, py::arg("x"), axes, keepdim);
  m.def("nansum_forward", &bind_fold<Fold::sum_number>, py::arg("x"), axes, keepdim);
  m.def("prod_forward", &bind_fold<Fold::product>, py::arg("x"), axes, keepdim);
  m.def("amax_forward", &bind_fold<Fold::maximum>, py::arg("x"), axes, keepdim);
  m.def("amin_forward", &bind_fold<Fold::minimum>, py::arg("x"), axes, keepdim);
  m.def("mean_forward", &bind_mean, py::arg("x"), axes, keepdim);
  m.def("norm_forward", &bind_norm, py::arg("x"), py::arg("p"), axes, keepdim);
  m.def("var_forward", &bind_var, py::arg("x"), py::arg("correction"), axes, keepdim);
  m.def("logsumexp_forward", &bind_logsumexp, py::arg("x"), axes, keepdim);
  m.def("sum_to", &bind_sum_to, py::arg("x"), py::arg("shape"));
  m.def("sum_product_to", &bind_sum_product_to, py::arg("x"), py::arg("y"), py::arg("shape"));
  register_reduce_along(m);
  m.def("broadcast_to", &bind_broadcast_to, py::arg("x"), py::arg("shape"));
  m.def("strided", &bind_strided, py::arg("x"), py::arg("shape"), py::arg("strides"));
}

}  // namespace fastdl::binding

#include "cpu/cross_entropy.h"

#include "bindings/cpu/loss.h"

namespace fastdl::binding {
namespace {

using Optional = std::optional<py::array>;

// The input as (outer, classes, inner) around its class dimension, and its shape without that: the positions.
struct Problem {
  ClassShape shape;
  Shape positions;

  Problem(const Shape& x, int64_t dim, const char* op) : positions(x) {
    require(dim >= 0 && size_t(dim) < x.size() && x.size() < 32, op, "dim must be one of input's dimensions");
    positions.erase(positions.begin() + dim);
    const std::span<const int64_t> extents(x);
    shape = {size_of(extents.first(size_t(dim))), x[size_t(dim)], size_of(extents.subspan(size_t(dim) + 1))};
    require(shape.classes > 0 || shape.positions() == 0, op, "input has no classes");
    require(shape.classes <= INT32_MAX, op, "too many classes");
  }
};

std::string at(int64_t position, const Shape& shape) {
  std::string text;
  for (size_t axis = shape.size(); axis-- > 0; position /= shape[axis])
    text = std::to_string(position % shape[axis]) + (text.empty() ? "" : ", ") + text;
  return shape.empty() ? "target" : "target[" + text + "]";
}

[[noreturn]] void raise_out_of_range(const char* op, int64_t position, const int64_t* target,
                                     const Problem& problem, int64_t ignore_index) {
  throw py::index_error(
      std::string(op) + ": " + at(position, problem.positions) + " = " + std::to_string(target[position]) +
      " is out of range for " + std::to_string(problem.shape.classes) + " classes (labels run from 0 to " +
      std::to_string(problem.shape.classes - 1) + "; ignore_index is " + std::to_string(ignore_index) + ")");
}

template <class T>
class Weight {
 public:
  Weight(const Optional& weight, const Problem& problem, const char* op, Half half = Half::none)
      : in_(weight, op, "weight", half) {
    if (weight)
      require(weight->ndim() == 1 && weight->shape(0) == problem.shape.classes, op,
              "weight must have one entry per class");
  }
  operator const Computed<T>*() const { return in_; }

 private:
  Parameter<T> in_;
};

In<int64_t> class_indices(const py::array& target, const Problem& problem, const char* op) {
  In<int64_t> in(target, op, "target");
  require(in.shape() == problem.positions, op, "target must have input's shape without the class dimension");
  return in;
}

template <class T>
py::array loss_like(Reduction reduction, const Shape& positions) {
  return reduction == Reduction::none ? empty<T>(positions) : empty<T>({});
}
Shape with_front(int64_t count, const Shape& positions) {
  Shape shape = positions;
  shape.insert(shape.begin(), count);
  return shape;
}

py::tuple cross_entropy(const py::array& x, const py::array& target, const Optional& weight, int64_t dim,
                        int64_t ignore_index, double label_smoothing, std::string_view reduction) {
  constexpr const char* op = "cross_entropy";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    using C = ComputedIn<T>;
    const In<T> in(x, op, "input", half);
    const Problem problem(in.shape(), dim, op);
    const In<int64_t> index = class_indices(target, problem, op);
    const Weight<T> w(weight, problem, op, half);
    const ClassTargets<C> targets{index, w, ignore_index, C(label_smoothing), reduction_of(reduction, op)};
    py::array loss = empty_array(stored_dtype<T>(half),
                                 targets.reduction == Reduction::none ? problem.positions : Shape());
    py::array normaliser = empty<C>({}), statistics = empty<C>(with_front(2, problem.positions));
    int64_t invalid;
    {
      KernelScope scope(in.size());
      const auto run = [&](C* losses, const C* from) {
        invalid = cross_entropy_forward<C>(losses, data<C>(statistics), data<C>(normaliser), from, targets,
                                           problem.shape);
      };
      if constexpr (sizeof(T) == 2) {
        const memory::Buffer<float> losses(size_t(loss.size())), floats(size_t(in.size()));
        widen_all(floats.get(), in, in.size(), half);
        run(losses.get(), floats.get());
        narrow_all(data<T>(loss), losses.get(), loss.size(), half);
      } else {
        run(data<T>(loss), in);
      }
    }
    if (invalid >= 0) raise_out_of_range(op, invalid, index, problem, ignore_index);
    return py::make_tuple(loss, statistics, normaliser);
  });
}

py::array cross_entropy_gradient(const py::array& grad_loss, const py::array& x, const py::array& target,
                                 const Optional& weight, const py::array& statistics,
                                 const py::array& normaliser, int64_t dim, int64_t ignore_index,
                                 double label_smoothing, std::string_view reduction) {
  constexpr const char* op = "cross_entropy_backward";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    using C = ComputedIn<T>;
    const In<T> in(x, op, "input", half);
    const In<C> stats(statistics, op, "statistics"), norm(normaliser, op, "normaliser");
    const Problem problem(in.shape(), dim, op);
    const In<int64_t> index = class_indices(target, problem, op);
    const Weight<T> w(weight, problem, op, half);
    const ClassTargets<C> targets{index, w, ignore_index, C(label_smoothing), reduction_of(reduction, op)};
    const In<T> grad = upstream<T>(grad_loss, targets.reduction, problem.positions, op, half);
    require(stats.shape() == with_front(2, problem.positions) && norm.size() == 1, op,
            "statistics and normaliser must be those that forward returned");
    py::array grad_x = empty_array(stored_dtype<T>(half), in.shape());
    int64_t invalid;
    {
      KernelScope scope(in.size());
      const auto run = [&](C* to, const C* upstream, const C* from) {
        invalid = cross_entropy_backward<C>(to, upstream, from, stats, norm, targets, problem.shape);
      };
      if constexpr (sizeof(T) == 2) {
        const memory::Buffer<float> upstream(size_t(grad.size())), floats(size_t(in.size())),
            grads(size_t(in.size()));
        widen_all(upstream.get(), grad, grad.size(), half);
        widen_all(floats.get(), in, in.size(), half);
        run(grads.get(), upstream.get(), floats.get());
        narrow_all(data<T>(grad_x), grads.get(), in.size(), half);
      } else {
        run(data<T>(grad_x), grad, in);
      }
    }
    if (invalid >= 0) raise_out_of_range(op, invalid, index, problem, ignore_index);
    return grad_x;
  });
}

py::tuple probabilities(const py::array& x, const py::array& target, const Optional& weight, int64_t dim,
                        double label_smoothing, std::string_view reduction) {
  constexpr const char* op = "cross_entropy";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "input"), p(target, op, "target");
    const Problem problem(in.shape(), dim, op);
    require(p.shape() == in.shape(), op, "target of probabilities must have input's shape");
    const Weight<T> w(weight, problem, op);
    const ProbabilityTargets<T> targets{p, w, T(label_smoothing), reduction_of(reduction, op)};
    py::array loss = loss_like<T>(targets.reduction, problem.positions);
    py::array statistics = empty<T>(with_front(3, problem.positions));
    {
      KernelScope scope(in.size());
      cross_entropy_probabilities_forward<T>(data<T>(loss), data<T>(statistics), in, targets, problem.shape);
    }
    return py::make_tuple(loss, statistics);
  });
}

py::array probabilities_gradient(const py::array& grad_loss, const py::array& x, const py::array& target,
                                 const Optional& weight, const py::array& statistics, int64_t dim,
                                 double label_smoothing, std::string_view reduction) {
  constexpr const char* op = "cross_entropy_probabilities_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "input"), p(target, op, "target"), stats(statistics, op, "statistics");
    const Problem problem(in.shape(), dim, op);
    require(p.shape() == in.shape(), op, "target of probabilities must have input's shape");
    require(stats.shape() == with_front(3, problem.positions), op,
            "statistics must be those that forward returned");
    const Weight<T> w(weight, problem, op);
    const ProbabilityTargets<T> targets{p, w, T(label_smoothing), reduction_of(reduction, op)};
    const In<T> grad = upstream<T>(grad_loss, targets.reduction, problem.positions, op);
    py::array grad_x = empty<T>(in.shape());
    KernelScope scope(in.size());
    cross_entropy_probabilities_backward<T>(data<T>(grad_x), grad, in, stats, targets, problem.shape);
    return grad_x;
  });
}

py::tuple nll(const py::array& x, const py::array& target, const Optional& weight, int64_t dim,
              int64_t ignore_index, std::string_view reduction) {
  constexpr const char* op = "nll_loss";
  return by_stored(op, x, [&]<class T>(T, Half half) {
    using C = ComputedIn<T>;
    const In<T> in(x, op, "input", half);
    const Problem problem(in.shape(), dim, op);
    const In<int64_t> index = class_indices(target, problem, op);
    const Weight<T> w(weight, problem, op, half);
    const ClassTargets<C> targets{index, w, ignore_index, C(0), reduction_of(reduction, op)};
    py::array loss = empty_array(stored_dtype<T>(half),
                                 targets.reduction == Reduction::none ? problem.positions : Shape());
    py::array normaliser = empty<C>({});
    int64_t invalid;
    {
      KernelScope scope(problem.shape.positions());
      const auto run = [&](C* losses) {
        invalid = nll_loss_forward<T>(losses, data<C>(normaliser), in, targets, problem.shape, half);
      };
      if constexpr (sizeof(T) == 2) {
        const memory::Buffer<float> losses(size_t(loss.size()));
        run(losses.get());
        narrow_all(data<T>(loss), losses.get(), loss.size(), half);
      } else {
        run(data<T>(loss));
      }
    }
    if (invalid >= 0) raise_out_of_range(op, invalid, index, problem, ignore_index);
    return py::make_tuple(loss, normaliser);
  });
}

py::array nll_gradient(const py::array& grad_loss, const py::array& target, const Optional& weight,
                       const py::array& normaliser, int64_t classes, int64_t dim, int64_t ignore_index,
                       std::string_view reduction) {
  constexpr const char* op = "nll_loss_backward";
  return by_stored(op, grad_loss, [&]<class T>(T, Half half) {
    using C = ComputedIn<T>;
    Shape shape = shape_of(target);
    require(classes >= 0 && dim >= 0 && size_t(dim) <= shape.size(), op,
            "classes must not be negative, dim not beyond target's dimensions");
    shape.insert(shape.begin() + dim, classes);
    const Problem problem(shape, dim, op);
    const In<int64_t> index = class_indices(target, problem, op);
    const In<C> norm(normaliser, op, "normaliser");
    require(norm.size() == 1, op, "normaliser must be the one that forward returned");
    const Weight<T> w(weight, problem, op, half);
    const ClassTargets<C> targets{index, w, ignore_index, C(0), reduction_of(reduction, op)};
    const In<T> grad = upstream<T>(grad_loss, targets.reduction, problem.positions, op, half);
    py::array grad_x = empty_array(stored_dtype<T>(half), shape);
    int64_t invalid;
    {
      KernelScope scope(problem.shape.size());
      invalid = nll_loss_backward<T>(data<T>(grad_x), grad, norm, targets, problem.shape, half);
    }
    if (invalid >= 0) raise_out_of_range(op, invalid, index, problem, ignore_index);
    return grad_x;
  });
}

}  // namespace

void register_cross_entropy(py::module_& m) {
  m.def("cross_entropy_forward", &cross_entropy, py::arg("x"), py::arg("target"), py::arg("weight"),
        py::arg("dim"), py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("reduction"));
  m.def("cross_entropy_backward", &cross_entropy_gradient, py::arg("grad_loss"), py::arg("x"),
        py::arg("target"), py::arg("weight"), py::arg("statistics"), py::arg("normaliser"), py::arg("dim"),
        py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("reduction"));
  m.def("cross_entropy_probabilities_forward", &probabilities, py::arg("x"), py::arg("target"),
        py::arg("weight"), py::arg("dim"), py::arg("label_smoothing"), py::arg("reduction"));
  m.def("cross_entropy_probabilities_backward", &probabilities_gradient, py::arg("grad_loss"), py::arg("x"),
        py::arg("target"), py::arg("weight"), py::arg("statistics"), py::arg("dim"),
        py::arg("label_smoothing"), py::arg("reduction"));
  m.def("nll_loss_forward", &nll, py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("dim"),
        py::arg("ignore_index"), py::arg("reduction"));
  m.def("nll_loss_backward", &nll_gradient, py::arg("grad_loss"), py::arg("target"), py::arg("weight"),
        py::arg("normaliser"), py::arg("classes"), py::arg("dim"), py::arg("ignore_index"),
        py::arg("reduction"));
}

}  // namespace fastdl::binding

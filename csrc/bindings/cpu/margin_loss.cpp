// Margin losses of classes: one loss for each row, reduced by the caller.
#include "cpu/margin_loss.h"

#include "bindings/cpu/index.h"
#include "bindings/cpu/loss.h"

namespace fastdl::binding {
namespace {

template <class T>
struct Multi {
  In<T> x;
  In<int64_t> target;
  OptionalIn<T> weight;
  MultiMargin<T> problem;

  Multi(const char* op, const py::array& given, const py::array& index,
        const std::optional<py::array>& weights, int p, double margin)
      : x(given, op, "x"), target(index, op, "target"), weight(weights, op, "weight") {
    require(x.ndim() == 2 && target.ndim() == 1 && target.dim(0) == x.dim(0), op,
            "x must have shape (rows, classes), target (rows)");
    require(!weights || (weights->ndim() == 1 && weights->shape(0) == x.dim(1)), op,
            "weight must have one number for each class");
    require(p == 1 || p == 2, op, "p must be 1 or 2");
    check_index(op, target, x.dim(1), "target");
    problem = {x, target, weight, p, T(margin), x.dim(0), x.dim(1)};
  }
};

py::array multi_margin(const py::array& x, const py::array& target, const std::optional<py::array>& weight,
                       int p, double margin) {
  const char* op = "multi_margin_loss";
  return by_dtype(op, x, [&]<class T>(T) {
    const Multi<T> m(op, x, target, weight, p, margin);
    py::array losses = empty<T>({m.problem.rows});
    KernelScope scope(m.x.size());
    multi_margin_forward<T>(data<T>(losses), m.problem);
    return losses;
  });
}

// The gradient of one loss for each row.
template <class T>
In<T> of_rows(const py::array& grad, const In<T>& x, const char* op) {
  In<T> g(grad, op, "grad_loss");
  require(g.ndim() == 1 && g.dim(0) == x.dim(0), op, "grad_loss must have one number for each row");
  return g;
}

py::array multi_margin_gradient(const py::array& grad_loss, const py::array& x, const py::array& target,
                                const std::optional<py::array>& weight, int p, double margin) {
  const char* op = "multi_margin_loss_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const Multi<T> m(op, x, target, weight, p, margin);
    const In<T> g = of_rows(grad_loss, m.x, op);
    py::array grad_x = empty<T>(m.x.shape());
    KernelScope scope(m.x.size());
    multi_margin_backward<T>(data<T>(grad_x), g, m.problem);
    return grad_x;
  });
}

template <class T>
struct Multilabel {
  In<T> x;
  In<int64_t> target;

  Multilabel(const char* op, const py::array& given, const py::array& labels)
      : x(given, op, "x"), target(labels, op, "target") {
    require(x.ndim() == 2 && target.shape() == x.shape(), op,
            "x and target must have one shape (rows, classes)");
    for (int64_t i = 0; i < target.size(); ++i)
      if (target.get()[i] < -1 || target.get()[i] >= x.dim(1))
        refuse_index(op, target, i, -1, x.dim(1), "target");
  }
};

py::array multilabel_margin(const py::array& x, const py::array& target) {
  const char* op = "multilabel_margin_loss";
  return by_dtype(op, x, [&]<class T>(T) {
    const Multilabel<T> m(op, x, target);
    py::array losses = empty<T>({m.x.dim(0)});
    KernelScope scope(m.x.size());
    multilabel_margin_forward<T>(data<T>(losses), m.x, m.target, m.x.dim(0), m.x.dim(1));
    return losses;
  });
}

py::array multilabel_margin_gradient(const py::array& grad_loss, const py::array& x,
                                     const py::array& target) {
  const char* op = "multilabel_margin_loss_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const Multilabel<T> m(op, x, target);
    const In<T> g = of_rows(grad_loss, m.x, op);
    py::array grad_x = empty<T>(m.x.shape());
    KernelScope scope(m.x.size());
    multilabel_margin_backward<T>(data<T>(grad_x), g, m.x, m.target, m.x.dim(0), m.x.dim(1));
    return grad_x;
  });
}

}  // namespace

void register_margin_loss(py::module_& m) {
  m.def("multi_margin_loss_forward", &multi_margin, py::arg("x"), py::arg("target"), py::arg("weight"),
        py::arg("p"), py::arg("margin"));
  m.def("multi_margin_loss_backward", &multi_margin_gradient, py::arg("grad_loss"), py::arg("x"),
        py::arg("target"), py::arg("weight"), py::arg("p"), py::arg("margin"));
  m.def("multilabel_margin_loss_forward", &multilabel_margin, py::arg("x"), py::arg("target"));
  m.def("multilabel_margin_loss_backward", &multilabel_margin_gradient, py::arg("grad_loss"), py::arg("x"),
        py::arg("target"));
}

}  // namespace fastdl::binding

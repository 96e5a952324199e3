#include "cpu/distance.h"

#include "bindings/cpu/loss.h"

namespace fastdl::binding {
namespace {

// Two arrays of one shape (..., n), as rows.
template <class T>
struct Rows {
  In<T> x1, x2;
  Shape shape, leading;
  int64_t rows, n;

  Rows(const py::array& first, const py::array& second, const char* op)
      : x1(first, op, "x1"), x2(second, op, "x2") {
    shape = leading = x1.shape();
    require(!shape.empty() && shape.size() < 32 && x2.shape() == shape, op,
            "x1 and x2 must have one shape (..., n)");
    n = shape.back();
    leading.pop_back();
    rows = size_of(leading);
  }
  Shape sums() const {
    Shape s = leading;
    s.insert(s.begin(), 3);
    return s;
  }
};

py::array row_products(const py::array& x1, const py::array& x2) {
  return by_dtype("row_products", x1, [&]<class T>(T) {
    const Rows<T> in(x1, x2, "row_products");
    py::array sums = empty<T>(in.sums());
    KernelScope scope(in.x1.size());
    row_products_forward<T>(data<T>(sums), in.x1, in.x2, in.rows, in.n);
    return sums;
  });
}

py::tuple row_products_gradient(const py::array& grad_sums, const py::array& x1, const py::array& x2,
                                const std::tuple<bool, bool>& needs) {
  constexpr const char* op = "row_products_backward";
  return by_dtype(op, x1, [&]<class T>(T) {
    const Rows<T> in(x1, x2, op);
    const In<T> g(grad_sums, op, "grad_sums");
    require(g.shape() == in.sums(), op, "grad_sums must be (3, ...) before the last dimension of x1");
    py::object grad_x1 = py::none(), grad_x2 = py::none();
    T *to1 = nullptr, *to2 = nullptr;
    if (std::get<0>(needs)) {
      py::array array = empty<T>(in.shape);
      to1 = data<T>(array);
      grad_x1 = array;
    }
    if (std::get<1>(needs)) {
      py::array array = empty<T>(in.shape);
      to2 = data<T>(array);
      grad_x2 = array;
    }
    {
      KernelScope scope(in.x1.size());
      row_products_backward<T>(to1, to2, g, in.x1, in.x2, in.rows, in.n);
    }
    return py::make_tuple(grad_x1, grad_x2);
  });
}

py::array pairwise_distance(const py::array& x1, const py::array& x2, double p, double eps) {
  constexpr const char* op = "pairwise_distance";
  return by_dtype(op, x1, [&]<class T>(T) {
    const Rows<T> in(x1, x2, op);
    require(p >= 0, op, "p must not be negative");
    py::array distance = empty<T>(in.leading);
    KernelScope scope(in.x1.size());
    pairwise_distance_forward<T>(data<T>(distance), in.x1, in.x2, p, eps, in.rows, in.n);
    return distance;
  });
}

py::array pairwise_distance_gradient(const py::array& grad_distance, const py::array& x1, const py::array& x2,
                                     const py::array& distance, double p, double eps) {
  constexpr const char* op = "pairwise_distance_backward";
  return by_dtype(op, x1, [&]<class T>(T) {
    const Rows<T> in(x1, x2, op);
    const In<T> g(grad_distance, op, "grad_distance"), r(distance, op, "distance");
    require(p >= 0, op, "p must not be negative");
    require(g.shape() == in.leading && r.shape() == in.leading, op,
            "grad_distance and distance must have x1's shape without its last dimension");
    py::array grad_x1 = empty<T>(in.shape);
    KernelScope scope(in.x1.size());
    pairwise_distance_backward<T>(data<T>(grad_x1), g, in.x1, in.x2, r, p, eps, in.rows, in.n);
    return grad_x1;
  });
}

// Two arrays (batch, count, n) of one n.
template <class T>
struct Sets {
  In<T> x1, x2;
  CdistProblem problem;

  Sets(const py::array& first, const py::array& second, double p, const char* op)
      : x1(first, op, "x1"), x2(second, op, "x2") {
    require(x1.ndim() == 3 && x2.ndim() == 3 && x1.dim(0) == x2.dim(0) && x1.dim(2) == x2.dim(2), op,
            "x1 and x2 must have shapes (batch, count, n) with one batch and n");
    require(p >= 0, op, "p must not be negative");
    problem = {x1.dim(0), x1.dim(1), x2.dim(1), x1.dim(2)};
  }
  Shape pairs() const { return {problem.batch, problem.count1, problem.count2}; }
};

py::array cdist(const py::array& x1, const py::array& x2, double p) {
  constexpr const char* op = "cdist";
  return by_dtype(op, x1, [&]<class T>(T) {
    const Sets<T> in(x1, x2, p, op);
    py::array distance = empty<T>(in.pairs());
    KernelScope scope(size_of(in.pairs()));
    cdist_forward<T>(data<T>(distance), in.x1, in.x2, p, in.problem);
    return distance;
  });
}

py::array cdist_gradient(const py::array& grad_distance, const py::array& x1, const py::array& x2,
                         const py::array& distance, double p) {
  constexpr const char* op = "cdist_backward";
  return by_dtype(op, x1, [&]<class T>(T) {
    const Sets<T> in(x1, x2, p, op);
    const In<T> g(grad_distance, op, "grad_distance"), r(distance, op, "distance");
    require(g.shape() == in.pairs() && r.shape() == in.pairs(), op,
            "grad_distance and distance must have shape (batch, count of x1, count of x2)");
    py::array grad_x1 = empty<T>(in.x1.shape());
    KernelScope scope(g.size());
    cdist_backward<T>(data<T>(grad_x1), g, in.x1, in.x2, r, p, in.problem);
    return grad_x1;
  });
}

py::array pdist(const py::array& x, double p) {
  constexpr const char* op = "pdist";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    require(in.ndim() == 2, op, "x must have shape (count, n)");
    require(p >= 0, op, "p must not be negative");
    const int64_t count = in.dim(0), n = in.dim(1);
    py::array distance = empty<T>({count * (count - 1) / 2});
    KernelScope scope(distance.size() * std::max<int64_t>(n, 1));
    if (count > 1) pdist_forward<T>(data<T>(distance), in, p, count, n);
    return distance;
  });
}

}  // namespace

void register_distance(py::module_& m) {
  m.def("pdist_forward", &pdist, py::arg("x"), py::arg("p"));
  m.def("row_products_forward", &row_products, py::arg("x1"), py::arg("x2"));
  m.def("row_products_backward", &row_products_gradient, py::arg("grad_sums"), py::arg("x1"), py::arg("x2"),
        py::arg("needs"));
  m.def("pairwise_distance_forward", &pairwise_distance, py::arg("x1"), py::arg("x2"), py::arg("p"),
        py::arg("eps"));
  m.def("pairwise_distance_backward", &pairwise_distance_gradient, py::arg("grad_distance"), py::arg("x1"),
        py::arg("x2"), py::arg("distance"), py::arg("p"), py::arg("eps"));
  m.def("cdist_forward", &cdist, py::arg("x1"), py::arg("x2"), py::arg("p"));
  m.def("cdist_backward", &cdist_gradient, py::arg("grad_distance"), py::arg("x1"), py::arg("x2"),
        py::arg("distance"), py::arg("p"));
}

}  // namespace fastdl::binding

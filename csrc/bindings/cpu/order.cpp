#include "cpu/order.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

// The last axis of `in` (n) and how many rows have it.
struct Rows {
  Shape shape;
  int64_t n, rows;

  template <class T>
  Rows(const char* op, const In<T>& in) : shape(in.shape()) {
    require(!shape.empty(), op, "x must have an axis");
    n = shape.back();
    rows = size_of(std::span<const int64_t>(shape).first(shape.size() - 1));
    require(n < (int64_t(1) << 31), op, "rows must be shorter than 2^31");
  }
};

// by_number, or int32_t{}.
template <class F>
auto by_sortable(const char* op, const py::array& x, F&& f) {
  return is_dtype<int32_t>(x) ? f(int32_t{}) : by_number(op, x, f);
}

// The first k along the last axis in order, and where they were.
py::tuple bind_sort(const py::array& x, int64_t k, bool descending) {
  return by_sortable("sort", x, [&]<class T>(T) {
    const In<T> in(x, "sort", "x");
    Rows r("sort", in);
    require(k >= 0 && k <= r.n, "sort", "k must be in [0, n]");
    r.shape.back() = k;
    py::array values = empty<T>(r.shape), indices = empty<int64_t>(r.shape);
    T* to = data<T>(values);
    auto* places = data<int64_t>(indices);
    {
      KernelScope scope(in.size());
      sort_rows<T>(to, places, in, r.rows, r.n, k, descending);
    }
    return py::make_tuple(std::move(values), std::move(indices));
  });
}

py::array bind_select(const py::array& x, int64_t k) {
  return by_sortable("select_index", x, [&]<class T>(T) {
    const In<T> in(x, "select_index", "x");
    Rows r("select_index", in);
    require(k >= 0 && k < r.n, "select_index", "k must be in [0, n)");
    r.shape.pop_back();
    py::array indices = empty<int64_t>(r.shape);
    auto* places = data<int64_t>(indices);
    KernelScope scope(in.size());
    select_rows<T>(places, in, r.rows, r.n, k);
    return indices;
  });
}

py::array bind_mode(const py::array& x) {
  return by_sortable("mode_index", x, [&]<class T>(T) {
    const In<T> in(x, "mode_index", "x");
    Rows r("mode_index", in);
    require(r.n > 0, "mode_index", "rows must not be empty");
    r.shape.pop_back();
    py::array indices = empty<int64_t>(r.shape);
    auto* places = data<int64_t>(indices);
    KernelScope scope(in.size());
    mode_rows<T>(places, in, r.rows, r.n);
    return indices;
  });
}

py::array bind_searchsorted(const py::array& sorted, const py::array& values, bool right) {
  const char* op = "searchsorted";
  return by_number(op, sorted, [&]<class T>(T) {
    const In<T> in(sorted, op, "sorted"), wanted(values, op, "values");
    const Rows r(op, in);
    const Shape shape = wanted.shape();
    require(r.shape.size() == 1 || (shape.size() == r.shape.size() &&
                                    std::equal(shape.begin(), shape.end() - 1, r.shape.begin())),
            op, "sorted must have one axis, or the extents of values but in the last axis");
    const int64_t count = r.shape.size() == 1 ? wanted.size() : shape.back();
    py::array y = empty<int64_t>(shape);
    auto* places = data<int64_t>(y);
    KernelScope scope(wanted.size());
    if (wanted.size() > 0) search_sorted<T>(places, in, r.rows, r.n, wanted, count, right);
    return y;
  });
}

}  // namespace

void register_order(py::module_& m) {
  m.def("sort_forward", &bind_sort, py::arg("x"), py::arg("k"), py::arg("descending"));
  m.def("select_index", &bind_select, py::arg("x"), py::arg("k"));
  m.def("mode_index", &bind_mode, py::arg("x"));
  m.def("searchsorted", &bind_searchsorted, py::arg("sorted"), py::arg("values"), py::arg("right"));
}

}  // namespace fastdl::binding

#include "cpu/layout.h"

#include "bindings/cpu/index.h"

namespace fastdl::binding {

void check_index(const char* op, const In<int64_t>& index, int64_t extent, const char* argument) {
  const int64_t at = find_outside(index, index.size(), extent);
  if (at < 0) return;
  // Where it is, as a list of subscripts.
  std::string place;
  int64_t rest = at;
  for (int axis = index.ndim() - 1; axis >= 0; --axis) {
    const std::string subscript = std::to_string(rest % index.dim(axis));
    place = place.empty() ? subscript : subscript + ", " + place;
    rest /= index.dim(axis);
  }
  throw py::index_error(std::string(op) + ": " + argument + "[" + place +
                        "] = " + std::to_string(index.get()[at]) + " is out of range [0, " +
                        std::to_string(extent) + ")");
}

namespace {

int checked_dim(const char* op, const Shape& shape, int64_t dim) {
  if (dim < 0 || dim >= int64_t(shape.size()))
    throw py::value_error(std::string(op) + ": dim " + std::to_string(dim) +
                          " is not an axis of an array with " + std::to_string(shape.size()));
  return int(dim);
}

IndexProblem problem(const Shape& shape, int dim, int64_t extent, int64_t count) {
  const std::span<const int64_t> all(shape);
  return {size_of(all.first(size_t(dim))), extent, size_of(all.subspan(size_t(dim) + 1)), count};
}

py::array in_c_order(const py::array& x, const char* op) {
  const int64_t item = x.itemsize();
  if (x.dtype().kind() == 'O' || !(item == 1 || item == 2 || item == 4 || item == 8))
    throw py::type_error(std::string(op) + ": elements must be numbers of 1, 2, 4 or 8 bytes");
  constexpr int wanted =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return (py::detail::array_proxy(x.ptr())->flags & wanted) == wanted ? x : contiguous_copy(x);
}

const char* bytes(const py::array& x) {
  return static_cast<const char*>(x.data());
}

py::array bind_concat(const std::vector<py::array>& arrays, int64_t dim) {
  const char* op = "concat";
  if (arrays.empty()) throw py::value_error("concat: at least one array is needed");
  Shape shape = shape_of(arrays[0]);
  const int axis = checked_dim(op, shape, dim);
  const py::dtype dtype = arrays[0].dtype();
  std::vector<py::array> parts;  // keeps copies alive
  std::vector<const char*> data;
  std::vector<int64_t> row_bytes;
  shape[size_t(axis)] = 0;
  for (const py::array& array : arrays) {
    if (!array.dtype().equal(dtype)) throw py::type_error("concat: arrays must have the same dtype");
    Shape own = shape_of(array);
    if (int64_t(own.size()) <= axis)
      throw py::value_error("concat: arrays must have the same number of axes");
    const int64_t extent = own[size_t(axis)];
    own[size_t(axis)] = shape[size_t(axis)];
    if (own != shape) throw py::value_error("concat: extents must be equal but for dim");
    shape[size_t(axis)] += extent;
    parts.push_back(in_c_order(array, op));
    data.push_back(bytes(parts.back()));
    row_bytes.push_back(extent * size_of(std::span<const int64_t>(own).subspan(size_t(axis) + 1)) *
                        array.itemsize());
  }
  py::array y = empty_array(dtype, shape);
  char* out = static_cast<char*>(y.mutable_data());
  const int64_t outer = size_of(std::span<const int64_t>(shape).first(size_t(axis)));
  KernelScope scope(size_of(shape));
  concat(out, data.data(), row_bytes.data(), int64_t(data.size()), outer);
  return y;
}

py::array bind_index_select_forward(const py::array& x, int64_t dim, const py::array& index) {
  const char* op = "index_select";
  Shape shape = shape_of(x);
  const int axis = checked_dim(op, shape, dim);
  const In<int64_t> at(index, op, "index");
  if (at.ndim() != 1) throw py::value_error("index_select: index must have one dimension");
  check_index(op, at, shape[size_t(axis)]);
  const py::array in = in_c_order(x, op);
  const IndexProblem p = problem(shape, axis, shape[size_t(axis)], at.size());
  shape[size_t(axis)] = at.size();
  py::array y = empty_array(x.dtype(), shape);
  char* out = static_cast<char*>(y.mutable_data());
  const int64_t size = size_of(shape), item = x.itemsize();
  KernelScope scope(size);
  if (size > 0) index_select_forward(out, bytes(in), at, p, item);
  return y;
}

py::array bind_index_select_backward(const py::array& grad_y, int64_t dim, const py::array& index,
                                     int64_t extent) {
  const char* op = "index_select_backward";
  return by_dtype(op, grad_y, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y");
    Shape shape = g.shape();
    const int axis = checked_dim(op, shape, dim);
    const In<int64_t> at(index, op, "index");
    if (at.ndim() != 1 || at.size() != shape[size_t(axis)])
      throw py::value_error("index_select_backward: index must have one entry for each along dim of grad_y");
    if (extent < 0) throw py::value_error("index_select_backward: extent must not be negative");
    check_index(op, at, extent);
    const IndexProblem p = problem(shape, axis, extent, at.size());
    shape[size_t(axis)] = extent;
    py::array grad_x = empty<T>(shape);
    T* out = data<T>(grad_x);
    KernelScope scope(g.size() + size_of(shape));
    index_select_backward<T>(out, g, at, p);
    return grad_x;
  });
}

// `index` and `shape` may differ in axis `axis` only.
void check_same(const char* op, const Shape& shape, const Shape& index, int axis) {
  bool same = shape.size() == index.size();
  for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] == index[i] || int(i) == axis;
  if (!same) throw py::value_error(std::string(op) + ": index and array must have equal extents but for dim");
}

py::array bind_gather_forward(const py::array& x, int64_t dim, const py::array& index) {
  const char* op = "gather";
  const Shape shape = shape_of(x);
  const int axis = checked_dim(op, shape, dim);
  const In<int64_t> at(index, op, "index");
  check_same(op, shape, at.shape(), axis);
  const py::array in = in_c_order(x, op);
  const IndexProblem p = problem(shape, axis, shape[size_t(axis)], at.dim(axis));
  py::array y = empty_array(x.dtype(), at.shape());
  char* out = static_cast<char*>(y.mutable_data());
  const int64_t item = x.itemsize();
  bool inside = true;
  if (at.size() > 0) {
    KernelScope scope(at.size());
    inside = gather_forward(out, bytes(in), at, p, item);
  }
  if (!inside) check_index(op, at, shape[size_t(axis)]);  // raises
  return y;
}

py::array bind_gather_backward(const py::array& grad_y, int64_t dim, const py::array& index, int64_t extent) {
  const char* op = "gather_backward";
  return by_dtype(op, grad_y, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y");
    Shape shape = g.shape();
    const int axis = checked_dim(op, shape, dim);
    const In<int64_t> at(index, op, "index");
    if (at.shape() != shape)
      throw py::value_error("gather_backward: index and grad_y must have the same shape");
    if (extent < 0) throw py::value_error("gather_backward: extent must not be negative");
    const IndexProblem p = problem(shape, axis, extent, at.dim(axis));
    shape[size_t(axis)] = extent;
    py::array grad_x = empty<T>(shape);
    T* out = data<T>(grad_x);
    bool inside;
    {
      KernelScope scope(g.size() + size_of(shape));
      inside = gather_backward<T>(out, g, at, p);
    }
    if (!inside) check_index(op, at, extent);  // raises
    return grad_x;
  });
}

}  // namespace

void register_layout(py::module_& m) {
  m.def("concat", &bind_concat, py::arg("arrays"), py::arg("dim"));
  m.def("index_select_forward", &bind_index_select_forward, py::arg("x"), py::arg("dim"), py::arg("index"));
  m.def("index_select_backward", &bind_index_select_backward, py::arg("grad_y"), py::arg("dim"),
        py::arg("index"), py::arg("extent"));
  m.def("gather_forward", &bind_gather_forward, py::arg("x"), py::arg("dim"), py::arg("index"));
  m.def("gather_backward", &bind_gather_backward, py::arg("grad_y"), py::arg("dim"), py::arg("index"),
        py::arg("extent"));
}

}  // namespace fastdl::binding

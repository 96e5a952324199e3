#include "cpu/layout.h"

#include <atomic>

#include "bindings/cpu/index.h"
#include "cpu/embedding.h"
#include "cpu/mask.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {

void refuse_index(const char* op, const In<int64_t>& index, int64_t at, int64_t low, int64_t extent,
                  const char* argument) {
  std::string place;  // a list of subscripts
  int64_t rest = at;
  for (int axis = index.ndim() - 1; axis >= 0; --axis) {
    const std::string subscript = std::to_string(rest % index.dim(axis));
    place = place.empty() ? subscript : subscript + ", " + place;
    rest /= index.dim(axis);
  }
  throw py::index_error(std::string(op) + ": " + argument + "[" + place +
                        "] = " + std::to_string(index.get()[at]) + " is out of range [" +
                        std::to_string(low) + ", " + std::to_string(extent) + ")");
}

void check_index(const char* op, const In<int64_t>& index, int64_t extent, const char* argument) {
  const int64_t at = find_outside(index, index.size(), extent);
  if (at >= 0) refuse_index(op, index, at, 0, extent, argument);
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

void check_item(const py::array& x, const char* op) {
  const int64_t item = x.itemsize();
  if (x.dtype().kind() == 'O' || !(item == 1 || item == 2 || item == 4 || item == 8))
    throw py::type_error(std::string(op) + ": elements must be numbers of 1, 2, 4 or 8 bytes");
}

py::array in_c_order(const py::array& x, const char* op) {
  check_item(x, op);
  return is_plain(x) ? x : contiguous_copy(x);
}

const char* bytes(const py::array& x) {
  return static_cast<const char*>(x.data());
}

// x, or its copy in C order where its entries along `axis` are not in one piece each, or slices not evenly apart.
py::array with_steps(EntrySteps& steps, const py::array& x, int axis, const IndexProblem& p, const char* op) {
  const int64_t item = x.itemsize();
  check_item(x, op);
  int64_t expected = item;
  bool whole = is_aligned(x);
  for (int d = int(x.ndim()) - 1; d > axis; expected *= x.shape(d--))
    whole = whole && (x.shape(d) == 1 || x.strides(d) == expected);
  for (int d = axis - 1; d > 0; --d) whole = whole && x.strides(d - 1) == x.strides(d) * x.shape(d);
  steps = {axis > 0 ? x.strides(axis - 1) : 0, x.strides(axis)};
  if (whole && steps.slice % item == 0 && steps.entry % item == 0) return x;
  steps = {p.extent * p.inner * item, p.inner * item};
  return in_c_order(x, op);
}

py::array bind_concat(const std::vector<py::array>& arrays, int64_t dim) {
  const char* op = "concat";
  if (arrays.empty()) throw py::value_error("concat: at least one array is needed");
  Shape shape = shape_of(arrays[0]);
  const int axis = checked_dim(op, shape, dim);
  const py::dtype dtype = arrays[0].dtype();
  std::vector<py::array> parts;  // keeps copies alive
  std::vector<const char*> data;
  std::vector<int64_t> row_bytes, steps;
  const int64_t inner = size_of(std::span<const int64_t>(shape).subspan(size_t(axis) + 1));
  shape[size_t(axis)] = 0;
  for (const py::array& array : arrays) {
    if (!array.dtype().is(dtype) && !array.dtype().equal(dtype))
      throw py::type_error("concat: arrays must have the same dtype");
    require(size_t(array.ndim()) == shape.size(), op, "arrays must have the same number of axes");
    for (int i = 0; i < int(array.ndim()); ++i)
      require(i == axis || array.shape(i) == shape[size_t(i)], op, "extents must be equal but for dim");
    const int64_t extent = array.shape(axis);
    shape[size_t(axis)] += extent;
    row_bytes.push_back(extent * inner * array.itemsize());
    EntrySteps step{row_bytes.back(), 0};
    const bool rows =
        axis > 0 && !is_plain(array) && (extent == 1 || array.strides(axis) == inner * array.itemsize());
    parts.push_back(rows ? with_steps(step, array, axis, {0, extent, inner, 0}, op) : in_c_order(array, op));
    data.push_back(bytes(parts.back()));
    steps.push_back(step.slice);
  }
  py::array y = empty_array(dtype, shape);
  char* out = static_cast<char*>(y.mutable_data());
  const int64_t outer = size_of(std::span<const int64_t>(shape).first(size_t(axis)));
  KernelScope scope(size_of(shape));
  concat(out, data.data(), row_bytes.data(), steps.data(), int64_t(data.size()), outer);
  return y;
}

py::array bind_index_select_forward(const py::array& x, int64_t dim, const py::array& index) {
  const char* op = "index_select";
  Shape shape = shape_of(x);
  const int axis = checked_dim(op, shape, dim);
  const In<int64_t> at(index, op, "index");
  if (at.ndim() != 1) throw py::value_error("index_select: index must have one dimension");
  check_index(op, at, shape[size_t(axis)]);
  const IndexProblem p = problem(shape, axis, shape[size_t(axis)], at.size());
  EntrySteps steps;
  const py::array in = with_steps(steps, x, axis, p, op);
  shape[size_t(axis)] = at.size();
  py::array y = empty_array(x.dtype(), shape);
  char* out = static_cast<char*>(y.mutable_data());
  const int64_t size = size_of(shape), item = x.itemsize();  // (asks Python, so not in the scope)
  KernelScope scope(size);
  if (size > 0) index_select_forward(out, bytes(in), at, p, item, steps);
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
    index_add<T>(out, g, at, p, true);
    return grad_x;
  });
}

// `index` and `shape` may differ in axis `axis` only.
void check_same(const char* op, const Shape& shape, const Shape& index, int axis) {
  bool same = shape.size() == index.size();
  for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] == index[i] || int(i) == axis;
  if (!same) throw py::value_error(std::string(op) + ": index and array must have equal extents but for dim");
}

// Index arrays of one shape, one for each axis of an array of `extents`, as places in it; None if one is outside.
py::object bind_flat_index(const std::vector<py::array>& arrays, const Shape& extents) {
  const char *op = "flat_index", *rule = "there must be an index of one shape for each extent";
  require(!arrays.empty() && arrays.size() == extents.size(), op, rule);
  py::array places = empty<int64_t>(shape_of(arrays[0]));
  const int64_t count = places.size();
  auto* to = reinterpret_cast<uint64_t*>(data<int64_t>(places));
  std::memset(to, 0, size_t(count) * sizeof(int64_t));
  bool inside = true;
  for (size_t axis = 0; axis < arrays.size(); ++axis) {
    const In<int64_t> at(arrays[axis], op, "index");
    require(at.size() == count, op, rule);
    const int64_t* index = at;
    const auto extent = uint64_t(extents[axis]);
    KernelScope scope(count);
    parallel_for(count, 1 << 13, [=, &inside](int64_t begin, int64_t end) {
      bool good = true;
      for (int64_t i = begin; i < end; ++i) {
        const uint64_t place = uint64_t(index[i]) + (index[i] < 0 ? extent : 0);  // from the end
        good &= place < extent;
        to[i] = to[i] * extent + place;
      }
      if (!good) std::atomic_ref(inside).store(false, std::memory_order_relaxed);
    });
  }
  if (!inside) return py::none();
  return places;
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
    check_index(op, at, extent);
    const IndexProblem p = problem(shape, axis, extent, at.dim(axis));
    shape[size_t(axis)] = extent;
    py::array grad_x = empty<T>(shape);
    T* out = data<T>(grad_x);
    KernelScope scope(g.size() + size_of(shape));
    scatter_add<T>(out, g, false, at, p, true);
    return grad_x;
  });
}

// The data of an array that is written in place.
char* writable_data(const char* op, py::array& out) {
  if (!is_plain(out) || !out.writeable())
    throw py::value_error(std::string(op) + ": out must be writable and in C order");
  return static_cast<char*>(out.mutable_data());
}

// An input that is read while `out` is written: a copy where they have memory in common.
py::array apart(const py::array& input, const py::array& out) {
  return overlaps(out, input) ? contiguous_copy(input) : input;
}

void check_source(const char* op, const py::array& out, const py::array& source) {
  if (!source.dtype().equal(out.dtype()))
    throw py::type_error(std::string(op) + ": source must have the dtype of out");
}

// kernel(y, source, index, problem) for rows along an axis: index_copy, index_add and scatter_reduce by a vector.
template <class F>
void on_rows(const char* op, py::array& out, int64_t dim, const py::array& index, const py::array& source,
             F&& kernel) {
  char* y = writable_data(op, out);
  Shape shape = shape_of(out);
  const int axis = checked_dim(op, shape, dim);
  check_source(op, out, source);
  const In<int64_t> at(apart(index, out), op, "index");
  const int64_t extent = shape[size_t(axis)];
  shape[size_t(axis)] = at.size();
  if (at.ndim() != 1 || shape_of(source) != shape)
    throw py::value_error(std::string(op) +
                          ": source must have the shape of out but for dim, with one entry for each index");
  check_index(op, at, extent);
  const py::array from = in_c_order(apart(source, out), op);
  const IndexProblem p = problem(shape, axis, extent, at.size());
  KernelScope scope(from.size());
  if (from.size() > 0) kernel(y, bytes(from), at.get(), p);
}

void bind_index_copy(py::array& out, int64_t dim, const py::array& index, const py::array& source) {
  on_rows("index_copy", out, dim, index, source,
          [item = out.itemsize()](char* y, const char* from, const int64_t* at, const IndexProblem& p) {
            index_copy(y, from, at, p, item);
          });
}

void bind_index_add(py::array& out, int64_t dim, const py::array& index, const py::array& source) {
  if (const Half half = half_of(out); half != Half::none) {
    require(dim == 0, "index_add", "half precision is added to rows: dim must be 0");
    return on_rows("index_add", out, dim, index, source,
                   [half](char* y, const char* from, const int64_t* at, const IndexProblem& p) {
                     embedding_backward<uint16_t>(
                         reinterpret_cast<uint16_t*>(y), reinterpret_cast<const uint16_t*>(from), at, nullptr,
                         nullptr, false, {p.extent, p.inner, p.count, -1, half, true});
                   });
  }
  by_number("index_add", out, [&]<class T>(T) {
    on_rows("index_add", out, dim, index, source,
            [](char* y, const char* from, const int64_t* at, const IndexProblem& p) {
              index_add<T>(reinterpret_cast<T*>(y), reinterpret_cast<const T*>(from), at, p, false);
            });
  });
}

// kernel(y, source, repeated, index, problem) for elements: scatter, scatter_add and scatter_reduce. Nothing
// is written unless all indices are right. A source of no dimensions is one element for all.
template <class F>
void on_elements(const char* op, py::array& out, int64_t dim, const py::array& index, const py::array& source,
                 F&& kernel) {
  char* y = writable_data(op, out);
  const Shape shape = shape_of(out);
  const int axis = checked_dim(op, shape, dim);
  check_source(op, out, source);
  const In<int64_t> at(apart(index, out), op, "index");
  check_same(op, shape, at.shape(), axis);
  const bool repeated = source.ndim() == 0;
  if (!repeated && shape_of(source) != at.shape())
    throw py::value_error(std::string(op) + ": source must have the shape of index");
  const py::array from = in_c_order(apart(source, out), op);
  const IndexProblem p = problem(shape, axis, shape[size_t(axis)], at.dim(axis));
  check_index(op, at, p.extent);
  KernelScope scope(at.size());
  if (at.size() > 0) kernel(y, bytes(from), repeated, at.get(), p);
}

void bind_scatter(py::array& out, int64_t dim, const py::array& index, const py::array& source) {
  on_elements("scatter", out, dim, index, source,
              [item = out.itemsize()](char* y, const char* from, bool repeated, const int64_t* at,
                                      const IndexProblem& p) { scatter(y, from, repeated, at, p, item); });
}

void bind_scatter_add(py::array& out, int64_t dim, const py::array& index, const py::array& source) {
  by_number("scatter_add", out, [&]<class T>(T) {
    on_elements("scatter_add", out, dim, index, source,
                [](char* y, const char* from, bool repeated, const int64_t* at, const IndexProblem& p) {
                  scatter_add<T>(reinterpret_cast<T*>(y), reinterpret_cast<const T*>(from), repeated, at, p,
                                 false);
                });
  });
}

void bind_scatter_reduce(py::array& out, int64_t dim, const py::array& index, const py::array& source,
                         const std::string& reduce) {
  const char* op = "scatter_reduce";
  const Join join = reduce == "amax" ? Join::largest : reduce == "amin" ? Join::smallest : Join::product;
  require(reduce == "prod" || join != Join::product, op, "reduce must be prod, amax or amin");
  by_number(op, out, [&]<class T>(T) {
    if (index.ndim() == 1 && out.ndim() > 1)
      return on_rows(op, out, dim, index, source,
                     [join](char* y, const char* from, const int64_t* at, const IndexProblem& p) {
                       index_reduce<T>(reinterpret_cast<T*>(y), reinterpret_cast<const T*>(from), at, p,
                                       join);
                     });
    on_elements(op, out, dim, index, source,
                [join](char* y, const char* from, bool repeated, const int64_t* at, const IndexProblem& p) {
                  scatter_reduce<T>(reinterpret_cast<T*>(y), reinterpret_cast<const T*>(from), repeated, at,
                                    p, join);
                });
  });
}

// A mask over the first axes of `x`, and how many bytes each of its elements stands for.
struct Masked {
  In<bool> mask;
  int64_t row;
  MaskBlocks blocks;
  Masked(const char* op, const py::array& x, const py::array& given) : mask(given, op, "mask") {
    const Shape shape = shape_of(x), covered = mask.shape();
    if (covered.size() > shape.size() || !std::equal(covered.begin(), covered.end(), shape.begin()))
      throw py::value_error(std::string(op) + ": mask must have the extents of the array's first axes");
    row = size_of(std::span<const int64_t>(shape).subspan(covered.size())) * x.itemsize();
    KernelScope scope(mask.size());
    count_blocks(bytes(), mask.size(), blocks);
  }
  const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(mask.get()); }
};

py::array bind_masked_select(const py::array& x, const py::array& mask) {
  const Masked m("masked_select", x, mask);
  const py::array in = in_c_order(x, "masked_select");
  Shape shape = shape_of(x);
  shape.erase(shape.begin(), shape.begin() + m.mask.ndim());
  shape.insert(shape.begin(), m.blocks.total());
  py::array y = empty_array(x.dtype(), shape);
  char* out = static_cast<char*>(y.mutable_data());
  const char* from = bytes(in);
  KernelScope scope(m.blocks.n);
  if (m.row > 0) masked_select(out, from, m.bytes(), m.blocks, m.row);
  return y;
}

void bind_masked_put(py::array& out, const py::array& mask, const py::array& source) {
  const char* op = "masked_put";
  char* y = writable_data(op, out);
  const Masked m(op, out, apart(mask, out));
  check_source(op, out, source);
  const py::array from = in_c_order(apart(source, out), op);
  const int64_t size = int64_t(from.nbytes());
  const bool repeated = source.ndim() == 0 && m.row == out.itemsize();
  if (!repeated && size < m.blocks.total() * m.row)
    throw py::value_error(std::string(op) + ": the mask names " + std::to_string(m.blocks.total()) +
                          " entries, source has fewer elements than they have");
  KernelScope scope(m.blocks.n);
  if (m.row > 0) masked_put(y, bytes(from), repeated, m.bytes(), m.blocks, m.row);
}

py::array bind_nonzero(const py::array& mask) {
  const Masked m("nonzero", mask, mask);
  const Shape shape = m.mask.shape();
  if (shape.empty()) throw py::value_error("nonzero: mask must have at least one axis");
  py::array y = empty<int64_t>({m.blocks.total(), int64_t(shape.size())});
  auto* out = data<int64_t>(y);
  KernelScope scope(m.blocks.n);
  nonzero(out, m.bytes(), m.blocks, shape.data(), int(shape.size()));
  return y;
}

py::array bind_triangle(const py::array& x, int64_t diagonal, bool lower,
                        const std::optional<py::array>& out_array) {
  const char* op = "triangle";
  const Shape shape = shape_of(x);
  require(shape.size() >= 2, op, "x must have at least two axes");
  py::array y = out_array ? *out_array : empty_array(x.dtype(), shape);
  require(shape_of(y) == shape && y.dtype().equal(x.dtype()), op, "out must have the shape and dtype of x");
  char* out = writable_data(op, y);
  const py::array in = in_c_order(y.is(x) ? x : apart(x, y), op);
  const int64_t rows = shape[shape.size() - 2], columns = shape.back(), size = size_of(shape);
  const int64_t item = x.itemsize();
  const char* from = bytes(in);
  KernelScope scope(size);
  if (size > 0)
    triangle(out, from, size / (rows * columns), rows, columns, std::clamp(diagonal, -rows, columns), lower,
             item);
  return y;
}

void bind_progression(py::array& out, const py::object& start, const py::object& step) {
  const char* op = "progression";
  require(out.ndim() == 1 && out.writeable() && out.strides(0) % out.itemsize() == 0, op,
          "out must be a writable array of one axis");
  const int64_t count = out.shape(0), stride = out.strides(0) / out.itemsize();
  const auto run = [&]<class T>(T) {
    const auto first = start.cast<double>(), by = step.cast<double>();
    T* to = data<T>(out);
    KernelScope scope(count);
    progression<T, double>(to, count, stride, first, by);
  };
  if (is_dtype<int64_t>(out)) {
    const auto first = start.cast<int64_t>(), by = step.cast<int64_t>();
    int64_t* to = data<int64_t>(out);
    KernelScope scope(count);
    return progression<int64_t, uint64_t>(to, count, stride, uint64_t(first), uint64_t(by));
  }
  by_dtype(op, out, run);
}

py::array bind_triangle_places(int64_t rows, int64_t columns, int64_t diagonal, bool lower) {
  constexpr int64_t kMost = int64_t(1) << 40;
  require(rows >= 0 && columns >= 0 && rows < kMost && columns < kMost, "triangle_places",
          "rows and columns must lie between 0 and 2^40");
  diagonal = std::clamp(diagonal, -kMost, kMost);
  const double places_in_it = triangle_count(rows, columns, diagonal, lower);
  if (places_in_it > double(int64_t{1} << 42)) throw std::bad_alloc();
  const auto count = int64_t(places_in_it);
  py::array places = empty<int64_t>({2, count});
  auto* to = data<int64_t>(places);
  KernelScope scope(count);
  triangle_places(to, to + count, rows, columns, diagonal, lower);
  return places;
}

}  // namespace

void register_layout(py::module_& m) {
  m.def("concat", &bind_concat, py::arg("arrays"), py::arg("dim"));
  m.def("index_select_forward", &bind_index_select_forward, py::arg("x"), py::arg("dim"), py::arg("index"));
  m.def("index_select_backward", &bind_index_select_backward, py::arg("grad_y"), py::arg("dim"),
        py::arg("index"), py::arg("extent"));
  m.def("flat_index", &bind_flat_index, py::arg("arrays"), py::arg("extents"));
  m.def("gather_forward", &bind_gather_forward, py::arg("x"), py::arg("dim"), py::arg("index"));
  m.def("gather_backward", &bind_gather_backward, py::arg("grad_y"), py::arg("dim"), py::arg("index"),
        py::arg("extent"));

  const auto in_place = [&](const char* name, auto function) {
    m.def(name, function, py::arg("out"), py::arg("dim"), py::arg("index"), py::arg("source"));
  };
  in_place("index_copy", &bind_index_copy);
  in_place("index_add", &bind_index_add);
  in_place("scatter", &bind_scatter);
  in_place("scatter_add", &bind_scatter_add);
  m.def("scatter_reduce", &bind_scatter_reduce, py::arg("out"), py::arg("dim"), py::arg("index"),
        py::arg("source"), py::arg("reduce"));
  m.def("masked_select", &bind_masked_select, py::arg("x"), py::arg("mask"));
  m.def("masked_put", &bind_masked_put, py::arg("out"), py::arg("mask"), py::arg("source"));
  m.def("nonzero", &bind_nonzero, py::arg("mask"));
  m.def("progression", &bind_progression, py::arg("out"), py::arg("start"), py::arg("step"));
  m.def("triangle_places", &bind_triangle_places, py::arg("rows"), py::arg("columns"), py::arg("diagonal"),
        py::arg("lower"));
  m.def("triangle", &bind_triangle, py::arg("x"), py::arg("diagonal"), py::arg("lower"),
        py::arg("out") = py::none());
}

}  // namespace fastdl::binding

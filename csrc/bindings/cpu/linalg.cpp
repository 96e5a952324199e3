#include "cpu/linalg/linalg.h"

#include <complex>

#include "bindings/cpu/array.h"
#include "cpu/runtime/threads.h"

// What is done here to elements, copies and ones, is done to their bytes: bindings for four dtypes are not four.
namespace fastdl::binding {
namespace {

Field field_of(const py::array& x, const char* op) {
  if (is_dtype<float>(x)) return Field::float32;
  if (is_dtype<double>(x)) return Field::float64;
  if (is_dtype<std::complex<float>>(x)) return Field::complex64;
  if (is_dtype<std::complex<double>>(x)) return Field::complex128;
  raise_dtype(x, op, "input", "float32, float64, complex64 or complex128");
}

// f(i) for each matrix of a batch, of `work` multiplications each: several at once, or each by all threads.
template <class F>
void each(int64_t batch, int64_t work, F&& f) {
  constexpr int64_t kGrain = 20 * 1000, kLarge = 1000 * 1000;
  KernelScope scope(batch * work);
  if (batch < num_threads() && work > kLarge) {
    for (int64_t i = 0; i < batch; ++i) f(i);
    return;
  }
  parallel_for(batch, std::max<int64_t>(kGrain / std::max<int64_t>(work, 1), 1), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) f(i);
  });
}

Shape batch_of(const Shape& shape, const char* op) {
  require(shape.size() >= 2 && shape.size() < 32, op, "expects matrices (..., m, n)");
  return {shape.begin(), shape.end() - 2};
}
Shape with(Shape batch, std::initializer_list<int64_t> extents) {
  batch.insert(batch.end(), extents);
  return batch;
}

void copy_item(char* to, const char* from, int64_t item) {
  if (item == 4)
    std::memcpy(to, from, 4);
  else if (item == 8)
    std::memcpy(to, from, 8);
  else
    std::memcpy(to, from, 16);
}

// Arrays whose last two axes are matrices, of any strides (in bytes).
struct MatrixBatch {
  py::array array;
  Field field;
  Shape shape, batch;
  int64_t rows, columns, item, row, column;
  const char* data;

  MatrixBatch(const py::array& x, const char* op) : array(x), field(field_of(x, op)) {
    shape = shape_of(x), batch = batch_of(shape, op), item = int64_t(x.itemsize());
    const int n = int(shape.size());
    if (!has_whole_strides(x, item)) array = contiguous_copy(x);
    rows = shape[size_t(n - 2)], columns = shape[size_t(n - 1)];
    row = array.strides(n - 2), column = array.strides(n - 1);
    data = static_cast<const char*>(array.data());
  }
  // Where the matrices of a batch are that this one is broadcast to, in bytes.
  std::vector<int64_t> offsets(const Shape& to) const {
    std::vector<int64_t> result(size_t(size_of(to)), 0);
    const size_t missing = to.size() - batch.size();
    for (size_t i = 0; i < result.size(); ++i)
      for (size_t axis = to.size(), left = i; axis-- > missing;) {
        const size_t own = axis - missing, extent = size_t(to[axis]);
        if (batch[own] != 1) result[i] += int64_t(left % extent) * array.strides(int(own));
        left /= extent;
      }
    return result;
  }
  void copy(char* to, int64_t offset) const {
    for (int64_t i = 0; i < rows; ++i) {
      const char* from = data + offset + i * row;
      if (column == item)
        std::memcpy(to, from, size_t(columns * item));
      else
        for (int64_t j = 0; j < columns; ++j) copy_item(to + j * item, from + j * column, item);
      to += columns * item;
    }
  }
};

py::array new_array(const MatrixBatch& like, const Shape& shape) {
  return empty_array(like.array.dtype(), shape);
}

// The bytes of 1: of a complex number they begin with those of a real one.
struct One {
  char bytes[16] = {};
  explicit One(Field field) {
    const float single = 1;
    const double twice = 1;
    if (field == Field::float32 || field == Field::complex64)
      std::memcpy(bytes, &single, 4);
    else
      std::memcpy(bytes, &twice, 8);
  }
};

py::tuple bind_lu_factor(const py::array& a, bool pivot) {
  constexpr const char* op = "lu_factor";
  const MatrixBatch in(a, op);
  const int64_t rows = in.rows, columns = in.columns, steps = std::min(rows, columns);
  require(rows < kLargest && columns < kLargest, op, "matrices must have fewer than 2^31 rows and columns");
  py::array packed = new_array(in, in.shape);
  py::array pivots = empty<int32_t>(with(in.batch, {steps})), info = empty<int32_t>(in.batch);
  char* to = data<char>(packed);
  auto *exchanges = data<int32_t>(pivots), *zero = data<int32_t>(info);
  const auto from = in.offsets(in.batch);
  each(int64_t(from.size()), rows * columns * (steps + 1), [&](int64_t i) {
    char* matrix = to + i * rows * columns * in.item;
    in.copy(matrix, from[size_t(i)]);
    zero[i] = lu_factor(in.field, matrix, rows, columns, pivot, exchanges + i * steps);
  });
  return py::make_tuple(packed, pivots, info);
}

// L (with its ones) and U of packed factors.
py::tuple bind_lu_unpack(const py::array& packed) {
  const MatrixBatch in(packed, "lu_unpack");
  const int64_t rows = in.rows, columns = in.columns, item = in.item, steps = std::min(rows, columns);
  py::array lower = new_array(in, with(in.batch, {rows, steps}));
  py::array upper = new_array(in, with(in.batch, {steps, columns}));
  if (packed.size() == 0) return py::make_tuple(lower, upper);
  char *l = data<char>(lower), *u = data<char>(upper);
  const auto from = in.offsets(in.batch);
  const One one(in.field);
  each(int64_t(from.size()), rows * columns, [&](int64_t b) {
    std::vector<char> whole(size_t(columns * item));
    for (int64_t i = 0; i < rows; ++i) {
      const char* row = in.data + from[size_t(b)] + i * in.row;
      if (in.column != item) {
        for (int64_t j = 0; j < columns; ++j) copy_item(whole.data() + j * item, row + j * in.column, item);
        row = whole.data();
      }
      char* to = l + (b * rows + i) * steps * item;
      const int64_t below = std::min(i, steps) * item;
      std::memcpy(to, row, size_t(below));
      std::memset(to + below, 0, size_t(steps * item - below));
      if (i >= steps) continue;
      copy_item(to + below, one.bytes, item);
      to = u + (b * steps + i) * columns * item;
      std::memset(to, 0, size_t(below));
      std::memcpy(to + below, row + below, size_t(columns * item - below));
    }
  });
  return py::make_tuple(lower, upper);
}

// Exchanges as lu_factor gives them, checked: whatever they hold, no other memory is touched.
In<int32_t> exchanges(const py::array& pivots, const char* op, const Shape& batch, int64_t rows,
                      int64_t most) {
  In<int32_t> in(pivots, op, "pivots");
  const Shape shape = in.shape();
  require(!shape.empty() && Shape(shape.begin(), shape.end() - 1) == batch && shape.back() <= most, op,
          "pivots must be (..., min(m, n)) for factors (..., m, n)");
  for (int64_t i = 0; i < in.size(); ++i)
    require(in[i] >= 1 && in[i] <= rows, op, "pivots must be numbers of rows, from 1");
  return in;
}

// P of the dtype and with the rows of the packed factors.
py::array bind_lu_permutation(const py::array& pivots, const py::array& packed) {
  constexpr const char* op = "lu_permutation";
  const MatrixBatch factors(packed, op);
  const int64_t rows = factors.rows, count = size_of(factors.batch);
  const In<int32_t> in = exchanges(pivots, op, factors.batch, rows, rows);
  const int64_t steps = in.dim(in.ndim() - 1);
  py::array permutation = new_array(factors, with(factors.batch, {rows, rows}));
  char* to = data<char>(permutation);
  std::memset(to, 0, size_t(permutation.nbytes()));
  const One one(factors.field);
  std::vector<int64_t> order(size_t(rows), 0);
  for (int64_t b = 0; b < count; ++b) {
    lu_order(in + b * steps, steps, rows, order.data());
    for (int64_t i = 0; i < rows; ++i)
      copy_item(to + ((b * rows + order[size_t(i)]) * rows + i) * factors.item, one.bytes, factors.item);
  }
  return permutation;
}

// f(matrix, its place in a's batch, x) makes the solution of the right sides x by each of the matrices a: of b, which
// broadcasts, or of the identity.
template <class F>
py::array solve(const MatrixBatch& a, const std::optional<py::array>& right, const char* op, F&& f) {
  const int64_t n = a.rows, item = a.item;
  require(a.columns == n, op, "a must hold square matrices");
  std::optional<MatrixBatch> b;
  Shape batch = a.batch;
  int64_t columns = n;
  if (right) {
    b.emplace(*right, op);
    if (b->field != a.field)
      raise_dtype(*right, op, "b", py::str(a.array.dtype()).cast<std::string>().c_str());
    require(b->rows == n, op, "b must have as many rows as a");
    columns = b->columns;
    const Shape &own = a.batch, &other = b->batch;
    batch.assign(std::max(own.size(), other.size()), 1);
    for (const Shape& shape : {own, other})
      for (size_t i = 0, first = batch.size() - shape.size(); i < shape.size(); ++i) {
        int64_t& extent = batch[first + i];
        require(extent == 1 || shape[i] == 1 || extent == shape[i], op, "batch dimensions do not broadcast");
        if (shape[i] != 1) extent = shape[i];
      }
  }
  py::array result = new_array(a, with(batch, {n, columns}));
  char* to = data<char>(result);
  const auto of_a = a.offsets(batch), of_b = b ? b->offsets(batch) : of_a;
  const One one(a.field);
  each(int64_t(of_a.size()), n * n * columns, [&](int64_t i) {
    char* x = to + i * n * columns * item;
    if (b) {
      b->copy(x, of_b[size_t(i)]);
    } else {
      std::memset(x, 0, size_t(n * n * item));
      for (int64_t k = 0; k < n; ++k) copy_item(x + k * (n + 1) * item, one.bytes, item);
    }
    f(a.data + of_a[size_t(i)], of_a[size_t(i)], x, columns);
  });
  return result;
}

py::array bind_triangular_solve(const py::array& a, const std::optional<py::array>& b, bool upper,
                                bool unit) {
  const MatrixBatch in(a, "triangular_solve");
  return solve(in, b, "triangular_solve", [&](const char* matrix, int64_t, char* x, int64_t columns) {
    triangular_solve(in.field, matrix, in.row / in.item, in.column / in.item, upper, unit, in.rows, x,
                     columns);
  });
}

py::array bind_lu_solve(const py::array& packed, const py::array& pivots, const std::optional<py::array>& b,
                        bool transposed) {
  constexpr const char* op = "lu_solve";
  constexpr int contiguous = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
  const bool dense = py::detail::array_proxy(packed.ptr())->flags & contiguous;
  const MatrixBatch in(dense ? packed : contiguous_copy(packed), op);
  const In<int32_t> rows = exchanges(pivots, op, in.batch, in.rows, in.rows);
  require(rows.dim(rows.ndim() - 1) == in.rows, op, "pivots must be (..., n)");
  return solve(in, b, op, [&](const char* matrix, int64_t offset, char* x, int64_t columns) {
    const int64_t first = in.rows ? offset / (in.rows * in.item) : 0;
    lu_solve(in.field, matrix, rows + first, transposed, in.rows, x, columns);
  });
}

py::array bind_cross(const py::array& x, const py::array& y, int64_t axis) {
  constexpr const char* op = "cross";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> a(x, op, "x"), b(y, op, "y");
    const Shape shape = a.shape();
    require(b.shape() == shape, op, "x and y must have one shape");
    require(axis >= 0 && axis < a.ndim() && a.dim(int(axis)) == 3, op, "axis must have an extent of 3");
    py::array z = empty<T>(shape);
    const std::span<const int64_t> all(shape);
    const int64_t outer = size_of(all.first(size_t(axis))), inner = size_of(all.subspan(size_t(axis) + 1));
    T* out = data<T>(z);
    KernelScope scope(a.size());
    cross<T>(out, a, b, outer, inner);
    return z;
  });
}

}  // namespace

void register_linalg(py::module_& m) {
  m.def("cross_forward", &bind_cross, py::arg("x"), py::arg("y"), py::arg("axis"));
  m.def("lu_factor", &bind_lu_factor, py::arg("a"), py::arg("pivot"));
  m.def("lu_unpack", &bind_lu_unpack, py::arg("packed"));
  m.def("lu_permutation", &bind_lu_permutation, py::arg("pivots"), py::arg("packed"));
  m.def("lu_solve", &bind_lu_solve, py::arg("packed"), py::arg("pivots"), py::arg("b"),
        py::arg("transposed"));
  m.def("triangular_solve", &bind_triangular_solve, py::arg("a"), py::arg("b"), py::arg("upper"),
        py::arg("unit"));
}

}  // namespace fastdl::binding

#include "cpu/linalg/linalg.h"

#include <complex>

#include "bindings/cpu/matrices.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

template <class F>
auto by_field(const char* op, const py::array& x, F&& f) {  // f(T{}) for the dtypes that matrices may have
  if (is_dtype<std::complex<float>>(x)) return f(std::complex<float>{});
  if (is_dtype<std::complex<double>>(x)) return f(std::complex<double>{});
  if (is_dtype<float>(x)) return f(float{});
  if (is_dtype<double>(x)) return f(double{});
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

template <class T>
void copy_matrix(T* to, MatrixView<T> from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[i * columns + j] = from.data[i * from.row + j * from.col];
}

template <class T>
void identity(T* to, int64_t n) {
  std::fill(to, to + n * n, T(0));
  for (int64_t i = 0; i < n; ++i) to[i * (n + 1)] = T(1);
}

py::tuple bind_lu_factor(const py::array& a, bool pivot) {
  constexpr const char* op = "lu_factor";
  return by_field(op, a, [&]<class T>(T) {
    const Shape shape = shape_of(a), batch = batch_of(shape, op);
    const Matrices<T> in(a, op, "a");
    const int64_t rows = in.rows, columns = in.cols, steps = std::min(rows, columns);
    require(rows < kLargest && columns < kLargest, op, "matrices must have fewer than 2^31 rows and columns");
    py::array packed = empty<T>(shape), pivots = empty<int32_t>(with(batch, {steps})), info = empty<int32_t>(batch);
    T* to = data<T>(packed);
    auto *exchanges = data<int32_t>(pivots), *zero = data<int32_t>(info);
    const auto from = batch_offsets(in, batch);
    each(int64_t(from.size()), rows * columns * (steps + 1), [&](int64_t i) {
      T* matrix = to + i * rows * columns;
      copy_matrix(matrix, {in.view.data + from[size_t(i)], in.view.row, in.view.col}, rows, columns);
      zero[i] = lu_factor(matrix, rows, columns, pivot, exchanges + i * steps);
    });
    return py::make_tuple(packed, pivots, info);
  });
}

// L (with its ones) and U of packed factors.
py::tuple bind_lu_unpack(const py::array& packed) {
  constexpr const char* op = "lu_unpack";
  return by_field(op, packed, [&]<class T>(T) {
    const Shape batch = batch_of(shape_of(packed), op);
    const Matrices<T> in(packed, op, "packed");
    const int64_t rows = in.rows, columns = in.cols, steps = std::min(rows, columns);
    py::array lower = empty<T>(with(batch, {rows, steps})), upper = empty<T>(with(batch, {steps, columns}));
    T *l = data<T>(lower), *u = data<T>(upper);
    const auto from = batch_offsets(in, batch);
    each(int64_t(from.size()), rows * columns, [&](int64_t b) {
      for (int64_t i = 0; i < rows; ++i) {
        const T* row = in.view.data + from[size_t(b)] + i * in.view.row;
        T* to = l + (b * rows + i) * steps;
        for (int64_t j = 0; j < steps; ++j) to[j] = j < i ? row[j * in.view.col] : T(j == i);
        if (i >= steps) continue;
        to = u + (b * steps + i) * columns;
        for (int64_t j = 0; j < columns; ++j) to[j] = j < i ? T(0) : row[j * in.view.col];
      }
    });
    return py::make_tuple(lower, upper);
  });
}

// Exchanges as lu_factor gives them, checked: whatever they hold, no other memory is touched.
In<int32_t> exchanges(const py::array& pivots, const char* op, const Shape& batch, int64_t rows, int64_t most) {
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
  return by_field(op, packed, [&]<class T>(T) {
    const Shape shape = shape_of(packed), batch = batch_of(shape, op);
    const int64_t rows = shape[shape.size() - 2];
    const In<int32_t> in = exchanges(pivots, op, batch, rows, rows);
    const int64_t steps = in.dim(in.ndim() - 1), count = size_of(batch);
    py::array permutation = zeros<T>(with(batch, {rows, rows}));
    T* to = data<T>(permutation);
    std::vector<int64_t> order(size_t(rows), 0);
    for (int64_t b = 0; b < count; ++b) {
      lu_order(in + b * steps, steps, rows, order.data());
      for (int64_t i = 0; i < rows; ++i) to[(b * rows + order[size_t(i)]) * rows + i] = T(1);
    }
    return permutation;
  });
}

// A system's factors and its right sides, which broadcast; without right sides the identity is solved for.
template <class T>
struct System {
  Matrices<T> a;
  std::optional<Matrices<T>> b;
  Shape batch;
  std::vector<int64_t> of_a, of_b;
  int64_t n, columns;

  System(const py::array& matrices, const std::optional<py::array>& right, const char* op)
      : a(matrices, op, "a"), batch(batch_of(shape_of(matrices), op)), n(a.rows), columns(n) {
    require(a.cols == n, op, "a must hold square matrices");
    if (right) {
      b.emplace(*right, op, "b");
      require(b->rows == n, op, "b must have as many rows as a");
      columns = b->cols;
      batch = broadcast_batch(op, shape_of(matrices), shape_of(*right));
      of_b = batch_offsets(*b, batch);
    }
    of_a = batch_offsets(a, batch);
  }
  // f(i, x) makes the solution number i of the right sides x.
  template <class F>
  py::array solve(F&& f) const {
    py::array result = empty<T>(with(batch, {n, columns}));
    T* to = data<T>(result);
    each(int64_t(of_a.size()), n * n * columns, [&](int64_t i) {
      T* x = to + i * n * columns;
      if (b)
        copy_matrix(x, {b->view.data + of_b[size_t(i)], b->view.row, b->view.col}, n, columns);
      else
        identity(x, n);
      f(i, x);
    });
    return result;
  }
};

py::array bind_triangular_solve(const py::array& a, const std::optional<py::array>& b, bool upper, bool unit) {
  constexpr const char* op = "triangular_solve";
  return by_field(op, a, [&]<class T>(T) {
    const System<T> system(a, b, op);
    const MatrixView<T> view = system.a.view;
    return system.solve([&](int64_t i, T* x) {
      triangular_solve<T>({view.data + system.of_a[size_t(i)], view.row, view.col}, upper, unit, system.n, x,
                          system.columns, system.columns);
    });
  });
}

py::array bind_lu_solve(const py::array& packed, const py::array& pivots, const std::optional<py::array>& b,
                        bool transposed) {
  constexpr const char* op = "lu_solve";
  return by_field(op, packed, [&]<class T>(T) {
    const In<T> factors(packed, op, "packed");
    const System<T> system(factors.array(), b, op);
    const int64_t n = system.n;
    const In<int32_t> in = exchanges(pivots, op, batch_of(factors.shape(), op), n, n);
    require(in.dim(in.ndim() - 1) == n, op, "pivots must be (..., n)");
    return system.solve([&](int64_t i, T* x) {
      const int64_t at = system.of_a[size_t(i)];
      lu_solve<T>(factors + at, in + (n ? at / n : 0), transposed, n, x, system.columns);
    });
  });
}

}  // namespace

void register_linalg(py::module_& m) {
  m.def("lu_factor", &bind_lu_factor, py::arg("a"), py::arg("pivot"));
  m.def("lu_unpack", &bind_lu_unpack, py::arg("packed"));
  m.def("lu_permutation", &bind_lu_permutation, py::arg("pivots"), py::arg("packed"));
  m.def("lu_solve", &bind_lu_solve, py::arg("packed"), py::arg("pivots"), py::arg("b"), py::arg("transposed"));
  m.def("triangular_solve", &bind_triangular_solve, py::arg("a"), py::arg("b"), py::arg("upper"),
        py::arg("unit"));
}

}  // namespace fastdl::binding

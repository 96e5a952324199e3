#include "cpu/linear.h"

#include "bindings/cpu/array.h"
#include "cpu/gemm/bfloat16.h"
#include "cpu/gemm/half.h"
#include "cpu/layout.h"

namespace fastdl::binding {
namespace {

// The last two axes of an array as a matrix, read in place whenever one of their strides is one element:
// transposed and sliced views cost no copy. Anything else is copied to C order first. Axes before them are
// the batch. A vector is a row or a column. T is uint16_t for half precision.
template <class T>
class Matrices {
 public:
  enum class Vectors { refused, rows, columns };

  Matrices(const py::array& array, const char* op, const char* argument, Half half = Half::none,
           Vectors vectors = Vectors::refused)
      : array_(array) {
    check_stored<T>(array, op, argument, half);
    const int least = vectors == Vectors::refused ? 2 : 1;
    if (array.ndim() < least)
      throw py::value_error(std::string(op) + ": " + argument + " must have at least " +
                            (least == 2 ? "2 dimensions" : "1 dimension") + ", got " +
                            std::to_string(array.ndim()));
    if (array.ndim() == 1) {
      is_vector = true;
      if (!has_whole_strides(array_, sizeof(T))) array_ = contiguous_copy(array);
      const int64_t size = int64_t(array_.shape(0)), step = stride(0);
      view.data = reinterpret_cast<const T*>(py::detail::array_proxy(array_.ptr())->data);
      if (vectors == Vectors::rows)
        rows = 1, cols = size, view.row = size, view.col = step;
      else
        rows = size, cols = 1, view.row = step, view.col = 1;
      return;
    }
    if (!usable()) array_ = contiguous_copy(array);
    const int axis = int(array_.ndim()) - 2;
    rows = int64_t(array_.shape(axis)), cols = int64_t(array_.shape(axis + 1));
    view = {reinterpret_cast<const T*>(py::detail::array_proxy(array_.ptr())->data), stride(axis),
            stride(axis + 1)};
    // The stride of an axis of length 1 means nothing; let it not hide that the other one is contiguous.
    if (cols == 1 && view.row != 1) view.col = 1;
    if (rows == 1 && view.col != 1) view.row = 1;
  }

  int64_t rows, cols;
  bool is_vector = false;
  MatrixView<T> view;
  // Axes in front of the matrix.
  int batch_dims() const { return is_vector ? 0 : int(array_.ndim()) - 2; }
  int64_t dim(int axis) const { return int64_t(array_.shape(axis)); }
  int64_t stride(int axis) const { return int64_t(array_.strides(axis)) / int64_t(sizeof(T)); }
  // The rows of the whole batch, if each matrix follows the one before: the distance between rows, else 0.
  int64_t row_of_all() const {
    if (rows > 1 && view.row == 0) return 0;
    int64_t row = rows > 1 ? view.row : 0, next = rows * row;
    for (int axis = batch_dims(); axis-- > 0;) {
      if (dim(axis) == 1) continue;
      if (stride(axis) == 0) return 0;  // repeated
      if (row == 0) row = next = stride(axis);
      if (stride(axis) != next) return 0;
      next *= dim(axis);
    }
    // One of a matrix's strides is 1; that of a single row need not be.
    return view.col == 1 || row == 1 || cols == 1 ? row : 0;
  }

 private:
  bool usable() const {
    if (!has_whole_strides(array_, sizeof(T))) return false;
    const int n = int(array_.ndim());
    return array_.shape(n - 1) <= 1 || array_.shape(n - 2) <= 1 || stride(n - 1) == 1 || stride(n - 2) == 1;
  }
  py::array array_;
};

std::string text(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

// The batch axes of `shape` from which a and b are broadcast: one offset per matrix of the result.
template <class T>
std::vector<int64_t> batch_offsets(const Matrices<T>& x, std::span<const int64_t> batch) {
  const int own = x.batch_dims(), missing = int(batch.size()) - own;
  std::vector<int64_t> offsets(size_t(size_of(batch)), 0);
  // From the outermost axis inwards: every offset so far becomes a row of them. The last one first, in place.
  int64_t count = 1;
  for (int axis = 0; axis < int(batch.size()); ++axis) {
    const int64_t extent = batch[size_t(axis)];
    const int64_t step = axis < missing || x.dim(axis - missing) == 1 ? 0 : x.stride(axis - missing);
    for (int64_t i = count - 1; i >= 0; --i)
      for (int64_t e = extent - 1; e >= 0; --e)
        offsets[size_t(i * extent + e)] = offsets[size_t(i)] + e * step;
    count *= extent;
  }
  return offsets;
}

Shape broadcast_batch(const Shape& a, const Shape& b) {
  const size_t na = std::max<size_t>(a.size(), 2) - 2, nb = std::max<size_t>(b.size(), 2) - 2,
               n = std::max(na, nb);
  Shape batch(n);
  for (size_t i = 0; i < n; ++i) {
    const int64_t da = i + na < n ? 1 : a[i + na - n], db = i + nb < n ? 1 : b[i + nb - n];
    if (da != db && da != 1 && db != 1)
      throw py::value_error("matmul: batch dimensions do not broadcast: a is " + text(a) + ", b is " +
                            text(b));
    batch[i] = da == 1 ? db : da;
  }
  return batch;
}

// Fills out with c, broadcast to its shape.
template <class T>
void fill_broadcast(T* out, const Shape& shape, const py::array& c) {
  const Shape from = shape_of(c);
  if (from.size() > shape.size())
    throw py::value_error("matmul: c " + text(from) + " does not broadcast to " + text(shape));
  const In<T> source(c, "matmul", "c");
  const size_t missing = shape.size() - from.size();
  Shape step(shape.size(), 0);  // bytes
  int64_t stride = sizeof(T);
  for (size_t axis = shape.size(); axis-- > missing;) {
    const int64_t extent = from[axis - missing];
    if (extent != shape[axis] && extent != 1)
      throw py::value_error("matmul: c " + text(from) + " does not broadcast to " + text(shape));
    step[axis] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
  KernelScope scope(size_of(shape));
  copy_strided(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(source.get()), shape.data(),
               step.data(), int(shape.size()), sizeof(T));
}

// Is c one row of n numbers, for all rows of a result with `dims` axes?
bool is_row(const py::array& c, int64_t n, py::ssize_t dims) {
  return n > 0 && c.ndim() > 0 && c.ndim() <= dims && c.size() == n && c.shape(c.ndim() - 1) == n;
}

py::array bind_matmul(const py::array& a, const py::array& b, const std::optional<py::array>& c, double alpha,
                      double beta) {
  const Half half = half_of(a);
  const auto multiply = [&]<class T>(T) {
    using Vectors = typename Matrices<T>::Vectors;
    const Matrices<T> left(a, "matmul", "a", half, Vectors::rows),
        right(b, "matmul", "b", half, Vectors::columns);
    const Shape shape_a = shape_of(a), shape_b = shape_of(b);
    if (left.cols != right.rows)
      throw py::value_error("matmul: a has " + std::to_string(left.cols) + " columns, b has " +
                            std::to_string(right.rows) + " rows: a is " + text(shape_a) + ", b is " +
                            text(shape_b));
    Shape shape = broadcast_batch(shape_a, shape_b);
    const int64_t n = right.cols, k = left.cols;
    int64_t batch = size_of(shape), m = left.rows;
    MatrixView<T> a_view = left.view;
    if (const int64_t row = batch > 1 && right.batch_dims() == 0 ? left.row_of_all() : 0) {
      m *= batch, batch = 1;  // against one matrix a batch is the rows of one
      a_view.row = row;
    }
    std::vector<int64_t> offsets_a, offsets_b;
    if (batch > 1) offsets_a = batch_offsets(left, shape), offsets_b = batch_offsets(right, shape);
    if (!left.is_vector) shape.push_back(left.rows);
    if (!right.is_vector) shape.push_back(n);
    py::array y = empty_array(stored_dtype<T>(half), shape);
    // A row for all rows is a bias; anything else is where the sums begin.
    const bool row = c && is_row(*c, n, y.ndim());
    GemmEpilogue<Computed<T>> epilogue;
    const memory::Buffer<Computed<T>> bias(row ? size_t(n) : 0);
    if (row && beta != 0) {
      const In<T> stored(*c, "matmul", "c", half);
      if constexpr (std::is_same_v<T, uint16_t>)
        widen(bias.get(), stored, n, half);
      else
        std::copy_n(stored.get(), n, bias.get());
      for (int64_t i = 0; i < n; ++i) bias[i] *= Computed<T>(beta);
      epilogue.bias_col = bias.get();
    }
    if constexpr (std::is_same_v<T, uint16_t>) {
      const int64_t first = 0;
      Addend added;
      std::optional<In<T>> matrix;
      if (c && !row && beta != 0) {
        if (shape_of(*c) != shape)
          throw py::type_error("matmul: c in half precision must be a row or a matrix");
        added = {matrix.emplace(*c, "matmul", "c", half), float(beta)};
      }
      KernelScope scope(batch * (m * n + n * k + m * k));
      gemm_half(half, batch, m, n, k, float(alpha), a_view, batch > 1 ? offsets_a.data() : &first, right.view,
                batch > 1 ? offsets_b.data() : &first, data<T>(y), epilogue, added);
    } else {
      const bool filled = c && !row && beta != 0;
      if (filled) fill_broadcast<T>(data<T>(y), shape, *c);
      KernelScope scope(batch * (m * n + n * k + m * k));
      const T scale = filled ? T(beta) : T(0);
      if (batch == 1)
        gemm<T>(m, n, k, T(alpha), a_view, right.view, scale, data<T>(y), n, epilogue);
      else
        gemm_batched<T>(batch, m, n, k, T(alpha), a_view, offsets_a.data(), right.view, offsets_b.data(),
                        scale, data<T>(y), m * n, n, epilogue);
    }
    return y;
  };
  // (Batches with a matrix each are quicker as floats where there is no instruction for them.)
  if (half != Half::none &&
      (!c || (b.ndim() > 1 && is_row(*c, b.shape(b.ndim() - 1), a.ndim())) ||
       (a.ndim() == 2 && b.ndim() == 2) || (half == Half::bfloat16 && has_quick_pair_products())))
    return multiply(uint16_t{});
  return by_dtype("matmul", a, multiply);
}

GemmActivation activation_named(const std::string& name) {
  static constexpr std::pair<const char*, GemmActivation> names[] = {
      {"none", GemmActivation::none},          {"relu", GemmActivation::relu},
      {"sigmoid", GemmActivation::sigmoid},    {"tanh", GemmActivation::tanh},
      {"silu", GemmActivation::silu},          {"gelu", GemmActivation::gelu},
      {"gelu_tanh", GemmActivation::gelu_tanh}};
  for (const auto& [known, value] : names)
    if (name == known) return value;
  throw py::value_error(
      "linear: activation must be none, relu, sigmoid, tanh, silu, gelu or gelu_tanh, got '" + name + "'");
}

// x (..., K) as M rows. A 2-D view keeps its strides, more dimensions are folded (copied unless in C order).
template <class T>
Matrices<T> rows_of(const py::array& x, const char* op, const char* argument, Half half = Half::none) {
  if (x.ndim() == 2) return Matrices<T>(x, op, argument, half);
  if (x.ndim() == 0)
    throw py::value_error(std::string(op) + ": " + argument + " must have at least 1 dimension");
  const In<T> in(x, op, argument, half);
  const int64_t k = in.dim(in.ndim() - 1);
  int64_t m = 1;
  for (int axis = 0; axis + 1 < in.ndim(); ++axis) m *= in.dim(axis);
  return Matrices<T>(py::array(in.array()).reshape({m, k}), op, argument, half);
}

// C (M x N) = activation(A B + bias)
template <class T>
void multiply(Half half, int64_t m, int64_t n, int64_t k, MatrixView<T> a, MatrixView<T> b, T* c,
              const GemmEpilogue<Computed<T>>& epilogue = {}) {
  const int64_t first = 0;
  if constexpr (std::is_same_v<T, uint16_t>)
    gemm_half(half, 1, m, n, k, 1.0f, a, &first, b, &first, c, epilogue);
  else
    gemm<T>(m, n, k, T(1), a, b, T(0), c, n, epilogue);
}

template <class T>
void sum_stored_rows(Half half, int64_t m, int64_t n, MatrixView<T> x, T* sums) {
  if constexpr (std::is_same_v<T, uint16_t>) {
    const memory::Buffer<float> wide(size_t(m * n)), wide_sums { size_t(n) };
    sum_rows<float>(m, n, widen(wide.get(), x, m, n, half), wide_sums.get());
    narrow(sums, wide_sums.get(), n, half);
  } else {
    sum_rows<T>(m, n, x, sums);
  }
}

py::array bind_linear_forward(const py::array& x, const py::array& weight,
                              const std::optional<py::array>& bias, const std::string& activation) {
  return by_stored("linear", x, [&]<class T>(T, Half half) {
    const Matrices<T> in = rows_of<T>(x, "linear", "x", half), w(weight, "linear", "weight", half);
    const OptionalIn<T> b(bias, "linear", "bias", half);
    if (w.batch_dims() != 0 || w.cols != in.cols || (b && bias->size() != w.rows))
      throw py::value_error("linear: x is " + text(shape_of(x)) + ", weight " + text(shape_of(weight)) +
                            (b ? ", bias " + text(shape_of(*bias)) : ""));
    Shape shape = shape_of(x);
    shape.back() = w.rows;
    py::array y = empty_array(stored_dtype<T>(half), shape);
    GemmEpilogue<Computed<T>> epilogue;
    epilogue.activation = activation_named(activation);
    const memory::Buffer<float> wide(half != Half::none && b ? size_t(w.rows) : 0);
    if constexpr (std::is_same_v<T, uint16_t>) {
      if (b) widen(wide.get(), b, w.rows, half);
      epilogue.bias_col = wide.get();
    } else {
      epilogue.bias_col = b;
    }
    KernelScope scope(in.rows * in.cols + w.rows * w.cols);
    multiply<T>(half, in.rows, w.rows, in.cols, in.view, w.view.transposed(), data<T>(y), epilogue);
    return y;
  });
}

py::tuple bind_linear_backward(const py::array& grad_y, const py::array& x, const py::array& weight,
                               bool need_x, bool need_weight, bool need_bias) {
  const char* op = "linear_backward";
  return by_stored(op, x, [&]<class T>(T, Half half) -> py::tuple {
    const Matrices<T> g = rows_of<T>(grad_y, op, "grad_y", half), in = rows_of<T>(x, op, "x", half),
                      w(weight, op, "weight", half);
    const int64_t m = in.rows, n = w.rows, k = w.cols;
    if (w.batch_dims() != 0 || in.cols != k || g.rows != m || g.cols != n)
      throw py::value_error("linear_backward: grad_y is " + text(shape_of(grad_y)) + ", x " +
                            text(shape_of(x)) + ", weight " + text(shape_of(weight)));
    py::object grad_x = py::none(), grad_w = py::none(), grad_b = py::none();
    T *gx = nullptr, *gw = nullptr, *gb = nullptr;
    const auto make = [half](py::object& into, const Shape& shape) {
      py::array made = empty_array(stored_dtype<T>(half), shape);
      into = made;
      return data<T>(made);
    };
    if (need_x) gx = make(grad_x, shape_of(x));
    if (need_weight) gw = make(grad_w, {n, k});
    if (need_bias) gb = make(grad_b, {n});
    {
      KernelScope scope(m * n + n * k + m * k);
      if (gx) multiply<T>(half, m, k, n, g.view, w.view, gx);
      if (gw) multiply<T>(half, n, k, m, g.view.transposed(), in.view, gw);
      if (gb) sum_stored_rows<T>(half, m, n, g.view, gb);
    }
    return py::make_tuple(grad_x, grad_w, grad_b);
  });
}

}  // namespace

void register_linear(py::module_& m) {
  m.def("has_pair_products", &has_pair_products,
        "Whether products in bfloat16 use the processor's instruction for pairs of numbers.");
  m.def("use_pair_products", &use_pair_products, py::arg("use").none(true),
        "Let them use it, where there is one, always, never, or (None) where that is quicker.");
  m.def("matmul", &bind_matmul, py::arg("a"), py::arg("b"), py::arg("c") = py::none(), py::arg("alpha") = 1.0,
        py::arg("beta") = 1.0);
  m.def("linear_forward", &bind_linear_forward, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("activation") = "none");
  m.def("linear_backward", &bind_linear_backward, py::arg("grad_y"), py::arg("x"), py::arg("weight"),
        py::arg("need_x"), py::arg("need_weight"), py::arg("need_bias"));
}

}  // namespace fastdl::binding

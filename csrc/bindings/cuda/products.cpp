// Matrix products by cuBLAS. Not linked: Python passes the addresses of the functions that CuPy has loaded,
// and CuPy's handle. Called from here a product costs one call, and can be recorded in a graph, which CuPy's
// own binding refuses.
//
// cuBLAS counts columns first: what lies in memory as the rows of y = a b are the columns of y^T = b^T a^T,
// so operands change places and nothing moves.
#include <array>
#include <limits>

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

// Of each dtype, in the order of Dtype: cuBLAS's number of it, and of what is computed in.
constexpr int kTypes[] = {0, 2, 14, 1}, kComputes[] = {68, 68, 68, 70};
constexpr int kTf32 = 77, kDefaultAlgorithm = -1;

// How a matrix lies in memory: whether rows are the axis of neighbours, and the step along the other axis.
struct Layout {
  bool turned;
  int64_t step;
};

// Rows and columns, and the steps between them in elements; false if no axis has neighbours side by side.
bool layout_of(const std::array<int64_t, 2>& shape, const std::array<int64_t, 2>& strides, int64_t item,
               Layout& layout) {
  const auto [rows, columns] = shape;
  const auto [down, across] = strides;
  if ((across == item || columns == 1) && (rows == 1 || (down >= columns * item && down % item == 0)))
    return layout = {false, rows == 1 ? columns : down / item}, true;
  if ((down == item || rows == 1) && (columns == 1 || (across >= rows * item && across % item == 0)))
    return layout = {true, columns == 1 ? rows : across / item}, true;
  return false;
}

// cuBLAS takes sizes and steps within a matrix as int.
int narrow(int64_t n) {
  if (n > std::numeric_limits<int>::max())
    throw py::value_error("cuBLAS: a matrix of more than 2^31 - 1 rows or columns");
  return int(n);
}

class Blas {
 public:
  Blas(uintptr_t set_stream, uintptr_t set_workspace, uintptr_t gemm, uintptr_t gemm_batched)
      : set_stream_(reinterpret_cast<SetStream>(set_stream)),
        set_workspace_(reinterpret_cast<SetWorkspace>(set_workspace)),
        gemm_(reinterpret_cast<Gemm>(gemm)),
        gemm_batched_(reinterpret_cast<GemmBatched>(gemm_batched)) {}

  // y = alpha a b, dense, of two matrices with strides in bytes. False, and nothing done, if an operand has
  // to be copied first.
  bool matrix(uintptr_t handle, int dtype, bool tf32, double alpha, uintptr_t y, uintptr_t a,
              const std::array<int64_t, 2>& a_shape, const std::array<int64_t, 2>& a_strides, uintptr_t b,
              const std::array<int64_t, 2>& b_shape, const std::array<int64_t, 2>& b_strides,
              uintptr_t workspace, size_t workspace_bytes, uintptr_t stream) const {
    Layout left, right;
    const int64_t item = item_size(Dtype(dtype));
    if (!layout_of(a_shape, a_strides, item, left) || !layout_of(b_shape, b_strides, item, right))
      return false;
    const Factors factors(dtype, alpha);
    const int type = kTypes[dtype];
    begin(handle, workspace, workspace_bytes, stream);
    check(gemm_(pointer(handle), right.turned, left.turned, narrow(b_shape[1]), narrow(a_shape[0]),
                narrow(a_shape[1]), factors.alpha(), pointer(b), type, narrow(right.step), pointer(a), type,
                narrow(left.step), factors.beta(), pointer(y), type, narrow(b_shape[1]), compute(dtype, tf32),
                kDefaultAlgorithm),
          "cublasGemmEx");
    return true;
  }

  // The same, and beta y added to it, for `count` matrices with equal steps from each to the next, all in
  // elements.
  void batch(uintptr_t handle, int dtype, bool tf32, double alpha, const std::array<int64_t, 3>& sizes,
             int64_t count, uintptr_t y, int64_t y_step, uintptr_t a, bool turn_a, int64_t a_row,
             int64_t a_step, uintptr_t b, bool turn_b, int64_t b_row, int64_t b_step, uintptr_t workspace,
             size_t workspace_bytes, uintptr_t stream, double beta) const {
    const auto [rows, inner, columns] = sizes;
    const Factors factors(dtype, alpha, beta);
    const int type = kTypes[dtype];
    begin(handle, workspace, workspace_bytes, stream);
    check(gemm_batched_(pointer(handle), turn_b, turn_a, narrow(columns), narrow(rows), narrow(inner),
                        factors.alpha(), pointer(b), type, narrow(b_row), b_step, pointer(a), type,
                        narrow(a_row), a_step, factors.beta(), pointer(y), type, narrow(columns), y_step,
                        narrow(count), compute(dtype, tf32), kDefaultAlgorithm),
          "cublasGemmStridedBatchedEx");
  }

 private:
  using SetStream = int (*)(void*, void*);
  using SetWorkspace = int (*)(void*, void*, size_t);
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
                       int, const void*, void*, int, int, int, int);
  using GemmBatched = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, long long,
                              const void*, int, int, long long, const void*, void*, int, int, long long, int,
                              int, int);

  // alpha and beta in the type that is computed in; read during the call.
  struct Factors {
    Factors(int dtype, double alpha, double beta = 0)
        : wide(Dtype(dtype) == Dtype::float64), double_{alpha, beta}, float_{float(alpha), float(beta)} {}
    const void* alpha() const { return wide ? static_cast<const void*>(double_) : float_; }
    const void* beta() const { return wide ? static_cast<const void*>(double_ + 1) : float_ + 1; }
    bool wide;
    double double_[2];
    float float_[2];
  };

  static int compute(int dtype, bool tf32) {
    return tf32 && Dtype(dtype) == Dtype::float32 ? kTf32 : kComputes[dtype];
  }
  // A new stream gives the handle its own workspace back; ours has to be named after it.
  void begin(uintptr_t handle, uintptr_t workspace, size_t bytes, uintptr_t stream) const {
    check(set_stream_(pointer(handle), pointer(stream)), "cublasSetStream");
    if (workspace != 0)
      check(set_workspace_(pointer(handle), pointer(workspace), bytes), "cublasSetWorkspace");
  }
  static void check(int status, const char* what) {
    if (status != 0)
      throw std::runtime_error("cuBLAS: " + std::string(what) + " failed with status " +
                               std::to_string(status));
  }

  SetStream set_stream_;
  SetWorkspace set_workspace_;
  Gemm gemm_;
  GemmBatched gemm_batched_;
};

}  // namespace

void register_products(py::module_& m) {
  py::class_<Blas>(m, "Blas")
      .def(py::init<uintptr_t, uintptr_t, uintptr_t, uintptr_t>())
      .def("matrix", &Blas::matrix)
      .def("batch", &Blas::batch, py::arg("handle"), py::arg("dtype"), py::arg("tf32"), py::arg("alpha"),
           py::arg("sizes"), py::arg("count"), py::arg("y"), py::arg("y_step"), py::arg("a"),
           py::arg("turn_a"), py::arg("a_row"), py::arg("a_step"), py::arg("b"), py::arg("turn_b"),
           py::arg("b_row"), py::arg("b_step"), py::arg("workspace"), py::arg("workspace_bytes"),
           py::arg("stream"), py::arg("beta") = 0.0);
}

}  // namespace fastdl::binding

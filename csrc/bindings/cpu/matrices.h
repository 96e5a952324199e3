// Arrays whose last two axes are matrices, and the batches before them.
#pragma once

#include "bindings/cpu/array.h"
#include "cpu/gemm/gemm.h"

namespace fastdl::binding {

// The last two axes of an array as a matrix, read in place whenever one of their strides is one element:
// transposed and sliced views cost no copy. Anything else is copied to C order first. Axes before them are
// the batch. T is uint16_t for half precision.
template <class T>
class Matrices {
 public:
  Matrices(const py::array& array, const char* op, const char* argument, Half half = Half::none)
      : array_(array) {
    check_stored<T>(array, op, argument, half);
    if (array.ndim() < 2)
      throw py::value_error(std::string(op) + ": " + argument + " must have at least 2 dimensions, got " +
                            std::to_string(array.ndim()));
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
  MatrixView<T> view;
  int ndim() const { return int(array_.ndim()); }
  int64_t dim(int axis) const { return int64_t(array_.shape(axis)); }
  int64_t stride(int axis) const { return int64_t(array_.strides(axis)) / int64_t(sizeof(T)); }

 private:
  bool usable() const {
    if (!(py::detail::array_proxy(array_.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
      return false;
    const int n = int(array_.ndim());
    for (int i = 0; i < n; ++i)
      if (array_.strides(i) % int64_t(sizeof(T)) != 0) return false;
    return array_.shape(n - 1) <= 1 || array_.shape(n - 2) <= 1 || stride(n - 1) == 1 || stride(n - 2) == 1;
  }
  py::array array_;
};

inline std::string text(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

// The batch axes of `shape` from which a and b are broadcast: one offset per matrix of the result.
template <class T>
std::vector<int64_t> batch_offsets(const Matrices<T>& x, std::span<const int64_t> batch) {
  const int own = x.ndim() - 2, missing = int(batch.size()) - own;
  std::vector<int64_t> offsets(size_t(size_of(batch)), 0);
  if (offsets.empty()) return offsets;
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

inline Shape broadcast_batch(const char* op, const Shape& a, const Shape& b) {
  const size_t na = a.size() - 2, nb = b.size() - 2, n = std::max(na, nb);
  Shape batch(n);
  for (size_t i = 0; i < n; ++i) {
    const int64_t da = i + na < n ? 1 : a[i + na - n], db = i + nb < n ? 1 : b[i + nb - n];
    if (da != db && da != 1 && db != 1)
      raise(op, "batch dimensions do not broadcast: a is " + text(a) + ", b is " + text(b));
    batch[i] = da == 1 ? db : da;
  }
  return batch;
}

}  // namespace fastdl::binding

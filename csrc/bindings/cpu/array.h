// What every binding needs: NumPy arrays in, pooled NumPy arrays out, and nothing converted silently.
//
//   In<T> x(array, "op", "x")   typed C-order access. Wrong dtype or byte order raises TypeError; a strided
//                               array is copied into the pool first (values never change, only their layout).
//   empty<T>(shape)             a new array in pooled memory; zeros<T>(shape) likewise.
//   KernelScope scope(items)    while it lives denormals are flushed and, for calls worth it, the GIL is
//                               released.
//   by_dtype("op", x, f)        calls f(float{}) or f(double{}) according to x's dtype.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cpu/half.h"
#include "cpu/runtime/denormals.h"
#include "cpu/runtime/memory.h"

namespace fastdl::binding {

namespace py = pybind11;
using Shape = std::vector<int64_t>;

constexpr int64_t kLargest = int64_t{1} << 31;  // paddings and extents of windows stay below

[[noreturn]] inline void raise(const char* op, const std::string& what) {
  throw py::value_error(std::string(op) + ": " + what);
}
// A ValueError "op: rule" unless the rule holds.
inline void require(bool holds, const char* op, const char* rule) {
  if (!holds) raise(op, rule);
}

inline Shape shape_of(const py::array& array) {
  return Shape(array.shape(), array.shape() + array.ndim());
}
inline int64_t size_of(std::span<const int64_t> shape) {
  int64_t size = 1;
  for (int64_t extent : shape) size *= extent;
  return size;
}

// A new uninitialised array whose memory belongs to the pool and returns to it with the array's last
// reference. `strides` (bytes): of a dense array in another order than C's.
py::array empty_array(const py::dtype& dtype, std::span<const int64_t> shape,
                      const int64_t* strides = nullptr);
// A C-order copy in the pool of an array with any strides.
py::array contiguous_copy(const py::array& array);

template <class T>
const py::dtype& dtype_of() {
  static const py::handle dtype = py::dtype::of<T>().release();  // lives as long as the interpreter
  return reinterpret_cast<const py::dtype&>(dtype);
}
template <class T>
py::array empty(std::span<const int64_t> shape) {
  return empty_array(dtype_of<T>(), shape);
}
template <class T>
py::array empty(std::initializer_list<int64_t> shape) {
  return empty_array(dtype_of<T>(), std::span<const int64_t>(shape.begin(), shape.size()));
}
template <class T>
py::array zeros(std::span<const int64_t> shape) {
  py::array array = empty_array(dtype_of<T>(), shape);
  std::memset(array.mutable_data(), 0, size_t(array.nbytes()));
  return array;
}
template <class T>
T* data(py::array& array) {
  return reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data);
}

template <class T>
bool is_dtype(const py::array& array) {
  const py::handle descr = py::detail::array_proxy(array.ptr())->descr;
  if (descr.ptr() == dtype_of<T>().ptr()) return true;
  const auto& dtype = reinterpret_cast<const py::dtype&>(descr);
  return dtype.num() == dtype_of<T>().num() && (dtype.byteorder() == '=' || dtype.byteorder() == '|');
}

inline bool is_aligned(const py::array& array) {
  return py::detail::array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_;
}
inline bool is_plain(const py::array& array) {  // aligned and in C order
  constexpr int wanted =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return (py::detail::array_proxy(array.ptr())->flags & wanted) == wanted;
}
// May an array in C order and another one have memory in common? By their first and last bytes.
bool overlaps(const py::array& plain, const py::array& other);
// Aligned, and every stride a whole number of items.
inline bool has_whole_strides(const py::array& array, int64_t item) {
  bool whole = is_aligned(array);
  for (int i = 0; i < int(array.ndim()); ++i) whole = whole && array.strides(i) % item == 0;
  return whole;
}

// In which half precision an array is stored, if in one; and the dtype of T stored so.
Half half_of(const py::array& array);
const py::dtype& half_dtype(Half half);
template <class T>
const py::dtype& stored_dtype(Half half) {
  return half == Half::none ? dtype_of<T>() : half_dtype(half);
}
template <class T>
int64_t stored_size(Half half) {
  return half == Half::none ? int64_t(sizeof(T)) : int64_t(sizeof(uint16_t));
}

[[noreturn]] void raise_dtype(const py::array& array, const char* op, const char* argument,
                              const char* expected);

// A TypeError unless the array's elements are T, stored in `half`.
template <class T>
void check_stored(const py::array& array, const char* op, const char* argument, Half half) {
  if (half == Half::none ? !is_dtype<T>(array) : half_of(array) != half)
    raise_dtype(array, op, argument, py::str(stored_dtype<T>(half)).template cast<std::string>().c_str());
}

// Elements of T; as uint16_t with `half` the bits of an array stored so.
template <class T>
class In {
 public:
  In(const py::array& array, const char* op, const char* argument, Half half = Half::none) {
    check_stored<T>(array, op, argument, half);
    array_ = is_plain(array) ? array : contiguous_copy(array);
    data_ = reinterpret_cast<const T*>(py::detail::array_proxy(array_.ptr())->data);
  }
  operator const T*() const { return data_; }
  const T* get() const { return data_; }
  int64_t size() const { return int64_t(array_.size()); }
  int64_t dim(int axis) const { return int64_t(array_.shape(axis)); }
  int ndim() const { return int(array_.ndim()); }
  Shape shape() const { return shape_of(array_); }
  const py::array& array() const { return array_; }

 private:
  py::array array_{py::reinterpret_steal<py::array>(py::handle())};
  const T* data_;
};

// An argument that may be None: null then.
template <class T>
class OptionalIn {
 public:
  OptionalIn(const std::optional<py::array>& array, const char* op, const char* argument,
             Half half = Half::none) {
    if (array) in_.emplace(*array, op, argument, half);
  }
  operator const T*() const { return in_ ? in_->get() : nullptr; }
  explicit operator bool() const { return in_.has_value(); }

 private:
  std::optional<In<T>> in_;
};

// A parameter beside data in half precision, stored like them or in float32: its floats. May be None: null.
class Floats {
 public:
  Floats(const std::optional<py::array>& array, const char* op, const char* argument, Half half) {
    if (!array) return;
    if (is_dtype<float>(*array)) {
      in_.emplace(*array, op, argument);
      data_ = in_->get();
    } else {
      const In<uint16_t> stored(*array, op, argument, half);
      wide_.resize(size_t(stored.size()));
      widen(wide_.data(), stored, stored.size(), half);
      data_ = wide_.data();
    }
  }
  operator const float*() const { return data_; }

 private:
  std::optional<In<float>> in_;
  std::vector<float> wide_;
  const float* data_ = nullptr;
};

// What a kernel on T computes in, where uint16_t stands for half precision; and its parameters.
template <class T>
using Computed = std::conditional_t<std::is_same_v<T, uint16_t>, float, T>;
template <class T>
using Parameter = std::conditional_t<std::is_same_v<T, uint16_t>, Floats, OptionalIn<T>>;

// Handing the GIL over costs about a tenth of a microsecond and risks waiting for it: only for calls worth
// it.
class KernelScope {
 public:
  explicit KernelScope(int64_t items) {
    if (items >= 8192) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
  FlushDenormals flush_;
};

template <class F>
auto by_dtype(const char* op, const py::array& x, F&& f) {
  if (is_dtype<float>(x)) return f(float{});
  if (is_dtype<double>(x)) return f(double{});
  raise_dtype(x, op, "input", "float32 or float64");
}
template <class F>
auto by_stored(const char* op, const py::array& x, F&& f) {  // f(T{}, half), uint16_t{} for half precision
  const Half half = half_of(x);
  if (half != Half::none) return f(uint16_t{}, half);
  return by_dtype(op, x, [&]<class T>(T) { return f(T{}, Half::none); });
}
template <class F>
auto by_number(const char* op, const py::array& x, F&& f) {  // likewise, also int64_t{}
  return is_dtype<int64_t>(x) ? f(int64_t{}) : by_dtype(op, x, f);
}

}  // namespace fastdl::binding

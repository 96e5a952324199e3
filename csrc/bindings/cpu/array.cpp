#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

// Copies `count` elements of `bytes` each from a strided row.
template <class T>
void copy_row(char* to, const char* from, int64_t count, int64_t stride) {
  T value;
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(&value, from + i * stride, sizeof(T));
    std::memcpy(to + i * int64_t(sizeof(T)), &value, sizeof(T));
  }
}

void copy_strided(char*& to, const char* from, const py::ssize_t* shape, const py::ssize_t* strides, int ndim,
                  int64_t item) {
  if (ndim == 0) {
    std::memcpy(to, from, size_t(item));
    to += item;
    return;
  }
  if (ndim == 1) {
    const int64_t count = shape[0];
    if (strides[0] == item)
      std::memcpy(to, from, size_t(count * item));
    else if (item == 4)
      copy_row<uint32_t>(to, from, count, strides[0]);
    else if (item == 8)
      copy_row<uint64_t>(to, from, count, strides[0]);
    else
      for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * item, from + i * strides[0], size_t(item));
    to += count * item;
    return;
  }
  for (py::ssize_t i = 0; i < shape[0]; ++i)
    copy_strided(to, from + i * strides[0], shape + 1, strides + 1, ndim - 1, item);
}

}  // namespace

py::array empty_array(const py::dtype& dtype, std::span<const int64_t> shape) {
  int64_t bytes = dtype.itemsize();
  for (int64_t extent : shape) {
    if (extent < 0) throw py::value_error("empty: negative dimension " + std::to_string(extent));
    if (__builtin_mul_overflow(bytes, extent, &bytes)) throw std::bad_alloc();
  }
  void* memory = memory::allocate(size_t(bytes));
  py::capsule owner(memory, [](void* pointer) { memory::deallocate(pointer); });
  auto& api = py::detail::npy_api::get();
  py::object array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, py::dtype(dtype).release().ptr(), int(shape.size()),
      reinterpret_cast<const Py_intptr_t*>(shape.data()), nullptr, memory,
      py::detail::npy_api::NPY_ARRAY_WRITEABLE_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_, nullptr));
  if (!array) throw py::error_already_set();
  if (api.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr()) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array.release());
}

py::array contiguous_copy(const py::array& array) {
  const Shape shape = shape_of(array);
  py::array copy = empty_array(array.dtype(), shape);
  if (array.size() > 0) {
    char* to = static_cast<char*>(copy.mutable_data());
    copy_strided(to, static_cast<const char*>(array.data()), array.shape(), array.strides(), int(array.ndim()),
                 array.itemsize());
  }
  return copy;
}

void raise_dtype(const py::array& array, const char* op, const char* argument, const char* expected) {
  throw py::type_error(std::string(op) + ": " + argument + " must be " + expected + " in native byte order, got " +
                       py::str(array.dtype()).cast<std::string>());
}

}  // namespace fastdl::binding

// Arguments of the CUDA extension: addresses and streams are integers, arrays with strides are pairs
// (address, strides in bytes), a number stands for itself. Python has checked shapes and types; nothing is
// looked at on the device.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string_view>

#include "cuda/types.h"

// Shapes and strides come with every call, several of them: tuples of Python's integers are read directly,
// where the caster of pybind11/stl.h asks the sequence protocol for each.
template <>
struct pybind11::detail::type_caster<std::vector<int64_t>> {
  PYBIND11_TYPE_CASTER(std::vector<int64_t>, const_name("collections.abc.Sequence[int]"));

  bool load(handle from, bool) {
    const bool is_tuple = PyTuple_CheckExact(from.ptr());
    if (!is_tuple && (!PySequence_Check(from.ptr()) || PyUnicode_Check(from.ptr()))) return false;
    const object kept = is_tuple ? object() : reinterpret_steal<object>(PySequence_Tuple(from.ptr()));
    PyObject* const tuple = is_tuple ? from.ptr() : kept.ptr();
    if (tuple == nullptr) return PyErr_Clear(), false;
    const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    value.resize(size_t(size));
    for (Py_ssize_t i = 0; i < size; ++i) {
      PyObject* const item = PyTuple_GET_ITEM(tuple, i);
      if (!PyIndex_Check(item)) return false;
      value[size_t(i)] = PyLong_AsLongLong(item);
      if (value[size_t(i)] == -1 && PyErr_Occurred()) return PyErr_Clear(), false;
    }
    return true;
  }
  static handle cast(const std::vector<int64_t>& from, return_value_policy, handle) {
    list result(from.size());
    for (size_t i = 0; i < from.size(); ++i)
      PyList_SET_ITEM(result.ptr(), Py_ssize_t(i), PyLong_FromLongLong(from[i]));
    return result.release();
  }
};

namespace fastdl::binding {

namespace py = pybind11;
using cuda::Classes;
using cuda::Shape;
using cuda::Strided;

inline void* pointer(uintptr_t address) {
  return reinterpret_cast<void*>(address);
}
inline int32_t* int32s(uintptr_t address) {
  return static_cast<int32_t*>(pointer(address));
}
inline int64_t* int64s(uintptr_t address) {
  return static_cast<int64_t*>(pointer(address));
}
inline uint64_t* report_words(uintptr_t address) {
  return static_cast<uint64_t*>(pointer(address));
}
inline Stream stream_of(uintptr_t stream) {
  return reinterpret_cast<Stream>(stream);
}

inline int64_t item_size(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

inline Strided strided(const py::object& array, int64_t item) {
  Strided s;
  if (!PyTuple_Check(array.ptr())) {
    s.value = array.cast<double>();
    return s;
  }
  if (PyTuple_GET_SIZE(array.ptr()) != 2) throw py::type_error("an array is a pair (address, strides)");
  s.data = pointer(py::handle(PyTuple_GET_ITEM(array.ptr(), 0)).cast<uintptr_t>());
  s.strides = py::handle(PyTuple_GET_ITEM(array.ptr(), 1)).cast<std::vector<int64_t>>();
  for (int64_t& stride : s.strides) {
    if (stride % item != 0) throw py::value_error("strides must be multiples of the element size");
    stride /= item;
  }
  return s;
}
inline Strided strided(const py::object& array, Dtype dtype) {
  return strided(array, item_size(dtype));
}

// The enumerator with that name.
template <class E, size_t N>
E named(const char* const (&names)[N], std::string_view name) {
  for (size_t i = 0; i < N; ++i)
    if (name == names[i]) return E(i);
  throw py::value_error("no operation called " + std::string(name));
}

}  // namespace fastdl::binding

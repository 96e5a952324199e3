// Arguments of the CUDA extension: addresses and streams are integers, arrays with strides are pairs
// (address, strides in bytes), a number stands for itself. Python has checked shapes and types; nothing is
// looked at on the device.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string_view>

#include "cuda/types.h"

namespace fastdl::binding {

namespace py = pybind11;
using cuda::Classes;
using cuda::Shape;
using cuda::Strided;

inline void* pointer(uintptr_t address) {
  return reinterpret_cast<void*>(address);
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
  const auto pair = py::reinterpret_borrow<py::tuple>(array);
  s.data = pointer(pair[0].cast<uintptr_t>());
  s.strides = pair[1].cast<std::vector<int64_t>>();
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

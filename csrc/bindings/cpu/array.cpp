#include "bindings/cpu/array.h"

#include "cpu/layout.h"

namespace fastdl::binding {
namespace {
py::handle bfloat16;
}

py::array empty_array(const py::dtype& dtype, std::span<const int64_t> shape, const int64_t* strides) {
  int64_t bytes = dtype.itemsize();
  for (int64_t extent : shape) {
    if (extent < 0) throw py::value_error("empty: negative dimension " + std::to_string(extent));
    if (__builtin_mul_overflow(bytes, extent, &bytes)) throw std::bad_alloc();
  }
  void* memory = memory::allocate(size_t(bytes));
  // Python's own capsule: pybind11's saves and restores the pending exception around its destructor.
  auto owner = py::reinterpret_steal<py::object>(PyCapsule_New(memory, nullptr, [](PyObject* capsule) {
    memory::deallocate(PyCapsule_GetPointer(capsule, nullptr));
  }));
  if (!owner) {
    memory::deallocate(memory);
    throw py::error_already_set();
  }
  auto& api = py::detail::npy_api::get();
  py::object array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
      api.PyArray_Type_, py::dtype(dtype).release().ptr(), int(shape.size()),
      reinterpret_cast<const Py_intptr_t*>(shape.data()), reinterpret_cast<const Py_intptr_t*>(strides),
      memory, py::detail::npy_api::NPY_ARRAY_WRITEABLE_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_, nullptr));
  if (!array) throw py::error_already_set();
  if (api.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr()) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array.release());
}

bool overlaps(const py::array& plain, const py::array& other) {
  const auto *begin = static_cast<const char*>(plain.data()), *end = begin + plain.nbytes();
  const auto *low = static_cast<const char*>(other.data()), *high = low + other.itemsize();
  for (int i = 0; i < int(other.ndim()); ++i) {
    if (other.shape(i) == 0) return false;
    (other.strides(i) < 0 ? low : high) += (other.shape(i) - 1) * other.strides(i);
  }
  return low < end && begin < high;
}

py::array contiguous_copy(const py::array& array) {
  const char kind = array.dtype().kind();
  // Records may hold references, which a copy of bytes would not count.
  if (kind == 'O' || (kind == 'V' && half_of(array) == Half::none))
    throw py::type_error("contiguous: elements must be plain numbers");
  const Shape shape = shape_of(array);
  py::array copy = empty_array(array.dtype(), shape);
  const Shape strides(array.strides(), array.strides() + array.ndim());
  char* to = static_cast<char*>(copy.mutable_data());
  const char* from = static_cast<const char*>(array.data());
  const int64_t item = array.itemsize();
  KernelScope scope(array.size());
  copy_strided(to, from, shape.data(), strides.data(), int(shape.size()), item);
  return copy;
}

// bfloat16 belongs to the package ml_dtypes, loaded by whoever made the array: its dtype is remembered when
// one comes.
Half half_of(const py::array& array) {
  constexpr int kFloat16 = 23;  // NumPy's number
  const auto& dtype = reinterpret_cast<const py::dtype&>(py::detail::array_proxy(array.ptr())->descr);
  if (dtype.num() == kFloat16) return dtype.byteorder() == '=' ? Half::float16 : Half::none;
  if (dtype.ptr() == bfloat16.ptr()) return Half::bfloat16;
  if (bfloat16)
    return dtype.num() == reinterpret_cast<const py::dtype&>(bfloat16).num() ? Half::bfloat16 : Half::none;
  if (dtype.kind() != 'V' || dtype.itemsize() != 2 || py::str(dtype).cast<std::string>() != "bfloat16")
    return Half::none;
  bfloat16 = py::reinterpret_borrow<py::dtype>(dtype).release();
  return Half::bfloat16;
}

const py::dtype& half_dtype(Half half) {
  static const py::handle float16 = py::dtype("float16").release();  // lives as long as the interpreter
  return reinterpret_cast<const py::dtype&>(half == Half::float16 ? float16 : bfloat16);
}

void raise_dtype(const py::array& array, const char* op, const char* argument, const char* expected) {
  throw py::type_error(std::string(op) + ": " + argument + " must be " + expected +
                       " in native byte order, got " + py::str(array.dtype()).cast<std::string>());
}

}  // namespace fastdl::binding

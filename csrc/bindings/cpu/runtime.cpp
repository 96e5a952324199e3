// Threads and memory, as Python sees them.
#include <algorithm>

#include "bindings/cpu/array.h"
#include "cpu/convert.h"
#include "cpu/copy_rows.h"
#include "cpu/layout.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

py::array bind_zeros(const Shape& shape, const py::dtype& dtype) {
  py::array array = empty_array(dtype, shape);
  const int64_t bytes = array.nbytes();
  char* to = static_cast<char*>(array.mutable_data());
  KernelScope scope(bytes / 4);
  fill(to, bytes, 0);
  return array;
}

// Long rows of aligned elements, wherever the rows lie?
bool has_rows(const py::array& array) {
  const int last = int(array.ndim()) - 1;
  return is_aligned(array) && array.size() > 0 && last > 0 && array.strides(last) == array.itemsize() &&
         array.shape(last) >= 64;
}

std::optional<Number> number_of(const py::dtype& dtype) {
  if (dtype.byteorder() != '=' && dtype.byteorder() != '|') return std::nullopt;
  const auto item = dtype.itemsize();
  const auto of = [item](auto size, Number number) {
    return item == size ? std::optional(number) : std::nullopt;
  };
  switch (dtype.kind()) {
    case 'b':
      return Number::boolean;
    case 'u':
      return of(1, Number::uint8);
    case 'i':
      return item == 4 ? Number::int32 : of(8, Number::int64);
    case 'f':
      return item == 2 ? Number::float16 : item == 4 ? Number::float32 : of(8, Number::float64);
    case 'V':  // the only dtype of this kind that a tensor can have
      return of(2, Number::bfloat16);
    default:
      return std::nullopt;
  }
}

// One number by the kernel that converts arrays: NumPy takes a microsecond for it, and is asked for what the
// kernel does not know.
bool convert_number(char* to, const py::dtype& dtype, const py::object& value) {
  const auto number = number_of(dtype);
  if (!number) return false;
  if (PyFloat_Check(value.ptr())) {
    const double from = PyFloat_AS_DOUBLE(value.ptr());
    return convert(to, *number, &from, Number::float64, 1);
  }
  if (!PyLong_Check(value.ptr())) return false;
  int overflow = 0;
  const int64_t from = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  return overflow == 0 && convert(to, *number, &from, Number::int64, 1);
}

void bind_fill(const py::array& out, const py::object& value) {
  const int64_t bytes = out.nbytes(), item = out.itemsize();
  if (bytes < 4096 || !is_plain(out) || !(item == 1 || item == 2 || item == 4 || item == 8)) {
    out.attr("fill")(value);
    return;
  }
  if (!out.writeable()) throw py::value_error("fill: out is read-only");
  char* to = static_cast<char*>(const_cast<void*>(out.data()));
  if (!convert_number(to, out.dtype(), value))
    py::array(out.dtype(), Shape{1}, to, out).attr("fill")(value);  // a view
  KernelScope scope(bytes / 4);
  fill(to, bytes, eight_bytes_of(to, item));
}

py::object bind_convert(const py::array& array, const py::dtype& dtype, const py::object& out) {
  const auto from = number_of(array.dtype()), to = number_of(dtype);
  if (!from || !to) return py::none();
  py::array result = out.is_none() ? empty_array(dtype, shape_of(array)) : py::array(out);
  const bool fits = is_plain(result) && result.writeable() && result.dtype().equal(dtype);
  if (!fits || shape_of(result) != shape_of(array)) return py::none();
  char* y = static_cast<char*>(result.mutable_data());
  const bool as_it_lies = (is_plain(array) || has_rows(array)) && (out.is_none() || !overlaps(result, array));
  const py::array plain = as_it_lies ? array : contiguous_copy(array);
  const char* x = static_cast<const char*>(plain.data());
  const int64_t n = plain.size();
  std::atomic<bool> known = true;
  if (is_plain(plain)) {
    KernelScope scope(n);
    known = convert(y, *to, x, *from, n);
  } else {  // the rows where they are
    const int last = int(plain.ndim()) - 1;
    const int64_t row = plain.shape(last), item = result.itemsize();
    const Shape shape = shape_of(plain), strides(plain.strides(), plain.strides() + plain.ndim());
    KernelScope scope(n);
    parallel_for(n / row, std::max<int64_t>(1, 16384 / row), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end && known; ++r) {
        int64_t rest = r, offset = 0;
        for (int axis = last - 1; axis >= 0; --axis) {
          offset += rest % shape[size_t(axis)] * strides[size_t(axis)];
          rest /= shape[size_t(axis)];
        }
        if (!convert(y + r * row * item, *to, x + offset, *from, row)) known = false;
      }
    });
  }
  return known ? py::object(result) : py::none();
}

// out[...] = array, or false where it takes more than a copy: other dtypes or shapes, memory in common.
bool bind_copy_into(py::array& out, const py::array& array) {
  if (!is_plain(out) || !out.writeable() || !array.dtype().equal(out.dtype()) || array.dtype().kind() == 'O')
    return false;
  const Shape shape = shape_of(out), strides(array.strides(), array.strides() + array.ndim());
  if (shape != shape_of(array)) return false;
  const int64_t n = out.size(), item = out.itemsize();
  if (n == 0) return true;
  if (overlaps(out, array)) return false;
  char* to = static_cast<char*>(out.mutable_data());
  const char* from = static_cast<const char*>(array.data());
  KernelScope scope(n);
  copy_strided(to, from, shape.data(), strides.data(), int(shape.size()), item);
  return true;
}

}  // namespace

void register_runtime(py::module_& m) {
  m.def("num_threads", &num_threads, "Threads that kernels may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("workers_started", &workers_started, "Worker threads that exist now.");

  m.def(
      "empty", [](const Shape& shape, const py::dtype& dtype) { return empty_array(dtype, shape); },
      py::arg("shape"), py::arg("dtype"), "An uninitialised C-order array in pooled memory.");
  m.def("zeros", &bind_zeros, py::arg("shape"), py::arg("dtype"),
        "A C-order array of zeros in pooled memory.");
  m.def("fill", &bind_fill, py::arg("out"), py::arg("value"), "Every element of an array set to a number.");
  m.def(
      "copy_into", &bind_copy_into, py::arg("out"), py::arg("array"),
      "out[...] = array for a C-order out of the same shape and dtype; False, and nothing done, for others.");
  m.def("contiguous", &contiguous_copy, py::arg("array"), "A C-order copy in pooled memory.");
  m.def(
      "convert", &bind_convert, py::arg("array"), py::arg("dtype"), py::arg("out") = py::none(),
      "A C-order copy in another dtype, in pooled memory or in out. None for unknown pairs of dtypes and an\n"
      "out not in C order.");

  m.def("memory_stats", [] {
    const memory::Stats stats = memory::stats();
    py::dict out;
    out["in_use"] = stats.in_use;
    out["in_use_peak"] = stats.in_use_peak;
    out["cached"] = stats.cached;
    out["cache_limit"] = stats.cache_limit;
    out["allocations"] = stats.allocations;
    out["reused"] = stats.reused;
    out["guard_errors"] = stats.guard_errors;
    return out;
  });
  m.def("reset_peak_memory_stats", &memory::reset_peak);
  m.def("set_cache_limit", &memory::set_cache_limit, py::arg("bytes"));
  m.def("empty_cache", &memory::empty_cache);
  m.def("set_memory_guard", &memory::set_guard, py::arg("on"));
}

}  // namespace fastdl::binding

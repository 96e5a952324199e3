// Threads and memory, as Python sees them.
#include "bindings/cpu/array.h"
#include "cpu/convert.h"
#include "cpu/layout.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

py::array bind_zeros(const Shape& shape, const py::dtype& dtype) {
  py::array array = empty_array(dtype, shape);
  const int64_t bytes = array.nbytes();
  char* to = static_cast<char*>(array.mutable_data());
  KernelScope scope(bytes / 4);
  clear(to, bytes);
  return array;
}

std::optional<Number> number_of(const py::dtype& dtype) {
  if (dtype.byteorder() != '=' && dtype.byteorder() != '|') return std::nullopt;
  const auto item = dtype.itemsize();
  switch (dtype.kind()) {
    case 'b':
      return Number::boolean;
    case 'u':
      return item == 1 ? std::optional(Number::uint8) : std::nullopt;
    case 'i':
      return item == 8 ? std::optional(Number::int64) : std::nullopt;
    case 'f':
      return item == 4   ? std::optional(Number::float32)
             : item == 8 ? std::optional(Number::float64)
                         : std::nullopt;
    default:
      return std::nullopt;
  }
}

py::object bind_convert(const py::array& array, const py::dtype& dtype) {
  const auto from = number_of(array.dtype()), to = number_of(dtype);
  constexpr int wanted =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (!from || !to || to == Number::uint8 || (py::detail::array_proxy(array.ptr())->flags & wanted) != wanted)
    return py::none();
  py::array result = empty_array(dtype, shape_of(array));
  void* y = result.mutable_data();
  const void* x = array.data();
  const int64_t n = array.size();
  {
    KernelScope scope(n);
    convert(y, *to, x, *from, n);
  }
  return result;
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
  m.def("contiguous", &contiguous_copy, py::arg("array"), "A C-order copy in pooled memory.");
  m.def("convert", &bind_convert, py::arg("array"), py::arg("dtype"),
        "A C-order copy in another dtype in pooled memory; None for a pair of dtypes that it does not know.");

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

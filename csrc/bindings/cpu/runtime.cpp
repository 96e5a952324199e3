// Threads and memory, as Python sees them.
#include "bindings/cpu/array.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {

void register_runtime(py::module_& m) {
  m.def("num_threads", &num_threads, "Threads that kernels may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("workers_started", &workers_started, "Worker threads that exist now.");

  m.def(
      "empty", [](const Shape& shape, const py::dtype& dtype) { return empty_array(dtype, shape); },
      py::arg("shape"), py::arg("dtype"), "An uninitialised C-order array in pooled memory.");
  m.def("contiguous", &contiguous_copy, py::arg("array"), "A C-order copy in pooled memory.");

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

#include "cpu/machine.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {

void register_machine(py::module_& m) {
  m.def(
      "machine_fma",
      [](double seconds) {
        if (!(seconds > 0 && seconds <= 10)) throw py::value_error("machine_fma: seconds must be in (0, 10]");
        py::gil_scoped_release release;
        return machine_fma(seconds);
      },
      py::arg("seconds"), "Measured float32 GFLOP/s of all threads.");
  m.def(
      "machine_copy",
      [](py::array& to, const py::array& from) {
        if (!is_dtype<float>(to) || !to.writeable() || !(to.flags() & py::array::c_style) ||
            to.size() != from.size())
          throw py::value_error("machine_copy: to must be a writeable C-order float32 array of from's size");
        const In<float> source(from, "machine_copy", "from");
        py::gil_scoped_release release;
        return machine_copy(data<float>(to), source, int64_t(to.size()));
      },
      py::arg("to"), py::arg("from_"), "Seconds for one copy by all threads.");
}

}  // namespace fastdl::binding

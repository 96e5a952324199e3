#include "cuda/device.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_device(py::module_& m) {
  m.def("capability", cuda::device_capability);
  m.def("multiprocessors", cuda::device_multiprocessors);
}

}  // namespace fastdl::binding

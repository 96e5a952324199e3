#include "cuda/running.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_running(py::module_& m) {
  m.def("update_running",
        [](int dtype, uintptr_t running_mean, uintptr_t running_var, uintptr_t mean, uintptr_t var,
           int64_t channels, double momentum, double unbias, uintptr_t batches, uintptr_t stream) {
          cuda::update_running(
              Dtype(dtype),
              {pointer(running_mean), pointer(running_var), static_cast<const double*>(pointer(mean)),
               static_cast<const double*>(pointer(var)), channels, momentum, unbias},
              int64s(batches), stream_of(stream));
        });
}

}  // namespace fastdl::binding

#include "cuda/softmax.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_softmax(py::module_& m) {
  m.def("softmax_forward", [](bool log, int dtype, uintptr_t y, uintptr_t x, int64_t outer, int64_t classes,
                              int64_t inner, uintptr_t stream) {
    cuda::softmax_forward(log, Dtype(dtype), pointer(y), pointer(x), {outer, classes, inner},
                          stream_of(stream));
  });
  m.def("softmax_backward", [](bool log, int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t y,
                               int64_t outer, int64_t classes, int64_t inner, uintptr_t stream) {
    cuda::softmax_backward(log, Dtype(dtype), pointer(grad_x), pointer(grad_y), pointer(y),
                           {outer, classes, inner}, stream_of(stream));
  });
}

}  // namespace fastdl::binding

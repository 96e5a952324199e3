#include "cuda/dropout.h"

#include "bindings/cuda/key.h"

namespace fastdl::binding {

void register_dropout(py::module_& m) {
  m.def("dropout", [](int dtype, uintptr_t y, uintptr_t x, int64_t size, int64_t length, double p,
                      double scale, double kept_bias, double dropped_bias, uint64_t seed, uint64_t offset,
                      uintptr_t state, uintptr_t stream) {
    cuda::dropout(Dtype(dtype), pointer(y), pointer(x),
                  {size, length, p, scale, kept_bias, dropped_bias, key_of(seed, offset, state)},
                  stream_of(stream));
  });
  m.def("rrelu", [](int dtype, uintptr_t out, uintptr_t grad_y, uintptr_t x, int64_t size, double lower,
                    double upper, uint64_t seed, uint64_t offset, uintptr_t state, uintptr_t stream) {
    cuda::rrelu(Dtype(dtype), pointer(out), pointer(grad_y), pointer(x), size, lower, upper,
                key_of(seed, offset, state), stream_of(stream));
  });
}

}  // namespace fastdl::binding

#include "bindings/cuda/key.h"

namespace fastdl::binding {

void register_random(py::module_& m) {
  m.def("set_random_state", [](uintptr_t state, uint64_t seed, uint64_t offset, uintptr_t stream) {
    cuda::set_random_state(static_cast<uint64_t*>(pointer(state)), seed, offset, stream_of(stream));
  });
  m.def("random_uniform", [](int dtype, uintptr_t y, int64_t size, double low, double high, uint64_t seed,
                             uint64_t offset, uintptr_t state, uintptr_t stream) {
    cuda::random_uniform(Dtype(dtype), pointer(y), size, low, high, key_of(seed, offset, state),
                         stream_of(stream));
  });
  m.def("random_normal", [](int dtype, uintptr_t y, int64_t size, double mean, double std, uint64_t seed,
                            uint64_t offset, uintptr_t state, uintptr_t stream) {
    cuda::random_normal(Dtype(dtype), pointer(y), size, mean, std, key_of(seed, offset, state),
                        stream_of(stream));
  });
  m.def("random_bernoulli", [](int dtype, uintptr_t y, uintptr_t p, int64_t size, uint64_t seed,
                               uint64_t offset, uintptr_t state, uintptr_t stream) {
    cuda::random_bernoulli(Dtype(dtype), pointer(y), pointer(p), size, key_of(seed, offset, state),
                           stream_of(stream));
  });
  m.def("philox_words",
        [](uintptr_t words, int64_t size, uint64_t seed, uint64_t offset, uintptr_t state, uintptr_t stream) {
          cuda::philox_words(static_cast<uint32_t*>(pointer(words)), size, key_of(seed, offset, state),
                             stream_of(stream));
        });
  m.def("random_integers", [](uintptr_t y, int64_t size, int64_t low, uint64_t range, uint64_t seed,
                              uint64_t offset, uintptr_t state, uintptr_t stream) {
    cuda::random_integers(static_cast<int64_t*>(pointer(y)), size, low, range, key_of(seed, offset, state),
                          stream_of(stream));
  });
}

}  // namespace fastdl::binding

#include "cuda/activation.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kActivation[] = {FASTDL_CUDA_ACTIVATION(FASTDL_CUDA_NAME)};
constexpr const char* kPair[] = {FASTDL_CUDA_ACTIVATION_PAIR(FASTDL_CUDA_NAME)};
constexpr const char* kTriple[] = {FASTDL_CUDA_ACTIVATION_TRIPLE(FASTDL_CUDA_NAME)};

}  // namespace

void register_activation(py::module_& m) {
  using O = const py::object&;
  m.def("activation_forward", [](std::string_view op, int dtype, const Shape& shape, O y, O x, double a,
                                 double b, double c, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::activation_forward(named<cuda::Activation>(kActivation, op), t, shape, strided(y, t), strided(x, t),
                             a, b, c, stream_of(stream));
  });
  m.def("activation_backward", [](std::string_view op, int dtype, const Shape& shape, O grad_x, O grad_y,
                                  O saved, double a, double b, double c, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::activation_backward(named<cuda::Activation>(kActivation, op), t, shape, strided(grad_x, t),
                              strided(grad_y, t), strided(saved, t), a, b, c, stream_of(stream));
  });
  m.def("activation_pair",
        [](std::string_view op, int dtype, const Shape& shape, O out, O x, O y, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::activation_pair(named<cuda::ActivationPair>(kPair, op), t, shape, strided(out, t),
                                strided(x, t), strided(y, t), stream_of(stream));
        });
  m.def("activation_triple",
        [](std::string_view op, int dtype, const Shape& shape, O out, O x, O y, O z, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::activation_triple(named<cuda::ActivationTriple>(kTriple, op), t, shape, strided(out, t),
                                  strided(x, t), strided(y, t), strided(z, t), stream_of(stream));
        });
}

}  // namespace fastdl::binding

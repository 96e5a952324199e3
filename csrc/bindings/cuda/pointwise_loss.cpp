#include "cuda/pointwise_loss.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kLoss[] = {FASTDL_CUDA_LOSS(FASTDL_CUDA_NAME)};

}  // namespace

void register_pointwise_loss(py::module_& m) {
  using cuda::LossProblem;
  using O = const py::object&;
  py::class_<LossProblem>(m, "LossProblem")
      .def(py::init([](std::string_view op, int dtype, const Shape& shape, O x, O target, O third, O fourth,
                       bool first, bool second, double number) {
        const Dtype t = Dtype(dtype);
        return LossProblem{named<cuda::PointwiseLoss>(kLoss, op),
                           shape,
                           strided(x, t),
                           strided(target, t),
                           strided(third, t),
                           strided(fourth, t),
                           first,
                           second,
                           number};
      }));
  m.def("pointwise_loss_values", [](int dtype, O losses, const LossProblem& problem, uintptr_t stream) {
    cuda::pointwise_loss_values(Dtype(dtype), strided(losses, Dtype(dtype)), problem, stream_of(stream));
  });
  m.def("pointwise_loss_scratch", &cuda::pointwise_loss_scratch);
  m.def("pointwise_loss_sum", [](int dtype, uintptr_t loss, uintptr_t scratch, const LossProblem& problem,
                                 double scale, uintptr_t stream) {
    cuda::pointwise_loss_sum(Dtype(dtype), pointer(loss), static_cast<double*>(pointer(scratch)), problem,
                             scale, stream_of(stream));
  });
  m.def("pointwise_loss_backward",
        [](int dtype, O grad_x, O grad_loss, const LossProblem& problem, double scale, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::pointwise_loss_backward(t, strided(grad_x, t), strided(grad_loss, t), problem, scale,
                                        stream_of(stream));
        });
}

}  // namespace fastdl::binding

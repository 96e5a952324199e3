#include "cuda/margin_loss.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_margin_loss(py::module_& m) {
  using cuda::MarginLoss;
  py::class_<MarginLoss>(m, "MarginLoss")
      .def(py::init([](int64_t rows, int64_t classes, uintptr_t target, uintptr_t report) {
        return MarginLoss{rows, classes, int64s(target), report_words(report)};
      }));
  m.def("multi_margin_forward", [](int dtype, uintptr_t losses, uintptr_t x, uintptr_t weight, int p,
                                   double margin, const MarginLoss& problem, uintptr_t stream) {
    cuda::multi_margin_forward(Dtype(dtype), pointer(losses), pointer(x), pointer(weight), p, margin, problem,
                               stream_of(stream));
  });
  m.def("multi_margin_backward",
        [](int dtype, uintptr_t grad_x, uintptr_t grad_losses, uintptr_t x, uintptr_t weight, int p,
           double margin, const MarginLoss& problem, uintptr_t stream) {
          cuda::multi_margin_backward(Dtype(dtype), pointer(grad_x), pointer(grad_losses), pointer(x),
                                      pointer(weight), p, margin, problem, stream_of(stream));
        });
  m.def("multilabel_margin_forward", [](int dtype, uintptr_t losses, uintptr_t x, const MarginLoss& problem,
                                        uintptr_t stream) {
    cuda::multilabel_margin_forward(Dtype(dtype), pointer(losses), pointer(x), problem, stream_of(stream));
  });
  m.def("multilabel_margin_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_losses, uintptr_t x,
                                         uintptr_t named, const MarginLoss& problem, uintptr_t stream) {
    cuda::multilabel_margin_backward(Dtype(dtype), pointer(grad_x), pointer(grad_losses), pointer(x),
                                     static_cast<uint8_t*>(pointer(named)), problem, stream_of(stream));
  });
}

}  // namespace fastdl::binding

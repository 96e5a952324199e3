#include "cuda/cross_entropy.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_cross_entropy(py::module_& m) {
  using cuda::CrossEntropy;
  using cuda::Reduction;
  // The description of a loss, made once per call and used by its launches.
  py::class_<CrossEntropy>(m, "CrossEntropy")
      .def(py::init([](int64_t outer, int64_t classes, int64_t inner, uintptr_t target,
                       uintptr_t probabilities, uintptr_t weight, uintptr_t weight_total,
                       int64_t ignore_index, double smoothing) {
        return CrossEntropy{{outer, classes, inner},
                            static_cast<const int64_t*>(pointer(target)),
                            pointer(probabilities),
                            pointer(weight),
                            pointer(weight_total),
                            ignore_index,
                            smoothing};
      }));
  m.def("cross_entropy_forward", [](int dtype, uintptr_t losses, uintptr_t statistics, uintptr_t x,
                                    const CrossEntropy& problem, uintptr_t report, uintptr_t stream) {
    cuda::cross_entropy_forward(Dtype(dtype), pointer(losses), pointer(statistics), pointer(x), problem,
                                static_cast<uint64_t*>(pointer(report)), stream_of(stream));
  });
  m.def("cross_entropy_backward",
        [](int dtype, uintptr_t grad_x, uintptr_t grad_loss, uintptr_t x, uintptr_t statistics,
           uintptr_t normaliser, const CrossEntropy& problem, int reduction, uintptr_t stream) {
          cuda::cross_entropy_backward(Dtype(dtype), pointer(grad_x), pointer(grad_loss), pointer(x),
                                       pointer(statistics), pointer(normaliser), problem,
                                       Reduction(reduction), stream_of(stream));
        });
  m.def("nll_loss_forward", [](int dtype, uintptr_t losses, uintptr_t x, const CrossEntropy& problem,
                               uintptr_t report, uintptr_t stream) {
    cuda::nll_loss_forward(Dtype(dtype), pointer(losses), pointer(x), problem,
                           static_cast<uint64_t*>(pointer(report)), stream_of(stream));
  });
  m.def("nll_loss_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_loss, uintptr_t normaliser,
                                const CrossEntropy& problem, int reduction, uintptr_t stream) {
    cuda::nll_loss_backward(Dtype(dtype), pointer(grad_x), pointer(grad_loss), pointer(normaliser), problem,
                            Reduction(reduction), stream_of(stream));
  });
  m.def("loss_scratch", &cuda::loss_scratch);
  m.def("loss_reduce", [](int dtype, uintptr_t loss, uintptr_t normaliser, uintptr_t losses,
                          uintptr_t scratch, const CrossEntropy& problem, int reduction, uintptr_t stream) {
    cuda::loss_reduce(Dtype(dtype), pointer(loss), pointer(normaliser), pointer(losses),
                      static_cast<double*>(pointer(scratch)), problem, Reduction(reduction),
                      stream_of(stream));
  });
}

}  // namespace fastdl::binding

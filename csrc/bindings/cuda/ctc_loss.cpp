#include "cuda/ctc_loss.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_ctc_loss(py::module_& m) {
  using cuda::Ctc;
  py::class_<Ctc>(m, "Ctc").def(
      py::init([](int64_t frames, int64_t batch, int64_t classes, int64_t longest, int64_t blank,
                  uintptr_t targets, uintptr_t input_lengths, uintptr_t target_lengths) {
        return Ctc{frames,
                   batch,
                   classes,
                   longest,
                   blank,
                   int64s(targets),
                   int64s(input_lengths),
                   int64s(target_lengths)};
      }));
  m.def("ctc_loss_forward", [](int dtype, uintptr_t loss, uintptr_t alpha, uintptr_t log_probs,
                               const Ctc& problem, uintptr_t report, uintptr_t stream) {
    cuda::ctc_loss_forward(Dtype(dtype), pointer(loss), pointer(alpha), pointer(log_probs), problem,
                           report_words(report), stream_of(stream));
  });
  m.def("ctc_loss_backward",
        [](int dtype, uintptr_t grad, uintptr_t beta, uintptr_t grad_loss, uintptr_t log_probs,
           uintptr_t loss, uintptr_t alpha, bool zero_infinity, const Ctc& problem, uintptr_t stream) {
          cuda::ctc_loss_backward(Dtype(dtype), pointer(grad), pointer(beta), pointer(grad_loss),
                                  pointer(log_probs), pointer(loss), pointer(alpha), zero_infinity, problem,
                                  stream_of(stream));
        });
}

}  // namespace fastdl::binding

#include "cuda/layout.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
void register_layout(py::module_& m) {
  using cuda::Gather;
  py::class_<Gather>(m, "Gather")
      .def(py::init([](int64_t outer, int64_t extent, int64_t count, int64_t inner) {
        return Gather{outer, extent, count, inner};
      }));
  m.def("gather_forward", [](int bytes, uintptr_t y, uintptr_t x, uintptr_t index, const Gather& problem,
                             uintptr_t report, uintptr_t stream) {
    cuda::gather_forward(bytes, pointer(y), pointer(x), int64s(index), problem, report_words(report),
                         stream_of(stream));
  });
  m.def("gather_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t index,
                              const Gather& problem, uintptr_t report, uintptr_t stream) {
    cuda::gather_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), int64s(index), problem,
                          report_words(report), stream_of(stream));
  });
  m.def("gather_places",
        [](uintptr_t keys, uintptr_t index, const Gather& problem, uintptr_t report, uintptr_t stream) {
          cuda::gather_places(int64s(keys), int64s(index), problem, report_words(report), stream_of(stream));
        });
  m.def("running_sum_scratch", &cuda::running_sum_scratch);
  m.def("running_sum", [](int dtype, uintptr_t y, uintptr_t x, int64_t outer, int64_t length, int64_t inner,
                          bool from_end, uintptr_t scratch, uintptr_t stream) {
    cuda::running_sum(Dtype(dtype), pointer(y), pointer(x), outer, length, inner, from_end, pointer(scratch),
                      stream_of(stream));
  });
}

}  // namespace fastdl::binding

#include "cuda/embedding.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
void register_embedding(py::module_& m) {
  using cuda::Embedding;
  py::class_<Embedding>(m, "Embedding")
      .def(py::init([](int64_t entries, int64_t rows, int64_t width, int64_t padding_idx) {
        return Embedding{entries, rows, width, padding_idx};
      }));
  m.def("embedding_forward", [](int bytes, uintptr_t y, uintptr_t weight, uintptr_t index,
                                const Embedding& problem, uintptr_t report, uintptr_t stream) {
    cuda::embedding_forward(bytes, pointer(y), pointer(weight), int64s(index), problem, report_words(report),
                            stream_of(stream));
  });
  m.def("embedding_bag_forward", [](int dtype, uintptr_t y, uintptr_t weight, uintptr_t index,
                                    uintptr_t offsets, int64_t bags, uintptr_t scale, bool mean,
                                    const Embedding& problem, uintptr_t report, uintptr_t stream) {
    cuda::embedding_bag_forward(Dtype(dtype), pointer(y), pointer(weight), int64s(index), int64s(offsets),
                                bags, pointer(scale), mean, problem, report_words(report), stream_of(stream));
  });
  m.def("embedding_bag_max_forward", [](int dtype, uintptr_t y, uintptr_t chosen, uintptr_t weight,
                                        uintptr_t index, uintptr_t offsets, int64_t bags,
                                        const Embedding& problem, uintptr_t report, uintptr_t stream) {
    cuda::embedding_bag_max_forward(Dtype(dtype), pointer(y), int64s(chosen), pointer(weight), int64s(index),
                                    int64s(offsets), bags, problem, report_words(report), stream_of(stream));
  });
  m.def("embedding_scratch", &cuda::embedding_scratch);
  m.def("embedding_backward",
        [](int dtype, uintptr_t grad_weight, uintptr_t grad_y, int64_t grad_rows, uintptr_t index,
           uintptr_t bag, uintptr_t scale, bool by_frequency, const Embedding& problem, uintptr_t scratch,
           uintptr_t report, uintptr_t stream) {
          cuda::embedding_backward(Dtype(dtype), pointer(grad_weight), pointer(grad_y), grad_rows,
                                   int64s(index), int64s(bag), pointer(scale), by_frequency, problem,
                                   pointer(scratch), report_words(report), stream_of(stream));
        });
}

}  // namespace fastdl::binding

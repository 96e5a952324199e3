#include "cuda/layout.h"

#include "bindings/cuda/arguments.h"
#include "cuda/search.h"
#include "cuda/sort.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kJoin[] = {FASTDL_CUDA_JOIN(FASTDL_CUDA_NAME)};

}  // namespace

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
  m.def("scatter_join", [](std::string_view op, int dtype, bool integers, uintptr_t out, uintptr_t source,
                           bool one, uintptr_t index, const Gather& problem, uintptr_t report,
                           uintptr_t stream) {
    cuda::scatter_join(named<cuda::Join>(kJoin, op), Dtype(dtype), integers, pointer(out), pointer(source),
                       one, int64s(index), problem, report_words(report), stream_of(stream));
  });
  using cuda::Sort;
  py::class_<Sort>(m, "Sort").def(py::init(
      [](int64_t rows, int64_t n, int64_t k, bool descending) { return Sort{rows, n, k, descending}; }));
  m.def("sort_scratch",
        [](int type, const Sort& problem) { return cuda::sort_scratch(cuda::SortKey(type), problem); });
  m.def("sort", [](int type, uintptr_t values, uintptr_t indices, uintptr_t x, const Sort& problem,
                   uintptr_t scratch, uintptr_t stream) {
    cuda::sort(cuda::SortKey(type), pointer(values), int64s(indices), pointer(x), problem, pointer(scratch),
               stream_of(stream));
  });
  m.def("searchsorted", [](int dtype, bool integers, uintptr_t places, uintptr_t rows, uintptr_t values,
                           int64_t length, int64_t per_row, int64_t count, bool right, uintptr_t stream) {
    cuda::searchsorted(Dtype(dtype), integers, int64s(places), pointer(rows), pointer(values), length,
                       per_row, count, right, stream_of(stream));
  });
  m.def("gather_places",
        [](uintptr_t keys, uintptr_t index, const Gather& problem, uintptr_t report, uintptr_t stream) {
          cuda::gather_places(int64s(keys), int64s(index), problem, report_words(report), stream_of(stream));
        });
}

}  // namespace fastdl::binding

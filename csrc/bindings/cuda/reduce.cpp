#include "cuda/reduce.h"

#include "bindings/cuda/arguments.h"
#include "cuda/scan.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kFold[] = {FASTDL_CUDA_FOLD(FASTDL_CUDA_NAME)};
constexpr const char* kScan[] = {FASTDL_CUDA_SCAN(FASTDL_CUDA_NAME)};

}  // namespace

void register_reduce(py::module_& m) {
  using cuda::Reduce;
  // An array, which of its axes (by number) are reduced, and the bytes of an element.
  py::class_<Reduce>(m, "Reduce")
      .def(py::init(
          [](const py::object& x, const Shape& shape, const std::vector<size_t>& axes, int64_t item) {
            const Strided s = strided(x, item);
            Reduce r;
            r.x = s.data;
            r.item = item;
            std::vector<bool> reduced(shape.size(), false);
            for (size_t axis : axes) reduced.at(axis) = true;
            for (size_t d = 0; d < shape.size(); ++d) {
              (reduced[d] ? r.reduced : r.kept).push_back(shape[d]);
              (reduced[d] ? r.reduced_strides : r.kept_strides).push_back(s.strides[d]);
            }
            return r;
          }));
  m.def("reduce_scratch", &cuda::reduce_scratch);
  m.def("reduce_fold", [](std::string_view op, int dtype, uintptr_t y, bool wide, const Reduce& problem,
                          double scale, double p, uintptr_t scratch, uintptr_t stream) {
    cuda::fold(named<cuda::Fold>(kFold, op), Dtype(dtype), pointer(y), wide, problem, scale, p,
               pointer(scratch), stream_of(stream));
  });
  m.def("moments", [](int dtype, uintptr_t var, uintptr_t mean, const Reduce& problem, double correction,
                      uintptr_t scratch, uintptr_t stream) {
    cuda::moments(Dtype(dtype), pointer(var), pointer(mean), problem, correction, pointer(scratch),
                  stream_of(stream));
  });
  m.def("logsumexp", [](int dtype, uintptr_t y, const Reduce& problem, uintptr_t scratch, uintptr_t stream) {
    cuda::logsumexp(Dtype(dtype), pointer(y), problem, pointer(scratch), stream_of(stream));
  });
  m.def("extreme", [](bool largest, int dtype, uintptr_t values, uintptr_t indices, const Reduce& problem,
                      uintptr_t scratch, uintptr_t stream) {
    cuda::extreme(largest, Dtype(dtype), pointer(values), static_cast<int64_t*>(pointer(indices)), problem,
                  pointer(scratch), stream_of(stream));
  });

  m.def("count_true", [](uintptr_t counts, const Reduce& problem, uintptr_t scratch, uintptr_t stream) {
    cuda::count_true(int64s(counts), problem, pointer(scratch), stream_of(stream));
  });

  using cuda::Running;
  py::class_<Running>(m, "Running")
      .def(py::init([](int64_t outer, int64_t length, int64_t inner, bool from_end) {
        return Running{outer, length, inner, from_end};
      }));
  m.def("running_scratch", &cuda::running_scratch);
  m.def("running", [](std::string_view op, int dtype, uintptr_t y, uintptr_t x, const Running& problem,
                      uintptr_t scratch, uintptr_t stream) {
    cuda::running(named<cuda::Scan>(kScan, op), Dtype(dtype), pointer(y), pointer(x), problem,
                  pointer(scratch), stream_of(stream));
  });
  m.def("running_extreme", [](bool largest, int dtype, bool integers, uintptr_t values, uintptr_t indices,
                              uintptr_t x, const Running& problem, uintptr_t scratch, uintptr_t stream) {
    cuda::running_extreme(largest, Dtype(dtype), integers, pointer(values), int64s(indices), pointer(x),
                          problem, pointer(scratch), stream_of(stream));
  });
}

}  // namespace fastdl::binding

#include "cuda/pool.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_pool(py::module_& m) {
  // planes, then for each axis d, h, w: in, out, kernel, stride, padding, dilation
  py::class_<PoolProblem>(m, "PoolProblem")
      .def(py::init([](int64_t planes, const std::vector<int64_t>& axes) {
        if (axes.size() != 18) throw py::value_error("PoolProblem: 18 numbers expected");
        PoolProblem p;
        p.planes = planes;
        PoolAxis* const all[] = {&p.d, &p.h, &p.w};
        for (size_t i = 0; i < 3; ++i) {
          const int64_t* a = axes.data() + 6 * i;
          *all[i] = {a[0], a[1], a[2], a[3], a[4], a[5]};
        }
        return p;
      }));
  m.def("max_pool_forward", [](int dtype, uintptr_t y, uintptr_t offsets, uintptr_t x, const PoolProblem& p,
                               uintptr_t stream) {
    cuda::max_pool_forward(Dtype(dtype), pointer(y), pointer(offsets), pointer(x), p, stream_of(stream));
  });
  m.def("max_pool_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t offsets,
                                const PoolProblem& p, uintptr_t stream) {
    cuda::max_pool_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), pointer(offsets), p,
                            stream_of(stream));
  });
  m.def("max_pool_indices", [](uintptr_t indices, uintptr_t offsets, const PoolProblem& p, uintptr_t stream) {
    cuda::max_pool_indices(static_cast<int64_t*>(pointer(indices)), pointer(offsets), p, stream_of(stream));
  });
  m.def("avg_pool_forward", [](int dtype, uintptr_t y, uintptr_t x, const PoolProblem& p, bool include_pad,
                               int64_t divisor, uintptr_t stream) {
    cuda::avg_pool_forward(Dtype(dtype), pointer(y), pointer(x), p, include_pad, divisor, stream_of(stream));
  });
  m.def("avg_pool_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, const PoolProblem& p,
                                bool include_pad, int64_t divisor, uintptr_t stream) {
    cuda::avg_pool_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), p, include_pad, divisor,
                            stream_of(stream));
  });
  m.def("adaptive_avg_pool_forward",
        [](int dtype, uintptr_t y, uintptr_t x, const PoolProblem& p, uintptr_t stream) {
          cuda::adaptive_avg_pool_forward(Dtype(dtype), pointer(y), pointer(x), p, stream_of(stream));
        });
  m.def("adaptive_avg_pool_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, const PoolProblem& p,
                                         uintptr_t stream) {
    cuda::adaptive_avg_pool_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), p, stream_of(stream));
  });
}

}  // namespace fastdl::binding

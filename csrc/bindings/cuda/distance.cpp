#include "cuda/distance.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {

void register_distance(py::module_& m) {
  using cuda::Rows;
  m.def("row_products_forward", [](int dtype, uintptr_t sums, uintptr_t x1, uintptr_t x2, int64_t rows,
                                   int64_t length, uintptr_t stream) {
    cuda::row_products_forward(Dtype(dtype), pointer(sums), pointer(x1), pointer(x2), Rows{rows, length},
                               stream_of(stream));
  });
  m.def("row_products_backward",
        [](int dtype, uintptr_t grad_x1, uintptr_t grad_x2, uintptr_t grad_sums, uintptr_t x1, uintptr_t x2,
           int64_t rows, int64_t length, uintptr_t stream) {
          cuda::row_products_backward(Dtype(dtype), pointer(grad_x1), pointer(grad_x2), pointer(grad_sums),
                                      pointer(x1), pointer(x2), Rows{rows, length}, stream_of(stream));
        });
  m.def("pairwise_distance_forward", [](int dtype, uintptr_t distance, uintptr_t x1, uintptr_t x2, double p,
                                        double eps, int64_t rows, int64_t length, uintptr_t stream) {
    cuda::pairwise_distance_forward(Dtype(dtype), pointer(distance), pointer(x1), pointer(x2), p, eps,
                                    Rows{rows, length}, stream_of(stream));
  });
  m.def("pairwise_distance_backward",
        [](int dtype, uintptr_t grad_x1, uintptr_t grad_distance, uintptr_t x1, uintptr_t x2,
           uintptr_t distance, double p, double eps, int64_t rows, int64_t length, uintptr_t stream) {
          cuda::pairwise_distance_backward(Dtype(dtype), pointer(grad_x1), pointer(grad_distance),
                                           pointer(x1), pointer(x2), pointer(distance), p, eps,
                                           Rows{rows, length}, stream_of(stream));
        });
  m.def("cdist_forward", [](int dtype, uintptr_t distance, uintptr_t x1, uintptr_t x2, double p,
                            int64_t batch, int64_t rows1, int64_t rows2, int64_t length, uintptr_t stream) {
    cuda::cdist_forward(Dtype(dtype), pointer(distance), pointer(x1), pointer(x2), p,
                        {batch, rows1, rows2, length}, stream_of(stream));
  });
  m.def("cdist_backward", [](int dtype, uintptr_t grad_x1, uintptr_t grad_distance, uintptr_t x1,
                             uintptr_t x2, uintptr_t distance, double p, int64_t batch, int64_t rows1,
                             int64_t rows2, int64_t length, uintptr_t stream) {
    cuda::cdist_backward(Dtype(dtype), pointer(grad_x1), pointer(grad_distance), pointer(x1), pointer(x2),
                         pointer(distance), p, {batch, rows1, rows2, length}, stream_of(stream));
  });
}

}  // namespace fastdl::binding

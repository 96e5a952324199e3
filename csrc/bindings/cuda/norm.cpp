#include "cuda/norm.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

double* doubles(uintptr_t address) {
  return static_cast<double*>(pointer(address));
}

}  // namespace

void register_norm(py::module_& m) {
  using cuda::ChannelNorm;
  using cuda::RowNorm;
  m.def("row_norm_forward", [](int dtype, uintptr_t y, uintptr_t mean, uintptr_t var, uintptr_t x,
                               uintptr_t weight, uintptr_t bias, int64_t rows, int64_t length, int64_t groups,
                               int64_t inner, double eps, uintptr_t stream) {
    cuda::row_norm_forward(Dtype(dtype), pointer(y), doubles(mean), doubles(var), pointer(x), pointer(weight),
                           pointer(bias), {rows, length, groups, inner, eps}, stream_of(stream));
  });
  m.def("row_norm_scratch",
        [](int dtype, int64_t rows, int64_t length, int64_t groups, int64_t inner, double eps) {
          return cuda::row_norm_scratch(Dtype(dtype), {rows, length, groups, inner, eps});
        });
  m.def("row_norm_backward",
        [](int dtype, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias, uintptr_t grad_y,
           uintptr_t x, uintptr_t weight, uintptr_t mean, uintptr_t var, int64_t rows, int64_t length,
           int64_t groups, int64_t inner, double eps, uintptr_t scratch, uintptr_t stream) {
          cuda::row_norm_backward(Dtype(dtype), pointer(grad_x), pointer(grad_weight), pointer(grad_bias),
                                  pointer(grad_y), pointer(x), pointer(weight), doubles(mean), doubles(var),
                                  {rows, length, groups, inner, eps}, pointer(scratch), stream_of(stream));
        });
  m.def("update_running",
        [](int dtype, uintptr_t running_mean, uintptr_t running_var, uintptr_t mean, uintptr_t var,
           int64_t channels, double momentum, double unbias, uintptr_t batches, uintptr_t stream) {
          cuda::update_running(Dtype(dtype),
                               {pointer(running_mean), pointer(running_var), doubles(mean), doubles(var),
                                channels, momentum, unbias},
                               int64s(batches), stream_of(stream));
        });
  py::class_<ChannelNorm>(m, "ChannelNorm")
      .def(py::init(
          [](int64_t batch, int64_t channels, int64_t inner, int64_t per_batch, int64_t per_group,
             double eps) { return ChannelNorm{batch, channels, inner, per_batch, per_group, eps}; }));
  m.def("channel_scratch",
        [](int dtype, const ChannelNorm& p) { return cuda::channel_scratch(Dtype(dtype), p); });
  m.def("channel_gradients",
        [](int dtype, uintptr_t grad_weight, uintptr_t grad_bias, uintptr_t grad_y, uintptr_t x,
           uintptr_t mean, uintptr_t var, const ChannelNorm& p, uintptr_t scratch, uintptr_t stream) {
          cuda::channel_gradients(Dtype(dtype), pointer(grad_weight), pointer(grad_bias), pointer(grad_y),
                                  pointer(x), nullptr, doubles(mean), doubles(var), p, pointer(scratch),
                                  stream_of(stream));
        });
  m.def("batch_norm_scratch",
        [](int dtype, const ChannelNorm& p) { return cuda::batch_norm_scratch(Dtype(dtype), p); });
  m.def("batch_norm_forward",
        [](int dtype, uintptr_t y, uintptr_t mean, uintptr_t var, uintptr_t x, uintptr_t weight,
           uintptr_t bias, const ChannelNorm& p, uintptr_t scratch, uintptr_t stream) {
          cuda::batch_norm_forward(Dtype(dtype), pointer(y), doubles(mean), doubles(var), pointer(x),
                                   pointer(weight), pointer(bias), p, pointer(scratch), stream_of(stream));
        });
  m.def("norm_apply", [](int dtype, uintptr_t y, uintptr_t x, uintptr_t mean, uintptr_t var, uintptr_t weight,
                         uintptr_t bias, const ChannelNorm& p, uintptr_t stream) {
    cuda::norm_apply(Dtype(dtype), pointer(y), pointer(x), doubles(mean), doubles(var), pointer(weight),
                     pointer(bias), p, stream_of(stream));
  });
  m.def("batch_norm_backward",
        [](int dtype, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias, uintptr_t grad_y,
           uintptr_t x, uintptr_t weight, uintptr_t mean, uintptr_t var, bool training, const ChannelNorm& p,
           uintptr_t scratch, uintptr_t stream) {
          cuda::batch_norm_backward(Dtype(dtype), pointer(grad_x), pointer(grad_weight), pointer(grad_bias),
                                    pointer(grad_y), pointer(x), pointer(weight), doubles(mean), doubles(var),
                                    training, p, pointer(scratch), stream_of(stream));
        });
  m.def("group_norm_scratch",
        [](int dtype, const ChannelNorm& p) { return cuda::group_norm_scratch(Dtype(dtype), p); });
  m.def("group_norm_forward",
        [](int dtype, uintptr_t y, uintptr_t mean, uintptr_t var, uintptr_t x, uintptr_t weight,
           uintptr_t bias, const ChannelNorm& p, uintptr_t scratch, uintptr_t stream) {
          cuda::group_norm_forward(Dtype(dtype), pointer(y), doubles(mean), doubles(var), pointer(x),
                                   pointer(weight), pointer(bias), p, pointer(scratch), stream_of(stream));
        });
  m.def("group_norm_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t grad_bias,
                                  uintptr_t grad_y, uintptr_t x, uintptr_t weight, uintptr_t mean,
                                  uintptr_t var, const ChannelNorm& p, uintptr_t scratch, uintptr_t stream) {
    cuda::group_norm_backward(Dtype(dtype), pointer(grad_x), pointer(grad_weight), pointer(grad_bias),
                              pointer(grad_y), pointer(x), pointer(weight), doubles(mean), doubles(var), p,
                              pointer(scratch), stream_of(stream));
  });
  m.def("local_response_forward",
        [](int dtype, uintptr_t y, uintptr_t x, int64_t batch, int64_t channels, int64_t inner, int64_t size,
           double alpha, double beta, double k, uintptr_t stream) {
          cuda::local_response_forward(Dtype(dtype), pointer(y), pointer(x),
                                       {batch, channels, inner, size, alpha, beta, k}, stream_of(stream));
        });
  m.def("local_response_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t x,
                                      uintptr_t scratch, int64_t batch, int64_t channels, int64_t inner,
                                      int64_t size, double alpha, double beta, double k, uintptr_t stream) {
    cuda::local_response_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), pointer(x),
                                  pointer(scratch), {batch, channels, inner, size, alpha, beta, k},
                                  stream_of(stream));
  });
}

}  // namespace fastdl::binding

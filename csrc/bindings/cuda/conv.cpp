#include "cuda/conv.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

using Ints = std::vector<int64_t>;

}  // namespace

void register_conv(py::module_& m) {
  py::class_<ConvProblem>(m, "ConvProblem")
      .def_readonly("batch", &ConvProblem::batch)
      .def_readonly("in_channels", &ConvProblem::in_channels)
      .def_readonly("out_channels", &ConvProblem::out_channels)
      .def_readonly("groups", &ConvProblem::groups)
      .def_readonly("inputs", &ConvProblem::in)
      .def_readonly("outputs", &ConvProblem::out)
      .def_readonly("kernel", &ConvProblem::kernel)
      .def_readonly("stride", &ConvProblem::stride)
      .def_readonly("padding", &ConvProblem::pad)
      .def_readonly("dilation", &ConvProblem::dilation);
  m.def("conv_problem", [](const char* op, const Ints& x, const Ints& weight, const Ints& stride,
                           const Ints& padding, const Ints& dilation, int64_t groups) {
    return conv_problem(op, x, weight, {stride, padding, dilation, groups});
  });
  m.def("conv_transpose_problem",
        [](const char* op, const Ints& x, const Ints& weight, const Ints& stride, const Ints& padding,
           const Ints& output_padding, const Ints& dilation, int64_t groups) {
          return conv_transpose_problem(op, x, weight, {stride, padding, dilation, groups}, output_padding);
        });
  m.def("conv_transpose_gradient_problem",
        [](const char* op, const Ints& x, const Ints& weight, const Ints& stride, const Ints& padding,
           const Ints& dilation, int64_t groups, const Ints& grad_y) {
          return conv_transpose_gradient_problem(op, x, weight, {stride, padding, dilation, groups}, grad_y);
        });
  m.def("conv_padded", [](int dtype, int64_t channels) { return cuda::conv_padded(Dtype(dtype), channels); });
  m.def("channels_last", [](int dtype, bool tf32, uintptr_t to, uintptr_t x, int64_t images, int64_t channels,
                            int64_t groups, int64_t size, uintptr_t stream) {
    cuda::channels_last(Dtype(dtype), tf32, pointer(to), pointer(x), images, channels, groups, size,
                        stream_of(stream));
  });
  m.def("conv_pack_weight", [](int dtype, bool tf32, uintptr_t to, uintptr_t weight, const ConvProblem& p,
                               bool transposed, uintptr_t stream) {
    cuda::conv_pack_weight(Dtype(dtype), tf32, pointer(to), pointer(weight), p, transposed,
                           stream_of(stream));
  });
  m.def("conv_gather_splits", [](int dtype, const ConvProblem& p, bool transposed) {
    return cuda::conv_gather_splits(Dtype(dtype), p, transposed);
  });
  m.def("conv_gather", [](int dtype, bool tensor, uintptr_t y, uintptr_t x, uintptr_t weight, uintptr_t bias,
                          uintptr_t scratch, const ConvProblem& p, bool transposed, uintptr_t stream) {
    cuda::conv_gather(Dtype(dtype), tensor, pointer(y), pointer(x), pointer(weight), pointer(bias),
                      pointer(scratch), p, transposed, stream_of(stream));
  });
  m.def("conv_gather_fits_hopper", [](int dtype, bool tensor, const ConvProblem& p, bool transposed) {
    return cuda::conv_gather_fits_hopper(Dtype(dtype), tensor, p, transposed);
  });
  m.def("conv_gather_hopper_splits", [](int dtype, const ConvProblem& p, bool transposed) {
    return cuda::conv_gather_hopper_splits(Dtype(dtype), p, transposed);
  });
  m.def("conv_gather_hopper", [](int dtype, uintptr_t y, uintptr_t x, uintptr_t weight, uintptr_t bias,
                                 uintptr_t scratch, const ConvProblem& p, bool transposed, uintptr_t stream) {
    cuda::conv_gather_hopper(Dtype(dtype), pointer(y), pointer(x), pointer(weight), pointer(bias),
                             pointer(scratch), p, transposed, stream_of(stream));
  });
  m.def("conv_weight_splits",
        [](int dtype, const ConvProblem& p) { return cuda::conv_weight_splits(Dtype(dtype), p); });
  m.def("conv_grad_weight", [](int dtype, bool tensor, uintptr_t grad_weight, uintptr_t grad_y, uintptr_t x,
                               uintptr_t scratch, const ConvProblem& p, uintptr_t stream) {
    cuda::conv_grad_weight(Dtype(dtype), tensor, pointer(grad_weight), pointer(grad_y), pointer(x),
                           pointer(scratch), p, stream_of(stream));
  });
  m.def("conv_pointwise_fits", [](int dtype, const ConvProblem& p, uintptr_t grad_y, uintptr_t x) {
    return cuda::conv_pointwise_fits(Dtype(dtype), p, pointer(grad_y), pointer(x));
  });
  m.def("conv_grad_weight_pointwise",
        [](int dtype, bool tensor, uintptr_t grad_weight, uintptr_t grad_y, uintptr_t x, uintptr_t scratch,
           const ConvProblem& p, uintptr_t stream) {
          cuda::conv_grad_weight_pointwise(Dtype(dtype), tensor, pointer(grad_weight), pointer(grad_y),
                                           pointer(x), pointer(scratch), p, stream_of(stream));
        });
  m.def("conv_weight_fits_hopper",
        [](int dtype, const ConvProblem& p) { return cuda::conv_weight_fits_hopper(Dtype(dtype), p); });
  m.def("conv_weight_hopper_splits", &cuda::conv_weight_hopper_splits);
  m.def("conv_grad_weight_hopper", [](int dtype, uintptr_t grad_weight, uintptr_t grad_y, uintptr_t x,
                                      uintptr_t scratch, const ConvProblem& p, uintptr_t stream) {
    cuda::conv_grad_weight_hopper(Dtype(dtype), pointer(grad_weight), pointer(grad_y), pointer(x),
                                  pointer(scratch), p, stream_of(stream));
  });
  m.def("conv_trial_begin", &cuda::conv_trial_begin);
  m.def("conv_trial_end", [](uintptr_t stream) { return cuda::conv_trial_end(stream_of(stream)); });
  m.def("conv_grad_weight_trial_begin", &cuda::conv_grad_weight_trial_begin);
  m.def("conv_grad_weight_trial_end",
        [](uintptr_t stream) { return cuda::conv_grad_weight_trial_end(stream_of(stream)); });
  m.def("conv_planes_exist",
        [](int dtype, const ConvProblem& p) { return cuda::conv_planes_exist(Dtype(dtype), p); });
  m.def("conv_planes_suit", [](int dtype, const ConvProblem& p, int part) {
    return cuda::conv_planes_suit(Dtype(dtype), p, cuda::ConvPart(part));
  });
  m.def("conv_planes", [](int dtype, uintptr_t y, uintptr_t x, uintptr_t weight, uintptr_t bias,
                          const ConvProblem& p, bool transposed, uintptr_t stream) {
    cuda::conv_planes(Dtype(dtype), pointer(y), pointer(x), pointer(weight), pointer(bias), p, transposed,
                      stream_of(stream));
  });
  m.def("conv_planes_splits",
        [](int dtype, const ConvProblem& p) { return cuda::conv_planes_splits(Dtype(dtype), p); });
  m.def("conv_planes_grad_weight", [](int dtype, uintptr_t grad_weight, uintptr_t grad_y, uintptr_t x,
                                      uintptr_t scratch, const ConvProblem& p, uintptr_t stream) {
    cuda::conv_planes_grad_weight(Dtype(dtype), pointer(grad_weight), pointer(grad_y), pointer(x),
                                  pointer(scratch), p, stream_of(stream));
  });
  m.def("depthwise_forward", [](int dtype, uintptr_t y, uintptr_t x, uintptr_t weight, uintptr_t bias,
                                const ConvProblem& p, uintptr_t stream) {
    cuda::depthwise_forward(Dtype(dtype), pointer(y), pointer(x), pointer(weight), pointer(bias), p,
                            stream_of(stream));
  });
  m.def("depthwise_grad_x", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t weight,
                               uintptr_t bias, const ConvProblem& p, uintptr_t stream) {
    cuda::depthwise_grad_x(Dtype(dtype), pointer(grad_x), pointer(grad_y), pointer(weight), pointer(bias), p,
                           stream_of(stream));
  });
  m.def("depthwise_splits", &cuda::depthwise_splits);
  m.def("depthwise_grad_weight", [](int dtype, uintptr_t grad_weight, uintptr_t grad_y, uintptr_t x,
                                    uintptr_t scratch, const ConvProblem& p, uintptr_t stream) {
    cuda::depthwise_grad_weight(Dtype(dtype), pointer(grad_weight), pointer(grad_y), pointer(x),
                                pointer(scratch), p, stream_of(stream));
  });
}

}  // namespace fastdl::binding

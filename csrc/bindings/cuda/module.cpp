// The CUDA extension: launches of kernels by address, called by fastdl.kernels.cuda. Built as _cuda for the
// device and as _cuda_emulated for tests, which also has the emulator's controls.
#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
void register_device(py::module_& m);
void register_elementwise(py::module_& m);
void register_products(py::module_& m);
void register_activation(py::module_& m);
void register_softmax(py::module_& m);
void register_attention(py::module_& m);
void register_rnn(py::module_& m);
void register_cross_entropy(py::module_& m);
void register_reduce(py::module_& m);
void register_dropout(py::module_& m);
void register_random(py::module_& m);
void register_layout(py::module_& m);
void register_linalg(py::module_& m);
void register_distance(py::module_& m);
void register_ctc_loss(py::module_& m);
void register_margin_loss(py::module_& m);
void register_optim(py::module_& m);
void register_norm(py::module_& m);
void register_embedding(py::module_& m);
void register_pool(py::module_& m);
void register_conv(py::module_& m);
void register_resample(py::module_& m);
void register_pointwise_loss(py::module_& m);
#ifdef FASTDL_EMULATED
void register_emulation(py::module_& m);
#endif
}  // namespace fastdl::binding

PYBIND11_MODULE(FASTDL_MODULE_NAME, m) {
  using namespace fastdl::binding;
  m.doc() = "fastdl's CUDA kernels.";
  register_device(m);
  register_elementwise(m);
  register_products(m);
  register_activation(m);
  register_softmax(m);
  register_attention(m);
  register_rnn(m);
  register_cross_entropy(m);
  register_reduce(m);
  register_dropout(m);
  register_random(m);
  register_layout(m);
  register_linalg(m);
  register_distance(m);
  register_ctc_loss(m);
  register_margin_loss(m);
  register_optim(m);
  register_norm(m);
  register_embedding(m);
  register_pool(m);
  register_conv(m);
  register_resample(m);
  register_pointwise_loss(m);
#ifdef FASTDL_EMULATED
  register_emulation(m);
#endif
}

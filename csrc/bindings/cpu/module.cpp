// The extension module of the CPU: the kernel contract (python/fastdl/kernels/contract.py), the runtime's
// controls, and the choice between instruction-set levels. Each family registers itself.
#include <pybind11/pybind11.h>

#include <exception>

namespace py = pybind11;

namespace fastdl::binding {
void register_levels(py::module_& m);
void register_fourier(py::module_& m);
void register_runtime(py::module_& m);
void register_activation(py::module_& m);
void register_softmax(py::module_& m);
void register_cross_entropy(py::module_& m);
void register_pointwise_loss(py::module_& m);
void register_distance(py::module_& m);
void register_ctc_loss(py::module_& m);
void register_pool(py::module_& m);
void register_linear(py::module_& m);
void register_linalg(py::module_& m);
void register_optim(py::module_& m);
void register_elementwise(py::module_& m);
void register_complex(py::module_& m);
void register_reduce(py::module_& m);
void register_order(py::module_& m);
void register_segments(py::module_& m);
void register_resample(py::module_& m);
void register_layout(py::module_& m);
void register_embedding(py::module_& m);
void register_machine(py::module_& m);
void register_conv(py::module_& m);
void register_vector_math(py::module_& m);
void register_random(py::module_& m);
void register_norm(py::module_& m);
void register_attention(py::module_& m);
void register_rnn(py::module_& m);
}  // namespace fastdl::binding

namespace {

// The bindings' value and type errors reach Python as fastdl.errors, which PyTorch's habits catch, too.
void raise_as_fastdl(std::exception_ptr pending) {
  const auto raise = [](const char* name, const std::exception& error) {
    PyErr_SetString(py::module_::import("fastdl.errors").attr(name).ptr(), error.what());
  };
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const py::value_error& error) {
    raise("ArgumentError", error);
  } catch (const py::type_error& error) {
    raise("DtypeError", error);
  }
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  using namespace fastdl::binding;
  py::register_local_exception_translator(raise_as_fastdl);
  m.doc() = "fastdl's CPU kernels.";
  register_levels(m);
  register_fourier(m);
  register_runtime(m);
  register_activation(m);
  register_softmax(m);
  register_cross_entropy(m);
  register_pointwise_loss(m);
  register_distance(m);
  register_ctc_loss(m);
  register_pool(m);
  register_linear(m);
  register_linalg(m);
  register_optim(m);
  register_elementwise(m);
  register_complex(m);
  register_reduce(m);
  register_order(m);
  register_segments(m);
  register_resample(m);
  register_layout(m);
  register_embedding(m);
  register_machine(m);
  register_conv(m);
  register_vector_math(m);
  register_random(m);
  register_norm(m);
  register_attention(m);
  register_rnn(m);
}

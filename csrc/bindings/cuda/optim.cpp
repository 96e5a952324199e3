#include "cuda/optim.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kRule[] = {FASTDL_CUDA_RULE(FASTDL_CUDA_NAME)};

// What stays from step to step: everything but the gradients and the settings.
struct Parameters {
  Dtype dtype;
  std::vector<cuda::Parameter> list;
};

std::vector<cuda::Extent1d> extents(const py::list& addresses, const std::vector<int64_t>& sizes) {
  if (addresses.size() != sizes.size()) throw py::value_error("a size for each array");
  std::vector<cuda::Extent1d> result;
  result.reserve(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i)
    result.push_back({pointer(addresses[i].cast<uintptr_t>()), sizes[i]});
  return result;
}

}  // namespace

void register_optim(py::module_& m) {
  // Each parameter: (param, states, size, step, mu_product), addresses as integers.
  py::class_<Parameters>(m, "OptimizedParameters").def(py::init([](int dtype, const py::list& list) {
    Parameters result{Dtype(dtype), {}};
    for (const py::handle item : list) {
      const auto entry = item.cast<py::tuple>();
      cuda::Parameter p{};
      p.param = pointer(entry[0].cast<uintptr_t>());
      const auto states = entry[1].cast<py::tuple>();
      for (size_t i = 0; i < states.size() && i < cuda::kStates; ++i)
        p.states[i] = pointer(states[i].cast<uintptr_t>());
      p.size = entry[2].cast<int64_t>();
      p.step = static_cast<float*>(pointer(entry[3].cast<uintptr_t>()));
      p.mu_product = static_cast<float*>(pointer(entry[4].cast<uintptr_t>()));
      result.list.push_back(p);
    }
    return result;
  }));
  m.def("optimizer_step",
        [](std::string_view rule, const Parameters& parameters, const py::list& grads, double lr,
           double weight_decay, bool maximize, bool decoupled, bool nesterov, bool first, double a, double b,
           double eps, double beta1, double momentum_decay, uintptr_t scratch, uintptr_t stream) {
          if (grads.size() != parameters.list.size()) throw py::value_error("a gradient for each parameter");
          std::vector<const void*> addresses;
          addresses.reserve(grads.size());
          for (const py::handle grad : grads) addresses.push_back(pointer(grad.cast<uintptr_t>()));
          cuda::optimizer_step(
              named<cuda::Rule>(kRule, rule), parameters.dtype, parameters.list, addresses,
              {lr, weight_decay, maximize, decoupled, nesterov, first, a, b, eps, beta1, momentum_decay},
              pointer(scratch), stream_of(stream));
        });
  m.def("norm_parts_count", [](const py::list& addresses, const std::vector<int64_t>& sizes) {
    return cuda::norm_parts_count(extents(addresses, sizes));
  });
  m.def("norm_parts", [](int dtype, uintptr_t partials, const py::list& addresses,
                         const std::vector<int64_t>& sizes, double p, uintptr_t stream) {
    cuda::norm_parts(Dtype(dtype), static_cast<double*>(pointer(partials)), extents(addresses, sizes), p,
                     stream_of(stream));
  });
  m.def("finish_norm",
        [](uintptr_t norm, bool wide, uintptr_t partials, int64_t count, double p, uintptr_t stream) {
          cuda::finish_norm(pointer(norm), wide, static_cast<const double*>(pointer(partials)), count, p,
                            stream_of(stream));
        });
}

}  // namespace fastdl::binding

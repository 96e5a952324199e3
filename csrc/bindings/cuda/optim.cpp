#include "cuda/optim.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

#define FASTDL_CUDA_NAME(name) #name,
constexpr const char* kRule[] = {FASTDL_CUDA_RULE(FASTDL_CUDA_NAME)};

}  // namespace

void register_optim(py::module_& m) {
  // Each parameter: (param, grad, states, size, factors, step, mu_product), addresses as integers.
  m.def("optimizer_step",
        [](std::string_view rule, int dtype, const py::list& list, double lr, double weight_decay,
           bool maximize, bool decoupled, bool nesterov, bool first, double a, double b, double eps,
           double beta1, double momentum_decay, uintptr_t scratch, uintptr_t stream) {
          std::vector<cuda::Parameter> parameters;
          parameters.reserve(list.size());
          for (const py::handle item : list) {
            const auto entry = item.cast<py::tuple>();
            cuda::Parameter p{};
            p.param = pointer(entry[0].cast<uintptr_t>());
            p.grad = pointer(entry[1].cast<uintptr_t>());
            const auto states = entry[2].cast<py::tuple>();
            for (size_t i = 0; i < states.size() && i < cuda::kStates; ++i)
              p.states[i] = pointer(states[i].cast<uintptr_t>());
            p.size = entry[3].cast<int64_t>();
            const auto factors = entry[4].cast<py::tuple>();
            for (size_t i = 0; i < factors.size() && i < cuda::kFactors; ++i)
              p.factors[i] = factors[i].cast<double>();
            p.step = static_cast<float*>(pointer(entry[5].cast<uintptr_t>()));
            p.mu_product = static_cast<float*>(pointer(entry[6].cast<uintptr_t>()));
            parameters.push_back(p);
          }
          cuda::optimizer_step(
              named<cuda::Rule>(kRule, rule), Dtype(dtype), parameters,
              {lr, weight_decay, maximize, decoupled, nesterov, first, a, b, eps, beta1, momentum_decay},
              pointer(scratch), stream_of(stream));
        });
}

}  // namespace fastdl::binding

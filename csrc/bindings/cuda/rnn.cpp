#include "cuda/rnn.h"

#include "bindings/cuda/arguments.h"

namespace fastdl::binding {
namespace {

// The addresses of a direction's arrays, by name; those that are not named are not there.
class Arrays {
 public:
  explicit Arrays(const py::dict& arrays) : arrays_(arrays) {}
  void* operator[](const char* name) const {
    return arrays_.contains(name) ? pointer(arrays_[name].cast<uintptr_t>()) : nullptr;
  }

 private:
  const py::dict& arrays_;
};

constexpr const char* kLaunches[] = {"auto", "resident", "grid", "steps"};

}  // namespace

void register_rnn(py::module_& m) {
  py::class_<RnnProblem>(m, "RnnProblem")
      .def(py::init([](const std::string& cell, int64_t input, int64_t hidden, int64_t output, int directions,
                       std::vector<int64_t> batch_sizes) {
        static constexpr const char* names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru", "gru_before"};
        RnnProblem p{named<RnnCell>(names, cell), input, hidden, output, directions,
                     std::move(batch_sizes),      {0}};
        for (const int64_t n : p.batch_sizes) p.starts.push_back(p.starts.back() + n);
        return p;
      }));
  m.def("rnn_scratch",
        [](int dtype, const RnnProblem& p, bool backward, bool tf32, const std::string& launches) {
          return (backward ? cuda::rnn_backward_scratch : cuda::rnn_forward_scratch)(
              Dtype(dtype), p, tf32, named<cuda::RnnLaunches>(kLaunches, launches));
        });
  m.def("rnn_forward",
        [](int dtype, const RnnProblem& p, const std::vector<py::dict>& arrays, int64_t y_step,
           uintptr_t scratch, bool tf32, const std::string& launches, bool specialised, uintptr_t stream) {
          std::vector<cuda::RnnForward> directions;
          for (const py::dict& direction : arrays) {
            const Arrays a(direction);
            directions.push_back({a["y"], a["h_n"], a["c_n"], y_step, a["gates"], a["cells"], a["carry"],
                                  a["update"], a["a"], a["h0"], a["c0"], a["mask"], a["w_hh"], a["b_ih"],
                                  a["b_hh"], a["w_hr"]});
          }
          cuda::rnn_forward(Dtype(dtype), p, directions, pointer(scratch), tf32,
                            named<cuda::RnnLaunches>(kLaunches, launches), specialised, stream_of(stream));
        });
  m.def("rnn_backward", [](int dtype, const RnnProblem& p, const std::vector<py::dict>& arrays,
                           int64_t grad_y_step, int64_t y_step, uintptr_t scratch, bool tf32,
                           const std::string& launches, bool specialised, uintptr_t stream) {
    std::vector<cuda::RnnBackward> directions;
    for (const py::dict& direction : arrays) {
      const Arrays a(direction);
      directions.push_back({a["grad_a"], a["grad_b"], a["grad_h0"],  a["cell"],     a["direct"],
                            a["sum"],    a["before"], a["reset"],    a["output"],   a["product"],
                            a["grad_y"], grad_y_step, a["grad_h_n"], a["grad_c_n"], a["y"],
                            y_step,      a["gates"],  a["cells"],    a["h0"],       a["c0"],
                            a["mask"],   a["w_hh"],   a["w_hr"]});
    }
    cuda::rnn_backward(Dtype(dtype), p, directions, pointer(scratch), tf32,
                       named<cuda::RnnLaunches>(kLaunches, launches), specialised, stream_of(stream));
  });
}

}  // namespace fastdl::binding

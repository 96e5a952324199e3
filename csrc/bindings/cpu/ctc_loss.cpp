#include "cpu/ctc_loss.h"

#include "bindings/cpu/loss.h"

namespace fastdl::binding {
namespace {

// log_probs (frames, batch, classes), targets (batch, longest), lengths (batch).
template <class T>
struct Ctc {
  In<T> log_probs;
  In<int64_t> targets, input_lengths, target_lengths;
  std::vector<int64_t> offsets;
  CtcProblem<T> problem;

  Ctc(const py::array& x, const py::array& labels, const py::array& frames, const py::array& lengths,
      int64_t blank, const char* op)
      : log_probs(x, op, "log_probs"),
        targets(labels, op, "targets"),
        input_lengths(frames, op, "input_lengths"),
        target_lengths(lengths, op, "target_lengths") {
    require(log_probs.ndim() == 3, op, "log_probs must be (frames, batch, classes)");
    const int64_t T_ = log_probs.dim(0), batch = log_probs.dim(1), classes = log_probs.dim(2);
    require(targets.ndim() == 2 && targets.dim(0) == batch, op, "targets must be (batch, longest target)");
    require(input_lengths.ndim() == 1 && input_lengths.size() == batch && target_lengths.ndim() == 1 &&
                target_lengths.size() == batch,
            op, "input_lengths and target_lengths must have one entry per sequence");
    require(blank >= 0 && blank < classes, op, "blank must be one of the classes");
    const int64_t width = targets.dim(1);
    int64_t longest = 0;
    for (int64_t b = 0; b < batch; ++b) {
      require(input_lengths[b] >= 0 && input_lengths[b] <= T_, op,
              "input_lengths must lie between 0 and the frames");
      require(target_lengths[b] >= 0 && target_lengths[b] <= width, op,
              "target_lengths must lie between 0 and the width of targets");
      longest = std::max(longest, target_lengths[b]);
      offsets.push_back(b * width);
      for (int64_t s = 0; s < target_lengths[b]; ++s) {
        const int64_t label = targets[b * width + s];
        if (label < 0 || label >= classes)
          throw py::index_error(std::string(op) + ": targets[" + std::to_string(b) + ", " +
                                std::to_string(s) + "] = " + std::to_string(label) + " is out of range for " +
                                std::to_string(classes) + " classes");
      }
    }
    problem = {log_probs, targets, input_lengths, target_lengths, offsets.data(),
               T_,        batch,   classes,       blank,          2 * longest + 1};
  }
};

py::tuple ctc(const py::array& log_probs, const py::array& targets, const py::array& input_lengths,
              const py::array& target_lengths, int64_t blank) {
  return by_dtype("ctc_loss", log_probs, [&]<class T>(T) {
    const Ctc<T> in(log_probs, targets, input_lengths, target_lengths, blank, "ctc_loss");
    py::array loss = empty<T>({in.problem.batch});
    py::array alpha = empty<T>({in.problem.batch, in.problem.frames, in.problem.states});
    {
      KernelScope scope(in.problem.alpha_size());
      ctc_loss_forward<T>(data<T>(loss), data<T>(alpha), in.problem);
    }
    return py::make_tuple(loss, alpha);
  });
}

py::array ctc_gradient(const py::array& grad_loss, const py::array& log_probs, const py::array& targets,
                       const py::array& input_lengths, const py::array& target_lengths, const py::array& loss,
                       const py::array& alpha, int64_t blank, bool zero_infinity) {
  constexpr const char* op = "ctc_loss_backward";
  return by_dtype(op, log_probs, [&]<class T>(T) {
    const Ctc<T> in(log_probs, targets, input_lengths, target_lengths, blank, op);
    const In<T> g(grad_loss, op, "grad_loss"), nll(loss, op, "loss"), a(alpha, op, "alpha");
    require(g.size() == in.problem.batch && nll.size() == in.problem.batch, op,
            "grad_loss and loss must have one entry per sequence");
    require(a.shape() == Shape{in.problem.batch, in.problem.frames, in.problem.states}, op,
            "alpha must be the one that forward returned");
    py::array grad = empty<T>(in.log_probs.shape());
    KernelScope scope(in.problem.alpha_size() + in.log_probs.size());
    ctc_loss_backward<T>(data<T>(grad), g, nll, a, zero_infinity, in.problem);
    return grad;
  });
}

}  // namespace

void register_ctc_loss(py::module_& m) {
  m.def("ctc_loss_forward", &ctc, py::arg("log_probs"), py::arg("targets"), py::arg("input_lengths"),
        py::arg("target_lengths"), py::arg("blank"));
  m.def("ctc_loss_backward", &ctc_gradient, py::arg("grad_loss"), py::arg("log_probs"), py::arg("targets"),
        py::arg("input_lengths"), py::arg("target_lengths"), py::arg("loss"), py::arg("alpha"),
        py::arg("blank"), py::arg("zero_infinity"));
}

}  // namespace fastdl::binding

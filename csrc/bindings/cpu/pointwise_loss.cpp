#include "cpu/pointwise_loss.h"

#include "bindings/cpu/loss.h"

namespace fastdl::binding {
namespace {

using Optional = std::optional<py::array>;

struct Options {
  PointwiseLoss loss;
  std::string_view reduction;
  double parameter = 0;
  bool full = false;
};

// The problem and whatever keeps its operands alive. `arrays` have one shape; `weights` repeat along it, so
// that theirs is the end of it, or are absent.
template <class T>
struct Prepared {
  PointwiseProblem<T> problem;
  Shape shape;
  std::vector<In<T>> kept;

  Prepared(const char* op, const Options& options, std::initializer_list<const py::array*> arrays,
           std::initializer_list<const Optional*> weights)
      : problem{
            options.loss, reduction_of(options.reduction, op), 0, T(options.parameter), options.full, {}} {
    kept.reserve(4);
    int count = 0;
    for (const py::array* array : arrays) {
      const In<T>& in = kept.emplace_back(*array, op,
                                          count == 0   ? "input"
                                          : count == 1 ? "target"
                                                       : "third array");
      if (count == 0) {
        shape = in.shape();
        problem.size = in.size();
      }
      require(in.shape() == shape, op, "arrays must have the same shape");
      problem.operands[count++] = {in.get(), problem.size};
    }
    for (const Optional* weight : weights) {
      if (!*weight) {
        problem.operands[count++] = {nullptr, 1};
        continue;
      }
      const In<T>& in = kept.emplace_back(**weight, op, "weight");
      const Shape end = in.shape();
      require(end.size() <= shape.size() && std::equal(end.rbegin(), end.rend(), shape.rbegin()), op,
              "a weight's shape must be the last dimensions of input's shape");
      problem.operands[count++] = {in.get(), in.size()};
    }
  }
};

py::array forward(const char* op, const Options& options, std::initializer_list<const py::array*> arrays,
                  std::initializer_list<const Optional*> weights = {}) {
  return by_dtype(op, **arrays.begin(), [&]<class T>(T) {
    const Prepared<T> in(op, options, arrays, weights);
    py::array loss = in.problem.reduction == Reduction::none ? empty<T>(in.shape) : empty<T>({});
    int64_t outside;
    {
      KernelScope scope(in.problem.size);
      outside = pointwise_loss_forward<T>(data<T>(loss), in.problem);
    }
    if (outside >= 0) {
      const T x = in.problem.operands[0].data[outside];
      const bool of_target = x >= T(0) && x <= T(1);
      const T value = of_target ? in.problem.operands[1].data[outside] : x;
      throw py::value_error(std::string(op) + (of_target ? ": target" : ": input") +
                            " must lie in [0, 1]; element " + std::to_string(outside) + " is " +
                            std::to_string(value) +
                            (of_target ? "" : ". For logits use binary_cross_entropy_with_logits"));
    }
    return loss;
  });
}

py::array backward(const char* op, const Options& options, const py::array& grad_loss,
                   std::initializer_list<const py::array*> arrays,
                   std::initializer_list<const Optional*> weights = {}) {
  return by_dtype(op, **arrays.begin(), [&]<class T>(T) {
    const Prepared<T> in(op, options, arrays, weights);
    const In<T> grad = upstream<T>(grad_loss, in.problem.reduction, in.shape, op);
    py::array grad_x = empty<T>(in.shape);
    KernelScope scope(in.problem.size);
    pointwise_loss_backward<T>(data<T>(grad_x), grad, in.problem);
    return grad_x;
  });
}

// Losses of (x, target) without options.
void define_plain(py::module_& m, const char* forward_name, const char* backward_name, PointwiseLoss loss) {
  m.def(
      forward_name,
      [=](const py::array& x, const py::array& target, std::string_view reduction) {
        return forward(forward_name, {loss, reduction}, {&x, &target});
      },
      py::arg("x"), py::arg("target"), py::arg("reduction"));
  m.def(
      backward_name,
      [=](const py::array& grad_loss, const py::array& x, const py::array& target,
          std::string_view reduction) {
        return backward(backward_name, {loss, reduction}, grad_loss, {&x, &target});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("reduction"));
}

// Losses of (x, target) with one number as option.
void define_with_number(py::module_& m, const char* forward_name, const char* backward_name,
                        PointwiseLoss loss, const char* option) {
  m.def(
      forward_name,
      [=](const py::array& x, const py::array& target, double number, std::string_view reduction) {
        return forward(forward_name, {loss, reduction, number}, {&x, &target});
      },
      py::arg("x"), py::arg("target"), py::arg(option), py::arg("reduction"));
  m.def(
      backward_name,
      [=](const py::array& grad_loss, const py::array& x, const py::array& target, double number,
          std::string_view reduction) {
        return backward(backward_name, {loss, reduction, number}, grad_loss, {&x, &target});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg(option), py::arg("reduction"));
}

void define_binary_cross_entropy(py::module_& m) {
  constexpr PointwiseLoss plain = PointwiseLoss::binary_cross_entropy;
  constexpr PointwiseLoss with_logits = PointwiseLoss::binary_cross_entropy_with_logits;
  m.def(
      "binary_cross_entropy_forward",
      [](const py::array& x, const py::array& target, const Optional& weight, std::string_view reduction) {
        return forward("binary_cross_entropy", {plain, reduction}, {&x, &target}, {&weight});
      },
      py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("reduction"));
  m.def(
      "binary_cross_entropy_backward",
      [](const py::array& grad_loss, const py::array& x, const py::array& target, const Optional& weight,
         std::string_view reduction) {
        return backward("binary_cross_entropy_backward", {plain, reduction}, grad_loss, {&x, &target},
                        {&weight});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("reduction"));
  m.def(
      "binary_cross_entropy_with_logits_forward",
      [](const py::array& x, const py::array& target, const Optional& weight, const Optional& pos_weight,
         std::string_view reduction) {
        return forward("binary_cross_entropy_with_logits", {with_logits, reduction}, {&x, &target},
                       {&weight, &pos_weight});
      },
      py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("pos_weight"), py::arg("reduction"));
  m.def(
      "binary_cross_entropy_with_logits_backward",
      [](const py::array& grad_loss, const py::array& x, const py::array& target, const Optional& weight,
         const Optional& pos_weight, std::string_view reduction) {
        return backward("binary_cross_entropy_with_logits_backward", {with_logits, reduction}, grad_loss,
                        {&x, &target}, {&weight, &pos_weight});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("pos_weight"),
      py::arg("reduction"));
}

void define_likelihoods(py::module_& m) {
  auto kl = [](bool log_target) {
    return log_target ? PointwiseLoss::kl_div_log_target : PointwiseLoss::kl_div;
  };
  m.def(
      "kl_div_forward",
      [=](const py::array& x, const py::array& target, bool log_target, std::string_view reduction) {
        return forward("kl_div", {kl(log_target), reduction}, {&x, &target});
      },
      py::arg("x"), py::arg("target"), py::arg("log_target"), py::arg("reduction"));
  m.def(
      "kl_div_backward",
      [=](const py::array& grad_loss, const py::array& x, const py::array& target, bool log_target,
          std::string_view reduction) {
        return backward("kl_div_backward", {kl(log_target), reduction}, grad_loss, {&x, &target});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("log_target"), py::arg("reduction"));

  auto poisson = [](bool log_input) {
    return log_input ? PointwiseLoss::poisson_nll_log_input : PointwiseLoss::poisson_nll;
  };
  m.def(
      "poisson_nll_loss_forward",
      [=](const py::array& x, const py::array& target, bool log_input, bool full, double eps,
          std::string_view reduction) {
        return forward("poisson_nll_loss", {poisson(log_input), reduction, eps, full}, {&x, &target});
      },
      py::arg("x"), py::arg("target"), py::arg("log_input"), py::arg("full"), py::arg("eps"),
      py::arg("reduction"));
  m.def(
      "poisson_nll_loss_backward",
      [=](const py::array& grad_loss, const py::array& x, const py::array& target, bool log_input, double eps,
          std::string_view reduction) {
        return backward("poisson_nll_loss_backward", {poisson(log_input), reduction, eps}, grad_loss,
                        {&x, &target});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("log_input"), py::arg("eps"),
      py::arg("reduction"));

  m.def(
      "gaussian_nll_loss_forward",
      [](const py::array& x, const py::array& target, const py::array& var, bool full, double eps,
         std::string_view reduction) {
        return forward("gaussian_nll_loss", {PointwiseLoss::gaussian_nll, reduction, eps, full},
                       {&x, &target, &var});
      },
      py::arg("x"), py::arg("target"), py::arg("var"), py::arg("full"), py::arg("eps"), py::arg("reduction"));
  m.def(
      "gaussian_nll_loss_backward",
      [](const py::array& grad_loss, const py::array& x, const py::array& target, const py::array& var,
         double eps, std::string_view reduction) {
        return backward("gaussian_nll_loss_backward", {PointwiseLoss::gaussian_nll, reduction, eps},
                        grad_loss, {&x, &target, &var});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("var"), py::arg("eps"),
      py::arg("reduction"));
  m.def(
      "gaussian_nll_loss_backward_variance",
      [](const py::array& grad_loss, const py::array& x, const py::array& target, const py::array& var,
         double eps, std::string_view reduction) {
        return backward("gaussian_nll_loss_backward_variance",
                        {PointwiseLoss::gaussian_nll_variance, reduction, eps}, grad_loss,
                        {&x, &target, &var});
      },
      py::arg("grad_loss"), py::arg("x"), py::arg("target"), py::arg("var"), py::arg("eps"),
      py::arg("reduction"));
}

void define_margin_ranking(py::module_& m) {
  m.def(
      "margin_ranking_loss_forward",
      [](const py::array& x1, const py::array& x2, const py::array& target, double margin,
         std::string_view reduction) {
        return forward("margin_ranking_loss", {PointwiseLoss::margin_ranking, reduction, margin},
                       {&x1, &x2, &target});
      },
      py::arg("x1"), py::arg("x2"), py::arg("target"), py::arg("margin"), py::arg("reduction"));
  m.def(
      "margin_ranking_loss_backward",
      [](const py::array& grad_loss, const py::array& x1, const py::array& x2, const py::array& target,
         double margin, std::string_view reduction) {
        return backward("margin_ranking_loss_backward", {PointwiseLoss::margin_ranking, reduction, margin},
                        grad_loss, {&x1, &x2, &target});
      },
      py::arg("grad_loss"), py::arg("x1"), py::arg("x2"), py::arg("target"), py::arg("margin"),
      py::arg("reduction"));
}

}  // namespace

void register_margin_loss(py::module_& m);

void register_pointwise_loss(py::module_& m) {
  register_margin_loss(m);
  define_plain(m, "mse_loss_forward", "mse_loss_backward", PointwiseLoss::mse);
  define_plain(m, "l1_loss_forward", "l1_loss_backward", PointwiseLoss::l1);
  define_plain(m, "soft_margin_loss_forward", "soft_margin_loss_backward", PointwiseLoss::soft_margin);
  define_with_number(m, "smooth_l1_loss_forward", "smooth_l1_loss_backward", PointwiseLoss::smooth_l1,
                     "beta");
  define_with_number(m, "huber_loss_forward", "huber_loss_backward", PointwiseLoss::huber, "delta");
  define_with_number(m, "hinge_embedding_loss_forward", "hinge_embedding_loss_backward",
                     PointwiseLoss::hinge_embedding, "margin");
  define_binary_cross_entropy(m);
  define_likelihoods(m);
  define_margin_ranking(m);
}

}  // namespace fastdl::binding

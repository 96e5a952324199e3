// Optimizers: lists of arrays that are updated in place, one list per role, one entry per parameter.
#include "cpu/optim.h"

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

using optim::Slot;

struct Column {
  const char* name;
  const py::list* arrays;
  bool written;
};

// Is it a number that may be changed in place?
bool is_cell(const py::array& array) {
  return array.size() == 1 && is_aligned(array) && array.writeable();
}

// The arrays of all columns as slots. Strided arrays take part as contiguous copies; write_back() copies
// results home.
class Batch {
 public:
  Batch(const char* op, std::initializer_list<Column> columns) : op_(op) {
    const Column& first = *columns.begin();
    slots_.resize(first.arrays->size());
    size_t role = 0;
    for (const Column& column : columns) {
      if (column.arrays == nullptr) continue;
      if (column.arrays->size() != slots_.size())
        throw py::value_error(std::string(op) + ": " + column.name + " has " +
                              std::to_string(column.arrays->size()) + " arrays, " + first.name + " has " +
                              std::to_string(slots_.size()));
      for (size_t i = 0; i < slots_.size(); ++i) add(column, role, i);
      ++role;
    }
  }

  // Reads and increments the step counts, one number each.
  void advance(const py::list& steps) {
    if (steps.size() != slots_.size())
      throw py::value_error(std::string(op_) + ": one step count per parameter");
    for (int pass = 0; pass < 2; ++pass)  // check all before changing any
      for (size_t i = 0; i < slots_.size(); ++i) {
        const py::handle item = PyList_GET_ITEM(steps.ptr(), Py_ssize_t(i));
        if (!py::isinstance<py::array>(item)) fail_type("steps", i, "must be an array");
        auto& step = reinterpret_cast<py::array&>(const_cast<py::handle&>(item));
        if (!is_cell(step) || !(is_dtype<float>(step) || is_dtype<double>(step)))
          fail_type("steps", i, "must be a writable float32 or float64 array of one number");
        if (pass == 0) continue;
        if (is_dtype<float>(step))
          slots_[i].step = *static_cast<float*>(step.mutable_data()) += 1;
        else
          slots_[i].step = *static_cast<double*>(step.mutable_data()) += 1;
      }
  }

  template <class Run>
  void run(Run&& run) {
    {
      KernelScope scope(total_);
      run(std::span<const Slot>(slots_));
    }
    for (const auto& [home, copy] : copied_) home.attr("__setitem__")(py::ellipsis(), copy);
  }

  size_t size() const { return slots_.size(); }
  Slot& slot(size_t i) { return slots_[i]; }

 private:
  void add(const Column& column, size_t role, size_t i) {
    const py::handle item = PyList_GET_ITEM(column.arrays->ptr(), Py_ssize_t(i));
    if (!py::isinstance<py::array>(item)) fail_type(column.name, i, "must be an array");
    const auto& array = reinterpret_cast<const py::array&>(item);
    const bool f64 = is_dtype<double>(array);
    if (!f64 && !is_dtype<float>(array))
      fail_type(column.name, i,
                "must be float32 or float64 in native byte order, got " +
                    py::str(array.dtype()).cast<std::string>());
    Slot& slot = slots_[i];
    if (role == 0) {
      slot.f64 = f64;
      slot.size = int64_t(array.size());
      total_ += slot.size;
    } else if (slot.f64 != f64) {
      fail_type(column.name, i, "must have its parameter's dtype");
    } else if (slot.size != int64_t(array.size())) {
      throw py::value_error(where(column.name, i) + " has " + std::to_string(array.size()) +
                            " elements, its parameter " + std::to_string(slot.size));
    }
    const auto* proxy = py::detail::array_proxy(array.ptr());
    if (column.written && !(proxy->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
      throw py::value_error(where(column.name, i) + " is read-only");
    if (is_plain(array)) {
      slot.arrays[role] = proxy->data;
      return;
    }
    py::array copy = contiguous_copy(array);
    slot.arrays[role] = copy.mutable_data();
    if (column.written)
      copied_.emplace_back(array, copy);
    else
      kept_.push_back(copy);
  }

  std::string where(const char* name, size_t i) const {
    return std::string(op_) + ": " + name + "[" + std::to_string(i) + "]";
  }
  [[noreturn]] void fail_type(const char* name, size_t i, const std::string& rule) const {
    throw py::type_error(where(name, i) + " " + rule);
  }

  const char* op_;
  std::vector<Slot> slots_;
  int64_t total_ = 0;
  std::vector<py::array> kept_;
  std::vector<std::pair<py::array, py::array>> copied_;
};

std::vector<float*> float_cells(const char* op, const char* name, const py::list& arrays, size_t count) {
  if (arrays.size() != count) throw py::value_error(std::string(op) + ": one of " + name + " per parameter");
  std::vector<float*> cells;
  for (const py::handle item : arrays) {
    if (!py::isinstance<py::array>(item))
      throw py::type_error(std::string(op) + ": " + name + " must be arrays");
    const auto array = py::reinterpret_borrow<py::array>(item);
    if (!is_cell(array) || !is_dtype<float>(array))
      throw py::type_error(std::string(op) + ": " + name + " must be writable float32 arrays of one number");
    cells.push_back(reinterpret_cast<float*>(py::detail::array_proxy(array.ptr())->data));
  }
  return cells;
}

const py::list* pointer(const std::optional<py::list>& list) {
  return list ? &*list : nullptr;
}

void bind_sgd(const py::list& params, const py::list& grads, const std::optional<py::list>& momentum_buffers,
              double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
              bool first) {
  if ((momentum != 0) != momentum_buffers.has_value())
    throw py::value_error("sgd_step: momentum_buffers go with momentum != 0");
  Batch batch("sgd_step", {{"params", &params, true},
                           {"grads", &grads, false},
                           {"momentum_buffers", pointer(momentum_buffers), true}});
  batch.run([&](auto slots) {
    update(slots, optim::Sgd{lr, momentum, dampening, weight_decay, nesterov, maximize, first});
  });
}

void bind_adam(const py::list& params, const py::list& grads, const py::list& exp_avgs,
               const py::list& exp_avg_sqs, const std::optional<py::list>& max_exp_avg_sqs,
               const py::list& steps, double lr, double beta1, double beta2, double eps, double weight_decay,
               bool maximize, bool decoupled) {
  Batch batch("adam_step", {{"params", &params, true},
                            {"grads", &grads, false},
                            {"exp_avgs", &exp_avgs, true},
                            {"exp_avg_sqs", &exp_avg_sqs, true},
                            {"max_exp_avg_sqs", pointer(max_exp_avg_sqs), true}});
  batch.advance(steps);
  const optim::Adam options{lr,       beta1,    beta2, eps, weight_decay, max_exp_avg_sqs.has_value(),
                            maximize, decoupled};
  batch.run([&](auto slots) { update(slots, options); });
}

void bind_adagrad(const py::list& params, const py::list& grads, const py::list& sums, const py::list& steps,
                  double lr, double lr_decay, double eps, double weight_decay, bool maximize) {
  Batch batch("adagrad_step", {{"params", &params, true}, {"grads", &grads, false}, {"sums", &sums, true}});
  batch.advance(steps);
  batch.run([&](auto slots) { update(slots, optim::Adagrad{lr, lr_decay, eps, weight_decay, maximize}); });
}

void bind_rmsprop(const py::list& params, const py::list& grads, const py::list& square_avgs,
                  const std::optional<py::list>& momentum_buffers, const std::optional<py::list>& grad_avgs,
                  const py::list& steps, double lr, double alpha, double eps, double weight_decay,
                  double momentum, bool maximize) {
  if ((momentum > 0) != momentum_buffers.has_value())
    throw py::value_error("rmsprop_step: momentum_buffers go with momentum > 0");
  Batch batch("rmsprop_step", {{"params", &params, true},
                               {"grads", &grads, false},
                               {"square_avgs", &square_avgs, true},
                               {"momentum_buffers", pointer(momentum_buffers), true},
                               {"grad_avgs", pointer(grad_avgs), true}});
  batch.advance(steps);
  const optim::RmsProp options{lr, alpha, eps, weight_decay, momentum, grad_avgs.has_value(), maximize};
  batch.run([&](auto slots) { update(slots, options); });
}

void bind_adadelta(const py::list& params, const py::list& grads, const py::list& square_avgs,
                   const py::list& acc_deltas, const py::list& steps, double lr, double rho, double eps,
                   double weight_decay, bool maximize) {
  Batch batch("adadelta_step", {{"params", &params, true},
                                {"grads", &grads, false},
                                {"square_avgs", &square_avgs, true},
                                {"acc_deltas", &acc_deltas, true}});
  batch.advance(steps);
  batch.run([&](auto slots) { update(slots, optim::Adadelta{lr, rho, eps, weight_decay, maximize}); });
}

void bind_adamax(const py::list& params, const py::list& grads, const py::list& exp_avgs,
                 const py::list& exp_infs, const py::list& steps, double lr, double beta1, double beta2,
                 double eps, double weight_decay, bool maximize) {
  Batch batch("adamax_step", {{"params", &params, true},
                              {"grads", &grads, false},
                              {"exp_avgs", &exp_avgs, true},
                              {"exp_infs", &exp_infs, true}});
  batch.advance(steps);
  batch.run([&](auto slots) { update(slots, optim::Adamax{lr, beta1, beta2, eps, weight_decay, maximize}); });
}

void bind_nadam(const py::list& params, const py::list& grads, const py::list& exp_avgs,
                const py::list& exp_avg_sqs, const py::list& mu_products, const py::list& steps, double lr,
                double beta1, double beta2, double eps, double weight_decay, double momentum_decay,
                bool maximize, bool decoupled) {
  Batch batch("nadam_step", {{"params", &params, true},
                             {"grads", &grads, false},
                             {"exp_avgs", &exp_avgs, true},
                             {"exp_avg_sqs", &exp_avg_sqs, true}});
  const std::vector<float*> cells = float_cells("nadam_step", "mu_products", mu_products, batch.size());
  batch.advance(steps);
  optim::Nadam options{lr, beta1, beta2, eps, weight_decay, momentum_decay, maximize, decoupled, nullptr};
  std::vector<double> products(batch.size());
  for (size_t i = 0; i < products.size(); ++i) {
    products[i] = *cells[i] *= float(nadam_mu(options, batch.slot(i).step));
  }
  options.mu_products = products.data();
  batch.run([&](auto slots) { update(slots, options); });
}

void bind_radam(const py::list& params, const py::list& grads, const py::list& exp_avgs,
                const py::list& exp_avg_sqs, const py::list& steps, double lr, double beta1, double beta2,
                double eps, double weight_decay, bool maximize, bool decoupled) {
  Batch batch("radam_step", {{"params", &params, true},
                             {"grads", &grads, false},
                             {"exp_avgs", &exp_avgs, true},
                             {"exp_avg_sqs", &exp_avg_sqs, true}});
  batch.advance(steps);
  const optim::Radam options{lr, beta1, beta2, eps, weight_decay, maximize, decoupled};
  batch.run([&](auto slots) { update(slots, options); });
}

double bind_total_norm(const py::list& arrays, double p) {
  Batch batch("total_norm", {{"arrays", &arrays, false}});
  double norm = 0;
  batch.run([&](auto slots) { norm = optim::total_norm(slots, p); });
  return norm;
}

void bind_scale(const py::list& arrays, double factor) {
  Batch batch("scale_arrays", {{"arrays", &arrays, true}});
  batch.run([&](auto slots) { optim::scale(slots, factor); });
}

}  // namespace

void register_optim(py::module_& m) {
  using py::arg;
  m.def("sgd_step", &bind_sgd, arg("params"), arg("grads"), arg("momentum_buffers").none(true), arg("lr"),
        arg("momentum"), arg("dampening"), arg("weight_decay"), arg("nesterov"), arg("maximize"),
        arg("first"));
  m.def("adam_step", &bind_adam, arg("params"), arg("grads"), arg("exp_avgs"), arg("exp_avg_sqs"),
        arg("max_exp_avg_sqs").none(true), arg("steps"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"),
        arg("weight_decay"), arg("maximize"), arg("decoupled"));
  m.def("adagrad_step", &bind_adagrad, arg("params"), arg("grads"), arg("sums"), arg("steps"), arg("lr"),
        arg("lr_decay"), arg("eps"), arg("weight_decay"), arg("maximize"));
  m.def("rmsprop_step", &bind_rmsprop, arg("params"), arg("grads"), arg("square_avgs"),
        arg("momentum_buffers").none(true), arg("grad_avgs").none(true), arg("steps"), arg("lr"),
        arg("alpha"), arg("eps"), arg("weight_decay"), arg("momentum"), arg("maximize"));
  m.def("adadelta_step", &bind_adadelta, arg("params"), arg("grads"), arg("square_avgs"), arg("acc_deltas"),
        arg("steps"), arg("lr"), arg("rho"), arg("eps"), arg("weight_decay"), arg("maximize"));
  m.def("adamax_step", &bind_adamax, arg("params"), arg("grads"), arg("exp_avgs"), arg("exp_infs"),
        arg("steps"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"),
        arg("maximize"));
  m.def("nadam_step", &bind_nadam, arg("params"), arg("grads"), arg("exp_avgs"), arg("exp_avg_sqs"),
        arg("mu_products"), arg("steps"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"),
        arg("weight_decay"), arg("momentum_decay"), arg("maximize"), arg("decoupled"));
  m.def("radam_step", &bind_radam, arg("params"), arg("grads"), arg("exp_avgs"), arg("exp_avg_sqs"),
        arg("steps"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"), arg("maximize"),
        arg("decoupled"));
  m.def("total_norm", &bind_total_norm, arg("arrays"), arg("p"));
  m.def("scale_arrays", &bind_scale, arg("arrays"), arg("factor"));
}

}  // namespace fastdl::binding

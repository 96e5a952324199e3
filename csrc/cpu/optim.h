// Optimizer updates over many parameters at once; see optim.cpp for the formulas.
#pragma once

#include <cstdint>
#include <span>

namespace fastdl::optim {

// One parameter: arrays of `size` elements of one dtype.
struct Slot {
  int64_t size;
  bool f64;         // double, else float
  double step;      // how many updates it will have had after this one (0 where the algorithm does not count)
  void* arrays[5];  // parameter, gradient (only read), then the algorithm's state in the order given below
};

struct Sgd {  // state: momentum_buffer (if momentum != 0)
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
  bool first;  // the momentum buffers hold nothing yet
};
struct Adam {  // state: exp_avg, exp_avg_sq, max_exp_avg_sq (if amsgrad)
  double lr, beta1, beta2, eps, weight_decay;
  bool amsgrad, maximize, decoupled;
};
struct Adagrad {  // state: sum
  double lr, lr_decay, eps, weight_decay;
  bool maximize;
};
struct RmsProp {  // state: square_avg, momentum_buffer (if momentum != 0), grad_avg (if centered)
  double lr, alpha, eps, weight_decay, momentum;
  bool centered, maximize;
};
struct Adadelta {  // state: square_avg, acc_delta
  double lr, rho, eps, weight_decay;
  bool maximize;
};
struct Adamax {  // state: exp_avg, exp_inf
  double lr, beta1, beta2, eps, weight_decay;
  bool maximize;
};
struct Nadam {  // state: exp_avg, exp_avg_sq; mu_products[i]: product of mu over the updates of slot i, this
                // one included
  double lr, beta1, beta2, eps, weight_decay, momentum_decay;
  bool maximize, decoupled;
  const double* mu_products;
};
struct Radam {  // state: exp_avg, exp_avg_sq
  double lr, beta1, beta2, eps, weight_decay;
  bool maximize, decoupled;
};

double nadam_mu(const Nadam& o, double step);

void update(std::span<const Slot> slots, const Sgd& options);
void update(std::span<const Slot> slots, const Adam& options);
void update(std::span<const Slot> slots, const Adagrad& options);
void update(std::span<const Slot> slots, const RmsProp& options);
void update(std::span<const Slot> slots, const Adadelta& options);
void update(std::span<const Slot> slots, const Adamax& options);
void update(std::span<const Slot> slots, const Nadam& options);
void update(std::span<const Slot> slots, const Radam& options);

// arrays[0] of every slot times `factor`, in place.
void scale(std::span<const Slot> slots, double factor);
// The p-norm of all elements of arrays[0] of every slot together; p may be 0 (count of nonzeros), inf or
// -inf.
double total_norm(std::span<const Slot> slots, double p);

}  // namespace fastdl::optim

// Optimizer updates: one call for all parameters of a group. With g the gradient (negated to maximize; plus
// weight_decay * p unless the decay is decoupled, which shrinks p by lr * weight_decay first), t the step:
//
//   SGD       b = momentum * b + (1 - dampening) * g;   p -= lr * (nesterov ? g + momentum * b : b)
//   Adam      m += (1 - beta1)(g - m);  v = beta2 * v + (1 - beta2) g^2;  [amsgrad: v = max over time]
//             p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   Adagrad, RMSprop, Adadelta, Adamax, NAdam, RAdam: below, in the same notation.
//
// Every operation and its order is PyTorch's, so that trajectories agree. Work: all elements of all
// parameters are one range that is split over threads, whatever the parameters' sizes. Each element of every
// array is read once and written once: memory speed is the limit.
#include "cpu/optim.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/elementwise/functions.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl::optim {
namespace {

using namespace simd;

constexpr int64_t kGrain = 8192;  // elements worth about 10 us: up to seven arrays are moved per element

template <class T>
[[gnu::always_inline]] inline Vec<T> sqrt(Vec<T> v) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) v[i] = std::sqrt(v[i]);
  return v;
}

// f.operator()<T>(slot, index of slot, begin, end) for pieces that cover every element of every slot.
template <class F>
void over_elements(std::span<const Slot> slots, F&& f) {
  std::vector<int64_t> ends(slots.size());
  int64_t total = 0;
  for (size_t i = 0; i < slots.size(); ++i) ends[i] = total += slots[i].size;
  parallel_for(total, kGrain, [&](int64_t begin, int64_t end) {
    size_t i = size_t(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
    for (; begin < end; ++i) {
      const int64_t start = ends[i] - slots[i].size, stop = std::min(end, ends[i]);
      if (slots[i].f64)
        f.template operator()<double>(slots[i], i, begin - start, stop - start);
      else
        f.template operator()<float>(slots[i], i, begin - start, stop - start);
      begin = stop;
    }
  });
}

// f(p, g, state) on vectors of one slot's elements [begin, end); what f leaves in p and state[0..States) is
// written back.
template <class T, int States, class F>
[[gnu::always_inline]] inline void sweep(const Slot& slot, int64_t begin, int64_t end, F f) {
  T* p = static_cast<T*>(slot.arrays[0]);
  const T* g = static_cast<const T*>(slot.arrays[1]);
  T* s[States + 1];
  for (int k = 0; k < States; ++k) s[k] = static_cast<T*>(slot.arrays[2 + k]);
  int64_t i = begin;
  for (; i + kWidth<T> <= end; i += kWidth<T>) {
    Vec<T> param = load(p + i), state[States + 1];
    for (int k = 0; k < States; ++k) state[k] = load(s[k] + i);
    f(param, load(g + i), state);
    store<T>(p + i, param);
    for (int k = 0; k < States; ++k) store<T>(s[k] + i, state[k]);
  }
  if (i < end) {
    const int n = int(end - i);
    Vec<T> param = load_n(p + i, n), state[States + 1];
    for (int k = 0; k < States; ++k) state[k] = load_n(s[k] + i, n);
    f(param, load_n(g + i, n), state);
    store_n(p + i, param, n);
    for (int k = 0; k < States; ++k) store_n(s[k] + i, state[k], n);
  }
}

// The gradient as the formulas use it.
template <class T, class Options>
[[gnu::always_inline]] inline Vec<T> effective(Vec<T> g, Vec<T> p, const Options& o) {
  if (o.maximize) g = -g;
  if (o.weight_decay != 0) g = T(o.weight_decay) * p + g;
  return g;
}

// The same with the choice between decay in the gradient and decay of the parameter.
template <class T, class Options>
[[gnu::always_inline]] inline Vec<T> effective_or_decoupled(Vec<T> g, Vec<T>& p, const Options& o) {
  if (!o.decoupled) return effective<T>(g, p, o);
  if (o.weight_decay != 0) p = T(1 - o.lr * o.weight_decay) * p;
  return o.maximize ? -g : g;
}

// The larger one; NaN if either is.
template <class T>
[[gnu::always_inline]] inline Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a != a ? a : max(a, b);
}

// a + weight * (b - a), from the end that is nearer: exact at both ends.
template <class T>
[[gnu::always_inline]] inline Vec<T> lerp(Vec<T> a, Vec<T> b, double weight) {
  return weight < 0.5 ? a + T(weight) * (b - a) : b - T(1 - weight) * (b - a);
}

// Numbers that depend on a slot's step: computed once for each run of equal steps.
template <class Numbers, class F>
std::vector<Numbers> per_slot(std::span<const Slot> slots, F compute) {
  std::vector<Numbers> numbers(slots.size());
  for (size_t i = 0; i < slots.size(); ++i)
    numbers[i] = i > 0 && slots[i].step == slots[i - 1].step ? numbers[i - 1] : compute(slots[i].step);
  return numbers;
}

}  // namespace

void update(std::span<const Slot> slots, const Sgd& o) {
  over_elements(slots, [&]<class T>(const Slot& slot, size_t, int64_t begin, int64_t end) {
    if (o.momentum == 0) {
      sweep<T, 0>(slot, begin, end,
                  [=](Vec<T>& p, Vec<T> g, Vec<T>*) { p = p - T(o.lr) * effective<T>(g, p, o); });
      return;
    }
    sweep<T, 1>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective<T>(g, p, o);
      s[0] = o.first ? g : T(o.momentum) * s[0] + T(1 - o.dampening) * g;
      p = p - T(o.lr) * (o.nesterov ? T(o.momentum) * s[0] + g : s[0]);
    });
  });
}

void update(std::span<const Slot> slots, const Adam& o) {
  struct Numbers {
    double rate, bias2_sqrt;
  };
  const auto numbers = per_slot<Numbers>(slots, [&](double t) {
    return Numbers{o.lr / (1 - std::pow(o.beta1, t)), std::sqrt(1 - std::pow(o.beta2, t))};
  });
  over_elements(slots, [&]<class T>(const Slot& slot, size_t i, int64_t begin, int64_t end) {
    const T rate = T(numbers[i].rate), bias2_sqrt = T(numbers[i].bias2_sqrt);
    const auto f = [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective_or_decoupled<T>(g, p, o);
      s[0] = lerp<T>(s[0], g, 1 - o.beta1);
      s[1] = T(o.beta2) * s[1] + T(1 - o.beta2) * g * g;
      Vec<T> v = s[1];
      if (o.amsgrad) v = s[2] = larger<T>(s[2], v);
      p = p - rate * s[0] / (sqrt<T>(v) / bias2_sqrt + T(o.eps));
    };
    o.amsgrad ? sweep<T, 3>(slot, begin, end, f) : sweep<T, 2>(slot, begin, end, f);
  });
}

// sum += g^2;  p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(sum) + eps)
void update(std::span<const Slot> slots, const Adagrad& o) {
  over_elements(slots, [&]<class T>(const Slot& slot, size_t, int64_t begin, int64_t end) {
    const T rate = T(o.lr / (1 + (slot.step - 1) * o.lr_decay));
    sweep<T, 1>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective<T>(g, p, o);
      s[0] = s[0] + g * g;
      p = p - rate * g / (sqrt<T>(s[0]) + T(o.eps));
    });
  });
}

// v = alpha v + (1 - alpha) g^2;  [centered: a += (1 - alpha)(g - a), v - a^2 instead of v below]
// b = momentum b + g / (sqrt(v) + eps);  p -= lr b      (without momentum b is the quotient alone)
void update(std::span<const Slot> slots, const RmsProp& o) {
  const bool momentum = o.momentum > 0;
  over_elements(slots, [&]<class T>(const Slot& slot, size_t, int64_t begin, int64_t end) {
    const auto f = [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective<T>(g, p, o);
      s[0] = T(o.alpha) * s[0] + T(1 - o.alpha) * g * g;
      Vec<T> v = s[0];
      if (o.centered) {
        Vec<T>& mean = s[momentum ? 2 : 1];
        mean = lerp<T>(mean, g, 1 - o.alpha);
        v = v - mean * mean;
      }
      const Vec<T> scale = sqrt<T>(v) + T(o.eps);
      if (momentum) {
        s[1] = T(o.momentum) * s[1] + g / scale;
        p = p - T(o.lr) * s[1];
      } else {
        p = p - T(o.lr) * g / scale;
      }
    };
    switch (int(momentum) + int(o.centered)) {
      case 0:
        return sweep<T, 1>(slot, begin, end, f);
      case 1:
        return sweep<T, 2>(slot, begin, end, f);
      default:
        return sweep<T, 3>(slot, begin, end, f);
    }
  });
}

// v = rho v + (1 - rho) g^2;  d = sqrt(a + eps) / sqrt(v + eps) * g;  a = rho a + (1 - rho) d^2;  p -= lr d
void update(std::span<const Slot> slots, const Adadelta& o) {
  over_elements(slots, [&]<class T>(const Slot& slot, size_t, int64_t begin, int64_t end) {
    sweep<T, 2>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective<T>(g, p, o);
      s[0] = T(o.rho) * s[0] + T(1 - o.rho) * g * g;
      const Vec<T> d = sqrt<T>(s[1] + T(o.eps)) / sqrt<T>(s[0] + T(o.eps)) * g;
      s[1] = T(o.rho) * s[1] + T(1 - o.rho) * d * d;
      p = p - T(o.lr) * d;
    });
  });
}

// m += (1 - beta1)(g - m);  u = max(beta2 u, |g| + eps);  p -= lr / (1 - beta1^t) * m / u
void update(std::span<const Slot> slots, const Adamax& o) {
  const auto rates = per_slot<double>(slots, [&](double t) { return o.lr / (1 - std::pow(o.beta1, t)); });
  over_elements(slots, [&]<class T>(const Slot& slot, size_t i, int64_t begin, int64_t end) {
    const T rate = T(rates[i]);
    sweep<T, 2>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective<T>(g, p, o);
      s[0] = lerp<T>(s[0], g, 1 - o.beta1);
      s[1] = larger<T>(T(o.beta2) * s[1], (g < T(0) ? -g : g) + T(o.eps));
      p = p - rate * s[0] / s[1];
    });
  });
}

double nadam_mu(const Nadam& o, double step) {
  return o.beta1 * (1 - 0.5 * std::pow(0.96, step * o.momentum_decay));
}

// m, v as in Adam, d = sqrt(v / (1 - beta2^t)) + eps, mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), P its
// product: p -= lr (1 - mu_t) / (1 - P_t) * g / d + lr mu_(t+1) / (1 - P_(t+1)) * m / d
void update(std::span<const Slot> slots, const Nadam& o) {
  struct Numbers {
    double bias2, gradient_rate, average_rate;
  };
  std::vector<Numbers> numbers(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const double t = slots[i].step, product = o.mu_products[i], next = nadam_mu(o, t + 1);
    numbers[i] = {1 - std::pow(o.beta2, t), o.lr * (1 - nadam_mu(o, t)) / (1 - product),
                  o.lr * next / (1 - product * next)};
  }
  over_elements(slots, [&]<class T>(const Slot& slot, size_t i, int64_t begin, int64_t end) {
    const T bias2 = T(numbers[i].bias2), gradient_rate = T(numbers[i].gradient_rate),
            average_rate = T(numbers[i].average_rate);
    sweep<T, 2>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective_or_decoupled<T>(g, p, o);
      s[0] = lerp<T>(s[0], g, 1 - o.beta1);
      s[1] = T(o.beta2) * s[1] + T(1 - o.beta2) * g * g;
      const Vec<T> scale = sqrt<T>(s[1] / bias2) + T(o.eps);
      p = p - gradient_rate * g / scale;
      p = p - average_rate * s[0] / scale;
    });
  });
}

// m, v as in Adam; rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t), rho_inf = 2 / (1 - beta2) - 1. While rho_t
// <= 5 the variance of the adaptive rate is unbounded: p -= lr m / (1 - beta1^t). Then also * r_t sqrt(1 -
// beta2^t) / (sqrt(v) + eps).
void update(std::span<const Slot> slots, const Radam& o) {
  struct Numbers {
    double bias1, rectified;  // rectified 0: not yet
  };
  const auto numbers = per_slot<Numbers>(slots, [&](double t) {
    const double power = std::pow(o.beta2, t), bias2 = 1 - power;
    const double limit = 2 / (1 - o.beta2) - 1, rho = limit - 2 * t * power / bias2;
    Numbers result{1 - std::pow(o.beta1, t), 0};
    if (rho > 5)
      result.rectified =
          std::sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) * std::sqrt(bias2);
    return result;
  });
  over_elements(slots, [&]<class T>(const Slot& slot, size_t i, int64_t begin, int64_t end) {
    const T bias1 = T(numbers[i].bias1), rectified = T(numbers[i].rectified);
    sweep<T, 2>(slot, begin, end, [=](Vec<T>& p, Vec<T> g, Vec<T>* s) {
      g = effective_or_decoupled<T>(g, p, o);
      s[0] = lerp<T>(s[0], g, 1 - o.beta1);
      s[1] = T(o.beta2) * s[1] + T(1 - o.beta2) * g * g;
      Vec<T> change = T(o.lr) * (s[0] / bias1);
      if (rectified != 0) change = change * (rectified / (sqrt<T>(s[1]) + T(o.eps)));
      p = p - change;
    });
  });
}

void scale(std::span<const Slot> slots, double factor) {
  over_elements(slots, [&]<class T>(const Slot& slot, size_t, int64_t begin, int64_t end) {
    T* x = static_cast<T*>(slot.arrays[0]);
    int64_t i = begin;
    for (; i + kWidth<T> <= end; i += kWidth<T>) store<T>(x + i, T(factor) * load(x + i));
    if (i < end) store_n(x + i, T(factor) * load_n(x + i, int(end - i)), int(end - i));
  });
}

namespace {

// Sum over [begin, end) of f(|x|), in vectors over blocks short enough for T and in double over the blocks.
template <class T, class F>
double block_sum(const T* x, int64_t begin, int64_t end, F f) {
  constexpr int64_t kBlock = 4096;
  double total = 0;
  for (; begin < end; begin += kBlock) {
    const int64_t stop = std::min(end, begin + kBlock);
    Vec<T> sum{};
    int64_t i = begin;
    for (; i + kWidth<T> <= stop; i += kWidth<T>) sum = sum + f(load(x + i));
    total += double(reduce_add<T>(sum));
    for (; i < stop; ++i) {
      Vec<T> one{};
      one[0] = x[i];
      total += double(f(one)[0]);
    }
  }
  return total;
}

// The largest (or smallest) |x|; NaN if there is one.
template <class T>
double extreme(const T* x, int64_t begin, int64_t end, bool largest) {
  T result = largest ? T(0) : std::numeric_limits<T>::infinity();
  for (int64_t i = begin; i < end; ++i) {
    const T a = std::fabs(x[i]);
    if (a != a) return double(a);
    result = largest ? std::max(result, a) : std::min(result, a);
  }
  return double(result);
}

// One number for elements [begin, end) of one slot, to be combined over pieces: a sum of powers, or an
// extreme.
template <class T>
double piece_norm(const T* x, int64_t begin, int64_t end, double p) {
  if (std::isinf(p)) return extreme(x, begin, end, p > 0);
  if (p == 2) return block_sum(x, begin, end, [](Vec<T> v) { return v * v; });
  if (p == 1) return block_sum(x, begin, end, [](Vec<T> v) { return v < T(0) ? -v : v; });
  double sum = 0;
  int64_t i = begin;
  if (p == 3) {
    constexpr int w = kWidth<double>;
    Vec<double> sums{};
    for (; i + w <= end; i += w) {
      const Vec<double> v = load_wide(x + i), size = v < 0.0 ? -v : v;
      sums += size * size * size;
    }
    sum = reduce_add<double>(sums);
  }
  for (; i < end; ++i) sum += p == 0 ? double(x[i] != T(0)) : std::pow(std::fabs(double(x[i])), p);
  return sum;
}

}  // namespace

double total_norm(std::span<const Slot> slots, double p) {
  std::vector<int64_t> ends(slots.size());
  int64_t total = 0;
  for (size_t i = 0; i < slots.size(); ++i) ends[i] = total += slots[i].size;
  const bool extremes = std::isinf(p);
  const double start = extremes && p < 0 ? std::numeric_limits<double>::infinity() : 0;
  const auto combine = [&](double a, double b) {
    if (!extremes) return a + b;
    if (a != a || b != b) return a + b;
    return p > 0 ? std::max(a, b) : std::min(a, b);
  };
  std::vector<double> partial(size_t(chunk_count(total, kGrain)), start);
  parallel_chunks(total, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    double sum = start;
    for (size_t i = size_t(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin()); begin < end;
         ++i) {
      const int64_t first = ends[i] - slots[i].size, stop = std::min(end, ends[i]);
      const void* x = slots[i].arrays[0];
      sum = combine(sum, slots[i].f64
                             ? piece_norm(static_cast<const double*>(x), begin - first, stop - first, p)
                             : piece_norm(static_cast<const float*>(x), begin - first, stop - first, p));
      begin = stop;
    }
    partial[size_t(chunk)] = sum;
  });
  double result = start;
  for (double part : partial) result = combine(result, part);
  return extremes || p == 0 ? result : p == 2 ? std::sqrt(result) : std::pow(result, 1 / p);
}

}  // namespace fastdl::optim

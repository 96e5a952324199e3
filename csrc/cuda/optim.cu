// Optimizer updates, in place, for many parameters in one launch: blocks of kChunk elements, each finds its
// parameter in a table that travels as a kernel argument. Every array is read once and written once; p is the
// parameter, g the gradient as the formulas of the reference use it. factors are what depends on the step
// count: computed where the counts are, by the host, or (a step recorded in a graph) by a kernel before.
#include "cuda/optim.h"

#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256, kTensors = 40, kChunk = 4096;

template <class C>
struct Numbers {
  C lr, weight_decay, shrink;
  C a, b, c, eps;  // c: 1 - b
  bool maximize, decoupled, nesterov, first;
};

// Each rule updates p and the states s from g; `present` says which optional states exist.
template <Rule kRule>
struct Update;

template <>
struct Update<Rule::sgd> {  // a: momentum, b: 1 - dampening
  static constexpr int kStates = 1;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[1], const bool (&present)[1],
                                             const Numbers<C>& n, const C*) const {
    if (present[0]) {
      s[0] = n.first ? g : n.a * s[0] + n.b * g;
      g = n.nesterov ? g + n.a * s[0] : s[0];
    }
    p -= n.lr * g;
  }
};

template <>
struct Update<Rule::adam> {  // a: 1 - beta1, b: beta2; factors: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  static constexpr int kStates = 3;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[3], const bool (&present)[3],
                                             const Numbers<C>& n, const C* f) const {
    s[0] += n.a * (g - s[0]);
    s[1] = n.b * s[1] + n.c * g * g;
    C v = s[1];
    if (present[2]) v = s[2] = larger(s[2], v);
    p -= f[0] * s[0] / (std::sqrt(v) * f[1] + n.eps);
  }
};

template <>
struct Update<Rule::adagrad> {  // factors: lr / (1 + (t - 1) lr_decay)
  static constexpr int kStates = 1;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[1], const bool (&)[1], const Numbers<C>& n,
                                             const C* f) const {
    s[0] += g * g;
    p -= f[0] * g / (std::sqrt(s[0]) + n.eps);
  }
};

template <>
struct Update<Rule::rmsprop> {  // a: alpha, b: momentum; factors: 1 - alpha. States: v, buffer, average
  static constexpr int kStates = 3;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[3], const bool (&present)[3],
                                             const Numbers<C>& n, const C* f) const {
    s[0] = n.a * s[0] + f[0] * g * g;
    C v = s[0];
    if (present[2]) {
      s[2] += f[0] * (g - s[2]);
      v -= s[2] * s[2];
    }
    C change = g / (std::sqrt(v) + n.eps);
    if (present[1]) change = s[1] = n.b * s[1] + change;
    p -= n.lr * change;
  }
};

template <>
struct Update<Rule::adadelta> {  // a: rho; factors: 1 - rho
  static constexpr int kStates = 2;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[2], const bool (&)[2], const Numbers<C>& n,
                                             const C* f) const {
    s[0] = n.a * s[0] + f[0] * g * g;
    const C d = std::sqrt(s[1] + n.eps) / std::sqrt(s[0] + n.eps) * g;
    s[1] = n.a * s[1] + f[0] * d * d;
    p -= n.lr * d;
  }
};

template <>
struct Update<Rule::adamax> {  // a: 1 - beta1, b: beta2; factors: lr / (1 - beta1^t)
  static constexpr int kStates = 2;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[2], const bool (&)[2], const Numbers<C>& n,
                                             const C* f) const {
    s[0] += n.a * (g - s[0]);
    s[1] = larger(n.b * s[1], std::fabs(g) + n.eps);
    p -= f[0] * s[0] / s[1];
  }
};

template <>
struct Update<Rule::nadam> {  // a: 1 - beta1, b: beta2; factors: for g, for m, 1 / (1 - beta2^t)
  static constexpr int kStates = 2;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[2], const bool (&)[2], const Numbers<C>& n,
                                             const C* f) const {
    s[0] += n.a * (g - s[0]);
    s[1] = n.b * s[1] + n.c * g * g;
    const C d = std::sqrt(s[1] * f[2]) + n.eps;
    p -= f[0] * g / d;
    p -= f[1] * s[0] / d;
  }
};

template <>
struct Update<Rule::radam> {  // a: 1 - beta1, b: beta2; factors: lr / (1 - beta1^t), r sqrt(1 - beta2^t) or 0
  static constexpr int kStates = 2;
  template <class C>
  __device__ __forceinline__ void operator()(C& p, C g, C (&s)[2], const bool (&)[2], const Numbers<C>& n,
                                             const C* f) const {
    s[0] += n.a * (g - s[0]);
    s[1] = n.b * s[1] + n.c * g * g;
    C change = f[0] * s[0];
    if (f[1] != 0) change *= f[1] / (std::sqrt(s[1]) + n.eps);
    p -= change;
  }
};

template <>
struct Update<Rule::scale> {  // p = a p, within -b .. b; first: 0
  static constexpr int kStates = 0;
};

template <class T>
struct Table {
  T* param[kTensors];
  const T* grad[kTensors];
  T* states[kStates][kTensors];
  uint32_t end[kTensors];  // blocks of this parameter and those before it
  int64_t size[kTensors];
  Compute<T> factors[kTensors][kFactors];
  const Compute<T>* computed;  // the factors on the device, null: those above
  bool packed[kTensors];
  int count;
};
static_assert(sizeof(Table<double>) + sizeof(Numbers<double>) < 4096,
              "kernel arguments are limited to 4 KiB");

// What factors are made of, beside a parameter's count.
struct Counting {
  Rule rule;
  double lr, a, beta1, beta2, momentum_decay;
};

// The factors of step t (the first is 1). float powers would be off by more than float's rounding.
__host__ __device__ inline void factors_of(const Counting& n, double t, float* mu_product,
                                           double (&f)[kFactors]) {
  const double power2 = std::pow(n.beta2, t);
  f[0] = f[1] = f[2] = 0;
  switch (n.rule) {
    case Rule::adam:
      f[0] = n.lr / (1 - std::pow(n.beta1, t));
      f[1] = 1 / std::sqrt(1 - power2);
      break;
    case Rule::adagrad:
      f[0] = n.lr / (1 + (t - 1) * n.a);
      break;
    case Rule::adamax:
      f[0] = n.lr / (1 - std::pow(n.beta1, t));
      break;
    case Rule::nadam: {
      const double mu = n.beta1 * (1 - 0.5 * std::pow(0.96, t * n.momentum_decay)),
                   next = n.beta1 * (1 - 0.5 * std::pow(0.96, (t + 1) * n.momentum_decay));
      const float kept = float(double(*mu_product) * mu);
      *mu_product = kept;
      const double product = double(kept);
      f[0] = n.lr * (1 - mu) / (1 - product);
      f[1] = n.lr * next / (1 - product * next);
      f[2] = 1 / (1 - power2);
      break;
    }
    case Rule::radam: {
      const double limit = 2 / (1 - n.beta2) - 1, rho = limit - 2 * t * power2 / (1 - power2);
      f[0] = n.lr / (1 - std::pow(n.beta1, t));
      if (rho > 5)
        f[1] = std::sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) *
               std::sqrt(1 - power2);
      break;
    }
    default:  // rmsprop and adadelta only count
      f[0] = 1 - n.a;
  }
}

// Counts of one table's parameters, one thread each.
struct Counts {
  float *step[kTensors], *mu_product[kTensors];
  int count;
  Counting counting;
};

template <class C>
__global__ void __launch_bounds__(64) factors_kernel(C (*factors)[kFactors], Counts n) {
  const int i = int(threadIdx.x);
  if (i >= n.count) return;
  const double t = double(*n.step[i]) + 1;
  *n.step[i] = float(t);
  double f[kFactors];
  factors_of(n.counting, t, n.mu_product[i], f);
  FASTDL_UNROLL
  for (int k = 0; k < kFactors; ++k) factors[i][k] = C(f[k]);
}

// The same in the host's memory. Parameters mostly have one count, and without a product of their own one
// computation serves them all.
class HostFactors {
 public:
  explicit HostFactors(const Counting& counting) : counting_(counting) {}

 const double (&next(const Parameter& p)) [kFactors] {
   if (p.step == nullptr) return factors_;
   const double t = double(*p.step) + 1;
   *p.step = float(t);
   if (t != at_ || counting_.rule == Rule::nadam) factors_of(counting_, t, p.mu_product, factors_);
   at_ = t;
   return factors_;
 }

 private : Counting counting_;
  double at_ = 0, factors_[kFactors] = {};
};

// The first array whose blocks end behind this one: the same for all threads.
__device__ __forceinline__ int array_of_block(const uint32_t* end, int count) {
  int t = 0;
  for (int width = 32; width > 0; width /= 2)
    if (t + width <= count && end[t + width - 1] <= blockIdx.x) t += width;
  return t;
}

template <class T, Rule kRule>
__global__ void __launch_bounds__(kThreads) step_kernel(Table<T> table, Numbers<Compute<T>> numbers) {
  using C = Compute<T>;
  constexpr int N = sizeof(T) == 8 ? 2 : 4, S = Update<kRule>::kStates;
  const int t = array_of_block(table.end, table.count);
  const uint32_t before = t > 0 ? table.end[t - 1] : 0;
  const int64_t size = table.size[t], start = int64_t(blockIdx.x - before) * kChunk;
  const int64_t stop = start + kChunk < size ? start + kChunk : size;
  const bool packed = table.packed[t];
  T* const param = table.param[t];
  const C* const factors = table.computed != nullptr ? table.computed + t * kFactors : table.factors[t];
  for (int64_t first = start + threadIdx.x * N; first < stop; first += kThreads * N) {
    auto p = load_run<N>(param, first, size, packed);
    if constexpr (kRule == Rule::scale) {
      const C factor = table.computed != nullptr ? numbers.a * *table.computed : numbers.a;
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k)
        p.v[k] = numbers.first ? C(0) : smaller(larger(p.v[k] * factor, -numbers.b), numbers.b);
    } else {
      const auto g = load_run<N>(table.grad[t], first, size, packed);
      Values<C, N> s[S];
      bool present[S];
      FASTDL_UNROLL
      for (int i = 0; i < S; ++i) {
        present[i] = table.states[i][t] != nullptr;
        if (present[i])
          s[i] = load_run<N>(table.states[i][t], first, size, packed);
        else
          s[i] = {};
      }
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        C grad = numbers.maximize ? -g.v[k] : g.v[k];
        if (numbers.decoupled)
          p.v[k] *= numbers.shrink;
        else if (numbers.weight_decay != 0)
          grad += numbers.weight_decay * p.v[k];
        C state[S];
        FASTDL_UNROLL
        for (int i = 0; i < S; ++i) state[i] = s[i].v[k];
        Update<kRule>{}(p.v[k], grad, state, present, numbers, factors);
        FASTDL_UNROLL
        for (int i = 0; i < S; ++i) s[i].v[k] = state[i];
      }
      FASTDL_UNROLL
      for (int i = 0; i < S; ++i)
        if (present[i]) store_run<N>(table.states[i][t], first, size, packed, s[i]);
    }
    store_run<N>(param, first, size, packed, p);
  }
}

template <class T, Rule kRule>
void step(const std::vector<Parameter>& parameters, const std::vector<const void*>& grads, const Settings& s,
          void* scratch, Stream stream) {
  using C = Compute<T>;
  const Numbers<C> numbers{C(s.lr),
                           C(s.weight_decay),
                           C(1 - s.lr * s.weight_decay),
                           C(s.a),
                           C(s.b),
                           C(1 - s.b),
                           C(s.eps),
                           s.maximize,
                           s.decoupled,
                           s.nesterov,
                           s.first};
  Table<T> table{};
  const Counting counting{kRule, s.lr, s.a, s.beta1, s.b, s.momentum_decay};
  Counts counts{{}, {}, 0, counting};
  HostFactors host(counting);
  auto* factors = kRule == Rule::scale ? nullptr : static_cast<C(*)[kFactors]>(scratch);
  uint32_t blocks = 0;
  const auto flush = [&] {
    if (table.count > 0) {
      if (factors != nullptr) {
        counts.count = table.count;
        launch("optimizer_factors", factors_kernel<C>, dim3(1), dim3(64), 0, stream, factors, counts);
        table.computed = *factors;
        factors += table.count;
      }
      if (kRule == Rule::scale) table.computed = static_cast<const C*>(scratch);
      launch("optimizer_step", step_kernel<T, kRule>, dim3(blocks), dim3(kThreads), 0, stream, table,
             numbers);
    }
    table = {};
    blocks = 0;
  };
  for (size_t n = 0; n < parameters.size(); ++n) {
    const Parameter& p = parameters[n];
    const double* const f = factors == nullptr ? host.next(p) : nullptr;
    if (p.size == 0) continue;
    const int64_t wanted = (p.size + kChunk - 1) / kChunk;
    if (table.count == kTensors || blocks + wanted >= int64_t(1) << 31) flush();
    const int i = table.count++;
    bool packed = aligned(p.param, 16) && aligned(grads[n], 16);
    table.param[i] = static_cast<T*>(p.param);
    table.grad[i] = static_cast<const T*>(grads[n]);
    for (int k = 0; k < kStates; ++k) {
      table.states[k][i] = static_cast<T*>(p.states[k]);
      packed = packed && aligned(p.states[k], 16);
    }
    table.size[i] = p.size;
    table.packed[i] = packed;
    table.end[i] = blocks += uint32_t(wanted);
    for (int k = 0; k < kFactors && f != nullptr; ++k) table.factors[i][k] = C(f[k]);
    counts.step[i] = p.step;
    counts.mu_product[i] = p.mu_product;
  }
  flush();
}

// ---- the norm of many arrays

struct Norm {
  double p;

  __device__ __forceinline__ double nothing() const {
    return std::isinf(p) && p < 0 ? infinity<double>() : 0.0;
  }
  // An element's share: doubles, whose squares do not overflow.
  __device__ __forceinline__ double share(double x) const {
    x = std::fabs(x);
    if (p == 2) return x * x;
    if (p == 0) return x != 0 ? 1 : 0;
    return p == 1 || std::isinf(p) ? x : std::pow(x, p);
  }
  __device__ __forceinline__ double operator()(double a, double b) const {
    if (!std::isinf(p)) return a + b;
    return p > 0 ? larger(a, b) : smaller(a, b);
  }
  __device__ __forceinline__ double root(double sum) const {
    if (p == 2) return std::sqrt(sum);
    return p == 0 || p == 1 || std::isinf(p) ? sum : std::pow(sum, 1 / p);
  }
};

template <class T>
struct NormTable {
  const T* array[kTensors];
  uint32_t end[kTensors];  // blocks of this array and those before it
  int64_t size[kTensors];
  int count;
};

template <class T>
__global__ void __launch_bounds__(kThreads) norm_kernel(double* partials, NormTable<T> table, Norm norm) {
  constexpr int N = sizeof(T) == 8 ? 2 : 4;
  const int t = array_of_block(table.end, table.count);
  const int64_t size = table.size[t], start = int64_t(blockIdx.x - (t > 0 ? table.end[t - 1] : 0)) * kChunk,
                stop = start + kChunk < size ? start + kChunk : size;
  const T* const array = table.array[t];
  const bool packed = reinterpret_cast<uintptr_t>(array) % 16 == 0;
  double sum = norm.nothing();
  for (int64_t first = start + threadIdx.x * N; first < stop; first += kThreads * N) {
    const auto v = load_run<N>(array, first, size, packed);
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      if (first + k < size) sum = norm(sum, norm.share(double(v.v[k])));
  }
  sum = block_reduce(sum, norm.nothing(), norm);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024)
    finish_norm_kernel(void* to, bool wide, const double* partials, int64_t count, Norm norm) {
  double sum = norm.nothing();
  for (int64_t i = threadIdx.x; i < count; i += 1024) sum = norm(sum, partials[i]);
  sum = norm.root(block_reduce(sum, norm.nothing(), norm));
  if (threadIdx.x != 0) return;
  if (wide)
    *static_cast<double*>(to) = sum;
  else
    *static_cast<float*>(to) = float(sum);
}

}  // namespace

int64_t norm_parts_count(const std::vector<Extent1d>& arrays) {
  int64_t blocks = 0;
  for (const Extent1d& a : arrays) blocks += ceil_div(a.size, kChunk);
  return blocks;
}

void norm_parts(Dtype dtype, double* partials, const std::vector<Extent1d>& arrays, double p, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    NormTable<T> table{};
    uint32_t blocks = 0;
    const auto flush = [&] {
      if (table.count > 0)
        launch("total_norm", norm_kernel<T>, dim3(blocks), dim3(kThreads), 0, stream, partials, table,
               Norm{p});
      partials += blocks;
      table.count = 0;
      blocks = 0;
    };
    for (const Extent1d& a : arrays) {
      if (a.size == 0) continue;
      const int64_t wanted = ceil_div(a.size, kChunk);
      if (table.count == kTensors || blocks + wanted >= int64_t(1) << 31) flush();
      const int i = table.count++;
      table.array[i] = static_cast<const T*>(a.data);
      table.size[i] = a.size;
      table.end[i] = blocks += uint32_t(wanted);
    }
    flush();
  });
}

void finish_norm(void* norm, bool wide, const double* partials, int64_t count, double p, Stream stream) {
  launch("total_norm", finish_norm_kernel, dim3(1), dim3(1024), 0, stream, norm, wide, partials, count,
         Norm{p});
}

void optimizer_step(Rule rule, Dtype dtype, const std::vector<Parameter>& parameters,
                    const std::vector<const void*>& grads, const Settings& settings, void* scratch,
                    Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    switch (rule) {
#define FASTDL_CUDA_STEP(name) \
  case Rule::name:             \
    return step<T, Rule::name>(parameters, grads, settings, scratch, stream);
      FASTDL_CUDA_RULE(FASTDL_CUDA_STEP)
    }
  });
}

}  // namespace fastdl::cuda

// Losses of the form loss_i = f(x_i, t_i, ...), with "mean" and "sum" taken in the same pass, and their
// gradients for x (grad_x_i = g_i df/dx). Each loss is a struct with value() and slope() on vectors; nothing
// is saved for backward.
//
// Work: ranges of elements over threads, swept in pieces that stay in L1; reduced losses are summed per piece
// in lanes, per chunk in double, and the chunks in order. Passes: the inputs are read once each way, and
// backward writes the gradient once, around the caches if it is large. Class weights that repeat along the
// elements are spread over one piece beforehand, so that the loops see plain contiguous arrays.
#include "cpu/pointwise_loss.h"

#include <optional>

#include "cpu/loss_sum.h"
#include "cpu/runtime/threads.h"
#include "cpu/sweep.h"

namespace fastdl {
namespace {

using namespace sweep;

constexpr int64_t kGrain = 16384;
constexpr int64_t kPiece = 2048;

template <class T>
[[gnu::always_inline]] inline Vec<T> sign(Vec<T> d) {
  return d > T(0) ? broadcast<T>(1) : (d < T(0) ? broadcast<T>(-1) : broadcast<T>(0));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> softplus(Vec<T> x) {  // log(1 + exp(x)) without overflow
  return max(broadcast<T>(0), x) + log1p_unit<T>(exp_bounded<T>(-abs<T>(x)));
}

template <class T>
struct Mse {
  static constexpr int operands = 2;
  Vec<T> value(Vec<T> x, Vec<T> t) const { return (x - t) * (x - t); }
  Vec<T> slope(Vec<T> x, Vec<T> t) const { return T(2) * (x - t); }
};

template <class T>
struct L1 {
  static constexpr int operands = 2;
  Vec<T> value(Vec<T> x, Vec<T> t) const { return abs<T>(x - t); }
  Vec<T> slope(Vec<T> x, Vec<T> t) const { return sign<T>(x - t); }
};

template <class T>
struct SmoothL1 {
  static constexpr int operands = 2;
  T beta;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> z = abs<T>(x - t);
    return z < beta ? T(0.5) * z * z / beta : z - T(0.5) * beta;
  }
  Vec<T> slope(Vec<T> x, Vec<T> t) const {
    const Vec<T> d = x - t;
    return d <= -beta ? broadcast<T>(-1) : (d >= beta ? broadcast<T>(1) : d / beta);
  }
};

template <class T>
struct Huber {
  static constexpr int operands = 2;
  T delta;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> z = abs<T>(x - t);
    return z <= delta ? T(0.5) * z * z : delta * (z - T(0.5) * delta);
  }
  Vec<T> slope(Vec<T> x, Vec<T> t) const {
    const Vec<T> d = x - t;
    return d < -delta ? broadcast<T>(-delta) : (d > delta ? broadcast<T>(delta) : d);
  }
};

template <class T>
struct BinaryCrossEntropy {  // logarithms no lower than -100, as in PyTorch
  static constexpr int operands = 3;
  Vec<T> value(Vec<T> x, Vec<T> t, Vec<T> w) const {
    const Vec<T> floor = broadcast<T>(-100);
    return w * ((t - T(1)) * max(floor, log1p<T>(-x)) - t * max(floor, log<T>(x)));
  }
  Vec<T> slope(Vec<T> x, Vec<T> t, Vec<T> w) const {
    return w * (x - t) / max(broadcast<T>(T(1e-12)), (T(1) - x) * x);
  }
};

template <class T>
struct BinaryCrossEntropyWithLogits {
  static constexpr int operands = 4;
  Vec<T> value(Vec<T> x, Vec<T> t, Vec<T> w, Vec<T> positive) const {
    return w * ((T(1) - t) * x + (T(1) + (positive - T(1)) * t) * softplus<T>(-x));
  }
  Vec<T> slope(Vec<T> x, Vec<T> t, Vec<T> w, Vec<T> positive) const {
    const Vec<T> pt = positive * t;
    return w * ((pt + T(1) - t) * sigmoid<T>(x) - pt);
  }
};

template <class T>
struct KlDiv {
  static constexpr int operands = 2;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> entropy = t == T(0) ? broadcast<T>(0) : t * log<T>(t);
    return entropy - t * x;
  }
  Vec<T> slope(Vec<T>, Vec<T> t) const { return -t; }
};

template <class T>
struct KlDivLogTarget {
  static constexpr int operands = 2;
  Vec<T> value(Vec<T> x, Vec<T> t) const { return exp<T>(t) * (t - x); }
  Vec<T> slope(Vec<T>, Vec<T> t) const { return -exp<T>(t); }
};

// Stirling's approximation of log(t!), for t > 1.
template <class T>
[[gnu::always_inline]] inline Vec<T> stirling(Vec<T> t) {
  const Vec<T> v = t * log<T>(t) - t + T(0.5) * log<T>(t * T(6.283185307179586477));
  return t > T(1) ? v : broadcast<T>(0);
}

template <class T>
struct PoissonNll {
  static constexpr int operands = 2;
  T eps;
  bool full;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> v = x - t * log<T>(x + eps);
    return full ? v + stirling<T>(t) : v;
  }
  Vec<T> slope(Vec<T> x, Vec<T> t) const { return T(1) - t / (x + eps); }
};

template <class T>
struct PoissonNllLogInput {
  static constexpr int operands = 2;
  bool full;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> v = exp<T>(x) - t * x;
    return full ? v + stirling<T>(t) : v;
  }
  Vec<T> slope(Vec<T> x, Vec<T> t) const { return exp<T>(x) - t; }
};

template <class T>
struct GaussianNll {
  static constexpr int operands = 3;
  T eps;
  bool full;
  Vec<T> value(Vec<T> x, Vec<T> t, Vec<T> variance) const {
    const Vec<T> v = max(broadcast<T>(eps), variance), d = x - t;
    return T(0.5) * (log<T>(v) + d * d / v) + (full ? T(0.918938533204672742) : T(0));
  }
  Vec<T> slope(Vec<T> x, Vec<T> t, Vec<T> variance) const {
    return (x - t) / max(broadcast<T>(eps), variance);
  }
};

template <class T>
struct GaussianNllVariance {
  static constexpr int operands = 3;
  T eps;
  Vec<T> slope(Vec<T> x, Vec<T> t, Vec<T> variance) const {
    const Vec<T> v = max(broadcast<T>(eps), variance), d = x - t;
    return T(0.5) * (T(1) - d * d / v) / v;
  }
};

template <class T>
struct SoftMargin {
  static constexpr int operands = 2;
  Vec<T> value(Vec<T> x, Vec<T> t) const { return softplus<T>(-t * x); }
  Vec<T> slope(Vec<T> x, Vec<T> t) const { return -t * sigmoid<T>(-t * x); }
};

template <class T>
struct HingeEmbedding {
  static constexpr int operands = 2;
  T margin;
  Vec<T> value(Vec<T> x, Vec<T> t) const {
    const Vec<T> apart = max(broadcast<T>(0), margin - x), zero = broadcast<T>(0);
    return (t != T(1) ? apart : zero) + (t != T(-1) ? x : zero);
  }
  Vec<T> slope(Vec<T> x, Vec<T> t) const {
    const Vec<T> zero = broadcast<T>(0), one = broadcast<T>(1);
    const Vec<T> apart = margin - x >= T(0) ? -one : zero;
    return (t != T(1) ? apart : zero) + (t != T(-1) ? one : zero);
  }
};

template <class T>
struct MarginRanking {  // the slope for the second input is the negative of this
  static constexpr int operands = 3;
  T margin;
  Vec<T> value(Vec<T> x, Vec<T> other, Vec<T> t) const {
    return max(broadcast<T>(0), margin - t * (x - other));
  }
  Vec<T> slope(Vec<T> x, Vec<T> other, Vec<T> t) const {
    return margin - t * (x - other) >= T(0) ? -t : broadcast<T>(0);
  }
};

// Calls f(loss struct) for the problem's loss.
template <class T, class F>
void with_loss(const PointwiseProblem<T>& p, F f) {
  switch (p.loss) {
    case PointwiseLoss::mse:
      return f(Mse<T>{});
    case PointwiseLoss::l1:
      return f(L1<T>{});
    case PointwiseLoss::smooth_l1:
      return f(SmoothL1<T>{p.parameter});
    case PointwiseLoss::huber:
      return f(Huber<T>{p.parameter});
    case PointwiseLoss::binary_cross_entropy:
      return f(BinaryCrossEntropy<T>{});
    case PointwiseLoss::binary_cross_entropy_with_logits:
      return f(BinaryCrossEntropyWithLogits<T>{});
    case PointwiseLoss::kl_div:
      return f(KlDiv<T>{});
    case PointwiseLoss::kl_div_log_target:
      return f(KlDivLogTarget<T>{});
    case PointwiseLoss::poisson_nll:
      return f(PoissonNll<T>{p.parameter, p.full});
    case PointwiseLoss::poisson_nll_log_input:
      return f(PoissonNllLogInput<T>{p.full});
    case PointwiseLoss::gaussian_nll:
      return f(GaussianNll<T>{p.parameter, p.full});
    case PointwiseLoss::gaussian_nll_variance:
      return f(GaussianNllVariance<T>{p.parameter});
    case PointwiseLoss::soft_margin:
      return f(SoftMargin<T>{});
    case PointwiseLoss::hinge_embedding:
      return f(HingeEmbedding<T>{p.parameter});
    case PointwiseLoss::margin_ranking:
      return f(MarginRanking<T>{p.parameter});
  }
}

// One operand, readable as a contiguous array from any element on for kPiece elements.
template <class T>
class Pieces {
 public:
  Pieces() = default;
  [[gnu::noinline]] void set(Operand<T> operand, int64_t size) {
    whole_ = operand.data;
    period_ = operand.data ? operand.period : 1;
    if (operand.data && period_ >= size) return;
    const int64_t length = period_ + std::min(kPiece, size);
    spread_.emplace(size_t(length));
    T* spread = spread_->get();
    for (int64_t i = 0; i < std::min(period_, length); ++i) spread[i] = operand.data ? operand.data[i] : T(1);
    // What is there doubles: number by number, each would wait for the one stored before.
    for (int64_t there = period_; there < length; there *= 2)
      std::copy_n(spread, std::min(there, length - there), spread + there);
  }
  const T* from(int64_t i) const { return spread_ ? spread_->get() + i % period_ : whole_ + i; }

 private:
  const T* whole_ = nullptr;
  int64_t period_ = 1;
  std::optional<memory::Buffer<T>> spread_;
};

// Calls f(pointer...) with as many pointers as the loss has operands.
template <int count, class T, class F>
[[gnu::always_inline]] inline auto with_pointers(const Pieces<T>* in, int64_t i, F f) {
  if constexpr (count == 2) return f(in[0].from(i), in[1].from(i));
  if constexpr (count == 3) return f(in[0].from(i), in[1].from(i), in[2].from(i));
  if constexpr (count == 4) return f(in[0].from(i), in[1].from(i), in[2].from(i), in[3].from(i));
}

template <class T, class F>
void for_pieces(int64_t begin, int64_t end, F f) {
  for (int64_t i = begin; i < end; i += kPiece) f(i, std::min(kPiece, end - i));
}

template <class T>
bool is_probability(T value) {
  return value >= T(0) && value <= T(1);
}

}  // namespace

template <class T>
int64_t pointwise_loss_forward(T* loss, const PointwiseProblem<T>& problem) {
  const int64_t n = problem.size;
  const bool each = problem.reduction == Reduction::none;
  const bool streaming = each && worth_streaming(n * int64_t(sizeof(T)));
  ChunkSums sums(chunk_count(n, kGrain));
  FirstPosition invalid;
  with_loss(problem, [&]<class Loss>(Loss f) {
    if constexpr (!std::is_same_v<Loss, GaussianNllVariance<T>>) {
      Pieces<T> in[Loss::operands];
      for (int k = 0; k < Loss::operands; ++k) in[k].set(problem.operands[k], n);
      parallel_chunks(n, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
        double sum = 0;
        for_pieces<T>(begin, end, [&](int64_t i, int64_t count) {
          with_pointers<Loss::operands>(in, i, [&](auto... p) {
            auto value = [f](auto... v) { return f.value(v...); };
            if (each)
              write_row(loss + i, count, streaming, value, p...);
            else
              sum += double(row_sum<T>(count, value, p...));
          });
          if constexpr (std::is_same_v<Loss, BinaryCrossEntropy<T>>) {
            const T *x = in[0].from(i), *target = in[1].from(i);
            const T outside = row_sum<T>(
                count,
                [](Vec<T> v, Vec<T> t) {
                  const auto inside = (v >= T(0)) & (v <= T(1)) & (t >= T(0)) & (t <= T(1));
                  return inside ? broadcast<T>(0) : broadcast<T>(1);
                },
                x, target);
            if (outside != T(0))
              for (int64_t j = count - 1; j >= 0; --j)
                if (!(is_probability(x[j]) && is_probability(target[j]))) invalid.note(i + j);
          }
        });
        sums[chunk] = sum;
        fence();
      });
    }
  });
  if (!each) *loss = T(problem.reduction == Reduction::mean ? sums.total() / double(n) : sums.total());
  return invalid.get();
}

template <class T>
void pointwise_loss_backward(T* grad_x, const T* grad_loss, const PointwiseProblem<T>& problem) {
  const int64_t n = problem.size;
  const bool each = problem.reduction == Reduction::none, streaming = worth_streaming(n * int64_t(sizeof(T)));
  const T shared = each ? T(0) : problem.reduction == Reduction::mean ? *grad_loss / T(n) : *grad_loss;
  with_loss(problem, [&]<class Loss>(Loss f) {
    Pieces<T> in[Loss::operands];
    for (int k = 0; k < Loss::operands; ++k) in[k].set(problem.operands[k], n);
    parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
      for_pieces<T>(begin, end, [&](int64_t i, int64_t count) {
        with_pointers<Loss::operands>(in, i, [&](auto... p) {
          if (each)
            write_row(
                grad_x + i, count, streaming, [f](Vec<T> g, auto... v) { return g * f.slope(v...); },
                grad_loss + i, p...);
          else
            write_row(
                grad_x + i, count, streaming, [f, shared](auto... v) { return shared * f.slope(v...); },
                p...);
        });
      });
      fence();
    });
  });
}

#define FASTDL_INSTANTIATE(T)                                                 \
  template int64_t pointwise_loss_forward<T>(T*, const PointwiseProblem<T>&); \
  template void pointwise_loss_backward<T>(T*, const T*, const PointwiseProblem<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// CTC: minus the log of the summed probability of all frame labellings that collapse to the target.
//
// The target l with blanks around every label has S = 2 L + 1 states. With y_t(s) the log-probability of
// state s's label:
//   alpha_t(s) = y_t(s) + logsumexp(alpha_{t-1}(s), alpha_{t-1}(s-1), alpha_{t-1}(s-2) if s is a label unlike
//   s-2) beta_t(s)  = y_t(s) + logsumexp(beta_{t+1}(s), beta_{t+1}(s+1), beta_{t+1}(s+2) likewise) loss =
//   -logsumexp(alpha_{T-1}(S-1), alpha_{T-1}(S-2)) grad log_probs_t(k) = g (exp(y_t(k)) - sum over states s
//   with label k of exp(alpha + beta - y_t(k) + loss))
// The first term makes it the gradient for the logits under a log_softmax: PyTorch's convention, whose
// backward of log_softmax leaves it unchanged, as the entries of a frame sum to zero.
//
// Work: sequences over threads; along the states of a frame in vectors, three shifted reads of the previous
// frame that has two -inf in front. Saved: alpha. Backward keeps two frames of beta and writes the gradient
// once.
#include "cpu/ctc_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/math.h"

namespace fastdl {
namespace {

using namespace simd;

template <class T>
constexpr T kNever = -std::numeric_limits<T>::infinity();  // the logarithm of zero

constexpr int64_t kPad = 2;  // -inf before (alpha) and after (beta) the states

// States of one sequence: their labels, and per state 0 where a jump over the blank between labels is
// allowed, else -inf.
template <class T>
struct States {
  memory::Buffer<int64_t> labels;
  memory::Buffer<T> skip_from_left, skip_to_right;
  int64_t count;

  States(const CtcProblem<T>& p, int64_t b)
      : labels(size_t(p.states)),
        skip_from_left(size_t(p.states)),
        skip_to_right(size_t(p.states)),
        count(2 * p.target_lengths[b] + 1) {
    const int64_t* target = p.targets + p.target_offsets[b];
    for (int64_t s = 0; s < count; ++s) labels[s] = s % 2 ? target[s / 2] : p.blank;
    for (int64_t s = 0; s < count; ++s) {
      skip_from_left[s] = s % 2 && s >= 2 && labels[s] != labels[s - 2] ? T(0) : kNever<T>;
      skip_to_right[s] = s % 2 && s + 2 < count && labels[s] != labels[s + 2] ? T(0) : kNever<T>;
    }
  }
};

// out = emission + logsumexp(near, next, far + skip), vectors over the states.
template <class T>
void step(T* out, const T* near, const T* next, const T* far, const T* skip, const T* emission,
          int64_t count) {
  constexpr int w = kWidth<T>;
  auto combine = [](Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> y) {
    const Vec<T> m = max(max(a, b), c);
    const Vec<T> shift = m == kNever<T> ? broadcast<T>(0) : m;
    return y + (shift + log<T>(exp<T>(a - shift) + exp<T>(b - shift) + exp<T>(c - shift)));
  };
  int64_t s = 0;
  for (; s + w <= count; s += w)
    store<T>(out + s,
             combine(load(near + s), load(next + s), load(far + s) + load(skip + s), load(emission + s)));
  if (const int n = int(count - s); n > 0)
    store_n(out + s,
            combine(load_n(near + s, n), load_n(next + s, n), load_n(far + s, n) + load_n(skip + s, n),
                    load_n(emission + s, n)),
            n);
}

template <class T>
T log_add(T a, T b) {
  const T m = std::max(a, b);
  return m == kNever<T> ? m : m + std::log1p(std::exp(std::min(a, b) - m));
}

template <class T>
void gather(T* emission, const T* frame, const States<T>& states) {
  for (int64_t s = 0; s < states.count; ++s) emission[s] = frame[states.labels[s]];
}

}  // namespace

template <class T>
void ctc_loss_forward(T* loss, T* alpha, const CtcProblem<T>& p) {
  parallel_for(
      p.batch, std::max<int64_t>(1, 2048 / std::max<int64_t>(1, p.frames * p.states)),
      [&](int64_t begin, int64_t end) {
        memory::Buffer<T> previous_row(size_t(p.states + kPad)), emission(size_t(p.states));
        for (int64_t b = begin; b < end; ++b) {
          const States<T> states(p, b);
          T* rows = alpha + b * p.frames * p.states;
          const int64_t frames = p.input_lengths[b];
          T* const previous = previous_row + kPad;
          std::fill_n(previous_row.get(), kPad + states.count, kNever<T>);
          // Before the first frame all probability sits one state left of the first: it may enter state 0 or
          // state 1.
          previous[-1] = 0;
          for (int64_t t = 0; t < frames; ++t) {
            gather<T>(emission, p.log_probs + (t * p.batch + b) * p.classes, states);
            T* row = rows + t * p.states;
            step<T>(row, previous, previous - 1, previous - 2, states.skip_from_left, emission, states.count);
            if (t == 0 && states.count > 1) row[1] = emission[1];
            previous[-1] = kNever<T>;
            std::copy_n(row, states.count, previous);
          }
          const T last = frames ? previous[states.count - 1] : (states.count == 1 ? T(0) : kNever<T>);
          const T before = frames && states.count > 1 ? previous[states.count - 2] : kNever<T>;
          loss[b] = -log_add(last, before);
        }
      });
}

template <class T>
void ctc_loss_backward(T* grad_log_probs, const T* grad_loss, const T* loss, const T* alpha,
                       bool zero_infinity, const CtcProblem<T>& p) {
  parallel_for(p.batch, std::max<int64_t>(1, 2048 / std::max<int64_t>(1, p.frames * (p.states + p.classes))),
               [&](int64_t begin, int64_t end) {
                 constexpr int w = kWidth<T>;
                 memory::Buffer<T> next_row(size_t(p.states + kPad)), current(size_t(p.states)),
                     emission(size_t(p.states));
                 memory::Buffer<T> mass(size_t(p.classes));
                 for (int64_t b = begin; b < end; ++b) {
                   const States<T> states(p, b);
                   const int64_t frames = p.input_lengths[b];
                   const T g = grad_loss[b], nll = loss[b];
                   // An impossible target has no posterior: its gradient is zero where asked for, else NaN.
                   const bool impossible = nll == -kNever<T>;
                   for (int64_t t = impossible ? 0 : frames; t < p.frames; ++t)
                     std::fill_n(grad_log_probs + (t * p.batch + b) * p.classes, p.classes,
                                 zero_infinity || t >= frames ? T(0) : std::numeric_limits<T>::quiet_NaN());
                   if (impossible) continue;

                   T* const next = next_row;
                   std::fill_n(next, states.count + kPad, kNever<T>);
                   for (int64_t t = frames - 1; t >= 0; --t) {
                     const T* frame = p.log_probs + (t * p.batch + b) * p.classes;
                     gather<T>(emission, frame, states);
                     if (t == frames - 1) {
                       std::fill_n(current.get(), states.count, kNever<T>);
                       current[states.count - 1] = emission[states.count - 1];
                       if (states.count > 1) current[states.count - 2] = emission[states.count - 2];
                     } else {
                       step<T>(current, next, next + 1, next + 2, states.skip_to_right, emission,
                               states.count);
                     }
                     std::copy_n(current.get(), states.count, next);

                     // The share of every state, then per label; shares are at most 1, so plain sums are
                     // safe.
                     const T* row = alpha + (b * p.frames + t) * p.states;
                     std::fill_n(mass.get(), p.classes, T(0));
                     for (int64_t s = 0; s < states.count; s += w) {
                       const int n = int(std::min<int64_t>(w, states.count - s));
                       const Vec<T> y = load_n(emission + s, n);
                       const Vec<T> together = load_n(row + s, n) + load_n(current + s, n) - y + nll;
                       store_n(current + s, y == kNever<T> ? broadcast<T>(0) : exp<T>(together), n);
                     }
                     for (int64_t s = 0; s < states.count; ++s) mass[states.labels[s]] += current[s];
                     T* grad = grad_log_probs + (t * p.batch + b) * p.classes;
                     for (int64_t k = 0; k < p.classes; k += w) {
                       const int n = int(std::min<int64_t>(w, p.classes - k));
                       store_n(grad + k, g * (exp<T>(load_n(frame + k, n)) - load_n(mass + k, n)), n);
                     }
                   }
                 }
               });
}

#define FASTDL_INSTANTIATE(T)                                      \
  template void ctc_loss_forward<T>(T*, T*, const CtcProblem<T>&); \
  template void ctc_loss_backward<T>(T*, const T*, const T*, const T*, bool, const CtcProblem<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

// Connectionist temporal classification (Graves et al., 2006). The states of a sequence are its labels with
// blanks around them; alpha[t, s] is the log-probability of all ways to spell the first of them in frames 0
// .. t and end in state s, beta[t, s] that of all ways from state s on in frames t .. to the last:
//
//   alpha[t, s] = y[t, s] + log(exp alpha[t-1, s] + exp alpha[t-1, s-1] + exp alpha[t-1, s-2]),  y: log_probs
//   of s
//
// (the last only between different labels). A block has a sequence and goes through its frames, a thread
// through states; frames wait for each other at a barrier. The gradient, exp(log_probs) - sum of exp(alpha +
// beta - y + loss) over the states of a class, then has a block for each frame of each sequence: the first
// state of a label adds up all of that label, in order, so the bits are the same every time.
#include "cuda/ctc_loss.h"

#include <algorithm>

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr uint64_t kCtc = 7;
constexpr int kThreads = 128;

template <class C>
__device__ __forceinline__ C log_sum(C a, C b, C c) {
  const C m = larger(larger(a, b), c);
  if (m == -infinity<C>()) return m;
  return m + std::log(std::exp(a - m) + std::exp(b - m) + std::exp(c - m));
}

struct Sequence {
  Ctc c;
  int64_t b, frames, states;  // of this sequence
  const int64_t* labels;

  __device__ __forceinline__ Sequence(const Ctc& c, int64_t b)
      : c(c),
        b(b),
        frames(c.input_lengths[b]),
        states(2 * c.target_lengths[b] + 1),
        labels(c.targets + b * c.longest) {}
  __device__ __forceinline__ int64_t label(int64_t s) const { return s % 2 ? labels[s / 2] : c.blank; }
  // May a path go from state s to s + 2?
  __device__ __forceinline__ bool skips(int64_t s) const {
    return s % 2 != 0 && s + 2 < states && labels[s / 2] != labels[s / 2 + 1];
  }
  template <class T>
  __device__ __forceinline__ Compute<T> y(const T* log_probs, int64_t t, int64_t s) const {
    const int64_t k = label(s);
    if (k < 0 || k >= c.classes) return -infinity<Compute<T>>();  // reported when alpha was made
    return Compute<T>(widen(log_probs[(t * c.batch + b) * c.classes + k]));
  }
};

// alpha, or with kBackwards beta; beyond the sequence's frames and states -inf.
template <class T, bool kBackwards>
__global__ void __launch_bounds__(kThreads)
    state_sums(Compute<T>* sums, Compute<T>* loss, const T* log_probs, Ctc c, int64_t width, Report report) {
  using C = Compute<T>;
  const Sequence q(c, blockIdx.x);
  C* const mine = sums + q.b * c.frames * width;
  const C none = -infinity<C>();
  if (!kBackwards)
    for (int64_t i = threadIdx.x; i < q.states / 2; i += kThreads)
      report.out_of_range(q.b * c.longest + i, q.labels[i], c.classes);
  for (int64_t i = q.frames * width + threadIdx.x; i < c.frames * width; i += kThreads) mine[i] = none;
  for (int64_t n = 0; n < q.frames; ++n) {
    const int64_t t = kBackwards ? q.frames - 1 - n : n;
    C* const now = mine + t * width;
    const C* const last = kBackwards ? now + width : now - width;
    for (int64_t s = threadIdx.x; s < width; s += kThreads) {
      C v = none;
      if (s < q.states) {
        if (n == 0) {
          v = (kBackwards ? s >= q.states - 2 : s < 2) ? q.y(log_probs, t, s) : none;
        } else {
          const int64_t step = kBackwards ? 1 : -1;
          const bool one = kBackwards ? s + 1 < q.states : s >= 1;
          const bool two = kBackwards ? q.skips(s) : s >= 2 && q.skips(s - 2);
          v = q.y(log_probs, t, s) +
              log_sum(last[s], one ? last[s + step] : none, two ? last[s + 2 * step] : none);
        }
      }
      now[s] = v;
    }
    sync_threads();
  }
  if (loss != nullptr && threadIdx.x == 0) {
    if (q.frames == 0) {
      loss[q.b] = q.states == 1 ? C(0) : infinity<C>();
    } else {
      const C* const last = mine + (q.frames - 1) * width + q.states - 1;
      loss[q.b] = -log_sum(last[0], q.states > 1 ? last[-1] : none, none);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    ctc_gradient(T* grad, const T* grad_loss, const T* log_probs, const Compute<T>* loss,
                 const Compute<T>* alpha, const Compute<T>* beta, bool zero_infinity, Ctc c, int64_t width) {
  using C = Compute<T>;
  const int64_t t = blockIdx.x;
  for (int64_t b = blockIdx.y; b < c.batch; b += gridDim.y) {
    const Sequence q(c, b);
    const int64_t item = t * c.batch + b;
    T* const to = grad + item * c.classes;
    const T* const from = log_probs + item * c.classes;
    const C l = loss[q.b], g = C(widen(grad_loss[q.b]));
    const bool impossible = l == infinity<C>();
    if (t >= q.frames || impossible) {
      const C value = t < q.frames && !zero_infinity ? C(NAN) : C(0);
      for (int64_t k = threadIdx.x; k < c.classes; k += kThreads) to[k] = narrow<T>(value);
      continue;
    }
    const C* const a = alpha + (q.b * c.frames + t) * width;
    const C* const z = beta + (q.b * c.frames + t) * width;
    const auto share = [&](int64_t s) {
      const C y = q.y(log_probs, t, s);
      return y == -infinity<C>() ? C(0) : std::exp(a[s] + z[s] - y + l);
    };
    const auto store = [&](int64_t k, C posterior) {
      to[k] = narrow<T>(g * (std::exp(C(widen(from[k]))) - posterior));
    };
    for (int64_t k = threadIdx.x; k < c.classes; k += kThreads) store(k, C(0));
    C blank = 0;
    for (int64_t s = threadIdx.x; s < q.states; s += kThreads)
      if (q.label(s) == c.blank) blank += share(s);
    blank = block_reduce(blank, C(0), Plus{});  // its barriers order the writes, too
    if (threadIdx.x == 0) store(c.blank, blank);
    for (int64_t i = threadIdx.x; i < q.states / 2; i += kThreads) {
      const int64_t k = q.labels[i];
      bool first = k != c.blank && k >= 0 && k < c.classes;
      for (int64_t j = 0; first && j < i; ++j) first = q.labels[j] != k;
      if (!first) continue;
      C posterior = 0;
      for (int64_t j = i; j < q.states / 2; ++j)
        if (q.labels[j] == k) posterior += share(2 * j + 1);
      store(k, posterior);
    }
    sync_threads();
  }
}

}  // namespace

void ctc_loss_forward(Dtype dtype, void* loss, void* alpha, const void* log_probs, const Ctc& c,
                      uint64_t* report, Stream stream) {
  if (c.batch == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    launch("ctc_loss", state_sums<T, false>, dim3(unsigned(c.batch)), dim3(kThreads), 0, stream,
           static_cast<C*>(alpha), static_cast<C*>(loss), static_cast<const T*>(log_probs), c, c.states(),
           Report{report, kCtc});
  });
}

void ctc_loss_backward(Dtype dtype, void* grad, void* beta, const void* grad_loss, const void* log_probs,
                       const void* loss, const void* alpha, bool zero_infinity, const Ctc& c, Stream stream) {
  if (c.batch * c.frames * c.classes == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    launch("ctc_loss_beta", state_sums<T, true>, dim3(unsigned(c.batch)), dim3(kThreads), 0, stream,
           static_cast<C*>(beta), static_cast<C*>(nullptr), static_cast<const T*>(log_probs), c, c.states(),
           Report{nullptr, kCtc});
    launch("ctc_loss_backward", ctc_gradient<T>,
           dim3(unsigned(c.frames), unsigned(std::min<int64_t>(c.batch, 65535))), dim3(kThreads), 0, stream,
           static_cast<T*>(grad), static_cast<const T*>(grad_loss), static_cast<const T*>(log_probs),
           static_cast<const C*>(loss), static_cast<const C*>(alpha), static_cast<const C*>(beta),
           zero_infinity, c, c.states());
  });
}

}  // namespace fastdl::cuda

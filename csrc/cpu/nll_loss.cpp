// Negative log likelihood of log-probabilities x over (outer, classes, inner): loss_i = -w_t x_{i,t}; "mean"
// divides by the sum of w_t over counted positions. grad_x is zero but for -g_i w_t at the targets. Nothing
// is saved but the normaliser. Work: positions over threads; forward reads one logit per position, backward
// writes the gradient once.
#include <algorithm>

#include "cpu/cross_entropy.h"
#include "cpu/loss_sum.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kGatherGrain = 2048;  // positions; each touches a cache line of its own

template <class T>
auto number_at(const T* x, Half half) {
  if constexpr (sizeof(T) == 2) {
    float wide;
    widen(&wide, x, 1, half);
    return wide;
  } else {
    return *x;
  }
}

}  // namespace

template <class T>
int64_t nll_loss_forward(ComputedIn<T>* loss, ComputedIn<T>* normaliser, const T* x,
                         ClassTargets<ComputedIn<T>> target, ClassShape s, Half half) {
  using C = ComputedIn<T>;
  const int64_t positions = s.positions();
  const bool each = target.reduction == Reduction::none;
  const int64_t chunks = chunk_count(positions, kGatherGrain);
  ChunkSums losses(chunks), weights(chunks);
  FirstPosition invalid;
  parallel_chunks(positions, kGatherGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    double sum = 0, counted = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = target.index[i];
      C value = 0;
      if (t != target.ignore_index) {
        if (uint64_t(t) >= uint64_t(s.classes)) {
          invalid.note(i);
          continue;
        }
        const C w = target.weight ? target.weight[t] : C(1);
        value = -w * number_at(x + (i / s.inner * s.classes + t) * s.inner + i % s.inner, half);
        counted += double(w);
      }
      if (each)
        loss[i] = value;
      else
        sum += double(value);
    }
    losses[chunk] = sum;
    weights[chunk] = counted;
  });
  const double count = weights.total();
  *normaliser = each ? C(1) : C(count);
  if (!each) *loss = C(target.reduction == Reduction::mean ? losses.total() / count : losses.total());
  return invalid.get();
}

template <class T>
int64_t nll_loss_backward(T* grad_x, const T* grad_loss, const ComputedIn<T>* normaliser,
                          ClassTargets<ComputedIn<T>> target, ClassShape s, Half half) {
  using C = ComputedIn<T>;
  const bool each = target.reduction == Reduction::none;
  C shared = each ? C(0) : number_at(grad_loss, half);
  if (target.reduction == Reduction::mean) shared /= *normaliser;
  FirstPosition invalid;
  // A task is a stretch of positions within one outer index: it clears their entries of every class, then
  // sets one each.
  const int64_t stretch = std::min<int64_t>(s.inner, 4096);
  const int64_t per_outer = stretch > 0 ? ceil_div(s.inner, stretch) : 0;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, s.classes * stretch));
  parallel_for(s.outer * per_outer, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t o = task / per_outer, first = task % per_outer * stretch,
                    last = std::min(first + stretch, s.inner);
      T* block = grad_x + o * s.classes * s.inner;
      if (s.inner == stretch)
        std::fill_n(block, s.classes * s.inner, T(0));
      else
        for (int64_t c = 0; c < s.classes; ++c)
          std::fill(block + c * s.inner + first, block + c * s.inner + last, T(0));
      for (int64_t j = first; j < last; ++j) {
        const int64_t i = o * s.inner + j, t = target.index[i];
        if (t == target.ignore_index) continue;
        if (uint64_t(t) >= uint64_t(s.classes)) {
          invalid.note(i);
          continue;
        }
        const C g = each ? number_at(grad_loss + i, half) : shared;
        const C value = -g * (target.weight ? target.weight[t] : C(1));
        if constexpr (sizeof(T) == 2)
          narrow(block + t * s.inner + j, &value, 1, half);
        else
          block[t * s.inner + j] = value;
      }
    }
  });
  return invalid.get();
}

#define FASTDL_INSTANTIATE(T, C)                                                             \
  template int64_t nll_loss_forward<T>(C*, C*, const T*, ClassTargets<C>, ClassShape, Half); \
  template int64_t nll_loss_backward<T>(T*, const T*, const C*, ClassTargets<C>, ClassShape, Half);
FASTDL_INSTANTIATE(float, float)
FASTDL_INSTANTIATE(double, double)
FASTDL_INSTANTIATE(uint16_t, float)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl

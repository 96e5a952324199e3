// Connectionist temporal classification; see ctc_loss.cpp.
#pragma once

#include <cstdint>

namespace fastdl {

// log_probs is (frames, batch, classes). Sequence b has input_lengths[b] <= frames frames and the labels
// targets[target_offsets[b] .. + target_lengths[b]]; lengths, offsets, labels and blank must be in range.
template <class T>
struct CtcProblem {
  const T* log_probs;
  const int64_t *targets, *input_lengths, *target_lengths, *target_offsets;
  int64_t frames, batch, classes, blank;
  int64_t states;  // 2 * the longest target + 1

  int64_t alpha_size() const { return batch * frames * states; }
};

// loss: one per sequence. alpha (batch, frames, states): log-probabilities of the prefixes, kept for
// backward.
template <class T>
void ctc_loss_forward(T* loss, T* alpha, const CtcProblem<T>& problem);
template <class T>
void ctc_loss_backward(T* grad_log_probs, const T* grad_loss, const T* loss, const T* alpha,
                       bool zero_infinity, const CtcProblem<T>& problem);

}  // namespace fastdl

"""Connectionist temporal classification: the forward-backward recursion on logarithms, one state at a
time."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["ctc_loss_backward", "ctc_loss_forward"]


def _states(target: Array, blank: int) -> Array:
    """The target with a blank around every label."""
    states = np.full(2 * len(target) + 1, blank)
    states[1::2] = target
    return states


def _alpha(y: Array, states: Array) -> Array:
    """alpha[t, s]: log-probability of the first t + 1 frames spelling a prefix that ends in state s. y:
    (frames, states)."""
    alpha = np.full(y.shape, -np.inf, y.dtype)
    for t, frame in enumerate(y):
        for s in range(len(states)):
            if t == 0:
                paths = [0.0 if s < 2 else -np.inf]
            else:
                paths = [alpha[t - 1, s]]
                if s >= 1:
                    paths.append(alpha[t - 1, s - 1])
                if s >= 2 and s % 2 and states[s] != states[s - 2]:
                    paths.append(alpha[t - 1, s - 2])
            alpha[t, s] = frame[s] + np.logaddexp.reduce(paths)
    return alpha


def ctc_loss_forward(
    log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank: int
) -> tuple[Array, Array]:
    """log_probs (frames, batch, classes), targets (batch, longest). Returns the losses and alpha (batch,
    frames, states)."""
    frames, batch, _ = log_probs.shape
    longest = int(target_lengths.max(initial=0))
    alpha = np.full((batch, frames, 2 * longest + 1), -np.inf, log_probs.dtype)
    loss = np.empty(batch, log_probs.dtype)
    for b in range(batch):
        T, states = int(input_lengths[b]), _states(targets[b, : target_lengths[b]], blank)
        if T == 0:
            loss[b] = 0 if len(states) == 1 else np.inf
            continue
        a = _alpha(log_probs[:T, b][:, states], states)
        alpha[b, :T, : len(states)] = a
        loss[b] = -np.logaddexp.reduce(a[-1, -2:])
    return loss, alpha


def ctc_loss_backward(
    grad_loss: Array,
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    loss: Array,
    alpha: Array,
    blank: int,
    zero_infinity: bool,
) -> Array:
    """g (exp(log_probs) - posterior), the gradient for logits under a log_softmax, as PyTorch defines it;
    zero behind a sequence's last frame. Impossible sequences: zero if ``zero_infinity``, else NaN."""
    grad = np.zeros_like(log_probs)
    for b in range(log_probs.shape[1]):
        T, states = int(input_lengths[b]), _states(targets[b, : target_lengths[b]], blank)
        if loss[b] == np.inf:
            grad[:T, b] = 0 if zero_infinity else np.nan
            continue
        y = log_probs[:T, b][:, states]
        beta = _alpha(y[::-1, ::-1], states[::-1])[::-1, ::-1]  # the recursion is its own mirror image
        with np.errstate(invalid="ignore"):
            share = np.where(y == -np.inf, 0, np.exp(alpha[b, :T, : len(states)] + beta - y + loss[b]))
        posterior = np.zeros((T, log_probs.shape[2]), log_probs.dtype)
        for s, label in enumerate(states):
            posterior[:, label] += share[:, s]
        grad[:T, b] = grad_loss[b] * (np.exp(log_probs[:T, b]) - posterior)
    return grad

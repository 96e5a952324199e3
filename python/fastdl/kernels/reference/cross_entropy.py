"""Softmax cross entropy from class indices or probabilities, and the negative log likelihood of log-
probabilities.

``dim`` is the class dimension of the logits x; positions are x's shape without it. Indices are int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.kernels.reference.softmax import log_softmax_forward

Array = np.ndarray[Any, Any]

__all__ = [
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cross_entropy_probabilities_backward",
    "cross_entropy_probabilities_forward",
    "nll_loss_backward",
    "nll_loss_forward",
]


def _weights(weight: Array | None, classes: int, dtype: Any) -> Array:
    return np.ones(classes, dtype) if weight is None else weight


def _counted(target: Array, classes: int, ignore_index: int, op: str) -> Array:
    """Which positions count; an index out of range is an error."""
    invalid = np.argwhere((target != ignore_index) & ((target < 0) | (target >= classes)))
    if len(invalid):
        position = tuple(int(i) for i in invalid[0])
        name = f"target[{', '.join(map(str, position))}]" if position else "target"
        raise IndexError(
            f"{op}: {name} = {target[position]} is out of range for {classes} classes (labels run from 0 to "
            f"{classes - 1}; ignore_index is {ignore_index})"
        )
    return target != ignore_index  # type: ignore[no-any-return]


def _reduce(losses: Array, normaliser: Any, reduction: str) -> Array:
    if reduction == "none":
        return losses
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing counted: 0 / 0
        total = losses.sum(dtype=np.float64)
        return np.asarray(total / normaliser if reduction == "mean" else total, losses.dtype)


def _distribution(
    x: Array, target: Array, weight: Array | None, dim: int, ignore_index: int, smoothing: float, op: str
) -> tuple[Array, Array]:
    """Per position (classes last): w_c q_c, zero if ignored; and the weight of its target."""
    classes = x.shape[dim]
    counted = _counted(target, classes, ignore_index, op)
    index = np.where(counted, target, 0)
    w = _weights(weight, classes, x.dtype)
    one_hot = index[..., None] == np.arange(classes)
    q = w * ((1 - smoothing) * one_hot + smoothing / max(classes, 1)) * counted[..., None]
    return q.astype(x.dtype), (w[index] * counted if classes else np.zeros(target.shape, x.dtype))


def cross_entropy_forward(
    x: Array,
    target: Array,
    weight: Array | None,
    dim: int,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> tuple[Array, Array, Array]:
    """loss = -sum_c w_c q_c log softmax(x)_c with q = (1 - s) [c == target] + s / C; "mean" divides by the
    sum of the weights of the targets that count.

    Returns the loss, statistics (per position the maximum m and log sum exp(x - m)), and the divisor.
    """
    q, target_weights = _distribution(x, target, weight, dim, ignore_index, label_smoothing, "cross_entropy")
    counted = target != ignore_index
    logp = np.moveaxis(log_softmax_forward(x, dim), dim, -1)
    with np.errstate(invalid="ignore"):
        if label_smoothing == 0:  # a class of probability zero does not count, even at log-probability -inf
            picked = np.take_along_axis(logp, np.where(counted, target, 0)[..., None], -1)[..., 0]
            losses = -target_weights * picked
        else:
            losses = -(q * logp).sum(-1)
        losses = np.where(counted, losses, 0).astype(x.dtype)
        maximum = np.moveaxis(x, dim, -1).max(-1, initial=-np.inf)
        log_sum = np.log(np.exp(np.moveaxis(x, dim, -1) - maximum[..., None]).sum(-1))
    normaliser = np.asarray(1 if reduction == "none" else target_weights.sum(dtype=np.float64), x.dtype)
    return _reduce(losses, normaliser, reduction), np.stack([maximum, log_sum]).astype(x.dtype), normaliser


def _upstream(grad_loss: Array, normaliser: Any, reduction: str) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(grad_loss / normaliser if reduction == "mean" else grad_loss)


def cross_entropy_backward(
    grad_loss: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    statistics: Array,
    normaliser: Array,
    dim: int,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Array:
    """grad_x_c = g (softmax(x)_c sum_k w_k q_k - w_c q_c), zero where ignored."""
    q, _ = _distribution(x, target, weight, dim, ignore_index, label_smoothing, "cross_entropy_backward")
    p = np.exp(np.moveaxis(x, dim, -1) - statistics[0][..., None] - statistics[1][..., None])
    g = _upstream(grad_loss, normaliser, reduction)[..., None]
    with np.errstate(invalid="ignore"):
        grad = np.where((target != ignore_index)[..., None], g * (p * q.sum(-1, keepdims=True) - q), 0)
    return np.ascontiguousarray(np.moveaxis(grad.astype(x.dtype), -1, dim))


def cross_entropy_probabilities_forward(
    x: Array, target: Array, weight: Array | None, dim: int, label_smoothing: float, reduction: str
) -> tuple[Array, Array]:
    """loss = -sum_c w_c q_c log softmax(x)_c with q = (1 - s) target + s / C; "mean" divides by the
    positions.

    Returns the loss and statistics (per position m, log sum exp(x - m), sum_c w_c q_c).
    """
    logits = np.moveaxis(x, dim, -1)
    classes = logits.shape[-1]
    q = _weights(weight, classes, x.dtype) * (
        np.moveaxis(target, dim, -1) * (1 - label_smoothing) + label_smoothing / max(classes, 1)
    )
    with np.errstate(invalid="ignore"):
        losses = -(q * np.moveaxis(log_softmax_forward(x, dim), dim, -1)).sum(-1, dtype=x.dtype)
        maximum = logits.max(-1, initial=-np.inf)
        log_sum = np.log(np.exp(logits - maximum[..., None]).sum(-1))
    statistics = np.stack([maximum, log_sum, q.sum(-1)]).astype(x.dtype)
    return _reduce(np.asarray(losses), np.float64(losses.size), reduction), statistics


def cross_entropy_probabilities_backward(
    grad_loss: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    statistics: Array,
    dim: int,
    label_smoothing: float,
    reduction: str,
) -> Array:
    """grad_x_c = g (softmax(x)_c sum_k w_k q_k - w_c q_c)"""
    logits = np.moveaxis(x, dim, -1)
    classes = logits.shape[-1]
    q = _weights(weight, classes, x.dtype) * (
        np.moveaxis(target, dim, -1) * (1 - label_smoothing) + label_smoothing / max(classes, 1)
    )
    p = np.exp(logits - statistics[0][..., None] - statistics[1][..., None])
    positions = logits.size // max(classes, 1)
    g = _upstream(grad_loss, x.dtype.type(positions), reduction)[..., None]
    return np.ascontiguousarray(
        np.moveaxis((g * (p * statistics[2][..., None] - q)).astype(x.dtype), -1, dim)
    )


def nll_loss_forward(
    x: Array, target: Array, weight: Array | None, dim: int, ignore_index: int, reduction: str
) -> tuple[Array, Array]:
    """loss = -w_t x_t, zero where ignored; "mean" divides by the sum of w_t. Returns the loss and the
    divisor."""
    logp = np.moveaxis(x, dim, -1)
    counted = _counted(target, logp.shape[-1], ignore_index, "nll_loss")
    index = np.where(counted, target, 0)
    weights = np.where(counted, _weights(weight, logp.shape[-1], x.dtype)[index], 0)
    picked = np.take_along_axis(logp, index[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore"):
        losses = np.where(counted, -weights * picked, 0).astype(x.dtype)
    normaliser = np.asarray(1 if reduction == "none" else weights.sum(dtype=np.float64), x.dtype)
    return _reduce(losses, normaliser, reduction), normaliser


def nll_loss_backward(
    grad_loss: Array,
    target: Array,
    weight: Array | None,
    normaliser: Array,
    classes: int,
    dim: int,
    ignore_index: int,
    reduction: str,
) -> Array:
    """grad_x is -g w_t at the target, zero elsewhere."""
    counted = _counted(target, classes, ignore_index, "nll_loss_backward")
    index = np.where(counted, target, 0)
    g = _upstream(grad_loss, normaliser, reduction)
    value = np.where(counted, -g * _weights(weight, classes, grad_loss.dtype)[index], 0)
    grad = np.zeros((*target.shape, classes), grad_loss.dtype)
    np.put_along_axis(grad, index[..., None], np.asarray(value, grad_loss.dtype)[..., None], -1)
    return np.ascontiguousarray(np.moveaxis(grad, -1, dim))

"""Losses that compare arrays element by element. Each is a value and its slope for the first array; the
gradient is grad_loss times the slope, and "mean" divides by the number of elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = [
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "binary_cross_entropy_with_logits_backward",
    "binary_cross_entropy_with_logits_forward",
    "gaussian_nll_loss_backward",
    "gaussian_nll_loss_backward_variance",
    "gaussian_nll_loss_forward",
    "hinge_embedding_loss_backward",
    "hinge_embedding_loss_forward",
    "huber_loss_backward",
    "huber_loss_forward",
    "kl_div_backward",
    "kl_div_forward",
    "l1_loss_backward",
    "l1_loss_forward",
    "margin_ranking_loss_backward",
    "margin_ranking_loss_forward",
    "mse_loss_backward",
    "mse_loss_forward",
    "poisson_nll_loss_backward",
    "poisson_nll_loss_forward",
    "smooth_l1_loss_backward",
    "smooth_l1_loss_forward",
    "soft_margin_loss_backward",
    "soft_margin_loss_forward",
]


def _forward(x: Array, losses: Callable[[], Any], reduction: str) -> Array:
    with np.errstate(all="ignore"):  # NaN and infinities are results here
        values = np.asarray(losses(), x.dtype)
        if reduction == "none":
            return values
        total = values.sum(dtype=np.float64)
        return np.asarray(total / np.float64(x.size) if reduction == "mean" else total, x.dtype)


def _backward(grad_loss: Array, x: Array, slopes: Callable[[], Any], reduction: str) -> Array:
    with np.errstate(all="ignore"):
        g = grad_loss / x.dtype.type(x.size) if reduction == "mean" else grad_loss
        return np.asarray(g * slopes(), x.dtype)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)) + 0 * x)


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def mse_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    """(x - t)^2"""
    return _forward(x, lambda: (x - target) ** 2, reduction)


def mse_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: 2 * (x - target), reduction)


def l1_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    """abs(x - t)"""
    return _forward(x, lambda: np.abs(x - target), reduction)


def l1_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: np.where(x > target, 1, np.where(x < target, -1, 0)), reduction)


def smooth_l1_loss_forward(x: Array, target: Array, beta: float, reduction: str) -> Array:
    """d^2 / (2 beta) for d = abs(x - t) < beta, else d - beta / 2"""

    def losses() -> Any:
        d = np.abs(x - target)
        return np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)

    return _forward(x, losses, reduction)


def smooth_l1_loss_backward(grad_loss: Array, x: Array, target: Array, beta: float, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: np.clip((x - target) / beta, -1, 1), reduction)


def huber_loss_forward(x: Array, target: Array, delta: float, reduction: str) -> Array:
    """d^2 / 2 for d = abs(x - t) <= delta, else delta (d - delta / 2)"""

    def losses() -> Any:
        d = np.abs(x - target)
        return np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))

    return _forward(x, losses, reduction)


def huber_loss_backward(grad_loss: Array, x: Array, target: Array, delta: float, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: np.clip(x - target, -delta, delta), reduction)


def binary_cross_entropy_forward(x: Array, target: Array, weight: Array | None, reduction: str) -> Array:
    """-w (t log x + (1 - t) log(1 - x)), logarithms no lower than -100"""
    hint = ". For logits use binary_cross_entropy_with_logits"
    for name, values, more in (("input", x, hint), ("target", target, "")):
        outside = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(outside):
            raise ValueError(
                f"binary_cross_entropy: {name} must lie in [0, 1]; element {outside[0]} is "
                f"{values.flat[outside[0]]}{more}"
            )

    def losses() -> Any:
        log_x, log_rest = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
        return (1 if weight is None else weight) * ((target - 1) * log_rest - target * log_x)

    return _forward(x, losses, reduction)


def binary_cross_entropy_backward(
    grad_loss: Array, x: Array, target: Array, weight: Array | None, reduction: str
) -> Array:
    w = 1 if weight is None else weight
    return _backward(
        grad_loss, x, lambda: w * (x - target) / np.maximum((1 - x) * x, x.dtype.type(1e-12)), reduction
    )


def binary_cross_entropy_with_logits_forward(
    x: Array, target: Array, weight: Array | None, pos_weight: Array | None, reduction: str
) -> Array:
    """-w (p t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), p = pos_weight"""
    w, p = 1 if weight is None else weight, 1 if pos_weight is None else pos_weight
    return _forward(x, lambda: w * ((1 - target) * x + (1 + (p - 1) * target) * _softplus(-x)), reduction)


def binary_cross_entropy_with_logits_backward(
    grad_loss: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    pos_weight: Array | None,
    reduction: str,
) -> Array:
    w, p = 1 if weight is None else weight, 1 if pos_weight is None else pos_weight
    return _backward(
        grad_loss, x, lambda: w * ((p * target + 1 - target) * _sigmoid(x) - p * target), reduction
    )


def kl_div_forward(x: Array, target: Array, log_target: bool, reduction: str) -> Array:
    """t (log t - x), with x a log-probability; with log_target exp(t) (t - x)"""
    if log_target:
        return _forward(x, lambda: np.exp(target) * (target - x), reduction)
    return _forward(x, lambda: np.where(target == 0, 0, target * np.log(target)) - target * x, reduction)


def kl_div_backward(grad_loss: Array, x: Array, target: Array, log_target: bool, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: -np.exp(target) if log_target else -target, reduction)


def poisson_nll_loss_forward(
    x: Array, target: Array, log_input: bool, full: bool, eps: float, reduction: str
) -> Array:
    """exp(x) - t x with log_input, else x - t log(x + eps); full adds Stirling's log(t!) where t > 1"""

    def losses() -> Any:
        values = np.exp(x) - target * x if log_input else x - target * np.log(x + x.dtype.type(eps))
        if full:
            stirling = target * np.log(target) - target + 0.5 * np.log(2 * np.pi * target)
            values = values + np.where(target > 1, stirling, 0)
        return values

    return _forward(x, losses, reduction)


def poisson_nll_loss_backward(
    grad_loss: Array, x: Array, target: Array, log_input: bool, eps: float, reduction: str
) -> Array:
    return _backward(
        grad_loss,
        x,
        lambda: np.exp(x) - target if log_input else 1 - target / (x + x.dtype.type(eps)),
        reduction,
    )


def gaussian_nll_loss_forward(
    x: Array, target: Array, var: Array, full: bool, eps: float, reduction: str
) -> Array:
    """(log v + (x - t)^2 / v) / 2 with v = max(var, eps); full adds log(2 pi) / 2"""

    def losses() -> Any:
        v = np.maximum(var, x.dtype.type(eps))
        constant = 0.5 * np.log(2 * np.pi) if full else 0.0
        return 0.5 * (np.log(v) + (x - target) ** 2 / v) + constant

    return _forward(x, losses, reduction)


def gaussian_nll_loss_backward(
    grad_loss: Array, x: Array, target: Array, var: Array, eps: float, reduction: str
) -> Array:
    return _backward(grad_loss, x, lambda: (x - target) / np.maximum(var, x.dtype.type(eps)), reduction)


def gaussian_nll_loss_backward_variance(
    grad_loss: Array, x: Array, target: Array, var: Array, eps: float, reduction: str
) -> Array:
    """The gradient for var: (1 - (x - t)^2 / v) / (2 v), also where eps replaced var (as in PyTorch)."""

    def slopes() -> Array:
        v = np.maximum(var, x.dtype.type(eps))
        return 0.5 * (1 - (x - target) ** 2 / v) / v  # type: ignore[no-any-return]

    return _backward(grad_loss, x, slopes, reduction)


def soft_margin_loss_forward(x: Array, target: Array, reduction: str) -> Array:
    """log(1 + exp(-t x))"""
    return _forward(x, lambda: _softplus(-target * x), reduction)


def soft_margin_loss_backward(grad_loss: Array, x: Array, target: Array, reduction: str) -> Array:
    return _backward(grad_loss, x, lambda: -target * _sigmoid(-target * x), reduction)


def hinge_embedding_loss_forward(x: Array, target: Array, margin: float, reduction: str) -> Array:
    """x where t = 1, max(0, margin - x) where t = -1"""
    return _forward(
        x,
        lambda: np.where(target != 1, np.maximum(margin - x, 0), 0) + np.where(target != -1, x, 0),
        reduction,
    )


def hinge_embedding_loss_backward(
    grad_loss: Array, x: Array, target: Array, margin: float, reduction: str
) -> Array:
    return _backward(
        grad_loss,
        x,
        lambda: np.where((target != 1) & (margin - x >= 0), -1, 0) + np.where(target != -1, 1, 0),
        reduction,
    )


def margin_ranking_loss_forward(x1: Array, x2: Array, target: Array, margin: float, reduction: str) -> Array:
    """max(0, margin - t (x1 - x2))"""
    return _forward(x1, lambda: np.maximum(margin - target * (x1 - x2), 0), reduction)


def margin_ranking_loss_backward(
    grad_loss: Array, x1: Array, x2: Array, target: Array, margin: float, reduction: str
) -> Array:
    """The gradient for x1; that for x2 is its negative."""
    return _backward(grad_loss, x1, lambda: np.where(margin - target * (x1 - x2) >= 0, -target, 0), reduction)

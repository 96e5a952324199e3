"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["log_softmax_backward", "log_softmax_forward", "softmax_backward", "softmax_forward"]


def softmax_forward(x: Array, dim: int) -> Array:
    """y_c = exp(x_c) / sum_k exp(x_k), computed relative to the maximum so that nothing overflows."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as it must be
        e = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=dim, keepdims=True)  # type: ignore[no-any-return]


def softmax_backward(grad_y: Array, y: Array, dim: int) -> Array:
    """grad_x = y * (grad_y - sum_k grad_y_k y_k)"""
    return y * (grad_y - (grad_y * y).sum(axis=dim, keepdims=True))  # type: ignore[no-any-return]


def log_softmax_forward(x: Array, dim: int) -> Array:
    """y_c = x_c - log(sum_k exp(x_k))"""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shifted = x - np.max(x, axis=dim, keepdims=True, initial=-np.inf)
        return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))  # type: ignore[no-any-return]


def log_softmax_backward(grad_y: Array, y: Array, dim: int) -> Array:
    """grad_x = grad_y - exp(y) * sum_k grad_y_k"""
    return grad_y - np.exp(y) * grad_y.sum(axis=dim, keepdims=True)  # type: ignore[no-any-return]

"""Activation functions: y = f(x), elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["relu_backward", "relu_forward"]


def relu_forward(x: Array) -> Array:
    """y = max(x, 0); NaN stays NaN."""
    return np.maximum(x, 0)


def relu_backward(grad_y: Array, y: Array) -> Array:
    """grad_x = grad_y where y > 0, else 0."""
    return np.where(y > 0, grad_y, 0).astype(y.dtype)

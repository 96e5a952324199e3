"""Matrix products and the linear layer: y = x W^T + b."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.kernels.reference import activation as functions

Array = np.ndarray[Any, Any]

__all__ = ["linear_backward", "linear_forward", "matmul"]


def matmul(a: Array, b: Array, c: Array | None = None, alpha: float = 1.0, beta: float = 1.0) -> Array:
    """alpha * a @ b + beta * c; a (..., M, K), b (..., K, N), c broadcasts to (..., M, N).

    A vector a (K,) is a row, a vector b (K,) a column, whose axis the result has not.

    A factor of exactly zero removes its term, NaN and infinities included.
    """
    product = np.matmul(a, b)
    y: Array = product
    if alpha == 0:
        y = np.zeros_like(product)
    elif alpha != 1:
        y = product.dtype.type(alpha) * product
    if c is None or beta == 0:
        return y
    total: Array = y + y.dtype.type(beta) * c
    return total


def _activate(x: Array, name: str) -> Array:
    if name not in ("none", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"):
        raise ValueError(
            f"linear: activation must be none, relu, sigmoid, tanh, silu, gelu or gelu_tanh, got '{name}'"
        )
    y: Array = x if name == "none" else getattr(functions, f"{name}_forward")(x)
    return y


def linear_forward(x: Array, weight: Array, bias: Array | None, activation: str = "none") -> Array:
    """activation(x @ weight.T + bias); x (..., K), weight (N, K), bias (N,) or None -> (..., N)."""
    y = np.matmul(x, weight.T)
    return _activate(y if bias is None else y + bias, activation)


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Array | None, Array | None, Array | None]:
    """(grad_x, grad_weight, grad_bias) of linear_forward without activation; None where not needed."""
    count = prod(grad_y.shape[:-1])
    rows = grad_y.reshape(count, weight.shape[0])
    return (
        np.matmul(grad_y, weight) if need_x else None,
        rows.T @ x.reshape(count, weight.shape[1]) if need_weight else None,
        rows.sum(0) if need_bias else None,
    )

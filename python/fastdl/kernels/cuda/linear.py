"""Matrix products and the linear layer; see :mod:`fastdl.kernels.reference.linear`.

Products without anything to fuse go to the array's own library: for CuPy that is cuBLAS, which multiplies float32 in
TF32 if ``set_float32_matmul_precision`` allows it.
"""

from __future__ import annotations

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels import precisions
from fastdl.kernels.cuda import activation as functions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import add_forward, addcmul_forward, mul_forward
from fastdl.kernels.cuda.reduce import sum_forward

__all__ = ["linear_backward", "linear_forward", "matmul"]

_ACTIVATIONS = ("none", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh")


def _product(a: Array, b: Array) -> Array:
    if a.dtype == np.float32:
        device.of(a).allow_tf32(precisions.matmul != "highest")
    return a @ b


def matmul(a: Array, b: Array, c: Array | None = None, alpha: float = 1.0, beta: float = 1.0) -> Array:
    device.code("matmul", a, b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ArgumentError(f"matmul: shapes {a.shape} and {b.shape} cannot be multiplied")
    y = _product(a, b)
    if alpha == 0:
        y = device.of(a).zeros(y.shape, y.dtype)
    elif alpha != 1:
        y = mul_forward(y, alpha)
    return y if c is None or beta == 0 else addcmul_forward(y, c, 1.0, beta)


def linear_forward(x: Array, weight: Array, bias: Array | None, activation: str = "none") -> Array:
    device.code("linear", x, weight)
    if activation not in _ACTIVATIONS:
        raise ArgumentError(
            f"linear: activation must be none, relu, sigmoid, tanh, silu, gelu or gelu_tanh, got '{activation}'"
        )
    y = _product(x, weight.T)
    if bias is not None:
        y = add_forward(y, bias)
    return y if activation == "none" else getattr(functions, f"{activation}_forward")(y)


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Array | None, Array | None, Array | None]:
    device.code("linear_backward", grad_y, x, weight)
    rows = device.contiguous(grad_y).reshape(-1, weight.shape[0])
    columns = device.contiguous(x).reshape(-1, weight.shape[1])
    return (
        _product(grad_y, weight) if need_x else None,
        _product(rows.T, columns) if need_weight else None,
        sum_forward(rows, (0,)) if need_bias else None,
    )

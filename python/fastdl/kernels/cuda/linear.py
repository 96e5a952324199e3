"""Matrix products and the linear layer; see :mod:`fastdl.kernels.reference.linear`.

Products are cuBLAS's (``products.py``), which multiplies float32 in TF32 if ``set_float32_matmul_precision`` allows it.
"""

from __future__ import annotations

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import activation as functions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import add_forward, addcmul_forward
from fastdl.kernels.cuda.products import product, rows_of
from fastdl.kernels.cuda.reduce import sum_forward

__all__ = ["linear_backward", "linear_forward", "matmul"]

_ACTIVATIONS = ("none", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh")


def matmul(a: Array, b: Array, c: Array | None = None, alpha: float = 1.0, beta: float = 1.0) -> Array:
    y = product("matmul", a, b, alpha)
    return y if c is None or beta == 0 else addcmul_forward(y, c, 1.0, beta)


def linear_forward(x: Array, weight: Array, bias: Array | None, activation: str = "none") -> Array:
    if activation not in _ACTIVATIONS:
        raise ArgumentError(
            f"linear: activation must be none, relu, sigmoid, tanh, silu, gelu or gelu_tanh, got '{activation}'"
        )
    y = product("linear", rows_of(x), weight.T)
    if bias is not None:
        y = add_forward(y, bias, y)
    if activation != "none":
        y = getattr(functions, f"{activation}_forward")(y)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Array | None, Array | None, Array | None]:
    device.code("linear_backward", grad_y, x, weight)
    grad_rows = rows_of(grad_y)
    grad_x = product("linear_backward", grad_rows, weight) if need_x else None
    if grad_x is not None and x.ndim != 2:
        grad_x = grad_x.reshape(x.shape)
    return (
        grad_x,
        product("linear_backward", grad_rows.T, rows_of(x)) if need_weight else None,
        sum_forward(grad_rows, (0,)) if need_bias else None,
    )

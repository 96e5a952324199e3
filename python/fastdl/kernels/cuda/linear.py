"""Matrix products and the linear layer; see :mod:`fastdl.kernels.reference.linear`.

Products are cuBLAS's (``products.py``), which multiplies float32 in TF32 if ``set_float32_matmul_precision`` allows it.
"""

from __future__ import annotations

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import activation as functions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import addcmul_forward
from fastdl.kernels.cuda.products import Matrix, multiply, product, rows_of, turned
from fastdl.kernels.cuda.reduce import sum_over

__all__ = ["linear_backward", "linear_forward", "matmul"]

_FIRST = [0]
_ACTIVATIONS = ("none", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh")


def matmul(a: Array, b: Array, c: Array | None = None, alpha: float = 1.0, beta: float = 1.0) -> Array:
    rows, columns = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    y = product("matmul", rows, columns, alpha)
    if b.ndim == 1:
        y = y[..., 0]
    if a.ndim == 1:
        y = y[..., 0] if b.ndim == 1 else y[..., 0, :]
    return y if c is None or beta == 0 else addcmul_forward(y, c, 1.0, beta)


def column_sums(matrix: Matrix) -> Array:
    """The sum of a matrix's rows."""
    return sum_over(*matrix, _FIRST)


def linear_forward(x: Array, weight: Array, bias: Array | None, activation: str = "none") -> Array:
    if activation not in _ACTIVATIONS:
        raise ArgumentError(
            f"linear: activation must be none, relu, sigmoid, tanh, silu, gelu or gelu_tanh, got '{activation}'"
        )
    number = device.code("linear", x, weight) if bias is None else device.code("linear", x, weight, bias)
    rows, columns = rows_of(x), rows_of(weight)
    outputs, inputs = columns[1]
    if rows[1][1] != inputs:
        raise ArgumentError(f"linear: x of shape {x.shape} does not fit a weight of shape {weight.shape}")
    runtime = device.of(x)
    y = multiply(runtime, number, (*x.shape[:-1], outputs), rows, turned(columns))
    if bias is not None:
        if bias.shape != (outputs,):
            raise ArgumentError(f"linear: bias must have shape ({outputs},), got {bias.shape}")
        item = x.itemsize
        sums = runtime.pointer(y), (outputs * item, item)
        added = runtime.pointer(bias), (0, *bias.strides)
        runtime.extension.binary("add", number, (rows[1][0], outputs), sums, sums, added, runtime.stream())
    return y if activation == "none" else getattr(functions, f"{activation}_forward")(y)


def linear_backward(
    grad_y: Array, x: Array, weight: Array, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Array | None, Array | None, Array | None]:
    number, runtime = device.code("linear_backward", grad_y, x, weight), device.of(x)
    grad_rows = rows_of(grad_y)
    grad_x = grad_weight = grad_bias = None
    if need_x:
        grad_x = multiply(runtime, number, x.shape, grad_rows, rows_of(weight))
    if need_weight:
        grad_weight = multiply(runtime, number, weight.shape, turned(grad_rows), rows_of(x))
    if need_bias:
        grad_bias = column_sums(grad_rows)
    return grad_x, grad_weight, grad_bias

"""Dropout and its kin; see :mod:`fastdl.kernels.reference.random`. The masks are the CPU's, bit for bit."""

from __future__ import annotations

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = ["dropout_backward", "dropout_forward", "rrelu_backward", "rrelu_forward"]


def dropout_forward(
    x: Array,
    p: float,
    scale: float,
    seed: int,
    offset: int,
    length: int = 1,
    kept_bias: float = 0.0,
    dropped_bias: float = 0.0,
) -> Array:
    number = device.code("dropout", x)
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p must be between 0 and 1, got {p}")
    if length < 1 or x.size % length:
        raise ArgumentError(f"dropout: length must divide the number of elements, got {length} and {x.size}")
    runtime, x = device.of(x), contiguous(x)
    y = runtime.empty(x.shape, x.dtype)
    runtime.extension.dropout(
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        x.size,
        length,
        p,
        scale,
        kept_bias,
        dropped_bias,
        seed,
        offset,
        runtime.stream(),
    )
    return y


def dropout_backward(grad_y: Array, p: float, scale: float, seed: int, offset: int, length: int = 1) -> Array:
    return dropout_forward(grad_y, p, scale, seed, offset, length)


def _rrelu(grad_y: Array | None, x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    number = device.code("rrelu", x)
    runtime, x = device.of(x), contiguous(x)
    out = runtime.empty(x.shape, x.dtype)
    runtime.extension.rrelu(
        number,
        runtime.pointer(out),
        runtime.pointer(grad_y),
        runtime.pointer(x),
        x.size,
        lower,
        upper,
        seed,
        offset,
        runtime.stream(),
    )
    return out


def rrelu_forward(x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    return _rrelu(None, x, lower, upper, seed, offset)


def rrelu_backward(grad_y: Array, x: Array, lower: float, upper: float, seed: int, offset: int) -> Array:
    device.code("rrelu_backward", x, grad_y)
    device.same_shape("rrelu_backward", grad_y, x, "grad_y and x")
    return _rrelu(contiguous(grad_y), x, lower, upper, seed, offset)

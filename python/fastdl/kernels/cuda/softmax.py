"""Softmax and its logarithm; see :mod:`fastdl.kernels.reference.softmax`."""

from __future__ import annotations

from math import prod

from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

__all__ = ["log_softmax_backward", "log_softmax_forward", "softmax_backward", "softmax_forward"]


def _forward(op: str, log: bool, x: Array, dim: int) -> Array:
    number = device.code(op, x)
    device.axis(op, dim, x.ndim)
    runtime, x = device.of(x), device.contiguous(x)
    y = runtime.empty(x.shape, x.dtype)
    runtime.extension.softmax_forward(
        log,
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        prod(x.shape[:dim]),
        x.shape[dim],
        prod(x.shape[dim + 1 :]),
        runtime.stream(),
    )
    return y


def _backward(op: str, log: bool, grad_y: Array, y: Array, dim: int) -> Array:
    number = device.code(op, grad_y, y)
    device.same_shape(op, grad_y, y, "grad_y and y")
    device.axis(op, dim, y.ndim)
    runtime, grad_y, y = device.of(y), device.contiguous(grad_y), device.contiguous(y)
    grad_x = runtime.empty(y.shape, y.dtype)
    runtime.extension.softmax_backward(
        log,
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(y),
        prod(y.shape[:dim]),
        y.shape[dim],
        prod(y.shape[dim + 1 :]),
        runtime.stream(),
    )
    return grad_x


def softmax_forward(x: Array, dim: int) -> Array:
    return _forward("softmax", False, x, dim)


def softmax_backward(grad_y: Array, y: Array, dim: int) -> Array:
    return _backward("softmax_backward", False, grad_y, y, dim)


def log_softmax_forward(x: Array, dim: int) -> Array:
    return _forward("log_softmax", True, x, dim)


def log_softmax_backward(grad_y: Array, y: Array, dim: int) -> Array:
    return _backward("log_softmax_backward", True, grad_y, y, dim)

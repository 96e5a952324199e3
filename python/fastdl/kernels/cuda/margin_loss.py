"""Losses that compare scores of classes with a margin; see :mod:`fastdl.kernels.reference.margin_loss`. Targets out of
range are reported when the device is next waited for."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = [
    "multi_margin_loss_backward",
    "multi_margin_loss_forward",
    "multilabel_margin_loss_backward",
    "multilabel_margin_loss_forward",
]


def _problem(op: str, x: Array, target: Array, shape: tuple[int, ...]) -> tuple[Any, Any, Array]:
    """The loss as the extension wants it, and the target that it points to."""
    if x.ndim != 2 or target.shape != shape:
        raise ArgumentError(f"{op}: x must be (N, C) and target {shape}, got {x.shape} and {target.shape}")
    if target.dtype != np.int64:
        raise ArgumentError(f"{op}: target must be int64, got {target.dtype}")
    runtime, target = device.of(x), contiguous(target)
    report = runtime.pointer(runtime.report())
    return runtime, runtime.extension.MarginLoss(*x.shape, runtime.pointer(target), report), target


def _losses(op: str, grad_loss: Array, x: Array) -> Array:
    if grad_loss.shape != x.shape[:1]:
        raise ArgumentError(f"{op}: grad_loss must have shape {x.shape[:1]}, got {grad_loss.shape}")
    return contiguous(grad_loss)


def _power(op: str, p: int) -> None:
    if p not in (1, 2):
        raise ArgumentError(f"{op}: p must be 1 or 2, got {p}")


def multi_margin_loss_forward(x: Array, target: Array, weight: Array | None, p: int, margin: float) -> Array:
    op = "multi_margin_loss"
    _power(op, p)
    number = device.code(op, x) if weight is None else device.code(op, x, weight)
    runtime, problem, target = _problem(op, x, target, x.shape[:1])
    x, weight = contiguous(x), None if weight is None else contiguous(weight)
    losses, pointer = runtime.empty(x.shape[:1], x.dtype), runtime.pointer
    runtime.extension.multi_margin_forward(
        *(number, pointer(losses), pointer(x), pointer(weight), p, margin, problem, runtime.stream())
    )
    return losses


def multi_margin_loss_backward(
    grad_loss: Array, x: Array, target: Array, weight: Array | None, p: int, margin: float
) -> Array:
    op = "multi_margin_loss_backward"
    _power(op, p)
    number = device.code(op, x, grad_loss) if weight is None else device.code(op, x, grad_loss, weight)
    runtime, problem, target = _problem(op, x, target, x.shape[:1])
    grad_loss, x, weight = (
        _losses(op, grad_loss, x),
        contiguous(x),
        None if weight is None else contiguous(weight),
    )
    grad_x, pointer = runtime.empty(x.shape, x.dtype), runtime.pointer
    addresses = pointer(grad_x), pointer(grad_loss), pointer(x), pointer(weight)
    runtime.extension.multi_margin_backward(number, *addresses, p, margin, problem, runtime.stream())
    return grad_x


def multilabel_margin_loss_forward(x: Array, target: Array) -> Array:
    op = "multilabel_margin_loss"
    number = device.code(op, x)
    runtime, problem, target = _problem(op, x, target, x.shape)
    x = contiguous(x)
    losses, pointer = runtime.empty(x.shape[:1], x.dtype), runtime.pointer
    runtime.extension.multilabel_margin_forward(
        number, pointer(losses), pointer(x), problem, runtime.stream()
    )
    return losses


def multilabel_margin_loss_backward(grad_loss: Array, x: Array, target: Array) -> Array:
    op = "multilabel_margin_loss_backward"
    number = device.code(op, x, grad_loss)
    runtime, problem, target = _problem(op, x, target, x.shape)
    grad_loss, x = _losses(op, grad_loss, x), contiguous(x)
    named, grad_x = runtime.empty(x.shape, np.dtype(np.uint8)), runtime.empty(x.shape, x.dtype)
    pointer = runtime.pointer
    addresses = pointer(grad_x), pointer(grad_loss), pointer(x), pointer(named)
    runtime.extension.multilabel_margin_backward(number, *addresses, problem, runtime.stream())
    return grad_x

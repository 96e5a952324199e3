"""Softmax cross entropy and negative log likelihood; see :mod:`fastdl.kernels.reference.cross_entropy`.

Statistics and divisors are float32 for 16-bit logits. Labels are checked on the device: a bad one makes its position
count for nothing and is raised by :func:`fastdl.kernels.cuda.device.raise_reports`, when the device is next waited for.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous
from fastdl.kernels.cuda.elementwise import convert
from fastdl.kernels.cuda.reduce import total

__all__ = [
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cross_entropy_probabilities_backward",
    "cross_entropy_probabilities_forward",
    "nll_loss_backward",
    "nll_loss_forward",
]

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def _reduction(op: str, reduction: str) -> int:
    if reduction not in _REDUCTIONS:
        raise ArgumentError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return _REDUCTIONS[reduction]


class _Problem:
    """A loss as the extension wants it, and the arrays that it points to (kept alive here)."""

    def __init__(
        self,
        op: str,
        shape: tuple[int, ...],
        dtype: Any,
        target: Array,
        weight: Array | None,
        dim: int,
        ignore_index: int,
        smoothing: float,
        probabilities: bool = False,
    ) -> None:
        device.axis(op, dim, len(shape))
        self.runtime = runtime = device.of(target)
        self.positions = (*shape[:dim], *shape[dim + 1 :])
        classes = shape[dim]
        if probabilities:
            if target.shape != shape or target.dtype != dtype:
                raise ArgumentError(
                    f"{op}: target must be {shape} of {dtype}, got {target.shape} of {target.dtype}"
                )
        elif target.dtype != np.int64:
            raise DtypeError(f"{op}: target must be int64, got {target.dtype}")
        elif target.shape != self.positions:
            raise ArgumentError(f"{op}: target must have shape {self.positions}, got {target.shape}")
        self.target = contiguous(target)
        self.weight = self.weight_total = None
        if weight is not None:
            if weight.shape != (classes,) or weight.dtype != dtype:
                raise ArgumentError(
                    f"{op}: weight must be ({classes},) of {dtype}, got {weight.shape} of {weight.dtype}"
                )
            self.weight = contiguous(weight)
            if smoothing and not probabilities:
                self.weight_total = total(self.weight)
        pointer = runtime.pointer
        self.description = runtime.extension.CrossEntropy(
            prod(shape[:dim]),
            classes,
            prod(shape[dim + 1 :]),
            0 if probabilities else pointer(self.target),
            pointer(self.target) if probabilities else 0,
            pointer(self.weight),
            pointer(self.weight_total),
            ignore_index,
            smoothing,
        )

    def reduce(self, number: int, dtype: Any, losses: Array, reduction: int) -> tuple[Array, Array]:
        """The loss in x's dtype, and the divisor."""
        runtime = self.runtime
        normaliser = runtime.empty((), losses.dtype)
        loss = None if reduction == 0 else runtime.empty((), dtype)
        scratch = runtime.empty(runtime.extension.loss_scratch(losses.size), np.dtype(np.float64))
        runtime.extension.loss_reduce(
            number,
            runtime.pointer(loss),
            runtime.pointer(normaliser),
            runtime.pointer(losses),
            runtime.pointer(scratch),
            self.description,
            reduction,
            runtime.stream(),
        )
        return (convert(losses, dtype) if loss is None else loss), normaliser


def _forward(op: str, x: Array, problem: _Problem, reduction: str) -> tuple[Array, Array, Array]:
    number, how = device.code(op, x), _reduction(op, reduction)
    runtime, x = problem.runtime, contiguous(x)
    wide = device.compute_dtype(x.dtype)
    losses = runtime.empty(problem.positions, wide)
    rows = 2 if problem.target.dtype == np.int64 else 3
    statistics = runtime.empty((rows, *problem.positions), wide)
    runtime.extension.cross_entropy_forward(
        number,
        runtime.pointer(losses),
        runtime.pointer(statistics),
        runtime.pointer(x),
        problem.description,
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    loss, normaliser = problem.reduce(number, x.dtype, losses, how)
    return loss, statistics, normaliser


def _backward(
    op: str,
    grad_loss: Array,
    x: Array,
    problem: _Problem,
    statistics: Array,
    normaliser: Array | None,
    reduction: str,
) -> Array:
    number, how = device.code(op, x, grad_loss), _reduction(op, reduction)
    expected = problem.positions if how == 0 else ()
    if grad_loss.shape != expected:
        raise ArgumentError(f"{op}: grad_loss must have shape {expected}, got {grad_loss.shape}")
    wide = device.compute_dtype(x.dtype)
    if statistics.shape[1:] != problem.positions or statistics.dtype != wide:
        raise ArgumentError(f"{op}: statistics do not belong to logits of shape {x.shape}")
    runtime, x, grad_loss, statistics = (
        problem.runtime,
        contiguous(x),
        contiguous(grad_loss),
        contiguous(statistics),
    )
    grad_x = runtime.empty(x.shape, x.dtype)
    runtime.extension.cross_entropy_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_loss),
        runtime.pointer(x),
        runtime.pointer(statistics),
        runtime.pointer(normaliser),
        problem.description,
        how,
        runtime.stream(),
    )
    return grad_x


def cross_entropy_forward(
    x: Array,
    target: Array,
    weight: Array | None,
    dim: int,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> tuple[Array, Array, Array]:
    op = "cross_entropy"
    problem = _Problem(op, x.shape, x.dtype, target, weight, dim, ignore_index, label_smoothing)
    return _forward(op, x, problem, reduction)


def cross_entropy_backward(
    grad_loss: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    statistics: Array,
    normaliser: Array,
    dim: int,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Array:
    op = "cross_entropy_backward"
    problem = _Problem(op, x.shape, x.dtype, target, weight, dim, ignore_index, label_smoothing)
    return _backward(op, grad_loss, x, problem, statistics, normaliser, reduction)


def cross_entropy_probabilities_forward(
    x: Array, target: Array, weight: Array | None, dim: int, label_smoothing: float, reduction: str
) -> tuple[Array, Array]:
    op = "cross_entropy"
    problem = _Problem(op, x.shape, x.dtype, target, weight, dim, -1, label_smoothing, probabilities=True)
    return _forward(op, x, problem, reduction)[:2]


def cross_entropy_probabilities_backward(
    grad_loss: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    statistics: Array,
    dim: int,
    label_smoothing: float,
    reduction: str,
) -> Array:
    op = "cross_entropy_backward"
    problem = _Problem(op, x.shape, x.dtype, target, weight, dim, -1, label_smoothing, probabilities=True)
    return _backward(op, grad_loss, x, problem, statistics, None, reduction)


def nll_loss_forward(
    x: Array, target: Array, weight: Array | None, dim: int, ignore_index: int, reduction: str
) -> tuple[Array, Array]:
    number, how = device.code("nll_loss", x), _reduction("nll_loss", reduction)
    problem = _Problem("nll_loss", x.shape, x.dtype, target, weight, dim, ignore_index, 0.0)
    runtime, x = problem.runtime, contiguous(x)
    losses = runtime.empty(problem.positions, device.compute_dtype(x.dtype))
    runtime.extension.nll_loss_forward(
        number,
        runtime.pointer(losses),
        runtime.pointer(x),
        problem.description,
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return problem.reduce(number, x.dtype, losses, how)


def nll_loss_backward(
    grad_loss: Array,
    target: Array,
    weight: Array | None,
    normaliser: Array,
    classes: int,
    dim: int,
    ignore_index: int,
    reduction: str,
) -> Array:
    op = "nll_loss_backward"
    number, how = device.code(op, grad_loss), _reduction(op, reduction)
    shape = (*target.shape[:dim], classes, *target.shape[dim:])
    problem = _Problem(op, shape, grad_loss.dtype, target, weight, dim, ignore_index, 0.0)
    expected = problem.positions if how == 0 else ()
    if grad_loss.shape != expected:
        raise ArgumentError(f"{op}: grad_loss must have shape {expected}, got {grad_loss.shape}")
    runtime, grad_loss = problem.runtime, contiguous(grad_loss)
    grad_x = runtime.empty(shape, grad_loss.dtype)
    runtime.extension.nll_loss_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_loss),
        runtime.pointer(normaliser),
        problem.description,
        how,
        runtime.stream(),
    )
    return grad_x

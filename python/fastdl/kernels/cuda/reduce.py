"""Reductions; see :mod:`fastdl.kernels.reference.reduce`. Sums are accumulated in float32 (float64 in float64)."""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array

Axes = tuple[int, ...] | None

__all__ = [
    "amax_forward",
    "amin_forward",
    "broadcast_to",
    "count_true",
    "logsumexp_forward",
    "max_forward",
    "mean_forward",
    "min_forward",
    "nansum_forward",
    "norm_forward",
    "prod_forward",
    "running_logsumexp",
    "running_max",
    "running_min",
    "running_product",
    "running_sum",
    "sum_forward",
    "sum_product_to",
    "sum_to",
    "var_forward",
]


_BYTES = np.dtype(np.uint8)


def _problem(
    runtime: Any, x: Array, shape: tuple[int, ...], strides: tuple[int, ...], axes: list[int]
) -> tuple[Any, Array | None]:
    """A reduction as the extension wants it, and its scratch memory, which has to live as long as the call."""
    extension = runtime.extension
    problem = extension.Reduce((runtime.pointer(x), strides), shape, axes, x.dtype.itemsize)
    size = extension.reduce_scratch(problem)
    return problem, runtime.empty(size, _BYTES) if size else None


def sum_over(x: Array, shape: tuple[int, ...], strides: tuple[int, ...], axes: list[int]) -> Array:
    """:func:`sum_forward` of x as if it had this shape and these strides, without a look at the axes."""
    number, runtime = device.code("sum", x), device.of(x)
    problem, scratch = _problem(runtime, x, shape, strides, axes)
    y = runtime.empty(tuple([n for a, n in enumerate(shape) if a not in axes]), x.dtype)
    pointer = runtime.pointer
    runtime.extension.reduce_fold(
        "sum", number, pointer(y), False, problem, 1.0, 0.0, pointer(scratch), runtime.stream()
    )
    return y


class _Reduction:
    """A reduction as the extension wants it, its scratch memory and the shape of its result."""

    def __init__(self, op: str, x: Array, axes: Axes, keepdim: bool, number: int | None = None) -> None:
        self.number = device.code(op, x) if number is None else number
        self.runtime = runtime = device.of(x)
        shape = x.shape
        ndim = len(shape)
        chosen: list[int] = []
        for named in range(ndim) if axes is None else axes:
            a = named + ndim if named < 0 else named
            if not 0 <= a < ndim:
                raise IndexError(f"{op}: axis {named} of an array with {ndim} axes")
            if a in chosen:
                raise ArgumentError(f"{op}: axis {named} is given twice")
            chosen.append(a)
        self.length = prod([shape[a] for a in chosen])
        if keepdim:
            self.shape = tuple([1 if a in chosen else n for a, n in enumerate(shape)])
        else:
            self.shape = tuple([n for a, n in enumerate(shape) if a not in chosen])
        self.problem, self._scratch = _problem(runtime, x, shape, x.strides, chosen)
        self.scratch = runtime.pointer(self._scratch)
        self.dtype = x.dtype

    def result(self, dtype: Any = None) -> Array:
        return self.runtime.empty(self.shape, self.dtype if dtype is None else dtype)

    def fold(self, op: str, scale: float = 1.0, p: float = 0.0, wide: bool = False) -> Array:
        y = self.result(device.compute_dtype(self.dtype) if wide else None)
        runtime = self.runtime
        runtime.extension.reduce_fold(
            op, self.number, runtime.pointer(y), wide, self.problem, scale, p, self.scratch, runtime.stream()
        )
        return y


def total(x: Array) -> Array:
    """The sum of all elements in the type that x is computed in."""
    return _Reduction("sum", x, None, False).fold("sum", wide=True)


def sum_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return _Reduction("sum", x, axes, keepdim).fold("sum")


def nansum_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return _Reduction("nansum", x, axes, keepdim).fold("nansum")


def mean_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    reduction = _Reduction("mean", x, axes, keepdim)
    return reduction.fold("sum", scale=1 / reduction.length if reduction.length else math.nan)


def prod_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return _Reduction("prod", x, axes, keepdim).fold("prod")


def amax_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return _Reduction("amax", x, axes, keepdim).fold("amax")


def amin_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return _Reduction("amin", x, axes, keepdim).fold("amin")


def norm_forward(x: Array, p: float, axes: Axes = None, keepdim: bool = False) -> Array:
    reduction = _Reduction("norm", x, axes, keepdim)
    if p == 0:
        return reduction.fold("nonzero")
    if math.isinf(p) and x.size == 0:
        return reduction.fold("sum")
    if math.isinf(p):
        return reduction.fold("largest" if p > 0 else "smallest")
    return reduction.fold("norm", p=p)


def var_forward(x: Array, correction: float, axes: Axes = None, keepdim: bool = False) -> tuple[Array, Array]:
    reduction = _Reduction("var", x, axes, keepdim)
    var, mean = reduction.result(), reduction.result()
    runtime = reduction.runtime
    runtime.extension.moments(
        reduction.number,
        runtime.pointer(var),
        runtime.pointer(mean),
        reduction.problem,
        correction,
        reduction.scratch,
        runtime.stream(),
    )
    return var, mean


def logsumexp_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    reduction = _Reduction("logsumexp", x, axes, keepdim)
    y = reduction.result()
    runtime = reduction.runtime
    runtime.extension.logsumexp(
        reduction.number, runtime.pointer(y), reduction.problem, reduction.scratch, runtime.stream()
    )
    return y


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    shape = tuple(shape)
    lead = x.ndim - len(shape)
    if lead < 0 or any(n not in (1, x.shape[i + lead]) for i, n in enumerate(shape)):
        raise ArgumentError(f"sum_to: shape {shape} does not broadcast to {x.shape}")
    axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1)
    return _Reduction("sum_to", x, axes, False).fold("sum").reshape(shape)


def _extreme(op: str, largest: bool, x: Array, axis: int | None, keepdim: bool) -> tuple[Array, Array]:
    if axis is None:
        x = device.contiguous(x)
    reduction = _Reduction(op, x, None if axis is None else (axis,), keepdim)
    if reduction.length == 0:
        raise ArgumentError(f"{op}: no elements to choose from")
    values, indices = reduction.result(), reduction.result(np.dtype(np.int64))
    runtime = reduction.runtime
    runtime.extension.extreme(
        largest,
        reduction.number,
        runtime.pointer(values),
        runtime.pointer(indices),
        reduction.problem,
        reduction.scratch,
        runtime.stream(),
    )
    return values, indices


def max_forward(x: Array, axis: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    return _extreme("max", True, x, axis, keepdim)


def min_forward(x: Array, axis: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    return _extreme("min", False, x, axis, keepdim)


def count_true(x: Array, axis: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Array:
    if x.dtype.kind != "b":
        raise DtypeError(f"count_true: x must be bool, got {x.dtype.name}")
    reduction = _Reduction("count_true", x, (axis,) if isinstance(axis, int) else axis, keepdim, 0)
    counts = reduction.result(np.dtype(np.int64))
    runtime = reduction.runtime
    runtime.extension.count_true(
        runtime.pointer(counts), reduction.problem, reduction.scratch, runtime.stream()
    )
    return counts


def sum_product_to(x: Array, y: Array, shape: tuple[int, ...]) -> Array:
    from fastdl.kernels.cuda.elementwise import mul_forward

    return sum_to(mul_forward(x, y), shape)


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """A view of x with the given shape."""
    if isinstance(x, np.ndarray):
        return np.broadcast_to(x, shape)
    return device.of(x).cupy.broadcast_to(x, shape)


def _running(op: str, x: Array, axis: int, from_end: bool) -> tuple[Any, Array, Any, Array | None]:
    """The runtime, x in C order, the problem and its scratch memory."""
    if not 0 <= axis < x.ndim:
        raise IndexError(f"{op}: axis {axis} of an array with {x.ndim} axes")
    runtime, shape = device.of(x), x.shape
    problem = runtime.extension.Running(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]), from_end)
    size = runtime.extension.running_scratch(problem)
    return runtime, device.contiguous(x), problem, runtime.empty(size, _BYTES) if size else None


def _running_fold(op: str, kind: str, x: Array, axis: int, from_end: bool = False) -> Array:
    number = device.code(op, x)
    runtime, x, problem, scratch = _running(op, x, axis, from_end)
    y, pointer = runtime.empty(x.shape, x.dtype), runtime.pointer
    runtime.extension.running(
        kind, number, pointer(y), pointer(x), problem, pointer(scratch), runtime.stream()
    )
    return y


def running_sum(x: Array, axis: int, from_end: bool = False) -> Array:
    return _running_fold("running_sum", "sum", x, axis, from_end)


def running_product(x: Array, axis: int) -> Array:
    return _running_fold("running_product", "product", x, axis)


def running_logsumexp(x: Array, axis: int, from_end: bool = False) -> Array:
    return _running_fold("running_logsumexp", "logsumexp", x, axis, from_end)


def _running_extreme(op: str, largest: bool, x: Array, axis: int) -> tuple[Array, Array]:
    integers = x.dtype == np.int64
    number = 0 if integers else device.code(op, x)
    runtime, x, problem, scratch = _running(op, x, axis, False)
    values, indices = runtime.empty(x.shape, x.dtype), runtime.empty(x.shape, np.dtype(np.int64))
    pointer = runtime.pointer
    runtime.extension.running_extreme(
        *(largest, number, integers, pointer(values), pointer(indices), pointer(x), problem),
        *(pointer(scratch), runtime.stream()),
    )
    return values, indices


def running_max(x: Array, axis: int) -> tuple[Array, Array]:
    return _running_extreme("running_max", True, x, axis)


def running_min(x: Array, axis: int) -> tuple[Array, Array]:
    return _running_extreme("running_min", False, x, axis)

"""Tensors of numbers that follow a rule: progressions, and the places of triangles."""

from __future__ import annotations

from math import ceil, isfinite
from operator import index
from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.creation import finish, ignore
from fastdl.devices import cupy, resolve
from fastdl.dtypes import as_dtype, float32, float64, get_default_dtype, int64
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.arrays import cast
from fastdl.tensor import Tensor


def _number(value: Any) -> Any:
    if value.__class__ is int or value.__class__ is float:
        return value
    return value.item() if isinstance(value, (Tensor, np.generic)) else value


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **ignored: Any,
) -> Tensor:
    """Numbers from ``start`` (0) up to, not including, ``end``; int64 if all three are integers.

    Whole numbers are counted on the device, which a CUDA graph can record; others come from the CPU, so that every
    device has the same. See ``torch.arange``.
    """
    if ignored:
        ignore("arange", ignored)
    if start is None or end is None:
        start, end = 0, start if end is None else end
        if end is None:
            raise TypeError("arange: needs at least the end, as in arange(5)")
    start, end, step = _number(start), _number(end), _number(step)
    d = None if dtype is None else as_dtype("arange", dtype)
    if not (isfinite(start) and isfinite(end) and isfinite(step)):
        raise RuntimeError(f"arange: start, end and step must be finite, got {start}, {end}, {step}")
    if d is int64:
        start, end, step = int(start), int(end), int(step)
    whole = isinstance(start, int) and isinstance(end, int) and isinstance(step, int)
    if step == 0:
        raise ArgumentError("arange: step must not be 0")
    if (end - start) * step < 0:
        raise ArgumentError(
            f"arange: from {start} to {end} with step {step}: the bounds contradict the sign of the step"
        )
    count = -((start - end) // step) if whole else ceil((end - start) / step)
    if d is None:
        d = int64 if whole else get_default_dtype()
    elif d.kind in "iu" and not whole:  # PyTorch counts before it truncates, for int64 after it
        whole, start, step = True, int(start), int(step)
    where = resolve("arange", device)
    if whole and where.type == "cuda":
        xp = cupy()
        with xp.cuda.Device(where.index):
            values = xp.arange(start, start + count * step, step, dtype=np.int64).astype(d, copy=False)
        return finish("arange", values, where, requires_grad)
    if whole and (d is int64 or d is float32 or d is float64) and _exact(start, count, step):
        values = progression(start, step, count, d)
    else:
        values = pooled_copy(progression(start, step, count, int64 if whole else float64), d)
    return finish("arange", values, where, requires_grad)


def _exact(start: int, count: int, step: int) -> bool:
    """Do float64 and int64 hold all these numbers?"""
    return max(abs(start), abs(start + count * step)) < 2**53


def progression(start: Any, step: Any, count: int, dtype: Any) -> Any:
    """``start + step * i``, in float64 or int64, as ``dtype``."""
    values = select(None).empty((count,), dtype)
    select(None).progression(values, start, step)
    return values


def _evenly_spaced(start: Any, end: Any, steps: int, dtype: np.dtype[Any]) -> Any:
    """In float32 or float64. As PyTorch has it: between whole ends for an integer ``dtype``; for float32 with a step of
    that type, from the nearer end. The bits are the same, and decide where sampling meets pixels (``affine_grid``).
    """
    if dtype is float32 and steps > 1 and abs(start) < 1e38 and abs(end) < 1e38:
        start, end = float(np.float32(start)), float(np.float32(end))
        step = float(np.float32(end - start) / np.float32(steps - 1))
        half = steps // 2
        values = select(None).empty((steps,), float32)
        select(None).progression(values[:half], start, step)
        select(None).progression(values[half:][::-1], end, -step)
        return values
    if dtype.kind in "iu":
        start, end = int(start), int(end)
    step = (end - start) / (steps - 1) if steps > 1 else 0
    if steps < 2 or not 1e-300 < abs(step) < 1e300:  # denormals, infinities
        return np.linspace(start, end, steps)
    values = progression(start, step, steps, float64)
    values[-1] = end
    return values


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``steps`` evenly spaced numbers from ``start`` to ``end``, both included; see ``torch.linspace``."""
    if steps < 0:
        raise RuntimeError(f"linspace: steps must not be negative, got {steps}")
    d = get_default_dtype() if dtype is None else as_dtype("linspace", dtype)
    values = _evenly_spaced(_number(start), _number(end), index(steps), d)
    return finish("linspace", cast(values, d), resolve("linspace", device), requires_grad)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """``base`` to the powers of ``linspace(start, end, steps)``; see ``torch.logspace``."""
    if steps < 0:
        raise RuntimeError(f"logspace: steps must not be negative, got {steps}")
    d = get_default_dtype() if dtype is None else as_dtype("logspace", dtype)
    values = np.power(float(base), _evenly_spaced(_number(start), _number(end), index(steps), d))
    return finish("logspace", pooled_copy(values, d), resolve("logspace", device), requires_grad)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Row and column numbers of the lower triangle, a (2, n) tensor; see ``torch.tril_indices``."""
    return _triangle("tril_indices", row, col, offset, True, dtype, device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Row and column numbers of the upper triangle, a (2, n) tensor; see ``torch.triu_indices``."""
    return _triangle("triu_indices", row, col, offset, False, dtype, device)


def _triangle(op: str, row: int, col: int, offset: int, lower: bool, dtype: Any, device: Any) -> Tensor:
    row, col = index(row), index(col)
    if row < 0 or col < 0:
        raise RuntimeError(f"{op}: row and col must not be negative, got {row} and {col}")
    d = int64 if dtype is int64 else as_dtype(op, dtype)
    places = select(None).triangle_places(row, col, index(offset), lower)
    return finish(op, places if d is int64 else pooled_copy(places, d), resolve(op, device), False)

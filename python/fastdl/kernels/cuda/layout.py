"""Copies and elements chosen by an index; see :mod:`fastdl.kernels.reference.layout`.

Indices are checked on the device, as in :mod:`fastdl.kernels.cuda.embedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import convert
from fastdl.kernels.cuda.embedding import embedding_backward, gather_rows
from fastdl.kernels.reference.layout import flat_index  # by CuPy's functions, and waiting for the device

__all__ = [
    "concat",
    "contiguous",
    "flat_index",
    "gather_backward",
    "gather_forward",
    "index_select_backward",
    "index_select_forward",
    "scatter_add",
    "scatter_reduce",
    "searchsorted",
]


def contiguous(array: Array) -> Array:
    """A C-order copy."""
    return device.copy(array)


def concat(arrays: Sequence[Array], dim: int) -> Array:
    if not arrays:
        raise ArgumentError("concat: no arrays")
    first = arrays[0]
    if not 0 <= dim < first.ndim:
        raise ArgumentError(f"concat: dim {dim} is out of range for {first.ndim} dimensions")
    for a in arrays[1:]:
        if a.dtype != first.dtype:
            raise DtypeError(f"concat: arrays must have the same dtype, got {first.dtype} and {a.dtype}")
        if (
            a.ndim != first.ndim
            or a.shape[:dim] != first.shape[:dim]
            or a.shape[dim + 1 :] != first.shape[dim + 1 :]
        ):
            raise ArgumentError(f"concat: shapes {first.shape} and {a.shape} differ beside dimension {dim}")
    shape = (*first.shape[:dim], sum(a.shape[dim] for a in arrays), *first.shape[dim + 1 :])
    y = device.of(first).empty(shape, first.dtype)
    start = 0
    for a in arrays:
        device.copy_to(y[(slice(None),) * dim + (slice(start, start + a.shape[dim]),)], a)
        start += a.shape[dim]
    return y


def _first(ndim: int, dim: int) -> list[int]:
    """The order of axes that brings ``dim`` to the front."""
    return [dim, *(d for d in range(ndim) if d != dim)]


def _back(ndim: int, dim: int) -> list[int]:
    """The order of axes that undoes :func:`_first`."""
    return [*range(1, dim + 1), 0, *range(dim + 1, ndim)]


def index_select_forward(x: Array, dim: int, index: Array) -> Array:
    device.axis("index_select", dim, x.ndim)
    moved = device.contiguous(x.transpose(_first(x.ndim, dim)))
    rows = gather_rows("index_select", moved.reshape(x.shape[dim], prod(moved.shape[1:])), index)
    return device.contiguous(rows.reshape(index.size, *moved.shape[1:]).transpose(_back(x.ndim, dim)))


def index_select_backward(grad_y: Array, dim: int, index: Array, extent: int) -> Array:
    device.axis("index_select_backward", dim, grad_y.ndim)
    moved = device.contiguous(grad_y.transpose(_first(grad_y.ndim, dim)))
    rows = moved.reshape(moved.shape[0], prod(moved.shape[1:]))
    grad = embedding_backward(rows, index, None, None, extent, -1, False)
    return device.contiguous(grad.reshape(extent, *moved.shape[1:]).transpose(_back(grad_y.ndim, dim)))


# With fewer columns than this, and more entries in each than that, entries are sorted.
_FEW_COLUMNS, _MANY_ENTRIES = 256, 4096


def _gather_problem(op: str, runtime: Any, shape: tuple[int, ...], dim: int, index: Array) -> Any:
    """The sizes of x and index, which agree but for ``dim``."""
    device.axis(op, dim, len(shape))
    if index.dtype != np.int64:
        raise DtypeError(f"{op}: index must be int64, got {index.dtype}")
    if index.ndim != len(shape) or any(
        n != m for d, (n, m) in enumerate(zip(shape, index.shape, strict=True)) if d != dim
    ):
        raise ArgumentError(
            f"{op}: x and index must have equal extents beside dimension {dim}, got {shape} and {index.shape}"
        )
    return runtime.extension.Gather(prod(shape[:dim]), shape[dim], index.shape[dim], prod(shape[dim + 1 :]))


def gather_forward(x: Array, dim: int, index: Array) -> Array:
    op, runtime = "gather", device.of(x)
    if x.dtype.kind in "Oc" or x.dtype.itemsize not in (1, 2, 4, 8):
        raise DtypeError(f"{op}: no kernel for {x.dtype}")
    problem = _gather_problem(op, runtime, x.shape, dim, index)
    x, index = device.contiguous(x), device.contiguous(index)
    y = runtime.empty(index.shape, x.dtype)
    runtime.extension.gather_forward(
        x.dtype.itemsize,
        runtime.pointer(y),
        runtime.pointer(x),
        runtime.pointer(index),
        problem,
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return y


def gather_backward(grad_y: Array, dim: int, index: Array, extent: int) -> Array:
    op, runtime = "gather_backward", device.of(grad_y)
    number = device.code(op, grad_y)
    device.axis(op, dim, grad_y.ndim)
    if grad_y.shape != index.shape:
        raise ArgumentError(
            f"{op}: grad_y and index must have the same shape, got {grad_y.shape} and {index.shape}"
        )
    shape = (*grad_y.shape[:dim], extent, *grad_y.shape[dim + 1 :])
    problem = _gather_problem(op, runtime, shape, dim, index)
    grad_y, index = device.contiguous(grad_y), device.contiguous(index)
    count = index.shape[dim]
    report, stream = runtime.pointer(runtime.report()), runtime.stream()
    if count > _MANY_ENTRIES and index.size < _FEW_COLUMNS * count:
        places = runtime.empty((index.size,), np.dtype(np.int64))
        runtime.extension.gather_places(
            runtime.pointer(places), runtime.pointer(index), problem, report, stream
        )
        return embedding_backward(grad_y.reshape(-1, 1), places, None, None, prod(shape), -1, False).reshape(
            shape
        )
    grad_x = runtime.empty(shape, device.compute_dtype(grad_y.dtype))
    runtime.extension.gather_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(index),
        problem,
        report,
        stream,
    )
    return grad_x if grad_x.dtype == grad_y.dtype else convert(grad_x, grad_y.dtype)


def _scatter(op: str, join: str, out: Array, dim: int, index: Array, source: Array) -> None:
    runtime = device.of(out)
    integers = out.dtype == np.int64
    number = 0 if integers else device.code(op, out, source)
    problem = _gather_problem(op, runtime, out.shape, dim, index)
    one = source.ndim == 0
    if not one and source.shape != index.shape:
        raise ArgumentError(f"{op}: source must have index's shape {index.shape}, got {source.shape}")
    dtype = out.dtype if integers else device.compute_dtype(out.dtype)
    narrow = dtype != out.dtype
    joined = convert(out, dtype) if narrow else device.contiguous(out)
    index, source = device.contiguous(index), device.contiguous(source)
    pointer = runtime.pointer
    runtime.extension.scatter_join(
        *(join, number, integers, pointer(joined), pointer(source), one, pointer(index), problem),
        *(pointer(runtime.report()), runtime.stream()),
    )
    if joined is not out:
        device.copy_to(out, convert(joined, out.dtype) if narrow else joined)


def scatter_add(out: Array, dim: int, index: Array, source: Array) -> None:
    _scatter("scatter_add", "add", out, dim, index, source)


def scatter_reduce(out: Array, dim: int, index: Array, source: Array, reduce: str) -> None:
    if reduce not in ("prod", "amax", "amin"):
        raise ArgumentError(f"scatter_reduce: reduce must be prod, amax or amin, got {reduce!r}")
    _scatter("scatter_reduce", reduce, out, dim, index, source)


def searchsorted(sorted: Array, values: Array, right: bool) -> Array:
    integers = sorted.dtype == np.int64
    number = 0 if integers else device.code("searchsorted", sorted, values)
    if sorted.dtype.itemsize == 2 or values.dtype != sorted.dtype:
        raise DtypeError(
            f"searchsorted: arrays must be float32, float64 or int64, of one dtype; got {sorted.dtype}, {values.dtype}"
        )
    if sorted.ndim > 1 and values.shape[:-1] != sorted.shape[:-1]:
        raise ArgumentError(f"searchsorted: rows of shape {sorted.shape} do not fit values of {values.shape}")
    runtime = device.of(values)
    places = runtime.empty(values.shape, np.dtype(np.int64))
    sorted, values = device.contiguous(sorted), device.contiguous(values)
    pointer = runtime.pointer
    per_row = values.shape[-1] if sorted.ndim > 1 else values.size
    runtime.extension.searchsorted(
        *(number, integers, pointer(places), pointer(sorted), pointer(values)),
        *(sorted.shape[-1], per_row, values.size, right, runtime.stream()),
    )
    return places

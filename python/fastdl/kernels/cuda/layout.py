"""Copies and elements chosen by an index; see :mod:`fastdl.kernels.reference.layout`.

Indices are checked on the device, as in :mod:`fastdl.kernels.cuda.embedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.embedding import embedding_backward, gather_rows

__all__ = ["concat", "contiguous", "index_select_backward", "index_select_forward"]


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

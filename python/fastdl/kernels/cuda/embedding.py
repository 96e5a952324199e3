"""Rows of a table by index; see :mod:`fastdl.kernels.reference.embedding`.

Indices are checked on the device: a bad one counts for nothing and is raised when the device is next waited for. The
gradient of the table is summed in the order of the entries, so it has the same bits every time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

__all__ = [
    "embedding_backward",
    "embedding_bag_forward",
    "embedding_bag_max_forward",
    "embedding_forward",
]


def _integers(op: str, name: str, array: Array) -> Array:
    if array.dtype != np.int64:
        raise DtypeError(f"{op}: {name} must be int64, got {array.dtype}")
    return contiguous(array)


def _table(op: str, weight: Array) -> tuple[Any, Array]:
    if weight.ndim != 2:
        raise ArgumentError(f"{op}: weight must be (rows, width), got shape {weight.shape}")
    return device.of(weight), contiguous(weight)


def gather_rows(op: str, table: Array, index: Array) -> Array:
    """table[index[...], :], elements of any type of 1, 2, 4 or 8 bytes."""
    runtime, table = _table(op, table)
    index = _integers(op, "index", index)
    y = runtime.empty((*index.shape, table.shape[1]), table.dtype)
    runtime.extension.embedding_forward(
        table.dtype.itemsize,
        runtime.pointer(y),
        runtime.pointer(table),
        runtime.pointer(index),
        runtime.extension.Embedding(index.size, *table.shape, -1),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return y


def embedding_forward(weight: Array, index: Array) -> Array:
    device.code("embedding", weight)
    return gather_rows("embedding", weight, index)


def embedding_backward(
    grad_y: Array,
    index: Array,
    bag: Array | None,
    scale: Array | None,
    rows: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Array:
    op = "embedding_backward"
    number = device.code(op, grad_y) if scale is None else device.code(op, grad_y, scale)
    runtime, grad_y = _table(op, grad_y)
    index = _integers(op, "index", index)
    if bag is None:
        if index.size != grad_y.shape[0]:
            raise ArgumentError(f"{op}: {index.size} entries, but grad_y has {grad_y.shape[0]} rows")
    else:
        bag = _integers(op, "bag", bag)
        if bag.size != index.size:
            raise ArgumentError(f"{op}: index and bag differ in size: {index.size} and {bag.size}")
    if scale is not None:
        if scale.size != index.size:
            raise ArgumentError(f"{op}: index and scale differ in size: {index.size} and {scale.size}")
        scale = contiguous(scale)
    grad_weight = runtime.empty((rows, grad_y.shape[1]), grad_y.dtype)
    problem = runtime.extension.Embedding(index.size, rows, grad_y.shape[1], padding_idx)
    size = runtime.extension.embedding_scratch(problem)
    scratch = runtime.empty(size, np.dtype(np.uint8)) if size else None
    runtime.extension.embedding_backward(
        number,
        runtime.pointer(grad_weight),
        runtime.pointer(grad_y),
        grad_y.shape[0],
        runtime.pointer(index),
        runtime.pointer(bag),
        runtime.pointer(scale),
        scale_grad_by_freq,
        problem,
        runtime.pointer(scratch),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return grad_weight


def embedding_bag_forward(
    weight: Array, index: Array, offsets: Array, scale: Array | None, padding_idx: int, mean: bool
) -> Array:
    op = "embedding_bag"
    number = device.code(op, weight) if scale is None else device.code(op, weight, scale)
    runtime, weight = _table(op, weight)
    index, offsets = _integers(op, "index", index), _integers(op, "offsets", offsets)
    if scale is not None:
        if scale.size != index.size:
            raise ArgumentError(f"{op}: index and scale differ in size: {index.size} and {scale.size}")
        scale = contiguous(scale)
    y = runtime.empty((len(offsets) - 1, weight.shape[1]), weight.dtype)
    runtime.extension.embedding_bag_forward(
        number,
        runtime.pointer(y),
        runtime.pointer(weight),
        runtime.pointer(index),
        runtime.pointer(offsets),
        len(y),
        runtime.pointer(scale),
        mean,
        runtime.extension.Embedding(index.size, *weight.shape, padding_idx),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return y


def embedding_bag_max_forward(
    weight: Array, index: Array, offsets: Array, padding_idx: int
) -> tuple[Array, Array]:
    op = "embedding_bag"
    number = device.code(op, weight)
    runtime, weight = _table(op, weight)
    index, offsets = _integers(op, "index", index), _integers(op, "offsets", offsets)
    y = runtime.empty((len(offsets) - 1, weight.shape[1]), weight.dtype)
    chosen = runtime.empty(y.shape, np.dtype(np.int64))
    runtime.extension.embedding_bag_max_forward(
        number,
        runtime.pointer(y),
        runtime.pointer(chosen),
        runtime.pointer(weight),
        runtime.pointer(index),
        runtime.pointer(offsets),
        len(y),
        runtime.extension.Embedding(index.size, *weight.shape, padding_idx),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return y, chosen

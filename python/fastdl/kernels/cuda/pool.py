"""Pooling; see :mod:`fastdl.kernels.reference.pool`. Backward gathers, so it has the same bits every time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array, contiguous

Sizes = Sequence[int]

__all__ = [
    "adaptive_avg_pool_backward",
    "adaptive_avg_pool_forward",
    "adaptive_max_pool_backward",
    "adaptive_max_pool_forward",
    "avg_pool_backward",
    "avg_pool_forward",
    "max_pool_backward",
    "max_pool_forward",
    "max_pool_indices",
    "max_unpool_backward",
    "max_unpool_forward",
]


def _problem(
    op: str,
    runtime: Any,
    leading: tuple[int, ...],
    size: Sizes,
    output: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> Any:
    rank = len(size)
    groups = (size, output, kernel, stride, padding, dilation)
    if not 1 <= rank <= 3 or any(len(g) != rank for g in groups):
        raise ArgumentError(f"{op}: one to three spatial dimensions with a number of everything for each")
    if min(stride) < 1 or min(dilation) < 1 or min(kernel) < 1 or min(padding) < 0:
        raise ArgumentError(f"{op}: kernel, stride and dilation must be positive, padding not negative")
    axes = [1, 1, 1, 1, 0, 1] * (3 - rank)
    for axis in zip(*groups, strict=True):
        axes += axis
    return runtime.extension.PoolProblem(prod(leading), axes)


def _leading(op: str, x: Array, rank: int) -> tuple[int, ...]:
    if x.ndim < rank:
        raise ArgumentError(f"{op}: {rank} spatial dimensions, but an array of shape {x.shape}")
    return tuple(x.shape[: x.ndim - rank])


def _offset_dtype(kernel: Sizes) -> Any:
    return np.dtype(np.uint8 if prod(kernel) <= 256 else np.int32)


def max_pool_forward(
    x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, output: Sizes, save: bool
) -> tuple[Array, Array | None]:
    op, rank = "max_pool", len(kernel)
    number, leading = device.code(op, x), _leading(op, x, rank)
    runtime, x = device.of(x), contiguous(x)
    problem = _problem(
        op, runtime, leading, x.shape[x.ndim - rank :], output, kernel, stride, padding, dilation
    )
    y = runtime.empty((*leading, *output), x.dtype)
    offsets = runtime.empty(y.shape, _offset_dtype(kernel)) if save else None
    runtime.extension.max_pool_forward(
        number, runtime.pointer(y), runtime.pointer(offsets), runtime.pointer(x), problem, runtime.stream()
    )
    return y, offsets


def _offsets(op: str, offsets: Array, kernel: Sizes) -> Array:
    if offsets.dtype != _offset_dtype(kernel):
        raise DtypeError(f"{op}: offsets must be {_offset_dtype(kernel)}, got {offsets.dtype}")
    return contiguous(offsets)


def max_pool_indices(
    offsets: Array, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    op, rank = "max_pool_indices", len(kernel)
    leading, runtime, offsets = _leading(op, offsets, rank), device.of(offsets), _offsets(op, offsets, kernel)
    output = offsets.shape[offsets.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, kernel, stride, padding, dilation)
    indices = runtime.empty(offsets.shape, np.dtype(np.int64))
    runtime.extension.max_pool_indices(
        runtime.pointer(indices), runtime.pointer(offsets), problem, runtime.stream()
    )
    return indices


def max_pool_backward(
    grad_y: Array, offsets: Array, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    op, rank = "max_pool_backward", len(kernel)
    number, leading = device.code(op, grad_y), _leading(op, grad_y, rank)
    device.same_shape(op, grad_y, offsets, "grad_y and offsets")
    runtime, grad_y, offsets = device.of(grad_y), contiguous(grad_y), _offsets(op, offsets, kernel)
    output = grad_y.shape[grad_y.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, kernel, stride, padding, dilation)
    grad_x = runtime.empty((*leading, *size), grad_y.dtype)
    runtime.extension.max_pool_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(offsets),
        problem,
        runtime.stream(),
    )
    return grad_x


def avg_pool_forward(
    x: Array,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    output: Sizes,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    op, rank = "avg_pool", len(kernel)
    number, leading = device.code(op, x), _leading(op, x, rank)
    runtime, x = device.of(x), contiguous(x)
    size = x.shape[x.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, kernel, stride, padding, (1,) * rank)
    y = runtime.empty((*leading, *output), x.dtype)
    runtime.extension.avg_pool_forward(
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        problem,
        count_include_pad,
        divisor or 0,
        runtime.stream(),
    )
    return y


def avg_pool_backward(
    grad_y: Array,
    size: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    op, rank = "avg_pool_backward", len(kernel)
    number, leading = device.code(op, grad_y), _leading(op, grad_y, rank)
    runtime, grad_y = device.of(grad_y), contiguous(grad_y)
    output = grad_y.shape[grad_y.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, kernel, stride, padding, (1,) * rank)
    grad_x = runtime.empty((*leading, *size), grad_y.dtype)
    runtime.extension.avg_pool_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        problem,
        count_include_pad,
        divisor or 0,
        runtime.stream(),
    )
    return grad_x


def adaptive_avg_pool_forward(x: Array, output: Sizes) -> Array:
    op, rank = "adaptive_avg_pool", len(output)
    number, leading = device.code(op, x), _leading(op, x, rank)
    runtime, x, ones = device.of(x), contiguous(x), (1,) * rank
    problem = _problem(op, runtime, leading, x.shape[x.ndim - rank :], output, ones, ones, (0,) * rank, ones)
    y = runtime.empty((*leading, *output), x.dtype)
    runtime.extension.adaptive_avg_pool_forward(
        number, runtime.pointer(y), runtime.pointer(x), problem, runtime.stream()
    )
    return y


def adaptive_avg_pool_backward(grad_y: Array, size: Sizes) -> Array:
    op, rank = "adaptive_avg_pool_backward", len(size)
    number, leading = device.code(op, grad_y), _leading(op, grad_y, rank)
    runtime, grad_y, ones = device.of(grad_y), contiguous(grad_y), (1,) * rank
    output = grad_y.shape[grad_y.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, ones, ones, (0,) * rank, ones)
    grad_x = runtime.empty((*leading, *size), grad_y.dtype)
    runtime.extension.adaptive_avg_pool_backward(
        number, runtime.pointer(grad_x), runtime.pointer(grad_y), problem, runtime.stream()
    )
    return grad_x


def adaptive_max_pool_forward(x: Array, output: Sizes) -> tuple[Array, Array]:
    op, rank = "adaptive_max_pool", len(output)
    number, leading = device.code(op, x), _leading(op, x, rank)
    runtime, x, ones = device.of(x), contiguous(x), (1,) * rank
    problem = _problem(op, runtime, leading, x.shape[x.ndim - rank :], output, ones, ones, (0,) * rank, ones)
    y = runtime.empty((*leading, *output), x.dtype)
    indices = runtime.empty(y.shape, np.dtype(np.int64))
    runtime.extension.adaptive_max_pool_forward(
        number, runtime.pointer(y), runtime.pointer(indices), runtime.pointer(x), problem, runtime.stream()
    )
    return y, indices


def _indices(op: str, indices: Array) -> Array:
    if indices.dtype != np.int64:
        raise DtypeError(f"{op}: indices must be int64, got {indices.dtype}")
    return contiguous(indices)


def adaptive_max_pool_backward(grad_y: Array, indices: Array, size: Sizes) -> Array:
    """``indices`` are forward's: each lies in its own window, and is looked for there only."""
    op, rank = "adaptive_max_pool_backward", len(size)
    number, leading = device.code(op, grad_y), _leading(op, grad_y, rank)
    device.same_shape(op, grad_y, indices, "grad_y and indices")
    runtime, grad_y, indices, ones = device.of(grad_y), contiguous(grad_y), _indices(op, indices), (1,) * rank
    output = grad_y.shape[grad_y.ndim - rank :]
    problem = _problem(op, runtime, leading, size, output, ones, ones, (0,) * rank, ones)
    grad_x = runtime.empty((*leading, *size), grad_y.dtype)
    runtime.extension.adaptive_max_pool_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(indices),
        problem,
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return grad_x


def max_unpool_forward(x: Array, indices: Array, output: Sizes) -> Array:
    op, rank = "max_unpool", len(output)
    number, leading = device.code(op, x), _leading(op, x, rank)
    device.same_shape(op, x, indices, "x and indices")
    runtime, x, indices = device.of(x), contiguous(x), _indices(op, indices)
    y = runtime.empty((*leading, *output), x.dtype)
    owners = runtime.zeros(y.shape, np.dtype(np.int32))
    runtime.extension.max_unpool_forward(
        number,
        runtime.pointer(y),
        runtime.pointer(x),
        runtime.pointer(indices),
        runtime.pointer(owners),
        prod(leading),
        prod(x.shape[x.ndim - rank :]),
        prod(output),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return y


def max_unpool_backward(grad_y: Array, indices: Array, rank: int) -> Array:
    op = "max_unpool_backward"
    number, leading = device.code(op, grad_y), _leading(op, grad_y, rank)
    if _leading(op, indices, rank) != leading:
        raise ArgumentError(f"{op}: indices of shape {indices.shape} do not fit grad_y's {grad_y.shape}")
    runtime, grad_y, indices = device.of(grad_y), contiguous(grad_y), _indices(op, indices)
    grad_x = runtime.empty(indices.shape, grad_y.dtype)
    runtime.extension.max_unpool_backward(
        number,
        runtime.pointer(grad_x),
        runtime.pointer(grad_y),
        runtime.pointer(indices),
        prod(leading),
        prod(indices.shape[indices.ndim - rank :]),
        prod(grad_y.shape[grad_y.ndim - rank :]),
        runtime.pointer(runtime.report()),
        runtime.stream(),
    )
    return grad_x

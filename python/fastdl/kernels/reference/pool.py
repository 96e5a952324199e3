"""Pooling. The spatial rank is ``len(kernel)``; every axis before the spatial ones counts planes.

Window ``o`` of an axis covers the inputs ``o * stride - padding + i * dilation`` for ``0 <= i < kernel``; taps outside
the input do not take part. Among equal maxima the first in row-major order wins; a NaN wins over numbers, the last
NaN over the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray
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


def _positions(out: int, kernel: int, stride: int, padding: int, dilation: int) -> Array:
    """(out, kernel): the input position of each tap of each window, inside the input or not."""
    return np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation


def _windows(
    size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, output: Sizes
) -> tuple[Array, Array]:
    """(*output, taps): the flat position of each tap in the input plane, and whether it lies inside."""
    rank = len(kernel)
    flat: Array = np.zeros((), np.int64)
    inside: Array = np.ones((), bool)
    for axis in range(rank):
        at = _positions(output[axis], kernel[axis], stride[axis], padding[axis], dilation[axis])
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = at.shape
        flat = flat * size[axis] + at.reshape(shape)
        inside = inside & ((at >= 0) & (at < size[axis])).reshape(shape)
    full = (*output, *kernel)
    taps = (*output, prod(kernel))
    return np.broadcast_to(flat, full).reshape(taps), np.broadcast_to(inside, full).reshape(taps)


def _offset_type(kernel: Sizes) -> type:
    return np.uint8 if prod(kernel) <= 256 else np.int32


def _winner(values: Array, inside: Array) -> Array:
    """The winning tap along the last axis: the last NaN, else the first of the largest."""
    values = np.where(inside, values, -np.inf)
    nan = np.isnan(values)
    last_nan = values.shape[-1] - 1 - np.argmax(nan[..., ::-1], axis=-1)
    largest = np.max(np.where(nan, -np.inf, values), axis=-1, keepdims=True, initial=-np.inf)
    return np.where(nan.any(axis=-1), last_nan, np.argmax((values == largest) & inside, axis=-1))


def _planes(x: Array, rank: int) -> Array:
    return x.reshape(*x.shape[: x.ndim - rank], prod(x.shape[x.ndim - rank :]))


def max_pool_forward(
    x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, output: Sizes, save: bool
) -> tuple[Array, Array | None]:
    """The maximum of each window and, if ``save``, the number of the tap where it stands."""
    rank = len(kernel)
    flat, inside = _windows(x.shape[x.ndim - rank :], kernel, stride, padding, dilation, output)
    values = _planes(x, rank)[..., np.where(inside, flat, 0)]
    winner = _winner(values, inside)
    chosen = np.where(inside.any(axis=-1), np.take_along_axis(values, winner[..., None], -1)[..., 0], -np.inf)
    return chosen.astype(x.dtype), winner.astype(_offset_type(kernel)) if save else None


def max_pool_indices(
    offsets: Array, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    """The flat position in the input plane of each window's maximum."""
    flat, _ = _windows(size, kernel, stride, padding, dilation, offsets.shape[offsets.ndim - len(kernel) :])
    flat = np.broadcast_to(flat, (*offsets.shape, flat.shape[-1]))
    return np.take_along_axis(flat, offsets[..., None].astype(np.int64), -1)[..., 0].astype(np.int64)


def max_pool_backward(
    grad_y: Array, offsets: Array, size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Array:
    """Each window's gradient goes to the place of its maximum; a window without taps inside passes none on."""
    rank = len(kernel)
    output = grad_y.shape[grad_y.ndim - rank :]
    _, inside = _windows(size, kernel, stride, padding, dilation, output)
    grad_y = np.where(inside.any(axis=-1), grad_y, 0)
    indices = np.where(
        inside.any(axis=-1), max_pool_indices(offsets, size, kernel, stride, padding, dilation), 0
    )
    return adaptive_max_pool_backward(grad_y, indices, size)


def _divisor(
    size: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    output: Sizes,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    """(*output): by what each window's sum is divided."""
    if divisor is not None:
        return np.full(tuple(output), float(divisor))
    counts: Array = np.ones(())
    for n, k, s, p, o in zip(size, kernel, stride, padding, output, strict=True):
        at = _positions(o, k, s, p, 1)
        valid = at < n + p if count_include_pad else (at >= 0) & (at < n)
        counts = counts[..., None] * valid.sum(axis=1)
    return counts


def avg_pool_forward(
    x: Array,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    output: Sizes,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    """The sum of each window over ``divisor``, or over the number of positions that it covers."""
    rank = len(kernel)
    size = x.shape[x.ndim - rank :]
    flat, inside = _windows(size, kernel, stride, padding, (1,) * rank, output)
    total = np.where(inside, _planes(x, rank)[..., np.where(inside, flat, 0)], 0).sum(axis=-1)
    by = _divisor(size, kernel, stride, padding, output, count_include_pad, divisor)
    return (total / by.astype(x.dtype)).astype(x.dtype)


def avg_pool_backward(
    grad_y: Array,
    size: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    rank = len(kernel)
    output = grad_y.shape[grad_y.ndim - rank :]
    flat, inside = _windows(size, kernel, stride, padding, (1,) * rank, output)
    share = grad_y / _divisor(size, kernel, stride, padding, output, count_include_pad, divisor).astype(
        grad_y.dtype
    )
    grad_x: Any = np.zeros((*grad_y.shape[: grad_y.ndim - rank], prod(size)), grad_y.dtype)
    for tap in range(flat.shape[-1]):
        valid = inside[..., tap]
        at: Any = (..., flat[..., tap][valid])
        np.add.at(grad_x, at, share[..., valid])
    return grad_x.reshape(*grad_y.shape[: grad_y.ndim - rank], *size)


def _adaptive(size: Sizes, output: Sizes) -> list[tuple[Any, Any]]:
    """Each output position and the input window [floor(o*in/out), ceil((o+1)*in/out)) that it covers."""
    axes = [
        [(o, slice(o * n // m, -(-(o + 1) * n // m))) for o in range(m)]
        for n, m in zip(size, output, strict=True)
    ]
    return [(tuple(o for o, _ in at), tuple(window for _, window in at)) for at in product(*axes)]


def adaptive_avg_pool_forward(x: Array, output: Sizes) -> Array:
    rank = len(output)
    y: Any = np.empty((*x.shape[: x.ndim - rank], *output), x.dtype)
    axes = tuple(range(-rank, 0))
    for at, window in _adaptive(x.shape[x.ndim - rank :], output):
        y[(..., *at)] = x[(..., *window)].mean(axis=axes)
    return y


def adaptive_avg_pool_backward(grad_y: Array, size: Sizes) -> Array:
    rank = len(size)
    grad_x: Any = np.zeros((*grad_y.shape[: grad_y.ndim - rank], *size), grad_y.dtype)
    for at, window in _adaptive(size, grad_y.shape[grad_y.ndim - rank :]):
        share = grad_y[(..., *at)] / prod(w.stop - w.start for w in window)
        grad_x[(..., *window)] += share.reshape(*share.shape, *[1] * rank)
    return grad_x


def adaptive_max_pool_forward(x: Array, output: Sizes) -> tuple[Array, Array]:
    """The maximum of each window and its flat position in the input plane."""
    rank = len(output)
    size = x.shape[x.ndim - rank :]
    y: Any = np.empty((*x.shape[: x.ndim - rank], *output), x.dtype)
    indices: Any = np.empty(y.shape, np.int64)
    positions: Any = np.arange(prod(size)).reshape(size)
    for at, window in _adaptive(size, output):
        values = _planes(x[(..., *window)], rank)
        winner = _winner(values, np.ones(values.shape[-1], bool))
        y[(..., *at)] = np.take_along_axis(values, winner[..., None], -1)[..., 0]
        indices[(..., *at)] = positions[window].reshape(-1)[winner]
    return y, indices


def adaptive_max_pool_backward(grad_y: Array, indices: Array, size: Sizes) -> Array:
    """Each gradient is added to the flat position ``indices`` of its plane."""
    grad_x, plane, at = _scattered(grad_y, indices, size, "adaptive_max_pool_backward")
    np.add.at(grad_x, (plane, at), grad_y.reshape(at.shape))
    return grad_x.reshape(*grad_y.shape[: grad_y.ndim - len(size)], *size)


def max_unpool_forward(x: Array, indices: Array, output: Sizes) -> Array:
    """Zeros, but for each value at the flat position ``indices`` of its plane; the last of several wins."""
    y, plane, at = _scattered(x, indices, output, "max_unpool")
    values = x.reshape(at.shape)
    for i in range(at.shape[1]):
        y[plane[:, 0], at[:, i]] = values[:, i]
    return y.reshape(*x.shape[: x.ndim - len(output)], *output)


def max_unpool_backward(grad_y: Array, indices: Array, rank: int) -> Array:
    _, plane, at = _scattered(grad_y, indices, grad_y.shape[grad_y.ndim - rank :], "max_unpool_backward")
    planes = grad_y.reshape(at.shape[0], prod(grad_y.shape[grad_y.ndim - rank :]))
    return planes[plane, at].reshape(indices.shape)


def _scattered(x: Array, indices: Array, size: Sizes, op: str) -> tuple[Array, Array, Array]:
    """Zeroed planes of ``size``, and (planes, n) arrays of plane numbers and checked positions."""
    leading = indices.shape[: indices.ndim - len(size)]
    at = indices.reshape(prod(leading), prod(indices.shape[len(leading) :]))
    wrong = np.flatnonzero((at < 0) | (at >= prod(size)))
    if wrong.size:
        raise IndexError(
            f"{op}: indices[{wrong[0]}] (flattened) is {at.reshape(-1)[wrong[0]]}, outside of a plane of "
            f"{prod(size)} positions"
        )
    plane = np.broadcast_to(np.arange(at.shape[0])[:, None], at.shape)
    return np.zeros((at.shape[0], prod(size)), x.dtype), plane, at

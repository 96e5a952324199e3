"""Reductions of float arrays; ``axes`` is a tuple of axes, or None for all. Accumulated in double."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from fastdl.errors import ArgumentError

Array = np.ndarray[Any, Any]
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
    "strided",
    "sum_forward",
    "sum_integers",
    "sum_product_to",
    "sum_to",
    "var_forward",
]


def _wide(x: Array) -> Array:
    return x.astype(np.float64)


def sum_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return np.asarray(_wide(x).sum(axes, keepdims=keepdim), dtype=x.dtype)


def nansum_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    """The sum of what is not NaN."""
    return np.asarray(np.nansum(_wide(x), axes, keepdims=keepdim), dtype=x.dtype)


def mean_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    """The sum over the number of elements: NaN over none."""
    count = np.ones(x.shape).sum(axes, keepdims=keepdim)
    return np.asarray(np.true_divide(_wide(x).sum(axes, keepdims=keepdim), count), dtype=x.dtype)


def prod_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    return np.asarray(_wide(x).prod(axes, keepdims=keepdim), dtype=x.dtype)


def running_max(x: Array, axis: int) -> tuple[Array, Array]:
    """The largest of x[0] .. x[i] along an axis, and its last place; NaN counts as largest."""
    return _running_extreme(np.maximum, np.greater_equal, x, axis)


def running_min(x: Array, axis: int) -> tuple[Array, Array]:
    """The smallest of x[0] .. x[i] along an axis, and its last place; NaN counts as smallest."""
    return _running_extreme(np.minimum, np.less_equal, x, axis)


def _running_extreme(best: Any, not_worse: Any, x: Array, axis: int) -> tuple[Array, Array]:
    values = best.accumulate(x, axis) if x.size else x.copy()
    places = np.arange(x.shape[axis]).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    new = not_worse(x, values) | (x != x)
    return values, np.maximum.accumulate(np.where(new, places, 0), axis) if x.size else np.zeros(x.shape, int)


def running_logsumexp(x: Array, axis: int, from_end: bool = False) -> Array:
    """y[.., i, ..] = log(exp(x[.., 0, ..]) + .. + exp(x[.., i, ..])) along ``axis``; from the end: i to the last."""
    if from_end:
        return np.flip(running_logsumexp(np.flip(x, axis), axis), axis)
    with np.errstate(all="ignore"):
        wide = np.logaddexp.accumulate(_wide(x), axis) if x.size else x
    return np.asarray(wide, x.dtype)


def running_product(x: Array, axis: int) -> Array:
    """y[i] = x[0] x[1] .. x[i] along an axis."""
    wide = x if x.dtype.kind == "i" else x.astype(np.float64)
    return np.cumprod(wide, axis).astype(x.dtype)


def running_sum(x: Array, axis: int, from_end: bool = False) -> Array:
    """y[.., i, ..] = x[.., 0, ..] + .. + x[.., i, ..] along ``axis``; from the end: x[.., i, ..] + .. to the last."""
    if from_end:
        return np.flip(running_sum(np.flip(x, axis), axis), axis)
    return _wide(x).cumsum(axis).astype(x.dtype)


def amax_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    """The largest; NaN if there is one; -inf over nothing, which integers refuse."""
    if x.dtype.kind in "biu":
        return np.asarray(x.max(axes, keepdims=keepdim))
    return np.asarray(x.max(axes, keepdims=keepdim, initial=-np.inf), dtype=x.dtype)


def amin_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    """The smallest; NaN if there is one; inf over nothing, which integers refuse."""
    if x.dtype.kind in "biu":
        return np.asarray(x.min(axes, keepdims=keepdim))
    return np.asarray(x.min(axes, keepdims=keepdim, initial=np.inf), dtype=x.dtype)


def norm_forward(x: Array, p: float, axes: Axes = None, keepdim: bool = False) -> Array:
    """(sum |x|^p)^(1/p); p = inf: max |x|, -inf: min |x|, 0: how many are not zero."""
    magnitude = np.abs(_wide(x))
    if p == 0:
        result = (magnitude != 0).sum(axes, keepdims=keepdim)
    elif np.isinf(p) and x.size == 0:
        result = magnitude.sum(axes, keepdims=keepdim)
    elif np.isinf(p):
        result = (np.max if p > 0 else np.min)(magnitude, axes, keepdims=keepdim)
    else:
        result = (magnitude**p).sum(axes, keepdims=keepdim) ** (1 / p)
    return np.asarray(result, dtype=x.dtype)


def var_forward(x: Array, correction: float, axes: Axes = None, keepdim: bool = False) -> tuple[Array, Array]:
    """Variance and mean: sum (x - mean)^2 / max(0, n - correction)."""
    count = np.ones(x.shape).sum(axes, keepdims=True)
    mean = _wide(x).sum(axes, keepdims=True) / count
    var = ((x - mean) ** 2).sum(axes, keepdims=True) / np.maximum(0, count - correction)
    if not keepdim:
        var, mean = var.squeeze(axes), mean.squeeze(axes)
    return np.asarray(var, dtype=x.dtype), np.asarray(mean, dtype=x.dtype)


def logsumexp_forward(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
    """log(sum(exp(x))), shifted by the largest element."""
    shift = _wide(x).max(axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isinf(shift), 0, shift)
    result = np.log(np.exp(x - shift).sum(axes, keepdims=True)) + shift
    return np.asarray(result if keepdim else result.squeeze(axes), dtype=x.dtype)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x summed over what broadcasting from ``shape`` would have repeated."""
    lead = x.ndim - len(shape)
    if lead < 0 or any(n not in (1, x.shape[i + lead]) for i, n in enumerate(shape)):
        raise ValueError(f"sum_to: shape {shape} does not broadcast to {x.shape}")
    axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1)
    return np.asarray(_wide(x).sum(axes).reshape(shape), dtype=x.dtype)


def sum_product_to(x: Array, y: Array, shape: tuple[int, ...]) -> Array:
    """sum_to(x * y, shape) without rounding the product; y broadcasts to x."""
    return sum_to(_wide(x) * y, shape).astype(x.dtype)


def _extreme(find: Any, x: Array, axis: int | None, keepdim: bool) -> tuple[Array, Array]:
    indices = np.asarray(find(x, axis=axis, keepdims=True), dtype=np.int64)
    values = x.reshape(-1)[indices] if axis is None else np.take_along_axis(x, indices, axis)
    return (values, indices) if keepdim else (values.squeeze(axis), indices.squeeze(axis))


def max_forward(x: Array, axis: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    """Largest values and their first places along ``axis``, or in the flattened array.

    NaN counts as largest.
    """
    return _extreme(np.argmax, x, axis, keepdim)


def min_forward(x: Array, axis: int | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    """Smallest values and their first places along ``axis``, or in the flattened array.

    NaN counts as smallest.
    """
    return _extreme(np.argmin, x, axis, keepdim)


def count_true(x: Array, axis: int | None = None, keepdim: bool = False) -> Array:
    """How many elements of the bool array x are True along ``axis``, or in all of it; int64."""
    return np.asarray(x.sum(axis, np.int64, keepdims=keepdim))


def sum_integers(x: Array, axis: int | None = None, keepdim: bool = False, product: bool = False) -> Array:
    """The sum, or ``product``, of the int32 or int64 array x along ``axis``, or of all of it; int64, overflow
    wraps around."""
    return np.asarray((np.prod if product else np.sum)(x, axis, np.int64, keepdims=keepdim))


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """A view of x with the given shape, read-only if it repeats an axis."""
    if prod(shape) == x.size and len(shape) >= x.ndim:
        whole = x[(None,) * (len(shape) - x.ndim)]
        if whole.shape == tuple(shape):
            return whole
    return np.broadcast_to(x, shape)


def strided(x: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """A view of x with any strides (bytes), inside of the memory that x reaches; writable if x is."""
    view = as_strided(x, shape, strides, writeable=x.flags.writeable)
    (low, high), (first, last) = byte_bounds(x), byte_bounds(view)
    if view.size and not (x.size and low <= first and last <= high):
        raise ArgumentError("strided: the view reaches outside of the array")
    return view

"""Interpolation, padding, unfold and fold, pixel shuffling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray
Sizes = Sequence[int]
Pairs = Sequence[tuple[int, int]]

__all__ = [
    "fold_forward",
    "grid_sample_backward",
    "grid_sample_forward",
    "interpolate_backward",
    "interpolate_forward",
    "pad_backward",
    "pad_forward",
    "pixel_shuffle_forward",
    "pixel_unshuffle_forward",
    "unfold_forward",
]


def _cubic(x: Array, a: Any) -> Array:
    """The cubic convolution kernel with parameter ``a``."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x >= 2, 0, far))  # NaN of NaN


def _triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0)


def _lanczos(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def _table(
    mode: str, n: int, out: int, scale: float, align_corners: bool, antialias: bool, dtype: Any
) -> tuple[Array, Array]:
    """(out, taps): which inputs each output sums up, and with what weights; in the data's own precision."""
    t = np.dtype(dtype).type
    o = np.arange(out).astype(dtype)
    if antialias and n == out:  # nothing to resample, whatever the scale
        return np.arange(n)[:, None], np.ones((n, 1), dtype)
    if align_corners:
        step = t(n - 1) / t(out - 1) if out > 1 else t(0)
    else:
        step = t(1.0 / scale) if scale > 0 else t(n) / t(out)
    center = o * step if align_corners else (o + t(0.5)) * step - t(0.5)
    if antialias:
        lobes = {"linear": 1, "cubic": 2, "lanczos": 3}[mode]
        support = t(lobes) * max(step, t(1))
        middle = (o + t(0.5)) * step
        first = np.maximum((middle - support + t(0.5)).astype(np.int64), 0)
        stop = np.minimum((middle + support + t(0.5)).astype(np.int64), n)
        index = first[:, None] + np.arange(int(np.max(stop - first)))
        x = (index.astype(dtype) - middle[:, None] + t(0.5)) * (1 / step if step >= 1 else t(1))
        weight = {"linear": _triangle, "cubic": lambda x: _cubic(x, t(-0.5)), "lanczos": _lanczos}[mode](x)
        weight = np.where(index < stop[:, None], weight, 0)
        return np.minimum(index, n - 1), weight / weight.sum(axis=1, keepdims=True)
    if mode == "nearest":
        index, weight = np.floor((o * step).astype(np.float32))[:, None], np.ones((out, 1))
    elif mode == "nearest-exact":
        x = np.maximum(center, 0) + t(0.5)
        index, weight = np.floor(x.astype(np.float32))[:, None], np.ones((out, 1))
    elif mode == "linear":
        x = o if n == out else np.maximum(center, 0)
        left = np.minimum(np.floor(x), n - 1)
        right = np.clip(x - left, 0, 1)
        index, weight = np.stack([left, left + 1], 1), np.stack([1 - right, right], 1)
    else:
        left = np.minimum(np.floor(center), n - 1)
        f = np.clip(center - left, 0, 1)
        index = left[:, None] + np.arange(-1, 3)
        weight = _cubic(np.stack([f + 1, f, 1 - f, 2 - f], 1), t(-0.75))
    return np.clip(index, 0, n - 1).astype(np.int64), weight.astype(dtype)


def _along(x: Array, axis: int, table: tuple[Array, Array], transposed: int | None = None) -> Array:
    """The weighted sums along one axis, or their transpose into an axis of that many places."""
    index, weight = table
    x = np.moveaxis(x, axis, -1)
    if transposed is None:
        y: Any = sum(weight[:, t] * x[..., index[:, t]] for t in range(index.shape[1]))
    else:
        y = np.zeros((*x.shape[:-1], transposed), x.dtype)
        for t in range(index.shape[1]):
            used = weight[:, t] != 0
            at: Any = (..., index[used, t])
            np.add.at(y, at, weight[used, t] * x[..., used])
    return np.moveaxis(y, -1, axis).astype(x.dtype)


def interpolate_forward(
    x: Array, output: Sizes, scale: Sequence[float], mode: str, align_corners: bool, antialias: bool
) -> Array:
    """x resampled to the spatial size ``output``; ``scale`` is outputs per input, 0 to derive it from the sizes."""
    for i in range(len(output)):
        axis = x.ndim - len(output) + i
        table = _table(mode, x.shape[axis], output[i], scale[i], align_corners, antialias, x.dtype)
        x = _along(x, axis, table)
    return x


def interpolate_backward(
    grad_y: Array, size: Sizes, scale: Sequence[float], mode: str, align_corners: bool, antialias: bool
) -> Array:
    grad = grad_y
    for i in range(len(size)):
        axis = grad.ndim - len(size) + i
        table = _table(mode, size[i], grad.shape[axis], scale[i], align_corners, antialias, grad.dtype)
        grad = _along(grad, axis, table, transposed=size[i])
    return grad


def _source(n: int, before: int, after: int, mode: str) -> Array:
    """Which input each output copies, -1 for the constant."""
    i = np.arange(-before, n + after)
    if mode == "constant":
        return np.where((i >= 0) & (i < n), i, -1)
    if mode == "roll":  # padding before with what is cut off behind
        return i % max(n, 1)
    if mode == "replicate":
        return np.clip(i, 0, n - 1)
    if mode == "reflect":
        return np.where(i < 0, -i, np.where(i >= n, 2 * (n - 1) - i, i))
    first, stop = max(0, -before), n - max(0, -after)  # around what negative padding leaves
    return np.where(i < first, i + stop - first, np.where(i >= stop, i - stop + first, i))


def pad_forward(x: Array, padding: Pairs, mode: str, value: float) -> Array:
    """``padding`` holds (before, after) for each axis; negative amounts cut off. Mode ``"roll"`` takes (n, -n)."""
    for axis, (before, after) in enumerate(padding):
        if (before, after) == (0, 0):
            continue
        source = _source(x.shape[axis], before, after, mode)
        shape = [1] * x.ndim
        shape[axis] = source.size
        if x.shape[axis] == 0:
            x = np.full((*x.shape[:axis], source.size, *x.shape[axis + 1 :]), value, x.dtype)
        else:
            x = np.where((source < 0).reshape(shape), np.asarray(value, x.dtype), np.take(x, source, axis))
    return x.copy()


def pad_backward(grad_y: Array, size: Sizes, padding: Pairs, mode: str) -> Array:
    grad = grad_y
    for axis, (before, after) in enumerate(padding):
        source = _source(size[axis], before, after, mode)
        moved = np.moveaxis(grad, axis, -1)
        total = np.zeros((*moved.shape[:-1], size[axis]), grad.dtype)
        at: Any = (..., source)
        np.add.at(total, at, moved)
        grad = np.moveaxis(total, -1, axis)
    return grad


def _blocks(size: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> list[int]:
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
    ]


def unfold_forward(x: Array, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes) -> Array:
    """(..., C, H, W) -> (..., C * kH * kW, windows): each window's elements as a column; zeros outside."""
    *leading, c, h, w = x.shape
    oh, ow = _blocks((h, w), kernel, dilation, padding, stride)
    pads = [(0, 0)] * (x.ndim - 2) + [(padding[0], padding[0]), (padding[1], padding[1])]
    padded = np.pad(x, pads)
    y = np.empty((*leading, c, *kernel, oh, ow), x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
            y[..., i, j, :, :] = padded[..., rows, columns]
    return y.reshape(*leading, c * prod(kernel), oh * ow)


def fold_forward(
    x: Array, output: Sizes, kernel: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> Array:
    """The transpose of :func:`unfold_forward`: columns are added up where they came from."""
    oh, ow = _blocks(output, kernel, dilation, padding, stride)
    leading = x.shape[:-2]
    c = x.shape[-2] // prod(kernel)
    x = x.reshape(*leading, c, *kernel, oh, ow)
    y = np.zeros((*leading, c, output[0] + 2 * padding[0], output[1] + 2 * padding[1]), x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
            y[..., rows, columns] += x[..., i, j, :, :]
    inner = y[..., padding[0] : padding[0] + output[0], padding[1] : padding[1] + output[1]]
    return np.ascontiguousarray(inner)


def pixel_shuffle_forward(x: Array, factor: int) -> Array:
    """(..., C*r*r, H, W) -> (..., C, H*r, W*r)."""
    *leading, c, h, w = x.shape
    x = x.reshape(*leading, c // factor**2, factor, factor, h, w)
    n = len(leading)
    x = np.transpose(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return x.reshape(*leading, c // factor**2, h * factor, w * factor)


def pixel_unshuffle_forward(x: Array, factor: int) -> Array:
    """(..., C, H*r, W*r) -> (..., C*r*r, H, W)."""
    *leading, c, h, w = x.shape
    x = x.reshape(*leading, c, h // factor, factor, w // factor, factor)
    n = len(leading)
    x = np.transpose(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return x.reshape(*leading, c * factor**2, h // factor, w // factor)


def _reflected(x: Array, n: int, align_corners: bool) -> tuple[Array, Array]:
    """Places mirrored at both ends until they are inside, and the derivative of that."""
    low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
    if span == 0:
        return np.zeros_like(x), np.zeros_like(x)
    turns, rest = np.divmod(np.abs(x - low), span)
    back = turns % 2 == 1
    slope = np.where((x < low) != back, -1, 1)
    return np.where(back, span - rest, rest) + low, slope


def _into_image(x: Array, n: int, padding: str, align_corners: bool) -> tuple[Array, Array]:
    slope: Any = 1
    if padding == "zeros":
        return x, slope
    if padding == "reflection":
        x, slope = _reflected(x, n, align_corners)
    slope = np.where((x > 0) & (x < n - 1), slope, 0)
    return np.where(x > 0, np.minimum(x, n - 1), 0), slope


def _grid_taps(
    v: Array, n: int, rank: int, mode: str, padding: str, align_corners: bool
) -> list[tuple[Array, ...]]:
    """Along one axis of n pixels, at coordinates v: (pixel, is there one, weight, d weight / d v) of each tap."""
    x = (v + 1) * ((n - 1) / 2) if align_corners else ((v + 1) * n - 1) / 2
    if rank == 3:  # what is not finite is outside of a volume, or at the axis' end; in an image NaN
        lost = np.isnan(v) if padding == "border" else ~np.isfinite(v)
        x = np.where(lost, -2 if padding == "zeros" else n - 1, x)
    slope: Any = (n - 1) / 2 if align_corners else n / 2
    if mode != "bicubic":
        x, inner = _into_image(x, n, padding, align_corners)
        slope = slope * inner
    first = np.floor(x)
    with np.errstate(invalid="ignore"):
        t = x - first  # NaN at a place that is not finite, and so are the weights
    if mode == "nearest":
        taps = [(np.rint(x), np.ones_like(x), np.zeros_like(x))]
    elif mode == "bilinear":
        slope = np.broadcast_to(slope, t.shape)
        taps = [(first, 1 - t, -slope), (first + 1, t, slope)]
    else:
        taps = []
        for i in range(-1, 3):
            u, a = np.abs(t - i), -0.75
            near = (3 * (a + 2) * u - 2 * (a + 3)) * u
            far = (3 * a * u - 10 * a) * u + 8 * a
            rise = np.where(t >= i, 1, -1) * np.where(u <= 1, near, np.where(u >= 2, 0, far))
            pixel = _into_image(first + i, n, padding, align_corners)[0]
            taps.append((pixel, _cubic(t - i, a), slope * rise))
    found = []
    for pixel, weight, rise in taps:
        inside = (pixel >= 0) & (pixel <= n - 1)
        found.append((np.where(inside, pixel, 0).astype(np.int64), inside, weight, rise))
    return found


def _grid_corners(
    x: Array, grid: Array, mode: str, padding: str, align_corners: bool
) -> list[tuple[Array, Array, Array, list[Array]]]:
    """For each pixel that has a part: its place in the plane, whether it exists, its weight, and the derivatives
    of that by the grid's coordinates; all (N, points)."""
    rank = grid.shape[-1]
    size = x.shape[2:]
    points = grid.reshape(len(grid), prod(grid.shape[1:-1]), rank)
    axes = [
        _grid_taps(points[..., rank - 1 - a], size[a], rank, mode, padding, align_corners)
        for a in range(rank)
    ]
    corners = []
    for taps in product(*axes):
        place: Any = 0
        inside: Any = True
        for (pixel, there, _, _), n in zip(taps, size, strict=True):
            place, inside = place * n + pixel, inside & there
        weights = [weight for _, _, weight, _ in taps]
        slopes = []
        for c in range(rank):
            a = rank - 1 - c
            factors = [*weights[:a], taps[a][3], *weights[a + 1 :]]
            slopes.append(_part(np.multiply.reduce(factors), inside))
        corners.append((place, inside, _part(np.multiply.reduce(weights), inside), slopes))
    return corners


def _part(share: Array, inside: Array) -> Array:
    """0 where there is no pixel, but NaN stays: a place that is no number has no value."""
    return np.where(inside, share, 0 * share)


def _pixels(x: Array, place: Array, inside: Array) -> Array:
    """(N, C, points): what lies at these places of every plane, 0 where nothing does."""
    planes = x.reshape(*x.shape[:2], prod(x.shape[2:]))
    values = np.take_along_axis(planes, np.broadcast_to(place[:, None], (*x.shape[:2], place.shape[1])), 2)
    return np.where(inside[:, None], values, 0)


def grid_sample_forward(x: Array, grid: Array, mode: str, padding: str, align_corners: bool) -> Array:
    """y[n, c, p] = sum over the pixels around the place grid[n, p] of their weight times x[n, c, pixel]."""
    y = np.zeros((*x.shape[:2], prod(grid.shape[1:-1])), x.dtype)
    for place, inside, weight, _ in _grid_corners(x, grid, mode, padding, align_corners):
        y += weight[:, None] * _pixels(x, place, inside)
    return y.reshape(*x.shape[:2], *grid.shape[1:-1])


def grid_sample_backward(
    grad_y: Array,
    x: Array,
    grid: Array,
    mode: str,
    padding: str,
    align_corners: bool,
    want_x: bool,
    want_grid: bool,
) -> tuple[Array | None, Array | None]:
    """(grad_x, grad_grid), each if it is wanted."""
    n, c = x.shape[:2]
    g = grad_y.reshape(n, c, prod(grid.shape[1:-1]))
    grad_x = np.zeros((n, c, prod(x.shape[2:])), x.dtype)
    grad_grid = np.zeros((n, g.shape[2], grid.shape[-1]), x.dtype)
    at = np.arange(n)[:, None, None], np.arange(c)[None, :, None]
    for place, inside, weight, slopes in _grid_corners(x, grid, mode, padding, align_corners):
        np.add.at(grad_x, (*at, place[:, None]), np.where(inside, weight, 0)[:, None] * g)
        share = (g * _pixels(x, place, inside)).sum(1)
        grad_grid += np.stack([slope * share for slope in slopes], -1).astype(x.dtype)
    return (grad_x.reshape(x.shape) if want_x else None, grad_grid.reshape(grid.shape) if want_grid else None)

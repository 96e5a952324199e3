"""Counts of values in bins; see ``torch.histc``, ``torch.histogram`` and ``torch.histogramdd``."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastdl.dtypes import FLOATING, float32, float64
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import cast, contiguous, empty, full
from fastdl.ops.cast import to
from fastdl.printing import named_lines
from fastdl.sequences import linspace
from fastdl.tensor import Tensor

__all__ = ["histc", "histogram", "histogramdd"]


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each of ``bins`` equal parts of [min, max]; by default of the whole range.

    See ``torch.histc``.
    """
    x = input._data
    if x.dtype.kind not in FLOATING:
        raise RuntimeError(f"histc: defined for floating-point tensors, got {x.dtype}")
    if bins <= 0:
        raise RuntimeError(f"histc: bins must be positive, got {bins}")
    low, high = float(min), float(max)
    if low == high and x.size:
        low, high = _range(x)
    if low == high:
        low, high = low - 1, high + 1
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RuntimeError(f"histc: the range must be finite, got [{low}, {high}]")
    if low > high:
        raise RuntimeError(f"histc: max must not be below min, got [{low}, {high}]")
    wide = cast(x.reshape(-1), float64 if x.dtype == float64 else float32)
    if not on_device(x) and wide.dtype.type(low) < wide.dtype.type(high):
        return Tensor._wrap(cast(select(wide).count_in_bins(wide, low, high, bins, None), x.dtype))
    edges = empty((bins + 1,), float64)
    select(edges).progression(edges, low, (high - low) / bins)
    edges[-1] = high
    edges = array(cast(edges, wide.dtype), wide)
    # Bin i + 1: from edge i on, below edge i + 1; before the first is 0, the last one has its upper edge, too.
    places = select(wide).searchsorted(edges, wide, True)
    counts = np.bincount(places, minlength=bins + 2)[1 : bins + 1]
    counts[-1] += np.count_nonzero(wide == edges[-1])
    return Tensor._wrap(cast(counts, x.dtype))


def _range(x: Any) -> tuple[float, float]:
    """The smallest and the largest element."""
    if x.__class__ is np.ndarray and (x.dtype is float32 or x.dtype is float64):
        k = select(x)
        return float(k.amin_forward(x, None, False)), float(k.amax_forward(x, None, False))
    return float(x.min()), float(x.max())


class Histogram(NamedTuple):
    """Counts (or weights, or densities) and the edges between which they are."""

    hist: Tensor
    bin_edges: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def histogram(
    input: Tensor, bins: Any = 100, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Histogram:
    """How many elements lie in each bin: ``bins`` equal ones over ``range`` (by default all), or between given edges.

    ``weight``: what every element counts. ``density``: so that the integral is 1. See ``torch.histogram``.

    Example:
        >>> import fastdl
        >>> fastdl.histogram(fastdl.tensor([1.0, 2.0, 1.0]), bins=4, range=(0.0, 3.0)).hist
        tensor([0., 2., 1., 0.])
    """
    x = input._data
    if x.dtype.kind not in FLOATING:
        raise RuntimeError(f"histogram: defined for floating-point tensors, got {x.dtype}")
    if weight is not None and weight._data.shape != x.shape:
        raise RuntimeError(f"histogram: weight must have input's shape {x.shape}, got {weight.shape}")
    if isinstance(bins, Tensor):
        edges = to(bins, input.device)._data
        if edges.ndim != 1 or edges.size < 2 or (np.diff(_wide(edges)) < 0).any():
            raise RuntimeError(f"histogram: edges must rise in one dimension, got {edges}")
    else:
        if bins <= 0:
            raise RuntimeError(f"histogram: bins must be positive, got {bins}")
        low, high = range if range is not None else _range(x) if x.size else (0.0, 1.0)
        if not (np.isfinite(low) and np.isfinite(high)) or low > high:
            raise RuntimeError(f"histogram: range must be finite and rise, got [{low}, {high}]")
        if low == high:
            low, high = low - 0.5, high + 0.5
        # As PyTorch computes them, in the dtype of the data: what lies on an edge falls into the same bin.
        edges = linspace(float(low), float(high), bins + 1, dtype=x.dtype, device=input.device)._data
        if weight is None and not on_device(x) and x.dtype.itemsize > 2 and edges[0] < edges[-1]:
            counts = select(x).count_in_bins(x.reshape(-1), edges[0], edges[-1], bins, edges)
            hist = counts.astype(x.dtype)
            if density:
                hist = hist / (counts.sum() * np.diff(edges))
            return Histogram(Tensor._wrap(array(hist, None, x.dtype)), Tensor._wrap(edges))
    weights = None if weight is None else to(weight, input.device)._data.reshape(-1)
    if on_device(x):
        counts = _counted(x.reshape(-1, 1), [edges], weights, density)
        return Histogram(Tensor._wrap(cast(counts, x.dtype)), Tensor._wrap(cast(edges, x.dtype)))
    counts = np.histogram(x.reshape(-1), edges, weights=weights, density=density)[0]
    return Histogram(Tensor._wrap(counts.astype(x.dtype)), Tensor._wrap(edges.astype(x.dtype)))


def _wide(x: Any) -> Any:
    """In a dtype that the kernels search in."""
    return cast(x, float64 if x.dtype == float64 else float32)


def _counted(points: Any, edges: list[Any], weights: Any, density: bool) -> Any:
    """How many of the ``points`` (M, N) on a GPU lie in each cell of the grid, or their weights, added in a fixed
    order."""
    k, shape = select(points), tuple([each.size - 1 for each in edges])
    cells = prod(shape)
    cell: Any = 0
    inside: Any = True
    for i, each in enumerate(map(_wide, edges)):
        x = contiguous(_wide(points[:, i]))
        place = k.searchsorted(each, x, True) - 1 - (x == each[-1])  # the last bin has its upper edge, too
        inside = inside & (place >= 0) & (place < shape[i])
        cell = cell * shape[i] + place
    part = full(points.shape[:1], 1.0, float64, points) if weights is None else cast(weights, float64)
    counts = k.index_select_backward(part, 0, np.where(inside, cell, cells), cells + 1)[:cells].reshape(shape)
    if density:
        counts = counts / counts.sum()
        for i, each in enumerate(edges):
            counts = counts / np.diff(cast(each, float64)).reshape(-1, *[1] * (len(shape) - 1 - i))
    return counts


class HistogramDd(NamedTuple):
    """Counts (or weights, or densities) and, for every axis, the edges between which they are."""

    hist: Tensor
    bin_edges: tuple[Tensor, ...]


def histogramdd(
    input: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> HistogramDd:
    """How many points (..., N) lie in each cell of a grid of N dimensions.

    Args:
        input: points, the last axis their coordinates.
        bins: N tensors of edges that rise, N numbers of equal bins, or one for all.
        range: 2 N numbers, from where to where the equal bins go on each axis; by default over all points.
        weight: (...), what every point counts.
        density: divide by the total and the cells' volumes.

    Example:
        >>> import fastdl
        >>> points = fastdl.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> fastdl.histogramdd(points, bins=[2, 2]).hist
        tensor([[0., 1.],
                [1., 1.]])
    """
    op, x = "histogramdd", input._data
    if x.ndim < 2:
        raise RuntimeError(
            f"{op}: input must be points (..., N), of at least 2 dimensions, got shape {x.shape}"
        )
    if x.dtype.kind not in FLOATING:
        raise NotImplementedError(f"{op}: defined for floating-point tensors, got {x.dtype}")
    size = x.shape[-1]
    bins = list(bins) if isinstance(bins, (tuple, list)) else [bins] * size
    if len(bins) != size:
        raise RuntimeError(f"{op}: bins must have an entry for each of {size} coordinates, got {len(bins)}")
    if range is not None and len(range) != 2 * size:
        raise RuntimeError(
            f"{op}: range must have {2 * size} numbers, two for each coordinate, got {len(range)}"
        )
    if weight is not None and (weight._data.shape != x.shape[:-1] or weight._data.dtype != x.dtype):
        raise RuntimeError(
            f"{op}: weight must be {x.dtype} of shape {x.shape[:-1]}, got {weight.dtype} of {weight.shape}"
        )
    points = x.reshape(-1, size)
    weights = None if weight is None else to(weight, input.device)._data.reshape(-1)
    edges = []
    for i, each in enumerate(bins):
        part = None if range is None else range[2 * i : 2 * i + 2]
        edges.append(histogram(Tensor._wrap(points[:, i]), each, range=part).bin_edges._data)
    if on_device(x):
        counts = _counted(points, edges, weights, density)
        return HistogramDd(Tensor._wrap(cast(counts, x.dtype)), tuple([Tensor._wrap(e) for e in edges]))
    counts = np.histogramdd(points, edges, weights=weights, density=density)[0]
    return HistogramDd(Tensor._wrap(counts.astype(x.dtype)), tuple([Tensor._wrap(e) for e in edges]))

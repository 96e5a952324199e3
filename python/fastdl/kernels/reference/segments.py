"""Reductions of runs of elements that stand one after the other, and counts of values in equal bins."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["count_in_bins", "segment_backward", "segment_forward"]

_JOIN: dict[str, Any] = {
    "sum": np.add,
    "mean": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "prod": np.multiply,
}


def segment_forward(x: Array, offsets: Array, reduce: str, start: float, begun: bool) -> Array:
    """Segment s of slice o is x[o, offsets[o, s] : offsets[o, s + 1]], along the last axis of ``offsets``.

    ``start`` joined with each segment's elements; the mean of none is NaN unless ``begun``: start was given.
    """
    axis = offsets.ndim - 1
    y = np.empty((*x.shape[:axis], offsets.shape[-1] - 1, *x.shape[axis + 1 :]), x.dtype)
    for at in np.ndindex(*y.shape[: axis + 1]):
        before, s = at[:axis], at[axis]
        part = x[before][offsets[before][s] : offsets[before][s + 1]]
        with np.errstate(all="ignore"):
            y[at] = _JOIN[reduce].reduce(part, 0, initial=x.dtype.type(start))
            if reduce == "mean":
                y[at] = y[at] / len(part) if len(part) else start if begun else np.nan
    return y


def segment_backward(grad_y: Array, x: Array, y: Array, offsets: Array, reduce: str, start: float) -> Array:
    """Extremes that are equal, or NaN, share the gradient; what is in no segment has none."""
    axis = offsets.ndim - 1
    grad_x = np.zeros_like(x)
    for at in np.ndindex(*y.shape[: axis + 1]):
        before, s = at[:axis], at[axis]
        begin, end = offsets[before][s], offsets[before][s + 1]
        part, g = x[before][begin:end], grad_y[at]
        to = grad_x[before][begin:end]
        with np.errstate(all="ignore"):
            if reduce in ("sum", "mean"):
                to[...] = g / (max(len(part), 1) if reduce == "mean" else 1)
            elif reduce == "prod":
                for j in range(len(part)):
                    to[j] = g * np.multiply.reduce(np.delete(part, j, 0), 0, initial=x.dtype.type(start))
            else:
                chosen = (part == y[at]) | (part != part)
                to[...] = np.where(chosen, g / np.maximum(chosen.sum(0), 1), 0)
    return grad_x


def count_in_bins(x: Array, low: float, high: float, bins: int, edges: Array | None) -> Array:
    """How many of x lie in each of ``bins`` equal bins from low to high, both included.

    ``edges``: between which a value beside a border is; without, what the product says.
    """
    low, high = x.dtype.type(low), x.dtype.type(high)
    inside = x[(x >= low) & (x <= high)]
    if edges is None:
        with np.errstate(over="ignore"):
            fits = np.isfinite((high - low) * x.dtype.type(bins))
        unit = x.dtype.type(1 if fits else 2.0**-66)  # where the products would overflow
        first = low * unit
        places = ((inside * unit - first) * x.dtype.type(bins) / (high * unit - first)).astype(np.int64)
    else:
        places = np.searchsorted(edges, inside, "right") - 1
    return np.bincount(np.clip(places, 0, bins - 1), minlength=bins).astype(np.int64)

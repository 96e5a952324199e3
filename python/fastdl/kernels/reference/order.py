"""Order along the last axis, of float32, float64, int32 and int64."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["mode_index", "searchsorted", "select_index", "sort_forward"]


def sort_forward(x: Array, k: int, descending: bool) -> tuple[Array, Array]:
    """The first k along the last axis in ascending (or descending) order, and where they were. Equal elements keep
    their order; NaN counts as largest.
    """
    if descending:  # reversed twice
        order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], -1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(x, -1, kind="stable")
    indices = order[..., :k].astype(np.int64)
    return np.take_along_axis(x, indices, -1), indices


def select_index(x: Array, k: int) -> Array:
    """Where the element is that would stand at place ``k`` of every sorted row; of equals as :func:`sort_forward`."""
    return np.asarray(np.argsort(x, -1, kind="stable")[..., k], np.int64)


def mode_index(x: Array) -> Array:
    """Where the most frequent element of every row is (the smallest of equally frequent ones): its last place.

    NaN equals nothing and is largest.
    """
    places = np.empty(x.shape[:-1], np.int64)
    for at in np.ndindex(places.shape):
        _, _, group, counts = np.unique(x[at], True, True, True, equal_nan=False)  # an index makes it stable
        places[at] = np.flatnonzero(group == np.argmax(counts))[-1]
    return places


def searchsorted(sorted: Array, values: Array, right: bool) -> Array:
    """How many elements of a sorted row are smaller than each value (``right``: not larger); all, for a NaN.

    One row serves all values; several serve those of the same leading subscripts.
    """
    rows = sorted if sorted.ndim > 1 else sorted.reshape(*[1] * max(values.ndim - 1, 0), -1)
    beyond = rows[..., None, :] > values.reshape(*values.shape, 1) if values.ndim else rows > values
    if not right:
        beyond = beyond | (
            rows[..., None, :] == values.reshape(*values.shape, 1) if values.ndim else rows == values
        )
    return np.asarray((~beyond).sum(-1), np.int64)

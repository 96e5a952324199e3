"""Elements chosen by an index, and the gradient of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _check(op: str, index: Array, extent: int, argument: str = "index") -> None:
    outside = np.argwhere((index < 0) | (index >= extent))
    if len(outside):
        place = tuple(outside[0].tolist())
        raise IndexError(f"{op}: {argument}{list(place)} = {index[place]} is out of range [0, {extent})")


def contiguous(array: Array) -> Array:
    """A C-order copy."""
    return np.array(array, order="C")


def convert(array: Array, dtype: Any) -> Array:
    """A C-order copy in another dtype: values as C converts them, to bool whether they are not zero."""
    with np.errstate(all="ignore"):  # float to int out of range
        return array.astype(dtype, order="C")


def concat(arrays: Sequence[Array], dim: int) -> Array:
    """Arrays of one dtype, one after the other along ``dim``."""
    return np.concatenate(arrays, dim)


def index_select_forward(x: Array, dim: int, index: Array) -> Array:
    """y[.., j, ..] = x[.., index[j], ..] along ``dim``."""
    _check("index_select", index, x.shape[dim])
    return np.take(x, index, dim)


def index_select_backward(grad_y: Array, dim: int, index: Array, extent: int) -> Array:
    """grad_x[.., index[j], ..] += grad_y[.., j, ..], from zero, ``extent`` entries along ``dim``."""
    _check("index_select_backward", index, extent)
    grad_x = np.zeros((*grad_y.shape[:dim], extent, *grad_y.shape[dim + 1 :]), grad_y.dtype)
    key: Any = (slice(None),) * dim + (index,)
    np.add.at(grad_x, key, grad_y)
    return grad_x


def _grids(index: Array, dim: int) -> tuple[Array, ...]:
    grids: list[Array] = list(np.indices(index.shape, sparse=True))
    grids[dim] = index
    return tuple(grids)


def gather_forward(x: Array, dim: int, index: Array) -> Array:
    """y[.., j, ..] = x[.., index[.., j, ..], ..]: one index for every element."""
    _check("gather", index, x.shape[dim])
    return x[_grids(index, dim)]


def gather_backward(grad_y: Array, dim: int, index: Array, extent: int) -> Array:
    """grad_x[.., index[.., j, ..], ..] += grad_y[.., j, ..], from zero."""
    _check("gather_backward", index, extent)
    grad_x = np.zeros((*grad_y.shape[:dim], extent, *grad_y.shape[dim + 1 :]), grad_y.dtype)
    np.add.at(grad_x, _grids(index, dim), grad_y)
    return grad_x

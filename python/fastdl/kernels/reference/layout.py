"""Elements chosen by an index, and the gradient of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _check(op: str, index: Array, extent: int, argument: str = "index", low: int = 0) -> None:
    """IndexError with place and value of the first index outside [low, extent)."""
    outside = np.argwhere((index < low) | (index >= extent))
    if len(outside):
        place = tuple(outside[0].tolist())
        raise IndexError(f"{op}: {argument}{list(place)} = {index[place]} is out of range [{low}, {extent})")


def contiguous(array: Array) -> Array:
    """A C-order copy."""
    return np.array(array, order="C")


def convert(array: Array, dtype: Any, out: Array | None = None) -> Array | None:
    """A C-order copy in another dtype, or written to ``out``: values as C converts them, to bool whether they are not
    zero. A backend may refuse with None, having done nothing."""
    with np.errstate(all="ignore"):  # float to int out of range
        if array.dtype == np.float64 and dtype.itemsize == 2 and dtype.kind in "fV":
            array = array.astype(np.float32)  # rounded twice, as PyTorch's are
        if out is None:
            return array.astype(dtype, order="C")
        np.copyto(out, array, casting="unsafe")
    return out


def copy_into(out: Array, array: Array) -> bool:
    """``out[...] = array``; a backend may refuse with False, having done nothing."""
    out[...] = array
    return True


def fill(out: Array, value: Any) -> None:
    """Every element of ``out`` becomes ``value``."""
    out.fill(value)


def progression(out: Array, start: float, step: float) -> None:
    """out[i] = start + step * i, of floats in float64; ``out`` is float32, float64 or int64."""
    places: Array = np.arange(len(out), dtype=np.int64 if out.dtype.kind == "i" else np.float64)
    out[...] = start + step * places


def triangle_places(rows: int, columns: int, diagonal: int, lower: bool) -> Array:
    """Row and column numbers (2, n) of one side of a diagonal, row by row; see :func:`triangle`."""
    places = np.tril_indices(rows, diagonal, columns) if lower else np.triu_indices(rows, diagonal, columns)
    return np.stack(places)


def triangle(x: Array, diagonal: int, lower: bool, out: Array | None = None) -> Array:
    """The lower triangle of the last two axes, columns up to row + diagonal, or the upper one, from there on.

    ``out`` may be ``x`` itself."""
    y = np.tril(x, diagonal) if lower else np.triu(x, diagonal)
    if out is None:
        return y
    out[...] = y
    return out


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


def flat_index(arrays: Sequence[Array], extents: Sequence[int]) -> Array | None:
    """Index arrays of one shape, one for each axis, as places in C order; None if one is out of range."""
    places: Any = 0
    for index, extent in zip(arrays, extents, strict=True):
        if index.size and (index.min() < -extent or index.max() >= extent):
            return None
        places = places * extent + np.where(index < 0, index + extent, index)
    return places  # type: ignore[no-any-return]


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


def index_copy(out: Array, dim: int, index: Array, source: Array) -> None:
    """out[.., index[j], ..] = source[.., j, ..] along ``dim``; of equal indices the last one counts."""
    _check("index_copy", index, out.shape[dim])
    for j, place in enumerate(index):
        key: Any = (slice(None),) * dim
        out[(*key, place)] = source[(*key, j)]


def index_add(out: Array, dim: int, index: Array, source: Array) -> None:
    """out[.., index[j], ..] += source[.., j, ..] along ``dim``."""
    _check("index_add", index, out.shape[dim])
    key: Any = (slice(None),) * dim + (index,)
    np.add.at(out, key, source)


def scatter(out: Array, dim: int, index: Array, source: Array) -> None:
    """out[.., index[.., j, ..], ..] = source[.., j, ..]; a source of no dimensions is one element for all."""
    _check("scatter", index, out.shape[dim])
    out[_grids(index, dim)] = source


def scatter_add(out: Array, dim: int, index: Array, source: Array) -> None:
    """out[.., index[.., j, ..], ..] += source[.., j, ..]; a source of no dimensions is one element for all."""
    _check("scatter_add", index, out.shape[dim])
    np.add.at(out, _grids(index, dim), source)


def scatter_reduce(out: Array, dim: int, index: Array, source: Array, reduce: str) -> None:
    """out[.., index[.., j, ..], ..] joined with source[.., j, ..]: their product (prod), the larger one (amax)

    or the smaller one (amin); a NaN stays. An index of one axis speaks for whole entries along ``dim``.
    """
    if index.ndim == 1 < out.ndim:
        index = np.broadcast_to(index.reshape(-1, *[1] * (out.ndim - 1 - dim)), source.shape)
    _check("scatter_reduce", index, out.shape[dim])
    join: Any = {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}[reduce]
    with np.errstate(invalid="ignore"):
        join.at(out, _grids(index, dim), source)


def masked_select(x: Array, mask: Array) -> Array:
    """x[mask]: the entries along the first axes, which the mask covers."""
    return x[mask]


def masked_put(out: Array, mask: Array, source: Array) -> None:
    """out[mask] = source, in order; the source may have more elements; one of no dimensions stands for all."""
    kept = out[mask]
    out[mask] = source if source.ndim == 0 else source.reshape(-1)[: kept.size].reshape(kept.shape)


def nonzero(mask: Array) -> Array:
    """The subscripts of what is True, one element in a row."""
    return np.argwhere(mask)

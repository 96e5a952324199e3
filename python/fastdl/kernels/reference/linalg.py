"""LU decompositions with row exchanges, and systems solved by them or by triangles; matrices are the last two axes."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

__all__ = ["cross_forward", "lu_factor", "lu_permutation", "lu_solve", "lu_unpack", "triangular_solve"]


def cross_forward(x: Array, y: Array, axis: int) -> Array:
    """x times y, vectors of three along ``axis``, of one shape."""
    return np.cross(x, y, axis=axis).reshape(x.shape)


def lu_factor(a: Array, pivot: bool) -> tuple[Array, Array, Array]:
    """L (without its ones) below U, the row each row was exchanged with, from 1, and the first pivot that is 0, or 0.

    ``pivot``: the largest of a column comes to the diagonal, of complex numbers by |x| + |y|.
    """
    a = np.array(a, order="C")
    rows, columns = a.shape[-2:]
    steps = min(rows, columns)
    pivots = np.broadcast_to(np.arange(1, steps + 1, dtype=np.int32), (*a.shape[:-2], steps)).copy()
    with np.errstate(all="ignore"):
        for k in range(steps):
            if pivot:
                column = a[..., k:, k]
                best = np.argmax(np.abs(column.real) + np.abs(column.imag), -1) + k
                pivots[..., k] = best + 1
                index = np.broadcast_to(best[..., None, None], (*best.shape, 1, columns))
                top = np.take_along_axis(a, index, -2)
                np.put_along_axis(a, index, a[..., k : k + 1, :], -2)
                a[..., k : k + 1, :] = top
            diagonal = a[..., k : k + 1, k : k + 1]
            below = a[..., k + 1 :, k : k + 1]
            np.divide(below, diagonal, out=below, where=diagonal != 0)
            a[..., k + 1 :, k + 1 :] -= below * a[..., k : k + 1, k + 1 :]
    zero = np.diagonal(a, axis1=-2, axis2=-1) == 0
    first = zero.argmax(-1) + 1 if steps else 0
    return a, pivots, np.asarray(np.where(zero.any(-1), first, 0), np.int32)


def lu_unpack(packed: Array) -> tuple[Array, Array]:
    """L, with its ones, and U."""
    rows, columns = packed.shape[-2:]
    steps = min(rows, columns)
    eye = np.eye(rows, steps, dtype=packed.dtype)
    return np.tril(packed[..., :steps], -1) + eye, np.triu(packed[..., :steps, :])


def lu_permutation(pivots: Array, packed: Array) -> Array:
    """P of A = P L U: the exchanges in their order, transposed."""
    rows = packed.shape[-2]
    if ((pivots < 1) | (pivots > rows)).any():
        raise ValueError("lu_permutation: pivots must be numbers of rows, from 1")
    order = np.broadcast_to(np.arange(rows), (*pivots.shape[:-1], rows)).copy()
    for k in range(pivots.shape[-1]):
        other = pivots[..., k : k + 1].astype(np.int64) - 1
        at = np.take_along_axis(order, other, -1)
        np.put_along_axis(order, other, order[..., k : k + 1], -1)
        order[..., k : k + 1] = at
    return np.ascontiguousarray(np.swapaxes(np.eye(rows, dtype=packed.dtype)[order], -1, -2))


def lu_solve(packed: Array, pivots: Array, b: Array | None, transposed: bool) -> Array:
    """X of A X = b, ``transposed``: of A^T X = b; None stands for the identity."""
    lower, upper = lu_unpack(packed)
    a = lu_permutation(pivots, packed) @ lower @ upper
    return _solve(a.swapaxes(-1, -2) if transposed else a, b)


def triangular_solve(a: Array, b: Array | None, upper: bool, unit: bool) -> Array:
    """X of a X = b by one triangle of a; ``unit``: with ones as its diagonal. None stands for the identity."""
    triangle = np.triu(a, int(unit)) if upper else np.tril(a, -int(unit))
    return _solve(triangle + np.eye(a.shape[-1], dtype=a.dtype) if unit else triangle, b)


def _solve(a: Array, b: Array | None) -> Array:
    if b is None:
        return np.linalg.inv(a)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return np.linalg.solve(a, np.broadcast_to(b, (*batch, *b.shape[-2:])))

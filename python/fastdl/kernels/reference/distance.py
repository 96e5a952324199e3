"""Products and distances of rows, the last dimension: of corresponding ones of two arrays, or of all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.kernels.reference.reduce import norm_forward, sum_forward

Array = np.ndarray[Any, Any]

__all__ = [
    "cdist_backward",
    "cdist_forward",
    "pairwise_distance_backward",
    "pairwise_distance_forward",
    "pdist_forward",
    "row_products_backward",
    "row_products_forward",
]


def row_products_forward(x1: Array, x2: Array) -> Array:
    """x1 . x2, x1 . x1 and x2 . x2, stacked in front."""
    return np.stack([(a * b).sum(-1) for a, b in ((x1, x2), (x1, x1), (x2, x2))])


def row_products_backward(
    grad_sums: Array, x1: Array, x2: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """grad_x1 = g0 x2 + 2 g1 x1, grad_x2 = g0 x1 + 2 g2 x2; only those that ``needs`` asks for."""
    g0, g1, g2 = grad_sums[..., None]
    return (
        g0 * x2 + 2 * g1 * x1 if needs[0] else None,
        g0 * x1 + 2 * g2 * x2 if needs[1] else None,
    )


def pairwise_distance_forward(x1: Array, x2: Array, p: float, eps: float) -> Array:
    """(sum |d|^p)^(1/p) with d = x1 - x2 + eps; the largest for p = inf, how many are not zero for p = 0."""
    d = np.abs(x1 - x2 + x1.dtype.type(eps))
    if p == 0:
        return np.asarray((d != 0).sum(-1), x1.dtype)
    if p == np.inf:
        return d.max(-1, initial=0)  # type: ignore[no-any-return]
    return np.asarray((d**p).sum(-1) ** (1 / p), x1.dtype)


def pairwise_distance_backward(
    grad_distance: Array, x1: Array, x2: Array, distance: Array, p: float, eps: float
) -> Array:
    """grad_x1 = g sign(d) (|d| / r)^(p-1); for p = inf shared by the largest; zero where the distance r is.
    That for x2 is its negative."""
    d = x1 - x2 + x1.dtype.type(eps)
    g, r = grad_distance[..., None], distance[..., None]
    if p == 0:
        return np.zeros_like(d)
    with np.errstate(invalid="ignore", divide="ignore"):
        if p == np.inf:
            largest = np.abs(d) == r
            grad = g * np.sign(d) * largest / largest.sum(-1, keepdims=True)
        else:
            grad = g * np.sign(d) * np.where(d == 0, 0, (np.abs(d) / r) ** (p - 1) if p != 1 else 1)
    return np.asarray(np.where(r == 0, 0, grad), x1.dtype)


def cdist_forward(x1: Array, x2: Array, p: float) -> Array:
    """(sum |d|^p)^(1/p) with d = x1[b, i] - x2[b, j] at [b, i, j]; the largest for p = inf, how many are not zero for
    p = 0."""
    return norm_forward(x1[:, :, None] - x2[:, None], p, (3,))


def pdist_forward(x: Array, p: float) -> Array:
    """The distances of rows i < j, as :func:`cdist_forward` has them, one after the other."""
    first, second = np.triu_indices(len(x), 1)
    return norm_forward(x[first] - x[second], p, (1,))


def cdist_backward(grad_distance: Array, x1: Array, x2: Array, distance: Array, p: float) -> Array:
    """grad_x1: the sums of g sign(d) (|d| / r)^(p-1) over the rows of x2; for p = inf each of the largest counts."""
    d = x1[:, :, None] - x2[:, None]
    g, r = grad_distance[..., None], distance[..., None]
    if p == 0:
        return np.zeros_like(x1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if p == np.inf:
            grad = g * np.sign(d) * (np.abs(d) == r)
        elif p == 2:
            grad = d * (g / r)
        else:
            grad = g * np.sign(d) * np.where(d == 0, 0, (np.abs(d) / r) ** (p - 1) if p != 1 else 1)
    return sum_forward(np.where(r == 0, 0, grad).astype(x1.dtype), (2,))

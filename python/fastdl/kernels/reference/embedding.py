"""Rows of a table by index, one for each index or combined into bags, and the gradient of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdl.kernels.reference.layout import _check

Array = NDArray[Any]

__all__ = [
    "embedding_backward",
    "embedding_bag_forward",
    "embedding_bag_max_forward",
    "embedding_forward",
]


def embedding_forward(weight: Array, index: Array) -> Array:
    """y[..., :] = weight[index[...], :]; any shape of index."""
    _check("embedding", index, len(weight))
    return weight[index]


def embedding_backward(
    grad_y: Array,
    index: Array,
    bag: Array | None,
    scale: Array | None,
    rows: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Array:
    """grad_weight[index[j]] += scale[j] grad_y[bag[j]], from zero, ``rows`` rows.

    Without ``bag`` entry j has row j of ``grad_y``, without ``scale`` factor 1. Entries with index ``padding_idx``
    (-1: none) are skipped. ``scale_grad_by_freq`` divides each row by how many entries have its index.
    """
    _check("embedding_backward", index, rows)
    grads = grad_y
    if bag is not None:
        _check("embedding_backward", bag, len(grad_y), "bag")
        grads = grad_y[bag]
    if scale is not None:
        grads = scale[:, None] * grads
    kept = index != padding_idx
    grad_weight = np.zeros((rows, grad_y.shape[1]), grad_y.dtype)
    np.add.at(grad_weight, index[kept], grads[kept])
    if scale_grad_by_freq:
        counts = np.bincount(index[kept], minlength=rows)
        grad_weight /= np.maximum(counts, 1).astype(grad_y.dtype)[:, None]
    return grad_weight


def embedding_bag_forward(
    weight: Array, index: Array, offsets: Array, scale: Array | None, padding_idx: int, mean: bool
) -> Array:
    """y[b] = sum of scale[j] weight[index[j]] for offsets[b] <= j < offsets[b + 1].

    The index may have any shape. Entries with index ``padding_idx`` are skipped; ``mean`` divides by the number of
    the others; zero without any.
    """
    _check("embedding_bag", index, len(weight))
    index = index.reshape(-1)
    y = np.zeros((len(offsets) - 1, weight.shape[1]), weight.dtype)
    for b in range(len(y)):
        entries = np.arange(offsets[b], offsets[b + 1])
        entries = entries[index[entries] != padding_idx]
        found = weight[index[entries]]
        y[b] = (found if scale is None else scale[entries, None] * found).sum(0)
        if mean and len(found):
            y[b] /= len(found)
    return y


def embedding_bag_max_forward(
    weight: Array, index: Array, offsets: Array, padding_idx: int
) -> tuple[Array, Array]:
    """y[b, d] = the largest weight[index[j], d] of a bag, the first of equal ones, and its index[j].

    A bag without entries other than ``padding_idx`` has 0 and -1. NaN is larger than any number.
    """
    _check("embedding_bag", index, len(weight))
    index = index.reshape(-1)
    y = np.zeros((len(offsets) - 1, weight.shape[1]), weight.dtype)
    chosen = np.full(y.shape, -1, np.int64)
    for b in range(len(y)):
        found = index[offsets[b] : offsets[b + 1]]
        found = found[found != padding_idx]
        if len(found):
            chosen[b] = found[weight[found].argmax(0)]
            y[b] = weight[found].max(0)
    return y, chosen

"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.kernels.reference.random import philox_words

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

__all__ = ["attention_backward", "attention_forward"]

_LOG2_E = 1 / math.log(2)


def _grouped(x: Array, heads: int) -> Array:
    """(B, G, S, D) -> (B, heads, S, D): each key and value head serves heads / G query heads in a row."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def _scores(query: Array, key: Array, mask: Array | None, is_causal: bool, scale: float) -> Array:
    """scale * query key^T, plus the mask, -inf where attention is not allowed."""
    z = query @ np.swapaxes(key, -1, -2) * query.dtype.type(scale)
    if mask is not None:
        z = z + (np.where(mask, 0.0, -np.inf).astype(z.dtype) if mask.dtype == bool else mask)
    if is_causal:
        rows, columns = np.ogrid[: z.shape[-2], : z.shape[-1]]
        z = np.where(columns <= rows, z, -np.inf).astype(z.dtype)
    return z


def _kept(shape: tuple[int, ...], p: float, seed: int, offset: int) -> Array:
    """1 / (1 - p) where a weight is kept, 0 where it is dropped. Weight (b, h, i, j) looks at word
    ((b * H + h) * S + j) * L' + i of the stream, L' being L rounded up to a multiple of 4."""
    b, h, rows, columns = shape
    padded = (rows + 3) // 4 * 4
    words = philox_words(b * h * columns * padded, seed, offset) >> np.uint32(1)
    kept = words >= np.floor(p * 2**31 + 0.5) if p < 1 else np.zeros(words.shape, bool)
    by_key = kept.reshape(b, h, columns, padded)[..., :rows]
    return np.swapaxes(by_key, -1, -2) * (1 / (1 - p) if p < 1 else 0.0)


def attention_forward(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    is_causal: bool,
    scale: float,
    p: float,
    seed: int,
    offset: int,
) -> tuple[Array, Array]:
    """y = dropout(softmax(scale * query key^T + mask)) value.

    query (B, H, L, E); key (B, G, S, E) and value (B, G, S, V), G dividing H; mask four axes that broadcast to
    (B, H, L, S): bool (True: may be looked at) or of query's dtype (added). Causal: query i sees keys 0 .. i.
    Returns y (B, H, L, V) and, for backward, lse (B, H, L): the base-2 logarithm of sum_j exp(score_ij). A row
    that may look at nothing gives zeros and lse = inf.
    """
    heads = query.shape[1]
    key, value = _grouped(key, heads), _grouped(value, heads)
    z = _scores(query, key, mask, is_causal, scale)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        top = np.max(z, axis=-1, keepdims=True, initial=-np.inf)
        top = np.where(top == -np.inf, 0, top).astype(z.dtype)
        e = np.exp(z - top)
        total = e.sum(axis=-1, keepdims=True)
        empty = total == 0
        weights = e / np.where(empty, 1, total).astype(z.dtype)
        lse = np.where(empty, np.inf, top * _LOG2_E + np.log2(total)).astype(z.dtype)[..., 0]
    if p > 0:
        weights = weights * _kept(weights.shape, p, seed, offset).astype(z.dtype)
    return weights @ value, lse


def attention_backward(
    grad_y: Array,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    y: Array,
    lse: Array,
    is_causal: bool,
    scale: float,
    p: float,
    seed: int,
    offset: int,
    need_mask: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """(grad_query, grad_key, grad_value, grad_mask); the last is None unless ``need_mask``.

    With P the weights, K the dropout factors: grad_value = (P K)^T grad_y; grad_P = K (grad_y value^T);
    grad_z = P (grad_P - rowsum(grad_y y)); grad_query = scale * grad_z key; grad_key = scale * grad_z^T query;
    grad_mask = grad_z summed over what was broadcast.
    """
    b, heads = query.shape[:2]
    groups, columns = key.shape[1:3]
    key_, value_ = _grouped(key, heads), _grouped(value, heads)
    factor = query.dtype.type(scale)
    with np.errstate(invalid="ignore", over="ignore"):
        weights = np.exp2(_scores(query, key_, mask, is_causal, scale) * _LOG2_E - lse[..., None])
    weights = weights.astype(query.dtype)
    kept = _kept(weights.shape, p, seed, offset).astype(query.dtype) if p > 0 else query.dtype.type(1)
    grad_weights = kept * (grad_y @ np.swapaxes(value_, -1, -2))
    grad_z = weights * (grad_weights - (grad_y * y).sum(axis=-1, keepdims=True))

    def by_group(x: Array) -> Array:
        return x.reshape(b, groups, heads // groups, columns, x.shape[-1]).sum(axis=2)

    grad_query = factor * (grad_z @ key_)
    grad_key = by_group(factor * (np.swapaxes(grad_z, -1, -2) @ query))
    grad_value = by_group(np.swapaxes(weights * kept, -1, -2) @ grad_y)
    grad_mask = None
    if need_mask and mask is not None:
        axes = tuple(i for i in range(4) if mask.shape[i] == 1)
        grad_mask = grad_z.sum(axis=axes, keepdims=True)
    return grad_query, grad_key, grad_value, grad_mask

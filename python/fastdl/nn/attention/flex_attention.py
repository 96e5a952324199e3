"""Attention whose scores and masks are functions of positions; see ``torch.nn.attention.flex_attention``.

A mask alone goes to the kernel of :func:`~fastdl.nn.functional.scaled_dot_product_attention`; a function of the scores
needs them stored, (B, H, L, S).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from fastdl.dtypes import float32, float64
from fastdl.errors import ArgumentError
from fastdl.nn.attention.block_mask import _DEFAULT_SPARSE_BLOCK_SIZE as _DEFAULT_SPARSE_BLOCK_SIZE
from fastdl.nn.attention.block_mask import (
    BlockMask,
    and_masks,
    create_block_mask,
    create_mask,
    evaluated,
    noop_mask,
    or_masks,
)
from fastdl.ops.attention import scaled_dot_product_attention
from fastdl.ops.rearrange import repeat_interleave
from fastdl.ops.resample import pad
from fastdl.tensor import Tensor

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]


class AuxRequest(NamedTuple):
    """What :func:`flex_attention` returns beside the result."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was asked for by an :class:`AuxRequest`: float32 (B, H, L) each, or None."""

    lse: Tensor | None = None
    max_scores: Tensor | None = None


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Any] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """``softmax(score_mod(scale * query @ key^T)) @ value``, where ``block_mask`` shows a score.

    Args:
        query: (B, H, L, E).
        key: (B, G, S, E); a batch of 1 serves all.
        value: (B, G, S, V).
        score_mod: ``score_mod(score, b, h, q_idx, kv_idx)`` gives new scores. It is called once, with the scores
            (B, H, L, S) and integer tensors (B, 1, 1, 1), (1, H, 1, 1), (1, 1, L, 1) and (1, 1, 1, S), so it must
            treat each position by itself; gradients reach the tensors it uses.
        block_mask: which key each query sees, from :func:`create_block_mask`. A query that sees nothing gives zeros.
        scale: of the scores, 1 / sqrt(E) by default.
        enable_gqa: H may be a multiple of G: each key head serves H / G query heads in a row.
        return_lse: also return log(sum(exp(scores))), float32 (B, H, L).
        kernel_options: accepted and not looked at.
        return_aux: the same and more, as an :class:`AuxOutput`.

    Raises:
        ValueError: if shapes do not fit, or ``score_mod`` does not treat positions by themselves.
        TypeError: for dtypes that differ, or a ``block_mask`` that is none.

    Example:
        >>> import fastdl
        >>> from fastdl.nn.attention.flex_attention import flex_attention
        >>> x = fastdl.eye(2).reshape(1, 1, 2, 2)
        >>> def earlier(score, b, h, q_idx, kv_idx):
        ...     return fastdl.where(q_idx >= kv_idx, score * 0, -fastdl.inf)
        >>> flex_attention(x, x, x, score_mod=earlier)[0, 0]
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    shape = _check(query, key, value, block_mask, enable_gqa)
    if scale is None:
        scale = 1.0 / sqrt(query.shape[-1]) if query.shape[-1] else 1.0
    mask = None if block_mask is None else block_mask.dense()
    if score_mod is None and not return_lse and return_aux is None:
        return scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=enable_gqa)
    heads, groups = shape[1], key.shape[1]
    if heads != groups:
        key, value = (repeat_interleave(t, heads // groups, dim=1) for t in (key, value))
    precise = float64 if query.dtype == float64 else float32
    scores = (query.to(precise) @ key.to(precise).mT) * scale
    if score_mod is not None:
        scores = evaluated("flex_attention: score_mod", score_mod, shape, query.device, scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -np.inf)
    # A row that may look at nothing gives zeros: it gets any scores and is zeroed afterwards.
    blind = (scores.detach() == -np.inf).all(-1, keepdim=True)
    scores = scores.masked_fill(blind, 0.0)
    lse = scores.logsumexp(-1, keepdim=True)
    weights = (scores - lse).exp().masked_fill(blind, 0.0)
    y = weights.to(query.dtype) @ value
    lse = lse.masked_fill(blind, -np.inf).squeeze(-1)
    if return_aux is not None:
        largest = None
        if return_aux.max_scores:  # a row without keys has none: -inf, too
            largest = pad(scores.detach().masked_fill(blind, -np.inf), (0, 1), value=-np.inf).amax(-1)
        return y, AuxOutput(lse if return_aux.lse else None, largest)
    return (y, lse) if return_lse else y


def _check(query: Tensor, key: Tensor, value: Tensor, block_mask: Any, enable_gqa: bool) -> tuple[int, ...]:
    """(B, H, L, S), if all fits together."""
    op = "flex_attention"
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} must be a Tensor, got {type(x).__name__}")
        if x.ndim != 4:
            raise ArgumentError(f"{op}: {name} must be (batch, heads, length, size), got {tuple(x.shape)}")
        if not x.is_floating_point() or x.dtype != query.dtype:
            raise TypeError(
                f"{op}: query, key and value must share one floating-point dtype, got {query.dtype}, {key.dtype} and "
                f"{value.dtype}; convert with .to(dtype)"
            )
    b, h, rows, size = query.shape
    kv_b, g, columns, kv_size = key.shape
    if tuple(value.shape[:3]) != (kv_b, g, columns):
        raise ArgumentError(
            f"{op}: key and value must agree in batch, heads and length, got {tuple(key.shape)} and "
            f"{tuple(value.shape)}"
        )
    if size != kv_size:
        raise ArgumentError(
            f"{op}: query and key must agree in their last dimension, got {tuple(query.shape)} and {tuple(key.shape)}"
        )
    if kv_b not in (1, b):
        raise ArgumentError(f"{op}: the batch of key must be 1 or that of query, got {kv_b} and {b}")
    if h != g and not (enable_gqa and g and h % g == 0):
        hint = "the heads of key must divide those of query" if enable_gqa else "fewer need enable_gqa=True"
        raise ArgumentError(f"{op}: query has {h} heads and key {g}; {hint}")
    if block_mask is not None:
        if not isinstance(block_mask, BlockMask):
            raise TypeError(
                f"{op}: block_mask must be a BlockMask, got {type(block_mask).__name__}; use create_block_mask, or "
                "scaled_dot_product_attention(attn_mask=...) for a tensor"
            )
        wanted = (b, h, rows, columns)
        have = block_mask.shape
        if have[2:] != wanted[2:] or any([m not in (1, n) for m, n in zip(have, wanted, strict=True)]):
            raise ArgumentError(f"{op}: block_mask was made for (B, H, L, S) = {have}, here it is {wanted}")
    return b, h, rows, columns

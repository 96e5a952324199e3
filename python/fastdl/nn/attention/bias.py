"""Causal masks for queries and keys of different lengths; see ``torch.nn.attention.bias``."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]


class CausalVariant(IntEnum):
    """Which corner of the scores the diagonal of a causal mask passes through."""

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias(Tensor):
    """A causal mask, bool (L, S), for ``scaled_dot_product_attention(attn_mask=...)``.

    See :func:`causal_upper_left` and :func:`causal_lower_right`, which make them.
    """

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        for name, size in (("seq_len_q", seq_len_q), ("seq_len_kv", seq_len_kv)):
            if not isinstance(size, (int, np.integer)) or size < 0:
                raise ArgumentError(f"CausalBias: {name} must be an int, 0 or more, got {size!r}")
        if not isinstance(variant, CausalVariant):
            raise TypeError(f"CausalBias: variant must be a CausalVariant, got {type(variant).__name__}")
        self.variant, self.seq_len_q, self.seq_len_kv = variant, seq_len_q, seq_len_kv
        ahead = seq_len_kv - seq_len_q if variant is CausalVariant.LOWER_RIGHT else 0
        self._data = np.tri(seq_len_q, seq_len_kv, ahead, np.bool_)

    def __deepcopy__(self, memo: dict[int, Any]) -> CausalBias:
        return CausalBias(self.variant, self.seq_len_q, self.seq_len_kv)


def causal_upper_left(*size: int) -> CausalBias:
    """Query i sees keys 0 .. i, as with ``is_causal=True``.

    Example:
        >>> from fastdl.nn.attention.bias import causal_upper_left
        >>> causal_upper_left(2, 3)
        tensor([[ True, False, False],
                [ True,  True, False]])
    """
    return _made("causal_upper_left", CausalVariant.UPPER_LEFT, size)


def causal_lower_right(*size: int) -> CausalBias:
    """The last query sees all keys, as when the queries are the last of what the keys were made from.

    Example:
        >>> from fastdl.nn.attention.bias import causal_lower_right
        >>> causal_lower_right(2, 3)
        tensor([[ True,  True, False],
                [ True,  True,  True]])
    """
    return _made("causal_lower_right", CausalVariant.LOWER_RIGHT, size)


def _made(op: str, variant: CausalVariant, size: tuple[int, ...]) -> CausalBias:
    if len(size) != 2:
        raise ArgumentError(f"{op}: takes two lengths, of queries and of keys, got {len(size)}")
    return CausalBias(variant, *size)

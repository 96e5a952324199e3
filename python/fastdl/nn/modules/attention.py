"""Attention layers: multi-head attention as in ``torch.nn``, a cache for step-by-step decoding, and the two scores of
sequence-to-sequence models, additive (Bahdanau) and multiplicative (Luong).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.kernels import select
from fastdl.nn import init
from fastdl.nn.modules.linear import Linear
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops.activation import tanh
from fastdl.ops.attention import attend
from fastdl.ops.linear import matmul
from fastdl.ops.multi_head_attention import added_mask, multi_head_attention
from fastdl.ops.softmax import softmax
from fastdl.tensor import Tensor

__all__ = ["AdditiveAttention", "KVCache", "MultiheadAttention", "MultiplicativeAttention"]


def _empty(shape: tuple[int, ...], device: Any, dtype: Any) -> Parameter:
    return Parameter(empty(shape, device, dtype))


class NonDynamicallyQuantizableLinear(Linear):
    """A :class:`Linear`; PyTorch prints the output projection under this name."""


class KVCache:
    """Keys and values of the positions seen so far, for decoding step by step.

    Memory is reserved ahead and doubles when it is full, so a step costs the copy of its own keys and values only.

    Args:
        max_length: positions to reserve at once; 0: grow as needed.

    The cache holds no graph: use it under ``fastdl.no_grad()``.

    Example:
        >>> import fastdl
        >>> cache = fastdl.nn.KVCache()
        >>> x = fastdl.ones(1, 2, 3, 4)
        >>> with fastdl.no_grad():
        ...     key, value = cache.append(x, x)
        ...     key, value = cache.append(x[:, :, :1], x[:, :, :1])
        >>> key.shape, len(cache)
        ((1, 2, 4, 4), 4)
    """

    def __init__(self, max_length: int = 0) -> None:
        self._max_length = max_length
        self._length = 0
        self._arrays: list[Any] = []

    def __len__(self) -> int:
        return self._length

    def reset(self) -> None:
        """Forget everything, keep the memory."""
        self._length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values ``(batch, heads, new, size)``; returns all of them, views of the cache."""
        new = [key._data, value._data]
        if mode.enabled and (key._requires_grad or value._requires_grad):
            raise RuntimeError(
                "KVCache: keys and values require gradients, but the cache keeps no graph; decode under "
                "fastdl.no_grad()"
            )
        if any(a.ndim != 4 for a in new) or new[0].shape[:3] != new[1].shape[:3]:
            raise ValueError(
                "KVCache: key and value must be (batch, heads, new, size) with the same first three, got "
                f"{new[0].shape} and {new[1].shape}"
            )
        start, end = self._length, self._length + new[0].shape[2]
        if self._arrays:
            for have, a in zip(self._arrays, new, strict=True):
                if start and (
                    have.shape[:2] != a.shape[:2] or have.shape[3] != a.shape[3] or have.dtype != a.dtype
                ):
                    raise ValueError(
                        f"KVCache: the cache holds {have.shape[:2]} (batch, heads) of size {have.shape[3]}, "
                        f"{have.dtype}; got {a.shape}, {a.dtype}. reset() starts a new sequence"
                    )
        if not start and [(a.shape[:2], a.shape[3], a.dtype) for a in self._arrays] != [
            (a.shape[:2], a.shape[3], a.dtype) for a in new
        ]:
            self._arrays = []
        if not self._arrays or self._arrays[0].shape[2] < end:
            room = max(end, self._max_length, 2 * start)
            grown = [select(a).empty((*a.shape[:2], room, a.shape[3]), a.dtype) for a in new]
            for to, old in zip(grown, self._arrays, strict=False):
                to[:, :, :start] = old[:, :, :start]
            self._arrays = grown
        for have, a in zip(self._arrays, new, strict=True):
            have[:, :, start:end] = a
        self._length = end
        key, value = (Tensor._wrap(a[:, :, :end]) for a in self._arrays)
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        """Append ``key`` and ``value``, then causal attention of ``query`` (batch, heads, new, size) to all positions.

        The queries are the newest positions: the first one sees everything before them and itself. Key and value may
        have fewer heads (grouped attention).
        """
        before = self._length
        key, value = self.append(key, value)
        new, total = query.shape[2], len(self)
        if scale is None:
            scale = 1 / math.sqrt(query.shape[3])
        mask = None
        if before and new > 1:
            at = np.arange(total, like=key._data)
            mask = Tensor._wrap(at <= at[before:, None])
        return attend(query, key, value, mask, scale, is_causal=before == 0)


class MultiheadAttention(Module):
    """Attention of several heads on linear maps of query, key and value. See ``torch.nn.MultiheadAttention``.

    ``concat(head_1, ..., head_h) W_o`` with ``head_i = softmax(Q_i K_i^T / sqrt(E / h)) V_i`` (Vaswani et al.,
    "Attention Is All You Need", 2017).

    Args:
        embed_dim: size E of queries and of the result; a multiple of num_heads.
        num_heads: number of heads.
        dropout: probability of an attention weight being dropped in training.
        bias: whether the projections have biases.
        add_bias_kv: whether a learned key and value are appended to the sequence.
        add_zero_attn: whether a key and value of zeros are appended.
        kdim, vdim: sizes of key and value inputs, embed_dim by default.
        batch_first: False: sequences are ``(L, N, E)``; True: ``(N, L, E)``.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Parameters: ``in_proj_weight`` (3 E, E), or ``q_proj_weight``, ``k_proj_weight``, ``v_proj_weight`` where kdim or
    vdim differ; ``in_proj_bias`` (3 E,); ``out_proj.weight``, ``out_proj.bias``; ``bias_k``, ``bias_v`` (1, 1, E).

    Example:
        >>> import fastdl
        >>> attention = fastdl.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = fastdl.ones(3, 5, 8)
        >>> y, weights = attention(x, x, x)
        >>> y.shape, weights.shape
        ((3, 5, 8), (3, 5, 5))
    """

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor | None
    k_proj_weight: Tensor | None
    v_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                "MultiheadAttention: embed_dim must be a positive multiple of num_heads, got "
                f"embed_dim={embed_dim}, num_heads={num_heads}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout must be between 0 and 1, got {dropout}")
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self._qkv_same_embed_dim:
            self.in_proj_weight = _empty((3 * embed_dim, embed_dim), device, dtype)
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = _empty((embed_dim, embed_dim), device, dtype)
            self.k_proj_weight = _empty((embed_dim, self.kdim), device, dtype)
            self.v_proj_weight = _empty((embed_dim, self.vdim), device, dtype)
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", _empty((3 * embed_dim,), device, dtype) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(
            embed_dim, embed_dim, bias=bias, device=device, dtype=dtype
        )
        if add_bias_kv:
            self.bias_k = _empty((1, 1, embed_dim), device, dtype)
            self.bias_v = _empty((1, 1, embed_dim), device, dtype)
        else:
            self.bias_k = self.bias_v = None
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values, projected, and the attention weights.

        Args:
            query: ``(L, N, E)``, ``(N, L, E)`` with batch_first, or ``(L, E)`` without a batch.
            key, value: the same with S in place of L, and kdim and vdim in place of E.
            key_padding_mask: ``(N, S)`` or ``(S,)``: bool (True: this key is ignored), or float, added to the scores.
            need_weights: False returns None for the weights and takes the fused way: much faster.
            attn_mask: ``(L, S)`` or ``(N * num_heads, L, S)``: bool (True: this pair is **not** allowed) or float.
            average_attn_weights: whether weights are averaged over heads.
            is_causal: says that attn_mask is the causal mask, which then need not be read (and may be None).
            cache: for self-attention step by step (not in PyTorch): query, key and value are the newest positions;
                they attend to themselves and all before. Needs need_weights=False, takes no masks.

        Returns:
            ``(output, weights)``: output shaped like query; weights ``(N, L, S)``, or ``(N, num_heads, L, S)`` if not
            averaged, without N if there is no batch; None if not needed.
        """
        projections = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self.in_proj_weight is None
            else self.in_proj_weight
        )
        return multi_head_attention(
            "MultiheadAttention",
            query,
            key,
            value,
            self.num_heads,
            projections,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            self.out_proj.weight,
            self.out_proj.bias,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
            self.batch_first,
            cache=cache,
        )


class _ScoredAttention(Module):
    """Attention whose scores a subclass computes: ``_scores(query, key)`` -> (N, L, S)."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The context, a weighted sum of values, and the weights.

        Args:
            query: ``(N, L, query_dim)``, or ``(N, query_dim)`` for a single step of a decoder.
            key: ``(N, S, key_dim)``, as a rule the encoder's states.
            value: ``(N, S, value_dim)``; None: key.
            key_padding_mask: ``(N, S)`` bool, True where key is padding.

        Returns:
            context ``(N, L, value_dim)`` and weights ``(N, L, S)``, without L for a single step.
        """
        name = type(self).__name__
        value = key if value is None else value
        single = query.ndim == 2
        if single:
            query = query.unsqueeze(1)
        if query.ndim != 3 or key.ndim != 3 or value.ndim != 3 or query.shape[0] != key.shape[0]:
            raise ValueError(
                f"{name}: query must be (N, L, size) or (N, size), key and value (N, S, size), got query "
                f"{tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
            )
        if key.shape[:2] != value.shape[:2]:
            raise ValueError(
                f"{name}: key and value must have the same length and batch, got {tuple(key.shape)} and "
                f"{tuple(value.shape)}"
            )
        scores = self._scores(query, key)
        if key_padding_mask is not None:
            padding = key_padding_mask._data
            if padding.dtype != bool or padding.shape != tuple(key.shape[:2]):
                raise ValueError(
                    f"{name}: key_padding_mask must be bool (N, S) = {tuple(key.shape[:2])}, got {padding.dtype} "
                    f"{padding.shape}"
                )
            scores = scores + added_mask(Tensor._wrap(~padding[:, None]), scores)
        weights = softmax(scores, -1)
        context = matmul(weights, value)
        return (context.squeeze(1), weights.squeeze(1)) if single else (context, weights)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no _scores")


class AdditiveAttention(_ScoredAttention):
    """Attention with the score ``v^T tanh(W q + U k + b)`` (Bahdanau, Cho and Bengio, 2015). Not in PyTorch.

    Args:
        query_dim: size of a query, as a rule the decoder's state.
        key_dim: size of a key, as a rule the encoder's state.
        hidden_dim: size of the layer inside.
        dtype: of the parameters, float32 by default.

    Parameters: ``query_proj.weight`` (W), ``key_proj.weight`` (U), ``key_proj.bias`` (b), ``score.weight`` (v).

    Example:
        >>> import fastdl
        >>> attention = fastdl.nn.AdditiveAttention(4, 6, 8)
        >>> context, weights = attention(fastdl.ones(2, 4), fastdl.ones(2, 5, 6))
        >>> context.shape, weights.shape
        ((2, 6), (2, 5))
    """

    def __init__(self, query_dim: int, key_dim: int, hidden_dim: int, dtype: Any = None) -> None:
        super().__init__()
        self.query_proj = Linear(query_dim, hidden_dim, bias=False, dtype=dtype)
        self.key_proj = Linear(key_dim, hidden_dim, dtype=dtype)
        self.score = Linear(hidden_dim, 1, bias=False, dtype=dtype)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        hidden: Any = self.query_proj(query).unsqueeze(2) + self.key_proj(key).unsqueeze(1)
        return self.score(tanh(hidden)).squeeze(-1)  # type: ignore[no-any-return]


class MultiplicativeAttention(_ScoredAttention):
    """Attention with the score ``q^T W k`` (Luong, Pham and Manning, 2015, "general"). Not in PyTorch.

    Args:
        query_dim: size of a query.
        key_dim: size of a key.
        kind: ``"general"``: with a learned W; ``"dot"``: W is the identity; ``"scaled"``: dot / sqrt(key_dim). The
            last two need query_dim == key_dim and have no parameters.
        dtype: of the parameter, float32 by default.

    Parameters: ``key_proj.weight`` (query_dim, key_dim), for ``"general"``.

    Example:
        >>> import fastdl
        >>> attention = fastdl.nn.MultiplicativeAttention(4, 4, kind="dot")
        >>> attention(fastdl.ones(2, 3, 4), fastdl.ones(2, 5, 4))[1].shape
        (2, 3, 5)
    """

    def __init__(self, query_dim: int, key_dim: int, kind: str = "general", dtype: Any = None) -> None:
        super().__init__()
        if kind not in ("general", "dot", "scaled"):
            raise ValueError(
                f"MultiplicativeAttention: kind must be 'general', 'dot' or 'scaled', got {kind!r}"
            )
        if kind != "general" and query_dim != key_dim:
            raise ValueError(
                f"MultiplicativeAttention: kind={kind!r} needs query_dim == key_dim, got {query_dim} and {key_dim}; "
                "kind='general' learns a matrix between them"
            )
        self.kind = kind
        self.key_proj = Linear(key_dim, query_dim, bias=False, dtype=dtype) if kind == "general" else None

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.key_proj is not None:
            key = self.key_proj(key)
        scores: Any = matmul(query, key.transpose(-2, -1))
        if self.kind == "scaled":
            scores = scores / math.sqrt(key.shape[-1])
        return scores  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"

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
from fastdl.ops.dropout import dropout
from fastdl.ops.linear import linear, matmul
from fastdl.ops.shape import cat
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
            mask = Tensor(at <= at[before:, None])
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
        batched = query.ndim == 3
        self._check_inputs(query, key, value)
        if not batched:
            same = (query is key, key is value)
            query = query.unsqueeze(1)
            key = query if same[0] else key.unsqueeze(1)
            value = key if same[1] else value.unsqueeze(1)
            if key_padding_mask is not None and key_padding_mask.ndim == 1:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        batch_first = self.batch_first and batched
        q, k, v = self._project(query, key, value, batch_first)
        if cache is not None:
            if need_weights or attn_mask is not None or key_padding_mask is not None:
                raise ValueError(
                    "MultiheadAttention: with a cache pass need_weights=False and no masks; decoding is causal"
                )
            heads = cache.attend(q, k, v)
            return self._output(heads, batch_first, batched), None
        mask, causal = self._masks(q, k, attn_mask, key_padding_mask, is_causal, need_weights)
        k, v, mask = self._extra_keys(k, v, mask)
        p = self.dropout if self.training else 0.0
        if not need_weights:
            heads = attend(q, k, v, mask, 1 / math.sqrt(self.head_dim), causal, p)
            return self._output(heads, batch_first, batched), None
        scores: Any = matmul(q * (1 / math.sqrt(self.head_dim)), k.transpose(-2, -1))
        if mask is not None:
            scores = scores + (_added(mask, q) if mask._data.dtype == bool else mask)
        weights = softmax(scores, -1)
        dropped = dropout(weights, p) if p > 0 else weights
        output = self._output(matmul(dropped, v), batch_first, batched)
        if p > 0:
            weights = dropped  # as in PyTorch: the weights that were used
        if average_attn_weights:
            weights = weights.mean(1)
        return output, weights if batched else weights.squeeze(0)

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shapes = [t._data.shape for t in (query, key, value)]
        rank = len(shapes[0])
        if rank not in (2, 3) or any(len(s) != rank for s in shapes):
            raise ValueError(
                "MultiheadAttention: query, key and value must all be (length, batch, size), (batch, length, size) "
                f"with batch_first, or (length, size), got {shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        for name, shape, size in zip(
            ("query", "key", "value"), shapes, (self.embed_dim, self.kdim, self.vdim), strict=True
        ):
            if shape[-1] != size:
                raise ValueError(
                    f"MultiheadAttention: the last dimension of {name} must be {size}, got {shape}"
                )
        batch = 0 if self.batch_first else 1
        if shapes[1][:-1] != shapes[2][:-1] or (rank == 3 and shapes[0][batch] != shapes[1][batch]):
            raise ValueError(
                "MultiheadAttention: key and value must have the same length and batch, and query the same batch, "
                f"got query {shapes[0]}, key {shapes[1]}, value {shapes[2]}"
                f" (batch_first={self.batch_first}: the batch is dimension {batch})"
            )

    def _heads(self, x: Tensor, batch_first: bool) -> Tensor:
        """(N, L, heads, size) or (L, N, heads, size) as (N, heads, L, size): a view."""
        return x.permute(0, 2, 1, 3) if batch_first else x.permute(1, 2, 0, 3)

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, batch_first: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, d = self.num_heads, self.head_dim
        bias = self.in_proj_bias
        if self.in_proj_weight is not None and query is key and key is value:
            packed = linear(query, self.in_proj_weight, bias).unflatten(-1, (3, h, d)).unbind(2)
            q, k, v = (self._heads(x, batch_first) for x in packed)
            return q, k, v
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        if self.in_proj_weight is None:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        else:
            weights = self.in_proj_weight.chunk(3)
        q, k, v = (
            self._heads(linear(x, w, b).unflatten(-1, (h, d)), batch_first)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        return q, k, v

    def _masks(
        self,
        q: Tensor,
        k: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool,
        need_weights: bool,
    ) -> tuple[Tensor | None, bool]:
        """One mask in the sense of scaled_dot_product_attention, and whether to be causal beside it."""
        n, h, length, _ = q._data.shape
        keys = k._data.shape[2]
        appended = self.bias_k is not None or self.add_zero_attn
        causal = is_causal and not need_weights and not appended
        if causal:
            attn_mask = None
        elif is_causal and attn_mask is None:
            at = np.arange(max(keys, length), like=q._data)
            attn_mask = Tensor(at[:keys] > at[:length, None])
        for name, m in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
            if m is not None and m._data.dtype.kind not in "bfV":
                raise TypeError(f"MultiheadAttention: {name} must be bool or float, got {m._data.dtype}")
        mask: Any = None
        if attn_mask is not None:
            shape = attn_mask._data.shape
            if shape == (n * h, length, keys):
                attn_mask = attn_mask.reshape(n, h, length, keys)
            elif shape != (length, keys):
                raise ValueError(
                    f"MultiheadAttention: attn_mask must be (L, S) = {(length, keys)} or (N * num_heads, L, S) = "
                    f"{(n * h, length, keys)}, got {shape}"
                )
            mask = _allowed(attn_mask, q)
        if key_padding_mask is not None:
            if key_padding_mask._data.shape != (n, keys):
                raise ValueError(
                    f"MultiheadAttention: key_padding_mask must be (N, S) = {(n, keys)}, got "
                    f"{key_padding_mask._data.shape}"
                )
            padding = _allowed(key_padding_mask, q).reshape(n, 1, 1, keys)
            if mask is None:
                mask = padding
            elif mask._data.dtype == padding._data.dtype == bool:
                mask = mask.logical_and(padding)
            else:
                mask = _added(mask, q) + _added(padding, q)
        return mask, causal

    def _extra_keys(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """With the learned key and value and those of zeros appended; every query may look at them."""
        n, h, _, d = k._data.shape
        appended = []
        if self.bias_k is not None and self.bias_v is not None:
            appended.append([r.reshape(1, h, 1, d).expand(n, h, 1, d) for r in (self.bias_k, self.bias_v)])
        if self.add_zero_attn:
            zero = Tensor(np.zeros((n, h, 1, d), k._data.dtype, like=k._data))
            appended.append([zero, zero])
        if not appended:
            return k, v, mask
        k, v = (cat([x, *[pair[i] for pair in appended]], 2) for i, x in enumerate((k, v)))
        if mask is not None:
            array = mask._data
            visible = np.full(
                (*array.shape[:-1], len(appended)), array.dtype == bool, array.dtype, like=array
            )
            mask = cat([mask, Tensor(visible)], mask.ndim - 1)
        return k, v, mask

    def _output(self, heads: Tensor, batch_first: bool, batched: bool) -> Tensor:
        """(N, heads, L, size) -> the layout of the input, projected."""
        x = heads.permute(0, 2, 1, 3) if batch_first else heads.permute(2, 0, 1, 3)
        y: Tensor = self.out_proj(x.flatten(2))
        return y if batched else y.squeeze(1)


def _allowed(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of this module (True: hidden) as scaled_dot_product_attention takes it (True: visible); floats stay."""
    if mask._data.dtype == bool:
        return Tensor(~mask._data)
    return mask if mask._data.dtype == like._data.dtype else mask.to(like.dtype)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask (True: visible) as numbers to add to scores."""
    if mask._data.dtype != bool:
        return mask
    zero, hidden = like._data.dtype.type(0), like._data.dtype.type(-np.inf)
    return Tensor(np.where(mask._data, zero, hidden))


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
            scores = scores + _added(Tensor(~padding[:, None]), scores)
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

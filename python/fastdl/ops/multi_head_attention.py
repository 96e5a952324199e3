"""Multi-head attention on given projections: what ``nn.MultiheadAttention`` and its functional form share.

Query, key and value are mapped to heads of (N, heads, length, size) by views; the attention itself is the kernel of
:mod:`fastdl.ops.attention`, or, where the weights are asked for, two products and a softmax.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError
from fastdl.ops.arrays import full
from fastdl.ops.attention import attend
from fastdl.ops.dropout import dropout
from fastdl.ops.join import cat
from fastdl.ops.linear import linear, matmul
from fastdl.ops.softmax import softmax
from fastdl.tensor import Tensor

Projections = Any  # a packed weight (3 E, E), or one each for query, key and value


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``concat(head_1, ..., head_h) W_o`` with ``head_i = softmax(Q_i K_i^T / sqrt(E / h)) V_i``.

    The functional form of :class:`fastdl.nn.MultiheadAttention` for sequences first. See
    ``torch.nn.functional.multi_head_attention_forward``.

    Args:
        query: ``(L, N, E)``, or ``(L, E)`` without a batch.
        key, value: the same with S in place of L, and their own sizes in place of E.
        embed_dim_to_check: E.
        num_heads: number of heads h, which divides E.
        in_proj_weight: ``(3 E, E)``, the maps of query, key and value on top of each other.
        in_proj_bias: ``(3 E,)`` or None.
        bias_k, bias_v: ``(1, 1, E)``, a key and a value appended to the sequence, or None.
        add_zero_attn: whether a key and a value of zeros are appended.
        dropout_p: probability of an attention weight being dropped if ``training``.
        out_proj_weight, out_proj_bias: ``(E, E)`` and ``(E,)`` or None.
        training: whether dropout acts.
        key_padding_mask: ``(N, S)`` or ``(S,)``: bool (True: this key is ignored), or float, added to the scores.
        need_weights: False returns None for the weights and takes the fused way: much faster.
        attn_mask: ``(L, S)`` or ``(N * h, L, S)``: bool (True: this pair is **not** allowed) or float.
        use_separate_proj_weight: take ``q_proj_weight`` ``(E, E)``, ``k_proj_weight`` ``(E, kdim)`` and
            ``v_proj_weight`` ``(E, vdim)`` instead of ``in_proj_weight``.
        static_k, static_v: ``(N * h, S, E / h)``, taken instead of the projected key and value.
        average_attn_weights: whether weights are averaged over heads.
        is_causal: says that ``attn_mask`` is the causal mask, which then need not be read (and may be None).

    Returns:
        ``(output, weights)``: output shaped like query; weights ``(N, L, S)``, or ``(N, h, L, S)`` if not averaged,
        without N if there is no batch; None if not needed.

    Raises:
        ValueError: if sizes do not fit, or weights that are needed are None.
        TypeError: for masks that are neither bool nor float.

    Example:
        >>> import fastdl
        >>> x, eye = fastdl.ones(3, 1, 2), fastdl.eye(2)
        >>> y, weights = fastdl.nn.functional.multi_head_attention_forward(
        ...     x, x, x, 2, 1, fastdl.cat([eye, eye, eye]), None, None, None, False, 0.0, eye, None
        ... )
        >>> weights
        tensor([[[0.3333, 0.3333, 0.3333],
                 [0.3333, 0.3333, 0.3333],
                 [0.3333, 0.3333, 0.3333]]])
    """
    op = "multi_head_attention_forward"
    size = query._data.shape[-1]
    if size != embed_dim_to_check:
        raise ArgumentError(
            f"{op}: the last dimension of query must be embed_dim_to_check={embed_dim_to_check}, got "
            f"{query._data.shape}"
        )
    if num_heads <= 0 or size % num_heads:
        raise ArgumentError(f"{op}: num_heads must divide the embedding's size {size}, got {num_heads}")
    if not 0 <= dropout_p <= 1:
        raise ArgumentError(f"{op}: dropout_p must be between 0 and 1, got {dropout_p}")
    projections: Projections
    if use_separate_proj_weight:
        projections = q_proj_weight, k_proj_weight, v_proj_weight
        if any(w is None for w in projections):
            raise ArgumentError(
                f"{op}: use_separate_proj_weight=True needs q_proj_weight, k_proj_weight and v_proj_weight"
            )
    else:
        projections = in_proj_weight
        if in_proj_weight is None or in_proj_weight._data.shape != (3 * size, size):
            got = None if in_proj_weight is None else in_proj_weight._data.shape
            raise ArgumentError(f"{op}: in_proj_weight must be (3 * E, E) = {(3 * size, size)}, got {got}")
    if (bias_k is None) != (bias_v is None):
        raise ArgumentError(f"{op}: bias_k and bias_v come together, or both are None")
    for name, static, bias in (("k", static_k, bias_k), ("v", static_v, bias_v)):
        if static is not None and bias is not None:
            raise ArgumentError(f"{op}: static_{name} and bias_{name} exclude each other")
    return multi_head_attention(
        op,
        query,
        key,
        value,
        num_heads,
        projections,
        in_proj_bias,
        bias_k,
        bias_v,
        add_zero_attn,
        dropout_p if training else 0.0,
        out_proj_weight,
        out_proj_bias,
        key_padding_mask,
        need_weights,
        attn_mask,
        average_attn_weights,
        is_causal,
        static_k=static_k,
        static_v=static_v,
    )


def multi_head_attention(
    op: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    projections: Projections,
    bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    p: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    average_attn_weights: bool,
    is_causal: bool,
    batch_first: bool = False,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    cache: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`multi_head_attention_forward`, for sequences in either order, and with a cache of keys and values."""
    batched = query.ndim == 3
    _check_inputs(op, query, key, value, projections, batch_first)
    if not batched:
        same = (query is key, key is value)
        query = query.unsqueeze(1)
        key = query if same[0] else key.unsqueeze(1)
        value = key if same[1] else value.unsqueeze(1)
        if key_padding_mask is not None and key_padding_mask.ndim == 1:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    batch_first = batch_first and batched
    q, k, v = _project(query, key, value, num_heads, projections, bias, batch_first)
    k, v = (
        projected if static is None else _static(op, name, static, q)
        for name, projected, static in (("static_k", k, static_k), ("static_v", v, static_v))
    )

    def output(heads: Tensor) -> Tensor:
        """(N, heads, L, size) -> the layout of the input, projected."""
        x = heads.permute(0, 2, 1, 3) if batch_first else heads.permute(2, 0, 1, 3)
        y = linear(x.flatten(2), out_weight, out_bias)
        return y if batched else y.squeeze(1)

    if cache is not None:
        if need_weights or attn_mask is not None or key_padding_mask is not None:
            raise ArgumentError(
                f"{op}: with a cache pass need_weights=False and no masks; decoding is causal"
            )
        return output(cache.attend(q, k, v)), None
    appended = bias_k is not None or add_zero_attn
    causal = is_causal and not need_weights and not appended
    mask = _mask(op, q, k, None if causal else attn_mask, key_padding_mask, is_causal and not causal)
    if appended:
        k, v, mask = _append_keys(k, v, mask, bias_k, bias_v, add_zero_attn)
    scale = 1 / math.sqrt(q._data.shape[-1])
    if not need_weights:
        return output(attend(q, k, v, mask, scale, causal, p)), None
    scores: Any = matmul(q * scale, k.transpose(-2, -1))
    if mask is not None:
        scores = scores + added_mask(mask, q)
    weights = softmax(scores, -1)
    if p > 0:
        weights = dropout(weights, p)  # as in PyTorch what is returned are the weights that were used
    y = output(matmul(weights, v))
    if average_attn_weights:
        weights = weights.mean(1)
    return y, weights if batched else weights.squeeze(0)


def _check_inputs(
    op: str, query: Tensor, key: Tensor, value: Tensor, projections: Projections, batch_first: bool
) -> None:
    shapes = [t._data.shape for t in (query, key, value)]
    rank = len(shapes[0])
    if rank not in (2, 3) or any(len(s) != rank for s in shapes):
        raise ArgumentError(
            f"{op}: query, key and value must all be (length, batch, size), (batch, length, size) with batch_first, "
            f"or (length, size), got {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    weights = (projections,) * 3 if isinstance(projections, Tensor) else projections
    for name, shape, weight in zip(("query", "key", "value"), shapes, weights, strict=True):
        size = weight._data.shape[-1]
        if shape[-1] != size:
            raise ArgumentError(f"{op}: the last dimension of {name} must be {size}, got {shape}")
    batch = 0 if batch_first else 1
    if shapes[1][:-1] != shapes[2][:-1] or (rank == 3 and shapes[0][batch] != shapes[1][batch]):
        raise ArgumentError(
            f"{op}: key and value must have the same length and batch, and query the same batch, got query "
            f"{shapes[0]}, key {shapes[1]}, value {shapes[2]} (batch_first={batch_first}: the batch is dimension "
            f"{batch})"
        )


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    projections: Projections,
    bias: Tensor | None,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as (N, heads, length, size): views of what the linear maps return."""

    def view(x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3) if batch_first else x.permute(1, 2, 0, 3)

    packed = isinstance(projections, Tensor)
    if packed and query is key and key is value:
        q, k, v = linear(query, projections, bias).unflatten(-1, (3, heads, -1)).unbind(2)
        return view(q), view(k), view(v)
    weights = projections.chunk(3) if packed else projections
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    q, k, v = (
        view(linear(x, w, b).unflatten(-1, (heads, -1)))
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    return q, k, v


def _static(op: str, name: str, static: Tensor, q: Tensor) -> Tensor:
    n, h, _, d = q._data.shape
    shape = static._data.shape
    if len(shape) != 3 or shape[0] != n * h or shape[2] != d:
        raise ArgumentError(
            f"{op}: {name} must be (N * num_heads, S, E / num_heads) = ({n * h}, S, {d}), got {shape}"
        )
    return static.reshape(n, h, shape[1], d)


def _mask(
    op: str, q: Tensor, k: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None, is_causal: bool
) -> Tensor | None:
    """One mask in the sense of scaled_dot_product_attention; ``is_causal`` makes the causal one if none is given."""
    n, h, length, _ = q._data.shape
    keys = k._data.shape[2]
    if is_causal and attn_mask is None:
        at = np.arange(max(keys, length), like=q._data)
        attn_mask = Tensor._wrap(at[:keys] > at[:length, None])
    for name, m in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
        if m is not None and m._data.dtype.kind not in "bfV":
            raise TypeError(f"{op}: {name} must be bool or float, got {m._data.dtype}")
    mask: Any = None
    if attn_mask is not None:
        shape = attn_mask._data.shape
        if shape == (n * h, length, keys):
            attn_mask = attn_mask.reshape(n, h, length, keys)
        elif shape != (length, keys):
            raise ArgumentError(
                f"{op}: attn_mask must be (L, S) = {(length, keys)} or (N * num_heads, L, S) = "
                f"{(n * h, length, keys)}, got {shape}"
            )
        mask = _allowed(attn_mask, q)
    if key_padding_mask is not None:
        if key_padding_mask._data.shape != (n, keys):
            raise ArgumentError(
                f"{op}: key_padding_mask must be (N, S) = {(n, keys)}, got {key_padding_mask._data.shape}"
            )
        padding = _allowed(key_padding_mask, q).reshape(n, 1, 1, keys)
        if mask is None:
            mask = padding
        elif mask._data.dtype == padding._data.dtype == bool:
            mask = mask.logical_and(padding)
        else:
            mask = added_mask(mask, q) + added_mask(padding, q)
    return mask  # type: ignore[no-any-return]


def _append_keys(
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """With the learned key and value and those of zeros appended; every query may look at them."""
    n, h, _, d = k._data.shape
    appended = []
    if bias_k is not None and bias_v is not None:
        appended.append([r.reshape(1, h, 1, d).expand(n, h, 1, d) for r in (bias_k, bias_v)])
    if add_zero_attn:
        zero = Tensor._wrap(np.zeros((n, h, 1, d), k._data.dtype, like=k._data))
        appended.append([zero, zero])
    k, v = (cat([x, *[pair[i] for pair in appended]], 2) for i, x in enumerate((k, v)))
    if mask is not None:
        array = mask._data
        visible = full((*array.shape[:-1], len(appended)), array.dtype == bool, array.dtype, array)
        mask = cat([mask, Tensor._wrap(visible)], mask.ndim - 1)
    return k, v, mask


def _allowed(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of this module (True: hidden) as scaled_dot_product_attention takes it (True: visible); floats stay."""
    if mask._data.dtype == bool:
        return Tensor._wrap(~mask._data)
    return mask if mask._data.dtype == like._data.dtype else mask.to(like.dtype)


def added_mask(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask (True: visible) as numbers to add to scores of ``like``'s dtype; others stay."""
    if mask._data.dtype != bool:
        return mask
    zero, hidden = like._data.dtype.type(0), like._data.dtype.type(-np.inf)
    return Tensor._wrap(np.where(mask._data, zero, hidden))

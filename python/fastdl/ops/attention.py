"""Scaled dot-product attention; see ``torch.nn.functional.scaled_dot_product_attention``.

One kernel does all of it: masks, causality, dropout and grouped heads are its options, and no array of the
size of the score matrix exists, forward or backward. What backward keeps beside the inputs and the result is
one number per query.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import eye
from fastdl.ops.rearrange import repeat_interleave
from fastdl.ops.softmax import softmax
from fastdl.ops.views import expand, reshape
from fastdl.random import default_generator
from fastdl.tensor import Tensor


class Attention(Op):
    """On query (B, H, L, E), key (B, G, S, E), value (B, G, S, V) and a mask of up to four axes."""

    floats_only = True

    saves = (0, 1, 2, 3)
    saves_output = True

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any, is_causal: bool, scale: float, p: float
    ) -> Any:
        if mask is not None:
            self.mask_shape = mask.shape
            if mask.ndim < 4:
                mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        forward = select(query).attention_forward  # before drawing: where there is none, the CPU will draw
        seed, offset = default_generator.draw(on_device(query)) if p > 0 else (0, 0)
        self.options = is_causal, scale, p, seed, offset
        y, lse = forward(query, key, value, mask, *self.options)
        if True in self.needs:
            self.saved = query, key, value, mask, y, lse
        return y

    def backward(self, grad_y: Any) -> Any:
        need_mask = self.needs[3]
        query, key, value, mask = select(grad_y).attention_backward(
            grad_y, *self.saved, *self.options, need_mask
        )
        return query, key, value, mask.reshape(self.mask_shape) if need_mask else None

    def backward_graph(self, grad_y: Tensor) -> Any:
        """By way of the scores, which this path stores."""
        query, key, value, mask, _, _ = self.saved
        is_causal, scale, p, _seed, _offset = self.options
        heads, groups = query.shape[1], key.shape[1]

        def composed(q: Any, k: Any, v: Any, mask: Any) -> Any:
            if heads != groups:
                k, v = (repeat_interleave(t, heads // groups, dim=1) for t in (k, v))
            scores = (q @ k.transpose(-1, -2)) * scale
            hidden = np.zeros((1, 1, 1, 1), np.bool_, like=q._data)
            if mask is not None and mask._data.dtype.kind == "b":
                hidden = ~mask._data.reshape((1,) * (4 - mask.ndim) + mask.shape)
            elif mask is not None:
                scores = scores + mask
            if is_causal:
                rows, columns = [np.arange(n, like=q._data) for n in scores.shape[-2:]]
                hidden = hidden | (columns > rows[:, None])
            # A row that may look at nothing gives zeros: it gets any scores and is zeroed afterwards.
            hidden = np.broadcast_to(hidden, scores.shape) | (scores._data == -np.inf)
            blind = hidden.all(-1, keepdims=True)
            scores = scores.masked_fill(Tensor._wrap(hidden), -np.inf).masked_fill(Tensor._wrap(blind), 0.0)
            weights = softmax(scores, -1).masked_fill(Tensor._wrap(blind), 0.0)
            if p > 0:
                weights = weights * Tensor._wrap(self.kept(weights.shape, weights._data.dtype))
            return weights @ v

        if mask is not None:
            mask = mask.reshape(self.mask_shape)
        return replay(self, grad_y, composed, query, key, value, mask)

    def kept(self, shape: Any, dtype: Any) -> Any:
        """The factors of dropout: the weights themselves come out where every value is a unit vector."""
        _, _, p, seed, offset = self.options
        b, h, rows, columns = shape
        like = self.saved[0]
        nothing = [np.zeros((b, h, n, 1), dtype, like=like) for n in (rows, columns)]
        units = np.broadcast_to(eye(columns, dtype, like), (b, h, columns, columns))
        y, _ = select(like).attention_forward(*nothing, units, None, False, 1.0, p, seed, offset)
        return y * dtype.type(columns)


class Rotate(Op):
    """Pairs (a, b) of the last axis become (a cos - b sin, a sin + b cos); backward turns the other way."""

    def forward(self, x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
        self.options = cos, sin, interleaved
        return self.turn(x, cos, sin, interleaved)

    def backward(self, grad: Any) -> Any:
        cos, sin, interleaved = self.options
        return self.turn(grad, cos, -sin, interleaved)

    def backward_graph(self, grad: Tensor) -> Any:
        cos, sin, interleaved = self.options
        return Rotate.apply(grad, cos=cos, sin=-sin, interleaved=interleaved)

    @staticmethod
    def turn(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
        half = x.shape[-1] // 2
        first, second = (
            (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
        )
        a, b = x[..., first], x[..., second]
        y = np.empty_like(x)  # in x's own order of axes
        np.subtract(a * cos, b * sin, out=y[..., first])
        np.add(a * sin, b * cos, out=y[..., second])
        return y


def rotate(input: Tensor, cos: Any, sin: Any, interleaved: bool) -> Tensor:
    """Turn pairs of the last axis (..., L, D) by angles whose cosines and sines are (L, D / 2)."""
    return Rotate.apply(input, cos=cos, sin=sin, interleaved=interleaved)  # type: ignore[no-any-return]


def _check(query: Any, key: Any, value: Any, dropout_p: float) -> None:
    op = "scaled_dot_product_attention"
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.ndim < 2:
            raise ArgumentError(
                f"{op}: {name} must have at least 2 dimensions (..., length, size), got {x.shape}"
            )
    mixed = not query.dtype == key.dtype == value.dtype and mode.autocast is None
    if mixed or query.dtype.kind not in FLOATING:
        raise DtypeError(
            f"{op}: query, key and value must share one dtype, float32 or float64, got {query.dtype}, "
            f"{key.dtype} and {value.dtype}; convert with .to(dtype)"
        )
    if query.shape[-1] != key.shape[-1]:
        raise ArgumentError(
            f"{op}: query and key must agree in their last dimension, got query {query.shape}, key {key.shape}"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ArgumentError(
            f"{op}: key and value must have the same length (dimension -2), got key {key.shape}, value "
            f"{value.shape}"
        )
    if not 0.0 <= dropout_p <= 1.0:
        raise ArgumentError(
            f"{op}: dropout_p, the probability of a weight being dropped, must be between 0 and 1, got {dropout_p}"
        )


def _four_axes(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[Any, Any, Any, Any]:
    """The three with axes (B, heads, length, size) that fit the kernel, and the batch shape in front of them."""
    op = "scaled_dot_product_attention"
    shapes = [t._data.shape for t in (query, key, value)]
    heads = [s[-3] if len(s) > 2 else 1 for s in shapes]
    if enable_gqa:
        for name, h in zip(("key", "value"), heads[1:], strict=True):
            if h == 0 or heads[0] % h:
                raise ArgumentError(
                    f"{op}: with enable_gqa the heads of {name} (dimension -3) must divide those of query, got "
                    f"{heads[0]} for query {shapes[0]} and {h} for {name} {shapes['qkv'.index(name[0])]}"
                )
        if heads[1] != heads[2]:
            key, value = (
                repeat_interleave(t, heads[0] // h, dim=-3) if h != heads[0] else t
                for t, h in zip((key, value), heads[1:], strict=True)
            )
            heads = [heads[0]] * 3
    try:
        batch = np.broadcast_shapes(*[s[:-3] for s in shapes])
        common = heads[0] if enable_gqa else np.broadcast_shapes(*[(h,) for h in heads])[0]
    except ValueError:
        raise ArgumentError(
            f"{op}: leading dimensions do not broadcast: query {shapes[0]}, key {shapes[1]}, value {shapes[2]}"
            + ("" if enable_gqa else ". Fewer heads of key and value than of query need enable_gqa=True")
        ) from None
    if heads[0] != common:
        heads[0] = common
    if heads[1] != heads[2]:  # one of them is 1
        heads[1] = heads[2] = common
    count = math.prod(batch)
    four = []
    for t, h in zip((query, key, value), heads, strict=True):
        shape = t._data.shape
        wanted = (*batch, h, *shape[-2:])
        if shape != wanted:
            t = expand(t if len(shape) > 2 else reshape(t, 1, *shape), *wanted)
        four.append(t if len(wanted) == 4 else reshape(t, count, *wanted[-3:]))
    return four[0], four[1], four[2], batch


def _mask_axes(mask: Tensor, batch: tuple[int, ...], query: Any, key: Any, has_heads: bool) -> Tensor:
    """The mask checked, with at most four axes."""
    op = "scaled_dot_product_attention"
    if mask._data.dtype == np.float32 and query.dtype != np.float32 and mode.autocast is None:
        mask = mask.to(query.dtype)  # masks are often made once, in the default dtype, for models of any
    array = mask._data
    if array.dtype.kind != "b" and array.dtype != query.dtype:
        raise DtypeError(
            f"{op}: attn_mask must be bool (True: may be looked at) or {query.dtype} like query (added to the "
            f"scores), got {array.dtype}; convert with .bool() or .to(dtype)"
        )
    length, keys = query.shape[-2], key.shape[-2]
    full = (*batch, query.shape[1], length, keys) if has_heads else (length, keys)
    shape = array.shape
    if not 2 <= len(shape) <= len(full) or any(
        m not in (1, n) for m, n in zip(reversed(shape), reversed(full), strict=False)
    ):
        raise ArgumentError(
            f"{op}: attn_mask must have 2 to {len(full)} dimensions and broadcast to (..., L, S) = {full}, got "
            f"{shape}"
        )
    if len(shape) <= 3 or len(batch) <= 1:
        return mask
    lead = shape[:-3]
    if math.prod(lead) != 1:
        mask = expand(mask, *batch, *shape[-3:])
        lead = batch
    return reshape(mask, math.prod(lead), *shape[-3:])


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    is_causal: bool = False,
    p: float = 0.0,
) -> Tensor:
    """The kernel's own form, for layers that have checked their inputs: four axes, causal and mask together if need be.

    See :class:`Attention`.
    """
    return Attention.apply(query, key, value, mask, is_causal=is_causal, scale=scale, p=p)  # type: ignore[no-any-return]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(scale * query @ key^T + mask) @ value``, without ever storing the scores.

    Memory grows with the lengths L and S, not with their product. See
    ``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        query: ``(..., H, L, E)``, float32 or float64; axes before L may be missing.
        key: ``(..., H, S, E)``; leading axes broadcast.
        value: ``(..., H, S, V)``.
        attn_mask: broadcasts to ``(..., H, L, S)``: bool (True: this query may look at this key) or of query's
            dtype (added to the scores; gets a gradient if it requires one). A query that may look at nothing
            gives zeros.
        dropout_p: probability of a weight being dropped. Active whenever it is > 0: pass 0 in evaluation.
        is_causal: query i sees keys 0 .. i only, of those that ``attn_mask`` shows.
        scale: of the scores, 1 / sqrt(E) by default.
        enable_gqa: key and value may have fewer heads; each serves H / heads query heads in a row.

    Returns:
        ``(..., H, L, V)``. Its memory is ordered as query's, so that ``.transpose(1, 2).flatten(2)`` is free
        where query came from ``.unflatten(2, (H, E)).transpose(1, 2)``.

    Raises:
        ValueError: if shapes do not fit, dropout_p is no probability, or a ``CausalBias`` comes with is_causal.
        TypeError: for dtypes that differ or are not supported.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> fastdl.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.0)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    q, k, v = query._data, key._data, value._data
    _check(q, k, v, dropout_p)
    if is_causal and hasattr(attn_mask, "variant"):
        raise ArgumentError(
            "scaled_dot_product_attention: attn_mask is a CausalBias, which needs no is_causal=True"
        )
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    batch: tuple[int, ...] = q.shape[:1]
    plain = (
        q.ndim == k.ndim == v.ndim == 4
        and q.shape[0] == k.shape[0] == v.shape[0]
        and k.shape[1] == v.shape[1]
        and (q.shape[1] == k.shape[1] or (enable_gqa and k.shape[1] and q.shape[1] % k.shape[1] == 0))
    )
    if not plain:
        query, key, value, batch = _four_axes(query, key, value, enable_gqa)
    if attn_mask is not None:
        attn_mask = _mask_axes(attn_mask, batch, query._data, key._data, max(q.ndim, k.ndim, v.ndim) > 2)
    y = attend(query, key, value, attn_mask, float(scale), bool(is_causal), float(dropout_p))
    if plain:
        return y
    shape = y._data.shape
    if max(q.ndim, k.ndim, v.ndim) == 2:
        return reshape(y, *shape[2:])
    return reshape(y, *batch, *shape[1:])

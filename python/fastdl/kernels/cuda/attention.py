"""Scaled dot-product attention; see :mod:`fastdl.kernels.reference.attention`.

16-bit types and float32 go through the tensor cores, float32 by three products of TF32 for each of its own or, where
that precision is allowed (``set_float32_matmul_precision``), by one.
``lse`` is float32 for 16-bit types. The gradient of a mask is summed over what was broadcast in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import precisions
from fastdl.kernels.cuda import device
from fastdl.kernels.cuda.device import Array
from fastdl.kernels.cuda.elementwise import convert
from fastdl.kernels.cuda.hopper import choose, family, half_types, hopper_demanded, hopper_trusted
from fastdl.kernels.cuda.random import random_key
from fastdl.kernels.cuda.reduce import sum_forward

__all__ = ["attention_backward", "attention_forward"]


def _rows(x: Array) -> Array:
    """x itself where its last axis is contiguous and its strides are whole elements, or a copy."""
    item, strides = x.dtype.itemsize, x.strides
    whole = (strides[0] | strides[1] | strides[2]) % item == 0
    return x if whole and (strides[3] == item or x.shape[3] <= 1) else device.copy(x)


def _empty_like(runtime: Any, like: Array, size: int) -> Array:
    """A new (B, heads, rows, size) whose axes lie in memory in the order in which those of ``like`` do."""
    first, second, third = like.strides[:3]
    if first >= second >= third > 0:
        return runtime.empty((*like.shape[:3], size), like.dtype)
    order = sorted(range(3), key=lambda axis: -like.strides[axis] if like.shape[axis] > 1 else 0)
    if any(like.shape[axis] <= 1 or like.strides[axis] <= 0 for axis in range(3)):
        # Axes that do not matter stay where they are.
        free = [axis for axis in range(3) if like.shape[axis] > 1 and like.strides[axis] > 0]
        moved = iter(sorted(free, key=lambda axis: -like.strides[axis]))
        order = [next(moved) if axis in free else axis for axis in range(3)]
    made = runtime.empty((*(like.shape[axis] for axis in order), size), like.dtype)
    return made.transpose([order.index(axis) for axis in range(3)] + [3])


def _argument(runtime: Any, x: Array | None) -> Any:
    return None if x is None else (runtime.pointer(x), x.strides)


def _boxed(runtime: Any, mask: Array, keys: int) -> Array:
    """A mask of four axes, of which the copy engine can take boxes: its rows dense and multiples of 16 bytes apart."""
    item = mask.dtype.itemsize
    fits = mask.shape[3] == keys and mask.strides[3] == item and runtime.pointer(mask) % 16 == 0
    if fits and all(
        n == 1 or (s > 0 and s % 16 == 0) for n, s in zip(mask.shape[:3], mask.strides[:3], strict=True)
    ):
        return mask
    per = 16 // item
    boxed = runtime.empty((*mask.shape[:3], (keys + per - 1) // per * per), mask.dtype)[..., :keys]
    device.copy_to(boxed, mask)
    return boxed


class _Problem:
    """The checked arguments that forward and backward share, as the extension takes them."""

    def __init__(
        self,
        op: str,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        is_causal: bool,
        scale: float,
        p: float,
        seed: int,
        offset: int,
    ) -> None:
        self.number = device.code(op, query)
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.dtype != query.dtype:
                raise DtypeError(f"{op}: {name} must be {query.dtype}, got {x.dtype}")
            if x.ndim != 4:
                raise ArgumentError(f"{op}: {name} must have 4 dimensions, got shape {x.shape}")
        if not 0 <= p <= 1:
            raise ArgumentError(f"{op}: p must be between 0 and 1")
        batch, heads, queries, size = query.shape
        _, groups, keys, value_size = value.shape
        if (
            key.shape != (batch, groups, keys, size)
            or value.shape[0] != batch
            or (heads % groups if groups else heads)
        ):
            raise ArgumentError(f"{op}: query is {query.shape}, key {key.shape}, value {value.shape}")
        self.runtime = device.of(query)
        self.query, self.key, self.value = _rows(query), _rows(key), _rows(value)
        tf32 = precisions.matmul != "highest"
        plain = mask is None and p == 0
        kind = " of 256" if size == 256 else "" if plain else " with masks"
        hopper = (
            query.dtype.itemsize == 2
            and size == value_size
            and (size in (64, 128) or (size == 256 and plain and op == "attention_forward"))
            and hopper_trusted(op + kind, self.runtime)
        )
        self.allowed = False
        self.mask = None
        if mask is not None:
            self.allowed = mask.dtype == np.bool_
            if not self.allowed and mask.dtype != query.dtype:
                raise DtypeError(f"{op}: mask must be bool or of query's dtype, got {mask.dtype}")
            full = (batch, heads, queries, keys)
            if mask.ndim != 4 or any(m not in (1, n) for m, n in zip(mask.shape, full, strict=True)):
                raise ArgumentError(f"{op}: mask {mask.shape} does not broadcast to {full}")
            if any(s % mask.dtype.itemsize for s in mask.strides):
                mask = device.copy(mask)
            if hopper and keys > 0:
                mask = _boxed(self.runtime, mask, keys)
            self.mask = (self.runtime.pointer(mask), device.strides(mask, full))
            self.kept = mask  # alive as long as its address
        if groups == 0:  # no heads: nothing to do, and nothing to divide by
            groups = 1
        self.description = self.runtime.extension.Attention(
            batch,
            heads,
            groups,
            queries,
            keys,
            size,
            value_size,
            is_causal,
            scale,
            p,
            *random_key(self.runtime, seed, offset),
            tf32,
            hopper,
        )
        self.compute = device.compute_dtype(query.dtype)

    def inputs(self) -> tuple[Any, Any, Any]:
        return (
            _argument(self.runtime, self.query),
            _argument(self.runtime, self.key),
            _argument(self.runtime, self.value),
        )


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
    a = _Problem("attention_forward", query, key, value, mask, is_causal, scale, p, seed, offset)
    runtime, extension = a.runtime, a.runtime.extension
    y = _empty_like(runtime, query, value.shape[3])
    lse = runtime.empty(query.shape[:3], a.compute)
    parts, needed = extension.attention_parts(a.number, a.description)
    scratch = runtime.empty((needed,), np.uint8) if needed else None
    extension.attention_forward(
        a.number,
        _argument(runtime, y),
        runtime.pointer(lse),
        *a.inputs(),
        a.mask,
        a.allowed,
        a.description,
        parts,
        runtime.pointer(scratch),
        runtime.stream(),
    )
    return y, lse


# Sizes of heads, and causal or not: so that each kernel without masks has its turn. Heads of 256, whose blocks work
# otherwise, have a family of their own: should it fail, the others stay.
_PLAIN = ((64, False), (128, True))
_PLAIN_FORWARD = (*_PLAIN, (64, True))
_PLAIN_256 = ((256, False), (256, True))


def _problems(
    runtime: Any, masks: bool, plain: tuple[tuple[int, bool], ...] = _PLAIN
) -> Iterator[tuple[list[Array], Array | None, tuple[bool, float, float, int, int]]]:
    """Sizes and both types, causal and not, ragged, two heads of queries for one of keys, some tiles for everyone.

    Heads lie inside of rows, as projections make them. With ``masks``: masks of each kind and dropout.
    Gives query, key, value, an array like query; a mask; and the other arguments.
    """
    heads = 2 * (1 + runtime.extension.multiprocessors() // 6)
    queries, keys = 280, 345
    for dtype in half_types():
        cases: list[tuple[int, bool, tuple[int, ...] | None, float]] = [
            (size, causal, None, 0.0) for size, causal in plain
        ]
        if masks:
            cases = [
                (64, True, (2, 1, queries, keys), 0.1),
                (128, False, (1, heads, queries, keys), 0.0),
                (128, False, (2, 1, 1, keys), 0.2),
            ]
        for size, is_causal, mask, p in cases:
            rng = np.random.default_rng(size)
            arrays = [
                runtime.from_host(rng.standard_normal((2, rows, n, size), np.float32).astype(dtype))
                for n, rows in ((heads, queries), (heads // 2, keys), (heads // 2, keys), (heads, queries))
            ]
            made: Any = None
            if mask is not None:
                made = rng.standard_normal(mask, np.float32)
                made[..., 0] = 1  # everyone sees something
                # One mask for all heads is boolean, others are added.
                made = runtime.from_host(made > -1 if mask[1] == 1 else made.astype(dtype))
            yield [x.transpose(0, 2, 1, 3) for x in arrays], made, (is_causal, size**-0.5, p, 5, 7)


def _forward_trial(
    runtime: Any, masks: bool, plain: tuple[tuple[int, bool], ...] = _PLAIN_FORWARD
) -> list[Array]:
    results: list[Array] = []
    for (query, key, value, _), mask, options in _problems(runtime, masks, plain):
        results += attention_forward(query, key, value, mask, *options)
    return results


def _backward_trial(runtime: Any, masks: bool) -> list[Array]:
    results: list[Array] = []
    for (query, key, value, grad_y), mask, options in _problems(runtime, masks):
        with choose(hopper=False):  # forward has a trial of its own
            y, lse = attention_forward(query, key, value, mask, *options)
        results += attention_backward(grad_y, query, key, value, mask, y, lse, *options, False)[:3]
    return results


family("attention_forward")(partial(_forward_trial, masks=False))
family("attention_forward of 256")(partial(_forward_trial, masks=False, plain=_PLAIN_256))
family("attention_forward with masks")(partial(_forward_trial, masks=True))
family("attention_backward")(partial(_backward_trial, masks=False))
family("attention_backward with masks")(partial(_backward_trial, masks=True))


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
    op = "attention_backward"
    a = _Problem(op, query, key, value, mask, is_causal, scale, p, seed, offset)
    runtime, extension = a.runtime, a.runtime.extension
    if not grad_y.shape == y.shape == (*query.shape[:3], value.shape[3]):
        raise ArgumentError(
            f"{op}: y is {y.shape}, grad_y {grad_y.shape}, query {query.shape}, value {value.shape}"
        )
    device.code(op, query, grad_y, y)
    if lse.shape != query.shape[:3]:
        raise ArgumentError(f"{op}: lse is {lse.shape}, query {query.shape}")
    if lse.dtype != a.compute:
        raise DtypeError(f"{op}: lse must be {a.compute}, got {lse.dtype}")
    if need_mask and a.allowed:
        raise ArgumentError(f"{op}: a bool mask has no gradient")
    grad_y, y, lse = _rows(grad_y), _rows(y), device.contiguous(lse)
    grads = [_empty_like(runtime, x, x.shape[3]) for x in (query, key, value)]
    batch, heads, queries = query.shape[:3]
    padded = extension.attention_padded(queries)
    statistics = runtime.empty((batch, heads, padded, 2), a.compute)
    arrays = (
        *(_argument(runtime, g) for g in grads),
        _argument(runtime, grad_y),
        *a.inputs(),
        a.mask,
        a.allowed,
    )
    needed = 0
    if hopper_demanded() or extension.attention_backward_prefers_hopper(a.description):
        needed = extension.attention_backward_scratch(a.number, *arrays, a.description)
    scratch = runtime.empty((needed,), np.uint8) if needed else None
    extension.attention_backward(
        a.number,
        *arrays,
        _argument(runtime, y),
        runtime.pointer(lse),
        runtime.pointer(statistics),
        runtime.pointer(scratch),
        a.description,
        runtime.stream(),
    )
    grad_mask = None
    if need_mask and mask is not None:
        shape = mask.shape[:3]
        parts = extension.attention_mask_parts(a.description, *shape)
        partial = runtime.empty((parts, *shape, key.shape[2]), a.compute)
        extension.attention_mask_gradient(
            a.number,
            runtime.pointer(partial),
            *shape,
            parts,
            _argument(runtime, grad_y),
            *a.inputs(),
            a.mask,
            runtime.pointer(statistics),
            a.description,
            runtime.stream(),
        )
        # Parts, and keys where the mask is the same for all of them.
        axes = (0, 4) if mask.shape[3] == 1 else (0,)
        summed = sum_forward(partial, axes).reshape(mask.shape)
        grad_mask = convert(summed, query.dtype) if summed.dtype != query.dtype else summed
    return grads[0], grads[1], grads[2], grad_mask

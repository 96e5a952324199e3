"""Elements chosen by a bool tensor: filled, picked, replaced."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.arrays import pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.op import Op, needing
from fastdl.dtypes import FLOATING, bool_, is_common_integer, uint8
from fastdl.errors import ArgumentError
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import cast, count_true, filler, sum_to, written, zeros
from fastdl.ops.out import apply_into
from fastdl.ops.views import expand
from fastdl.tensor import Tensor

_FEW = 512  # elements that NumPy is done with before a kernel has its value as an array


def _mask(op: str, mask: Any) -> Any:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{op}: mask must be a bool Tensor, got {type(mask).__name__}")
    array = mask._data
    if array.dtype is bool_:
        return array
    if array.dtype == uint8:
        return array.astype(np.bool_)
    raise RuntimeError(f"{op}: mask must have dtype bool, got {array.dtype}; compare, e.g. x > 0")


def put(array: Any, mask: Any, values: Any) -> Any:
    """``array[mask] = values``, of the array's dtype; returns the array."""
    if on_device(array) or array.itemsize > 8:
        array[mask] = values
        return array
    written(select(array).masked_put, as_bytes(array), mask, as_bytes(values))
    return array


def pick(array: Any, mask: Any) -> Any:
    """``array[mask]`` for a mask over the first axes."""
    if on_device(array) or array.itemsize > 8:
        return array[mask]
    found = select(array).masked_select(as_bytes(array), mask)
    return found if found.dtype is array.dtype else found.view(array.dtype)


def as_bytes(array: Any) -> Any:
    """The same bytes under a dtype that the kernels, which only move them, have a name for."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind in "Vc" else array


class MaskedFill(Op):
    takes_complex = True

    def forward(self, x: Any, value: Any, mask: Any, number: Any = None, out: Any = None) -> Any:
        self.mask, self.x_shape = mask, x.shape
        if value is not None:
            self.value_dtype = value.dtype
        if out is None and (x.dtype.kind in FLOATING or _is_moved(x)):
            return select(x).where_forward(mask, number if value is None else value.astype(x.dtype), x)
        if mask.shape != x.shape:
            shape = np.broadcast_shapes(x.shape, mask.shape)
            x, mask = np.broadcast_to(x, shape), np.broadcast_to(mask, shape)
        result = pooled_copy(x) if out is None else out
        if on_device(x) or result.shape != x.shape or result.size < _FEW:
            np.copyto(result, number if value is None else value, where=mask, casting="unsafe")
            return result
        return put(result, mask, np.asarray(number if value is None else value).astype(x.dtype))

    def backward(self, grad: Any) -> Any:
        rest = part = None
        if self.needs[0]:
            if grad.dtype.kind in FLOATING:
                rest = select(grad).where_forward(self.mask, 0.0, grad)
            else:
                rest = pooled_copy(grad)
                np.copyto(rest, 0, where=self.mask)
            rest = sum_to(rest, self.x_shape)
        if self.needs[1]:
            part = sum_to(array(np.where(self.mask, grad, grad.dtype.type(0)), grad), ())
            part = cast(part, self.value_dtype)
        return rest, part

    def backward_graph(self, grad: Tensor) -> Any:
        mask = Tensor._wrap(self.mask)
        rest = masked_fill(grad, mask, 0.0).sum_to_size(self.x_shape) if self.needs[0] else None
        part = None
        if self.needs[1]:
            part = masked_fill(grad, Tensor._wrap(~self.mask), 0.0).sum().to(self.value_dtype)
        return rest, part


def _is_moved(x: Any) -> bool:
    """Is this an array on the CPU of integers or bools that the kernel of ``where`` knows?"""
    return x.__class__ is np.ndarray and (x.dtype is bool_ or is_common_integer(x.dtype))


def masked_fill(input: Tensor, mask: Tensor, value: Any, *, out: Tensor | None = None) -> Tensor:
    """``value`` where ``mask`` (broadcast) is True, the input elsewhere; see ``torch.masked_fill``."""
    where = _mask("masked_fill", mask)
    if out is not None and out._data.dtype is bool_:
        where = pooled_copy(where)  # which may be memory that is about to be filled
    if _broadcasts("masked_fill", where, input._data) != input._data.shape and out is input:
        raise ArgumentError(
            f"masked_fill_: a mask of shape {where.shape} does not fit into the tensor of shape {input.shape}"
        )
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(
                f"masked_fill: value must be a number or a 0-dimensional tensor, got shape {value.shape}"
            )
        if value._data.dtype.kind == "c" and input._data.dtype.kind != "c":
            filler("masked_fill", value.item(), input._data.dtype)  # an error where it has an imaginary part
        return apply_into(out, MaskedFill, input, value, keeps=mask, mask=where)
    x = input._data
    value = filler("masked_fill", value, x.dtype)
    if (
        out is None and (x.dtype.kind == "f" or _is_moved(x)) and plain(input)
    ):  # no node where nothing is recorded
        return Tensor._wrap(select(x).where_forward(where, value, x))
    if out is input and 0 < x.size < _FEW and plain(input):
        np.copyto(x, value, where=where, casting="unsafe")
        out._bump_version()
        return out
    return apply_into(out, MaskedFill, input, None, keeps=mask, mask=where, number=value)


def _broadcasts(op: str, mask: Any, x: Any) -> Any:
    """The shape that mask and tensor broadcast to."""
    if mask.shape == x.shape:
        return x.shape
    try:
        return np.broadcast_shapes(mask.shape, x.shape)
    except ValueError:
        raise RuntimeError(
            f"{op}: a mask of shape {mask.shape} does not broadcast with the tensor, {x.shape}"
        ) from None


class MaskedSelect(Op):
    """x[mask]: the mask covers the first axes, and x may have to be broadcast to it."""

    def forward(self, x: Any, mask: Any) -> Any:
        self.mask, self.shape = mask, x.shape
        return self.linear(x)

    def backward(self, grad: Any) -> Any:
        shape = (*self.mask.shape, *grad.shape[1:])
        whole = zeros(shape, grad.dtype, grad)
        return sum_to(put(whole, self.mask, grad), self.shape)

    def linear(self, x: Any) -> Any:
        mask = self.mask
        if x.shape[: mask.ndim] != mask.shape:
            x = np.broadcast_to(x, mask.shape)
        return pick(x, mask)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where ``mask`` is True, as one axis; see ``torch.masked_select``."""
    where = _mask("masked_select", mask)
    shape = _broadcasts("masked_select", where, input._data)
    if where.shape != shape:
        where = np.broadcast_to(where, shape)
    return needing(MaskedSelect.apply(input, mask=where), mask)


class MaskedScatter(Op):
    def forward(self, x: Any, source: Any, mask: Any) -> Any:
        self.mask, self.source_shape, self.count = mask, source.shape, int(count_true(mask, None))
        return put(pooled_copy(x), mask, source.reshape(-1)[: self.count])

    def backward(self, grad: Any) -> Any:
        rest = part = None
        if self.needs[0]:
            rest = put(pooled_copy(grad), self.mask, zeros((), grad.dtype, grad))
        if self.needs[1]:
            part = zeros((prod(self.source_shape),), grad.dtype, grad)
            part[: self.count] = pick(grad, self.mask)
            part = part.reshape(self.source_shape)
        return rest, part

    def linear(self, x: Any, source: Any) -> Any:
        result = zeros(self.mask.shape, source.dtype, source) if x is None else pooled_copy(x)
        result[self.mask] = 0 if source is None else source.reshape(-1)[: self.count]
        return result

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The elements where ``mask`` is True replaced by those of ``source``, in order; see ``torch.masked_scatter``."""
    where = _mask("masked_scatter", mask)
    shape = _broadcasts("masked_scatter", where, input._data)
    if source.dtype != input.dtype:
        raise RuntimeError(f"masked_scatter: source must have dtype {input.dtype}, got {source.dtype}")
    full = where if where.shape == shape else np.broadcast_to(where, shape)
    if source.numel() < full.size and (wanted := int(count_true(full, None))) > source.numel():
        raise RuntimeError(f"masked_scatter: the mask selects {wanted} elements, source has {source.numel()}")
    whole = input if input._data.shape == shape else expand(input, shape)
    return needing(MaskedScatter.apply(whole, source, mask=full), mask)

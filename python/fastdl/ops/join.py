"""Tensors put together, along an axis they have or a new one; and the grids that lines of coordinates span."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

from fastdl._graph import plain
from fastdl.arrays import assign
from fastdl.autograd.graph import converted
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select
from fastdl.ops.arrays import cast, concat_arrays
from fastdl.ops.axes import numpy_names
from fastdl.ops.common import axis
from fastdl.ops.parts import split, unbind
from fastdl.ops.views import atleast_1d, atleast_2d, atleast_3d, expand, reshape
from fastdl.tensor import Tensor


def _tensors(op: str, tensors: Any) -> Sequence[Tensor]:
    if not isinstance(tensors, (list, tuple)):
        if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
            raise TypeError(f"{op}: expects a tuple or list of tensors, got {type(tensors).__name__}")
        tensors = list(tensors)
    if not tensors:
        raise ArgumentError(f"{op}: expects at least one tensor")
    for t in tensors:
        if t.__class__ is not Tensor and not isinstance(t, Tensor):
            at = [isinstance(p, Tensor) for p in tensors].index(False)
            raise TypeError(f"{op}: expects tensors, got {type(t).__name__} at position {at}")
    return tensors  # type: ignore[no-any-return]


def _are_plain(tensors: Any) -> bool:
    """Are these some tensors around NumPy's arrays, and nothing recorded for them?"""
    return (tensors.__class__ is list or tensors.__class__ is tuple) and len(tensors) > 0 and plain(*tensors)


def _joined(parts: Sequence[Any], dim: int) -> Any:
    """Arrays of one dtype, one after the other."""
    first = parts[0]
    if first.size >= 4096 and not (first.flags.c_contiguous or on_device(first)):
        return _put_together(parts, dim)
    return concat_arrays(parts, dim)


def _put_together(parts: Sequence[Any], dim: int) -> Any:
    """``concat`` of strided arrays, each copied once, to where it belongs."""
    shape = list(parts[0].shape)
    shape[dim] = sum([part.shape[dim] for part in parts])
    y = select(parts[0]).empty(shape, parts[0].dtype)
    start = 0
    for part in parts:
        end = start + part.shape[dim]
        assign(y[(slice(None),) * dim + (slice(start, end),)], part)
        start = end
    return y


def _in_dtype(arrays: Sequence[Any], dtype: Any) -> Sequence[Any]:
    for a in arrays:
        if a.dtype is not dtype:
            return [cast(a, dtype) for a in arrays]
    return arrays


class Cat(Op):
    aliases_grad = True  # parts of the gradient
    takes_complex = True
    release = Op.stay

    def forward(self, *arrays: Any, dim: int, dtype: Any) -> Any:
        self.dim = dim
        if True in self.needs:
            self.dtypes = [a.dtype for a in arrays]
            self.extents = [a.shape[dim] for a in arrays]
        return _joined(_in_dtype(arrays, dtype), dim)

    def backward(self, grad: Any) -> Any:
        before = (slice(None),) * self.dim
        start = 0
        grads = []
        for extent, dtype, need in zip(self.extents, self.dtypes, self.needs, strict=True):
            part = grad[(*before, slice(start, start + extent))] if need else None
            grads.append(part if part is None or part.dtype == dtype else cast(part, dtype))
            start += extent
        return tuple(grads)

    def backward_graph(self, grad: Tensor) -> Any:
        parts = split(grad, self.extents, self.dim)
        kept = zip(parts, self.dtypes, self.needs, strict=True)
        return tuple([converted(part, dtype) if need else None for part, dtype, need in kept])


def cat(tensors: Sequence[Tensor], dim: int = 0, **names: Any) -> Tensor:
    """Tensors of equal shape but for axis ``dim``, one after the other along it; see ``torch.cat``.

    Different dtypes are promoted; one-dimensional empty tensors add nothing.

    Example:
        >>> import fastdl
        >>> fastdl.cat([fastdl.ones(2), fastdl.zeros(1)])
        tensor([1., 1., 0.])
    """
    if names:
        dim, _ = numpy_names("cat", names, dim)
    unrecorded = _are_plain(tensors)
    parts = tensors if unrecorded else _tensors("cat", tensors)
    arrays = [t._data for t in parts]
    first, dtype = arrays[0].shape, arrays[0].dtype
    if first and first != (0,):  # alike but for that axis: the common case, without the checks below
        ndim = len(first)
        d = dim if dim.__class__ is int and 0 <= dim < ndim else axis("cat", dim, ndim)
        before, behind = first[:d], first[d + 1 :]
        for a in arrays:
            s = a.shape
            if (
                s != first and (len(s) != ndim or s[:d] != before or s[d + 1 :] != behind)
            ) or a.dtype is not dtype:
                break
        else:
            if unrecorded:
                return Tensor._wrap(_joined(arrays, d))
            return Cat.apply(*parts, dim=d, dtype=dtype)  # type: ignore[no-any-return]
    shapes = [t._data.shape for t in parts]
    dtype = common_dtype(parts)
    first = next((s for s in shapes if s != (0,)), first)
    if not first:
        raise RuntimeError("cat: tensors of 0 dimensions cannot be concatenated; use stack()")
    d = axis("cat", dim, len(first))
    if (0,) in shapes and len(first) != 1:  # vectors without elements stand beside anything
        nothing = (*first[:d], 0, *first[d + 1 :])
        parts = [reshape(t, nothing) if t._data.shape == (0,) else t for t in parts]
        shapes = [t._data.shape for t in parts]
    for i, s in enumerate(shapes):
        if s != first and (len(s) != len(first) or s[:d] != first[:d] or s[d + 1 :] != first[d + 1 :]):
            raise RuntimeError(
                f"cat: shapes must be equal except in dim {dim}: tensor 0 has {first}, tensor {i} has {s}"
            )
    return Cat.apply(*parts, dim=d, dtype=dtype)  # type: ignore[no-any-return]


concat = concatenate = cat


def common_dtype(parts: Sequence[Tensor]) -> Any:
    dtypes = [t._data.dtype for t in parts]
    if len(set(map(id, dtypes))) == 1 or len(set(dtypes)) == 1:
        return dtypes[0]
    from fastdl.ops.promotion import promote_types

    return reduce(promote_types, dtypes)


def _stacked(parts: Sequence[Any], dim: int) -> Any:
    """Arrays of one shape and dtype along a new axis."""
    shape = parts[0].shape
    if dim < len(shape):  # one after the other along the axis that will be behind the new one
        return concat_arrays(parts, dim).reshape((*shape[:dim], len(parts), *shape[dim:]))
    one = (slice(None),) * dim + (None,)
    return concat_arrays([a[one] for a in parts], dim)


class Stack(Op):
    aliases_grad = True
    takes_complex = True
    release = Op.stay

    def forward(self, *arrays: Any, dim: int, dtype: Any) -> Any:
        self.dim = dim
        if True in self.needs:
            self.dtypes = [a.dtype for a in arrays]
        return _stacked(_in_dtype(arrays, dtype), dim)

    def backward(self, grad: Any) -> Any:
        before = (slice(None),) * self.dim
        return tuple(
            [
                cast(grad[(*before, i, ...)], dtype) if need else None
                for i, (dtype, need) in enumerate(zip(self.dtypes, self.needs, strict=True))
            ]
        )

    def backward_graph(self, grad: Tensor) -> Any:
        kept = zip(unbind(grad, self.dim), self.dtypes, self.needs, strict=True)
        return tuple([converted(part, dtype) if need else None for part, dtype, need in kept])


def stack(tensors: Sequence[Tensor], dim: int = 0, **names: Any) -> Tensor:
    """Tensors of equal shape along a new axis; see ``torch.stack``.

    Example:
        >>> import fastdl
        >>> fastdl.stack([fastdl.zeros(2, 3)] * 5, dim=1).shape
        (2, 5, 3)
    """
    if names:
        dim, _ = numpy_names("stack", names, dim)
    unrecorded = _are_plain(tensors)
    parts = tensors if unrecorded else _tensors("stack", tensors)
    arrays = [t._data for t in parts]
    shape, dtype, alike = arrays[0].shape, arrays[0].dtype, True
    for i, a in enumerate(arrays):
        if a.shape != shape:
            raise RuntimeError(f"stack: shapes must be equal: tensor 0 has {shape}, tensor {i} has {a.shape}")
        alike = alike and a.dtype is dtype
    d = dim if dim.__class__ is int and 0 <= dim <= len(shape) else axis("stack", dim, len(shape) + 1, new=1)
    if alike and unrecorded:
        return Tensor._wrap(_stacked(arrays, d))
    return Stack.apply(*parts, dim=d, dtype=dtype if alike else common_dtype(parts))  # type: ignore[no-any-return]


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: along axis 1, or 0 for one-dimensional tensors; see ``torch.hstack``."""
    parts = [t if t._data.ndim else atleast_1d(t) for t in _tensors("hstack", tensors)]
    return cat(parts, 0 if parts[0]._data.ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """On top of each other: along axis 0, of two or more; see ``torch.vstack``."""
    return cat([t if t._data.ndim > 1 else atleast_2d(t) for t in _tensors("vstack", tensors)], 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Behind each other: along axis 2; see ``torch.dstack``."""
    return cat([t if t._data.ndim > 2 else atleast_3d(t) for t in _tensors("dstack", tensors)], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """One-dimensional tensors as columns; see ``torch.column_stack``."""
    parts = [reshape(t, (t.numel(), 1)) if t.ndim <= 1 else t for t in _tensors("column_stack", tensors)]
    return cat(parts, 1)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinate grids of one-dimensional tensors, as expanded views; see ``torch.meshgrid``."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f"meshgrid: indexing must be 'ij' or 'xy', got {indexing!r}")
    swap = indexing == "xy" and len(tensors) > 1
    lines = [reshape(t, (t.numel(),)) for t in _tensors("meshgrid", list(tensors))]
    if swap:
        lines[:2] = lines[1::-1]
    shape = [t.numel() for t in lines]
    grids = [expand(reshape(t, (-1,) + (1,) * (len(lines) - 1 - i)), shape) for i, t in enumerate(lines)]
    if swap:
        grids[:2] = grids[1::-1]
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of the entries of one-dimensional tensors, one in a row; see ``torch.cartesian_prod``."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([g.reshape(prod(g.shape)) for g in meshgrid(*tensors)], 1)

"""Joining, repeating and rearranging: results in new memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from fastdl._graph import plain
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.graph import converted, linear_backward
from fastdl.autograd.op import Op
from fastdl.devices import device_of, to_device, to_host
from fastdl.errors import ArgumentError
from fastdl.kernels import on_device, select, strided
from fastdl.ops.arrays import cast, concat_arrays, contiguous, in_float32, sum_to, zeros
from fastdl.ops.axes import numpy_names
from fastdl.ops.common import axes, axis, ints
from fastdl.ops.parts import split, unbind
from fastdl.ops.promotion import is_kernel_dtype
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

    Different dtypes are promoted; one-dimensional empty tensors are skipped.

    Example:
        >>> import fastdl
        >>> fastdl.cat([fastdl.ones(2), fastdl.zeros(1)])
        tensor([1., 1., 0.])
    """
    if names:
        dim, _ = numpy_names("cat", names, dim)
    parts = _tensors("cat", tensors)
    first, dtype = parts[0]._data.shape, parts[0]._data.dtype
    if first and first != (0,):  # alike in everything: the common case, without the checks below
        arrays = [t._data for t in parts]
        for a in arrays:
            if a.shape != first or a.dtype is not dtype:
                break
        else:
            d = axis("cat", dim, len(first))
            if plain(*parts):
                return Tensor._wrap(_joined(arrays, d))
            return Cat.apply(*parts, dim=d, dtype=dtype)  # type: ignore[no-any-return]
    shapes = [t._data.shape for t in parts]
    dtype = common_dtype(parts)
    if (0,) in shapes:
        kept = [t for t in parts if t._data.shape != (0,)]
        if kept and kept[0]._data.ndim != 1:
            parts = kept
            shapes = [t._data.shape for t in parts]
            first = shapes[0]
    if not first:
        raise RuntimeError("cat: tensors of 0 dimensions cannot be concatenated; use stack()")
    d = axis("cat", dim, len(first))
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
        return concat_arrays(parts, dim).reshape(*shape[:dim], len(parts), *shape[dim:])
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
    """Tensors of equal shape along a new axis; see ``torch.stack``."""
    if names:
        dim, _ = numpy_names("stack", names, dim)
    parts = _tensors("stack", tensors)
    arrays = [t._data for t in parts]
    shape, dtype, alike = arrays[0].shape, arrays[0].dtype, True
    for i, a in enumerate(arrays):
        if a.shape != shape:
            raise RuntimeError(f"stack: shapes must be equal: tensor 0 has {shape}, tensor {i} has {a.shape}")
        alike = alike and a.dtype is dtype
    d = axis("stack", dim, len(shape) + 1)
    if alike and plain(*parts):
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


# ------------------------------------------------------------------------------------------------------ repeating


class Repeat(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, sizes: tuple[int, ...]) -> Any:
        """``x`` has as many axes as ``sizes`` has entries."""
        self.shape, self.sizes = x.shape, sizes
        # (s0, n0, s1, n1, ..): the copies are a broadcast axis before each axis.
        paired = tuple([v for pair in zip(sizes, x.shape, strict=True) for v in pair])
        copies = strided(x, paired, [v for step in x.strides for v in (0, step)])
        return pooled_copy(copies).reshape([s * n for s, n in zip(sizes, x.shape, strict=True)])

    def backward(self, grad: Any) -> Any:
        paired = [v for pair in zip(self.sizes, self.shape, strict=True) for v in pair]
        if not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        ones = tuple([v for n in self.shape for v in (1, n)])
        return sum_to(grad.reshape(paired), ones).reshape(self.shape)

    def backward_graph(self, grad: Tensor) -> Any:
        paired = [v for pair in zip(self.sizes, self.shape, strict=True) for v in pair]
        if not paired:
            return grad
        return reshape(grad, paired).sum(tuple(range(0, len(paired), 2)))


def repeat(input: Tensor, *sizes: Any, repeats: Any = None) -> Tensor:
    """The tensor repeated ``repeats`` times along every axis, new axes in front; see ``torch.Tensor.repeat``."""
    sizes = ints(sizes if repeats is None else (repeats,))
    shape = input._data.shape
    if len(sizes) < len(shape):
        raise RuntimeError(
            f"repeat: {len(sizes)} repeats for a tensor of {len(shape)} dimensions; give one for each axis"
        )
    if min(sizes, default=1) < 0:
        raise RuntimeError(f"repeat: repeats must not be negative, got {sizes}")
    if len(sizes) > len(shape):
        input = reshape(input, (1,) * (len(sizes) - len(shape)) + shape)
    return Repeat.apply(input, sizes=sizes)  # type: ignore[no-any-return]


def tile(input: Tensor, *sizes: Any, dims: Any = None) -> Tensor:
    """:func:`repeat`, with missing entries taken as 1; see ``torch.tile``."""
    sizes = ints(sizes if dims is None else (dims,))
    return repeat(input, (1,) * (input._data.ndim - len(sizes)) + sizes)


class RepeatInterleave(Op):
    release = Op.stay

    def forward(self, x: Any, repeats: Any, dim: int) -> Any:
        self.shape, self.repeats, self.dim = x.shape, repeats, dim
        if repeats.__class__ is int and not on_device(x):
            shape = x.shape
            extents = (*shape[: dim + 1], repeats, *shape[dim + 1 :])
            whole = strided(x, extents, (*x.strides[: dim + 1], 0, *x.strides[dim + 1 :]))
            return pooled_copy(whole).reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])
        places = np.repeat(np.arange(x.shape[dim]), repeats)
        return select(x).index_select_forward(x, dim, to_device(places, device_of(x)))

    def backward(self, grad: Any) -> Any:
        if isinstance(self.repeats, int):
            if self.repeats == 0:
                return zeros(self.shape, grad.dtype, grad)
            split = (*self.shape[: self.dim + 1], self.repeats, *self.shape[self.dim + 1 :])
            folded = contiguous(grad).reshape(split)
            kept = (*self.shape[: self.dim + 1], 1, *self.shape[self.dim + 1 :])
            return sum_to(folded, kept).reshape(self.shape)
        places = to_device(np.repeat(np.arange(self.shape[self.dim]), self.repeats), device_of(grad))
        return in_float32(select(grad).index_select_backward, grad, self.dim, places, self.shape[self.dim])

    def linear(self, x: Any) -> Any:
        return RepeatInterleave().forward(x, self.repeats, self.dim)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Every entry along ``dim`` repeated in place: a number, or one count for each entry.

    With counts alone: the place of every entry, that often. See ``torch.repeat_interleave``.
    """
    if repeats is None:
        input, repeats, dim = Tensor._wrap(np.arange(input.numel(), like=input._data)), input, 0
    if dim is None:
        input, dim = reshape(input, (-1,)) if input.numel() else reshape(input, (0,)), 0
    d = axis("repeat_interleave", dim, input._data.ndim)
    counts: Any = to_host(repeats._data) if isinstance(repeats, Tensor) else repeats
    if not isinstance(counts, (int, np.integer)):
        counts = np.array(counts)  # backward counts once more
        if counts.dtype.kind not in "iu":
            raise RuntimeError(f"repeat_interleave: repeats must be integers, got dtype {counts.dtype}")
        if counts.size == 1:
            counts = int(counts.reshape(()))
        elif counts.shape != (input._data.shape[d],):
            raise RuntimeError(
                "repeat_interleave: repeats must have one entry for each of the "
                f"{input._data.shape[d]} along dim {dim}, "
                f"got shape {counts.shape}"
            )
    else:
        counts = int(counts)
    if (counts if isinstance(counts, int) else counts.min(initial=0)) < 0:
        raise RuntimeError("repeat_interleave: repeats must not be negative")
    return RepeatInterleave.apply(input, repeats=counts, dim=d)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- rearranging


class Flip(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, dims: tuple[int, ...]) -> Any:
        self.dims = dims = dims if x.ndim else ()
        return _flipped(x, dims)

    def backward(self, grad: Any) -> Any:
        return _flipped(grad, self.dims)

    def backward_graph(self, grad: Tensor) -> Any:
        return Flip.apply(grad, dims=self.dims)


def _flipped(x: Any, dims: tuple[int, ...]) -> Any:
    backwards, along = slice(None, None, -1), slice(None)
    return pooled_copy(x[tuple([backwards if i in dims else along for i in range(x.ndim)])] if dims else x)


def flip(input: Tensor, *reversed_axes: Any, dims: Any = None) -> Tensor:
    """Reversed along ``dims``: a copy; see ``torch.flip``."""
    chosen = ints(reversed_axes if dims is None else (dims,))
    return Flip.apply(input, dims=axes("flip", chosen, input._data.ndim))  # type: ignore[no-any-return]


def fliplr(input: Tensor) -> Tensor:
    """Reversed along axis 1; see ``torch.fliplr``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"fliplr: expects at least 2 dimensions, got shape {input.shape}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Reversed along axis 0; see ``torch.flipud``."""
    if input._data.ndim < 1:
        raise RuntimeError("flipud: expects at least 1 dimension")
    return flip(input, 0)


class Roll(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, shifts: tuple[int, ...], dims: tuple[int, ...] | None) -> Any:
        self.shifts, self.dims = shifts, dims
        return _rolled(x, shifts, dims)

    def backward(self, grad: Any) -> Any:
        return _rolled(grad, [-s for s in self.shifts], self.dims)

    def backward_graph(self, grad: Tensor) -> Any:
        return Roll.apply(grad, shifts=tuple([-s for s in self.shifts]), dims=self.dims)


def _rolled(x: Any, shifts: Any, dims: Any) -> Any:
    """Along one axis after the other; along the flattened array where ``dims`` is None."""
    if dims is None:
        return _rolled(contiguous(x).reshape(-1), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        extent = x.shape[dim]
        shift = shift % extent if extent else 0
        before = (slice(None),) * dim
        first, last = x[(*before, slice(extent - shift, None))], x[(*before, slice(None, extent - shift))]
        if dim == 0 or x.size < 4096:  # the parts of large ones are written where they belong at once
            x = concat_arrays([first, last], dim)
            continue
        out = select(x).empty(x.shape, x.dtype)
        assign(out[(*before, slice(None, shift))], first)
        assign(out[(*before, slice(shift, None))], last)
        x = out
    return x if dims else pooled_copy(x)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Moved by ``shifts`` along ``dims``, around the end; the flattened tensor without ``dims``. See ``torch.roll``."""
    steps = ints((shifts,))
    if dims is None or dims == ():
        if len(steps) != 1:
            raise RuntimeError(f"roll: several shifts {steps} need as many dims")
        return Roll.apply(input, shifts=steps, dims=None)  # type: ignore[no-any-return]
    where = tuple([axis("roll", d, input._data.ndim) for d in ints((dims,))])
    if len(where) != len(steps):
        raise RuntimeError(f"roll: shifts {steps} and dims {where} differ in length")
    return Roll.apply(input, shifts=steps, dims=where)  # type: ignore[no-any-return]


def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Turned ``k`` times by 90 degrees from the first towards the second of ``dims``; see ``torch.rot90``."""
    if len(dims) != 2:
        raise RuntimeError(f"rot90: dims must name two axes, got {dims}")
    if input._data.ndim < 2:
        raise RuntimeError(f"rot90: expects at least 2 dimensions, got shape {input.shape}")
    a, b = axes("rot90", tuple(dims), input._data.ndim)
    order = list(range(input._data.ndim))
    order[a], order[b] = b, a
    turn = k % 4
    if turn == 0:
        return input.clone()
    if turn == 2:
        return flip(input, (a, b))
    return flip(input, b).permute(order) if turn == 1 else flip(input.permute(order), b)


class Triangle(Op):
    """One side of a diagonal; the other becomes zero."""

    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, diagonal: int, lower: bool) -> Any:
        self.diagonal, self.lower = diagonal, lower
        return _triangle(x, diagonal, lower)

    def backward(self, grad: Any) -> Any:
        return _triangle(grad, self.diagonal, self.lower)

    def backward_graph(self, grad: Tensor) -> Any:
        return Triangle.apply(grad, diagonal=self.diagonal, lower=self.lower)


def _triangle(x: Any, diagonal: int, lower: bool) -> Any:
    if not on_device(x) and x.itemsize <= 8:
        return select(x).triangle(x, diagonal, lower)
    rows, columns = x.shape[-2:]
    last = diagonal if lower else diagonal - 1  # row i keeps (or loses) columns up to i + last
    kept = np.tri(rows, columns, last, dtype=np.bool_, like=x)
    if is_kernel_dtype(x.dtype):
        return select(x).where_forward(kept, *((x, 0.0) if lower else (0.0, x)))
    out = pooled_copy(x)
    np.copyto(out, x.dtype.type(0), where=~kept if lower else kept)
    return out


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes, the rest zero; see ``torch.tril``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"tril: expects at least 2 dimensions, got shape {input.shape}")
    return Triangle.apply(input, diagonal=int(diagonal), lower=True)  # type: ignore[no-any-return]


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes, the rest zero; see ``torch.triu``."""
    if input._data.ndim < 2:
        raise RuntimeError(f"triu: expects at least 2 dimensions, got shape {input.shape}")
    return Triangle.apply(input, diagonal=int(diagonal), lower=False)  # type: ignore[no-any-return]


class DiagonalEmbed(Op):
    release = Op.stay
    takes_complex = True

    def forward(self, x: Any, offset: int) -> Any:
        self.offset = offset
        n = x.shape[-1] + abs(offset)
        whole = zeros((*x.shape[:-1], n, n), x.dtype, x)
        self._band(whole)[...] = x
        return whole

    def _band(self, whole: Any) -> Any:
        n = whole.shape[-1]
        first = self.offset if self.offset >= 0 else -self.offset * n
        flat = whole.reshape(*whole.shape[:-2], n * n)
        return flat[..., first :: n + 1][..., : n - abs(self.offset)]

    def backward(self, grad: Any) -> Any:
        return pooled_copy(self._band(contiguous(grad)))

    def backward_graph(self, grad: Tensor) -> Any:
        return grad.diagonal(self.offset, -2, -1)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last axis as a diagonal of a new pair of axes, zero elsewhere; see ``torch.diag_embed``."""
    if input._data.ndim < 1:
        raise RuntimeError("diag_embed: expects at least 1 dimension")
    ndim = input._data.ndim + 1
    a, b = axis("diag_embed", dim1, ndim, "dim1"), axis("diag_embed", dim2, ndim, "dim2")
    if a == b:
        raise RuntimeError(f"diag_embed: dim1 and dim2 must differ, got {dim1} and {dim2}")
    result = DiagonalEmbed.apply(input, offset=int(offset))
    return result if (a, b) == (ndim - 2, ndim - 1) else result.movedim((-2, -1), (a, b))  # type: ignore[no-any-return]


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix with a vector as its diagonal, or the diagonal of a matrix; see ``torch.diag``."""
    if input._data.ndim == 1:
        return diag_embed(input, diagonal)
    if input._data.ndim != 2:
        raise RuntimeError(f"diag: expects a vector or matrix, got shape {input.shape}")
    return input.diagonal(diagonal).clone()


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements as its diagonal; see ``torch.diagflat``."""
    return diag_embed(reshape(input, (input.numel(),)), offset)


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

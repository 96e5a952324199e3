"""Views of parts: entries, slices, diagonals, splits and windows of the same memory."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from operator import index as to_int
from typing import Any

import numpy as np

from fastdl._graph import parts
from fastdl.arrays import add_arrays, assign
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.view import MultiView, View
from fastdl.kernels import on_device, select, strided
from fastdl.ops.arrays import concat_arrays, in_float32, zeros
from fastdl.ops.common import axis, ints
from fastdl.ops.views import in_one_call, reshape
from fastdl.tensor import Tensor


class Part(View):
    """A view of some of the elements: the gradient of the others is zero. Here: of each at most once."""

    aliases_grad = False

    def adds_into(self, have: Any, grad: Any) -> bool:
        part = self.of(have, **self.options)
        add_arrays(part, grad, part)
        return True

    def backward(self, grad: Any) -> Any:
        whole = zeros(self.shape, grad.dtype, grad)
        assign(self.of(whole, **self.options), grad)
        return whole

    def linear(self, x: Any) -> Any:
        return self.of(x, **self.options)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


class Select(Part):
    @staticmethod
    def of(x: Any, dim: int, index: int) -> Any:
        return x[(slice(None),) * dim + (index, ...)]


class Slice(Part):
    """Integers, slices, None and Ellipsis."""

    @staticmethod
    def of(x: Any, key: tuple[Any, ...]) -> Any:
        return x[key]

    def backward(self, grad: Any) -> Any:
        if grad.size == prod(self.shape):  # nothing was left out
            self.aliases_grad = True  # type: ignore[misc]
            return grad.reshape(self.shape)
        return super().backward(grad)


class Diagonal(Part):
    @staticmethod
    def of(x: Any, offset: int, a: int, b: int) -> Any:
        # Not ndarray.diagonal: that is read-only.
        if offset:
            start = [slice(None)] * x.ndim
            axis = b if offset > 0 else a
            start[axis] = slice(min(abs(offset), x.shape[axis]), None)
            x = x[tuple(start)]
        shape, strides = x.shape, x.strides
        others = [i for i in range(x.ndim) if i != a and i != b]
        return strided(
            x,
            [shape[i] for i in others] + [min(shape[a], shape[b])],
            [strides[i] for i in others] + [strides[a] + strides[b]],
        )


def _index_in(op: str, index: Any, extent: int, dim: int) -> int:
    i = int(index)
    if not -extent <= i < extent:
        raise IndexError(f"{op}: index {i} is out of range for dim {dim} of extent {extent}")
    return i + extent if i < 0 else i


@in_one_call("select", Select)
def select_dim(input: Tensor, dim: int, index: int) -> Tensor:
    """Entry ``index`` along ``dim``, which disappears: a view; see ``torch.select``."""
    shape = input._data.shape
    if not shape:
        raise IndexError("select: a tensor of 0 dimensions has nothing to select from")
    d = axis("select", dim, len(shape))
    return Select.apply(input, dim=d, index=_index_in("select", index, shape[d], d))  # type: ignore[no-any-return]


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """``length`` entries along ``dim`` from ``start`` on: a view; see ``torch.narrow``."""
    shape = input._data.shape
    if not shape:
        raise RuntimeError("narrow: a tensor of 0 dimensions cannot be narrowed")
    d = axis("narrow", dim, len(shape))
    first = to_int(start)
    if not -shape[d] <= first <= shape[d]:
        raise IndexError(f"narrow: start must be in [{-shape[d]}, {shape[d]}] for dim {dim}, got {start}")
    if first < 0:
        first += shape[d]
    if length < 0 or not 0 <= first <= shape[d] - length:
        raise RuntimeError(
            f"narrow: start ({start}) + length ({length}) exceeds dim {dim}, which has extent {shape[d]}"
        )
    return input[(slice(None),) * d + (slice(first, first + length),)]


@in_one_call("diagonal", Diagonal)
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two axes as the last axis: a view; see ``torch.diagonal``."""
    ndim = input._data.ndim
    if ndim < 2:
        raise RuntimeError(f"diagonal: expects at least 2 dimensions, got shape {input.shape}")
    a, b = axis("diagonal", dim1, ndim, "dim1"), axis("diagonal", dim2, ndim, "dim2")
    if a == b:
        raise RuntimeError(f"diagonal: dim1 and dim2 must differ, got {dim1} and {dim2}")
    return Diagonal.apply(input, offset=int(offset), a=a, b=b)  # type: ignore[no-any-return]


class Unbind(MultiView):
    def forward(self, x: Any, dim: int) -> Any:
        self.dim = dim
        if (entries := parts(x, dim, None)) is not None:
            return entries
        before = (slice(None),) * dim
        return tuple([x[(*before, i, ...)] for i in range(x.shape[dim])])

    def backward(self, *grads: Any) -> Any:
        return concat_arrays([np.expand_dims(g, self.dim) for g in grads], self.dim)

    def backward_graph(self, *grads: Tensor) -> Any:
        from fastdl.ops.join import stack

        return stack(grads, self.dim)


class Split(MultiView):
    materialize = False

    def forward(self, x: Any, bounds: tuple[int, ...], dim: int) -> Any:
        self.shape, self.bounds, self.dim = x.shape, bounds, dim
        return self._parts(x)

    def _parts(self, x: Any) -> tuple[Any, ...]:
        views: tuple[Any, ...] | None = parts(x, self.dim, self.bounds)
        if views is not None:
            return views
        before = (slice(None),) * self.dim
        return tuple([x[(*before, slice(a, b))] for a, b in pairwise(self.bounds)])

    def backward(self, *grads: Any) -> Any:
        came = [g for g in grads if g is not None]
        if len(came) == len(grads):
            return concat_arrays(came, self.dim)
        whole = select(came[0]).empty(self.shape, came[0].dtype)
        for part, grad in zip(self._parts(whole), grads, strict=True):
            if grad is None:
                part[...] = 0
            else:
                assign(part, grad)
        return whole

    def backward_graph(self, *grads: Tensor | None) -> Any:
        from fastdl.ops.join import Cat

        like = next(grad._data for grad in grads if grad is not None)
        filled = [
            Tensor._wrap(zeros(shape, dtype, like)) if grad is None else grad
            for grad, (shape, dtype) in zip(grads, self.shapes, strict=True)
        ]
        return Cat.apply(*filled, dim=self.dim, dtype=filled[0]._data.dtype)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All entries along ``dim``, as views; see ``torch.unbind``."""
    if input._data.ndim == 0:
        raise IndexError("unbind: a tensor of 0 dimensions has no entries")
    d = axis("unbind", dim, input._data.ndim)
    return Unbind.apply(input, dim=d) if input._data.shape[d] else ()


def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive parts along ``dim``, as views: all of one size (the last may be smaller), or of the listed sizes.

    See ``torch.split``.

    Example:
        >>> import fastdl
        >>> [tuple(part.shape) for part in fastdl.split(fastdl.zeros(5, 2), 2)]
        [(2, 2), (2, 2), (1, 2)]
    """
    shape = input._data.shape
    if not shape:
        raise RuntimeError("split: a tensor of 0 dimensions cannot be split")
    d = axis("split", dim, len(shape))
    extent = shape[d]
    if isinstance(split_size_or_sections, (int, np.integer)) or (
        isinstance(split_size_or_sections, Tensor) and split_size_or_sections.ndim == 0
    ):
        size = to_int(split_size_or_sections)
        if size < 0 or (size == 0 and extent > 0):
            raise RuntimeError(f"split: split_size must be positive, got {size}")
        bounds = [*range(0, extent, size or 1), extent] if extent else [0, 0]
    else:
        sections = ints((split_size_or_sections,))
        if sum(sections) != extent or (sections and min(sections) < 0):
            raise RuntimeError(
                f"split: sections {list(sections)} must be >= 0 and add up to {extent}, dim {dim}'s extent"
            )
        bounds = [0]
        for s in sections:
            bounds.append(bounds[-1] + s)
    return Split.apply(input, bounds=tuple(bounds), dim=d)  # type: ignore[no-any-return]


split_with_sizes = split


def split_method(self: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """:func:`split` under its argument's name as a method. See ``torch.Tensor.split``."""
    return split(self, split_size, dim)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts along ``dim`` of equal size (the last may be smaller), as views; see ``torch.chunk``."""
    shape, chunks = input._data.shape, to_int(chunks)
    if chunks < 1:
        raise RuntimeError(f"chunk: chunks must be at least 1, got {chunks}")
    if not shape:
        raise RuntimeError("chunk: a tensor of 0 dimensions cannot be split")
    extent = shape[axis("chunk", dim, len(shape))]
    if extent == 0:
        return split(input, [0] * chunks, dim)
    return split(input, -(-extent // chunks), dim)


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along ``dim``: a number of nearly equal ones, or cut at the listed indices; see ``torch.tensor_split``."""
    shape = input._data.shape
    if not shape:
        raise RuntimeError("tensor_split: a tensor of 0 dimensions cannot be split")
    d = axis("tensor_split", dim, len(shape))
    extent = shape[d]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, (int, np.integer)):
        n = int(indices_or_sections)
        if n < 1:
            raise RuntimeError(f"tensor_split: the number of sections must be at least 1, got {n}")
        small, extra = divmod(extent, n)
        cuts = [i * small + min(i, extra) for i in range(1, n)]
    else:
        cuts = [slice(None, int(i)).indices(extent)[1] for i in indices_or_sections]
    before = (slice(None),) * d
    edges = zip([0, *cuts], [*cuts, extent], strict=True)
    return tuple([input[(*before, slice(a, max(a, b)))] for a, b in edges])


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts side by side: along axis 1, or 0 for one dimension; see ``torch.hsplit``."""
    return _split_along("hsplit", input, indices_or_sections, 1, 0 if input._data.ndim == 1 else 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts on top of each other: along axis 0; see ``torch.vsplit``."""
    return _split_along("vsplit", input, indices_or_sections, 2, 0)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Parts behind each other: along axis 2; see ``torch.dsplit``."""
    return _split_along("dsplit", input, indices_or_sections, 3, 2)


def _split_along(op: str, input: Tensor, sections: Any, least: int, dim: int) -> tuple[Tensor, ...]:
    shape = input._data.shape
    if len(shape) < least:
        raise RuntimeError(f"{op}: expects at least {least} dimensions, got shape {shape}")
    if isinstance(sections, str):
        raise TypeError(f"{op}: expects a number of parts or a tuple of places, got {sections!r}")
    if isinstance(sections, int) and (sections <= 0 or shape[dim] % sections):
        raise RuntimeError(f"{op}: {sections} parts do not divide dim {dim} of shape {shape}")
    return tensor_split(input, sections, dim)


class Windows(Part):
    """A view in which an element may appear several times."""

    @staticmethod
    def of(x: Any, dim: int, size: int, step: int) -> Any:
        shape, strides = list(x.shape), list(x.strides)
        stride = strides[dim]
        shape[dim] = (shape[dim] - size) // step + 1
        strides[dim] = stride * step
        return strided(x, [*shape, size], [*strides, stride])

    def adds_into(self, have: Any, grad: Any) -> bool:
        return self.options["step"] >= self.options["size"] and super().adds_into(have, grad)

    def backward(self, grad: Any) -> Any:
        dim, size, step = self.options["dim"], self.options["size"], self.options["step"]
        if step >= size:  # windows that do not overlap
            return super().backward(grad)
        return in_float32(overlapped, grad, dim, step, self.shape)


def overlapped(windows: Any, dim: int, step: int, shape: tuple[int, ...]) -> Any:
    """Windows as :class:`Windows` shows them added up, each ``step`` after the one before: an array of ``shape``.

    Parts of all windows, ``step`` wide, do not overlap: as many additions as parts in a window. Or one for each window.
    """
    whole = zeros(shape, windows.dtype, windows)
    before = (slice(None),) * dim
    count, size = windows.shape[dim], windows.shape[-1]
    if -(-size // step) <= count:
        for k in range(0, size, step):
            width = min(step, size - k)
            places = Windows.of(whole[(*before, slice(k, None))], dim, width, step)
            _add_to(places[(*before, slice(count))], windows[..., k : k + width])
    else:
        for i in range(count):
            places = whole[(*before, slice(i * step, i * step + size))]
            _add_to(places, np.moveaxis(windows[(*before, i)], -1, dim))
    return whole


def _add_to(whole: Any, part: Any) -> None:
    if whole.dtype.kind == "f" and whole.itemsize > 2 and not on_device(whole):
        select(whole).add_forward(whole, part, whole)
    else:
        whole += part


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All windows of ``size`` entries along ``dimension``, ``step`` apart, as a new last axis: a view.

    See ``torch.Tensor.unfold``.
    """
    x = input._data
    if x.ndim == 0:  # one window of one element, without an axis that counts windows
        return unfold(reshape(input, (1,)), axis("unfold", dimension, 0, "dimension"), size, step)[0]
    d = axis("unfold", dimension, x.ndim, "dimension")
    if size < 0 or step < 1 or size > x.shape[d]:
        raise RuntimeError(
            f"unfold: size must be in [0, {x.shape[d]}] (dimension {dimension}'s extent) and step at least 1, got size "
            f"{size}, step {step}"
        )
    return Windows.apply(input, dim=d, size=int(size), step=int(step))  # type: ignore[no-any-return]


unsafe_chunk, unsafe_split = chunk, split

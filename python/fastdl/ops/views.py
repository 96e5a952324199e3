"""Views: other shapes, orders and parts of the same memory. Their gradients, too, mostly only look differently."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from fastdl.autograd.op import Op
from fastdl.autograd.view import MultiView, View
from fastdl.dtypes import as_dtype
from fastdl.kernels import add_at, select, strided
from fastdl.ops.arrays import sum_to, zeros
from fastdl.ops.common import axes, axis, ints
from fastdl.tensor import Tensor, pooled_copy


class Part(View):
    """A view that shows some of the elements, each once: the gradient of the others is zero."""

    def embed(self, grad: Any, shape: tuple[int, ...], **options: Any) -> Any:
        whole = zeros(shape, grad.dtype, grad)
        type(self)().forward(whole, **options)[...] = grad
        return whole


# ---------------------------------------------------------------------------------------------------- new shape


def _view_strides(shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> list[int] | None:
    """Strides that show the same elements in the same order in shape ``new``, or None if only a copy can."""
    result = [0] * len(new)
    at = len(new) - 1
    i = len(shape) - 1
    while i >= 0:
        # One run of axes that lie in memory like one long axis.
        step = strides[i]
        extent = shape[i]
        while i > 0 and (shape[i - 1] == 1 or extent == 1 or strides[i - 1] == extent * step):
            i -= 1
            if extent == 1:
                step = strides[i]
            extent *= shape[i]
        covered = 1
        while at >= 0 and (covered < extent or new[at] == 1):
            result[at] = step * covered
            covered *= new[at]
            at -= 1
        if covered != extent:
            return None
        i -= 1
    return result


def _resolve(op: str, size: int, shape: tuple[int, ...], given: Any) -> tuple[int, ...]:
    """``shape`` with its -1 replaced, checked against the number of elements."""
    if -1 in shape:
        others = [s for s in shape if s != -1]
        known = prod(others)
        if len(others) < len(shape) - 1 or min(others, default=0) < 0:
            raise RuntimeError(f"{op}: at most one extent may be -1 and none below, got shape {shape}")
        if known == 0 or size % known:
            raise RuntimeError(
                f"{op}: a tensor of shape {tuple(given)} ({size} elements) cannot have shape {shape}"
                + (": -1 is ambiguous beside an extent of 0" if known == 0 else "")
            )
        return tuple([size // known if s == -1 else s for s in shape])
    if prod(shape) != size or (shape and min(shape) < 0):
        raise RuntimeError(
            f"{op}: a tensor of shape {tuple(given)} ({size} elements) cannot have shape {shape}"
        )
    return shape


class Reshape(View):
    def forward(self, x: Any, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        if x.flags.c_contiguous:
            return x.reshape(shape)
        strides = _view_strides(x.shape, x.strides, shape)
        assert strides is not None
        return strided(x, shape, strides)

    def backward(self, grad: Any) -> Any:
        if not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        return grad.reshape(self.shape)


class Clone(Op):
    """A C-order copy."""

    aliases_grad = True

    def forward(self, x: Any) -> Any:
        return pooled_copy(x)

    def backward(self, grad: Any) -> Any:
        return grad


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy in C order, part of the graph; see ``torch.clone``."""
    return Clone.apply(input)  # type: ignore[no-any-return]


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself if it lies in C order, else a copy that does; see ``torch.Tensor.contiguous``."""
    return input if input._data.flags.c_contiguous else Clone.apply(input)


def _is_viewable(x: Any, shape: tuple[int, ...]) -> bool:
    return x.flags.c_contiguous or x.size == 0 or _view_strides(x.shape, x.strides, shape) is not None


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape: a view if memory order allows, else a copy; one extent may be -1.

    See ``torch.reshape``; ``reshape(x, (2, 3))``, ``x.reshape(2, 3)`` and ``x.reshape((2, 3))`` are the same.

    Example:
        >>> import fastdl
        >>> fastdl.arange(6).reshape(2, -1)
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    x = input._data
    new = _resolve("reshape", x.size, ints(shape), x.shape)
    if not _is_viewable(x, new) or (x.size == 0 and not x.flags.c_contiguous):
        input = Clone.apply(input)
    return Reshape.apply(input, shape=new)  # type: ignore[no-any-return]


def view(input: Tensor, *shape: Any, dtype: Any = None) -> Tensor:
    """The same memory in another shape; an error where that takes a copy. See ``torch.Tensor.view``.

    With a dtype instead of a shape, the same bytes read as that type (no gradient).
    """
    x = input._data
    if dtype is not None:
        shape = (as_dtype("view", dtype),)
    if len(shape) == 1 and isinstance(shape[0], (np.dtype, type)):
        try:
            output = Tensor._wrap(x.view(shape[0]))
        except ValueError as error:
            raise RuntimeError(
                f"view: {x.dtype} of shape {x.shape} cannot be seen as {shape[0]}: {error}"
            ) from None
        output._version = input._version_cell()
        return output
    new = _resolve("view", x.size, ints(shape), x.shape)
    if not _is_viewable(x, new):
        raise RuntimeError(
            f"view: shape {x.shape} with strides {input.stride()} cannot be seen as {new} without a copy; use reshape()"
        )
    return Reshape.apply(input, shape=new)  # type: ignore[no-any-return]


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.view(other.shape)``."""
    return view(input, other._data.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.reshape(other.shape)``."""
    return reshape(input, other._data.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes ``start_dim`` to ``end_dim`` become one; see ``torch.flatten``."""
    shape = input._data.shape
    if not shape:
        axis("flatten", start_dim, 0), axis("flatten", end_dim, 0)
        return reshape(input, (1,))
    first, last = axis("flatten", start_dim, len(shape)), axis("flatten", end_dim, len(shape))
    if first > last:
        raise RuntimeError(f"flatten: start_dim must not come after end_dim, got {start_dim} and {end_dim}")
    if first == last:
        return input
    return reshape(input, (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """All elements as one axis; see ``torch.ravel``."""
    return reshape(input, (-1,)) if input._data.size else reshape(input, (0,))


def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Axis ``dim`` split into ``sizes`` (one may be -1); see ``torch.unflatten``."""
    shape = input._data.shape
    d = axis("unflatten", dim, len(shape))
    new = ints((sizes,))
    if not new:
        raise RuntimeError("unflatten: sizes must not be empty")
    if -1 not in new and prod(new) != shape[d]:
        raise RuntimeError(f"unflatten: sizes {new} do not multiply to the {shape[d]} elements of dim {dim}")
    return view(input, (*shape[:d], *_resolve("unflatten", shape[d], new, (shape[d],)), *shape[d + 1 :]))


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without axes of extent 1: all, or those among ``dim``; see ``torch.squeeze``."""
    shape = input._data.shape
    if dim is None:
        new = tuple([s for s in shape if s != 1])
    else:
        gone = axes("squeeze", dim, len(shape))
        new = tuple([s for i, s in enumerate(shape) if s != 1 or i not in gone])
    return _reshape_ones(input, new)


def _reshape_ones(input: Tensor, new: tuple[int, ...]) -> Tensor:
    """Only axes of extent 1 come or go: always a view."""
    return Reshape.apply(input, shape=new) if input._data.size else Squeezed.apply(input, shape=new)  # type: ignore[no-any-return]


class Squeezed(Reshape):
    """Reshape of an empty tensor: any strides will do."""

    def forward(self, x: Any, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return x.reshape(shape)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of extent 1 at ``dim``; see ``torch.unsqueeze``."""
    shape = input._data.shape
    d = axis("unsqueeze", dim, len(shape) + 1)
    return _reshape_ones(input, (*shape[:d], 1, *shape[d:]))


def atleast_1d(*tensors: Any) -> Any:
    """At least one axis; see ``torch.atleast_1d``."""
    return _atleast(1, tensors)


def atleast_2d(*tensors: Any) -> Any:
    """At least two axes, new ones in front; see ``torch.atleast_2d``."""
    return _atleast(2, tensors)


def atleast_3d(*tensors: Any) -> Any:
    """At least three axes; see ``torch.atleast_3d``."""
    return _atleast(3, tensors)


def _atleast(ndim: int, tensors: tuple[Any, ...]) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        return tuple([_atleast(ndim, (t,)) for t in tensors[0]])
    if len(tensors) > 1:
        return tuple([_atleast(ndim, (t,)) for t in tensors])
    (t,) = tensors
    if t.ndim == 0:
        return reshape(t, (1,) * ndim)
    if t.ndim == 1 and ndim > 1:
        t = unsqueeze(t, 0)
    if t.ndim == 2 and ndim > 2:
        t = unsqueeze(t, -1)
    return t


# ---------------------------------------------------------------------------------------------------- new order


class Permute(View):
    def forward(self, x: Any, dims: tuple[int, ...]) -> Any:
        self.dims = dims
        return x.transpose(dims)

    def backward(self, grad: Any) -> Any:
        inverse = [0] * len(self.dims)
        for i, d in enumerate(self.dims):
            inverse[d] = i
        return grad.transpose(inverse)


class Transpose(View):
    def forward(self, x: Any, a: int, b: int) -> Any:
        self.a, self.b = a, b
        return x.swapaxes(a, b)

    def backward(self, grad: Any) -> Any:
        return grad.swapaxes(self.a, self.b)


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Axes in the order ``dims``; see ``torch.permute``."""
    order = ints(dims)
    ndim = input._data.ndim
    if len(order) != ndim:
        raise RuntimeError(f"permute: dims must name all {ndim} axes of the tensor, got {order}")
    return Permute.apply(input, dims=axes("permute", order, ndim))  # type: ignore[no-any-return]


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged; see ``torch.transpose``."""
    ndim = input._data.ndim
    a, b = axis("transpose", dim0, ndim), axis("transpose", dim1, ndim)
    if ndim == 0:
        return Reshape.apply(input, shape=())  # type: ignore[no-any-return]
    return Transpose.apply(input, a=a, b=b)  # type: ignore[no-any-return]


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """The transpose of a tensor of at most two dimensions; see ``torch.t``."""
    if input._data.ndim > 2:
        raise RuntimeError(
            f"t: expects a tensor of at most 2 dimensions, got shape {input.shape}; use transpose()"
        )
    return Permute.apply(input, dims=tuple(range(input._data.ndim))[::-1])  # type: ignore[no-any-return]


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes ``source`` at the places ``destination``, the others in order; see ``torch.movedim``."""
    ndim = input._data.ndim
    src, dst = axes("movedim", source, ndim), axes("movedim", destination, ndim)
    if len(src) != len(dst):
        raise RuntimeError(f"movedim: source and destination differ in length: {source} and {destination}")
    order = [i for i in range(ndim) if i not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return Permute.apply(input, dims=tuple(order))  # type: ignore[no-any-return]


moveaxis = movedim


def _T(input: Tensor) -> Tensor:
    """All axes reversed."""
    return Permute.apply(input, dims=tuple(range(input._data.ndim))[::-1])  # type: ignore[no-any-return]


def _mT(input: Tensor) -> Tensor:
    """The last two axes exchanged."""
    if input._data.ndim < 2:
        raise RuntimeError(f"mT: expects at least 2 dimensions, got shape {input.shape}")
    return Transpose.apply(input, a=-2, b=-1)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- repeated axes


class Expand(View):
    def forward(self, x: Any, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return np.broadcast_to(x, shape)

    def backward(self, grad: Any) -> Any:
        return sum_to(grad, self.shape)


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Axes of extent 1 repeated without a copy; -1 keeps an extent, new axes come in front.

    See ``torch.Tensor.expand``.
    """
    shape, new = input._data.shape, ints(sizes)
    lead = len(new) - len(shape)
    if lead < 0:
        raise RuntimeError(f"expand: sizes {new} name fewer axes than the tensor of shape {shape} has")
    full = []
    for i, extent in enumerate(new):
        have = shape[i - lead] if i >= lead else None
        if extent == -1 and have is not None:
            extent = have
        if extent < 0 or (have is not None and have not in (1, extent)):
            raise RuntimeError(
                f"expand: shape {shape} cannot be expanded to {new}: axis {i} has extent {have}, only 1 can be repeated"
            )
        full.append(extent)
    return Expand.apply(input, shape=tuple(full))  # type: ignore[no-any-return]


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.expand(other.shape)``."""
    return expand(input, other._data.shape)


def broadcast_to(input: Tensor, *size: Any) -> Tensor:
    """``input.expand(size)``; see ``torch.broadcast_to``."""
    return expand(input, *size)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that all ``shapes`` broadcast to; see ``torch.broadcast_shapes``."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(
            f"broadcast_shapes: shapes {', '.join(map(str, shapes))} do not broadcast"
        ) from None


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape; see ``torch.broadcast_tensors``."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    shape = broadcast_shapes(*[x._data.shape for x in tensors])
    return tuple([expand(x, shape) for x in tensors])


# --------------------------------------------------------------------------------------------------------- parts


class Select(Part):
    def forward(self, x: Any, dim: int, index: int) -> Any:
        self.shape, self.options = x.shape, {"dim": dim, "index": index}
        return x[(slice(None),) * dim + (index, ...)]

    def backward(self, grad: Any) -> Any:
        return self.embed(grad, self.shape, **self.options)


class Basic(Part):
    """Integers, slices, None and Ellipsis."""

    def forward(self, x: Any, key: tuple[Any, ...]) -> Any:
        self.shape, self.key = x.shape, key
        return x[key]

    def backward(self, grad: Any) -> Any:
        return self.embed(grad, self.shape, key=self.key)


class Diagonal(Part):
    def forward(self, x: Any, offset: int, a: int, b: int) -> Any:
        self.shape, self.options = x.shape, {"offset": offset, "a": a, "b": b}
        # Not ndarray.diagonal: that is read-only.
        rows, columns = x.shape[a], x.shape[b]
        first_row, first_column = max(-offset, 0), max(offset, 0)
        length = max(0, min(rows - first_row, columns - first_column))
        start = [slice(None)] * x.ndim
        start[a], start[b] = slice(min(first_row, rows), None), slice(min(first_column, columns), None)
        corner = x[tuple(start)]
        others = [i for i in range(x.ndim) if i not in (a, b)]
        return strided(
            corner,
            [x.shape[i] for i in others] + [length],
            [x.strides[i] for i in others] + [x.strides[a] + x.strides[b]],
        )

    def backward(self, grad: Any) -> Any:
        return self.embed(grad, self.shape, **self.options)


def _index_in(op: str, index: Any, extent: int, dim: int) -> int:
    i = int(index)
    if not -extent <= i < extent:
        raise IndexError(f"{op}: index {i} is out of range for dim {dim} of extent {extent}")
    return i + extent if i < 0 else i


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
    first = int(start)
    if first < 0:
        first += shape[d]
    if length < 0 or not 0 <= first <= shape[d] - length:
        raise RuntimeError(
            f"narrow: start ({start}) + length ({length}) exceeds dim {dim}, which has extent {shape[d]}"
        )
    return Basic.apply(input, key=(slice(None),) * d + (slice(first, first + length),))  # type: ignore[no-any-return]


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
        before = (slice(None),) * dim
        return tuple([x[(*before, i, ...)] for i in range(x.shape[dim])])

    def backward(self, *grads: Any) -> Any:
        return select(grads[0]).concat([np.expand_dims(g, self.dim) for g in grads], self.dim)


class Split(MultiView):
    def forward(self, x: Any, bounds: tuple[int, ...], dim: int) -> Any:
        self.dim = dim
        before = (slice(None),) * dim
        return tuple([x[(*before, slice(a, b))] for a, b in pairwise(bounds)])

    def backward(self, *grads: Any) -> Any:
        return select(grads[0]).concat(list(grads), self.dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All entries along ``dim``, as views; see ``torch.unbind``."""
    if input._data.ndim == 0:
        raise RuntimeError("unbind: a tensor of 0 dimensions has no entries")
    d = axis("unbind", dim, input._data.ndim)
    return Unbind.apply(input, dim=d) if input._data.shape[d] else ()


def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive parts along ``dim``, as views: all of one size (the last may be smaller), or of the listed sizes.

    See ``torch.split``.
    """
    shape = input._data.shape
    if not shape:
        raise RuntimeError("split: a tensor of 0 dimensions cannot be split")
    d = axis("split", dim, len(shape))
    extent = shape[d]
    if isinstance(split_size_or_sections, (int, np.integer)):
        size = int(split_size_or_sections)
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


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts along ``dim`` of equal size (the last may be smaller), as views; see ``torch.chunk``."""
    shape = input._data.shape
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
        return split(input, [small + 1] * extra + [small] * (n - extra), d)
    cuts = [slice(None, int(i)).indices(extent)[1] for i in indices_or_sections]
    before = (slice(None),) * d
    edges = zip([0, *cuts], [*cuts, extent], strict=True)
    return tuple([Basic.apply(input, key=(*before, slice(a, max(a, b)))) for a, b in edges])


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
    if isinstance(sections, int) and (sections <= 0 or shape[dim] % sections):
        raise RuntimeError(f"{op}: {sections} parts do not divide dim {dim} of shape {shape}")
    return tensor_split(input, sections, dim)


class Windows(View):
    def forward(self, x: Any, dim: int, size: int, step: int) -> Any:
        self.shape, self.dim, self.size, self.step = x.shape, dim, size, step
        shape, strides = list(x.shape), list(x.strides)
        stride = strides[dim]
        shape[dim] = (shape[dim] - size) // step + 1
        strides[dim] = stride * step
        return strided(x, [*shape, size], [*strides, stride])

    def backward(self, grad: Any) -> Any:
        whole = zeros(self.shape, grad.dtype, grad)
        before = (slice(None),) * self.dim
        count = grad.shape[self.dim]
        if self.size <= count:
            for k in range(self.size):
                whole[(*before, slice(k, k + (count - 1) * self.step + 1, self.step))] += grad[..., k]
        else:
            for i in range(count):
                part = whole[(*before, slice(i * self.step, i * self.step + self.size))]
                part += np.moveaxis(grad[(*before, i)], -1, self.dim)
        return whole


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All windows of ``size`` entries along ``dimension``, ``step`` apart, as a new last axis: a view.

    See ``torch.Tensor.unfold``.
    """
    x = input._data
    if x.ndim == 0:
        input, dimension = reshape(input, (1,)), 0
        x = input._data
    d = axis("unfold", dimension, x.ndim, "dimension")
    if size < 0 or step < 1 or size > x.shape[d]:
        raise RuntimeError(
            f"unfold: size must be in [0, {x.shape[d]}] (dimension {dimension}'s extent) and step at least 1, got size "
            f"{size}, step {step}"
        )
    return Windows.apply(input, dim=d, size=int(size), step=int(step))  # type: ignore[no-any-return]


class Strided(View):
    """Any strides over the memory of a tensor in C order."""

    def forward(self, x: Any, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Any:
        self.shape, self.options = x.shape, (size, stride, offset)
        flat = x.reshape(-1)
        return strided(flat[offset:], size, [s * x.itemsize for s in stride])

    def backward(self, grad: Any) -> Any:
        size, stride, offset = self.options
        whole = zeros((prod(self.shape),), grad.dtype, grad)
        places = strided(np.arange(whole.size, like=whole)[offset:], size, [8 * s for s in stride])
        add_at(whole, places.ravel(), grad.ravel())  # elements may be seen more than once
        return whole.reshape(self.shape)


def as_strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """A view with the given extents and strides (in elements) of the memory under ``input``; see ``torch.as_strided``.

    That memory is the tensor's own, or its base's if it is a view; what would lie outside is refused.
    """
    base = input if input._base is None else input._base
    if not base._data.flags.c_contiguous:
        raise RuntimeError(
            "as_strided: the memory under the tensor must be in C order; use x.contiguous() first"
        )
    extents, steps = ints((size,)), ints((stride,))
    offset = input.storage_offset() if storage_offset is None else int(storage_offset)
    if len(extents) != len(steps):
        raise RuntimeError(f"as_strided: size {extents} and stride {steps} differ in length")
    if min(steps, default=0) < 0 or min(extents, default=0) < 0 or offset < 0:
        raise RuntimeError("as_strided: size, stride and storage_offset must not be negative")
    last = offset + sum([(n - 1) * s for n, s in zip(extents, steps, strict=True)])
    if 0 not in extents and last >= base._data.size:
        raise RuntimeError(
            f"as_strided: size {extents}, stride {steps} and storage_offset {offset} reach element {last} of "
            f"{base._data.size} in memory"
        )
    return Strided.apply(base, size=extents, stride=steps, offset=offset)  # type: ignore[no-any-return]


unsafe_chunk, unsafe_split = chunk, split

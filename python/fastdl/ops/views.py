"""Views: other shapes and orders of the same memory. Their gradients, too, mostly only look differently."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from math import prod
from typing import Any, TypeVar, cast

import numpy as np

from fastdl import dtypes
from fastdl._graph import FunctionCall
from fastdl.arrays import pooled_copy
from fastdl.autograd.op import Op
from fastdl.autograd.view import View
from fastdl.dtypes import Size, as_dtype
from fastdl.kernels import select, strided
from fastdl.kernels.batched import BatchedArray
from fastdl.ops.arrays import sum_to
from fastdl.ops.axes import one_by_one
from fastdl.ops.common import axes, axis, ints
from fastdl.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

# ---------------------------------------------------------------------------------------------------- new shape


def view_strides(shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> list[int] | None:
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
    @staticmethod
    def of(x: Any, shape: tuple[int, ...]) -> Any:
        if x.flags.c_contiguous:
            return x.reshape(shape)
        strides = view_strides(x.shape, x.strides, shape)
        assert strides is not None
        return strided(x, shape, strides)

    def backward(self, grad: Any) -> Any:
        if not grad.flags.c_contiguous:
            grad = pooled_copy(grad)
        return grad.reshape(self.shape)

    def backward_graph(self, grad: Tensor) -> Any:
        return reshape(grad, self.shape)


def in_one_call(kind: str, *ops: type[View]) -> Callable[[F], F]:
    """Decorator: plain cases of a function that returns views are made in C (csrc/bindings/graph/view.cpp)."""

    def decorate(function: F) -> F:
        call: Any = FunctionCall(function, kind, *ops)
        update_wrapper(call, function)
        return cast(F, call)

    return decorate


class Clone(Op):
    """A C-order copy."""

    takes_complex = True
    aliases_grad = True
    release = Op.stay

    def forward(self, x: Any) -> Any:
        return pooled_copy(x)

    def backward(self, grad: Any) -> Any:
        return grad

    def backward_graph(self, grad: Tensor) -> Any:
        return grad


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy in C order, part of the graph; see ``torch.clone``."""
    return Clone.apply(input)  # type: ignore[no-any-return]


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself if it lies in C order, else a copy that does; see ``torch.Tensor.contiguous``."""
    return input if input._data.flags.c_contiguous else Clone.apply(input)


def _is_viewable(x: Any, shape: tuple[int, ...]) -> bool:
    return x.flags.c_contiguous or x.size == 0 or view_strides(x.shape, x.strides, shape) is not None


@in_one_call("reshape", Reshape)
def reshape(input: Tensor, *sizes: Any, shape: Any = None) -> Tensor:
    """The same elements in another shape: a view if memory order allows, else a copy; one extent may be -1.

    See ``torch.reshape``; ``reshape(x, (2, 3))``, ``x.reshape(2, 3)`` and ``x.reshape((2, 3))`` are the same.

    Example:
        >>> import fastdl
        >>> fastdl.arange(6).reshape(2, -1)
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    x = input._data
    new = _resolve("reshape", x.size, ints(sizes if shape is None else (shape,)), x.shape)
    if not _is_viewable(x, new) or (x.size == 0 and not x.flags.c_contiguous):
        input = Clone.apply(input)
    return Reshape.apply(input, shape=new)  # type: ignore[no-any-return]


@in_one_call("reshape", Reshape)
def view(input: Tensor, *shape: Any, size: Any = None, dtype: Any = None) -> Tensor:
    """The same memory in another shape; an error where that takes a copy. See ``torch.Tensor.view``.

    With a dtype instead of a shape, the same bytes read as that type (no gradient).
    """
    x = input._data
    if dtype is not None:
        shape = (as_dtype("view", dtype),)
    elif size is not None:
        shape = (size,)
    if len(shape) == 1 and isinstance(shape[0], (*dtypes.classes, type)):
        try:
            output = Tensor._wrap(x.view(as_dtype("view", shape[0])))
        except ValueError as error:
            raise RuntimeError(
                f"view: {x.dtype} of shape {x.shape} cannot be seen as {shape[0]}: {error}"
            ) from None
        output._counter = input._version_cell()
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


@in_one_call("flatten", Reshape)
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
    return reshape(contiguous(input), (-1,)) if input._data.size else reshape(input, (0,))


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


@in_one_call("squeeze", Reshape)
def squeeze(input: Tensor, *dims: Any, dim: Any = None) -> Tensor:
    """Without axes of extent 1: all, or those among ``dim``; see ``torch.squeeze``."""
    shape = input._data.shape
    dim = one_by_one("squeeze", "dim", dims, dim)
    if dim is None:
        new = tuple([s for s in shape if s != 1])
    else:
        gone = (
            (axis("squeeze", dim, len(shape)),) if dim.__class__ is int else axes("squeeze", dim, len(shape))
        )
        new = tuple([s for i, s in enumerate(shape) if s != 1 or i not in gone])
    return _reshape_ones(input, new)


def _reshape_ones(input: Tensor, new: tuple[int, ...]) -> Tensor:
    """Only axes of extent 1 come or go: always a view."""
    return Reshape.apply(input, shape=new) if input._data.size else Squeezed.apply(input, shape=new)  # type: ignore[no-any-return]


class Squeezed(Reshape):
    """Reshape of an empty tensor: any strides will do."""

    @staticmethod
    def of(x: Any, shape: tuple[int, ...]) -> Any:
        return x.reshape(shape)


@in_one_call("unsqueeze", Reshape)
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of extent 1 at ``dim``; see ``torch.unsqueeze``."""
    shape = input._data.shape
    d = axis("unsqueeze", dim, len(shape) + 1, new=1)
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
    if len(tensors) != 1:
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
    @staticmethod
    def of(x: Any, dims: tuple[int, ...]) -> Any:
        return x.transpose(dims)

    def inverse(self) -> tuple[int, ...]:
        dims = self.options["dims"]
        inverse = [0] * len(dims)
        for i, d in enumerate(dims):
            inverse[d] = i
        return tuple(inverse)

    def backward(self, grad: Any) -> Any:
        return grad.transpose(self.inverse())

    def backward_graph(self, grad: Tensor) -> Any:
        return Permute.apply(grad, dims=self.inverse())


class Transpose(View):
    @staticmethod
    def of(x: Any, a: int, b: int) -> Any:
        return x.swapaxes(a, b)

    def backward(self, grad: Any) -> Any:
        return self.of(grad, **self.options)

    def backward_graph(self, grad: Tensor) -> Any:
        return Transpose.apply(grad, **self.options)


@in_one_call("permute", Permute)
def permute(input: Tensor, *axes_in_order: Any, dims: Any = None) -> Tensor:
    """Axes in the order ``dims``; see ``torch.permute``.

    Example:
        >>> import fastdl
        >>> fastdl.zeros(8, 5, 6, 3).permute(0, 3, 1, 2).shape  # channels before height and width
        (8, 3, 5, 6)
    """
    order = ints(axes_in_order if dims is None else (dims,))
    ndim = input._data.ndim
    if len(order) != ndim:
        raise RuntimeError(f"permute: dims must name all {ndim} axes of the tensor, got {order}")
    return Permute.apply(input, dims=axes("permute", order, ndim))  # type: ignore[no-any-return]


@in_one_call("transpose", Transpose)
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged; see ``torch.transpose``."""
    ndim = input._data.ndim
    a, b = axis("transpose", dim0, ndim), axis("transpose", dim1, ndim)
    if ndim == 0:
        return Reshape.apply(input, shape=())  # type: ignore[no-any-return]
    return Transpose.apply(input, a=a, b=b)  # type: ignore[no-any-return]


swapaxes = swapdims = transpose


@in_one_call("t", Transpose)
def t(input: Tensor) -> Tensor:
    """The transpose of a tensor of at most two dimensions; see ``torch.t``."""
    if input._data.ndim > 2:
        raise RuntimeError(
            f"t: expects a tensor of at most 2 dimensions, got shape {input.shape}; use transpose()"
        )
    return Permute.apply(input, dims=tuple(range(input._data.ndim))[::-1])  # type: ignore[no-any-return]


@in_one_call("movedim", Permute)
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes ``source`` at the places ``destination``, the others in order; see ``torch.movedim``."""
    ndim = input._data.ndim
    src, dst = axes("movedim", source, ndim), axes("movedim", destination, ndim)
    if len(src) != len(dst):
        raise RuntimeError(f"movedim: source and destination differ in length: {source} and {destination}")
    order = [i for i in range(ndim) if i not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return Permute.apply(input, dims=tuple(order[:ndim]))  # type: ignore[no-any-return]


moveaxis = movedim


@in_one_call("t", Transpose)
def _T(input: Tensor) -> Tensor:
    """All axes reversed."""
    return Permute.apply(input, dims=tuple(range(input._data.ndim))[::-1])  # type: ignore[no-any-return]


@in_one_call("mT", Transpose)
def _mT(input: Tensor) -> Tensor:
    """The last two axes exchanged."""
    if input._data.ndim == 0:
        return input
    if input._data.ndim < 2:
        raise RuntimeError(f"mT: expects at least 2 dimensions, got shape {input.shape}")
    return Transpose.apply(input, a=-2, b=-1)  # type: ignore[no-any-return]


def adjoint(input: Tensor) -> Tensor:
    """The last two axes exchanged, conjugated; see ``torch.adjoint``."""
    return _conjugate(_mT(input))


def _H(input: Tensor) -> Tensor:
    """All axes reversed, conjugated."""
    if input._data.ndim not in (0, 2):
        raise RuntimeError(f"H: is only supported on matrices (2-D tensors), got shape {input.shape}; use mH")
    return _conjugate(_T(input))


def _conjugate(input: Tensor) -> Tensor:
    if input._data.dtype.kind != "c":
        return input
    from fastdl.ops.complex import conj

    return conj(input)


# ------------------------------------------------------------------------------------------------- repeated axes


class Expand(View):
    @staticmethod
    def of(x: Any, shape: tuple[int, ...]) -> Any:
        return x.expand(shape) if x.__class__ is BatchedArray else select(x).broadcast_to(x, shape)

    def backward(self, grad: Any) -> Any:
        return sum_to(grad, self.shape)

    def backward_graph(self, grad: Tensor) -> Any:
        return grad.sum_to_size(self.shape)


@in_one_call("expand", Expand)
def expand(input: Tensor, *sizes: Any, size: Any = None) -> Tensor:
    """Axes of extent 1 repeated without a copy; -1 keeps an extent, new axes come in front.

    See ``torch.Tensor.expand``.
    """
    x = input._data
    shape, new = x.shape, ints(sizes if size is None else (size,))
    lead = len(new) - len(shape)
    if lead < 0:
        raise RuntimeError(f"expand: sizes {new} name fewer axes than the tensor of shape {shape} has")
    full = list(new)
    for i, have in enumerate(shape, lead):
        if full[i] == -1:
            full[i] = have
        elif have != full[i] and have != 1:
            raise RuntimeError(
                f"expand: shape {shape} cannot be expanded to {new}: axis {i} has extent {have}, only 1 can be repeated"
            )
    if full and min(full) < 0:
        raise RuntimeError(
            f"expand: sizes must not be negative, but for -1 where the tensor has an axis, got {new}"
        )
    return Expand.apply(input, shape=tuple(full))  # type: ignore[no-any-return]


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``input.expand(other.shape)``."""
    return expand(input, other._data.shape)


def broadcast_to(input: Tensor, *sizes: Any, size: Any = None) -> Tensor:
    """``input.expand(size)``; see ``torch.broadcast_to``."""
    return expand(input, one_by_one("broadcast_to", "size", sizes, size))


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that all ``shapes`` broadcast to; see ``torch.broadcast_shapes``."""
    try:
        return Size(np.broadcast_shapes(*shapes))
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

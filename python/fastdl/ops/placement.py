"""Writing parts of a tensor: reductions by index, puts, and functional forms of assignment to a view."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op, needing
from fastdl.autograd.view import CopySlices, alias, check_writable, write
from fastdl.dtypes import FLOATING, bool_, float32, int64
from fastdl.errors import ArgumentError, not_a_tensor
from fastdl.kernels import array, on_device, select
from fastdl.ops.arrays import cast, full, joined, zeros
from fastdl.ops.common import axis, check_tensors
from fastdl.ops.gather import (
    IndexAdd,
    Scatter,
    as_rows,
    check_gather,
    check_range,
    from_front,
    gather_key,
    index_array,
    long_index,
    number_as_row,
    row,
    scatter_add,
    within,
)
from fastdl.ops.indexing import added_in_place, setitem
from fastdl.ops.masks import put as put_masked
from fastdl.ops.parts import diagonal, select_dim
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.ops.strided import as_strided
from fastdl.ops.views import expand, reshape
from fastdl.tensor import Tensor

_REDUCTIONS = ("sum", "mean", "prod", "amax", "amin")


class ScatterReduce(Op):
    """Every target is reduced with the sources that name it (and with what it was, if ``include_self``)."""

    saves, saves_output = (0, 1), True

    def forward(self, x: Any, source: Any, dim: int, index: Any, reduce: str, include_self: bool) -> Any:
        self.dim, self.index = dim, index
        part = source if source.shape == index.shape else source[tuple([slice(0, n) for n in index.shape])]
        self.x, self.part, self.shape, self.reduce, self.include = x, part, source.shape, reduce, include_self
        self.source = source
        if reduce == "mean" or not include_self:
            self.counts = self.counted(x)
        result = pooled_copy(x)
        if not include_self:
            named = np.broadcast_to(self.counts > 0, x.shape)
            put_masked(result, named, array(_identity(reduce, x.dtype), x, x.dtype))
        self.join(result, part, reduce)
        if reduce == "mean":
            count = np.maximum(self.counts + int(include_self), 1)
            if is_kernel_dtype(x.dtype):
                result = select(x).div_forward(result, cast(count, x.dtype))
            else:
                result = cast(result / count if x.dtype.kind in FLOATING else result // count, x.dtype)
        self.y = result
        return result

    def counted(self, x: Any) -> Any:
        """How many sources name each element, in an array that broadcasts to ``x``."""
        counts = zeros(x.shape, int64, x)
        joined("scatter_add", within(counts, self.dim, self.index), self.dim, self.index, array(1, x, int64))
        return counts

    def join(self, into: Any, part: Any, reduce: str) -> None:
        """Reduce ``part`` into the targets."""
        to = within(into, self.dim, self.index)
        if reduce in ("sum", "mean"):
            joined("scatter_add", to, self.dim, self.index, part)
        else:
            joined("scatter_reduce", to, self.dim, self.index, part, reduce)

    def taken(self, x: Any) -> Any:
        """The target of every source."""
        return x[gather_key(self.dim, self.index)]

    def backward(self, grad: Any) -> Any:
        kept = full(grad.shape, True, bool_, grad) if self.include else self.counts == 0
        taken, x, part, y = self.taken, self.x, self.part, self.y
        if self.reduce == "sum":
            to_x, to_part = grad * kept, taken(grad)
        elif self.reduce == "mean":
            share = grad / np.maximum(self.counts + int(self.include), 1).astype(grad.dtype)
            to_x, to_part = share * kept, taken(share)
        elif self.reduce == "prod":
            # The others' product: of all that are not 0, unless another one is 0.
            zeros_in = ((x == 0) & kept).astype(np.int64)
            self.join(zeros_in, (part == 0).astype(np.int64), "sum")
            x, part = np.where(x == 0, 1, x), np.where(part == 0, 1, part)
            y = np.where(kept, x, 1).astype(grad.dtype)
            self.join(y, part, "prod")
            of_x, of_part = self.x == 0, self.part == 0
            to_x = grad * kept * np.where(zeros_in == of_x, y / x, 0)
            to_part = taken(grad) * np.where(taken(zeros_in) == of_part, taken(y) / part, 0)
        else:
            first, ties = (x == y) & kept, part == taken(y)
            count = first.astype(float32)
            self.join(count, ties.astype(float32), "sum")
            with np.errstate(invalid="ignore", divide="ignore"):  # NaN equals nothing: 0/0, as in PyTorch
                share = grad / count.astype(grad.dtype)
                to_x, to_part = share * first, taken(share) * ties
        whole = zeros(self.shape, grad.dtype, grad)
        whole[tuple([slice(0, n) for n in part.shape])] = to_part
        return array(to_x, None, grad.dtype), whole

    def backward_graph(self, grad: Any) -> Any:
        if self.reduce != "prod":  # the slopes are constant: those of a gradient of 1
            ones = full(grad.shape, 1, self.x.dtype, self.x)
            to_x, to_part = self.backward(ones)
            spread = Tensor._wrap(zeros(self.shape, self.x.dtype, self.x))
            spread[self.corner()] = grad[self.places()]
            return grad * Tensor._wrap(to_x), spread * Tensor._wrap(to_part)
        if not (self.x.all() and self.part.all()):
            raise RuntimeError(
                "scatter_reduce: a product with zeros has no second derivative (create_graph=True)"
            )
        self.flat = MappingProxyType({0: (0, 1)})  # without `include_self`; else it is no constant anyway
        product = grad * self.saved_output(self.y)
        to_x = grad
        if self.include:
            to_x = product / self.saved_input(0, self.x)
        else:
            to_x = grad * Tensor._wrap(array(self.counts == 0, None, self.x.dtype))
        spread = Tensor._wrap(zeros(self.shape, self.x.dtype, self.x))
        source = self.saved_input(1, self.source)
        spread[self.corner()] = product[self.places()] / source[self.corner()]
        return to_x, spread

    def corner(self) -> tuple[slice, ...]:
        """The part of the source that the index covers."""
        return tuple([slice(0, n) for n in self.part.shape])

    def places(self) -> tuple[Tensor, ...]:
        return tuple(
            [Tensor._wrap(np.broadcast_to(k, self.part.shape)) for k in gather_key(self.dim, self.index)]
        )


class IndexReduce(ScatterReduce):
    """:class:`ScatterReduce` where an entry of the index speaks for a whole slice: counted and joined by slices."""

    @property
    def rows(self) -> Any:
        """The index as a vector."""
        return self.index[tuple([slice(None) if i == self.dim else 0 for i in range(self.index.ndim)])]

    def counted(self, x: Any) -> Any:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return np.bincount(self.rows, minlength=x.shape[self.dim]).reshape(shape)

    def join(self, into: Any, part: Any, reduce: str) -> None:
        if reduce in ("sum", "mean"):
            joined("index_add", into, self.dim, self.rows, part)
        elif on_device(into):
            super().join(into, part, reduce)
        else:
            joined("scatter_reduce", into, self.dim, self.rows, part, reduce)

    def taken(self, x: Any) -> Any:
        return select(x).index_select_forward(x, self.dim, self.rows)


def _identity(reduce: str, dtype: Any) -> Any:
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if dtype.kind in FLOATING:
        return -np.inf if reduce == "amax" else np.inf
    if dtype.kind == "b":
        return reduce == "amin"
    limits = np.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


@number_as_row
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Elements of ``src`` reduced into the places ``index`` along ``dim``: sum, prod, mean, amax or amin.

    Without ``include_self`` what was there does not count. See ``torch.scatter_reduce``.

    Example:
        >>> import fastdl
        >>> x, index = fastdl.zeros(2), fastdl.tensor([0, 0, 1])
        >>> fastdl.scatter_reduce(x, 0, index, fastdl.tensor([1.0, 5.0, 2.0]), "amax").tolist()
        [5.0, 2.0]
    """
    if reduce not in _REDUCTIONS:
        raise ArgumentError(f"scatter_reduce: reduce must be one of {', '.join(_REDUCTIONS)}, got {reduce!r}")
    if not isinstance(src, Tensor):
        raise not_a_tensor("scatter_reduce", "src", src)
    if src.dtype != input.dtype:
        raise RuntimeError(f"scatter_reduce: src must have the tensor's dtype {input.dtype}, got {src.dtype}")
    if reduce == "sum" and include_self:
        return scatter_add(input, dim, index, src)
    indices, src = index_array("scatter_reduce", row(index)), row(src)
    if indices.size == 0:
        return input.clone()
    d = check_gather("scatter_reduce", input._data, dim, indices, src._data)
    rows = as_rows(indices, input._data, src._data, d)
    if reduce == "mean" or not include_self or rows is not None:  # the kernels would speak of others
        check_range("scatter_reduce", indices if rows is None else rows, input.shape[d])
    kind = ScatterReduce if rows is None else IndexReduce
    result = kind.apply(input, src, dim=d, index=indices, reduce=reduce, include_self=include_self)
    return needing(result, index)


@number_as_row
def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Slices of ``source`` along ``dim`` reduced into those that ``index`` names: prod, mean, amax or amin.

    See ``torch.index_reduce`` and :func:`scatter_reduce`, whose index has an entry for every element.

    Example:
        >>> import fastdl
        >>> x, rows = fastdl.ones(2, 2), fastdl.tensor([[2.0, 3.0], [4.0, 5.0]])
        >>> fastdl.index_reduce(x, 0, fastdl.tensor([1, 1]), rows, "prod").tolist()
        [[1.0, 1.0], [8.0, 15.0]]
    """
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ArgumentError(f"index_reduce: reduce must be one of prod, mean, amax, amin, got {reduce!r}")
    check_tensors("index_reduce", input=input, index=index, source=source)
    d = axis("index_reduce", dim, input._data.ndim)
    if index._data.ndim != 1 or source._data.ndim != input._data.ndim or source.shape[d] != index.shape[0]:
        raise ArgumentError(
            f"index_reduce: index must be a vector with an entry for each slice of source along dim {d}, got shapes "
            f"{index.shape} and {source.shape}"
        )
    shape = [1] * source._data.ndim
    shape[d] = index.shape[0]
    places = reshape(index, shape).expand(source.shape)
    alike = source.shape[:d] == input.shape[:d] and source.shape[d + 1 :] == input.shape[d + 1 :]
    if not alike or source.dtype != input.dtype or on_device(input._data) or not source.numel():
        return scatter_reduce(input, d, places, source, reduce, include_self=include_self)
    indices = index_array("index_reduce", index)
    check_range("index_reduce", indices, input.shape[d])
    spread = np.broadcast_to(indices.reshape(shape), source.shape)
    result = IndexReduce.apply(input, source, dim=d, index=spread, reduce=reduce, include_self=include_self)
    return needing(result, index)


def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """``self[indices] = values``, or added to what is there, where an index may repeat.

    See ``torch.Tensor.index_put_``.

    Example:
        >>> import fastdl
        >>> x = fastdl.zeros(3)
        >>> x.index_put_((fastdl.tensor([0, 0]),), fastdl.ones(2), accumulate=True).tolist()
        [2.0, 0.0, 0.0]
    """
    key = tuple([slice(None) if i is None else i for i in indices])
    if not isinstance(values, Tensor):
        raise not_a_tensor("index_put_", "values", values)
    if values._data.dtype != self._data.dtype:
        raise RuntimeError(
            f"index_put_: values must have the tensor's dtype {self.dtype}, got {values.dtype}"
        )
    if not accumulate:
        setitem(self, key, values)
        return self
    check_writable("index_put_", self)
    recorded = mode.enabled and (self._requires_grad or values._requires_grad)
    if not recorded and added_in_place("index_put_", self._data, key, values._data):
        self._bump_version()
        return self
    before, shape = alias(self), self._data.shape
    places = Tensor._wrap(np.arange(self.numel(), like=self._data).reshape(shape))[key]._data
    spread = reshape(expand(values, places.shape), (-1,))
    flat = IndexAdd.apply(reshape(before, (-1,)), spread, dim=0, index=places.reshape(-1), alpha=1)
    return write("index_put_", self, reshape(flat, shape))


def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """:func:`index_put_` on a copy. See ``torch.index_put``."""
    return index_put_(input.clone(), indices, values, accumulate)


def put_(self: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """Elements of the flattened tensor replaced by (or added) ``source``. See ``torch.Tensor.put_``."""
    check_writable("put_", self)
    recorded = mode.enabled and (self._requires_grad or source._requires_grad)
    if recorded or not self._data.flags.c_contiguous:
        return write("put_", self, put(alias(self), index, source, accumulate))
    flat, source, places = _flat("put_", self, index, source)
    Scatter.apply(flat, source, dim=0, index=places, add=accumulate, out=flat._data)
    self._bump_version()
    return self


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """:func:`put_` on a copy. See ``torch.put``."""
    flat, source, places = _flat("put", input, index, source)
    return reshape(Scatter.apply(flat, source, dim=0, index=places, add=accumulate), input._data.shape)


def _flat(op: str, input: Tensor, index: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Any]:
    """The operands of a put as vectors, with the index counted from the front."""
    if source._data.size != index._data.size:
        raise IndexError(f"{op}: source has {source.numel()} elements, index {index.numel()}")
    if source._data.dtype != input._data.dtype:
        raise RuntimeError(f"{op}: source must have the tensor's dtype {input.dtype}, got {source.dtype}")
    places = from_front(op, long_index(op, index), input._data.size)
    return reshape(input, (-1,)), reshape(source, (-1,)), places


class Replaced(CopySlices):
    """A copy of the first input with the second one in a part of it, which ``view`` of a tensor shows."""

    view: Callable[[Tensor], Tensor]

    def forward(self, x: Any, src: Any, op: str, view: Any) -> Any:
        self.view = view
        whole = pooled_copy(x)
        part = self.region(whole)
        if part.shape != src.shape:
            raise RuntimeError(f"{op}: src has shape {src.shape}, the part to replace {part.shape}")
        assign(part, src)
        return whole

    def region(self, array: Any) -> Any:
        return self.view(Tensor._wrap(array))._data


def _replaced(op: str, input: Tensor, view: Callable[[Tensor], Tensor], src: Tensor) -> Tensor:
    check_tensors(op, src=src)
    if src._data.dtype != input._data.dtype:
        src = src.to(input._data.dtype)
    return Replaced.apply(input, src, op=op, view=view)  # type: ignore[no-any-return]


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy with ``src`` in the place of ``input.select(dim, index)``. See ``torch.select_scatter``."""
    return _replaced("select_scatter", input, lambda x: select_dim(x, dim, index), src)


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy with ``src`` in the place of a slice along ``dim``. See ``torch.slice_scatter``."""
    key = (slice(None),) * axis("slice_scatter", dim, input._data.ndim) + (slice(start, end, step),)
    return _replaced("slice_scatter", input, lambda x: x[key], src)


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy with ``src`` as its diagonal. See ``torch.diagonal_scatter``."""
    return _replaced("diagonal_scatter", input, lambda x: diagonal(x, offset, dim1, dim2), src)


def as_strided_scatter(
    input: Tensor, src: Tensor, size: Any, stride: Any, storage_offset: int | None = None
) -> Tensor:
    """A copy with ``src`` in the place of ``input.as_strided(...)``. See ``torch.as_strided_scatter``."""
    return _replaced("as_strided_scatter", input, lambda x: as_strided(x, size, stride, storage_offset), src)


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Set the main diagonal to one value; ``wrap`` goes on below in tall matrices.

    See ``torch.Tensor.fill_diagonal_``.
    """
    ndim = self._data.ndim
    if ndim < 2:
        raise RuntimeError(f"fill_diagonal_: expects at least 2 dimensions, got shape {self.shape}")
    if ndim > 2 and len(set(self.shape)) > 1:
        raise RuntimeError(f"fill_diagonal_: more than 2 dimensions must have one extent, got {self.shape}")
    rows, columns = self.shape[0], self.shape[-1]
    if ndim == 2 and not (wrap and rows > columns):
        self.diagonal().fill_(fill_value)
        return self
    along = np.arange(min(self.shape), like=self._data)
    key: Any = (Tensor._wrap(along),) * ndim
    if ndim == 2:
        places = np.arange(0, rows * columns, columns + 1, like=self._data)
        key = (Tensor._wrap(places // columns), Tensor._wrap(places % columns))
    setitem(self, key, fill_value)
    return self


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Places in the flattened tensor as one index for each axis of ``shape``. See ``torch.unravel_index``."""
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (int(shape),)
    total = int(np.prod(sizes))
    check_range("unravel_index", indices._data, total)
    return tuple([Tensor._wrap(array(i, None, np.int64)) for i in np.unravel_index(indices._data, sizes)])


__all__ = [
    "as_strided_scatter",
    "diagonal_scatter",
    "index_put",
    "index_reduce",
    "put",
    "scatter_reduce",
    "select_scatter",
    "slice_scatter",
    "unravel_index",
]

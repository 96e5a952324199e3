"""Selecting and scattering by index tensors along one axis, by masks, and by value."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.graph import linear_backward
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op, needing
from fastdl.dtypes import FLOATING, float32, float64, int32, int64
from fastdl.errors import ArgumentError, RangeError, not_a_tensor
from fastdl.kernels import add_at, array, is_array, on_device, select
from fastdl.ops.arrays import broadcast_shape, cast, filler, full, in_float32, joined, written, zeros
from fastdl.ops.common import axis
from fastdl.ops.elementwise import where
from fastdl.ops.index_keys import places_of
from fastdl.ops.indexing import IndexSelect
from fastdl.ops.masks import masked_fill
from fastdl.ops.out import apply_into, store
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.ops.views import expand, reshape
from fastdl.tensor import Tensor


def long_index(op: str, index: Any) -> Any:
    """An index tensor's array, checked to be int64."""
    if isinstance(index, Tensor) and index._data.dtype is not int64:
        raise RuntimeError(f"{op}: index must have dtype int64, got {index._data.dtype}")
    return index_array(op, index)


def index_array(op: str, index: Any) -> Any:
    """An index tensor's array, checked to be integer, as int64."""
    if not isinstance(index, Tensor):
        raise not_a_tensor(op, "index", index)
    array = index._data
    if array.dtype is int64:
        return array
    if array.size == 0:
        return array.astype(int64)
    if array.dtype not in (int64, int32):
        raise RuntimeError(f"{op}: index must have dtype int64 or int32, got {array.dtype}")
    return array.astype(int64, copy=False)


def check_range(op: str, index: Any, extent: int, what: str = "index") -> None:
    """Refuse indices outside [0, extent), naming the first one and its position."""
    if index.size == 0 or (index.min() >= 0 and index.max() < extent):
        return
    where = tuple(int(i) for i in np.argwhere((index < 0) | (index >= extent))[0])
    raise RangeError(f"{op}: {what}{list(where)} = {int(index[where])} is out of range [0, {extent})")


def from_front(op: str, index: Any, extent: int) -> Any:
    """An index as a vector, counted from the front and checked."""
    try:
        return places_of(op, [index.reshape(-1)], (extent,))
    except IndexError as error:
        raise RangeError(str(error)) from None


def row(value: Any) -> Any:
    """A tensor of 0 dimensions as one of a single element; all else as it is."""
    return reshape(value, (1,)) if isinstance(value, Tensor) and value._data.ndim == 0 else value


def number_as_row(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give ``function(input, dim, index, ...)`` a tensor of 0 dimensions as one of a single element.

    What a kernel reports of an index is a RangeError, as that of :func:`check_range`.
    """

    @wraps(function)
    def run(input: Tensor, dim: int, index: Tensor, *rest: Any, **options: Any) -> Tensor:
        if not isinstance(input, Tensor) or input._data.ndim:
            try:
                return function(input, dim, index, *rest, **options)
            except IndexError as error:
                raise RangeError(str(error)) from None
        out = options.get("out")
        options = {name: row(value) for name, value in options.items()}
        result = function(row(input), dim, row(index), *map(row, rest), **options)
        return reshape(result, ()) if out is None else out  # which has been written as a row

    return run


# ------------------------------------------------------------------------------------------- entries along an axis


@number_as_row
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries ``index`` (one-dimensional) along ``dim``, in that order, as a copy; see ``torch.index_select``."""
    indices = index_array("index_select", index)
    if indices.ndim > 1:
        raise IndexError(f"index_select: index must have one dimension, got shape {indices.shape}")
    d = axis("index_select", dim, input._data.ndim)
    return needing(IndexSelect.apply(input, dim=d, index=indices.reshape(-1)), index)


def _added_on_device(x: Any, dim: int, index: Any, part: Any, out: Any = None) -> Any:
    """``x + part`` at the entries ``index``, in a fixed order wherever another one gives other numbers.

    Half precision is added up in float32 and rounded once, of complex numbers each part by itself.
    """
    dtype = x.dtype
    if is_kernel_dtype(dtype):
        kernels = select(x)
        return kernels.add_forward(x, kernels.index_select_backward(part, dim, index, x.shape[dim]), out)
    if dtype.kind in FLOATING:
        wide = _added_on_device(cast(x, float32), dim, index, cast(part, float32))
        if out is None:
            return cast(wide, dtype)
        assign(out, cast(wide, dtype))
        return out
    result = pooled_copy(x) if out is None else out
    if dtype.kind == "c":
        for to, of in ((result.real, part.real), (result.imag, part.imag)):
            assign(to, _added_on_device(to, dim, index, of))
    else:
        add_at(result, (slice(None),) * dim + (index,), part)
    return result


class IndexAdd(Op):
    aliases_grad = True

    def forward(self, x: Any, source: Any, dim: int, index: Any, alpha: Any, out: Any = None) -> Any:
        self.dim, self.index, self.alpha = dim, index, alpha
        part = source if alpha == 1 else source * np.asarray(alpha).astype(source.dtype)[()]
        if on_device(x):
            return _added_on_device(x, dim, index, part, out)
        return joined("index_add", pooled_copy(x) if out is None else out, dim, index, part)

    def backward(self, grad: Any) -> Any:
        part = None
        if self.needs[1]:
            part = select(grad).index_select_forward(grad, self.dim, self.index)
            if self.alpha != 1:
                part *= self.alpha
        return grad, part

    def backward_graph(self, grad: Tensor) -> Any:
        part = None
        if self.needs[1]:
            part = IndexSelect.apply(grad, dim=self.dim, index=self.index) * self.alpha
        return grad, part


def _source(op: str, input: Tensor, dim: int, index: Any, source: Tensor) -> int:
    x, s = input._data, source._data
    d = axis(op, dim, x.ndim)
    if index.ndim > 1:
        raise IndexError(f"{op}: index must have one dimension, got shape {index.shape}")
    if on_device(x) or not (is_kernel_dtype(x.dtype) or x.dtype.kind in "biu"):  # the CPU's kernels check
        check_range(op, index, x.shape[d])
    if s.shape != (*x.shape[:d], index.size, *x.shape[d + 1 :]):
        raise RuntimeError(
            f"{op}: source must have the shape of the tensor, {x.shape}, with {index.size} (the "
            "length of index) in dim "
            f"{dim}; got {s.shape}"
        )
    if s.dtype != x.dtype:
        raise RuntimeError(f"{op}: source must have the tensor's dtype {x.dtype}, got {s.dtype}")
    return d


@number_as_row
def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1, out: Tensor | None = None
) -> Tensor:
    """``alpha * source`` added to the entries ``index`` along ``dim``; repeated indices add up.

    See ``torch.index_add``.
    """
    indices = index_array("index_add", index)
    d = _source("index_add", input, dim, indices, source)
    if alpha.__class__ is complex:
        if input._data.dtype.kind != "c":
            raise RuntimeError(f"index_add: alpha may be complex only for complex tensors, got {alpha}")
        source, alpha = source * alpha, 1  # it mixes the parts, which are added up apart
    return apply_into(
        out, IndexAdd, input, source, keeps=index, dim=d, index=indices.reshape(-1), alpha=alpha
    )


class IndexCopy(Op):
    def forward(self, x: Any, source: Any, dim: int, index: Any, out: Any = None) -> Any:
        self.dim, self.index = dim, index
        result = pooled_copy(x) if out is None else out
        if not on_device(x) and x.dtype.kind != "V":
            return written(select(x).index_copy, result, dim, index, source)
        result[(slice(None),) * dim + (index,)] = source
        return result

    def backward(self, grad: Any) -> Any:
        rest = part = None
        if self.needs[0]:
            rest = pooled_copy(grad)
            rest[(slice(None),) * self.dim + (self.index,)] = 0
        if self.needs[1]:
            part = select(grad).index_select_forward(grad, self.dim, self.index)
        return rest, part

    def backward_graph(self, grad: Tensor) -> Any:
        index = Tensor._wrap(self.index)
        return (
            index_fill(grad, self.dim, index, 0) if self.needs[0] else None,
            IndexSelect.apply(grad, dim=self.dim, index=self.index) if self.needs[1] else None,
        )


@number_as_row
def index_copy(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """The entries ``index`` along ``dim`` replaced by those of ``source``; see ``torch.index_copy``."""
    indices = index_array("index_copy", index)
    d = _source("index_copy", input, dim, indices, source)
    return apply_into(out, IndexCopy, input, source, keeps=index, dim=d, index=indices.reshape(-1))


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any, *, out: Tensor | None = None) -> Tensor:
    """The entries ``index`` along ``dim`` set to one value; see ``torch.index_fill``."""
    if input._data.ndim == 0:
        result = reshape(index_fill(reshape(input, (1,)), dim, index, value), ())
        return result if out is None else store("index_fill", out, result)
    indices = index_array("index_fill", index)
    d = axis("index_fill", dim, input._data.ndim)
    places = from_front("index_fill", indices, input._data.shape[d])
    if not (isinstance(value, Tensor) or on_device(input._data) or (mode.enabled and input._requires_grad)):
        value = filler("index_fill", value, input._data.dtype)
        array = pooled_copy(input._data) if out is not input else input._data
        array[(slice(None),) * d + (places,)] = value
        if out is not input:
            return Tensor._wrap(array) if out is None else store("index_fill", out, Tensor._wrap(array))
        out._bump_version()
        return out
    chosen = np.zeros(input._data.shape[d], np.bool_, like=input._data)
    chosen[places] = True
    shape = [1] * input._data.ndim
    shape[d] = -1
    return masked_fill(input, Tensor._wrap(chosen.reshape(shape)), value, out=out)


# --------------------------------------------------------------------------------- one index for every element


def gather_key(dim: int, index: Any) -> tuple[Any, ...]:
    """Open-grid index arrays: position everywhere but ``index`` along ``dim``."""
    grids = []
    for i, extent in enumerate(index.shape):
        if i == dim:
            grids.append(index)
        else:
            shape = [1] * index.ndim
            shape[i] = extent
            grids.append(np.arange(extent, like=index).reshape(shape))
    return tuple(grids)


def check_gather(op: str, x: Any, dim: int, index: Any, source: Any = None) -> int:
    """``dim`` from the front, after checks of all shapes; scatter also needs its indices checked."""
    if index.ndim != x.ndim:
        raise RuntimeError(
            f"{op}: index must have as many dimensions as the tensor: {x.shape} and {index.shape}"
        )
    d = axis(op, dim, x.ndim)
    same = index.shape == x.shape and (source is None or source.shape == x.shape)
    for i, extent in enumerate(() if same else index.shape):
        if i != d and extent > x.shape[i]:
            raise RuntimeError(
                f"{op}: index of shape {index.shape} exceeds the tensor of shape {x.shape} in dim {i} "
                f"(only dim {d} may)"
            )
        if source is not None and source.ndim and extent > source.shape[i]:
            raise RuntimeError(
                f"{op}: index of shape {index.shape} exceeds src of shape {source.shape} in dim {i}"
            )
    # Kernels check; on a GPU plain scatter is CuPy's, which does not.
    if op not in ("gather", "scatter", "scatter_add", "scatter_reduce") or (op == "scatter" and on_device(x)):
        check_range(op, index, x.shape[d])
    return d


def within(x: Any, dim: int, index: Any) -> Any:
    """The part of ``x`` that an index reaches, which may be shorter than x along the axes other than ``dim``.

    With -1 for ``dim``, along all.
    """
    have, wanted = x.shape, index.shape
    if wanted == have or (dim >= 0 and wanted[:dim] == have[:dim] and wanted[dim + 1 :] == have[dim + 1 :]):
        return x
    return x[tuple([slice(None) if i == dim else slice(0, n) for i, n in enumerate(index.shape)])]


class TakeAlong(Op):
    def forward(self, x: Any, dim: int, index: Any) -> Any:
        self.shape, self.dim, self.index = x.shape, dim, index
        try:
            return self.linear(x)
        except IndexError as error:
            raise RangeError(str(error)) from None

    def backward(self, grad: Any) -> Any:
        part = in_float32(select(grad).gather_backward, grad, self.dim, self.index, self.shape[self.dim])
        if part.shape == self.shape:
            return part
        whole = zeros(self.shape, grad.dtype, grad)
        within(whole, self.dim, self.index)[...] = part
        return whole

    def linear(self, x: Any) -> Any:
        return select(x).gather_forward(within(x, self.dim, self.index), self.dim, self.index)

    def backward_graph(self, grad: Tensor) -> Any:
        return linear_backward(self, grad)


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and likewise for others; see ``torch.gather``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([[1, 2], [3, 4]])
        >>> fastdl.gather(x, 1, fastdl.tensor([[1], [0]]))
        tensor([[2],
                [3]])
    """
    indices = index_array("gather", index)
    if input._data.ndim + indices.ndim <= 1 or indices.size == 0:  # an empty index may have any shape
        flat, row = reshape(input, (input.numel(),)), indices.reshape(-1)
        d = check_gather("gather", flat._data, dim if row.size else 0, row)
        return reshape(needing(TakeAlong.apply(flat, dim=d, index=row), index), indices.shape)
    d = check_gather("gather", input._data, dim, indices)
    return needing(TakeAlong.apply(input, dim=d, index=indices), index)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """:func:`gather` with input and indices broadcast to each other, indices below 0 counting from the end.

    See ``torch.take_along_dim``.
    """
    if dim is None:
        return gather(reshape(input, (input.numel(),)), 0, reshape(indices, (indices.numel(),)))
    d = axis("take_along_dim", dim, input._data.ndim)
    x, i = input._data.shape, indices._data.shape
    if len(x) != len(i):
        raise RuntimeError(f"take_along_dim: shapes {x} and {i} differ in the number of dimensions")
    if x[:d] != i[:d] or x[d + 1 :] != i[d + 1 :]:
        common = broadcast_shape("take_along_dim", (*x[:d], 1, *x[d + 1 :]), (*i[:d], 1, *i[d + 1 :]))
        input = expand(input, (*common[:d], x[d], *common[d + 1 :]))
        indices = expand(indices, (*common[:d], i[d], *common[d + 1 :]))
    if not on_device(input._data):
        try:
            return gather(input, d, indices)
        except IndexError:
            pass  # indices from the end, or wrong ones
    if indices.numel() and (indices._data < 0).any():
        indices = where(indices < 0, indices + x[d], indices)
    return gather(input, d, indices)


class Scatter(Op):
    def forward(
        self,
        x: Any,
        source: Any,
        dim: int,
        index: Any,
        value: Any = None,
        add: bool = False,
        out: Any = None,
    ) -> Any:
        self.dim, self.index, self.add = dim, index, add
        result = pooled_copy(x) if out is None else out
        part: Any = value
        if source is not None:
            self.source_shape = source.shape
            if (
                source.shape == index.shape
                and (result.ndim == 1 or index.shape == result.shape)  # a vector's index reaches all of it
                and (x.dtype is float32 or x.dtype is float64)
                and x.__class__ is np.ndarray
                and result.flags.c_contiguous
            ):  # the common case
                k = select(x)
                (k.scatter_add if add else k.scatter)(result, dim, index, source)
                return result
            part = within(source, -1, index)
        self._place(result, part)
        return result

    def _place(self, result: Any, part: Any) -> None:
        """Write ``part`` (an array or a number), or add it, where the index says."""
        dtype = result.dtype
        if not on_device(result):
            corner = within(result, self.dim, self.index)
            part = part if is_array(part) else np.array(part, dtype)
            if self.add:
                joined("scatter_add", corner, self.dim, self.index, part)
            else:
                written(select(result).scatter, corner, self.dim, self.index, part)
        elif not self.add:
            result[gather_key(self.dim, self.index)] = part
        elif is_array(part) and is_kernel_dtype(result.dtype):
            total = select(result).gather_backward(part, self.dim, self.index, result.shape[self.dim])
            result[tuple([slice(0, n) for n in total.shape])] += total
        else:
            part = part if is_array(part) else array(part, result, dtype)
            joined("scatter_add", within(result, self.dim, self.index), self.dim, self.index, part)

    def backward(self, grad: Any) -> Any:
        rest = None
        if self.needs[0]:
            rest = grad
            if not self.add:
                rest = pooled_copy(grad)
                self._place(rest, 0)
        part = None
        if self.needs[1]:
            part = taken = select(grad).gather_forward(
                within(grad, self.dim, self.index), self.dim, self.index
            )
            if taken.shape != self.source_shape:
                part = zeros(self.source_shape, grad.dtype, grad)
                within(part, -1, self.index)[...] = taken
        return rest, part

    def linear(self, x: Any, source: Any) -> Any:
        if x is None:
            result = zeros(self.shape, source.dtype, source)
        else:
            result = pooled_copy(x)
        if source is not None or not self.add:
            self._place(result, 0 if source is None else within(source, -1, self.index))
        return result

    def backward_graph(self, grad: Tensor) -> Any:
        self.shape = grad.shape
        return linear_backward(self, grad)

    shape: tuple[int, ...]

    aliases_grad = True


def as_rows(index: Any, x: Any, source: Any, dim: int) -> Any:
    """The vector of which an index was expanded to the shape of the source (``v.unsqueeze(1).expand(n, c)``), as
    graphs' programs do for want of ``index_add``; None where it was not."""
    if index.ndim < 2 or index.__class__ is not np.ndarray or index.shape != source.shape or not index.size:
        return None
    for i in range(index.ndim):
        if i != dim and (index.shape[i] != x.shape[i] or (index.strides[i] and x.shape[i] > 1)):
            return None
    return index[tuple([slice(None) if i == dim else 0 for i in range(index.ndim)])]


def _scatter(
    op: str, input: Tensor, dim: int, index: Tensor, src: Any, add: bool, out: Tensor | None
) -> Tensor:
    indices, src = index_array(op, row(index)), row(src)
    if isinstance(src, Tensor):
        if src._data.dtype != input._data.dtype:
            raise RuntimeError(f"{op}: src must have the tensor's dtype {input.dtype}, got {src.dtype}")
        if indices.size == 0:
            return input.clone() if out is None else out.copy_(input)
        d = check_gather(op, input._data, dim, indices, src._data)
        if add and (rows := as_rows(indices, input._data, src._data, d)) is not None:
            check_range(op, rows, input.shape[d])
            return apply_into(out, IndexAdd, input, src, keeps=index, dim=d, index=rows, alpha=1)
        return apply_into(out, Scatter, input, src, keeps=index, dim=d, index=indices, add=add)
    d = check_gather(op, input._data, dim, indices)
    value = filler(op, src, input._data.dtype)
    return apply_into(out, Scatter, input, None, keeps=index, dim=d, index=indices, value=value, add=add)


@number_as_row
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """out[index[i][j]][j] = src[i][j] for dim 0, the rest from input; ``src`` may be a number.

    See ``torch.scatter``.
    """
    given = value if src is None else src
    if given is None:
        raise TypeError("scatter: one of src and value must be given")
    if reduce is None:
        return _scatter("scatter", input, dim, index, given, False, out)
    if reduce == "add":
        return _scatter("scatter_add", input, dim, index, given, True, out)
    if reduce == "multiply":
        from fastdl.ops.placement import scatter_reduce

        values = given
        if not isinstance(given, Tensor):
            values = Tensor._wrap(full(index._data.shape, given, input._data.dtype, input._data))
        result = scatter_reduce(input, dim, index, values, "prod")
        return result if out is None else store("scatter", out, result)
    raise ArgumentError(f"scatter: reduce must be None, 'add' or 'multiply', got {reduce!r}")


@number_as_row
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor, *, out: Tensor | None = None) -> Tensor:
    """out[index[i][j]][j] += src[i][j] for dim 0; repeated indices add up. See ``torch.scatter_add``."""
    if not isinstance(src, Tensor):
        raise not_a_tensor("scatter_add", "src", src)
    return _scatter("scatter_add", input, dim, index, src, True, out)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened tensor; negative indices count from the end. See ``torch.take``."""
    indices = long_index("take", index)
    n = input.numel()
    flat = reshape(input, (n,))
    if not on_device(flat._data):
        try:
            taken = IndexSelect.apply(flat, dim=0, index=indices.reshape(-1))
            return reshape(needing(taken, index), indices.shape)
        except IndexError:
            pass
    return reshape(IndexSelect.apply(flat, dim=0, index=from_front("take", indices, n)), indices.shape)

"""Parts of sparse tensors, several joined, and sums: what moves or drops indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdl.devices import device_of, to_device, to_host
from fastdl.dtypes import DIFFERENTIABLE, as_dtype
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.sparse import Pattern, grouped, linear_index, not_for_sparse
from fastdl.ops.axes import normal_axes, numpy_names
from fastdl.ops.common import axes, axis, ints
from fastdl.ops.join import cat as dense_cat
from fastdl.ops.softmax import log_softmax as dense_log_softmax
from fastdl.ops.softmax import softmax as dense_softmax
from fastdl.sparse.conversion import coalesce, is_sparse, to_sparse
from fastdl.sparse.products import spread
from fastdl.sparse.tensor import alias, chosen, made, summed
from fastdl.tensor import Tensor


def _coo(x: Tensor) -> tuple[Pattern, Tensor, int]:
    """The pattern in coordinates, the values and the number of sparse axes."""
    array = x._data
    return array.pattern.coordinates(), array.values, len(array.pattern.shape)


def _moved(array: Any, like: Tensor) -> Any:
    return to_device(array, device_of(like._data))


def _with(indices: Any, shape: tuple[int, ...], values: Tensor) -> Tensor:
    return made(Pattern("sparse_coo", shape, indices.copy()), values)  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------------- axes


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in another order, sparse ones among themselves and dense ones among themselves."""
    pattern, values, sparse = _coo(input)
    order = axes("permute", ints(dims), input.ndim)
    if sorted(order) != list(range(input.ndim)) or sorted(order[:sparse]) != list(range(sparse)):
        raise ArgumentError(f"permute: sparse and dense axes cannot change places, got {order}")
    dense = [0, *[d - sparse + 1 for d in order[sparse:]]]
    kept = alias(values) if dense == sorted(dense) else values.permute(dense)
    shape = tuple([pattern.shape[d] for d in order[:sparse]])
    return _with(pattern.indices[list(order[:sparse])], shape, kept)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged; of a CSR matrix the result is CSC, and the other way round."""
    a, b = axis("transpose", dim0, input.ndim), axis("transpose", dim1, input.ndim)
    array = input._data
    if a == b:
        return input
    if input.ndim == len(array.pattern.shape) == 2:
        return made(array.pattern.transposed(), alias(array.values))  # type: ignore[no-any-return]
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    return permute(input, order)


def t(input: Tensor) -> Tensor:
    """The matrix with rows and columns exchanged; a vector as it is."""
    if input.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.ndim}D")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def adjoint(input: Tensor) -> Tensor:
    """:func:`t` of a real matrix."""
    if input.is_complex():
        raise not_for_sparse("H of complex numbers")
    return t(input)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new axis of extent 1."""
    pattern, values, sparse = _coo(input)
    d = axis("unsqueeze", dim, input.ndim + 1, new=1)
    if d > sparse:
        return made(pattern, values.unsqueeze(d - sparse + 1))  # type: ignore[no-any-return]
    shape = (*pattern.shape[:d], 1, *pattern.shape[d:])
    return _with(np.insert(to_host(pattern.indices), d, 0, 0), shape, alias(values))


def cat(tensors: Sequence[Tensor], dim: int = 0, **names: Any) -> Tensor:
    """Sparse tensors one after the other along an axis."""
    dim, _ = numpy_names("cat", names, dim)
    if isinstance(tensors, Tensor):
        raise TypeError(f"cat: expects a tuple or list of tensors, got {type(tensors).__name__}")
    for i, x in enumerate(tensors):
        if not is_sparse(x):
            raise ArgumentError(
                f"Concatenating sparse tensors, but a dense tensor was found at position {i}."
            )
    parts = [_coo(x) for x in tensors]
    first, sparse = tensors[0], parts[0][2]
    d = axis("cat", dim, first.ndim)
    for x, (_, _, count) in zip(tensors, parts, strict=True):
        if count != sparse or x.ndim != first.ndim or not _alike(x.shape, first.shape, d):
            raise ArgumentError(
                f"cat: the tensors must agree in all axes but {d}, got {[tuple(x.shape) for x in tensors]}"
            )
    if d >= sparse:
        raise not_for_sparse("cat along a dense axis")
    starts = np.cumsum([0, *[x.shape[d] for x in tensors]]).tolist()
    indices = []
    for (pattern, _, _), start in zip(parts, starts, strict=False):
        moved = pattern.indices.copy()
        moved[d] += start
        indices.append(moved)
    shape = (*parts[0][0].shape[:d], starts[-1], *parts[0][0].shape[d + 1 :])
    return _with(np.concatenate(indices, 1), shape, dense_cat([values for _, values, _ in parts], 0))


def _alike(a: Any, b: Any, but: int) -> bool:
    return all([m == n for i, (m, n) in enumerate(zip(a, b, strict=True)) if i != but])


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Sparse tensors side by side along a new axis."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"stack: expects a tuple or list of tensors, got {type(tensors).__name__}")
    return cat([unsqueeze(x, dim) for x in tensors], axis("stack", dim, tensors[0].ndim + 1, new=1))


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Sparse matrices below each other."""
    return cat(tensors, 0)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Sparse matrices beside each other."""
    return cat(tensors, 1)


# ---------------------------------------------------------------------------------------------------------- parts


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The slice ``index`` along an axis; dense where no sparse axis is left."""
    pattern, values, sparse = _coo(input)
    d = axis("select", dim, input.ndim)
    extent = input.shape[d]
    if not -extent <= index < extent:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(input.shape)} at dimension {d}"
        )
    index = index % extent
    if d >= sparse:
        return made(pattern, values.select(d - sparse + 1, index))  # type: ignore[no-any-return]
    indices = to_host(pattern.indices)
    kept = np.flatnonzero(indices[d] == index)
    found = chosen(values, _moved(kept, values))
    if sparse == 1:
        return found.sum(0).to(values.dtype)
    shape = pattern.shape[:d] + pattern.shape[d + 1 :]
    return _with(_moved(np.delete(indices[:, kept], d, 0), values), shape, found)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All slices along an axis."""
    return tuple([select(input, dim, i) for i in range(input.shape[axis("unbind", dim, input.ndim)])])


def getitem(input: Tensor, key: Any) -> Tensor:
    """``x[i]``, ``x[i, j]``, ``x[:, j]``: integers and whole axes."""
    at = 0
    result = input
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, slice) and part == slice(None):
            at += 1
        elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
            result = select(result, at, int(part)) if is_sparse(result) else result.select(at, int(part))
        else:
            raise not_for_sparse("indexing with other than integers and ':'")
    return result


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices that ``index`` names along an axis."""
    pattern, values, sparse = _coo(input)
    d, extent = axis("index_select", dim, input.ndim), input.shape[axis("index_select", dim, input.ndim)]
    if index.ndim > 1:
        raise IndexError(f"index_select: index must have one dimension, got shape {tuple(index.shape)}")
    wanted = to_host(index._data).reshape(-1)
    if wanted.dtype.kind not in "iu":
        raise DtypeError(f"index_select: index must be integers, got {index.dtype}")
    if wanted.size and not (-extent <= wanted.min() and wanted.max() < extent):
        raise IndexError(f"index_select(): index out of range for an axis of {extent}")
    wanted = wanted.astype(np.int64) % max(extent, 1)
    if d >= sparse:
        return made(pattern, chosen_along(values, d - sparse + 1, index))  # type: ignore[no-any-return]
    indices = to_host(pattern.indices)
    runs = grouped(indices[d], indices[d], extent)
    key, entry = spread(runs.start, wanted)
    entry = entry if runs.order is None else runs.order[entry]
    found = indices[:, entry]
    found[d] = key
    shape = (*pattern.shape[:d], len(wanted), *pattern.shape[d + 1 :])
    return _with(_moved(found, values), shape, chosen(values, _moved(entry, values)))


def chosen_along(values: Tensor, dim: int, index: Tensor) -> Tensor:
    """``index_select`` of the values."""
    return values.index_select(dim, index)


def narrow_copy(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The slices from ``start`` on, ``length`` of them."""
    d = axis("narrow_copy", dim, input.ndim)
    if not 0 <= start <= start + length <= input.shape[d]:
        raise RuntimeError(
            f"narrow_copy: start ({start}) + length ({length}) exceeds dim {dim}, which has extent {input.shape[d]}"
        )
    where = _moved(np.arange(start, start + length), input._data.values)
    return index_select(input, dim, Tensor._wrap(where))


# ----------------------------------------------------------------------------------------------------------- sums


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **names: Any) -> Tensor:
    """The sum of all elements, or along axes: sparse where a sparse axis is left. See ``torch.sparse.sum``.

    Example:
        >>> import fastdl
        >>> degree = fastdl.sparse.sum(fastdl.sparse_coo_tensor([[0, 0], [0, 1]], [2.0, 3.0], (2, 2)), 1)
        >>> degree.to_dense()
        tensor([5., 0.])
    """
    dim, keepdim = numpy_names("sum", names, dim, keepdim)
    pattern, values, sparse = _coo(input)
    if dtype is not None:
        values = values.to(as_dtype("sum", dtype))
    dims = normal_axes("sum", dim, input.ndim)
    if dims is None:
        total = values.sum()
        return total.reshape([1] * input.ndim) if keepdim else total
    dense = [d - sparse + 1 for d in dims if d >= sparse]
    if dense:
        values = values.sum(dense, keepdim)
    kept = [d for d in range(sparse) if d not in dims]
    if not kept:
        total = values.sum(0)
        return total.reshape([1] * sparse + list(total.shape)) if keepdim else total
    if len(kept) == sparse:
        return coalesce(made(pattern, values))
    indices, shape = pattern.indices[kept], tuple([pattern.shape[d] for d in kept])
    if keepdim:
        whole = np.zeros_like(pattern.indices)
        whole[kept] = indices
        indices, shape = whole, tuple([n if d in kept else 1 for d, n in enumerate(pattern.shape)])
    return coalesce(_with(indices, shape, values))


def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """The norm of all elements."""
    if dim is not None:
        raise not_for_sparse("norm along an axis")
    return coalesce(to_sparse(input))._data.values.norm(p, dtype=dtype)  # type: ignore[no-any-return]


def any(input: Tensor) -> Tensor:
    """Is any element not zero?"""
    return coalesce(to_sparse(input))._data.values.any()  # type: ignore[no-any-return]


def _groups(op: str, input: Tensor, dim: int, dtype: Any) -> tuple[Pattern, Tensor, Any, int]:
    """The coalesced pattern and values; the group of every entry, of those that differ along ``dim`` only; how many."""
    if not is_sparse(input):
        raise ArgumentError(f"{op}: takes a sparse tensor, got a dense one; use {op.rpartition('.')[2]}")
    x = coalesce(to_sparse(input))._data
    values = x.values if dtype is None else x.values.to(as_dtype(op, dtype))
    if values._data.dtype.kind not in DIFFERENTIABLE:
        raise DtypeError(f"{op}: input must be floating-point or complex, got {values.dtype}; give dtype=")
    sparse, d = len(x.pattern.shape), axis(op, dim, x.ndim)
    if d >= sparse:
        return x.pattern, values, None, d - sparse + 1
    others = [i for i in range(sparse) if i != d]
    if not others:
        return x.pattern, values, np.zeros(x.pattern.count, np.int64, like=x.pattern.indices), 1
    if sparse == 2:
        return x.pattern, values, x.pattern.indices[others[0]], x.pattern.shape[others[0]]
    shape = tuple([x.pattern.shape[i] for i in others])
    places, group = np.unique(linear_index(to_host(x.pattern.indices)[others], shape), return_inverse=True)
    return x.pattern, values, _moved(group.reshape(-1), values), len(places)


def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Softmax along an axis over the elements that are stored; the others count as minus infinity.

    See ``torch.sparse.softmax``.

    Example:
        >>> import fastdl
        >>> x = fastdl.sparse_coo_tensor([[0, 0, 1], [0, 2, 1]], [1.0, 1.0, 7.0])
        >>> fastdl.sparse.softmax(x, 1).values()
        tensor([0.5000, 0.5000, 1.0000])
    """
    pattern, values, group, count = _groups("sparse.softmax", input, dim, dtype)
    if group is None:
        return made(pattern, dense_softmax(values, count))  # type: ignore[no-any-return]
    raised = _below_largest(values, group, count).exp()
    return made(pattern, raised / chosen(summed(raised, group, count), group))  # type: ignore[no-any-return]


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """The logarithm of :func:`softmax`; see ``torch.sparse.log_softmax``."""
    pattern, values, group, count = _groups("sparse.log_softmax", input, dim, dtype)
    if group is None:
        return made(pattern, dense_log_softmax(values, count))  # type: ignore[no-any-return]
    below = _below_largest(values, group, count)
    return made(pattern, below - chosen(summed(below.exp(), group, count).log(), group))  # type: ignore[no-any-return]


def _below_largest(values: Tensor, group: Any, count: int) -> Tensor:
    """The values minus the largest of their group, which is a constant to the gradient: it cancels."""
    host, of = to_host(values._data), to_host(group)
    largest = np.full((count, *host.shape[1:]), -np.inf, host.dtype)
    np.maximum.at(largest, of, host)
    largest[~np.isfinite(largest)] = 0
    return values - Tensor._wrap(_moved(largest[of], values))

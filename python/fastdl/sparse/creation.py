"""Sparse tensors from indices and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.arrays import pooled_copy
from fastdl.compat import sparse_coo, sparse_csc, sparse_csr
from fastdl.creation import as_tensor, tensor
from fastdl.devices import device_of, resolve, to_device, to_host
from fastdl.dtypes import CPU, DIFFERENTIABLE, as_dtype, get_default_dtype, int64
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels.sparse import Pattern, is_sparse, not_for_sparse
from fastdl.ops.common import ints
from fastdl.sparse.tensor import alias, made
from fastdl.tensor import Tensor


def _values(op: str, values: Any, dtype: Any, device: Any) -> Tensor:
    wanted = None if dtype is None else as_dtype(op, dtype)
    if not isinstance(values, Tensor):
        return tensor(values, dtype=wanted, device=device)
    if is_sparse(values):
        raise not_for_sparse(f"{op} of values that are sparse themselves")
    return alias(values if wanted is None and device is None else values.to(device=device, dtype=wanted))


def _indices(op: str, name: str, value: Any) -> Any:
    """int64 in the CPU's memory: a copy of its own, or one that nobody else can write to."""
    array = to_host(as_tensor(value)._data)
    if array.dtype.kind == "c":
        raise DtypeError(f"{op}: {name} must be integers, got {array.dtype}")
    return pooled_copy(array, int64)


def _extents(op: str, size: Any) -> tuple[int, ...]:
    shape = ints((size,))
    if min(shape, default=0) < 0:
        raise ArgumentError(f"{op}: extents must not be negative, got {shape}")
    return shape


def _finished(op: str, pattern: Pattern, values: Tensor, requires_grad: bool) -> Tensor:
    where = device_of(values._data)
    result: Tensor = made(pattern if where is CPU else pattern.moved(where), values)
    if requires_grad:
        if values._data.dtype.kind not in DIFFERENTIABLE:
            raise RuntimeError(
                f"{op}: only floating-point and complex tensors can require a gradient, got dtype {values.dtype}"
            )
        if not values._requires_grad:
            result._requires_grad = True
    return result


def sparse_coo_tensor(
    indices: Any = None,
    values: Any = None,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
    is_coalesced: bool | None = None,
) -> Tensor:
    """A sparse tensor in coordinates; see ``torch.sparse_coo_tensor``.

    Args:
        indices: (sparse axes, entries): the place of every entry. Places may repeat; their values add up.
        values: (entries, *dense axes), a tensor whose history the result has, or numbers.
        size: the shape; by default as large as the indices ask for. Given alone: a tensor without entries.
        dtype, device: by default those of ``values``.
        requires_grad: the result is a leaf, unless ``values`` require a gradient.
        check_invariants: accepted: indices are always checked.
        is_coalesced: True says that the indices are sorted and do not repeat; not checked.

    Raises:
        RuntimeError: indices out of range, or sizes that do not fit.

    Example:
        >>> import fastdl
        >>> fastdl.sparse_coo_tensor([[0, 1, 1], [2, 0, 2]], [3.0, 4.0, 5.0], (2, 3)).to_dense()
        tensor([[0., 0., 3.],
                [4., 0., 5.]])
    """
    op = "sparse_coo_tensor"
    if values is None:
        size = indices if size is None else size
        if size is None:
            raise TypeError(f"{op}: give indices and values, or a size")
        shape = _extents(op, size)
        d = get_default_dtype() if dtype is None else as_dtype(op, dtype)
        where = resolve(op, device)
        array = to_device(np.zeros(0, d), where)
        pattern = Pattern("sparse_coo", shape, np.zeros((len(shape), 0), np.int64))
        return _finished(op, pattern, Tensor._wrap(array), requires_grad)
    places, kept = _indices(op, "indices", indices), _values(op, values, dtype, device)
    if places.ndim != 2:
        if places.ndim == 1 and places.size == 0:
            places = places.reshape(0, 0)
        elif places.ndim != 1:
            raise ArgumentError(f"indices must be sparse_dim x nnz, but got: {list(places.shape)}")
        else:
            places = places.reshape(len(places), 1) if kept.ndim == 0 else places[:, None]
    if kept.ndim == 0:
        kept = kept.expand(places.shape[1])
    axes, entries = places.shape
    if size is None:
        if not entries:
            raise ArgumentError(f"{op}: without entries the size must be given")
        shape = (*(places.max(1) + 1).tolist(), *kept.shape[1:])
    else:
        shape = _extents(op, size)
        if len(shape) != axes + kept.ndim - 1:
            raise ArgumentError(
                f"'len(size) == sparse_dim + dense_dim' is not satisfied: len(size) = {len(shape)}, sparse_dim = "
                f"{axes}, dense_dim = {kept.ndim - 1}"
            )
    if kept.shape[0] != entries:
        raise ArgumentError(
            f"indices and values must have same nnz, but got nnz from indices: {entries}, nnz from values: "
            f"{kept.shape[0]}"
        )
    if tuple(kept.shape[1:]) != shape[axes:]:
        raise ArgumentError(
            f"values has incorrect size, expected {[entries, *shape[axes:]]}, got {list(kept.shape)}"
        )
    _check_places(places, shape)
    pattern = Pattern("sparse_coo", shape[:axes], places, coalesced=bool(is_coalesced))
    return _finished(op, pattern, kept, requires_grad)


def _check_places(places: Any, shape: tuple[int, ...]) -> None:
    if not places.size:
        return
    for d, (low, high) in enumerate(zip(places.min(1).tolist(), places.max(1).tolist(), strict=True)):
        if low < 0:
            raise ArgumentError(f"found negative index {low} for dim {d}")
        if high >= shape[d]:
            raise ArgumentError(
                f"size is inconsistent with indices: for dim {d}, size is {shape[d]} but found index {high}"
            )


def _compressed(
    op: str, layout: str, start: Any, inner: Any, values: Any, size: Any, dtype: Any, device: Any, grad: bool
) -> Tensor:
    rows, columns = (
        ("crow_indices", "col_indices") if layout == "sparse_csr" else ("ccol_indices", "row_indices")
    )
    extent = "ncols" if layout == "sparse_csr" else "nrows"
    start, inner = _indices(op, rows, start), _indices(op, columns, inner)
    kept = _values(op, values, dtype, device)
    if start.ndim != 1 or inner.ndim != 1 or kept.ndim != 1 or not start.size:
        raise ArgumentError(
            f"{op}: takes matrices without batch and dense axes: vectors {rows}, {columns} and values, got shapes "
            f"{start.shape}, {inner.shape} and {tuple(kept.shape)}"
        )
    outer = len(start) - 1
    if size is None:
        widest = int(inner.max()) + 1 if inner.size else 0
        size = (outer, widest) if layout == "sparse_csr" else (widest, outer)
    shape = _extents(op, size)
    if len(shape) != 2:
        raise ArgumentError(f"{op}: size must have two extents, got {shape}")
    major, minor = shape if layout == "sparse_csr" else shape[::-1]
    if outer != major:
        of = "rows" if layout == "sparse_csr" else "columns"
        raise ArgumentError(
            f"{rows}.shape[-1] must be equal to the number of {of} + 1 (={major + 1}), but got {outer + 1}"
        )
    if len(inner) != len(kept):
        raise ArgumentError(
            f"number of {columns} must be the same as number of values, but got {len(inner)} and {len(kept)}"
        )
    if start[0] != 0:
        raise ArgumentError(f"`{rows}[..., 0] == 0` is not satisfied.")
    if start[-1] != len(inner):
        raise ArgumentError(f"`{rows}[..., -1] == nnz` is not satisfied.")
    if (start[1:] < start[:-1]).any():
        raise ArgumentError(f"`0 <= {rows}[..., 1:] - {rows}[..., :-1] <= {extent}` is not satisfied.")
    if inner.size and (inner.min() < 0 or inner.max() >= minor):
        raise ArgumentError(f"`0 <= {columns} < {extent}` is not satisfied.")
    rising = np.ones(max(len(inner) - 1, 0), bool)
    if len(inner):
        rising = inner[1:] > inner[:-1]
        ends = start[1:-1]
        rising[ends[(ends > 0) & (ends < len(inner))] - 1] = True
    pattern = Pattern(layout, shape, None, start, inner, bool(rising.all()))
    return _finished(op, pattern, kept, grad)


def sparse_csr_tensor(
    crow_indices: Any,
    col_indices: Any,
    values: Any,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
) -> Tensor:
    """A sparse matrix in compressed rows; see ``torch.sparse_csr_tensor``.

    Args:
        crow_indices: (rows + 1,): where the entries of each row begin, and where the last one's end.
        col_indices: (entries,): the column of every entry.
        values: (entries,), a tensor whose history the result has, or numbers.
        size: (rows, columns); by default as many columns as the indices ask for.

    Example:
        >>> import fastdl
        >>> fastdl.sparse_csr_tensor([0, 1, 2], [1, 0], [2.0, 3.0]) @ fastdl.tensor([1.0, 10.0])
        tensor([20.,  3.])
    """
    op = "sparse_csr_tensor"
    return _compressed(
        op, "sparse_csr", crow_indices, col_indices, values, size, dtype, device, requires_grad
    )


def sparse_csc_tensor(
    ccol_indices: Any,
    row_indices: Any,
    values: Any,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
) -> Tensor:
    """A sparse matrix in compressed columns, as :func:`sparse_csr_tensor`; see ``torch.sparse_csc_tensor``."""
    op = "sparse_csc_tensor"
    return _compressed(
        op, "sparse_csc", ccol_indices, row_indices, values, size, dtype, device, requires_grad
    )


def sparse_compressed_tensor(
    compressed_indices: Any,
    plain_indices: Any,
    values: Any,
    size: Any = None,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
) -> Tensor:
    """:func:`sparse_csr_tensor` or :func:`sparse_csc_tensor`, as ``layout`` says."""
    if layout not in (sparse_csr, sparse_csc):
        raise ArgumentError(
            f"sparse_compressed_tensor: layout must be sparse_csr or sparse_csc, got {layout}"
        )
    make = sparse_csr_tensor if layout is sparse_csr else sparse_csc_tensor
    return make(
        compressed_indices,
        plain_indices,
        values,
        size,
        dtype=dtype,
        device=device,
        requires_grad=requires_grad,
    )


def empty_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """No entries, with the shape, layout and dtype of a sparse tensor: what ``zeros_like`` gives of one."""
    array = input._data
    result = array.values.new_zeros((0, *array.values.shape[1:]), dtype=dtype, device=device)
    shape, indices = array.pattern.shape, np.zeros((len(array.pattern.shape), 0), np.int64)
    if array.pattern.layout == "sparse_coo":
        pattern = Pattern("sparse_coo", shape, indices)
    else:
        start = np.zeros(len(array.pattern.start), np.int64)
        pattern = Pattern(array.pattern.layout, shape, None, start, indices[0], True)
    return _finished("zeros_like", pattern, result, requires_grad)


def spdiags(diagonals: Tensor, offsets: Tensor, shape: Any, layout: Any = None) -> Tensor:
    """A sparse matrix with given diagonals; see ``torch.sparse.spdiags``.

    Args:
        diagonals: (D, N), a diagonal in each row; the column of an element is its column in the matrix.
        offsets: (D,): how far each lies above the main diagonal.
        shape: (rows, columns).
        layout: ``sparse_coo`` (default), ``sparse_csr`` or ``sparse_csc``.

    Example:
        >>> import fastdl
        >>> fastdl.sparse.spdiags(fastdl.ones(1, 2), fastdl.tensor([1]), (2, 2)).to_dense()
        tensor([[0., 1.],
                [0., 0.]])
    """
    rows, columns = ints((shape,))
    table = diagonals.reshape(1, -1) if diagonals.ndim == 1 else diagonals
    above = to_host(offsets._data).reshape(-1, 1)
    if len(above) != table.shape[0]:
        raise ArgumentError(
            f"spdiags: number of diagonals ({table.shape[0]}) does not match the number of offsets ({len(above)})"
        )
    if len(np.unique(above)) != len(above):
        raise ArgumentError("spdiags: Offset tensor contains duplicate values")
    column = np.arange(table.shape[1])
    row = column - above
    inside = np.flatnonzero(((row >= 0) & (row < rows) & (column < columns)).reshape(-1))
    places = np.stack([row.reshape(-1)[inside], np.broadcast_to(column, row.shape).reshape(-1)[inside]])
    where = Tensor._wrap(to_device(inside, device_of(table._data)))
    kept = table.reshape(-1).index_select(0, where)
    result = sparse_coo_tensor(places, kept, (rows, columns))
    return result if layout in (None, sparse_coo) else result.to_sparse(layout=layout)


def restored(layout: str, places: Any, values: Any, shape: Any, coalesced: bool) -> Any:
    """A sparse tensor from its parts, as files and pickles hold them; checked."""
    size = (*shape, *values.shape[1:])
    if {"sparse_coo": 1, "sparse_csr": 2, "sparse_csc": 2}.get(layout) != len(places):
        raise ArgumentError(f"no sparse tensor of layout {layout!r} has {len(places)} arrays of indices")
    if layout == "sparse_coo":
        return sparse_coo_tensor(places[0], values, size, is_coalesced=coalesced)
    make = sparse_csr_tensor if layout == "sparse_csr" else sparse_csc_tensor
    return make(places[0], places[1], values, size)


class _OfDtype(type):
    """The type of the types below."""

    dtype: Any
    layout = sparse_coo

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Tensor) and value.is_sparse and value._data.dtype is cls.dtype

    def __call__(cls, *data: Any) -> Tensor:
        if not data or all([isinstance(n, int) for n in data]):
            return sparse_coo_tensor(size=data or (0,), dtype=cls.dtype)
        if len(data) == 1:
            return sparse_coo_tensor(size=tuple(data[0]), dtype=cls.dtype)
        return sparse_coo_tensor(*data, dtype=cls.dtype)


def old_type(name: str, dtype: Any) -> Any:
    text = f"PyTorch's older notation: {name}(indices, values, size) makes a sparse tensor; also for ``isinstance``."
    return _OfDtype(name, (), {"dtype": dtype, "__doc__": text, "__module__": "fastdl.sparse"})

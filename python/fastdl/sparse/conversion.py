"""From dense tensors to sparse ones and back, and what tells them apart: methods that every tensor has."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastdl.compat import sparse_coo, sparse_csc, sparse_csr, strided
from fastdl.devices import device_of, to_device, to_host
from fastdl.errors import ArgumentError
from fastdl.kernels.sparse import Pattern, SparseArray
from fastdl.ops.indexing import IndexSelect
from fastdl.ops.views import reshape
from fastdl.sparse.tensor import alias, chosen, made, summed
from fastdl.tensor import Tensor

_SPELLED = {"sparse_coo": "Sparse", "sparse_csr": "SparseCsr", "sparse_csc": "SparseCsc"}


def is_sparse(value: Any) -> bool:
    """Is this a sparse tensor, of any layout?"""
    return isinstance(value, Tensor) and value._data.__class__ is SparseArray


def _checked(op: str, x: Tensor, layouts: tuple[str, ...], wanted: str) -> SparseArray:
    array: Any = x._data
    if array.__class__ is not SparseArray or array.pattern.layout not in layouts:
        got = _SPELLED[array.pattern.layout] if array.__class__ is SparseArray else "Strided"
        raise ArgumentError(f"{op} expected {wanted} tensor layout but got {got}")
    return array


def _coordinate(op: str, x: Tensor) -> SparseArray:
    return _checked(op, x, ("sparse_coo",), "sparse coordinate")


def _shown(array: Any) -> Tensor:
    """Indices as a tensor that cannot be written to: patterns are shared and never change."""
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return Tensor._wrap(array)


def is_coalesced(self: Tensor) -> bool:
    """Are the entries of a coordinate tensor sorted, with no place twice? See ``torch.Tensor.is_coalesced``."""
    return bool(_coordinate("is_coalesced", self).pattern.coalesced)


def coalesce(self: Tensor) -> Tensor:
    """The entries sorted, those of one place added up; the tensor itself if they are. See ``torch.Tensor.coalesce``.

    Example:
        >>> import fastdl
        >>> fastdl.sparse_coo_tensor([[1, 0, 1]], [1.0, 2.0, 3.0]).coalesce().values()
        tensor([2., 4.])
    """
    array = _coordinate("coalesce", self)
    if array.pattern.coalesced:
        return self
    pattern, order, goes_to = array.pattern.merged()
    if goes_to is not None:
        return made(pattern, summed(array.values, goes_to, pattern.count))  # type: ignore[no-any-return]
    values = alias(array.values) if order is None else chosen(array.values, order)
    return made(pattern, values)  # type: ignore[no-any-return]


def _of_coalesced(op: str, x: Tensor) -> SparseArray:
    array = _coordinate(op, x)
    if not array.pattern.coalesced:
        raise ArgumentError(f"Cannot get {op} on an uncoalesced tensor, please call .coalesce() first")
    return array


def indices(self: Tensor) -> Tensor:
    """The places of a coalesced tensor's entries, (sparse axes, entries), read-only. See ``torch.Tensor.indices``."""
    return _shown(_of_coalesced("indices", self).pattern.indices)


def values(self: Tensor) -> Tensor:
    """The entries themselves, (entries, *dense axes); see ``torch.Tensor.values``."""
    array = _checked("values", self, tuple(_SPELLED), "sparse")
    return alias((_of_coalesced("values", self) if self.is_sparse else array).values)


def _indices(self: Tensor) -> Tensor:
    """:func:`indices` of any coordinate tensor."""
    return _shown(_coordinate("_indices", self).pattern.indices)


def _values(self: Tensor) -> Tensor:
    """:func:`values` of any coordinate tensor, without history."""
    return _coordinate("_values", self).values.detach()  # type: ignore[no-any-return]


def crow_indices(self: Tensor) -> Tensor:
    """Where each row's entries begin, and the last one's end, of a CSR tensor; read-only."""
    row = "sparse row compressed"
    return _shown(_checked("crow_indices", self, ("sparse_csr",), row).pattern.start)


def col_indices(self: Tensor) -> Tensor:
    """The column of every entry of a CSR tensor; read-only."""
    row = "sparse row compressed"
    return _shown(_checked("col_indices", self, ("sparse_csr",), row).pattern.inner)


def ccol_indices(self: Tensor) -> Tensor:
    """Where each column's entries begin, and the last one's end, of a CSC tensor; read-only."""
    column = "sparse column compressed"
    return _shown(_checked("ccol_indices", self, ("sparse_csc",), column).pattern.start)


def row_indices(self: Tensor) -> Tensor:
    """The row of every entry of a CSC tensor; read-only."""
    column = "sparse column compressed"
    return _shown(_checked("row_indices", self, ("sparse_csc",), column).pattern.inner)


def sparse_dim(self: Tensor) -> int:
    """The number of sparse axes; 0 of a dense tensor."""
    return len(self._data.pattern.shape) if is_sparse(self) else 0


def dense_dim(self: Tensor) -> int:
    """The number of dense axes, which come last."""
    return self.ndim - sparse_dim(self)


def _nnz(self: Tensor) -> int:
    """How many entries are stored."""
    return _checked("_nnz", self, tuple(_SPELLED), "sparse").pattern.count


def to_dense(self: Tensor, dtype: Any = None, *, masked_grad: bool | None = None) -> Tensor:
    """All elements in an array; entries of one place are added up. See ``torch.Tensor.to_dense``.

    The gradient reaches the entries that are stored, whatever ``masked_grad`` says.

    Example:
        >>> import fastdl
        >>> fastdl.sparse_coo_tensor([[0, 1], [1, 0]], [2.0, 3.0], (2, 2)).to_dense()
        tensor([[0., 2.],
                [3., 0.]])
    """
    if not is_sparse(self):
        return self if dtype is None else self.to(dtype)
    array = self._data
    kept = array.values if dtype is None else array.values.to(dtype)
    flat = summed(kept, array.pattern.linear(), prod(array.pattern.shape))
    return reshape(flat, array.shape)


def to_sparse(
    self: Tensor,
    sparse_dim: int | None = None,
    *,
    layout: Any = None,
    blocksize: Any = None,
    dense_dim: int | None = None,
) -> Tensor:
    """The elements that are not zero, in coordinates; see ``torch.Tensor.to_sparse``.

    Args:
        sparse_dim: how many axes are sparse, all by default; of the others whole slices are stored.
        layout: ``sparse_coo`` (default), ``sparse_csr`` or ``sparse_csc``.
        blocksize: must be None.

    Example:
        >>> import fastdl
        >>> fastdl.tensor([[0.0, 5.0], [0.0, 0.0]]).to_sparse()
        tensor(indices=tensor([[0],
                               [1]]),
               values=tensor([5.]),
               size=(2, 2), nnz=1, layout=fastdl.sparse_coo)
    """
    if blocksize is not None:
        raise ArgumentError("to_sparse: layouts of blocks are not there; blocksize must be None")
    if layout is sparse_csr:
        return to_sparse_csr(self)
    if layout is sparse_csc:
        return to_sparse_csc(self)
    if layout is strided:
        return to_dense(self)
    if layout not in (None, sparse_coo):
        raise ArgumentError(f"to_sparse: layout must be sparse_coo, sparse_csr or sparse_csc, got {layout}")
    if is_sparse(self):
        array = self._data
        if array.pattern.layout == "sparse_coo":
            return self
        return made(array.pattern.coordinates(), alias(array.values))  # type: ignore[no-any-return]
    ndim = self.ndim
    axes = sparse_dim if sparse_dim is not None else ndim - (dense_dim or 0)
    if not (0 < axes <= ndim or axes == ndim == 0):
        raise ArgumentError(f"to_sparse: sparse_dim must be in [1, {ndim}], got {axes}")
    host = to_host(self._data)
    there = host != 0 if axes == ndim else (host != 0).any(tuple(range(axes, ndim)))
    places = np.flatnonzero(there)
    shape = tuple(self.shape[:axes])
    found = np.zeros((axes, len(places)), np.int64)
    if axes:
        found[...] = np.unravel_index(places, shape)
    where = device_of(self._data)
    pattern = Pattern("sparse_coo", shape, to_device(found, where), coalesced=True)
    flat = reshape(self, (prod(shape), *self.shape[axes:]))
    return made(pattern, IndexSelect.apply(flat, dim=0, index=to_device(places, where)))  # type: ignore[no-any-return]


to_sparse_coo = to_sparse


def _compressed(self: Tensor, op: str, layout: str, dense_dim: int | None) -> Tensor:
    if dense_dim:
        raise ArgumentError(f"{op}: dense_dim must be 0, got {dense_dim}")
    if is_sparse(self) and self._data.pattern.layout == layout:
        return self
    array: Any = to_sparse(self)._data
    if array.ndim != 2 or len(array.pattern.shape) != 2:
        raise ArgumentError(f"{op}: takes matrices without dense axes, got shape {tuple(self.shape)}")
    array = coalesce(made(array.pattern, array.values))._data
    runs = array.pattern.by_row() if layout == "sparse_csr" else array.pattern.by_column()
    pattern = Pattern(layout, array.pattern.shape, None, runs.start, runs.column, True)
    return made(pattern, chosen(alias(array.values), runs.order))  # type: ignore[no-any-return]


def to_sparse_csr(self: Tensor, dense_dim: int | None = None) -> Tensor:
    """A matrix in compressed rows; see ``torch.Tensor.to_sparse_csr``."""
    return _compressed(self, "to_sparse_csr", "sparse_csr", dense_dim)


def to_sparse_csc(self: Tensor, dense_dim: int | None = None) -> Tensor:
    """A matrix in compressed columns; see ``torch.Tensor.to_sparse_csc``."""
    return _compressed(self, "to_sparse_csc", "sparse_csc", dense_dim)


def sparse_mask(self: Tensor, mask: Tensor) -> Tensor:
    """The elements at the places of the sparse tensor ``mask``; see ``torch.Tensor.sparse_mask``.

    Example:
        >>> import fastdl
        >>> fastdl.ones(2, 2).sparse_mask(fastdl.eye(2).to_sparse()).values()
        tensor([1., 1.])
    """
    if not is_sparse(mask):
        raise ArgumentError("sparse_mask: mask must be a sparse tensor")
    if self.shape != mask.shape:
        raise ArgumentError(
            f"sparse_mask: the tensor and mask must have one shape, got {tuple(self.shape)} and {tuple(mask.shape)}"
        )
    pattern = mask._data.pattern
    if is_sparse(self):
        values = _looked_up(self, pattern)
    else:
        flat = reshape(self, (prod(pattern.shape), *self.shape[len(pattern.shape) :]))
        values = IndexSelect.apply(flat, dim=0, index=pattern.linear())
    return made(pattern, values)  # type: ignore[no-any-return]


def _looked_up(self: Tensor, pattern: Pattern) -> Tensor:
    """The elements of a sparse tensor at other places: 0 where it has none."""
    own = coalesce(to_sparse(self))._data
    if own.pattern.shape != pattern.shape:
        raise ArgumentError("sparse_mask: the tensor and mask must have the same sparse axes")
    if own.pattern.count == 0:
        zeros = np.zeros((pattern.count, *own.values.shape[1:]), own.dtype, like=own.values._data)
        return Tensor._wrap(zeros)
    have, asked = to_host(own.pattern.linear()), to_host(pattern.linear())
    at = np.minimum(np.searchsorted(have, asked), len(have) - 1)
    where = device_of(own.values._data)
    found = chosen(own.values, to_device(at, where))
    missing = Tensor._wrap(to_device(have[at] != asked, where))
    return found.masked_fill(missing.reshape(-1, *[1] * (found.ndim - 1)), 0)


METHODS = """is_coalesced coalesce indices values _indices _values crow_indices col_indices ccol_indices row_indices
    sparse_dim dense_dim _nnz to_dense to_sparse to_sparse_coo to_sparse_csr to_sparse_csc sparse_mask"""

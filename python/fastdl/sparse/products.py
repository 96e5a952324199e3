"""Products of sparse matrices with dense ones and with each other.

A row of sparse @ dense is a weighted sum of rows of the dense matrix: a bag of an embedding (``embedding_bag``), whose
kernels share out rows and entries over the threads and sum in registers, in the order of the entries. The gradient of
the dense matrix is the same product with the entries by column, that of the values a dot product for each entry; the
three are each other's gradients. No sum is ever shared between threads, so results are the same every time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.devices import device_of, to_device, to_host
from fastdl.dtypes import FLOATING, float32, float64
from fastdl.errors import ArgumentError, DtypeError
from fastdl.kernels import on_device, select
from fastdl.kernels.sparse import Pattern, Runs, SparseArray, not_for_sparse
from fastdl.ops.common import check_tensors
from fastdl.ops.placement import index_reduce
from fastdl.sparse.conversion import coalesce, is_sparse, to_sparse, to_sparse_csr
from fastdl.sparse.tensor import alias, chosen, made, summed
from fastdl.tensor import Tensor

_REDUCTIONS = {"sum": "sum", "mean": "mean", "amax": "amax", "amin": "amin", "max": "amax", "min": "amin"}


class SparseMatMul(Op):
    """sparse @ dense, of a pattern (M, K), its values and a matrix (K, N)."""

    floats_only = True
    saves = (0, 1)

    def forward(self, values: Any, dense: Any, pattern: Pattern) -> Any:
        self.values, self.dense, self.pattern = values, dense, pattern
        return _product(pattern.by_row(), values, dense)

    def backward(self, grad: Any) -> Any:
        grad_values = grad_dense = None
        if self.needs[0]:
            grad_values = _sampled(self.pattern, grad, self.dense)
        if self.needs[1]:
            grad_dense = _product(self.pattern.by_column(), self.values, grad)
        return grad_values, grad_dense

    def backward_graph(self, grad: Tensor) -> Any:
        grad_values = grad_dense = None
        if self.needs[0]:
            grad_values = SampledProduct.apply(grad, self.saved_input(1, self.dense), pattern=self.pattern)
        if self.needs[1]:
            values = self.saved_input(0, self.values)
            grad_dense = SparseMatMul.apply(values, grad, pattern=self.pattern.transposed())
        return grad_values, grad_dense


class SampledProduct(Op):
    """The elements of a @ b.T at the places of a pattern."""

    floats_only = True
    saves = (0, 1)

    def forward(self, a: Any, b: Any, pattern: Pattern) -> Any:
        self.a, self.b, self.pattern = a, b, pattern
        return _sampled(pattern, a, b)

    def backward(self, grad: Any) -> Any:
        return (
            _product(self.pattern.by_row(), grad, self.b) if self.needs[0] else None,
            _product(self.pattern.by_column(), grad, self.a) if self.needs[1] else None,
        )

    def backward_graph(self, grad: Tensor) -> Any:
        a, b = self.saved_input(0, self.a), self.saved_input(1, self.b)
        return (
            SparseMatMul.apply(grad, b, pattern=self.pattern) if self.needs[0] else None,
            SparseMatMul.apply(grad, a, pattern=self.pattern.transposed()) if self.needs[1] else None,
        )


def _product(runs: Runs, values: Any, dense: Any) -> Any:
    kernels = select(dense)
    scale = values if runs.order is None else kernels.index_select_forward(values, 0, runs.order)
    return kernels.embedding_bag_forward(dense, runs.column, runs.start, scale, -1, False)


def _sampled(pattern: Pattern, a: Any, b: Any) -> Any:
    rows, columns = pattern.indices
    kernels, count = select(a), pattern.count
    result = kernels.empty((count,), a.dtype)
    # On the CPU as many rows at a time as its cache holds beside each other.
    piece = max(64, (1 << 24 if on_device(a) else 1 << 15) // max(a.shape[1], 1))
    for i in range(0, count, piece):
        part = slice(i, i + piece)
        left, right = kernels.embedding_forward(a, rows[part]), kernels.embedding_forward(b, columns[part])
        result[part] = kernels.row_products_forward(left, right)[0]
    return result


# ------------------------------------------------------------------------------------------------------- functions


def _same_dtype(op: str, *tensors: Tensor) -> None:
    dtypes = [t._data.dtype for t in tensors]
    if any([d != dtypes[0] for d in dtypes]) and mode.autocast is None:
        raise DtypeError(
            f"{op}: both matrices must have one dtype, got {dtypes[0]} and {dtypes[-1]}; convert one with .to(dtype)"
        )


def _check(op: str, a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2:
        raise ArgumentError(f"{op}: takes matrices, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[1] != b.shape[0]:
        raise ArgumentError(
            f"{op}: the matrices do not fit: {tuple(a.shape)} and {tuple(b.shape)}: expected {a.shape[1]} rows of the "
            f"second, got {b.shape[0]}"
        )
    for t in (a, b):
        if is_sparse(t) and len(t._data.pattern.shape) != 2:
            raise not_for_sparse(f"{op} of matrices with dense axes")
    _same_dtype(op, a, b)


def _times_dense(a: Tensor, b: Tensor) -> Tensor:
    """sparse @ dense matrix, checked."""
    array, dtype = a._data, a._data.dtype
    if dtype.kind in FLOATING:
        values = array.values
        if dtype != b._data.dtype:  # under autocast
            values = values.to(b._data.dtype)
        return SparseMatMul.apply(values, b, pattern=array.pattern)  # type: ignore[no-any-return]
    rows, columns = array.pattern.indices
    return summed(chosen(b, columns) * array.values.unsqueeze(1), rows, a.shape[0])


def mm(input: Tensor, mat2: Tensor, reduce: str = "sum") -> Tensor:
    """``input @ mat2`` of matrices of which at least one is sparse; see ``torch.sparse.mm``.

    Args:
        input: (M, K).
        mat2: (K, N). Of two sparse matrices the product is sparse, else dense.
        reduce: what becomes of the products of a row: ``"sum"``, or, of a sparse ``input`` with a dense ``mat2``,
            ``"mean"``, ``"amax"`` or ``"amin"`` (also ``"max"``, ``"min"``); 0 in rows without entries.

    Gradients reach the values of sparse matrices, in their own places, and dense matrices.

    Example:
        >>> import fastdl
        >>> adjacency = fastdl.sparse_coo_tensor([[0, 1], [1, 0]], [2.0, 3.0], (2, 2))
        >>> fastdl.sparse.mm(adjacency, fastdl.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 3.]])
    """
    plain = _plain(input, mat2) if reduce == "sum" else None
    if plain is not None:
        return plain  # type: ignore[no-any-return]
    check_tensors("sparse.mm", input=input, mat2=mat2)
    _check("sparse.mm", input, mat2)
    left, right = is_sparse(input), is_sparse(mat2)
    if reduce != "sum":
        return _reduced(input, mat2, reduce)
    if left and right:
        return _sparse_product(input, mat2)
    if left:
        return _times_dense(input, mat2)
    if right:
        return _times_dense(transposed(mat2), input.t()).t()
    return input @ mat2


def _plain(a: Any, b: Any) -> Any:
    """The product where all fits and nothing is to be said; else None."""
    x, y = getattr(a, "_data", None), getattr(b, "_data", None)
    if x.__class__ is not SparseArray or y.__class__ is not np.ndarray or y.ndim != 2:
        return None
    shape, values, dtype = x.pattern.shape, x.values, y.dtype
    if len(shape) != 2 or values._data.ndim != 1 or shape[1] != y.shape[0]:
        return None
    if values._data.dtype is not dtype or not (dtype is float32 or dtype is float64):
        return None
    return SparseMatMul.apply(values, b, pattern=x.pattern)


def transposed(x: Tensor) -> Tensor:
    """A sparse matrix with rows and columns exchanged."""
    return made(x._data.pattern.transposed(), alias(x._data.values))  # type: ignore[no-any-return]


def _reduced(a: Tensor, b: Tensor, reduce: str) -> Tensor:
    if reduce not in _REDUCTIONS:
        raise ArgumentError(f"sparse.mm: reduce must be one of {', '.join(_REDUCTIONS)}, got {reduce!r}")
    if not is_sparse(a) or is_sparse(b):
        raise ArgumentError(f"sparse.mm: reduce={reduce!r} takes a sparse and a dense matrix")
    rows, columns = a._data.pattern.indices
    products = chosen(b, columns) * a._data.values.unsqueeze(1)
    zeros = Tensor._wrap(np.zeros((a.shape[0], b.shape[1]), products.dtype, like=products._data))
    return index_reduce(zeros, 0, Tensor._wrap(rows), products, _REDUCTIONS[reduce], include_self=False)


def spread(start: Any, keys: Any) -> tuple[Any, Any]:
    """All entries of the runs ``keys``: for each the number of its key, and where it is. NumPy's."""
    counts = start[keys + 1] - start[keys]
    key = np.repeat(np.arange(len(keys)), counts)
    first = np.repeat(start[keys] - (counts.cumsum() - counts), counts)
    return key, first + np.arange(len(key))


def _sparse_product(a: Tensor, b: Tensor) -> Tensor:
    """Every entry of ``a`` meets the entries of one row of ``b``; products of one place are added up."""
    left, right, where = a._data, b._data, device_of(a._data.values._data)
    runs = Runs(*[None if each is None else to_host(each) for each in right.pattern.by_row()])
    rows, columns = to_host(left.pattern.indices)
    of_a, of_b = spread(runs.start, columns)
    places = np.stack([rows[of_a], runs.column[of_b]])
    of_b = of_b if runs.order is None else runs.order[of_b]
    products = chosen(left.values, to_device(of_a, where)) * chosen(right.values, to_device(of_b, where))
    pattern = Pattern("sparse_coo", (a.shape[0], b.shape[1]), to_device(places, where))
    result = coalesce(made(pattern, products))
    return to_sparse_csr(result) if left.pattern.layout == "sparse_csr" else result


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """``input @ other`` where one is sparse: matrices and vectors."""
    plain = _plain(input, other)
    if plain is not None:
        return plain  # type: ignore[no-any-return]
    if input.ndim == 2 and other.ndim == 2:
        return mm(input, other)
    if input.ndim == 3 and other.ndim == 3:
        return bmm(input, other)
    if input.ndim == 2 and other.ndim == 1 and not is_sparse(other):
        return mm(input, other.unsqueeze(1)).squeeze(1)
    if input.ndim == 1 and other.ndim == 2 and not is_sparse(input):
        return mm(input.unsqueeze(0), other).squeeze(0)
    raise not_for_sparse(f"matmul of shapes {tuple(input.shape)} and {tuple(other.shape)}")


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """A batch of sparse matrices (B, M, K) times one of dense ones (B, K, N): one product of matrices of blocks."""
    if not is_sparse(input) or is_sparse(mat2) or len(to_sparse(input)._data.pattern.shape) != 3:
        raise not_for_sparse("bmm, but of sparse with dense matrices,")
    if mat2.ndim != 3 or input.shape[0] != mat2.shape[0] or input.shape[2] != mat2.shape[1]:
        raise ArgumentError(f"bmm: the batches do not fit: {tuple(input.shape)} and {tuple(mat2.shape)}")
    array, (batch, m, k) = input._data, input.shape
    block, row, column = array.pattern.indices
    pattern = Pattern("sparse_coo", (batch * m, batch * k), np.stack([block * m + row, block * k + column]))
    product = mm(made(pattern, array.values), mat2.reshape(batch * k, mat2.shape[2]))
    return product.reshape(batch, m, mat2.shape[2])


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2`` with a sparse ``mat1``; see ``torch.sparse.addmm``."""
    check_tensors("sparse.addmm", input=input, mat1=mat1, mat2=mat2)
    if is_sparse(input) and not (is_sparse(mat1) and is_sparse(mat2)):
        raise not_for_sparse("addmm onto a sparse tensor")
    product = mm(mat1, mat2)
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return (input if beta == 1 else input * beta) + product


def sspaddmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta * input + alpha * mat1 @ mat2`` of a sparse input and a sparse ``mat1``, sparse."""
    check_tensors("sspaddmm", input=input, mat1=mat1, mat2=mat2)
    return coalesce(input * beta + to_sparse(mm(mat1, mat2) * alpha))


def smm(input: Tensor, mat2: Tensor) -> Tensor:
    """``input @ mat2`` of a sparse matrix and a dense one, sparse; see ``torch.smm``."""
    return to_sparse(mm(input, mat2))


def hspmm(mat1: Tensor, mat2: Tensor) -> Tensor:
    """``mat1 @ mat2`` of a sparse matrix and a dense one: the rows that have entries; see ``torch.hspmm``."""
    product, (rows, _) = mm(mat1, mat2), mat1._data.pattern.indices
    kept = to_device(np.unique(to_host(rows)), device_of(rows))
    pattern = Pattern("sparse_coo", (product.shape[0],), kept[None], coalesced=True)
    return made(pattern, chosen(product, kept))  # type: ignore[no-any-return]


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A sparse matrix times a vector."""
    if input.ndim != 2 or vec.ndim != 1:
        raise ArgumentError(
            f"mv: takes a matrix and a vector, got {tuple(input.shape)} and {tuple(vec.shape)}"
        )
    return matmul(input, vec)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Any = None) -> Tensor:
    """``input @ weight.T + bias`` where the input or the weight is a sparse matrix."""
    if activation is not None:
        raise not_for_sparse("linear with an activation")
    if is_sparse(weight):
        rows = input.reshape(-1, input.shape[-1])
        product = mm(weight, rows.t()).t().reshape(*input.shape[:-1], weight.shape[0])
    else:
        product = mm(input, weight.t())
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ArgumentError(f"linear: bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    return product if bias is None else product + bias


def sampled_addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)`` at the places of the sparse ``input`` only.

    See ``torch.sparse.sampled_addmm``; coordinates are taken, too.

    Args:
        input: sparse (M, N).
        mat1: (M, K).
        mat2: (K, N).

    Example:
        >>> import fastdl
        >>> at = fastdl.eye(2).to_sparse_csr()
        >>> fastdl.sparse.sampled_addmm(at, fastdl.ones(2, 3), fastdl.ones(3, 2), beta=0.5).values()
        tensor([3.5000, 3.5000])
    """
    op = "sampled_addmm"
    check_tensors(op, input=input, mat1=mat1, mat2=mat2)
    if not is_sparse(input) or is_sparse(mat1) or is_sparse(mat2):
        raise ArgumentError(f"{op}: takes a sparse input and two dense matrices")
    if mat1.ndim != 2 or mat2.ndim != 2 or mat1.shape[1] != mat2.shape[0]:
        raise ArgumentError(f"{op}: the matrices do not fit: {tuple(mat1.shape)} and {tuple(mat2.shape)}")
    if tuple(input.shape) != (mat1.shape[0], mat2.shape[1]):
        raise ArgumentError(
            f"{op}: input must have the product's shape ({mat1.shape[0]}, {mat2.shape[1]}), got {tuple(input.shape)}"
        )
    _same_dtype(op, input, mat1, mat2)
    pattern = input._data.pattern
    products = SampledProduct.apply(mat1, mat2.t(), pattern=pattern)
    return made(pattern, input._data.values * beta + products * alpha)  # type: ignore[no-any-return]

"""The LU decomposition with row exchanges: A = P L U, packed or as three matrices, and solving with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.mode import no_grad
from fastdl.autograd.op import Op
from fastdl.ops.host import on_host
from fastdl.ops.linear import matmul
from fastdl.ops.matrix import check_matrix
from fastdl.ops.shape import cat, tril, triu
from fastdl.ops.solve import _check, solve_triangular
from fastdl.printing import named_lines
from fastdl.tensor import Tensor


class LuResult(NamedTuple):
    """A = P L U."""

    P: Tensor
    L: Tensor
    U: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class LuFactorResult(NamedTuple):
    """L without its diagonal of ones below U, and the row that each row was exchanged with, from 1 (int32)."""

    LU: Tensor
    pivots: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class LuFactorExResult(NamedTuple):
    """:class:`LuFactorResult`, and 0 or the number of the first pivot that is 0."""

    LU: Tensor
    pivots: Tensor
    info: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class Factor(Op):
    """The packed factors of A and the exchanges.

    With gL the part of the gradient below the diagonal and gU the rest, for square A:
    gA = P L^-H (tril(L^H gL, -1) + triu(gU U^H)) U^-H.
    The columns W of a wide U are solved for by L, the rows T of a tall L by U. What their gradients leave for the
    square part: L^H gL - gW W^H, or gU U^H - T^H gT; they themselves become L^-H gW, or gT U^-H.
    """

    takes_complex = True
    saves_output = True

    def forward(self, a: Any, pivot: bool) -> Any:
        self.packed, self.pivots = eliminate(a, pivot)
        return self.packed, self.pivots

    def backward(self, grad: Any, _: Any) -> Any:
        with no_grad():
            return self.backward_graph(Tensor._wrap(grad), None)._data

    def backward_graph(self, grad: Tensor, _: Any) -> Any:
        packed = self.saved_output(self.packed) if self.edges is not None else Tensor._wrap(self.packed)
        rows, columns = packed.shape[-2:]
        k = min(rows, columns)
        square, inner = packed[..., :k, :k], grad[..., :k, :k]
        lower, upper = _unit_lower(square), triu(square)
        of_lower, of_upper = matmul(lower.mH, tril(inner, -1)), matmul(triu(inner), upper.mH)
        if columns > k:
            of_lower = of_lower - matmul(grad[..., k:], packed[..., k:].mH)
        if rows > k:
            of_upper = of_upper - matmul(packed[..., k:, :].mH, grad[..., k:, :])
        left = solve_triangular(lower.mH, tril(of_lower, -1) + triu(of_upper), upper=True, unitriangular=True)
        both = solve_triangular(upper.mH, left, upper=False, left=False)
        if columns > k:
            both = cat([both, solve_triangular(lower.mH, grad[..., k:], upper=True, unitriangular=True)], -1)
        if rows > k:
            both = cat([both, solve_triangular(upper.mH, grad[..., k:, :], upper=False, left=False)], -2)
        return matmul(Tensor._wrap(permutation(self.pivots, rows, self.packed.dtype)), both)


def eliminate(a: Any, pivot: bool = True) -> tuple[Any, Any]:
    """Gauss' elimination on a copy of ``a``, all matrices of the batch at once: packed factors and exchanges."""
    a = np.array(a, order="C")
    rows, columns = a.shape[-2:]
    steps = min(rows, columns)
    pivots = np.broadcast_to(np.arange(1, steps + 1, dtype=np.int32), (*a.shape[:-2], steps)).copy()
    with np.errstate(all="ignore"):
        for k in range(steps):
            if pivot:
                column = a[..., k:, k]  # of complex numbers LAPACK compares |x| + |y|
                size = np.abs(column.real) + np.abs(column.imag) if a.dtype.kind == "c" else np.abs(column)
                best = np.argmax(size, -1) + k
                pivots[..., k] = best + 1
                index = np.broadcast_to(best[..., None, None], (*best.shape, 1, columns))
                top = np.take_along_axis(a, index, -2)
                np.put_along_axis(a, index, a[..., k : k + 1, :], -2)
                a[..., k : k + 1, :] = top
            diagonal = a[..., k : k + 1, k : k + 1]
            below = a[..., k + 1 :, k : k + 1]
            np.divide(below, diagonal, out=below, where=diagonal != 0)
            a[..., k + 1 :, k + 1 :] -= below * a[..., k : k + 1, k + 1 :]
    return a, pivots


def permutation(pivots: Any, rows: int, dtype: Any) -> Any:
    """P as a matrix: the exchanges in their order, transposed."""
    order = np.broadcast_to(np.arange(rows), (*pivots.shape[:-1], rows)).copy()
    for k in range(pivots.shape[-1]):
        other = pivots[..., k : k + 1].astype(np.int64) - 1
        at = np.take_along_axis(order, other, -1)
        np.put_along_axis(order, other, order[..., k : k + 1], -1)
        order[..., k : k + 1] = at
    return np.ascontiguousarray(np.swapaxes(np.eye(rows, dtype=dtype)[order], -1, -2))


def _unit_lower(packed: Tensor) -> Tensor:
    rows, columns = packed.shape[-2:]
    steps = min(rows, columns)
    return tril(packed[..., :steps], -1) + Tensor._wrap(np.eye(rows, steps, dtype=packed.dtype))


@on_host
def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> LuFactorExResult:
    """:func:`lu_factor` that tells of pivots that are 0. See ``torch.linalg.lu_factor_ex``."""
    check_matrix("lu_factor", A, square=False)
    packed, pivots = Factor.apply(A, pivot=pivot)
    zero = np.diagonal(packed._data, axis1=-2, axis2=-1) == 0
    info = np.where(zero.any(-1), zero.argmax(-1) + 1, 0).astype(np.int32)
    _check("lu_factor", info, check_errors, "singular: pivot")
    return LuFactorExResult(packed, pivots, Tensor._wrap(np.asarray(info)))


@on_host
def lu_factor(A: Tensor, *, pivot: bool = True) -> LuFactorResult:
    """The factors of A = P L U in one matrix, for :func:`lu_solve`. See ``torch.linalg.lu_factor``."""
    packed, pivots, _ = lu_factor_ex(A, pivot=pivot)
    return LuFactorResult(packed, pivots)


@on_host
def lu(A: Tensor, *, pivot: bool = True) -> LuResult:
    """P, L and U with A = P L U: exchanges, lower triangle with ones, upper triangle. See ``torch.linalg.lu``.

    Without ``pivot`` no rows are exchanged, and P is empty.

    Example:
        >>> import fastdl
        >>> P, L, U = fastdl.linalg.lu(fastdl.tensor([[1.0, 2.0], [4.0, 2.0]]))
        >>> L.tolist(), U.tolist()
        ([[1.0, 0.0], [0.25, 1.0]], [[4.0, 2.0], [0.0, 1.5]])
    """
    packed, pivots = lu_factor(A, pivot=pivot)
    P, L, U = lu_unpack(packed, pivots, unpack_pivots=pivot)
    return LuResult(P, L, U)


@on_host
def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> LuResult:
    """P, L and U from what :func:`lu_factor` returns; what is not wanted comes empty. See ``torch.lu_unpack``."""
    empty = Tensor._wrap(np.empty(0, LU_data.dtype))
    rows = LU_data.shape[-2]
    P = Tensor._wrap(permutation(LU_pivots._data, rows, LU_data.dtype)) if unpack_pivots else empty
    if not unpack_data:
        return LuResult(P, empty, empty)
    return LuResult(P, _unit_lower(LU_data), triu(LU_data[..., : min(LU_data.shape[-2:]), :]))


@on_host
def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X of A X = B (``left=False``: of X A = B; ``adjoint``: with A^H) by A's factors.

    See ``torch.linalg.lu_solve``.
    """
    check_matrix("lu_solve", LU)
    if not left:
        return lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    P = Tensor._wrap(permutation(pivots._data, LU.shape[-1], LU._data.dtype))
    if adjoint:
        half = solve_triangular(LU.mH, B, upper=False)
        return matmul(P, solve_triangular(LU.mH, half, upper=True, unitriangular=True))
    half = solve_triangular(LU, matmul(P.mT, B), upper=False, unitriangular=True)
    return solve_triangular(LU, half, upper=True)

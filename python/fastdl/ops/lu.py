"""The LU decomposition with row exchanges: A = P L U, packed or as three matrices, and solving with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.op import Op
from fastdl.kernels import select
from fastdl.ops.arrays import empty, eye, sum_to, zeros
from fastdl.ops.complex_kernels import product
from fastdl.ops.diagonals import triangle, tril, triu
from fastdl.ops.join import cat
from fastdl.ops.linear import matmul
from fastdl.ops.matrix import check_matrix, mH
from fastdl.ops.resample import pad
from fastdl.ops.solve import check_info, solve_triangular
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
        self.packed, self.pivots, info = select(a).lu_factor(a, pivot)
        return self.packed, self.pivots, info

    def backward(self, grad: Any, *_: Any) -> Any:
        packed, k = self.packed, min(self.packed.shape[-2:])
        kernels, right, rest = select(grad), packed[..., :k, k:], packed[..., k:, :]
        square, inner = packed[..., :k, :k], grad[..., :k, :k]
        lower, upper = kernels.lu_unpack(square)
        lower, upper = mH(lower), mH(upper)
        of_lower = product(lower, triangle(inner, -1, True))
        of_upper = product(triangle(inner, 0, False), upper)
        if right.shape[-1]:
            of_lower = of_lower - product(grad[..., k:], mH(right))
        if rest.shape[-2]:
            of_upper = of_upper - product(mH(rest), grad[..., k:, :])
        left = triangle(of_lower, -1, True) + triangle(of_upper, 0, False)
        if right.shape[-1]:
            left = np.concatenate([left, grad[..., k:]], -1)
        left = kernels.triangular_solve(lower, left, True, True)
        if rest.shape[-2]:
            left = np.concatenate([left, grad[..., k:, :]], -2)
        columns = left[..., :k].swapaxes(-1, -2)
        both = kernels.triangular_solve(upper.swapaxes(-1, -2), columns, True, False).swapaxes(-1, -2)
        if right.shape[-1]:
            both = np.concatenate([both, left[..., k:]], -1)
        return product(kernels.lu_permutation(self.pivots, packed), both)

    def backward_graph(self, grad: Tensor, *_: Any) -> Any:
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
        return matmul(Tensor._wrap(select(self.packed).lu_permutation(self.pivots, self.packed)), both)


class Unpack(Op):
    """L and U of packed factors."""

    takes_complex = True
    materialize = False

    def forward(self, packed: Any) -> Any:
        self.shape = packed.shape
        return select(packed).lu_unpack(packed)

    def backward(self, grad_lower: Any, grad_upper: Any) -> Any:
        given = grad_upper if grad_lower is None else grad_lower
        grad = zeros(self.shape, given.dtype, given)
        k = min(self.shape[-2:])
        if grad_lower is not None:
            grad[..., :k] = triangle(grad_lower, -1, True)
        if grad_upper is not None:
            grad[..., :k, :] += triangle(grad_upper, 0, False)
        return grad

    def backward_graph(self, grad_lower: Any, grad_upper: Any) -> Any:
        rows, columns = self.shape[-2:]
        parts = []
        if grad_lower is not None:
            parts.append(pad(tril(grad_lower, -1), (0, columns - grad_lower.shape[-1])))
        if grad_upper is not None:
            parts.append(pad(triu(grad_upper), (0, 0, 0, rows - grad_upper.shape[-2])))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _unit_lower(packed: Tensor) -> Tensor:
    rows, columns = packed.shape[-2:]
    steps = min(rows, columns)
    return tril(packed[..., :steps], -1) + Tensor._wrap(
        eye(rows, packed._data.dtype, packed._data)[:, :steps]
    )


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> LuFactorExResult:
    """:func:`lu_factor` that tells of pivots that are 0. See ``torch.linalg.lu_factor_ex``."""
    check_matrix("lu_factor", A, square=False)
    packed, pivots, info = Factor.apply(A, pivot=pivot)
    check_info("lu_factor", info._data, check_errors, "singular: pivot")
    return LuFactorExResult(packed, pivots, info)


def lu_factor(A: Tensor, *, pivot: bool = True) -> LuFactorResult:
    """The factors of A = P L U in one matrix, for :func:`lu_solve`. See ``torch.linalg.lu_factor``."""
    packed, pivots, _ = lu_factor_ex(A, pivot=pivot)
    return LuFactorResult(packed, pivots)


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


def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> LuResult:
    """P, L and U from what :func:`lu_factor` returns; what is not wanted comes empty. See ``torch.lu_unpack``."""
    packed = LU_data._data
    nothing = Tensor._wrap(empty((0,), packed.dtype, packed))
    P = Tensor._wrap(select(packed).lu_permutation(LU_pivots._data, packed)) if unpack_pivots else nothing
    if not unpack_data:
        return LuResult(P, nothing, nothing)
    return LuResult(P, *Unpack.apply(LU_data))


class FactorSolve(Op):
    """X of A X = B by A's packed factors, ``adjoint``: of A^H X = B."""

    takes_complex = True
    saves, saves_output = (0,), True

    def forward(self, packed: Any, b: Any, pivots: Any, adjoint: bool) -> Any:
        self.packed, self.pivots, self.adjoint, self.b_shape = packed, pivots, adjoint, b.shape
        self.x = select(packed).lu_solve(packed.conj() if adjoint else packed, pivots, b, adjoint)
        return self.x

    def backward(self, grad: Any) -> Any:
        """With A = P L U and Y the gradient of B the factors' are, from below the diagonal and above:
        L's -P^T Y (U X)^H, U's -L^H P^T Y X^H; ``adjoint``: -P^T X (U Y)^H and -L^H P^T X Y^H."""
        kernels, packed = select(grad), self.packed
        grad_b = kernels.lu_solve(
            packed if self.adjoint else packed.conj(), self.pivots, grad, not self.adjoint
        )
        grad_packed = None
        if self.needs[0]:
            y, x = (self.x, grad_b) if self.adjoint else (grad_b, self.x)
            lower, upper = kernels.lu_unpack(packed)
            y = product(kernels.lu_permutation(self.pivots, packed).swapaxes(-1, -2), y)
            of_lower = product(y, mH(product(upper, x)))
            of_upper = product(product(mH(lower), y), mH(x))
            both = triangle(of_lower, -1, True) + triangle(of_upper, 0, False)
            grad_packed = sum_to(-both, packed.shape)
        return grad_packed, sum_to(grad_b, self.b_shape)

    def backward_graph(self, grad: Tensor) -> Any:
        packed, x = self.saved_input(0, self.packed), self.saved_output(self.x)
        options = {"pivots": self.pivots, "adjoint": not self.adjoint}
        y = grad_b = FactorSolve.apply(packed, grad, **options)
        if self.adjoint:
            y, x = x, y
        lower, upper = Unpack.apply(packed)
        y = matmul(Tensor._wrap(select(self.packed).lu_permutation(self.pivots, self.packed)).mT, y)
        of_lower, of_upper = matmul(y, matmul(upper, x).mH), matmul(matmul(lower.mH, y), x.mH)
        grad_packed = -(tril(of_lower, -1) + triu(of_upper))
        return grad_packed.sum_to_size(self.packed.shape), grad_b.sum_to_size(self.b_shape)


def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X of A X = B (``left=False``: of X A = B; ``adjoint``: with A^H) by A's factors.

    See ``torch.linalg.lu_solve``.
    """
    check_matrix("lu_solve", LU)
    if not left:
        return lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    if B.ndim < 2 or B.shape[-2] != LU.shape[-1]:
        raise RuntimeError(f"lu_solve: factors of shape {LU.shape} do not fit B of shape {B.shape}")
    if LU.dtype != B.dtype:
        raise RuntimeError(f"lu_solve: LU and B must have one dtype, got {LU.dtype} and {B.dtype}")
    return FactorSolve.apply(LU, B, pivots=pivots._data, adjoint=adjoint)  # type: ignore[no-any-return]

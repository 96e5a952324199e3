"""Linear algebra under the names of ``torch.*`` and of tensors' methods; :mod:`fastdl.linalg` has the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdl import linalg
from fastdl.errors import ArgumentError
from fastdl.linalg import det, matrix_exp, matrix_power, slogdet
from fastdl.ops.axes import numpy_names
from fastdl.ops.elementwise import where
from fastdl.ops.linalg import QrResult, reflections
from fastdl.ops.linear import matmul
from fastdl.ops.lu import lu_factor_ex, lu_unpack
from fastdl.ops.matrix import Inverse, TriangularSolve, check_matrix, failed
from fastdl.ops.reduce import vector_norm
from fastdl.printing import named_lines
from fastdl.published import publish
from fastdl.tensor import Tensor

__all__ = [
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "det",
    "inverse",
    "logdet",
    "lu",
    "lu_solve",
    "lu_unpack",
    "matrix_exp",
    "matrix_power",
    "norm",
    "orgqr",
    "pinverse",
    "qr",
    "slogdet",
    "svd",
    "triangular_solve",
]


def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """The older form of ``linalg.cholesky``. See ``torch.cholesky``."""
    return linalg.cholesky(input, upper=upper)


def inverse(input: Tensor) -> Tensor:
    """``linalg.inv`` under another name. See ``torch.inverse``."""
    check_matrix("inverse", input)
    return Inverse.apply(input, op="inverse")[0]  # type: ignore[no-any-return]


def pinverse(input: Tensor, rcond: Any = 1e-15) -> Tensor:
    """``linalg.pinv`` that keeps singular values down to 1e-15 of the largest. See ``torch.pinverse``.

    Example:
        >>> import fastdl
        >>> fastdl.pinverse(fastdl.tensor([[1.0, 0.0], [0.0, 1e-9]])).diagonal()
        tensor([1.0000e+00, 1.0000e+09])
    """
    check_matrix("pinverse", input, square=False)
    return linalg.pinv(input, rcond)


def orgqr(input: Tensor, tau: Tensor) -> Tensor:
    """``linalg.householder_product`` under another name. See ``torch.orgqr``."""
    return reflections("orgqr", input, tau)


def qr(input: Tensor, some: bool = True) -> QrResult:
    """The older form of ``linalg.qr``: ``some`` is its mode "reduced", else "complete". See ``torch.qr``."""
    return linalg.qr(input, "reduced" if some else "complete")


class SvdColumns(NamedTuple):
    """a = U diag(S) V^H."""

    U: Tensor
    S: Tensor
    V: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> SvdColumns:
    """The singular value decomposition with V, not its transpose as in ``linalg.svd``. See ``torch.svd``."""
    u, s, vh = linalg.svd(input, full_matrices=not some)
    if not compute_uv:
        u, vh = u.detach() * 0, vh.detach() * 0
    return SvdColumns(u, s, vh.mH)


class LuWithInfo(NamedTuple):
    """The factors in one matrix, the exchanges of rows, and where a pivot is 0."""

    LU: Tensor
    pivots: Tensor
    info: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> Any:
    """The older form of ``linalg.lu_factor`` and, with ``get_infos``, ``linalg.lu_factor_ex``. See ``torch.lu``.

    Example:
        >>> import fastdl
        >>> factors, pivots = fastdl.lu(fastdl.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> pivots
        tensor([2, 2], dtype=fastdl.int32)
    """
    packed, pivots, info = lu_factor_ex(A, pivot=pivot, check_errors=not get_infos)
    return LuWithInfo(packed, pivots, info) if get_infos else (packed, pivots)


class TriangularSolution(NamedTuple):
    """x of A x = b, and a copy of A."""

    solution: Tensor
    cloned_coefficient: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def triangular_solve(
    input: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> TriangularSolution:
    """The older form of ``linalg.solve_triangular``, which PyTorch warns of. See ``torch.triangular_solve``.

    Example:
        >>> import fastdl
        >>> fastdl.triangular_solve(fastdl.tensor([[4.0]]), fastdl.tensor([[2.0]])).solution
        tensor([[2.]])
    """
    if transpose:
        matrix, upper = A.mT, not upper
    else:
        matrix = A
    solution = linalg.solve_triangular(matrix, input, upper=upper, unitriangular=unitriangular)
    return TriangularSolution(solution, A.clone())


def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative. See ``torch.logdet``.

    Example:
        >>> import fastdl
        >>> round(logdet(fastdl.eye(2) * 2.0).item(), 4)
        1.3863
    """
    sign, value = linalg.slogdet(input)
    if sign.is_complex():
        return sign.log() + value
    return where(sign < 0, float("nan"), value)  # type: ignore[no-any-return]


def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X of A X = B with A = L L^H (``upper``: L^H L). See ``torch.cholesky_solve``."""
    first, second = (L.mH, L) if upper else (L, L.mH)
    return linalg.solve_triangular(second, linalg.solve_triangular(first, B, upper=False), upper=True)


def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of L L^H (``upper``: of L^H L). See ``torch.cholesky_inverse``."""
    check_matrix("cholesky_inverse", L)
    if failed(np.diagonal(L._data, 0, -2, -1) == 0):
        raise linalg.LinAlgError(f"cholesky_inverse: L of shape {L.shape} has a 0 on its diagonal")
    inverted = TriangularSolve.apply(L, None, upper=upper, unit=False)
    return matmul(inverted, inverted.mH) if upper else matmul(inverted.mH, inverted)


def lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """X of A X = b by A's factors; ``linalg.lu_solve`` with the arguments in another order. See ``torch.lu_solve``."""
    return linalg.lu_solve(LU_data, LU_pivots, b)


def norm(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **names: Any
) -> Tensor:
    """The p-norm of all elements, or over ``dim``; ``"fro"`` is p = 2, ``"nuc"`` the sum of a matrix's singular values.

    See ``torch.norm``.
    """
    if names:
        dim, keepdim = numpy_names("norm", names, dim, keepdim)
    if p == "nuc":
        return linalg.matrix_norm(input, p, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    if p is None or p == "fro":
        p = 2
    if isinstance(p, str):
        raise ArgumentError(f"norm: p must be a number, 'fro' or 'nuc', got {p!r}")
    return vector_norm(input, p, dim, keepdim, dtype=dtype)


publish(
    globals(),
    __all__,
    "cholesky cholesky_inverse cholesky_solve inverse lu_solve lu_unpack matrix_power norm orgqr qr slogdet svd "
    "triangular_solve",
)

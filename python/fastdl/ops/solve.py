"""Solving: inverses, linear equations, triangles; and the ``_ex`` forms, which report instead of raising."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastdl.devices import to_host
from fastdl.errors import LinAlgError
from fastdl.kernels import select
from fastdl.ops.arrays import eye
from fastdl.ops.elementwise import where
from fastdl.ops.host import on_host
from fastdl.ops.matrix import (
    Cholesky,
    Inverse,
    Solve,
    TriangularSolve,
    check_matrix,
    failed,
    mH,
    missing_factor,
)
from fastdl.ops.views import squeeze, unsqueeze
from fastdl.printing import named_lines
from fastdl.tensor import Tensor


class InvExResult(NamedTuple):
    """The inverse, and 0 or the number of the first pivot that is 0."""

    inverse: Tensor
    info: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class SolveExResult(NamedTuple):
    """The solution, and 0 or the number of the first pivot that is 0."""

    result: Tensor
    info: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class CholeskyExResult(NamedTuple):
    """L, and 0 or the order of the first leading minor that is not positive definite."""

    L: Tensor
    info: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def inv(A: Tensor) -> Tensor:
    """The inverse; LinAlgError for a singular matrix. See ``torch.linalg.inv``."""
    check_matrix("inv", A)
    return Inverse.apply(A, op="inv")[0]  # type: ignore[no-any-return]


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X of A X = B (``left=False``: of X A = B); B is a matrix, or a vector. See ``torch.linalg.solve``."""
    check_matrix("solve", A)
    if not left:
        return solve(A.mT, B.mT).mT
    return _solved("solve", A, B, "solve")[0]


def _solved(op: str, A: Tensor, B: Tensor, refuse: str | None) -> tuple[Tensor, Tensor]:
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    rows = B.shape[-1 if vector else -2]
    if rows != A.shape[-1]:
        raise RuntimeError(f"{op}: A of shape {A.shape} does not fit B of shape {B.shape}")
    if A.dtype != B.dtype:
        raise RuntimeError(f"{op}: A and B must have one dtype, got {A.dtype} and {B.dtype}")
    if vector:
        x, info = Solve.apply(A, unsqueeze(B, -1), op=refuse)
        return squeeze(x, -1), info
    return Solve.apply(A, B, op=refuse)  # type: ignore[no-any-return]


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """X of A X = B (``left=False``: of X A = B) with one triangle of A, the rest being ignored.

    ``unitriangular``: the diagonal is taken as ones. See ``torch.linalg.solve_triangular``.
    """
    check_matrix("solve_triangular", A)
    if not left:
        return solve_triangular(A.mT, B.mT, upper=not upper, unitriangular=unitriangular).mT
    if B.ndim < 2 or B.shape[-2] != A.shape[-1]:
        raise RuntimeError(f"solve_triangular: A of shape {A.shape} does not fit B of shape {B.shape}")
    if A.dtype != B.dtype:
        raise RuntimeError(f"solve_triangular: A and B must have one dtype, got {A.dtype} and {B.dtype}")
    return TriangularSolve.apply(A, B, upper=bool(upper), unit=bool(unitriangular))  # type: ignore[no-any-return]


def _replaced(A: Tensor, failed: Any) -> Tensor:
    """The identity in the places of matrices that cannot be inverted."""
    identity = Tensor._wrap(eye(A.shape[-1], A._data.dtype, A._data))
    return where(Tensor._wrap(failed[..., None, None]), identity, A)  # type: ignore[no-any-return]


def check_info(op: str, info: Any, check_errors: bool, what: str) -> None:
    if check_errors and failed(info):
        info = to_host(info)
        at = tuple(int(i) for i in np.argwhere(info)[0]) if info.ndim else ()
        where = f" of the matrix at {at}" if at else ""
        raise LinAlgError(f"{op}: {what} {int(info[at])}{where}")


def inv_ex(A: Tensor, *, check_errors: bool = False) -> InvExResult:
    """The inverse, NaN where there is none, and which pivot was 0. See ``torch.linalg.inv_ex``.

    Example:
        >>> import fastdl
        >>> fastdl.linalg.inv_ex(fastdl.zeros(2, 2)).info.item()
        1
    """
    check_matrix("inv_ex", A)
    inverse, info = Inverse.apply(A)
    check_info("inv_ex", info._data, check_errors, "singular: pivot")
    return InvExResult(inverse, info)


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> SolveExResult:
    """:func:`solve`, NaN where A is singular, and which pivot was 0. See ``torch.linalg.solve_ex``."""
    check_matrix("solve_ex", A)
    if left:
        result, info = _solved("solve_ex", A, B, None)
    else:
        result, info = _solved("solve_ex", A.mT, B.mT, None)
        result = result.mT
    check_info("solve_ex", info._data, check_errors, "singular: pivot")
    return SolveExResult(result, info)


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> CholeskyExResult:
    """:func:`fastdl.linalg.cholesky`, and the order of the first leading minor that is not positive definite: the
    factor is begun then, its columns before that one done and those behind it A's.

    See ``torch.linalg.cholesky_ex``.
    """
    check_matrix("cholesky_ex", A)
    try:  # one call, if all are
        lower = Cholesky.apply(A, upper=upper)
        info = Tensor._wrap(np.zeros(A.shape[:-2], np.int32, like=A._data))
    except LinAlgError:
        lower, info = _as_far_as_it_goes(A, upper, check_errors)
    return CholeskyExResult(lower.mH if upper else lower, info)


@on_host
def _as_far_as_it_goes(A: Tensor, upper: bool, check_errors: bool) -> tuple[Tensor, Tensor]:
    shape = A.shape[:-2]
    matrices = (mH(A._data) if upper else A._data).reshape(math.prod(shape), *A.shape[-2:])
    orders = [_minor(a) for a in matrices]
    info = np.asarray(orders, np.int32).reshape(shape)
    check_info("cholesky_ex", info, check_errors, "not positive definite: leading minor")
    begun = np.stack([_begun(a, order) for a, order in zip(matrices, orders, strict=True)])
    bad = info != 0
    lower = where(
        Tensor._wrap(bad[..., None, None]),
        Tensor._wrap(begun.reshape(A.shape)),
        Cholesky.apply(_replaced(A, bad), upper=upper),
    )
    return lower, Tensor._wrap(info)


def _minor(a: Any) -> int:
    """The order of the first leading minor that has no Cholesky factor, 0 if all have one: by bisection."""
    n = a.shape[-1]
    low, high = 0, n + 1  # the largest order known to have one, the smallest not
    while high - low > 1:
        middle = n if low == 0 and high == n + 1 else (low + high) // 2
        if _has_factor(a[:middle, :middle]):
            low = middle
        else:
            high = middle
    return 0 if high == n + 1 else high


def _has_factor(a: Any) -> bool:
    try:
        return not missing_factor(np.linalg.cholesky(a))
    except np.linalg.LinAlgError:
        return False


def _begun(a: Any, order: int) -> Any:
    """The lower factor as far as it goes: ``order - 1`` columns, and the square that was to be the next diagonal."""
    lower = np.tril(a)
    if order:
        done = order - 1
        lower[:done, :done] = first = np.linalg.cholesky(a[:done, :done])
        lower[done:, :done] = mH(select(a).triangular_solve(first, mH(a[done:, :done]), False, False))
        row = lower[done, :done]
        lower[done, done] = lower[done, done].real - np.vdot(row, row).real
    return lower

"""Linear algebra, what :mod:`fastdl.linalg` offers: matrices are the last two axes, the others a batch."""

from __future__ import annotations

import builtins
from math import prod
from operator import index as to_int
from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.dtypes import complex_dtype
from fastdl.errors import LinAlgError
from fastdl.kernels import MetaArray
from fastdl.ops.arrays import contiguous, empty, eye, full
from fastdl.ops.axes import normal_axis
from fastdl.ops.common import check_tensors
from fastdl.ops.complex import conj
from fastdl.ops.diagonals import tril
from fastdl.ops.extreme import amax, amin
from fastdl.ops.host import on_host
from fastdl.ops.lapack import lapack
from fastdl.ops.linear import matmul
from fastdl.ops.lu import lu, lu_factor, lu_factor_ex, lu_solve
from fastdl.ops.matrix import (
    Cholesky,
    Determinant,
    Eigen,
    LogDeterminant,
    Orthogonal,
    SingularValues,
    SymmetricEigen,
    check_matrix,
    check_matrix_shape,
)
from fastdl.ops.parts import diagonal as _diagonal
from fastdl.ops.products import chain_matmul
from fastdl.ops.products import cross as _cross
from fastdl.ops.pseudo_inverse import lstsq, matrix_rank, pinv
from fastdl.ops.reduce import sum, vector_norm
from fastdl.ops.solve import cholesky_ex, inv, inv_ex, solve, solve_ex, solve_triangular
from fastdl.ops.unary import abs
from fastdl.ops.views import movedim, squeeze, unsqueeze
from fastdl.printing import named_lines
from fastdl.tensor import Tensor

__all__ = [
    "LinAlgError",
    "cholesky",
    "cholesky_ex",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "householder_product",
    "inv",
    "inv_ex",
    "lstsq",
    "lu",
    "lu_factor",
    "lu_factor_ex",
    "lu_solve",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_ex",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensorinv",
    "tensorsolve",
    "vander",
    "vecdot",
    "vector_norm",
]


class SlogdetResult(NamedTuple):
    """Sign and logarithm of the absolute value."""

    sign: Tensor
    logabsdet: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class EighResult(NamedTuple):
    """Eigenvalues in ascending order, and eigenvectors in columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class EigResult(NamedTuple):
    """Eigenvalues and eigenvectors in columns, complex."""

    eigenvalues: Tensor
    eigenvectors: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class SvdResult(NamedTuple):
    """a = U diag(S) Vh."""

    U: Tensor
    S: Tensor
    Vh: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


class QrResult(NamedTuple):
    """a = Q R, the columns of Q orthonormal, R upper triangular."""

    Q: Tensor
    R: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def _differentiated(A: Tensor) -> bool:
    """Does the gradient need what values alone do not tell: vectors?"""
    return mode.enabled and A._requires_grad


def det(A: Tensor) -> Tensor:
    """The determinant. See ``torch.linalg.det``."""
    check_matrix("det", A)
    return Determinant.apply(A)  # type: ignore[no-any-return]


def slogdet(A: Tensor) -> SlogdetResult:
    """Sign of the determinant and logarithm of its absolute value. See ``torch.linalg.slogdet``."""
    check_matrix("slogdet", A)
    return SlogdetResult(*LogDeterminant.apply(A))


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """L of A = L L^H, lower triangular (``upper``: its conjugate transpose), of a positive definite
    matrix, symmetric or Hermitian.

    See ``torch.linalg.cholesky``.
    """
    check_matrix("cholesky", A)
    lower = Cholesky.apply(A, upper=upper)
    return lower.mH if upper else lower  # type: ignore[no-any-return]


def eigh(A: Tensor, UPLO: str = "L") -> EighResult:
    """Eigenvalues and eigenvectors of a symmetric matrix, read from one triangle. See ``torch.linalg.eigh``."""
    check_matrix("eigh", A)
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"eigh: UPLO must be 'L' or 'U', got {UPLO!r}")
    return EighResult(*SymmetricEigen.apply(A, uplo=UPLO))


@on_host
def eig(A: Tensor) -> EigResult:
    """Eigenvalues and eigenvectors (of norm 1) of any square matrix, complex. See ``torch.linalg.eig``.

    A loss must not depend on the phases of eigenvectors, which are anybody's choice.

    Example:
        >>> import fastdl
        >>> fastdl.linalg.eig(fastdl.tensor([[0.0, -1.0], [1.0, 0.0]])).eigenvalues
        tensor([0.+1.j, 0.-1.j])
    """
    check_matrix("eig", A)
    return EigResult(*Eigen.apply(A))


@on_host
def eigvals(A: Tensor) -> Tensor:
    """The eigenvalues of any square matrix, complex. See ``torch.linalg.eigvals``."""
    check_matrix("eigvals", A)
    if _differentiated(A):
        return Eigen.apply(A)[0]  # type: ignore[no-any-return]
    x = A._data
    return Tensor._wrap(lapack("eigvals", x).astype(complex_dtype(x.dtype), copy=False))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """The eigenvalues of a symmetric matrix in ascending order. See ``torch.linalg.eigvalsh``."""
    if _differentiated(A):
        return eigh(A, UPLO).eigenvalues
    check_matrix("eigvalsh", A)
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"eigvalsh: UPLO must be 'L' or 'U', got {UPLO!r}")
    return Tensor._wrap(lapack("eigvalsh", A._data, UPLO))


def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> SvdResult:
    """The singular value decomposition A = U diag(S) Vh. See ``torch.linalg.svd``.

    With ``full_matrices`` U and Vh are square; gradients of what they then have more are ignored. ``driver``, which in
    PyTorch names an algorithm of cuSOLVER's, changes nothing.
    """
    check_matrix("svd", A, square=False)
    return SvdResult(*SingularValues.apply(A, full=full_matrices))


def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """The singular values in descending order; ``driver`` changes nothing. See ``torch.linalg.svdvals``."""
    if _differentiated(A):
        return svd(A, False).S
    check_matrix("svdvals", A, square=False)
    return Tensor._wrap(lapack("svd", A._data, compute_uv=False, op="svdvals"))


def qr(A: Tensor, mode: str = "reduced") -> QrResult:
    """A = Q R; ``mode`` reduced, complete or r. See ``torch.linalg.qr``."""
    check_matrix("qr", A, square=False)
    if mode == "reduced" or (mode == "complete" and A.shape[-2] <= A.shape[-1]):  # which are one then
        return QrResult(*Orthogonal.apply(A))
    if mode not in ("complete", "r"):
        raise RuntimeError(f"qr: mode must be 'reduced', 'complete' or 'r', got {mode!r}")
    if A.requires_grad:
        rule = "a gradient needs mode='reduced', or 'complete' of no more rows than columns"
        raise RuntimeError(f"qr: {rule}, got {mode!r} of shape {tuple(A.shape)}")
    if mode == "r":
        nothing = empty((0,), A._data.dtype, A._data)
        return QrResult(Tensor._wrap(nothing), Tensor._wrap(lapack("qr", A._data, "r")))
    return QrResult(*[Tensor._wrap(contiguous(a)) for a in lapack("qr", A._data, "complete")])


def matrix_power(A: Tensor, n: int) -> Tensor:
    """A times itself ``n`` times; n below 0: of the inverse. See ``torch.linalg.matrix_power``."""
    check_tensors("matrix_power", A=A)
    check_matrix_shape("matrix_power", A)
    try:
        n = to_int(n)
    except TypeError:
        raise TypeError(f"matrix_power: n must be an integer, got {n!r}") from None
    if n < 0:
        return matrix_power(inv(A), -n)
    if n == 0:  # whose gradient is 0
        nothing = A.masked_fill(Tensor._wrap(full((), True, np.dtype(np.bool_), A._data)), 0.0)
        return nothing + Tensor._wrap(eye(A.shape[-1], A._data.dtype, A._data))
    result: Any = None
    while n:
        if n % 2:
            result = A if result is None else matmul(result, A)
        A, n = (matmul(A, A) if n > 1 else A), n // 2
    return result  # type: ignore[no-any-return]


def matrix_exp(A: Tensor) -> Tensor:
    """The sum of A^k / k!, by squaring the exponential of A / 2^s. See ``torch.linalg.matrix_exp``."""
    check_matrix("matrix_exp", A)
    seen = A._data.size and A._data.__class__ is not MetaArray
    size = float(np.abs(A._data).sum(axis=-2).max()) if seen else 0.0
    squarings = max(0, int(np.ceil(np.log2(size))) + 1) if np.isfinite(size) and size > 0 else 0
    x = A * 0.5**squarings  # of norm at most 1/2, where 14 terms are exact in double precision
    one = Tensor._wrap(eye(A.shape[-1], A._data.dtype, A._data))
    result = one + x / 14
    for k in range(13, 0, -1):
        result = one + matmul(x, result) / k
    for _ in range(squarings):
        result = matmul(result, result)
    return result


def householder_product(A: Tensor, tau: Tensor) -> Tensor:
    """The first columns of H_1 H_2 .. with H_i = I - tau_i v_i v_i^H.

    v_i is 0 above the diagonal of column i of ``A``, 1 on it and the column below it. See
    ``torch.linalg.householder_product``.
    """
    return reflections("householder_product", A, tau)


def reflections(op: str, A: Tensor, tau: Tensor) -> Tensor:
    """:func:`householder_product` under the name ``op``."""
    m, n = A.shape[-2:]
    if m < n or tau.shape[-1] > n:
        raise RuntimeError(f"{op}: A must be tall and tau as long as it is wide, got {A.shape}, {tau.shape}")
    # The product is I - V D (I + S D)^-1 V^H with D = diag(tau) and S what V^H V has above its diagonal.
    count, unit = tau.shape[-1], Tensor._wrap(eye(m, A._data.dtype, A._data)[:, :n])
    if count == 0:
        return unit.expand(A.shape).clone()
    v = tril(A[..., :count], -1) + unit[:, :count]
    scale = unsqueeze(tau, -2)
    turned = solve_triangular(matmul(v.mH, v) * scale, v[..., :n, :].mH, upper=True, unitriangular=True)
    return unit - matmul(v * scale, turned)


def multi_dot(tensors: Any) -> Tensor:
    """The product of matrices in the cheapest order; first and last may be vectors. See ``torch.linalg.multi_dot``."""
    parts = list(tensors)
    if len(parts) < 2:
        raise RuntimeError(f"multi_dot: expects at least 2 tensors, got {len(parts)}")
    row, column = parts[0].ndim == 1, parts[-1].ndim == 1
    if row:
        parts[0] = unsqueeze(parts[0], 0)
    if column:
        parts[-1] = unsqueeze(parts[-1], 1)
    result = chain_matmul(*parts)
    if column:
        result = squeeze(result, 1)
    return squeeze(result, 0) if row else result


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of the last two axes, a view. See ``torch.linalg.diagonal``."""
    return _diagonal(A, offset, dim1, dim2)


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product along ``dim``. See ``torch.linalg.cross``."""
    return _cross(input, other, dim)


def _largest(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """The largest of numbers that are not negative: 0 of none."""
    return amax(x, dim, keepdim) if x._data.shape[dim] else sum(x, dim, keepdim)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """A matrix norm: fro, nuc, 1, -1, 2, -2, inf or -inf. See ``torch.linalg.matrix_norm``."""
    if len(dim) != 2:
        raise RuntimeError(f"matrix_norm: dim must name two axes, got {dim}")
    if dtype is not None:
        A = A.to(dtype)
    rows, columns = [normal_axis("matrix_norm", d, A.ndim, keepdim) for d in dim]
    if rows == columns:
        raise RuntimeError(f"matrix_norm: dim must name two axes, got {dim}")
    if ord == "fro":
        return vector_norm(A, 2, (rows, columns), keepdim)
    inf = float("inf")
    if ord in (1, -1, inf, -inf):
        summed = rows if builtins.abs(ord) == 1 else columns
        other = columns if summed == rows else rows
        totals = sum(abs(A), summed, True)
        result = (_largest if ord > 0 else amin)(totals, other, True)
    elif ord in (2, -2, "nuc"):
        if columns != A.ndim - 1 or rows != A.ndim - 2:
            A = movedim(A, (rows, columns), (-2, -1))
        values = svdvals(A)
        result = sum(values, -1) if ord == "nuc" else (_largest if ord == 2 else amin)(values, -1)
        if not keepdim:
            return result
        for d in sorted((rows, columns)):
            result = unsqueeze(result, d)
    else:
        raise RuntimeError(f"matrix_norm: ord must be fro, nuc, 1, -1, 2, -2, inf or -inf, got {ord!r}")
    return result if keepdim else squeeze(result, (rows, columns))


def norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A vector norm of all elements or along one axis, or a matrix norm. See ``torch.linalg.norm``.

    Without ``ord`` the 2-norm of all elements (or along ``dim``); with ``ord`` and no ``dim`` of a vector or matrix.
    """
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    axes = (dim,) if isinstance(dim, int) else dim
    if axes is None:
        if A.ndim not in (1, 2):
            raise RuntimeError(
                f"norm: with ord and no dim, A must be a vector or a matrix, got shape {A.shape}"
            )
        axes = tuple(range(A.ndim))
    if len(axes) == 2:
        return matrix_norm(A, ord, axes, keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"norm: {ord!r} is a norm of matrices, dim must name two axes, got {dim}")
    return vector_norm(A, ord, axes, keepdim, dtype=dtype)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number |A| |A^-1|. See ``torch.linalg.cond``."""
    if p is None or p in (2, -2):
        values = svdvals(A)
        large, small = amax(values, -1), amin(values, -1)
        return small / large if p == -2 else large / small
    inverse, info = inv_ex(A)
    singular: Any = info != 0
    inverse = inverse.masked_fill(singular[..., None, None], 1.0)
    return (matrix_norm(A, p) * matrix_norm(inverse, p)).masked_fill(singular, float("inf"))


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The inner products of vectors along ``dim``, which broadcast; x is conjugated. See ``torch.linalg.vecdot``."""
    check_tensors("vecdot", x=x, y=y)
    return sum(conj(x) * y, dim)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """Powers 0 .. N - 1 of the last axis's elements, as a new last axis. See ``torch.linalg.vander``."""
    count = N if N is not None else x.shape[-1] if x.ndim else 1
    if count < 1:
        raise RuntimeError(f"vander: N must be positive, got {count}")
    return unsqueeze(x if x.ndim else unsqueeze(x, 0), -1) ** Tensor._wrap(np.arange(count, like=x._data))


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse for ``tensordot(.., ind)``; the first ``ind`` extents multiply to the same as the others.

    See ``torch.linalg.tensorinv``.
    """
    if ind <= 0:
        raise RuntimeError(f"tensorinv: ind must be positive, got {ind}")
    first, rest = A.shape[:ind], A.shape[ind:]
    if prod(first) != prod(rest):
        raise RuntimeError(f"tensorinv: {first} and {rest} must have as many elements")
    return inv(A.reshape(prod(first), prod(rest))).reshape(*rest, *first)


def tensorsolve(A: Tensor, B: Tensor, dims: Any = None) -> Tensor:
    """X with ``tensordot(A, X, X.ndim) = B``; ``dims`` of A are moved to its end first.

    See ``torch.linalg.tensorsolve``.
    """
    if dims is not None:
        A = movedim(A, dims, tuple(range(A.ndim - len(dims), A.ndim)))
    rest = A.shape[B.ndim :]
    if prod(rest) != B.numel():
        raise RuntimeError(f"tensorsolve: A of shape {A.shape} does not fit B of shape {B.shape}")
    return solve(A.reshape(B.numel(), prod(rest)), B.reshape(-1)).reshape(rest)

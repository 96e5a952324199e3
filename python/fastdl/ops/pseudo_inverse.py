"""What singular values decide: pseudo-inverses, ranks and least squares; see :mod:`fastdl.linalg`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.dtypes import complex128, float64, int64, real_dtype
from fastdl.errors import LinAlgError
from fastdl.kernels import MetaArray, select
from fastdl.ops.arrays import count_true, empty, full, zeros
from fastdl.ops.complex_kernels import product
from fastdl.ops.lapack import lapack
from fastdl.ops.linear import matmul
from fastdl.ops.matrix import check_matrix, mH, quiet
from fastdl.ops.reduce import sum
from fastdl.ops.unary import abs
from fastdl.ops.views import squeeze, unsqueeze
from fastdl.printing import named_lines
from fastdl.tensor import Tensor

_REGULAR = 1e5
"""Condition numbers, of columns of one length, up to which a matrix's square stands for it: in double precision it
gives the inverse to 1e-6, and one refinement step squares that error, in a tenth of singular values' time."""
_WORTH = 16  # rows and columns from which that is less work


class LstsqResult(NamedTuple):
    """The solution and what came with it."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor

    def __repr__(self) -> str:
        return named_lines(self)


def pinv(
    A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Tensor:
    """The pseudo-inverse; singular values up to ``max(atol, rtol * the largest)`` count as 0.

    ``rtol`` (also ``rcond``) is max(m, n) * eps, or 0 if ``atol`` is given. ``hermitian``: A is symmetric.
    See ``torch.linalg.pinv``.
    """
    check_matrix("pinv", A, square=hermitian)
    return PseudoInverse.apply(A, inverse=_pinv(A, rcond, hermitian, atol, rtol))  # type: ignore[no-any-return]


class PseudoInverse(Op):
    """A pseudo-inverse P found by the caller; its gradient for changes of A that leave the rank as it is (Golub and
    Pereyra, 1973), which is defined where singular values meet, too."""

    takes_complex = True
    saves, saves_output = (0,), True

    def forward(self, A: Any, inverse: Any) -> Any:
        self.A, self.P = A, inverse
        return inverse

    def backward(self, grad: Any) -> Any:
        return self.formula(self.A, self.P, grad, product, mH)

    def backward_graph(self, grad: Tensor) -> Any:
        return self.formula(
            self.saved_input(0, self.A), self.saved_output(self.P), grad, matmul, lambda a: a.mH
        )

    @staticmethod
    def formula(A: Any, P: Any, grad: Any, product: Any, adjoint: Any) -> Any:
        G, Q = adjoint(grad), adjoint(P)
        rows, columns = product(product(G, P), Q), product(Q, product(P, G))
        rows = rows - product(A, product(P, rows))
        columns = columns - product(product(columns, P), A)
        return rows + columns - product(Q, product(grad, Q))


class _Regular(NamedTuple):
    """A matrix of full rank in double precision, and W with W^H W = (A^H A)^-1, or (A A^H)^-1 of a wide one."""

    a: Any
    w: Any

    def solve(self, b: Any) -> Any:
        """The pseudo-inverse times b, to 1e-6 of it at worst."""
        a, w = self
        if a.shape[-2] < a.shape[-1]:
            return product(mH(a), product(mH(w), product(w, b)))
        return product(mH(w), product(w, product(mH(a), b)))

    def least(self, b: Any) -> Any:
        """The x that makes |a x - b| least."""
        b = b.astype(self.a.dtype, copy=False)
        x = self.solve(b)
        return x + self.solve(b - product(self.a, x))

    def inverse(self) -> Any:
        """The pseudo-inverse P, by Newton's step P + P (1 - a P)."""
        a, w = self
        square = product(mH(w), w)
        if a.shape[-2] < a.shape[-1]:
            p = product(mH(a), square)
            return 2 * p - product(p, product(a, p))
        p = product(square, mH(a))
        return 2 * p - product(product(p, a), p)


@quiet  # what is not finite is not below a limit
def _regular(x: Any, rtol: Any) -> _Regular | None:
    """None where a singular value might count as 0, or the square might lose it."""
    columns = min(x.shape[-2:])
    if x.__class__ is MetaArray or columns < _WORTH or isinstance(rtol, Tensor):
        return None
    if rtol is None:
        rtol = _relative(x)
    a = x.astype(complex128 if x.dtype.kind == "c" else float64, copy=False)
    square = product(a, mH(a)) if a.shape[-2] < a.shape[-1] else product(mH(a), a)
    sizes = square.diagonal(axis1=-2, axis2=-1).real
    # Columns of one length: only their angles can make the square lose anything.
    scale = 1 / np.sqrt(sizes)
    try:
        lower = lapack("cholesky", square * scale[..., None] * scale[..., None, :])
    except LinAlgError:
        return None
    w = select(a).triangular_solve(lower, None, False, False)
    # Frobenius norms are no less than the largest singular value and the smallest one's inverse.
    safe = columns * _squares(w) < _REGULAR**2
    w = w * scale[..., None, :]
    safe &= sizes.sum(-1) * _squares(w) * rtol**2 < 1
    return _Regular(a, w) if bool(safe.all()) else None


def _squares(w: Any) -> Any:
    return (np.abs(w) ** 2).sum((-2, -1))


@quiet
def _pinv(A: Tensor, rcond: Any, hermitian: bool, atol: Any, rtol: Any) -> Any:
    rtol, x = rtol if rcond is None else rcond, A._data
    if x.size == 0:
        return zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype, x)
    if hermitian:
        s, right = lapack("eigh", x, op="pinv")
        left, sizes = right.swapaxes(-1, -2), np.abs(s)
    elif atol is None and (regular := _regular(x, rtol)) is not None:
        return regular.inverse().astype(x.dtype, copy=False)
    else:
        u, s, vh = lapack("svd", x, full_matrices=False, op="pinv")
        left, right, sizes = u.swapaxes(-1, -2), mH(vh), s
    large = sizes > _tolerance(x, sizes.max(-1, keepdims=True), atol, rtol)
    inverse = _inverted(s, large)
    return product(right * inverse[..., None, :], left.conj())


def _inverted(s: Any, large: Any) -> Any:
    """1 / s where it is ``large``, else 0."""
    with np.errstate(divide="ignore"):  # of arrays without values
        return np.where(large, 1 / np.where(large, s, 1), s.dtype.type(0))


def _relative(x: Any) -> float:
    return float(max(x.shape[-2:]) * np.finfo(x.dtype).eps)


def _tolerance(x: Any, largest: Any, atol: Any, rtol: Any) -> Any:
    """Up to where a singular value counts as 0; ``largest`` (..., 1)."""
    if rtol is None:
        rtol = _relative(x) if atol is None else 0.0
    relative = largest * (rtol._data[..., None] if isinstance(rtol, Tensor) else rtol)
    if atol is None:
        return relative
    return np.maximum(relative, atol._data[..., None] if isinstance(atol, Tensor) else atol)


def matrix_rank(
    A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Tensor:
    """How many singular values exceed ``max(atol, rtol * the largest)``. See ``torch.linalg.matrix_rank``.

    ``tol`` is ``atol`` with ``rtol=0``; ``rtol`` is max(m, n) * eps unless one of them is given.
    """
    check_matrix("matrix_rank", A, square=hermitian)
    x = A._data
    if x.size == 0:
        return Tensor._wrap(zeros(x.shape[:-2], int64, x))
    s = (
        np.abs(lapack("eigvalsh", x, op="matrix_rank"))
        if hermitian
        else lapack("svd", x, compute_uv=False, op="matrix_rank")
    )
    if tol is not None:
        atol, rtol = tol, 0.0
    return Tensor._wrap(
        count_true(s > _tolerance(x, s.max(-1, keepdims=True), atol, rtol), (s.ndim - 1,), False)
    )


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> LstsqResult:
    """The X that makes |A X - B| least. See ``torch.linalg.lstsq``.

    ``driver`` gelsy (the default), gelsd, gelss or gels decides, as in PyTorch, whether residuals (not for gelsy),
    rank (not for gels) and singular values (for gelsd, gelss) come with it; the solution is found the same way.
    """
    check_matrix("lstsq", A, square=False)
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"lstsq: driver must be gels, gelsy, gelsd or gelss, got {driver!r}")
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    right = unsqueeze(B, -1) if vector else B
    (rows, columns), x = A.shape[-2:], A._data
    residuals = values = Tensor._wrap(empty((0,), real_dtype(x.dtype), x))
    if x.size == 0:
        solution, rank = matmul(pinv(A, rtol=rcond), right), matrix_rank(A, rtol=rcond)
    elif driver in (None, "gels", "gelsy") and (regular := _regular(x, rcond)) is not None:
        rank = Tensor._wrap(full(x.shape[:-2], min(rows, columns), int64, x))
        graph = mode.enabled and (A.requires_grad or B.requires_grad)
        if not graph and right.dtype == A.dtype and right.shape[:-1] == A.shape[:-1]:
            solution = Tensor._wrap(regular.least(right._data).astype(x.dtype, copy=False))
        else:
            inverse = regular.inverse().astype(x.dtype, copy=False)
            solution = matmul(PseudoInverse.apply(A, inverse=inverse), right)
    else:
        u, s, vh = lapack("svd", x, full_matrices=False, op="lstsq")
        large = s > _tolerance(x, s[..., :1], None, rcond)
        rank = Tensor._wrap(count_true(large, (large.ndim - 1,), False))
        inverse = _inverted(s, large)
        inverse = product(mH(vh) * inverse[..., None, :], mH(u))
        solution = matmul(PseudoInverse.apply(A, inverse=inverse), right)
        if driver in ("gelsd", "gelss"):
            values = Tensor._wrap(s)
    if driver not in (None, "gelsy") and rows > columns and bool((rank._data == columns).all()):
        residuals = sum(abs(matmul(A, solution) - right).square(), -2)
    if driver == "gels":
        rank = Tensor._wrap(empty((0,), int64, x))
    return LstsqResult(squeeze(solution, -1) if vector else solution, residuals, rank, values)

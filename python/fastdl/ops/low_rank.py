"""The largest singular values of a matrix, by random projections; see ``torch.svd_lowrank``.

N. Halko, P. G. Martinsson, J. A. Tropp, Finding structure with randomness, SIAM Review 53 (2011), algorithm 4.4.
"""

from __future__ import annotations

from fastdl.dtypes import FLOATING
from fastdl.errors import ArgumentError, DtypeError
from fastdl.ops.linalg import qr, svd
from fastdl.ops.sampling import randn
from fastdl.tensor import Tensor

__all__ = ["pca_lowrank", "svd_lowrank"]


def _check(op: str, matrix: Tensor, q: int, niter: int) -> None:
    if matrix.ndim < 2:
        raise ArgumentError(f"{op}: A must be a matrix (..., m, n), got {tuple(matrix.shape)}")
    if matrix._data.dtype.kind not in FLOATING:
        raise DtypeError(f"{op}: A must be floating-point, got {matrix.dtype}; convert with .float()")
    if niter < 0:
        raise ArgumentError(f"{op}: niter must be 0 or more, got {niter}")
    if q < 0:
        raise ArgumentError(f"{op}: q must be 0 or more, got {q}")


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V with A - M close to U diag(S) V^T, of rank ``q``; exact where A - M has no higher rank.

    Args:
        A: (..., m, n).
        q: how many singular values; at most min(m, n) come.
        niter: how many times the random subspace is improved.
        M: what is taken off A, broadcast to it.

    Returns:
        U (..., m, q), S (..., q) falling, V (..., n, q). They depend on random numbers.

    Example:
        >>> import fastdl
        >>> fastdl.svd_lowrank(fastdl.diag(fastdl.tensor([3.0, 2.0, 0.0])), q=2)[1].round(decimals=3)
        tensor([3., 2.])
    """
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    _check("svd_lowrank", A, q, niter)
    rest = A if M is None else A - M.expand(*A.shape)
    tall = rest.shape[-2] >= rest.shape[-1]
    if not tall:
        rest = rest.mT
    q = min(q, rest.shape[-1])
    found = qr(rest @ randn(rest.shape[-1], q, dtype=A.dtype, device=A.device))[0]
    for _ in range(niter):
        found = qr(rest @ qr(rest.mT @ found)[0])[0]
    u, s, vh = svd(found.mT @ rest, full_matrices=False)
    u, v = found @ u, vh.mT
    return (u, s, v) if tall else (v, s, u)


def pca_lowrank(
    A: Tensor, q: int | None = None, center: bool = True, niter: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """The principal components of rows: :func:`svd_lowrank` of A, without its columns' means if ``center``.

    ``q`` is min(6, m, n) by default, and at most min(m, n). See ``torch.pca_lowrank``.

    Example:
        >>> import fastdl
        >>> _, _, v = fastdl.pca_lowrank(fastdl.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]), q=1)
        >>> v.abs()
        tensor([[0.7071],
                [0.7071]])
    """
    least = min(A.shape[-2:], default=0)
    q = min(6, least) if q is None else q
    _check("pca_lowrank", A, q, niter)
    if q > least:
        raise ArgumentError(f"pca_lowrank: q must not be greater than min(m, n) = {least}, got {q}")
    return svd_lowrank(A - A.mean(-2, keepdim=True) if center else A, q, niter)

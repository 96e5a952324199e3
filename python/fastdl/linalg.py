"""Linear algebra; see ``torch.linalg``. Matrices are the last two axes, the others a batch.

Example:
    >>> import fastdl
    >>> a = fastdl.tensor([[2.0, 0.0], [0.0, 4.0]])
    >>> fastdl.linalg.solve(a, fastdl.tensor([2.0, 4.0])).tolist()
    [1.0, 1.0]
"""

from fastdl.ops import linalg
from fastdl.ops.linalg import *
from fastdl.published import publish as _publish

__all__ = linalg.__all__

_OUT = """
cholesky cholesky_ex cond cross det eig eigh eigvals eigvalsh householder_product inv inv_ex lstsq lu lu_factor
lu_factor_ex lu_solve matmul matrix_norm matrix_power matrix_rank multi_dot norm pinv qr slogdet solve
solve_ex solve_triangular svd svdvals tensorinv tensorsolve vecdot vector_norm
"""
_publish(globals(), __all__, _OUT)

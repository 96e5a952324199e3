"""Decompositions by libraries: LAPACK as NumPy offers it, on a GPU cuSOLVER as CuPy does."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from fastdl.errors import LinAlgError
from fastdl.kernels import capture, on_device

_JACOBI = 32
"""Rows up to which a batch of matrices goes to cuSOLVER at once."""

_ITERATIVE = ("svd", "eig", "eigvals", "eigh", "eigvalsh")
"""What repeats until it converges. LAPACK may repeat for ever where a matrix holds infinity."""


def check_waiting(op: str, x: Any) -> None:
    """Refuse what asks the GPU whether there is a result, while a graph is recorded, where nothing may wait."""
    if capture.active and on_device(x):
        raise RuntimeError(
            f"{op}: waits for the GPU, which a graph cannot record; compute it before, outside of the graph"
        )


def lapack(name: str, a: Any, *args: Any, op: str = "", **options: Any) -> Any:
    """NumPy's or CuPy's function ``name`` of ``numpy.linalg``; LinAlgError, by ``op``, where it finds no result."""
    check_waiting(op or name, a)
    if name in _ITERATIVE and isinstance(a, np.ndarray) and not np.isfinite(a).all():
        raise LinAlgError(
            f"{op or name}: the matrix must be finite to converge; this one contains infinity or NaN"
        )
    # CuPy ignores what cuSOLVER says of its success unless asked: knowing takes waiting.
    asked: AbstractContextManager[Any] = nullcontext()
    if on_device(a):
        asked = importlib.import_module("cupyx").errstate(linalg="raise")
    try:
        with asked:
            return _apply(name, a, *args, **options)
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{op or name}: {error}") from None


def _apply(name: str, a: Any, *args: Any, **options: Any) -> Any:
    function = getattr(np.linalg, name)
    if not (name.startswith("eig") and on_device(a) and a.ndim > 2 and a.shape[-1] > _JACOBI and a.size):
        return function(a, *args, **options)
    # CuPy takes Jacobi's method for every batch, which cuSOLVER has for small matrices, and a faster one for a matrix.
    found = [function(each, *args, **options) for each in a.reshape(-1, *a.shape[-2:])]
    if name == "eigvalsh":
        return np.stack(found).reshape(a.shape[:-1])
    values, vectors = zip(*found, strict=True)
    return np.stack(values).reshape(a.shape[:-1]), np.stack(vectors).reshape(a.shape)

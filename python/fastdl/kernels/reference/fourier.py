"""Discrete Fourier transforms: NumPy's own loops."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["transform"]

Array = np.ndarray[Any, Any]


def transform(function: np.ufunc, x: Array, axis: int, count: int, factor: float) -> Any:
    """``function``, a transform of NumPy's of the signature ``(n),()->(m)``, along ``axis``, times ``factor``.

    ``count``: entries of the result along ``axis``, what follows from the length of ``x`` (or says what an inverse real
    transform has).
    """
    results = [types[-1] for types in function.types if types[0] == x.dtype.char]
    if not results:
        raise ValueError("transform: x must be of a dtype that function knows")
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    out = np.empty(shape, results[0])
    return function(x, x.real.dtype.type(factor), axes=[(axis,), (), (axis,)], out=out)

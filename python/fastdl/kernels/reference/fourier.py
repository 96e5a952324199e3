"""Discrete Fourier transforms: NumPy's module, and its own loops."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fourier", "transform"]

Array = np.ndarray[Any, Any]


def fourier(
    name: str,
    x: Array,
    axis: int,
    count: int,
    factor: float,
    conjugate: bool = False,
    ends: float = 1.0,
    in_place: bool = False,
) -> Any:
    """``fft``, ``ifft``, ``rfft`` or ``irfft`` without a factor of its own, along ``axis``, times ``factor``.

    Of the half spectrum that ``rfft`` makes and ``irfft`` takes: ``conjugate``, and ``ends``, the factor of entries
    that stand for one of the whole spectrum, not for two. ``in_place``: x may be overwritten. Kernels may return
    None: for what is better left to NumPy.
    """

    def spectrum(half: Array, whole: int) -> Array:
        half = np.moveaxis(np.conjugate(half) if conjugate else half.copy(), axis, 0)
        half[0] *= ends
        if whole % 2 == 0:
            half[-1] *= ends
        return np.moveaxis(half, 0, axis)

    if name == "irfft":
        y = np.fft.irfft(spectrum(x, count), count, axis, "forward")
    else:
        y = getattr(np.fft, name)(x, axis=axis, norm="forward" if name == "ifft" else "backward")
    if name == "rfft":
        y = spectrum(y, x.shape[axis])
    wide = y * factor
    single = x.dtype.char in "fF"
    return wide.astype(
        (np.float32 if single else np.float64) if wide.dtype.kind == "f" else x.dtype.char.upper()
    )


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

"""Discrete Fourier transforms: NumPy's module, and its own loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["fourier", "transform"]

Array = np.ndarray[Any, Any]


def fourier(
    name: str,
    x: Array,
    axes: Sequence[int],
    count: int,
    factor: float,
    conjugate: bool = False,
    ends: float = 1.0,
) -> Any:
    """``fft``, ``ifft``, ``rfft`` or ``irfft`` without a factor of its own, along ``axes``, times ``factor``.

    The real ones have a real signal along the last axis; along the others the transform is complex, of the same sign.
    Of the half spectrum that ``rfft`` makes and ``irfft`` takes: ``conjugate`` (which turns that sign), and ``ends``,
    the factor of entries that stand for one of the whole spectrum, not for two. Kernels may return None: for what is
    better left to NumPy.
    """
    *others, last = axes

    def spectrum(half: Array, whole: int) -> Array:
        half = np.moveaxis(np.conjugate(half) if conjugate else half.copy(), last, 0)
        half[0] *= ends
        if whole % 2 == 0:
            half[-1] *= ends
        return np.moveaxis(half, 0, last)

    def along_others(z: Array, inverse: bool) -> Array:
        for axis in others:
            z = np.fft.ifft(z, axis=axis, norm="forward") if inverse else np.fft.fft(z, axis=axis)
        return z

    if name == "irfft":
        y = np.fft.irfft(spectrum(along_others(x, not conjugate), count), count, last, "forward")
    elif name == "rfft":
        y = along_others(spectrum(np.fft.rfft(x, axis=last), x.shape[last]), conjugate)
    else:
        inverse = name == "ifft"
        y = along_others(
            getattr(np.fft, name)(x, axis=last, norm="forward" if inverse else "backward"), inverse
        )
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

"""Complex numbers, as NumPy computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "complex_add",
    "complex_conjugate",
    "complex_divide",
    "complex_join",
    "complex_multiply",
    "complex_multiply_conjugate",
    "complex_rows",
    "complex_scale",
    "complex_shrink",
    "complex_sub",
]

Array = np.ndarray[Any, Any]


def complex_add(x: Array, y: Array, out: Any = None) -> Any:
    """x + y, of complex64 arrays."""
    return np.add(x, y, out)


def complex_sub(x: Array, y: Array, out: Any = None) -> Any:
    """x - y"""
    return np.subtract(x, y, out)


def complex_multiply(x: Array, y: Array, out: Any = None) -> Any:
    """x y"""
    return np.multiply(x, y, out)


def complex_multiply_conjugate(x: Array, y: Array, out: Any = None) -> Any:
    """x conj(y)"""
    return np.multiply(x, np.conj(y), out)


def complex_divide(x: Array, y: Array, out: Any = None) -> Any:
    """x / y; by zero as by the real number zero."""
    return np.divide(x, np.where(y == 0, y.real, y), out)


def complex_scale(x: Array, y: Array, out: Any = None) -> Any:
    """x y with real y: both parts times it."""
    return np.multiply(x, y, out)


def complex_shrink(x: Array, y: Array, out: Any = None) -> Any:
    """x / y with real y: both parts divided by it."""
    return np.divide(x, y, out)


def complex_join(x: Array, y: Array, out: Any = None) -> Any:
    """x + i y, of real x and y."""
    result = (
        np.empty(np.broadcast_shapes(x.shape, y.shape), np.result_type(x, np.complex64))
        if out is None
        else out
    )
    result.real, result.imag = x, y
    return result


def complex_conjugate(x: Array, out: Any = None) -> Any:
    """conj(x)"""
    return np.conj(x, out)


def complex_rows(x: Array, conjugate: bool = False) -> Any:
    """The real matrix (..., 2 K, 2 N) of a complex one (..., K, N), or of its conjugate.

    Numbers as pairs times this matrix are the pairs of the complex product.
    """
    x = np.conj(x) if conjugate else x
    both = np.stack([x, 1j * x], -2).astype(x.dtype, "C")
    return both.reshape(*x.shape[:-2], 2 * x.shape[-2], x.shape[-1]).view(x.real.dtype)

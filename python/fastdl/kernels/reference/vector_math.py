"""Elementary functions that the kernels are built from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; NumPy's own annotations make Any of most expressions

__all__ = ["vector_math"]


def erf(x: Array) -> Array:
    """The error function; NumPy has none."""
    values: Array = np.vectorize(math.erf, otypes=[np.float64])(x)
    return values.astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), where large |x| raises no overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)
    return y


def vector_math(function: str, x: Array) -> Array:
    """``function`` of every element; ``log1p_unit`` is for x in [0, 1], ``sin_2pi`` (of 2 pi x) for [0, 1)"""
    functions: dict[str, Any] = {
        "exp": np.exp,
        "expm1": np.expm1,
        "log": np.log,
        "log1p": np.log1p,
        "log1p_unit": np.log1p,
        "tanh": np.tanh,
        "sigmoid": sigmoid,
        "erf": erf,
        "sin_2pi": lambda u: np.sin(2 * np.pi * u),
        "cos_2pi": lambda u: np.cos(2 * np.pi * u),
    }
    with np.errstate(all="ignore"):
        y: Array = np.asarray(functions[function](x), dtype=x.dtype)
        return y

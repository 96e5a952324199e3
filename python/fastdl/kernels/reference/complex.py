"""Complex numbers, as NumPy computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["complex_multiply"]

Array = np.ndarray[Any, Any]


def complex_multiply(x: Array, y: Array, conjugate: bool = False) -> Any:
    """x y, or x conj(y), of complex64 arrays."""
    return x * (np.conj(y) if conjugate else y)

"""More of ``elementwise.py``: extremes and signs by IEEE's rules, sums of exponentials, powers of two, and what only
integers have."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.kernels.reference.elementwise import _store

Array = np.ndarray[Any, Any]

__all__ = [
    "angle_forward",
    "bitwise_and_forward",
    "bitwise_or_forward",
    "bitwise_xor_forward",
    "copysign_forward",
    "exp2_backward",
    "exp2_forward",
    "fmax_forward",
    "fmin_forward",
    "heaviside_forward",
    "left_shift_forward",
    "logaddexp_backward",
    "logaddexp_forward",
    "nextafter_forward",
    "right_shift_forward",
    "trunc_divide_forward",
]


def angle_forward(x: Array, out: Array | None = None) -> Array:
    """The angle of real numbers: pi below 0, else 0; NaN stays."""
    return _store(np.where(x < 0, np.pi, np.where(x != x, x, 0)).astype(x.dtype), out)


def logaddexp_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """log(exp(x) + exp(y)) without overflow."""
    return _store(np.logaddexp(x, y), out)


def logaddexp_backward(grad: Array, x: Any, y: Any) -> Any:
    """grad_x and grad_y: the shares of both in the sum, halves where they are equal."""
    with np.errstate(all="ignore"):
        share = np.where(np.equal(x, y), 0.5, 1 / (1 + np.exp(np.subtract(y, x)))).astype(grad.dtype)
    return grad * share, grad - grad * share


def copysign_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """|x| with the sign of y."""
    return _store(np.copysign(x, y), out)


def nextafter_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The next number after x in the direction of y."""
    return _store(np.nextafter(x, y), out)


def fmax_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The larger; of a number and NaN the number."""
    return _store(np.fmax(x, y), out)


def fmin_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """The smaller; of a number and NaN the number."""
    return _store(np.fmin(x, y), out)


def heaviside_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """0 where x is below zero or NaN, y where it is zero, 1 above."""
    return _store(np.where(np.equal(x, 0), y, np.greater(x, 0)).astype(np.result_type(x, y)), out)


def exp2_forward(x: Array, out: Array | None = None) -> Any:
    return _store(np.exp2(x), out)


def exp2_backward(grad_y: Array, y: Array) -> Any:
    return grad_y * (y.dtype.type(np.log(2.0)) * y)


def trunc_divide_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x / y towards zero; of integers by zero 0."""
    if (x if isinstance(x, np.ndarray) else y).dtype.kind in "iu":
        with np.errstate(all="ignore"):
            quotient = np.floor_divide(x, y)
            rounded = ((np.less(x, 0)) != (np.less(y, 0))) & (np.fmod(x, y) != 0)
            return _store((quotient + rounded).astype(quotient.dtype), out)
    return _store(np.trunc(np.true_divide(x, y)), out)


def left_shift_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x 2^y of integers, modulo 2^bits; 0 where y is negative or no bit would stay."""
    return _store(np.left_shift(x, y), out)


def right_shift_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """x / 2^y of integers, rounded down; 0 or -1 where y is negative or no bit would stay."""
    return _store(np.right_shift(x, y), out)


def bitwise_and_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in both, of bools or int64."""
    return _store(np.bitwise_and(x, y), out)


def bitwise_or_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in either."""
    return _store(np.bitwise_or(x, y), out)


def bitwise_xor_forward(x: Any, y: Any, out: Array | None = None) -> Any:
    """Bits set in exactly one."""
    return _store(np.bitwise_xor(x, y), out)

"""Modified Bessel functions of the first kind, of orders 0 and 1, also scaled by exp(-|x|); see ``torch.special``.

The power series sum of (x / 2)^(2k + v) / (k! (k + v)!), whose terms are all positive, up to |x| = 20; beyond it the
asymptotic one, exp(x) / sqrt(2 pi x) times 1 - (m - 1) / (8x) + (m - 1) (m - 9) / (2! (8x)^2) - ... with m = 4 v^2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.ops.activation import floating
from fastdl.ops.arithmetic import add, div, mul, sub
from fastdl.ops.elementwise import where
from fastdl.ops.evaluated import evaluated
from fastdl.ops.host import on_host
from fastdl.ops.unary import sign
from fastdl.tensor import Tensor

_LAST = 20.0


@on_host
def i0(input: Tensor) -> Tensor:
    """The modified Bessel function of order 0. See ``torch.i0``.

    Example:
        >>> import fastdl
        >>> round(fastdl.i0(fastdl.tensor(1.0)).item(), 4)
        1.2661
    """
    return evaluated(lambda x: _scaled(x, 0) * np.exp(np.abs(x)), floating(input), i1)


@on_host
def i0e(input: Tensor) -> Tensor:
    """exp(-|x|) :func:`i0`, which does not overflow. See ``torch.special.i0e``."""
    return evaluated(lambda x: _scaled(x, 0), floating(input), lambda x: sub(i1e(x), mul(sign(x), i0e(x))))


@on_host
def i1(input: Tensor) -> Tensor:
    """The modified Bessel function of order 1. See ``torch.special.i1``."""
    return evaluated(
        lambda x: _scaled(x, 1) * np.exp(np.abs(x)), floating(input), lambda x: sub(i0(x), _over(i1(x), x))
    )


@on_host
def i1e(input: Tensor) -> Tensor:
    """exp(-|x|) :func:`i1`, which does not overflow. See ``torch.special.i1e``."""
    return evaluated(
        lambda x: _scaled(x, 1),
        floating(input),
        lambda x: sub(i0e(x), add(mul(sign(x), i1e(x)), _over(i1e(x), x))),
    )


def _over(y: Tensor, x: Tensor) -> Tensor:
    """y / x for a function that grows as x / 2 at 0."""
    zero = x == 0
    return where(zero, 0.5, div(y, where(zero, 1.0, x)))  # type: ignore[no-any-return]


def _scaled(x: Any, order: int) -> Any:
    size = np.abs(x)
    near = np.minimum(size, _LAST)
    term = total = (near / 2) ** order
    for k in range(1, 60):
        term = term * (near * near / 4) / (k * (k + order))
        total = total + term
    far = np.maximum(size, _LAST)
    term = series = np.ones_like(far)
    for k in range(1, 30):
        term = term * -((4 * order - (2 * k - 1) ** 2) / (8 * k * far))
        series = series + term
    result = np.where(size <= _LAST, total * np.exp(-near), series / np.sqrt(2 * math.pi * far))
    return np.where(np.signbit(x), -result, result) if order else result

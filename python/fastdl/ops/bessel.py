"""Modified Bessel functions of the first kind, of orders 0 and 1, also scaled by exp(-|x|); see ``torch.special``."""

from __future__ import annotations

from fastdl.ops.arithmetic import add, div, mul, sub
from fastdl.ops.elementwise import isinf, where
from fastdl.ops.evaluated import special
from fastdl.ops.unary import sign, sin
from fastdl.tensor import Tensor


def i0(input: Tensor) -> Tensor:
    """The modified Bessel function of order 0. See ``torch.i0``.

    Example:
        >>> import fastdl
        >>> round(fastdl.i0(fastdl.tensor(1.0)).item(), 4)
        1.2661
    """
    return special("i0", input, i1)


def i0e(input: Tensor) -> Tensor:
    """exp(-|x|) :func:`i0`, which does not overflow. See ``torch.special.i0e``."""
    return special("i0e", input, lambda x: sub(i1e(x), mul(sign(x), i0e(x))))


def i1(input: Tensor) -> Tensor:
    """The modified Bessel function of order 1. See ``torch.special.i1``."""
    return special("i1", input, lambda x: sub(i0(x), _over(i1(x), x)))


def i1e(input: Tensor) -> Tensor:
    """exp(-|x|) :func:`i1`, which does not overflow. See ``torch.special.i1e``."""
    return special("i1e", input, lambda x: sub(i0e(x), add(mul(sign(x), i1e(x)), _over(i1e(x), x))))


def spherical_bessel_j0(x: Tensor) -> Tensor:
    """sin(x) / x, 1 at 0 and 0 at infinity. See ``torch.special.spherical_bessel_j0``."""
    zero = x == 0
    values = where(zero, 1.0, div(sin(x), where(zero, 1.0, x)))
    return where(isinf(x), 0.0, values)  # type: ignore[no-any-return]


def _over(y: Tensor, x: Tensor) -> Tensor:
    """y / x for a function that grows as x / 2 at 0."""
    zero = x == 0
    return where(zero, 0.5, div(y, where(zero, 1.0, x)))  # type: ignore[no-any-return]

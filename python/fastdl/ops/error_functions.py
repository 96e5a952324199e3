"""The error function's relatives: complement, inverse, scaled; the normal distribution's. See ``torch.special``."""

from __future__ import annotations

import math

from fastdl.ops.arithmetic import div, mul, sub
from fastdl.ops.evaluated import special
from fastdl.ops.unary import exp, square
from fastdl.tensor import Tensor

_ROOT_PI = math.sqrt(math.pi)
_ROOT_TWO_PI = math.sqrt(2 * math.pi)


def erfc(input: Tensor) -> Tensor:
    """1 - erf(input), also where erf is close to 1. See ``torch.erfc``."""
    return special("erfc", input, lambda x: mul(exp(mul(square(x), -1.0)), -2 / _ROOT_PI))


def erfcx(input: Tensor) -> Tensor:
    """exp(x^2) :func:`erfc`, which does not vanish for large x. See ``torch.special.erfcx``.

    Example:
        >>> import fastdl
        >>> round(fastdl.special.erfcx(fastdl.tensor(1000.0)).item() * 1000, 4)  # about 1 / (x sqrt(pi))
        0.5642
    """
    return special("erfcx", input, lambda x: sub(mul(mul(x, erfcx(x)), 2.0), 2 / _ROOT_PI))


def erfinv(input: Tensor) -> Tensor:
    """The y whose erf is input; infinite at -1 and 1, NaN beyond. See ``torch.erfinv``."""
    return special("erfinv", input, lambda x: mul(exp(square(erfinv(x))), _ROOT_PI / 2))


def ndtr(input: Tensor) -> Tensor:
    """The normal distribution's cumulative probability. See ``torch.special.ndtr``."""
    return special("ndtr", input, lambda x: mul(exp(mul(square(x), -0.5)), 1 / _ROOT_TWO_PI))


def log_ndtr(input: Tensor) -> Tensor:
    """log(:func:`ndtr`), also where that is too small for a number. See ``torch.special.log_ndtr``."""
    return special("log_ndtr", input, lambda x: div(math.sqrt(2 / math.pi), erfcx(mul(x, -math.sqrt(0.5)))))


def ndtri(input: Tensor) -> Tensor:
    """The x whose :func:`ndtr` is input; infinite at 0 and 1, NaN beyond. See ``torch.special.ndtri``."""
    return special("ndtri", input, lambda p: mul(exp(mul(square(ndtri(p)), 0.5)), _ROOT_TWO_PI))

"""The error function's relatives: complement, inverse, scaled; the normal distribution's. See ``torch.special``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl.kernels import select
from fastdl.ops.activation import floating
from fastdl.ops.arithmetic import div, mul, sub
from fastdl.ops.evaluated import by_element, evaluated
from fastdl.ops.host import on_host
from fastdl.ops.unary import exp, square
from fastdl.tensor import Tensor

_ROOT_PI = math.sqrt(math.pi)


@on_host
def erfc(input: Tensor) -> Tensor:
    """1 - erf(input), also where erf is close to 1. See ``torch.erfc``."""
    return evaluated(
        by_element(math.erfc), floating(input), lambda x: mul(exp(mul(square(x), -1.0)), -2 / _ROOT_PI)
    )


@on_host
def erfcx(input: Tensor) -> Tensor:
    """exp(x^2) :func:`erfc`, which does not vanish for large x. See ``torch.special.erfcx``.

    Example:
        >>> import fastdl
        >>> round(fastdl.special.erfcx(fastdl.tensor(1000.0)).item() * 1000, 4)  # about 1 / (x sqrt(pi))
        0.5642
    """
    return evaluated(_erfcx, floating(input), lambda x: sub(mul(mul(x, erfcx(x)), 2.0), 2 / _ROOT_PI))


@on_host
def erfinv(input: Tensor) -> Tensor:
    """The y whose erf is input; infinite at -1 and 1, NaN beyond. See ``torch.erfinv``."""
    return evaluated(_erfinv, floating(input), lambda x: mul(exp(square(erfinv(x))), _ROOT_PI / 2))


@on_host
def ndtr(input: Tensor) -> Tensor:
    """The normal distribution's cumulative probability. See ``torch.special.ndtr``."""
    return mul(erfc(mul(floating(input), -math.sqrt(0.5))), 0.5)


@on_host
def log_ndtr(input: Tensor) -> Tensor:
    """log(:func:`ndtr`), also where that is too small for a number. See ``torch.special.log_ndtr``."""
    return evaluated(
        _log_ndtr,
        floating(input),
        lambda x: div(math.sqrt(2 / math.pi), erfcx(mul(x, -math.sqrt(0.5)))),
    )


@on_host
def ndtri(input: Tensor) -> Tensor:
    """The x whose :func:`ndtr` is input; infinite at 0 and 1, NaN beyond. See ``torch.special.ndtri``."""
    return evaluated(
        _ndtri, floating(input), lambda p: mul(exp(mul(square(ndtri(p)), 0.5)), math.sqrt(2 * math.pi))
    )


# --------------------------------------------------------------------------------- double precision, on arrays


def _erfcx(x: Any) -> Any:
    """The product as it stands below 2; beyond it the continued fraction 1 / (x + (1/2) / (x + (2/2) / (x + ...)))."""
    near = np.minimum(x, 2.0)
    product = np.exp(near * near) * by_element(math.erfc)(near)
    far = np.maximum(x, 2.0)
    fraction = far
    for k in range(100, 0, -1):
        fraction = far + 0.5 * k / fraction
    return np.where(x < 2.0, product, 1 / (_ROOT_PI * fraction))


def _erfinv(x: Any) -> Any:
    """Winitzki's approximation, then Newton's steps on erf."""
    a = 0.147
    log_term = np.log1p(-x * x)
    first = 2 / (np.pi * a) + log_term / 2
    y = np.sign(x) * np.sqrt(np.sqrt(first * first - log_term / a) - first)
    kernels = select(x)
    for _ in range(4):
        step = (kernels.erf_forward(np.asarray(y)) - x) / (2 / _ROOT_PI * np.exp(-y * y))
        y = np.where(np.isfinite(step), y - step / (1 + y * step), y)
    return np.where(np.abs(x) == 1, np.copysign(np.inf, x), np.where(np.abs(x) > 1, np.nan, y))


def _log_ndtr(x: Any) -> Any:
    below = np.log(_erfcx(-np.minimum(x, -1.0) * math.sqrt(0.5)) / 2) - np.minimum(x, -1.0) ** 2 / 2
    above = np.log1p(-0.5 * by_element(math.erfc)(np.maximum(x, -1.0) * math.sqrt(0.5)))
    return np.where(x < -1.0, below, above)


def _ndtri(p: Any) -> Any:
    """Newton's steps on the logarithm of the smaller tail, which is concave: no overshoot."""
    tail = np.clip(np.where(p < 0.5, p, 1 - p), 5e-324, 0.5)
    wanted = np.log(tail)
    x = -np.sqrt(-2 * wanted)
    for _ in range(8):
        x = x - (_log_ndtr(x) - wanted) * _erfcx(-x * math.sqrt(0.5)) * math.sqrt(math.pi / 2)
    x = np.where(p < 0.5, x, -x)
    return np.where((p > 0) & (p < 1), x, np.where(p == 0, -np.inf, np.where(p == 1, np.inf, np.nan)))

"""Transforms of numbers: exponentials, powers, sigmoids, straight lines."""

from __future__ import annotations

import math
from typing import Any

from fastdl.creation import full_like
from fastdl.distributions.constraints import interval, over_last, positive, real, unit_interval
from fastdl.distributions.transforms.base import Transform, broadcast, sum_last
from fastdl.dtypes import floating_info
from fastdl.ops.activation import sigmoid, softplus, tanh
from fastdl.ops.elementwise import atanh, clamp
from fastdl.ops.unary import abs, exp, expm1, log, log1p
from fastdl.tensor import Tensor

__all__ = [
    "AbsTransform",
    "AffineTransform",
    "ExpTransform",
    "PowerTransform",
    "SigmoidTransform",
    "SoftplusTransform",
    "TanhTransform",
]


class ExpTransform(Transform):
    """y = exp(x)"""

    _compared = ()
    codomain = positive
    bijective, sign = True, +1

    def _call(self, x: Any) -> Any:
        return exp(x)

    def _inverse(self, y: Any) -> Any:
        return log(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return x


class PowerTransform(Transform):
    """y = x ** exponent, for positive x."""

    _compared = ("exponent",)
    domain = codomain = positive
    bijective = True

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent = exponent

    @property
    def sign(self) -> Any:
        exponent = self.exponent
        return exponent.sign() if isinstance(exponent, Tensor) else -1 if exponent < 0 else 1

    def _call(self, x: Any) -> Any:
        return x**self.exponent

    def _inverse(self, y: Any) -> Any:
        return y ** (1 / self.exponent)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return log(abs(self.exponent * y / x))

    def forward_shape(self, shape: Any) -> Any:
        return broadcast(shape, self.exponent)

    inverse_shape = forward_shape


class SigmoidTransform(Transform):
    """y = 1 / (1 + exp(-x)), never quite 0 or 1."""

    _compared = ()
    codomain = unit_interval
    bijective, sign = True, +1

    def _call(self, x: Any) -> Any:
        return inside(sigmoid(x))

    def _inverse(self, y: Any) -> Any:
        y = inside(y)
        return log(y) - log1p(-y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x) - softplus(x)


def inside(y: Tensor) -> Tensor:
    """y, kept off 0 and 1 by what its dtype can tell from them."""
    limits = floating_info(y.dtype)
    return clamp(y, float(limits.tiny), 1.0 - float(limits.eps))


class SoftplusTransform(Transform):
    """y = log(1 + exp(x))"""

    _compared = ()
    codomain = positive
    bijective, sign = True, +1

    def _call(self, x: Any) -> Any:
        return softplus(x)

    def _inverse(self, y: Any) -> Any:
        return log(-expm1(-y)) + y

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x)


class TanhTransform(Transform):
    """y = tanh(x)"""

    _compared = ()
    codomain = interval(-1.0, 1.0)
    bijective, sign = True, +1

    def _call(self, x: Any) -> Any:
        return tanh(x)

    def _inverse(self, y: Any) -> Any:
        return atanh(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return 2.0 * (math.log(2.0) - x - softplus(-2.0 * x))


class AbsTransform(Transform):
    """y = |x|; the inverse is the positive one of two."""

    _compared = ()
    codomain = positive

    def _call(self, x: Any) -> Any:
        return abs(x)

    def _inverse(self, y: Any) -> Any:
        return y


class AffineTransform(Transform):
    """y = loc + scale x; with ``event_dim`` the last axes are one value."""

    _compared = ("loc", "scale", "event_dim")
    bijective = True

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc, self.scale = loc, scale
        self.domain = self.codomain = over_last(real, event_dim)

    @property
    def sign(self) -> Any:
        scale = self.scale
        return scale.sign() if isinstance(scale, Tensor) else -1 if scale < 0 else 1

    def _call(self, x: Any) -> Any:
        return self.loc + self.scale * x

    def _inverse(self, y: Any) -> Any:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        if isinstance(self.scale, Tensor):
            result: Any = log(abs(self.scale)).expand(x.shape)
        else:
            result = full_like(x, math.log(math.fabs(self.scale)))
        return sum_last(result, self.event_dim)

    def forward_shape(self, shape: Any) -> Any:
        return broadcast(shape, self.loc, self.scale)

    inverse_shape = forward_shape

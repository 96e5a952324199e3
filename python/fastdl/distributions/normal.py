"""Normal distributions and their halves and exponentials."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from fastdl.creation import zeros_like
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.location_scale import LocationScale
from fastdl.ops.elementwise import where
from fastdl.ops.sampling import randn
from fastdl.ops.special import erfinv
from fastdl.ops.unary import abs, erf, exp, expm1, log, square
from fastdl.tensor import Tensor

__all__ = ["HalfNormal", "LogNormal", "Normal"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Normal(LocationScale):
    """log p(x) = -(x - loc)^2 / (2 scale^2) - log(scale) - log(2 pi) / 2. See ``torch.distributions.Normal``.

    Args:
        loc: the mean, a number or a tensor.
        scale: the standard deviation, positive.

    Example:
        >>> Normal(0.0, 2.0).variance.item()
        4.0
    """

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return square(self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -0.5 * square((value - self.loc) / self.scale) - log(self.scale) - _HALF_LOG_2PI

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return 0.5 * (1 + erf((value - self.loc) / (self.scale * math.sqrt(2))))

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * erfinv(2 * value - 1) * math.sqrt(2)

    def entropy(self) -> Tensor:
        return log(self.scale) + (0.5 + _HALF_LOG_2PI)


class LogNormal(LocationScale):
    """exp of a normal variable. See ``torch.distributions.LogNormal``."""

    @property
    def base_dist(self) -> Normal:
        """The distribution of the logarithm."""
        return Normal(self.loc, self.scale, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.positive

    @property
    def mean(self) -> Tensor:
        return exp(self.loc + square(self.scale) / 2)

    @property
    def mode(self) -> Tensor:
        return exp(self.loc - square(self.scale))

    @property
    def variance(self) -> Tensor:
        spread = square(self.scale)
        return expm1(spread) * exp(2 * self.loc + spread)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return exp(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        y = log(value)
        return self.base_dist.log_prob(y) - y

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return self.base_dist.cdf(log(value))

    def icdf(self, value: Tensor) -> Tensor:
        return exp(self.base_dist.icdf(value))

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() + self.loc


class HalfNormal(Distribution):
    """The absolute value of a normal variable of mean 0. See ``torch.distributions.HalfNormal``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"scale": constraints.positive}
    has_rsample = True
    _fields = ("scale",)

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        (self.scale,) = broadcast_all(scale)
        super().__init__(self.scale.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def mode(self) -> Tensor:
        return zeros_like(self.scale)

    @property
    def variance(self) -> Tensor:
        return square(self.scale) * (1 - 2 / math.pi)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return abs(
            self.scale
            * randn(self._extended_shape(sample_shape), dtype=self.scale.dtype, device=self.scale.device)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        inside = -0.5 * square(value / self.scale) - log(self.scale) - (_HALF_LOG_2PI - math.log(2))
        return where(value >= 0, inside, -math.inf)  # type: ignore[no-any-return]

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return erf(value / (self.scale * math.sqrt(2)))

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * math.sqrt(2) * erfinv(value)

    def entropy(self) -> Tensor:
        return log(self.scale) + (0.5 + _HALF_LOG_2PI - math.log(2))

"""Distributions of positive numbers with heavy tails: Pareto, Weibull, half Cauchy, inverse gamma."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.gamma import _standard_gamma
from fastdl.distributions.location_scale import _open_uniform
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, igammac, lgamma
from fastdl.ops.unary import atan, exp, expm1, log, log1p, reciprocal, square, tan
from fastdl.tensor import Tensor

__all__ = ["HalfCauchy", "InverseGamma", "Pareto", "Weibull"]

_EULER = 0.57721566490153286060


class _Positive(Distribution):
    has_rsample = True

    @property
    def support(self) -> constraints.Constraint:
        return constraints.positive


class Pareto(_Positive):
    """log p(x) = log(alpha) + alpha log(scale) - (alpha + 1) log(x) for x >= scale.

    See ``torch.distributions.Pareto``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "scale": constraints.positive,
        "alpha": constraints.positive,
    }
    _fields = ("scale", "alpha")

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None) -> None:
        self.scale, self.alpha = broadcast_all(scale, alpha)
        super().__init__(self.scale.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.greater_than_eq(self.scale._data)

    @property
    def mean(self) -> Tensor:
        alpha = self.alpha.clamp(min=1)
        return alpha * self.scale / (alpha - 1)

    @property
    def mode(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        alpha = self.alpha.clamp(min=2)
        return square(self.scale) * alpha / (square(alpha - 1) * (alpha - 2))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(_open_uniform(self._extended_shape(sample_shape), self.scale))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return log(self.alpha) + self.alpha * log(self.scale) - (self.alpha + 1) * log(value)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -expm1(self.alpha * (log(self.scale) - log(value)))

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * exp(-log1p(-value) / self.alpha)

    def entropy(self) -> Tensor:
        return log(self.scale / self.alpha) + (1 + reciprocal(self.alpha))


class Weibull(_Positive):
    """p(x) = k / scale (x / scale)^(k - 1) exp(-(x / scale)^k) with k = ``concentration``.

    See ``torch.distributions.Weibull``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "scale": constraints.positive,
        "concentration": constraints.positive,
    }
    _fields = ("scale", "concentration")

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.scale, self.concentration = broadcast_all(scale, concentration)
        super().__init__(self.scale.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.scale * exp(lgamma(1 + reciprocal(self.concentration)))

    @property
    def mode(self) -> Tensor:
        k = self.concentration
        return self.scale * ((k - 1) / k) ** reciprocal(k)

    @property
    def variance(self) -> Tensor:
        step = reciprocal(self.concentration)
        return square(self.scale) * (exp(lgamma(1 + 2 * step)) - exp(2 * lgamma(1 + step)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(_open_uniform(self._extended_shape(sample_shape), self.scale))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        k, ratio = self.concentration, value / self.scale
        return log(k / self.scale) + (k - 1) * log(ratio) - ratio**k

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -expm1(-((value / self.scale) ** self.concentration))

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * (-log1p(-value)) ** reciprocal(self.concentration)

    def entropy(self) -> Tensor:
        step = reciprocal(self.concentration)
        return _EULER * (1 - step) + log(self.scale * step) + 1


class HalfCauchy(_Positive):
    """The absolute value of a Cauchy variable around 0. See ``torch.distributions.HalfCauchy``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"scale": constraints.positive}
    _fields = ("scale",)

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        (self.scale,) = broadcast_all(scale)
        super().__init__(self.scale.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative

    @property
    def mean(self) -> Tensor:
        return self.scale * math.inf

    @property
    def mode(self) -> Tensor:
        return self.scale * 0

    @property
    def variance(self) -> Tensor:
        return self.scale * math.inf

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(_open_uniform(self._extended_shape(sample_shape), self.scale))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        inside = math.log(2 / math.pi) - log(self.scale) - log1p(square(value / self.scale))
        return where(value >= 0, inside, -math.inf)  # type: ignore[no-any-return]

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return atan(value / self.scale) * (2 / math.pi)

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * tan(value * (math.pi / 2))

    def entropy(self) -> Tensor:
        return log(self.scale) + math.log(2 * math.pi)


class InverseGamma(_Positive):
    """The reciprocal of a gamma variable: log p(x) = a log(rate) - lgamma(a) - (a + 1) log(x) - rate / x.

    With a = ``concentration``. See ``torch.distributions.InverseGamma``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    _fields = ("concentration", "rate")

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.rate.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return where(self.concentration > 1, self.rate / (self.concentration - 1), math.inf)  # type: ignore[no-any-return]

    @property
    def mode(self) -> Tensor:
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        return where(a > 2, square(self.rate / (a - 1)) / (a - 2), math.inf)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        gammas = _standard_gamma(self.concentration, self._extended_shape(sample_shape))
        return self.rate / gammas.clamp(min=float(np.finfo(gammas.dtype).tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a = self.concentration
        return a * log(self.rate) - lgamma(a) - (a + 1) * log(value) - self.rate / value

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return igammac(self.concentration, self.rate / value)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a + log(self.rate) + lgamma(a) - (1 + a) * digamma(a)

"""Distributions with heavy tails: Pareto (also generalised), Weibull, half Cauchy, inverse gamma, Fisher-Snedecor."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl.creation import full_like, zeros_like
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.gamma import _standard_gamma
from fastdl.distributions.location_scale import open_uniform
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, igammac, lgamma
from fastdl.ops.unary import abs, atan, exp, expm1, log, log1p, reciprocal, square, tan
from fastdl.tensor import Tensor

__all__ = ["FisherSnedecor", "GeneralizedPareto", "HalfCauchy", "InverseGamma", "Pareto", "Weibull"]

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
        return constraints.greater_than_eq(self.scale)

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
        return self.icdf(open_uniform(self._extended_shape(sample_shape), self.scale))

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
        return self.icdf(open_uniform(self._extended_shape(sample_shape), self.scale))

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
        return full_like(self.scale, math.inf)

    @property
    def mode(self) -> Tensor:
        return zeros_like(self.scale)

    @property
    def variance(self) -> Tensor:
        return full_like(self.scale, math.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(open_uniform(self._extended_shape(sample_shape), self.scale))

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


class FisherSnedecor(_Positive):
    """The ratio of two chi-squared variables, each over its degrees of freedom: the F distribution.

    See ``torch.distributions.FisherSnedecor``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "df1": constraints.positive,
        "df2": constraints.positive,
    }
    _fields = ("df1", "df2")

    def __init__(self, df1: Any, df2: Any, validate_args: bool | None = None) -> None:
        self.df1, self.df2 = broadcast_all(df1, df2)
        super().__init__(self.df1.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return where(self.df2 > 2, self.df2 / (self.df2 - 2), math.nan)  # type: ignore[no-any-return]

    @property
    def mode(self) -> Tensor:
        inner = (self.df1 - 2) / self.df1 * self.df2 / (self.df2 + 2)
        return where(self.df1 > 2, inner, math.nan)  # type: ignore[no-any-return]

    @property
    def variance(self) -> Tensor:
        d1, d2 = self.df1, self.df2
        inner = 2 * square(d2) * (d1 + d2 - 2) / (d1 * square(d2 - 2) * (d2 - 4))
        return where(d2 > 4, inner, math.nan)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        above, below = [_standard_gamma(df * 0.5, shape) / df for df in (self.df1, self.df2)]
        tiny = float(np.finfo(below.dtype).tiny)
        return (above / below.clamp(min=tiny)).clamp(min=tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a, b, ratio = self.df1 * 0.5, self.df2 * 0.5, self.df1 / self.df2
        constant = lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(ratio)
        return constant + (a - 1) * log(value) - (a + b) * log1p(ratio * value)


class GeneralizedPareto(Distribution):
    """The tails of distributions: cdf(x) = 1 - (1 + c z)^(-1 / c), z = (x - loc) / scale, c = ``concentration``.

    For c = 0 it is 1 - exp(-z). See ``torch.distributions.GeneralizedPareto``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    has_rsample = True
    _fields = ("loc", "scale", "concentration")

    def __init__(self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        upper = where(self.concentration < 0, self.loc - self.scale / self.concentration, math.inf)
        return constraints.interval(self.loc, upper)

    def _split(self) -> tuple[Tensor, Tensor]:
        """Where c counts as 0, and c with 1 in those places, to divide by."""
        zero = abs(self.concentration) <= 1e-8
        return zero, where(zero, 1.0, self.concentration)

    @property
    def mean(self) -> Tensor:
        inner = self.loc + self.scale / (1 - self.concentration)
        return where(self.concentration < 1, inner, math.nan)  # type: ignore[no-any-return]

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        c = self.concentration
        inner = square(self.scale / (1 - c)) / (1 - 2 * c)
        return where(c < 0.5, inner, math.nan)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(open_uniform(self._extended_shape(sample_shape), self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        zero, c = self._split()
        z = (value - self.loc) / self.scale
        power = 1 + 1 / c
        curved = where(power == 0, 0.0, power * log1p(c * z))  # c = -1 is uniform: 0 log 0 at its end
        return -log(self.scale) - where(zero, z, curved)  # type: ignore[no-any-return]

    def log_survival_function(self, value: Tensor) -> Tensor:
        """log(1 - cdf)"""
        self._validate_sample(value)
        zero, c = self._split()
        z = (value - self.loc) / self.scale
        return where(zero, -z, -log1p(c * z) / c)  # type: ignore[no-any-return]

    def log_cdf(self, value: Tensor) -> Tensor:
        """The logarithm of :meth:`cdf`."""
        return log1p(-exp(self.log_survival_function(value)))

    def cdf(self, value: Tensor) -> Tensor:
        return -expm1(self.log_survival_function(value))

    def icdf(self, value: Tensor) -> Tensor:
        zero, c = self._split()
        left = log1p(-value)
        return self.loc + self.scale * where(zero, -left, expm1(-c * left) / c)  # type: ignore[no-any-return]

    def entropy(self) -> Tensor:
        return log(self.scale) + self.concentration + 1

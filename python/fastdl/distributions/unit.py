"""Distributions of numbers in (0, 1), and of shares of a whole: continuous Bernoulli, Kumaraswamy, logistic normal."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl.creation import full_like
from fastdl.distributions import constraints
from fastdl.distributions.binary import Binary
from fastdl.distributions.common import lazy_property, probs_of
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.distributions.location_scale import Uniform, open_uniform
from fastdl.distributions.normal import Normal
from fastdl.distributions.transformed_distribution import TransformedDistribution
from fastdl.distributions.transforms import AffineTransform, PowerTransform, StickBreakingTransform
from fastdl.ops.binary_cross_entropy import binary_cross_entropy_with_logits
from fastdl.ops.elementwise import clamp, where
from fastdl.ops.gamma import digamma, lgamma
from fastdl.ops.sampling import rand
from fastdl.ops.unary import abs, atanh, exp, log, log1p, reciprocal, square
from fastdl.ops.views import broadcast_tensors
from fastdl.tensor import Tensor

__all__ = ["ContinuousBernoulli", "Kumaraswamy", "LogisticNormal"]


def _off_the_ends(probs: Tensor) -> Tensor:
    eps = float(np.finfo(probs.dtype).eps)
    return clamp(probs, eps, 1 - eps)


class ContinuousBernoulli(Binary):
    """p(x) = C(l) l^x (1 - l)^(1 - x) for x in [0, 1], l = ``probs``: the likelihood of grey values.

    Around l = 1/2, within ``lims``, the formulas are 0 / 0, and their Taylor series are used. Loaiza-Ganem, Cunningham:
    The continuous Bernoulli (2019). See ``torch.distributions.ContinuousBernoulli``.

    Args:
        probs: l, numbers in (0, 1); not the mean.
        logits: or its log l - log(1 - l).
        lims: where the series take over.

    Example:
        >>> round(ContinuousBernoulli(0.9).mean.item(), 4)
        0.6699
    """

    has_rsample = True

    def __init__(
        self,
        probs: Any = None,
        logits: Any = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ) -> None:
        self._lims = lims
        super().__init__(probs, logits, validate_args)
        if probs is not None:
            self.probs = _off_the_ends(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """l, kept off 0 and 1."""
        return _off_the_ends(probs_of(self.logits, True))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.unit_interval

    def _safe(self) -> tuple[Tensor, Tensor]:
        """Where the formulas hold, and p with another number in the places where they do not."""
        low, high = self._lims
        outside = (self.probs <= low) | (self.probs > high)
        return outside, where(outside, self.probs, low)

    @staticmethod
    def _log_odds(p: Tensor) -> Tensor:
        """log(p / (1 - p)); around 1/2 without the difference of two logarithms that nearly cancel."""
        t = 2 * p - 1
        return where(abs(t) < 0.5, 2 * atanh(t), log(p) - log1p(-p))  # type: ignore[no-any-return]

    def _log_norm(self) -> Tensor:
        """log C = log(2 atanh(2 p - 1) / (2 p - 1))."""
        outside, p = self._safe()
        x = square(self.probs - 0.5)
        series = math.log(2) + (4 / 3 + 104 / 45 * x) * x
        return where(outside, log(self._log_odds(p) / (2 * p - 1)), series)  # type: ignore[no-any-return]

    @property
    def mean(self) -> Tensor:
        outside, p = self._safe()
        x = self.probs - 0.5
        series = 0.5 + (1 / 3 + 16 / 45 * square(x)) * x
        return where(outside, p / (2 * p - 1) - 1 / self._log_odds(p), series)  # type: ignore[no-any-return]

    @property
    def variance(self) -> Tensor:
        outside, p = self._safe()
        x = square(self.probs - 0.5)
        series = 1 / 12 - (1 / 15 - 128 / 945 * x) * x
        formula = p * (p - 1) / square(1 - 2 * p) + 1 / square(self._log_odds(p))
        return where(outside, formula, series)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(
            rand(self._extended_shape(sample_shape), dtype=self.probs.dtype, device=self.probs.device)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        logits, value = broadcast_tensors(self.logits, value)
        return self._log_norm() - binary_cross_entropy_with_logits(logits, value, reduction="none")

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        outside, p = self._safe()
        formula = (p**value * (1 - p) ** (1 - value) + p - 1) / (2 * p - 1)
        return clamp(where(outside, formula, value), 0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        outside, p = self._safe()
        formula = (log1p(value * (2 * p - 1) - p) - log1p(-p)) / self._log_odds(p)
        return where(outside, formula, value)  # type: ignore[no-any-return]

    def entropy(self) -> Tensor:
        return -self.mean * self._log_odds(self.probs) - self._log_norm() - log1p(-self.probs)


class Kumaraswamy(TransformedDistribution):
    """cdf(x) = 1 - (1 - x^a)^b with a = ``concentration1``, b = ``concentration0``: like Beta, of powers alone.

    See ``torch.distributions.Kumaraswamy``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    has_rsample = True
    _fields = ("concentration1", "concentration0")

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        b = self.concentration0
        steps = [
            PowerTransform(reciprocal(b)),
            AffineTransform(1.0, -1.0),
            PowerTransform(reciprocal(self.concentration1)),
        ]
        super().__init__(Uniform(full_like(b, 0), full_like(b, 1), validate_args), steps, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.unit_interval

    def _moment(self, n: int) -> Tensor:
        """E[x^n] = b B(1 + n / a, b)"""
        a, b = self.concentration1, self.concentration0
        c = 1 + n / a
        return exp(log(b) + lgamma(c) + lgamma(b) - lgamma(c + b))

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - square(self.mean)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        # PyTorch's formula, which is ((1 - b) / (1 - a b)) ** (1 / b) in parts: nan above 1, as there.
        at_ends = (a < 1) | (b < 1)
        a, b = where(at_ends, 0.5, a), where(at_ends, 0.5, b)  # of which no gradient is nan
        return where(at_ends, math.nan, exp(log1p(-b) / b - log1p(-b * a)))  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        # Neither end: their logarithms are infinite.
        return self._through(open_uniform(self._extended_shape(sample_shape), self.concentration0))

    sample = Distribution.sample

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return (1 - reciprocal(b)) + (1 - reciprocal(a)) * (digamma(b + 1) + np.euler_gamma) - log(a * b)


class LogisticNormal(TransformedDistribution):
    """Shares of a whole: stick-breaking of normal variables. See ``torch.distributions.LogisticNormal``.

    Args:
        loc: means of the normal variables, ``(..., n)``; values have n + 1 shares.
        scale: their standard deviations.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args=validate_args)
        if not base.batch_shape:
            base = base.expand((1,))
        super().__init__(base, StickBreakingTransform(), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.simplex

    @property
    def loc(self) -> Tensor:
        """The means of the normal variables."""
        return self.base_dist.base_dist.loc  # type: ignore[attr-defined, no-any-return]

    @property
    def scale(self) -> Tensor:
        """Their standard deviations."""
        return self.base_dist.base_dist.scale  # type: ignore[attr-defined, no-any-return]

    def __repr__(self) -> str:
        return "LogisticNormal()"

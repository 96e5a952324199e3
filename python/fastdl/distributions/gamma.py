"""The gamma distribution and what is made of it: chi-squared, beta, Dirichlet, Student's t.

A gamma sample x of shape a is differentiable: F(x; a) = u for a fixed u, so dx/da = -(dF/da) / (dF/dx), which is
-(F / f) d(log F)/da below a + 1 and (Q / f) d(log Q)/da above, with Q = 1 - F and f the density.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastdl.autograd.op import Op
from fastdl.creation import zeros_like
from fastdl.devices import to_host
from fastdl.distributions import constraints
from fastdl.distributions.distribution import Distribution, broadcast_all
from fastdl.kernels import array as as_array
from fastdl.kernels import select
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, igamma, lgamma
from fastdl.ops.join import stack
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import draw_key, randn
from fastdl.ops.special import xlogy
from fastdl.ops.unary import log, log1p, rsqrt, square
from fastdl.tensor import Tensor

__all__ = ["Beta", "Chi2", "Dirichlet", "Gamma", "StudentT"]


def gamma_slope(a: Any, x: Any) -> Any:
    """dx/da of gamma samples ``x`` of shape ``a``, float64 arrays."""
    kernels, result = select(a), np.empty_like(x)
    with np.errstate(all="ignore"):
        step = 1e-4 * np.minimum(a, np.sqrt(a))  # a small part of how far log F reaches
        low = x <= a + 1
        for side, mass, sign in ((low, kernels.igamma_forward, -1.0), (~low, kernels.igammac_forward, 1.0)):
            aa, xx, h = a[side], x[side], step[side]
            below, here, above = np.log(mass(np.stack([aa - h, aa, aa + h]), np.stack([xx] * 3)))
            density = (aa - 1) * np.log(xx) - xx - kernels.lgamma_forward(aa)
            result[side] = sign * np.exp(here - density) * (above - below) / (2 * h)
        # Where F or Q is below all numbers, asymptotically: nobody draws such samples.
        r = 1 / (x + 1 - a)
        tail = x * r * (np.log(x) - kernels.digamma_forward(a) + r)
    return np.where(np.isfinite(result), result, tail)


class _StandardGamma(Op):
    """Samples of rate 1, differentiable with respect to the shape."""

    saves = (0,)
    saves_output = True

    def forward(self, a: Any) -> Any:
        rng = np.random.Generator(np.random.Philox(key=np.array(draw_key(None), np.uint64)))
        tiny = np.finfo(a.dtype).tiny
        self.a, self.x = a, np.maximum(as_array(rng.standard_gamma(to_host(a)), a, a.dtype), tiny)
        return self.x

    def backward(self, grad: Any) -> Any:
        slope = gamma_slope(*[to_host(v).astype(np.float64) for v in (self.a, self.x)])
        return (grad * as_array(slope, grad)).astype(grad.dtype)


def _standard_gamma(a: Tensor, shape: Any) -> Tensor:
    return _StandardGamma.apply(a.expand(shape).contiguous())  # type: ignore[no-any-return]


class Gamma(Distribution):
    """p(x) = rate^a x^(a-1) exp(-rate x) / Gamma(a) with a = ``concentration``. See ``torch.distributions.Gamma``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    has_rsample = True
    _fields = ("concentration", "rate")

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / square(self.rate)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return _standard_gamma(self.concentration, self._extended_shape(sample_shape)) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a, rate = self.concentration, self.rate
        return xlogy(a, rate) + xlogy(a - 1, value) - rate * value - lgamma(a)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return igamma(self.concentration, self.rate * value)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - log(self.rate) + lgamma(a) + (1.0 - a) * digamma(a)


class Chi2(Gamma):
    """The sum of ``df`` squared normal variables. See ``torch.distributions.Chi2``."""

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        (df,) = broadcast_all(df)
        super().__init__(0.5 * df, 0.5, validate_args)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom."""
        return self.concentration * 2


class Dirichlet(Distribution):
    """Vectors that add up to 1: gamma samples divided by their sum. See ``torch.distributions.Dirichlet``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration": constraints.independent(constraints.positive, 1)
    }
    has_rsample = True
    _fields = ("concentration",)

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.ndim < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.simplex

    @property
    def mean(self) -> Tensor:
        return self.concentration / sum(self.concentration, -1, True)

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        total = sum(a, -1, True)
        return a * (total - a) / (square(total) * (total + 1))

    @property
    def mode(self) -> Tensor:
        above = (self.concentration - 1).clamp(min=0)
        corner = zeros_like(above)
        corner._data[..., 0] = 1
        # Below 1 everywhere the density is infinite in every corner: PyTorch names the first.
        return where((self.concentration < 1).all(-1, True), corner, above / sum(above, -1, True))  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        x = _standard_gamma(self.concentration, self._extended_shape(sample_shape))
        return x / sum(x, -1, True)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a = self.concentration
        return sum(xlogy(a - 1.0, value), -1) + lgamma(sum(a, -1)) - sum(lgamma(a), -1)

    def entropy(self) -> Tensor:
        a = self.concentration
        k, total = a.shape[-1], sum(a, -1)
        return (
            sum(lgamma(a), -1)
            - lgamma(total)
            - (k - total) * digamma(total)
            - sum((a - 1.0) * digamma(a), -1)
        )


class Beta(Distribution):
    """Numbers in (0, 1), p(x) ~ x^(c1-1) (1-x)^(c0-1). See ``torch.distributions.Beta``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    has_rsample = True
    _fields = ("concentration1", "concentration0")

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, (), validate_args)

    @property
    def _dirichlet(self) -> Dirichlet:
        return Dirichlet(stack([self.concentration1, self.concentration0], -1), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.unit_interval

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def mode(self) -> Tensor:
        return Dirichlet(stack([self.concentration1, self.concentration0], -1)).mode[..., 0]

    @property
    def variance(self) -> Tensor:
        total = self.concentration1 + self.concentration0
        return self.concentration1 * self.concentration0 / (square(total) * (total + 1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._dirichlet.rsample(sample_shape)[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return xlogy(a - 1, value) + (b - 1) * log1p(-value) + lgamma(a + b) - lgamma(a) - lgamma(b)

    def entropy(self) -> Tensor:
        return self._dirichlet.entropy()


class StudentT(Distribution):
    """A normal variable over the root of a chi-squared one. See ``torch.distributions.StudentT``."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "df": constraints.positive,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True
    _fields = ("df", "loc", "scale")

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        super().__init__(self.df.shape, (), validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self.loc.masked_fill(self.df <= 1, math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        finite = self.df > 2
        df = where(finite, self.df, 3)  # elsewhere any number that divides by nothing
        wide = where(finite, square(self.scale) * df / (df - 2), math.inf)
        return where(self.df <= 1, math.nan, wide)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        x = randn(shape, dtype=self.df.dtype, device=self.df.device)
        z = 2 * _standard_gamma(self.df / 2, shape)
        return self.loc + self.scale * (x * rsqrt(z / self.df))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        y = (value - self.loc) / self.scale
        z = log(self.scale) + 0.5 * log(self.df) + 0.5 * math.log(math.pi) + lgamma(0.5 * self.df)
        z = z - lgamma(0.5 * (self.df + 1.0))
        return -0.5 * (self.df + 1.0) * log1p(square(y) / self.df) - z

    def entropy(self) -> Tensor:
        df = self.df
        beta = lgamma(0.5 * df) + math.lgamma(0.5) - lgamma(0.5 * (df + 1))
        half = 0.5 * (df + 1)
        return log(self.scale) + half * (digamma(half) - digamma(0.5 * df)) + 0.5 * log(df) + beta

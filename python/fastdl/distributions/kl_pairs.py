"""Divergences between distributions of different families: KL(p || q) = -H(p) - E_p[log q(x)].

E_p[log q(x)] is a sum of a few expectations under p that q's logarithm asks for (of x, its square, log x, log(1 - x),
exp(-t x)), so there is a function for each family's logarithm and one for each expectation. Which pairs are there is
``torch.distributions``' choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl.creation import full_like
from fastdl.distributions.binary import Bernoulli
from fastdl.distributions.count import Binomial, Poisson
from fastdl.distributions.gamma import Beta, Gamma
from fastdl.distributions.kl import register_kl
from fastdl.distributions.location_scale import Exponential, Gumbel, Laplace, Uniform
from fastdl.distributions.normal import Normal
from fastdl.distributions.positive import Pareto
from fastdl.distributions.unit import ContinuousBernoulli
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, lgamma
from fastdl.ops.special import xlogy
from fastdl.ops.unary import erf, exp, log, log1p, square
from fastdl.tensor import Tensor

__all__: list[str] = []


def _uniform_log(low: Tensor, high: Tensor) -> Any:
    """E[log x] of x uniform between ``low`` and ``high``."""
    return (xlogy(high, high) - xlogy(low, low)) / (high - low) - 1


# E[log x]
_LOG: dict[type, Callable[[Any], Tensor]] = {
    Beta: lambda p: digamma(p.concentration1) - digamma(p.concentration1 + p.concentration0),
    Exponential: lambda p: -np.euler_gamma - log(p.rate),
    Gamma: lambda p: digamma(p.concentration) - log(p.rate),
    Pareto: lambda p: log(p.scale) + 1 / p.alpha,
    Uniform: lambda p: _uniform_log(p.low, p.high),
}
# E[exp(-x / s)] exp(loc / s)
_LAPLACE: dict[type, Callable[[Any, Tensor, Tensor], Tensor]] = {
    Exponential: lambda p, loc, s: exp(loc / s) * p.rate / (p.rate + 1 / s),
    Gamma: lambda p, loc, s: exp(loc / s - p.concentration * log1p(1 / (s * p.rate))),
    Normal: lambda p, loc, s: exp((loc - p.loc) / s + 0.5 * square(p.scale / s)),
    Uniform: lambda p, loc, s: (exp((loc - p.low) / s) - exp((loc - p.high) / s)) * s / (p.high - p.low),
}


def _entropy(p: Any) -> Any:
    return p.entropy()


def _family(p: Any, table: dict[type, Any]) -> Any:
    return next(table[kind] for kind in type(p).__mro__ if kind in table)


def _to_exponential(p: Any, q: Any) -> Any:
    return -_entropy(p) - log(q.rate) + q.rate * p.mean


def _to_gamma(p: Any, q: Any) -> Any:
    a = q.concentration
    constant = lgamma(a) - a * log(q.rate)
    return -_entropy(p) + constant - (a - 1) * _family(p, _LOG)(p) + q.rate * p.mean


def _to_normal(p: Any, q: Any) -> Any:
    away = (p.variance + square(p.mean - q.loc)) / (2 * square(q.scale))
    return -_entropy(p) + 0.5 * math.log(2 * math.pi) + log(q.scale) + away


def _to_gumbel(p: Any, q: Any) -> Any:
    tail = _family(p, _LAPLACE)(p, q.loc, q.scale)
    return -_entropy(p) + log(q.scale) + (p.mean - q.loc) / q.scale + tail


def _to_continuous_bernoulli(p: Any, q: Any) -> Any:
    return -_entropy(p) - p.mean * q.logits - log1p(-q.probs) - q._log_norm()


def _to_uniform(p: Any, q: Any) -> Any:
    return -_entropy(p) + log(q.high - q.low)


def _or_infinite(infinite: Tensor, value: Tensor) -> Any:
    return where(infinite.expand(value.shape), math.inf, value)


_ANALYTIC: tuple[tuple[Any, Any, tuple[Any, ...]], ...] = (
    (_to_exponential, Exponential, (Beta, ContinuousBernoulli, Gamma)),
    (_to_gamma, Gamma, (Beta, Exponential)),
    (_to_normal, Normal, (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Uniform)),
    (_to_gumbel, Gumbel, (Exponential, Gamma, Normal, Uniform)),
    (_to_continuous_bernoulli, ContinuousBernoulli, (Beta,)),
)
for _function, _to, _kinds in _ANALYTIC:
    for _from in _kinds:
        register_kl(_from, _to)(_function)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Any, q: Any) -> Any:
    return -_entropy(p) - (p.probs * log(q.rate) - q.rate)


@register_kl(Beta, Uniform)
def _beta_uniform(p: Any, q: Any) -> Any:
    return _or_infinite((q.low > 0) | (q.high < 1), _to_uniform(p, q))


@register_kl(ContinuousBernoulli, Uniform)
def _continuous_bernoulli_uniform(p: Any, q: Any) -> Any:
    # As in PyTorch, which takes [0, 1] itself for too narrow.
    return _or_infinite((q.low >= 0) | (q.high <= 1), _to_uniform(p, q))


@register_kl(Normal, Laplace)
def _normal_laplace(p: Any, q: Any) -> Any:
    away = (p.loc - q.loc) / p.scale
    folded = p.scale * (math.sqrt(2 / math.pi) * exp(-0.5 * square(away)) + away * erf(away * math.sqrt(0.5)))
    return -_entropy(p) + log(2 * q.scale) + folded / q.scale


@register_kl(Pareto, Exponential)
def _pareto_exponential(p: Any, q: Any) -> Any:
    return _or_infinite(p.alpha <= 1, _to_exponential(p, q))


@register_kl(Pareto, Gamma)
def _pareto_gamma(p: Any, q: Any) -> Any:
    return _or_infinite(p.alpha <= 1, _to_gamma(p, q))


@register_kl(Pareto, Normal)
def _pareto_normal(p: Any, q: Any) -> Any:
    return _or_infinite(p.alpha <= 2, _to_normal(p, q))


@register_kl(Uniform, Beta)
def _uniform_beta(p: Any, q: Any) -> Any:
    a, b = q.concentration1, q.concentration0
    inner = (a - 1) * _uniform_log(p.low, p.high) + (b - 1) * _uniform_log(1 - p.high, 1 - p.low)
    result = -_entropy(p) - inner + lgamma(a) + lgamma(b) - lgamma(a + b)
    return _or_infinite((p.high > 1) | (p.low < 0), result)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_continuous_bernoulli(p: Any, q: Any) -> Any:
    # As in PyTorch, which takes [0, 1] itself for too wide.
    return _or_infinite((p.high >= 1) | (p.low <= 0), _to_continuous_bernoulli(p, q))


@register_kl(Uniform, Exponential)
def _uniform_exponential(p: Any, q: Any) -> Any:
    return _or_infinite(p.low < 0, _to_exponential(p, q))


@register_kl(Uniform, Gamma)
def _uniform_gamma(p: Any, q: Any) -> Any:
    return _or_infinite(p.low < 0, _to_gamma(p, q))


@register_kl(Uniform, Pareto)
def _uniform_pareto(p: Any, q: Any) -> Any:
    inner = log(q.alpha) + q.alpha * log(q.scale) - (q.alpha + 1) * _uniform_log(p.low, p.high)
    return _or_infinite(p.low < q.scale, -_entropy(p) - inner)


def _infinite(p: Any, q: Any) -> Any:
    """p has values where q has none."""
    return full_like(p.mean, math.inf)


_BOUNDED = (Beta, ContinuousBernoulli, Pareto, Uniform)
_NOWHERE: dict[type, tuple[type, ...]] = {
    Beta: (Pareto,),
    ContinuousBernoulli: (Pareto,),
    Exponential: _BOUNDED,
    Gamma: _BOUNDED,
    Gumbel: (*_BOUNDED, Exponential, Gamma),
    Laplace: (*_BOUNDED, Exponential, Gamma),
    Normal: (*_BOUNDED, Exponential, Gamma),
    Pareto: (Beta, ContinuousBernoulli, Uniform),
    Poisson: (Bernoulli, Binomial),
}
for _from, _others in _NOWHERE.items():
    for _to in _others:
        register_kl(_from, _to)(_infinite)

"""Kullback-Leibler divergences, one function per pair of distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastdl import linalg
from fastdl.distributions.binary import Bernoulli
from fastdl.distributions.categorical import Categorical, OneHotCategorical
from fastdl.distributions.count import Binomial, Geometric, Poisson
from fastdl.distributions.distribution import Distribution
from fastdl.distributions.gamma import Beta, Dirichlet, Gamma
from fastdl.distributions.independent import Independent
from fastdl.distributions.location_scale import Cauchy, Exponential, Gumbel, Laplace, Uniform
from fastdl.distributions.matrix import Wishart
from fastdl.distributions.multivariate_normal import LowRankMultivariateNormal, MultivariateNormal
from fastdl.distributions.normal import HalfNormal, LogNormal, Normal
from fastdl.distributions.positive import HalfCauchy, InverseGamma, Pareto
from fastdl.distributions.transformed_distribution import TransformedDistribution
from fastdl.distributions.transforms.base import sum_last
from fastdl.distributions.unit import ContinuousBernoulli
from fastdl.ops.activation import softplus
from fastdl.ops.diagonals import diag_embed
from fastdl.ops.elementwise import where
from fastdl.ops.gamma import digamma, lgamma, mvlgamma
from fastdl.ops.join import cat
from fastdl.ops.linear import matmul
from fastdl.ops.reduce import sum
from fastdl.ops.unary import abs, exp, log, log1p, sqrt, square
from fastdl.ops.views import unsqueeze
from fastdl.tensor import Tensor

__all__ = ["kl_divergence", "register_kl"]

_PAIRS: dict[tuple[type, type], Callable[..., Tensor]] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Any], Any]:
    """A decorator for the function that computes the divergence of a pair; see ``torch.distributions.register_kl``."""

    def decorator(function: Any) -> Any:
        _PAIRS[type_p, type_q] = function
        return function

    return decorator


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """E[log p(x) - log q(x)] for x of p; see ``torch.distributions.kl_divergence``.

    Example:
        >>> from fastdl.distributions import Bernoulli
        >>> round(kl_divergence(Bernoulli(0.5), Bernoulli(0.25)).item(), 4)
        0.1438

    Raises:
        NotImplementedError: no function is registered for the two types.
    """
    for kind_p in type(p).__mro__:
        for kind_q in type(q).__mro__:
            function = _PAIRS.get((kind_p, kind_q))
            if function is not None:
                return function(p, q)
    raise NotImplementedError(
        f"No KL(p || q) is implemented for p type {type(p).__name__} and q type {type(q).__name__}"
    )


@register_kl(Normal, Normal)
@register_kl(LogNormal, LogNormal)
def _normal(p: Any, q: Any) -> Tensor:
    ratio = square(p.scale / q.scale)
    return 0.5 * (ratio + square((p.loc - q.loc) / q.scale) - 1 - log(ratio))


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: Any, q: Any) -> Tensor:
    ratio = square(p.scale / q.scale)
    return 0.5 * (ratio - 1 - log(ratio))


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate(p: Any, q: Any) -> Tensor:
    _same_events(p, q)
    d = p.event_shape[0]
    batch = np.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = p.expand(batch), q.expand(batch)
    lower = q.scale_tril.contiguous()
    trace = sum(square(linalg.solve_triangular(lower, p.scale_tril.contiguous(), upper=False)), (-2, -1))
    away = sum(square(linalg.solve_triangular(lower, unsqueeze(q.loc - p.loc, -1), upper=False)), (-2, -1))
    return q._half_log_det() - p._half_log_det() + 0.5 * (trace + away - d)  # type: ignore[no-any-return]


def _same_events(p: Any, q: Any) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes cannot be computed: "
            f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )


@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
@register_kl(MultivariateNormal, LowRankMultivariateNormal)
def _to_low_rank(p: Any, q: Any) -> Tensor:
    _same_events(p, q)
    # q's inverse is D^-1 - A^T A, and p's covariance is a sum of F F^T: the trace of their product has no d x d matrix.
    _, reduced = q._reduced()
    factor: Any
    trace: Any
    if isinstance(p, LowRankMultivariateNormal):
        factor, diag = p.cov_factor, p.cov_diag
        trace = sum(diag / q.cov_diag, -1) - sum(square(reduced) * unsqueeze(diag, -2), (-2, -1))
    else:
        factor, trace = p.scale_tril, 0.0
    trace = trace + sum(square(factor) / unsqueeze(q.cov_diag, -1), (-2, -1))
    trace = trace - sum(square(matmul(reduced, factor)), (-2, -1))
    away = q._distance(q.loc - p.loc)
    return q._half_log_det() - p._half_log_det() + 0.5 * (trace + away - p.event_shape[0])  # type: ignore[no-any-return]


@register_kl(LowRankMultivariateNormal, MultivariateNormal)
def _from_low_rank(p: Any, q: Any) -> Tensor:
    _same_events(p, q)
    batch = np.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = p.expand(batch), q.expand(batch)
    lower = q.scale_tril.contiguous()
    factors = cat([p.cov_factor, diag_embed(sqrt(p.cov_diag)), unsqueeze(q.loc - p.loc, -1)], -1)
    both = sum(square(linalg.solve_triangular(lower, factors, upper=False)), (-2, -1))
    return q._half_log_det() - p._half_log_det() + 0.5 * (both - p.event_shape[0])  # type: ignore[no-any-return]


@register_kl(Wishart, Wishart)
def _wishart(p: Any, q: Any) -> Tensor:
    if p.event_shape != q.event_shape:
        raise NotImplementedError(
            "kl_divergence: the two Wishart distributions have matrices of different sizes"
        )
    n, m, d = p.df, q.df, p.event_shape[0]
    ratio = sum(q.precision_matrix * p.covariance_matrix, (-2, -1))
    scale = m * (q._half_log_det() - p._half_log_det()) + 0.5 * n * (ratio - d)
    return scale + mvlgamma(m / 2, d) - mvlgamma(n / 2, d) + 0.5 * (n - m) * p._mvdigamma()  # type: ignore[no-any-return]


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: Any, q: Any) -> Tensor:
    same = p._log_norm() + log1p(-p.probs) - q._log_norm() - log1p(-q.probs)
    return p.mean * (p.logits - q.logits) + same  # type: ignore[no-any-return]


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: Any, q: Any) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError(
            "kl_divergence: the two transformed distributions have different transforms or event shapes, and no "
            "function is registered for their classes"
        )
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(Categorical, Categorical)
@register_kl(OneHotCategorical, OneHotCategorical)
def _categorical(p: Any, q: Any) -> Tensor:
    terms = p.probs * (p.logits - q.logits)
    terms = where((q.probs == 0).expand(terms.shape), math.inf, terms)
    return sum(where((p.probs == 0).expand(terms.shape), 0.0, terms), -1)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Any, q: Any) -> Tensor:
    one = p.probs * (softplus(-q.logits) - softplus(-p.logits))
    one = where(p.probs == 0, 0.0, where((q.probs == 0).expand(one.shape), math.inf, one))
    zero = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
    zero = where(p.probs == 1, 0.0, where((q.probs == 1).expand(zero.shape), math.inf, zero))
    return one + zero  # type: ignore[no-any-return]


@register_kl(Binomial, Binomial)
def _binomial(p: Any, q: Any) -> Tensor:
    kl = p.total_count * (p.probs * (p.logits - q.logits) + softplus(q.logits) - softplus(p.logits))
    return where(p.total_count > q.total_count, math.inf, kl)  # type: ignore[no-any-return]


@register_kl(Geometric, Geometric)
def _geometric(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits  # type: ignore[no-any-return]


@register_kl(Poisson, Poisson)
def _poisson(p: Any, q: Any) -> Tensor:
    return p.rate * (log(p.rate) - log(q.rate)) - (p.rate - q.rate)  # type: ignore[no-any-return]


@register_kl(Uniform, Uniform)
def _uniform(p: Any, q: Any) -> Tensor:
    inside = (q.low <= p.low) & (q.high >= p.high)
    return where(inside, log((q.high - q.low) / (p.high - p.low)), math.inf)  # type: ignore[no-any-return]


@register_kl(Exponential, Exponential)
def _exponential(p: Any, q: Any) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - log(ratio)  # type: ignore[no-any-return]


@register_kl(Laplace, Laplace)
def _laplace(p: Any, q: Any) -> Tensor:
    ratio, away = p.scale / q.scale, abs(p.loc - q.loc)
    return away / q.scale + ratio * exp(-away / p.scale) - 1 - log(ratio)  # type: ignore[no-any-return]


@register_kl(HalfCauchy, HalfCauchy)
def _half_cauchy(p: Any, q: Any) -> Tensor:
    # As in PyTorch, that of the Cauchy variables whose absolute values they are: the halves' may be smaller.
    return 2 * log(p.scale + q.scale) - log(4 * p.scale * q.scale)


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Any, q: Any) -> Tensor:
    apart = square(p.scale + q.scale) + square(p.loc - q.loc)
    return log(apart) - log(4 * p.scale * q.scale)


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Any, q: Any) -> Tensor:
    ratio, away = p.scale / q.scale, (q.loc - p.loc) / q.scale
    tail = exp(away + lgamma(1 + ratio))
    return -log(ratio) - away + np.euler_gamma * ratio + tail - (1 + np.euler_gamma)  # type: ignore[no-any-return]


@register_kl(Pareto, Pareto)
def _pareto(p: Any, q: Any) -> Tensor:
    ratio = q.alpha / p.alpha
    result = q.alpha * log(p.scale / q.scale) - log(ratio) + ratio - 1
    # q has no probability where p begins.
    return where(p.scale < q.scale, math.inf, result)  # type: ignore[no-any-return]


@register_kl(Gamma, Gamma)
@register_kl(InverseGamma, InverseGamma)
def _gamma(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    scale = b * log(p.rate / q.rate) + lgamma(b) - lgamma(a)
    return scale + (a - b) * digamma(a) + (q.rate - p.rate) * (a / p.rate)  # type: ignore[no-any-return]


@register_kl(Beta, Beta)
def _beta(p: Any, q: Any) -> Tensor:
    return _dirichlet(p._dirichlet, q._dirichlet)  # type: ignore[no-any-return]


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    total = sum(a, -1)
    constant = lgamma(total) - lgamma(sum(b, -1)) - sum(lgamma(a) - lgamma(b), -1)
    return constant + sum((a - b) * (digamma(a) - unsqueeze(digamma(total), -1)), -1)


@register_kl(Independent, Independent)
def _independent(p: Any, q: Any) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError(
            "kl_divergence: the two Independent distributions have different event axes"
        )
    return sum_last(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)

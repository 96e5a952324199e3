"""Divergences of two distributions, of one family and of different ones: PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from distribution_cases import COVARIANCE, FACTOR, POSITIVE, PROBS, REAL, same, t
from fastdl import distributions as D

torch = pytest.importorskip("torch")
LIBRARIES = (fastdl, torch)


def kl_case(name):
    """Two parameterisations of a family, whose support overlaps with others'."""
    return {
        "Bernoulli": lambda d, a: d.Bernoulli(a(PROBS)),
        "Beta": lambda d, a: d.Beta(a(POSITIVE), a([1.0, 2.0, 3.0])),
        "Binomial": lambda d, a: d.Binomial(3, a(PROBS)),
        "ContinuousBernoulli": lambda d, a: d.ContinuousBernoulli(a([0.1, 0.5, 0.85])),
        "Exponential": lambda d, a: d.Exponential(a([0.3, 1.0, 2.5])),
        "Gamma": lambda d, a: d.Gamma(a(POSITIVE), a([1.0, 2.0, 3.0])),
        "Gumbel": lambda d, a: d.Gumbel(a([0.3, -1.0, 0.0]), a([1.0, 2.0, 0.7])),
        "Laplace": lambda d, a: d.Laplace(a([0.3, -1.0, 0.0]), a([1.0, 2.0, 0.7])),
        "Normal": lambda d, a: d.Normal(a([0.3, -1.0, 0.0]), a([1.0, 2.0, 0.7])),
        "Pareto": lambda d, a: d.Pareto(a([0.1, 0.2, 0.6]), a([0.7, 1.5, 4.0])),
        "Poisson": lambda d, a: d.Poisson(a(POSITIVE)),
        "Uniform": lambda d, a: d.Uniform(a([0.2, 0.0, -0.5]), a([0.9, 1.0, 2.0])),
    }[name]


KL_PAIRS = """
    Bernoulli:Poisson Beta:ContinuousBernoulli Beta:Pareto Beta:Exponential Beta:Gamma Beta:Normal Beta:Uniform
    ContinuousBernoulli:ContinuousBernoulli ContinuousBernoulli:Pareto ContinuousBernoulli:Exponential
    ContinuousBernoulli:Normal ContinuousBernoulli:Uniform Exponential:Beta Exponential:ContinuousBernoulli
    Exponential:Pareto Exponential:Uniform Exponential:Gamma Exponential:Gumbel Exponential:Normal Gamma:Beta
    Gamma:ContinuousBernoulli Gamma:Pareto Gamma:Uniform Gamma:Exponential Gamma:Gumbel Gamma:Normal Gumbel:Beta
    Gumbel:ContinuousBernoulli Gumbel:Exponential Gumbel:Gamma Gumbel:Pareto Gumbel:Uniform Gumbel:Normal Laplace:Beta
    Laplace:ContinuousBernoulli Laplace:Exponential Laplace:Gamma Laplace:Pareto Laplace:Uniform Laplace:Normal
    Normal:Beta Normal:ContinuousBernoulli Normal:Exponential Normal:Gamma Normal:Pareto Normal:Uniform Normal:Gumbel
    Normal:Laplace Pareto:Beta Pareto:ContinuousBernoulli Pareto:Uniform Pareto:Exponential Pareto:Gamma Pareto:Normal
    Poisson:Bernoulli Poisson:Binomial Uniform:Beta Uniform:ContinuousBernoulli Uniform:Exponential Uniform:Gamma
    Uniform:Gumbel Uniform:Normal Uniform:Pareto
""".split()


@pytest.mark.parametrize("names", KL_PAIRS)
def test_divergences_of_two_families_are_torch_s(names):
    p, q = [kl_case(name) for name in names.split(":")]
    values = []
    for lib in LIBRARIES:
        d = lib.distributions
        values.append(d.kl_divergence(p(d, lambda v, lib=lib: t(lib, v)), q(d, lambda v, lib=lib: t(lib, v))))
    assert values[0].shape == (3,)
    same(*values)


def test_every_pair_of_torch_s_is_registered():
    from fastdl.distributions.kl import _PAIRS

    ours = {(p.__name__, q.__name__) for p, q in _PAIRS}
    theirs = {(p.__name__, q.__name__) for p, q in torch.distributions.kl._KL_REGISTRY}
    assert theirs - ours - {("ExponentialFamily", "ExponentialFamily")} == set()


KL_SAME = {
    "low rank": lambda d, a: (
        d.LowRankMultivariateNormal(a(REAL), a(FACTOR), a(POSITIVE)),
        d.LowRankMultivariateNormal(a([POSITIVE, REAL]), a(FACTOR)[:, :1], a([1.0, 2.0, 0.3])),
    ),
    "full to low rank": lambda d, a: (
        d.MultivariateNormal(a(REAL), a(COVARIANCE)),
        d.LowRankMultivariateNormal(a([POSITIVE, REAL]), a(FACTOR), a([1.0, 2.0, 0.3])),
    ),
    "low rank to full": lambda d, a: (
        d.LowRankMultivariateNormal(a([POSITIVE, REAL]), a(FACTOR), a([1.0, 2.0, 0.3])),
        d.MultivariateNormal(a(REAL), a(COVARIANCE)),
    ),
    "Wishart": lambda d, a: (d.Wishart(a(5.0), a(COVARIANCE)), d.Wishart(a(4.0), a(np.eye(3) * 2))),
    "InverseGamma": lambda d, a: (
        d.InverseGamma(a(POSITIVE), a(POSITIVE)),
        d.InverseGamma(a([1.0, 2.0, 3.0]), a(POSITIVE)),
    ),
    "HalfCauchy": lambda d, a: (d.HalfCauchy(a(POSITIVE)), d.HalfCauchy(a([1.0, 2.0, 3.0]))),
    "LogisticNormal": lambda d, a: (
        d.LogisticNormal(a(REAL), a(POSITIVE)),
        d.LogisticNormal(a(POSITIVE), a(POSITIVE)),
    ),
    "transformed": lambda d, a: [
        d.TransformedDistribution(
            d.Normal(a(REAL), s), [d.transforms.AffineTransform(a(1.0), 2.0), d.transforms.ExpTransform()]
        )
        for s in (1.0, 2.0)
    ],
}


@pytest.mark.parametrize("name", KL_SAME)
def test_divergences_in_a_family_are_torch_s(name):
    values = [
        lib.distributions.kl_divergence(*KL_SAME[name](lib.distributions, lambda v, lib=lib: t(lib, v)))
        for lib in LIBRARIES
    ]
    same(*values)


def test_divergences_that_are_not_defined():
    with pytest.raises(NotImplementedError, match="different transforms"):
        D.kl_divergence(D.Kumaraswamy(1.0, 2.0), D.Kumaraswamy(2.0, 2.0))
    with pytest.raises(ValueError, match=r"different event shapes .*\(2,\) and \(3,\)"):
        D.kl_divergence(*[D.MultivariateNormal(fastdl.zeros(n), fastdl.eye(n)) for n in (2, 3)])

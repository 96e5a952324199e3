"""Rarer distributions: values are PyTorch's, samples have their moments and gradients."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest

import fastdl
from distribution_cases import COVARIANCE, FACTOR, POSITIVE, PROBS, REAL, ROWS, same, t
from fastdl import distributions as D
from parity import check_gradient

torch = pytest.importorskip("torch")
LIBRARIES = (fastdl, torch)

CORRELATION = np.linalg.cholesky(np.array([[1.0, 0.3, -0.2], [0.3, 1.0, 0.4], [-0.2, 0.4, 1.0]]))

# name -> (constructor, values, relative tolerance: PyTorch computes Bessel functions to seven digits)
CASES = {
    "VonMises": (lambda d, a: d.VonMises(a(REAL), a([0.1, 2.0, 30.0])), [0.5, -3.0, 9.0], 3e-6),
    "Kumaraswamy": (lambda d, a: d.Kumaraswamy(a(POSITIVE), a([2.0, 1.0, 0.5])), [0.1, 0.5, 0.9], 1e-9),
    "FisherSnedecor": (lambda d, a: d.FisherSnedecor(a([1.0, 3.0, 9.0]), a([2.0, 3.0, 9.0])), POSITIVE, 1e-9),
    "LowRank": (
        lambda d, a: d.LowRankMultivariateNormal(a(REAL), a(FACTOR), a(POSITIVE)),
        [REAL, POSITIVE],
        1e-9,
    ),
    "LowRank batch": (
        lambda d, a: d.LowRankMultivariateNormal(a([REAL, POSITIVE]), a([FACTOR]), a(POSITIVE)),
        ROWS,
        1e-9,
    ),
    "LogisticNormal": (lambda d, a: d.LogisticNormal(a([0.1, -1.0]), a([1.0, 0.5])), ROWS, 1e-9),
    "LogisticNormal numbers": (lambda d, a: d.LogisticNormal(a(0.5), a(1.0)), [[0.2, 0.8]], 1e-9),
    "ContinuousBernoulli": (lambda d, a: d.ContinuousBernoulli(a(PROBS)), [0.0, 0.3, 1.0], 1e-9),
    "ContinuousBernoulli near": (
        lambda d, a: d.ContinuousBernoulli(a([0.4991, 0.5009, 0.4999])),
        [0.2, 0.3, 0.9],
        1e-9,
    ),
    "ContinuousBernoulli logits": (lambda d, a: d.ContinuousBernoulli(logits=a(REAL)), PROBS, 1e-9),
    "LKJCholesky": (lambda d, a: d.LKJCholesky(3, a([0.5, 1.0, 4.0])), CORRELATION, 1e-9),
    "Wishart": (lambda d, a: d.Wishart(a([4.0, 7.5]), a(COVARIANCE)), [COVARIANCE, np.eye(3)], 1e-9),
    "Wishart precision": (
        lambda d, a: d.Wishart(a(3.5), precision_matrix=a(COVARIANCE)),
        COVARIANCE,
        1e-9,
    ),
    "GeneralizedPareto": (
        lambda d, a: d.GeneralizedPareto(a(REAL), a(POSITIVE), a([0.3, 0.0, -0.5])),
        [0.5, 0.7, 4.0],
        2e-6,
    ),
    "GeneralizedPareto uniform": (
        lambda d, a: d.GeneralizedPareto(a(0.0), a(2.0), a(-1.0)),
        [0.5, 2.0],
        2e-6,
    ),
}


def dtype_of(name):
    """PyTorch's GeneralizedPareto takes float32 alone."""
    return np.float32 if name.startswith("Generalized") else np.float64


def pair(name):
    make, value, tolerance = CASES[name]
    dtype = dtype_of(name)
    (ours, x), (theirs, y) = [
        (make(lib.distributions, lambda v, lib=lib: t(lib, v, dtype)), t(lib, value, dtype))
        for lib in LIBRARIES
    ]
    return ours, theirs, x, y, tolerance


@pytest.mark.parametrize("name", CASES)
def test_values_are_torch_s(name):
    ours, theirs, x, y, tolerance = pair(name)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape)
    assert tuple(ours.event_shape) == tuple(theirs.event_shape)
    assert ours.has_rsample == theirs.has_rsample
    same(ours.log_prob(x), theirs.log_prob(y), tolerance)
    for attribute in (
        "mean",
        "variance",
        "stddev",
        "mode",
        "covariance_matrix",
        "precision_matrix",
        "scale_tril",
    ):
        try:
            want = getattr(theirs, attribute)
        except (NotImplementedError, AttributeError):
            continue
        same(getattr(ours, attribute), want, tolerance)
    for method in ("entropy", "cdf", "icdf", "log_cdf"):
        given = {
            "entropy": [(), ()],
            "icdf": [(t(lib, PROBS[: x.shape[-1]], dtype_of(name)),) for lib in LIBRARIES],
        }
        try:
            want = getattr(theirs, method)(*given.get(method, [(x,), (y,)])[1])
        except (NotImplementedError, AttributeError, TypeError):
            continue
        same(getattr(ours, method)(*given.get(method, [(x,), (y,)])[0]), want, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_expansion_are_torch_s(name):
    ours, theirs, x, _, tolerance = pair(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's Wishart warns of samples that are not singular
        for shape in ((), (4, 2)):
            got, want = ours.sample(shape), theirs.sample(shape)
            assert got.shape == tuple(want.shape)
            assert got.dtype == dtype_of(name)
    larger = (5, *ours.batch_shape)
    wide, theirs_wide = ours.expand(larger), theirs.expand(larger)
    assert type(wide) is type(ours)
    assert tuple(wide.batch_shape) == larger
    assert wide.sample((2,)).shape == (2, *larger, *ours.event_shape)
    value = wide.sample()
    same(wide.log_prob(value), theirs_wide.log_prob(torch.from_numpy(value.numpy())), tolerance)
    assert bool(ours.support.check(ours.sample((50,))).all())
    again = pickle.loads(pickle.dumps(ours))
    same(again.log_prob(x), ours.log_prob(x))


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_log_prob_are_torch_s(name):
    make, value, tolerance = CASES[name]
    grads = []
    for lib in LIBRARIES:
        leaves = []

        def leaf(v, lib=lib, leaves=leaves):
            made = t(lib, v, dtype_of(name)).requires_grad_()
            leaves.append(made)
            return made

        make(lib.distributions, leaf).log_prob(t(lib, value, dtype_of(name))).sum().backward()
        grads.append([made.grad.numpy() for made in leaves])
    for got, want in zip(*grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=max(tolerance, 1e-8), atol=max(tolerance, 1e-9))


MOMENTS = """Kumaraswamy LowRank ContinuousBernoulli Wishart GeneralizedPareto""".split()


@pytest.mark.parametrize("name", MOMENTS)
def test_samples_have_the_moments(name):
    fastdl.manual_seed(3)
    ours = pair(name)[0]
    n = 20000
    sample = ours.sample((n,)).numpy()
    mean, variance = ours.mean.numpy(), ours.variance.numpy()
    assert (np.abs(sample.mean(0) - mean) < 5 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(sample.var(0), variance, rtol=0.15)


@pytest.mark.parametrize("name", ["Kumaraswamy", "ContinuousBernoulli", "GeneralizedPareto"])
def test_samples_follow_the_cdf(name):
    fastdl.manual_seed(4)
    ours = pair(name)[0]
    ranks = np.sort(ours.cdf(ours.sample((5000,))).numpy(), 0)
    even = (np.arange(5000) + 0.5)[:, None] / 5000
    assert np.abs(ranks - even).max() < 1.63 / math.sqrt(5000)  # Kolmogorov-Smirnov, 1 %


def test_angles_are_around_their_mean():
    fastdl.manual_seed(0)
    d = D.VonMises(fastdl.tensor([3.0, -1.0]), fastdl.tensor([2.0, 1e-6]))
    angles = d.sample((20000,)).numpy()
    assert angles.min() >= -math.pi
    assert angles.max() <= np.float32(math.pi)
    resultant = np.exp(1j * angles).mean(0)
    np.testing.assert_allclose(1 - np.abs(resultant), d.variance.numpy(), atol=0.02)
    assert abs(np.angle(resultant[0]) - 3.0) < 0.03


def test_f_is_a_ratio_of_gammas():
    fastdl.manual_seed(0)
    d = D.FisherSnedecor(t(fastdl, [4.0, 9.0]), t(fastdl, [12.0, 20.0]))
    sample = d.sample((40000,)).numpy()
    error = np.abs(sample.mean(0) - d.mean.numpy())
    assert (error < 5 * np.sqrt(d.variance.numpy() / 40000)).all()


def test_correlations_of_lkj_have_their_marginals():
    """Every correlation is 2 Beta(b, b) - 1 with b = eta + (dim - 2) / 2, of variance 1 / (2 b + 1)."""
    fastdl.manual_seed(0)
    for eta, dim in ((1.0, 3), (3.0, 4)):
        lower = D.LKJCholesky(dim, t(fastdl, eta)).sample((20000,)).numpy()
        correlation = lower @ np.swapaxes(lower, -1, -2)
        entries = correlation[:, *np.tril_indices(dim, -1)]
        want = 1 / (2 * (eta + (dim - 2) / 2) + 1)
        np.testing.assert_allclose(entries.var(0), want, rtol=0.05)
        assert (np.abs(entries.mean(0)) < 5 * math.sqrt(want / 20000)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda a: D.Kumaraswamy(a, a),
        lambda a: D.FisherSnedecor(a, a),
        lambda a: D.LowRankMultivariateNormal(a, fastdl.stack([a, a * a], -1), a),
        lambda a: D.LogisticNormal(a, a),
        lambda a: D.ContinuousBernoulli(logits=a),
        lambda a: D.Wishart(a.sum() + 1, scale_tril=fastdl.diag(a)),
        lambda a: D.GeneralizedPareto(a, a, -a),
    ],
)
def test_rsample_passes_gradients(make):
    fastdl.manual_seed(0)
    a = fastdl.tensor([0.5, 1.5, 3.0], requires_grad=True)
    d = make(a)
    assert not d.sample().requires_grad
    (d.rsample((3,)) ** 2).sum().backward()
    assert np.isfinite(a.grad.numpy()).all()
    assert (a.grad.numpy() != 0).any()


@pytest.mark.parametrize(
    "sample",
    [
        lambda a: D.Kumaraswamy(a, 1.5 * a).rsample(),
        lambda a: D.ContinuousBernoulli(logits=a).rsample(),
        lambda a: D.GeneralizedPareto(a, a, 0.5 * a).rsample(),
        lambda a: D.LowRankMultivariateNormal(a, fastdl.stack([a, a * a], -1), a).rsample(),
    ],
)
def test_gradients_of_samples_by_differences(sample):
    def drawn(a):
        fastdl.manual_seed(7)
        return sample(a)

    check_gradient(drawn, np.array([0.7, 1.2, 1.9]))


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="greater than ndim - 1 = 1"):
        D.Wishart(1.0, fastdl.eye(2))
    with pytest.raises(ValueError, match="Exactly one of"):
        D.Wishart(3.0)
    with pytest.warns(UserWarning, match="Low df"):
        D.Wishart(1.5, fastdl.eye(2))
    with pytest.raises(ValueError, match=r"covariance_matrix .*PositiveDefinite"):
        D.Wishart(3.0, -fastdl.eye(2))
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        D.LKJCholesky(1)
    with pytest.raises(ValueError, match="shape 3 x m"):
        D.LowRankMultivariateNormal(fastdl.zeros(3), fastdl.ones(2, 1), fastdl.ones(3))
    with pytest.raises(ValueError, match="Incompatible batch shapes"):
        D.LowRankMultivariateNormal(fastdl.zeros(2, 3), fastdl.ones(4, 3, 1), fastdl.ones(3))
    with pytest.raises(ValueError, match="`probs` or `logits`"):
        D.ContinuousBernoulli()
    with pytest.raises(ValueError, match="concentration"):
        D.VonMises(0.0, 0.0)
    with pytest.raises(ValueError, match="Interval"):
        D.GeneralizedPareto(0.0, 1.0, -0.5).log_prob(fastdl.tensor(3.0))


def test_a_subclass_of_a_transformed_distribution_expands():
    class Squashed(D.TransformedDistribution):
        def __init__(self, loc):
            self.loc = loc
            super().__init__(D.Normal(loc, 1.0), [D.TanhTransform()])

    wide = Squashed(fastdl.zeros(3)).expand((2, 3))
    assert type(wide) is Squashed
    assert wide.sample().shape == (2, 3)


def test_what_a_sample_computed_first_keeps_its_gradient():
    """sample() works without a graph; the probabilities that it needed are used again with one."""
    for make in (
        lambda a: D.Bernoulli(logits=a),
        lambda a: D.Geometric(logits=a),
        lambda a: D.Categorical(logits=a),
        lambda a: D.ContinuousBernoulli(logits=a),
        lambda a: D.NegativeBinomial(3, logits=a),
    ):
        a = fastdl.tensor([0.5, 1.5, 3.0], requires_grad=True)
        d = make(a)
        d.sample()
        d.probs.square().sum().backward()
        assert (a.grad.numpy() != 0).any()


def test_continuous_bernoulli_is_accurate_around_a_half():
    """In float32 near l = 1/2, where logarithms nearly cancel; float64's values are the truth."""
    near = np.array([0.4906, 0.5094573, 0.52, 0.43], np.float32)

    def results(dtype):
        p = fastdl.tensor(near.astype(dtype), requires_grad=True)
        d = D.ContinuousBernoulli(p)
        values = (d.mean, d.log_prob(fastdl.full_like(p, 0.3)), d.entropy())
        gradients = [fastdl.autograd.grad(v.sum(), p, retain_graph=True)[0] for v in values]
        return [x.detach().numpy() for x in (*values, *gradients)]

    for actual, exact in zip(results(np.float32), results(np.float64), strict=True):
        assert np.abs(actual - exact).max() < 1e-3 * np.abs(exact).max()
    for actual, exact in zip(results(np.float32)[:3], results(np.float64)[:3], strict=True):
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-5)

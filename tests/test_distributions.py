"""Distributions: values, entropies, divergences and gradients as PyTorch's; samples against moments and quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastdl
from distribution_cases import COVARIANCE, POSITIVE, PROBS, REAL, ROWS, same, t
from fastdl import distributions as D
from parity import check_gradient

rng = np.random.default_rng(0)
LOGITS = [[0.1, -2.0, 1.5], [0.0, 0.0, 3.0]]

# name -> (constructor from the library's distributions and a maker of tensors, values)
CASES = {
    "Normal": (lambda d, a: d.Normal(a(REAL), a(POSITIVE)), [0.5, 1.0, -2.0]),
    "Normal numbers": (lambda d, a: d.Normal(a([1.0, 2.0, 3.0]), 2.0), [0.5, 1.0, -2.0]),
    "LogNormal": (lambda d, a: d.LogNormal(a(REAL), a(POSITIVE)), [0.5, 1.0, 2.0]),
    "HalfNormal": (lambda d, a: d.HalfNormal(a(POSITIVE)), [0.5, 0.0, 2.0]),
    "Uniform": (lambda d, a: d.Uniform(a(REAL), a([0.0, 1.0, 4.0])), [-0.5, 0.3, 3.0]),
    "Exponential": (lambda d, a: d.Exponential(a(POSITIVE)), [0.0, 0.3, 3.0]),
    "Laplace": (lambda d, a: d.Laplace(a(REAL), a(POSITIVE)), [0.0, 0.3, -3.0]),
    "Cauchy": (lambda d, a: d.Cauchy(a(REAL), a(POSITIVE)), [0.0, 0.3, -3.0]),
    "Gumbel": (lambda d, a: d.Gumbel(a(REAL), a(POSITIVE)), [0.0, 0.3, 3.0]),
    "Gamma": (lambda d, a: d.Gamma(a(POSITIVE), a([1.0, 0.5, 2.0])), [0.1, 0.3, 3.0]),
    "Chi2": (lambda d, a: d.Chi2(a(POSITIVE)), [0.1, 0.3, 3.0]),
    "Beta": (lambda d, a: d.Beta(a(POSITIVE), a([2.0, 3.0, 0.5])), [0.1, 0.3, 0.9]),
    "Beta ends": (lambda d, a: d.Beta(a([0.5, 0.3, 0.5]), a([3.0, 0.2, 1.0])), [0.1, 0.3, 0.9]),
    "Dirichlet": (lambda d, a: d.Dirichlet(a([[0.5, 1.0, 2.0], [3.0, 1.0, 1.0]])), ROWS),
    "StudentT": (lambda d, a: d.StudentT(a([0.7, 2.0, 5.0]), a(REAL), a(POSITIVE)), [0.1, 0.3, 0.9]),
    "Pareto": (lambda d, a: d.Pareto(a(POSITIVE), a([0.7, 3.0, 5.0])), [0.5, 1.0, 3.0]),
    "Weibull": (lambda d, a: d.Weibull(a(POSITIVE), a([1.2, 1.0, 3.0])), [0.1, 0.3, 3.0]),
    "HalfCauchy": (lambda d, a: d.HalfCauchy(a(POSITIVE)), [0.1, 0.3, 3.0]),
    "InverseGamma": (lambda d, a: d.InverseGamma(a([0.7, 3.0, 9.0]), a(POSITIVE)), [0.1, 0.3, 3.0]),
    "NegativeBinomial": (lambda d, a: d.NegativeBinomial(a([1.0, 2.5, 7.0]), a(PROBS)), [0.0, 2.0, 5.0]),
    "NegativeBinomial logits": (lambda d, a: d.NegativeBinomial(3, logits=a(REAL)), [0.0, 2.0, 5.0]),
    "Bernoulli": (lambda d, a: d.Bernoulli(a(PROBS)), [0.0, 1.0, 1.0]),
    "Bernoulli logits": (lambda d, a: d.Bernoulli(logits=a(REAL)), [0.0, 1.0, 1.0]),
    "Geometric": (lambda d, a: d.Geometric(a(PROBS)), [0.0, 1.0, 4.0]),
    "Binomial": (lambda d, a: d.Binomial(5, a(PROBS)), [0.0, 2.0, 5.0]),
    "Binomial logits": (lambda d, a: d.Binomial(a([3.0, 4.0, 5.0]), logits=a(REAL)), [0.0, 2.0, 5.0]),
    "Poisson": (lambda d, a: d.Poisson(a(POSITIVE)), [0.0, 2.0, 5.0]),
    "Categorical": (lambda d, a: d.Categorical(a(ROWS)), [2.0, 0.0]),
    "Categorical logits": (lambda d, a: d.Categorical(logits=a(LOGITS)), [2.0, 1.0]),
    "Categorical unnormalised": (lambda d, a: d.Categorical(a([2.0, 1.0, 1.0])), [2.0, 1.0]),
    "OneHotCategorical": (lambda d, a: d.OneHotCategorical(a(ROWS)), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "Multinomial": (lambda d, a: d.Multinomial(4, a(ROWS)), [[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]]),
    "RelaxedBernoulli": (lambda d, a: d.RelaxedBernoulli(a([0.7]), a(PROBS)), [0.1, 0.5, 0.7]),
    "RelaxedOneHotCategorical": (lambda d, a: d.RelaxedOneHotCategorical(a([0.7]), a(ROWS)), ROWS),
    "MultivariateNormal": (lambda d, a: d.MultivariateNormal(a(REAL), a(COVARIANCE)), ROWS),
    "MultivariateNormal precision": (
        lambda d, a: d.MultivariateNormal(a([REAL, REAL]), precision_matrix=a(COVARIANCE)),
        ROWS,
    ),
    "Independent": (lambda d, a: d.Independent(d.Normal(a(ROWS), a(ROWS)), 1), ROWS),
    "MixtureSameFamily": (
        lambda d, a: d.MixtureSameFamily(d.Categorical(a(ROWS)), d.Normal(a(LOGITS), a(ROWS))),
        [0.5, -1.0],
    ),
    "Transformed": (
        lambda d, a: d.TransformedDistribution(
            d.Normal(a(REAL), a(POSITIVE)),
            [d.transforms.AffineTransform(a([0.5, 1.0, 2.0]), -2.0), d.transforms.TanhTransform()],
        ),
        [0.1, -0.5, 0.7],
    ),
    "Transformed shares": (
        lambda d, a: d.TransformedDistribution(
            d.Normal(a([[0.5, -1.0], [0.0, 2.0]]), a(2.0)),
            [d.transforms.AffineTransform(0.5, a([[2.0, 1.0]])), d.transforms.StickBreakingTransform()],
        ),
        [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]],
    ),
    "Transformed joined": (
        lambda d, a: d.TransformedDistribution(
            d.Normal(a([0.5, -1.0, 0.0, 2.0]), a(1.0)),
            [
                d.transforms.SoftplusTransform(),
                d.transforms.ReshapeTransform((4,), (2, 2)),
                d.transforms.IndependentTransform(d.transforms.PowerTransform(a(2.0)), 1),
            ],
        ),
        [[0.2, 0.3], [0.7, 2.0]],
    ),
    "Transformed sigmoid": (
        lambda d, a: d.TransformedDistribution(
            d.Normal(a(REAL), a(POSITIVE)),
            [d.transforms.SigmoidTransform(), d.transforms.ExpTransform().inv],
        ),
        [-0.1, -0.5, -0.7],
    ),
}


def pair(name):
    torch = pytest.importorskip("torch")
    make, value = CASES[name]
    return (
        make(D, lambda v: t(fastdl, v)),
        make(torch.distributions, lambda v: t(torch, v)),
        t(fastdl, value),
        t(torch, value),
    )


@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_shapes_are_torch_s(name):
    ours, theirs, x, y = pair(name)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape)
    assert tuple(ours.event_shape) == tuple(theirs.event_shape)
    same(ours.log_prob(x), theirs.log_prob(y))
    assert ours.sample().shape == tuple(theirs.sample().shape)
    assert ours.sample((4, 2)).shape == tuple(theirs.sample((4, 2)).shape)
    assert ours.sample_n(3).shape == ours.sample((3,)).shape
    assert str(ours.sample().dtype) == str(theirs.sample().dtype).removeprefix("torch.")
    assert ours.has_rsample == theirs.has_rsample


@pytest.mark.parametrize("name", CASES)
def test_moments_entropy_and_cdf_are_torch_s(name):
    ours, theirs, x, y = pair(name)
    for attribute in ("mean", "variance", "stddev", "mode"):
        try:
            want = getattr(theirs, attribute)
        except NotImplementedError:
            continue
        same(getattr(ours, attribute), want)
    for method, arguments in (
        ("entropy", ((), ())),
        ("cdf", ((x,), (y,))),
        ("icdf", (((abs(x) + 0.1) / 9,), ((abs(y) + 0.1) / 9,))),
    ):
        if (name, method) == ("Multinomial", "entropy"):
            continue  # torch's is computed in float32; see below
        try:
            want = getattr(theirs, method)(*arguments[1])
        except (NotImplementedError, ValueError):
            continue
        same(getattr(ours, method)(*arguments[0]), want)


def test_entropy_of_counts_is_a_sum_over_all_of_them():
    d = D.Multinomial(4, t(fastdl, ROWS))
    values = [v for v in np.ndindex(5, 5, 5) if sum(v) == 4]
    log_probs = np.stack([d.log_prob(t(fastdl, [v, v])).numpy() for v in values])
    np.testing.assert_allclose(d.entropy().numpy(), -(np.exp(log_probs) * log_probs).sum(0), rtol=1e-12)
    with pytest.raises(NotImplementedError, match="RelaxedOneHotCategorical has no entropy"):
        D.RelaxedOneHotCategorical(0.5, t(fastdl, ROWS)).entropy()
    with pytest.raises(NotImplementedError, match="total_count must be equal"):
        D.Binomial(t(fastdl, [1.0, 2.0]), t(fastdl, [0.5, 0.5])).entropy()


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("Categorical unnormalised",)])
def test_samples_have_the_moments(name):
    fastdl.manual_seed(1)
    make, _ = CASES[name]
    ours = make(D, lambda v: t(fastdl, v))
    try:
        mean, variance = ours.mean.numpy(), ours.variance.numpy()
    except NotImplementedError:
        return
    n = 20000
    sample = ours.sample((n,)).numpy().astype(np.float64)
    checked = np.isfinite(mean) & np.isfinite(variance)
    error = np.abs(sample.mean(0) - mean)[checked] / np.sqrt(variance[checked] / n)
    assert (error < 5).all()


@pytest.mark.parametrize(
    "name",
    """Normal Uniform Exponential Laplace Cauchy Gumbel HalfNormal LogNormal Pareto Weibull HalfCauchy
    InverseGamma""".split(),
)
def test_samples_follow_the_cdf(name):
    fastdl.manual_seed(2)
    ours = CASES[name][0](D, lambda v: t(fastdl, v))
    ranks = np.sort(ours.cdf(ours.sample((5000,))).numpy(), 0)
    even = (np.arange(5000) + 0.5)[:, None] / 5000
    assert np.abs(ranks - even).max() < 1.63 / math.sqrt(5000)  # Kolmogorov-Smirnov, 1 %


KL = {
    "Normal": lambda d, a: (d.Normal(a(REAL), a(POSITIVE)), d.Normal(0.5, a([1.0, 2.0, 0.3]))),
    "LogNormal": lambda d, a: (d.LogNormal(a(REAL), a(POSITIVE)), d.LogNormal(a(REAL), a([1.0, 2.0, 0.3]))),
    "HalfNormal": lambda d, a: (d.HalfNormal(a(POSITIVE)), d.HalfNormal(a([1.0, 2.0, 0.3]))),
    "Categorical": lambda d, a: (d.Categorical(a(ROWS)), d.Categorical(logits=a(LOGITS))),
    "Categorical zeros": lambda d, a: (d.Categorical(a([0.0, 0.5, 0.5])), d.Categorical(a([0.1, 0.0, 0.9]))),
    "OneHotCategorical": lambda d, a: (d.OneHotCategorical(a(ROWS)), d.OneHotCategorical(logits=a(LOGITS))),
    "Bernoulli": lambda d, a: (d.Bernoulli(a([0.0, 0.4, 1.0])), d.Bernoulli(a(PROBS))),
    "Binomial": lambda d, a: (d.Binomial(3, a(PROBS)), d.Binomial(3, a([0.2, 0.3, 0.4]))),
    "Geometric": lambda d, a: (d.Geometric(a(PROBS)), d.Geometric(a([0.2, 0.3, 0.4]))),
    "Poisson": lambda d, a: (d.Poisson(a(POSITIVE)), d.Poisson(a([1.0, 2.0, 0.3]))),
    "Uniform": lambda d, a: (d.Uniform(a([0.0, 0.0]), 1.0), d.Uniform(a([-1.0, 0.5]), 2.0)),
    "Exponential": lambda d, a: (d.Exponential(a(POSITIVE)), d.Exponential(a([1.0, 2.0, 0.3]))),
    "Laplace": lambda d, a: (d.Laplace(a(REAL), a(POSITIVE)), d.Laplace(0.5, a([1.0, 2.0, 0.3]))),
    "Cauchy": lambda d, a: (d.Cauchy(a(REAL), a(POSITIVE)), d.Cauchy(0.5, a([1.0, 2.0, 0.3]))),
    "Gumbel": lambda d, a: (d.Gumbel(a(REAL), a(POSITIVE)), d.Gumbel(0.5, a([1.0, 2.0, 0.3]))),
    "Pareto": lambda d, a: (d.Pareto(a(POSITIVE), a(POSITIVE)), d.Pareto(0.6, a([1.0, 2.0, 0.3]))),
    "Gamma": lambda d, a: (d.Gamma(a(POSITIVE), a(POSITIVE)), d.Gamma(0.5, a([1.0, 2.0, 0.3]))),
    "Beta": lambda d, a: (d.Beta(a(POSITIVE), a(POSITIVE)), d.Beta(0.5, a([1.0, 2.0, 0.3]))),
    "Dirichlet": lambda d, a: (d.Dirichlet(a(ROWS)), d.Dirichlet(a([1.0, 2.0, 0.3]))),
    "MultivariateNormal": lambda d, a: (
        d.MultivariateNormal(a(REAL), a(COVARIANCE)),
        d.MultivariateNormal(a([REAL, POSITIVE]), a(np.eye(3) * 2)),
    ),
    "Independent": lambda d, a: (
        d.Independent(d.Normal(a(ROWS), a(ROWS)), 1),
        d.Independent(d.Normal(a(LOGITS), 1.0), 1),
    ),
}


@pytest.mark.parametrize("name", KL)
def test_divergences_are_torch_s(name):
    torch = pytest.importorskip("torch")
    ours = KL[name](D, lambda v: t(fastdl, v))
    theirs = KL[name](torch.distributions, lambda v: t(torch, v))
    same(D.kl_divergence(*ours), torch.distributions.kl_divergence(*theirs))


def test_divergence_of_an_unknown_pair():
    with pytest.raises(NotImplementedError, match="p type Normal and q type Cauchy"):
        D.kl_divergence(D.Normal(0.0, 1.0), D.Cauchy(1.0, 1.0))

    class Mine(D.Normal):
        pass

    @D.register_kl(Mine, D.Gamma)
    def _(p, q):
        return p.loc * 0 + 7.0

    assert D.kl_divergence(Mine(0.0, 1.0), D.Gamma(1.0, 1.0)).item() == 7.0


@pytest.mark.parametrize(
    "make",
    [
        lambda a: D.Normal(a, 1.0 + a * a).log_prob(fastdl.full_like(a, 0.3)),
        lambda a: D.Categorical(logits=a).entropy(),
        lambda a: D.Categorical(a * a).log_prob(fastdl.tensor(1)),
        lambda a: D.Beta(a * a, 2.0).entropy(),
        lambda a: D.kl_divergence(D.Gamma(a * a, 1.5), D.Gamma(0.7, a * a)),
        lambda a: D.MultivariateNormal(a, fastdl.diag(a * a)).log_prob(fastdl.full_like(a, 0.3)),
    ],
)
def test_gradients_by_differences(make):
    check_gradient(make, np.array([0.7, -1.2, 1.9]))


def test_gamma_samples_have_torch_s_gradient():
    """The slope of a sample with respect to its shape, over six decades of both."""
    torch = pytest.importorskip("torch")
    from fastdl.distributions.gamma import gamma_slope

    shape = np.repeat([0.02, 0.3, 1.0, 2.7, 15.0, 300.0], 7)
    samples = np.clip(np.tile([1e-3, 0.1, 0.5, 1.0, 1.5, 3.0, 8.0], 6) * shape, 1e-4, None)
    want = torch._standard_gamma_grad(torch.from_numpy(shape), torch.from_numpy(samples)).numpy()
    got = gamma_slope(shape, samples)
    keep = np.abs(np.log(samples / shape)) < 2.5 * np.maximum(
        1, shape**-0.5
    )  # torch's own series is coarse beyond
    np.testing.assert_allclose(got[keep], want[keep], rtol=3e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.5, 40.0, 1e4, 1e6])
def test_gamma_slope_of_tiny_and_large_shapes(size):
    torch = pytest.importorskip("torch")
    from fastdl.distributions.gamma import gamma_slope

    rng = np.random.default_rng(0)
    shape = size * rng.uniform(0.5, 1, 200)
    samples = np.maximum(rng.standard_gamma(shape), np.finfo(np.float32).tiny)
    want = torch._standard_gamma_grad(torch.from_numpy(shape), torch.from_numpy(samples)).numpy()
    np.testing.assert_allclose(gamma_slope(shape, samples), want, rtol=2e-3)


def test_gamma_slope_is_the_quantile_s():
    """Moving the shape moves the sample along its quantile: F(x(a); a) stays, checked by a numeric integral."""
    from fastdl.distributions.gamma import gamma_slope

    for a, x in ((0.4, 0.1), (1.5, 3.0), (6.0, 4.0), (6.0, 9.0)):
        grid = np.linspace(0, 1, 400001)[1:]

        def mass(shape, upper, grid=grid):
            v = grid**4  # many points near 0, where the density may be infinite
            f = (v * upper) ** (shape - 1) * np.exp(-v * upper) * upper * 4 * grid**3
            return np.trapezoid(f, grid) / math.gamma(shape)

        h = 1e-4
        slope_a = (mass(a + h, x) - mass(a - h, x)) / (2 * h)
        density = x ** (a - 1) * math.exp(-x) / math.gamma(a)
        got = gamma_slope(np.array([a]), np.array([x]))[0]
        assert abs(got + slope_a / density) < 1e-4 * max(1, abs(got))


def test_rsample_passes_gradients():
    fastdl.manual_seed(0)
    for make in (
        lambda a: D.Normal(a, a),
        lambda a: D.Gamma(a, a),
        lambda a: D.Beta(a, a),
        lambda a: D.StudentT(a, a, a),
        lambda a: D.RelaxedBernoulli(0.5, logits=a),
        lambda a: D.MultivariateNormal(a, scale_tril=fastdl.diag(a)),
        lambda a: D.OneHotCategoricalStraightThrough(logits=a),
    ):
        a = fastdl.tensor([0.5, 1.5, 3.0], requires_grad=True)
        d = make(a)
        assert not d.sample().requires_grad
        weights = fastdl.tensor([1.0, 2.0, 3.0])
        (d.rsample((3,)) * weights).sum().backward()
        assert np.isfinite(a.grad.numpy()).all()
        assert (a.grad.numpy() != 0).any()
    with pytest.raises(NotImplementedError, match="use sample"):
        D.Bernoulli(0.5).rsample()


def test_the_seed_fixes_the_samples():
    def draw():
        fastdl.manual_seed(5)
        return [
            d.sample((3,)).numpy()
            for d in (
                D.Normal(0.0, 1.0),
                D.Gamma(2.0, 1.0),
                D.Binomial(5, 0.5),
                D.Categorical(fastdl.ones(4)),
            )
        ]

    for a, b in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_categorical_samples_follow_the_probabilities():
    fastdl.manual_seed(0)
    p = fastdl.tensor([[0.1, 0.2, 0.7], [0.6, 0.4, 0.0]])
    drawn = D.Categorical(p).sample((20000,)).numpy()
    for row in range(2):
        counts = np.bincount(drawn[:, row], minlength=3) / 20000
        np.testing.assert_allclose(counts, p.numpy()[row], atol=0.015)
    assert not (drawn[:, 1] == 2).any()


def test_expand_and_enumerate():
    d = D.Normal(fastdl.zeros(1), fastdl.ones(1)).expand((4, 3))
    assert d.sample().shape == (4, 3)
    assert d.log_prob(fastdl.zeros(3)).shape == (4, 3)
    assert D.Multinomial(3, fastdl.ones(4)).expand((2,)).sample().shape == (2, 4)
    assert D.Categorical(fastdl.ones(2, 3)).enumerate_support().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert D.Bernoulli(fastdl.tensor([0.5])).enumerate_support().tolist() == [[0.0], [1.0]]
    assert D.OneHotCategorical(fastdl.ones(2)).enumerate_support().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert D.Independent(d, 1).expand((7, 4)).batch_shape == (7, 4)


def test_mistakes_are_explained():
    with pytest.raises(
        ValueError, match=r"Expected parameter scale .* to satisfy the constraint GreaterThan"
    ):
        D.Normal(0.0, -1.0)
    with pytest.raises(ValueError, match=r"Expected value argument .*IntegerInterval"):
        D.Categorical(fastdl.ones(3)).log_prob(fastdl.tensor(3))
    with pytest.raises(ValueError, match="`probs` or `logits` must be specified, but not both"):
        D.Bernoulli()
    with pytest.raises(ValueError, match="not broadcastable"):
        D.Normal(fastdl.zeros(3), 1.0).log_prob(fastdl.zeros(2))
    with pytest.raises(ValueError, match="low >= high"):
        D.Uniform(1.0, 0.0)
    with pytest.raises(ValueError, match="Exactly one of"):
        D.MultivariateNormal(fastdl.zeros(2))
    D.Normal(0.0, -1.0, validate_args=False)
    with pytest.raises(ValueError, match="Tensor"):
        D.Normal(0.0, 1.0).log_prob(1.0)


def test_solve_triangular():
    torch = pytest.importorskip("torch")
    a, b = rng.standard_normal((2, 4, 4)) + 4 * np.eye(4), rng.standard_normal((2, 4, 3))
    for options in ({"upper": True}, {"upper": False}, {"upper": False, "unitriangular": True}):
        got = fastdl.linalg.solve_triangular(fastdl.from_numpy(a), fastdl.from_numpy(b), **options)
        same(got, torch.linalg.solve_triangular(torch.from_numpy(a), torch.from_numpy(b), **options))
    c = b.transpose(0, 2, 1).copy()
    got = fastdl.linalg.solve_triangular(fastdl.from_numpy(a), fastdl.from_numpy(c), upper=True, left=False)
    same(got, torch.linalg.solve_triangular(torch.from_numpy(a), torch.from_numpy(c), upper=True, left=False))


def test_digamma_has_a_gradient():
    torch = pytest.importorskip("torch")
    x = np.array([-3.3, -0.7, 0.01, 0.5, 1.0, 3.0, 40.0])
    ours, theirs = fastdl.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    fastdl.digamma(ours).sum().backward()
    torch.digamma(theirs).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-9)  # as good as torch's
    np.testing.assert_allclose(ours.grad.numpy()[[3, 4]], [math.pi**2 / 2, math.pi**2 / 6], rtol=1e-13)


TRANSFORMS = {
    "exp": (lambda d, a: d.ExpTransform(), REAL),
    "power": (lambda d, a: d.transforms.PowerTransform(a(-1.5)), POSITIVE),
    "sigmoid": (lambda d, a: d.SigmoidTransform(), [-1.0, 0.2, 60.0]),
    "softplus": (lambda d, a: d.transforms.SoftplusTransform(), REAL),
    "tanh": (lambda d, a: d.TanhTransform(), REAL),
    "affine": (lambda d, a: d.AffineTransform(a([1.0, 2.0, 3.0]), a([-2.0, 1.0, 0.5]), event_dim=1), REAL),
    "stick breaking": (lambda d, a: d.transforms.StickBreakingTransform(), LOGITS),
    "composed": (
        lambda d, a: d.ComposeTransform(
            [d.AffineTransform(1.0, 2.0), d.transforms.StickBreakingTransform(), d.ExpTransform()]
        ),
        LOGITS,
    ),
    "reshape": (lambda d, a: d.transforms.ReshapeTransform((2, 3), (6,)), LOGITS),
    "inverse": (lambda d, a: d.ExpTransform().inv, POSITIVE),
}


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transforms_are_torch_s(name):
    torch = pytest.importorskip("torch")
    make, values = TRANSFORMS[name]
    (x, mine), (y, theirs) = [
        (t(lib, values), make(lib.distributions, lambda v, lib=lib: t(lib, v))) for lib in (fastdl, torch)
    ]
    for got, want in (
        (mine(x), theirs(y)),
        (mine.inv(mine(x)), theirs.inv(theirs(y))),
        (mine.log_abs_det_jacobian(x, mine(x)), theirs.log_abs_det_jacobian(y, theirs(y))),
        (mine.inv.log_abs_det_jacobian(mine(x), x), theirs.inv.log_abs_det_jacobian(theirs(y), y)),
    ):
        assert tuple(got.shape) == tuple(want.shape)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-9, atol=1e-12)
    assert tuple(mine.forward_shape(x.shape)) == tuple(theirs.forward_shape(y.shape))
    assert tuple(mine.inverse_shape(mine(x).shape)) == tuple(y.shape)
    assert mine.domain.event_dim == theirs.domain.event_dim
    assert mine.codomain.event_dim == theirs.codomain.event_dim
    assert bool(mine.bijective) is bool(theirs.bijective)
    assert repr(mine) == repr(theirs)


def test_transforms_without_a_density_are_torch_s():
    torch = pytest.importorskip("torch")
    matrix = [[0.5, 9.0], [2.0, -1.0]]
    for name, values in (("Softmax", LOGITS), ("LowerCholesky", matrix), ("Abs", REAL)):
        got, want = [getattr(lib.distributions.transforms, f"{name}Transform")() for lib in (fastdl, torch)]
        for f, g in ((got, want), (lambda v, f=got: f.inv(f(v)), lambda v, g=want: g.inv(g(v)))):
            np.testing.assert_allclose(f(t(fastdl, values)).numpy(), g(t(torch, values)).numpy())
    with pytest.raises(NotImplementedError, match="log_abs_det_jacobian"):
        D.transforms.SoftmaxTransform().log_abs_det_jacobian(t(fastdl, REAL), t(fastdl, REAL))


def test_users_own_transforms():
    """The squashed Gaussian of SAC as programs write it: private names, a cache, a mean of its own."""
    torch = pytest.importorskip("torch")

    def squashed(lib):
        pyd = lib.distributions

        class Tanh(pyd.transforms.Transform):
            domain = pyd.constraints.real
            codomain = pyd.constraints.interval(-1.0, 1.0)
            bijective = True
            sign = +1

            def __init__(self, cache_size=1):
                super().__init__(cache_size=cache_size)

            def _call(self, x):
                return x.tanh()

            def _inverse(self, y):
                return 0.5 * (y.log1p() - (-y).log1p())

            def log_abs_det_jacobian(self, x, y):
                return 2.0 * (math.log(2.0) - x - lib.nn.functional.softplus(-2.0 * x))

        class Squashed(pyd.transformed_distribution.TransformedDistribution):
            def __init__(self, loc, scale):
                self.base_dist = pyd.Normal(loc, scale)
                super().__init__(self.base_dist, [Tanh()])

            @property
            def mean(self):
                mu = self.base_dist.mean
                for transform in self.transforms:
                    mu = transform(mu)
                return mu

        return Squashed(t(lib, [0.5, 40.0]), t(lib, [1.0, 1e-3]))

    mine, theirs = squashed(fastdl), squashed(torch)
    np.testing.assert_allclose(mine.mean.numpy(), theirs.mean.numpy())
    value = [0.3, 0.9]
    np.testing.assert_allclose(
        mine.log_prob(t(fastdl, value)).numpy(), theirs.log_prob(t(torch, value)).numpy()
    )
    for draw in (mine.sample, mine.rsample):  # tanh(40) is 1: only the cache knows where it came from
        assert np.isfinite(mine.log_prob(draw()).numpy()).all()
    with pytest.raises(ValueError, match="Interval"):
        mine.log_prob(t(fastdl, [1.5, 0.0]))


def test_distributions_of_users_print_their_parameters():
    torch = pytest.importorskip("torch")
    printed = []
    for library in (torch, fastdl):

        class Hinge(library.distributions.Distribution):
            arg_constraints = {"loc": library.distributions.constraints.real}  # noqa: RUF012

            def __init__(self, loc, library=library):
                self.loc = library.as_tensor(loc)
                super().__init__(self.loc.shape)

        printed.append(repr(Hinge(2.5)))
    assert printed == ["Hinge(loc: 2.5)"] * 2


@pytest.mark.parametrize("name", ["covariance_matrix", "precision_matrix", "scale_tril"])
def test_normal_vectors_and_wishart_print_what_they_were_given(name):
    torch = pytest.importorskip("torch")
    for n in (1, 2):
        for kind, first in (("MultivariateNormal", [0.0] * n), ("Wishart", 3.0)):
            mine, theirs = [
                repr(getattr(lib.distributions, kind)(lib.tensor(first), **{name: 4 * lib.eye(n)}))
                for lib in (fastdl, torch)
            ]
            assert mine == theirs.replace("torch.Size([2, 2])", "(2, 2)").replace("torch.Size([2])", "(2,)")

"""Rarer distributions, constraints, registries and divergences of different families: values are PyTorch's."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest

import fastdl
from fastdl import distributions as D
from parity import check_gradient

torch = pytest.importorskip("torch")
LIBRARIES = (fastdl, torch)

POSITIVE = [0.3, 1.0, 2.5]
REAL = [-1.0, 0.2, 3.0]
PROBS = [0.1, 0.5, 0.85]
ROWS = [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]
COVARIANCE = [[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 0.7]]
FACTOR = [[0.5, 1.0], [-1.0, 0.2], [0.3, 0.7]]
CORRELATION = np.linalg.cholesky(np.array([[1.0, 0.3, -0.2], [0.3, 1.0, 0.4], [-0.2, 0.4, 1.0]]))


def t(library, values, dtype=np.float64):
    return library.from_numpy(np.array(values, dtype))


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


def same(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=1e-10)


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


CONSTRAINTS = {
    "real": lambda c, a: c.real,
    "positive": lambda c, a: c.positive,
    "nonnegative": lambda c, a: c.nonnegative,
    "unit interval": lambda c, a: c.unit_interval,
    "interval": lambda c, a: c.interval(a([-1.0, 0.0, 2.0]), 4.0),
    "half open": lambda c, a: c.half_open_interval(-1.0, 2.0),
    "greater": lambda c, a: c.greater_than(a([-1.0, 0.0, 2.0])),
    "at least": lambda c, a: c.greater_than_eq(1.5),
    "less": lambda c, a: c.less_than(1.5),
    "simplex": lambda c, a: c.simplex,
    "real vector": lambda c, a: c.real_vector,
    "independent": lambda c, a: c.independent(c.positive, 1),
    "corr_cholesky": lambda c, a: c.corr_cholesky,
    "cat": lambda c, a: c.cat([c.positive, c.unit_interval], -1, [1, 2]),
    "stack": lambda c, a: c.stack([c.positive, c.real, c.unit_interval], -1),
}


@pytest.mark.parametrize("registry", ["biject_to", "transform_to"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_registries_are_torch_s(name, registry):
    made = []
    for lib in LIBRARIES:
        d = lib.distributions
        constraint = CONSTRAINTS[name](d.constraints, lambda v, lib=lib: t(lib, v))
        transform = getattr(d, registry)(constraint)
        x = t(lib, [[0.3, -1.0, 2.0], [1.5, 0.0, -0.7]])
        y = transform(x)
        assert bool(constraint.check(y).all())
        made.append((constraint, transform, x, y))
    (c1, f, x, y), (c2, g, u, v) = made
    same(y, v)
    same(f.inv(y), g.inv(v), 1e-7)
    assert str(c1).replace("fastdl", "") == str(c2) or "tensor" in str(c2)
    assert repr(f) == repr(g)
    assert (c1.event_dim, c1.is_discrete) == (c2.event_dim, c2.is_discrete)
    try:
        want = g.log_abs_det_jacobian(u, v)
    except (NotImplementedError, AttributeError):
        return
    got = f.log_abs_det_jacobian(x, y)
    assert tuple(got.shape) == tuple(want.shape)
    same(got, want)


def test_matrices_of_numbers():
    x = [[0.5, 9.0], [2.0, -1.0]]
    for name in ("lower_cholesky", "positive_definite", "positive_semidefinite"):
        made = []
        for lib in LIBRARIES:
            d = lib.distributions
            constraint = getattr(d.constraints, name)
            f = d.transform_to(constraint)
            y = f(t(lib, x))
            assert bool(constraint.check(y))
            made += [y, f.inv(y)]
        same(made[0], made[2])
        same(made[1], made[3])
        with pytest.raises(NotImplementedError, match="Cannot transform"):
            D.biject_to(getattr(D.constraints, name))


def test_registries_take_users_constraints():
    registry = D.constraint_registry.ConstraintRegistry()

    class Even(D.constraints.Constraint):
        is_discrete = True

        def check(self, value):
            return value % 2 == 0

    with pytest.raises(NotImplementedError, match="Cannot transform Even"):
        registry(Even())

    @registry.register(Even)
    def _(constraint):
        return D.transforms.AffineTransform(0.0, 2.0)

    assert registry(Even())(fastdl.tensor(3.0)).item() == 6.0
    with pytest.raises(TypeError, match="Expected constraint to be either"):
        registry.register(3, lambda c: c)

    class Twos(D.Normal):
        support = Even()

    with pytest.raises(ValueError, match=r"Even\(\)"):
        Twos(0.0, 1.0).log_prob(fastdl.tensor(1.0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("real", [1.0, math.nan, math.inf]),
        ("positive_integer", [0.0, 1.0, 1.5]),
        ("boolean", [0.0, 1.0, 0.5]),
        ("one_hot", [[0.0, 1.0], [1.0, 1.0]]),
        ("simplex", [[0.5, 0.5], [0.5, 0.6], [1.5, -0.5]]),
        ("lower_triangular", [[[1.0, 0.0], [2.0, 3.0]], [[1.0, 1.0], [2.0, 3.0]]]),
        ("lower_cholesky", [[[1.0, 0.0], [2.0, -3.0]], [[1.0, 0.0], [2.0, 3.0]]]),
        ("corr_cholesky", [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.6, 0.9]]]),
        ("square", [[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]),
        ("symmetric", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [3.0, 1.0]]]),
        ("positive_definite", [[[2.0, 1.0], [1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]]]),
        ("positive_semidefinite", [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]]),
    ],
)
def test_constraints_are_torch_s(name, values):
    ours, theirs = [getattr(lib.distributions.constraints, name).check(t(lib, values)) for lib in LIBRARIES]
    assert ours.tolist() == theirs.tolist()


def test_constraints_made_of_others_are_torch_s():
    x = [[1.0, 0.5, 2.0], [-1.0, 0.5, 0.0]]
    for make in (
        lambda c: c.multinomial(3),
        lambda c: c.integer_interval(0, 2),
        lambda c: c.MixtureSameFamilyConstraint(c.positive),
        lambda c: c.MixtureSameFamilyConstraint(c.independent(c.positive, 1)),
        lambda c: c.independent(c.real, 0),
        lambda c: c.cat([c.positive, c.real], 1, [2, 1]),
    ):
        ours, theirs = [make(lib.distributions.constraints) for lib in LIBRARIES]
        assert ours.check(t(fastdl, x)).tolist() == theirs.check(t(torch, x)).tolist()
        assert repr(ours) == repr(theirs) or "0x" in repr(theirs)
    dependent = D.constraints.dependent(event_dim=1)
    assert D.constraints.is_dependent(dependent)
    assert dependent.event_dim == 1
    with pytest.raises(NotImplementedError, match="statically"):
        _ = dependent.is_discrete
    with pytest.raises(ValueError, match="dependent"):
        dependent.check(t(fastdl, x))

    class Mine(D.Distribution):
        @D.constraints.dependent_property(is_discrete=False, event_dim=0)
        def support(self):
            return D.constraints.positive

    assert D.constraints.is_dependent(Mine.__dict__["support"])
    assert Mine().support is D.constraints.positive
    with pytest.raises(ValueError, match=r"value.dim\(\) >= 2"):
        D.constraints.independent(D.constraints.real, 2).check(fastdl.zeros(3))


def test_transforms_are_equal_as_torch_s_are():
    makers = [
        lambda d: d.ExpTransform(),
        lambda d: d.AffineTransform(1.0, 2.0),
        lambda d: d.AffineTransform(1.0, 3.0),
        lambda d: d.PowerTransform(d.Normal(2.0, 1.0).loc),
        lambda d: d.ExpTransform().inv,
        lambda d: d.ComposeTransform([d.ExpTransform(), d.AffineTransform(1.0, 2.0)]),
        lambda d: d.transforms.CatTransform([d.ExpTransform()], lengths=[2]),
    ]
    for a in makers:
        for b in makers[:-1]:
            ours, theirs = [a(lib.distributions) == b(lib.distributions) for lib in LIBRARIES]
            assert ours == theirs


def test_copulas_and_parts_with_a_cache():
    base = D.MultivariateNormal(t(fastdl, [0.0, 0.0]), scale_tril=t(fastdl, [[1.0, 0.0], [0.6, 0.8]]))
    theirs = torch.distributions.MultivariateNormal(
        t(torch, [0.0, 0.0]), scale_tril=t(torch, [[1.0, 0.0], [0.6, 0.8]])
    )
    values = []
    for d, b, lib in ((D, base, fastdl), (torch.distributions, theirs, torch)):
        copula = d.TransformedDistribution(
            b, [d.CumulativeDistributionTransform(d.Normal(t(lib, 0.0), t(lib, 1.0)))]
        )
        values.append(copula.log_prob(t(lib, [0.2, 0.9])))
    same(*values)
    f = D.transforms.StackTransform([D.ExpTransform(), D.TanhTransform()], cache_size=1)
    x = t(fastdl, [40.0, 40.0])
    assert f.inv(f(x)) is x
    with pytest.raises(ValueError, match="expects 2 entries along dim 0"):
        f(fastdl.zeros(3))
    with pytest.raises(ValueError, match="as many lengths"):
        D.transforms.CatTransform([D.ExpTransform()], lengths=[1, 2])
    with pytest.raises(ValueError, match=r"D \(D - 1\) / 2 entries"):
        D.transforms.CorrCholeskyTransform()(fastdl.zeros(2))


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

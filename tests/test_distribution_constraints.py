"""Constraints, the transforms registered for them, and transforms made of others: PyTorch's."""

from __future__ import annotations

import math

import pytest

import fastdl
from distribution_cases import same, t
from fastdl import distributions as D

torch = pytest.importorskip("torch")
LIBRARIES = (fastdl, torch)

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

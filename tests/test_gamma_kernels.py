"""The incomplete gamma functions and Hurwitz' zeta function beside PyTorch's over their domains."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")

INF, NAN = math.inf, math.nan
LEVELS = [
    1e-3,
    0.01,
    0.1,
    0.5,
    0.9,
    1.0,
    1.5,
    2.0,
    3.7,
    7.0,
    12.0,
    19.9,
    29.0,
    31.0,
    60.0,
    150.0,
    900.0,
    1e4,
    1e6,
]
EDGES = [0.0, -0.0, -1.0, -2.5, INF, -INF, NAN, 1.0, 2.0, 1e30]


def grid(values):
    return torch.cartesian_prod(*[torch.tensor(values, dtype=torch.float64)] * 2).unbind(1)


def of(name, *tensors):
    return getattr(fastdl.special, name)(*[fastdl.tensor(t.numpy()) for t in tensors]).numpy()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_incomplete_gamma_functions(dtype):
    a, x = [t.to(dtype) for t in grid(LEVELS)]
    lower, upper = of("gammainc", a, x), of("gammaincc", a, x)
    wide = a.double(), x.double()
    error = 2e-9 if dtype is torch.float64 else 3e-7  # PyTorch's own for a between 20 and 200 is 1e-9
    np.testing.assert_allclose(lower, torch.special.gammainc(*wide).numpy(), error, 1e-38)
    np.testing.assert_allclose(
        upper, torch.special.gammaincc(*wide).numpy(), error, 1e-15 if error < 1e-8 else 1e-12
    )
    np.testing.assert_allclose(lower.astype(float) + upper, 1.0, error)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("a", [1e-300, 1e-20, 1e-10])
def test_the_upper_function_of_tiny_a(a, backend):
    """a E1(x), where 1 - P is rounding error (and PyTorch's half off)."""
    x = [1e-5, 0.1, 0.5, 1.0, 2.0]
    integrals = [10.935719800043695, 1.8229239584193906, 0.5597735947761608, 0.21938393439552029]
    with fastdl.use_backend(backend):
        got = of("gammaincc", torch.tensor(a, dtype=torch.float64), torch.tensor(x, dtype=torch.float64))
    np.testing.assert_allclose(got / a, [*integrals, 0.04890051070806112], rtol=5e-9 if a == 1e-10 else 5e-14)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_upper_function_of_small_a_adds_up(backend):
    a = torch.tensor([0.001, 0.03, 0.0999, 0.1001, 0.3], dtype=torch.float64)[:, None]
    x = torch.tensor([1e-8, 0.01, 0.4, 0.9, 1.0, 1.05], dtype=torch.float64)
    with fastdl.use_backend(backend):
        lower, upper = of("gammainc", a, x), of("gammaincc", a, x)
    np.testing.assert_allclose(lower + upper, 1, rtol=2e-15)
    # Q(a + 1, x) = Q(a, x) + x^a e^-x / gamma(a + 1)
    with fastdl.use_backend(backend):
        next_upper = of("gammaincc", a + 1, x)
    step = (x**a * (-x).exp() / (a + 1).lgamma().exp()).numpy()
    np.testing.assert_allclose(upper, next_upper - step, atol=1e-15)


def test_whole_numbers():  # Q(a, x) is a sum of a terms
    a, x = grid([1.0, 2.0, 5.0, 17.0, 29.0, 30.0, 31.0, 60.0, 150.0])
    getcontext().prec = 60
    exact = []
    for n, v in zip(a.int().tolist(), x.int().tolist(), strict=True):
        term = total = Decimal(1)
        for k in range(1, n):
            term = term * v / k
            total += term
        exact.append(total * (-Decimal(v)).exp())
    upper, lower = of("gammaincc", a, x), of("gammainc", a, x)
    np.testing.assert_allclose(upper, [float(q) for q in exact], 2e-13, 1e-15)
    np.testing.assert_allclose(lower, [float(1 - q) for q in exact], 2e-13, 1e-15)


def test_large_and_tiny():
    a = torch.tensor([1e6, 1e9, 1e12, 1e18], dtype=torch.float64)
    np.testing.assert_allclose(
        of("gammainc", a, a), 0.5 + 1 / (3 * torch.sqrt(2 * math.pi * a)).numpy(), 1e-10
    )
    a, x = torch.tensor([100.0, 1e17]).double(), torch.tensor([1e-15, 1.0]).double()
    assert of("gammainc", a, x).tolist() == [0.0, 0.0]
    assert of("gammaincc", a, x).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["gammainc", "gammaincc", "zeta"])
def test_edges(name, dtype):
    a, x = [t.to(dtype) for t in grid(EDGES)]
    if name == "zeta":  # of huge exponents PyTorch's is NaN where terms vanish
        a, x = a[~(a > 2)], x[~(a > 2)]
    theirs = getattr(torch.special, name)(a, x).numpy()
    np.testing.assert_allclose(of(name, a, x), theirs, 1e-6 if dtype is torch.float32 else 1e-12, 1e-300)


def test_zeta():
    s = torch.tensor([1.0001, 1.1, 1.5, 2.0, 3.0, 7.5, 20.0, 41.3, 90.0], dtype=torch.float64)
    q = torch.tensor(
        [1e-3, 0.2, 1.0, 1.9, 6.0, 11.0, 23.5, 24.0, 80.0, 1e4, 1e9, -0.4, -7.3, -30.5], dtype=torch.float64
    )
    s, q = torch.cartesian_prod(s, q).unbind(1)
    np.testing.assert_allclose(of("zeta", s, q), torch.special.zeta(s, q).numpy(), 1e-12)


def test_zeta_of_large_numbers_below_zero():  # one term for each step would take for ever
    y = of("zeta", torch.tensor([2.0, 3.0]).double(), torch.tensor([-1e12 - 0.5] * 2, dtype=torch.float64))
    np.testing.assert_allclose(y, [math.pi**2, 0.0], 1e-10, 1e-10)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_polygamma(n):
    x = torch.cat([torch.linspace(0.05, 40, 60), torch.tensor([-0.3, -3.6, 1e3])]).double()
    y = fastdl.polygamma(n, fastdl.tensor(x.numpy())).numpy()
    np.testing.assert_allclose(y, torch.polygamma(n, x).numpy(), 1e-11)


def test_broadcast_and_gradient():
    a, x = torch.rand(5, 1) + 0.5, torch.rand(7) * 4
    ours = fastdl.tensor(x.numpy(), requires_grad=True)
    theirs = x.clone().requires_grad_()
    y, z = fastdl.igamma(fastdl.tensor(a.numpy()), ours), torch.igamma(a, theirs)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), 2e-6)
    y.sum().backward(), z.sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), 1e-5)

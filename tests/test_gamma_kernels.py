"""The incomplete gamma functions and Hurwitz' zeta function beside PyTorch's over their domains."""

import math
from decimal import Decimal, getcontext

import ml_dtypes
import numpy as np
import pytest

import emulation
import fastdl
from fastdl.kernels import reference
from parity import backends, load

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


KERNELS = {"gammainc": "igamma_forward", "gammaincc": "igammac_forward", "zeta": "zeta_forward"}
levels = pytest.mark.parametrize("level", backends(cuda=True))
all_levels = pytest.mark.parametrize("level", ["reference", *backends(cuda=True)])


def of(level, name, *tensors):
    kernels = reference if level == "reference" else load(level)
    return getattr(kernels, KERNELS[name])(*[t.numpy() for t in tensors])


@levels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_incomplete_gamma_functions(level, dtype):
    a, x = [t.to(dtype) for t in grid(LEVELS)]
    lower, upper = of(level, "gammainc", a, x), of(level, "gammaincc", a, x)
    wide = a.double(), x.double()
    error = 2e-9 if dtype is torch.float64 else 3e-7  # PyTorch's own for a between 20 and 200 is 1e-9
    np.testing.assert_allclose(lower, torch.special.gammainc(*wide).numpy(), error, 1e-38)
    np.testing.assert_allclose(
        upper, torch.special.gammaincc(*wide).numpy(), error, 1e-15 if error < 1e-8 else 1e-12
    )
    np.testing.assert_allclose(lower.astype(float) + upper, 1.0, error)


@all_levels
@pytest.mark.parametrize("a", [1e-300, 1e-20, 1e-10])
def test_the_upper_function_of_tiny_a(level, a):
    """a E1(x), where 1 - P is rounding error (and PyTorch's half off)."""
    x = [1e-5, 0.1, 0.5, 1.0, 2.0]
    integrals = [10.935719800043695, 1.8229239584193906, 0.5597735947761608, 0.21938393439552029]
    got = of(level, "gammaincc", torch.tensor(a, dtype=torch.float64), torch.tensor(x, dtype=torch.float64))
    np.testing.assert_allclose(got / a, [*integrals, 0.04890051070806112], rtol=5e-9 if a == 1e-10 else 5e-14)


@all_levels
def test_the_upper_function_of_small_a_adds_up(level):
    a = torch.tensor([0.001, 0.03, 0.0999, 0.1001, 0.3], dtype=torch.float64)[:, None]
    x = torch.tensor([1e-8, 0.01, 0.4, 0.9, 1.0, 1.05], dtype=torch.float64)
    lower, upper = of(level, "gammainc", a, x), of(level, "gammaincc", a, x)
    np.testing.assert_allclose(lower + upper, 1, rtol=2e-15)
    # Q(a + 1, x) = Q(a, x) + x^a e^-x / gamma(a + 1)
    next_upper = of(level, "gammaincc", a + 1, x)
    step = (x**a * (-x).exp() / (a + 1).lgamma().exp()).numpy()
    np.testing.assert_allclose(upper, next_upper - step, atol=1e-15)


@levels
def test_whole_numbers(level):  # Q(a, x) is a sum of a terms
    a, x = grid([1.0, 2.0, 5.0, 17.0, 29.0, 30.0, 31.0, 60.0, 150.0])
    getcontext().prec = 60
    exact = []
    for n, v in zip(a.int().tolist(), x.int().tolist(), strict=True):
        term = total = Decimal(1)
        for k in range(1, n):
            term = term * v / k
            total += term
        exact.append(total * (-Decimal(v)).exp())
    upper, lower = of(level, "gammaincc", a, x), of(level, "gammainc", a, x)
    np.testing.assert_allclose(upper, [float(q) for q in exact], 2e-13, 1e-15)
    np.testing.assert_allclose(lower, [float(1 - q) for q in exact], 2e-13, 1e-15)


@levels
def test_large_and_tiny(level):
    a = torch.tensor([1e6, 1e9, 1e12, 1e18], dtype=torch.float64)
    np.testing.assert_allclose(
        of(level, "gammainc", a, a), 0.5 + 1 / (3 * torch.sqrt(2 * math.pi * a)).numpy(), 1e-10
    )
    a, x = torch.tensor([100.0, 1e17]).double(), torch.tensor([1e-15, 1.0]).double()
    assert of(level, "gammainc", a, x).tolist() == [0.0, 0.0]
    assert of(level, "gammaincc", a, x).tolist() == [1.0, 1.0]


@levels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", KERNELS)
def test_edges(level, name, dtype):
    a, x = [t.to(dtype) for t in grid(EDGES)]
    if name == "zeta":  # of huge exponents PyTorch's is NaN where terms vanish
        a, x = a[~(a > 2)], x[~(a > 2)]
    theirs = getattr(torch.special, name)(a, x).numpy()
    np.testing.assert_allclose(
        of(level, name, a, x), theirs, 1e-6 if dtype is torch.float32 else 1e-12, 1e-300
    )


@levels
def test_zeta(level):
    s = torch.tensor([1.0001, 1.1, 1.5, 2.0, 3.0, 7.5, 20.0, 41.3, 90.0], dtype=torch.float64)
    q = torch.tensor(
        [1e-3, 0.2, 1.0, 1.9, 6.0, 11.0, 23.5, 24.0, 80.0, 1e4, 1e9, -0.4, -7.3, -30.5], dtype=torch.float64
    )
    s, q = torch.cartesian_prod(s, q).unbind(1)
    np.testing.assert_allclose(of(level, "zeta", s, q), torch.special.zeta(s, q).numpy(), 1e-12)


@levels
def test_zeta_of_large_numbers_below_zero(level):  # one term for each step would take for ever
    y = of(
        level, "zeta", torch.tensor([2.0, 3.0]).double(), torch.tensor([-1e12 - 0.5] * 2, dtype=torch.float64)
    )
    np.testing.assert_allclose(y, [math.pi**2, 0.0], 1e-10, 1e-10)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_polygamma(n):
    x = torch.cat([torch.linspace(0.05, 40, 60), torch.tensor([-0.3, -3.6, 1e3])]).double()
    y = fastdl.polygamma(n, fastdl.tensor(x.numpy())).numpy()
    np.testing.assert_allclose(y, torch.polygamma(n, x).numpy(), 1e-11)


@levels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", KERNELS.values())
def test_operands_broadcast(level, kernel, dtype):
    """To each other, with any strides, and numbers stand on either side."""
    compute, exact = getattr(load(level), kernel), getattr(reference, kernel)
    a = np.linspace(1.5, 40, 30).astype(dtype).reshape(5, 6)[::2, ::-1]
    x = np.linspace(0.5, 90, 24).astype(dtype).reshape(6, 4).T[:, None]
    for pair in ((a, x), (x, a), (2.5, x), (a, 7.0), (a[:0], x[:1]), (a[0, 0], x[0])):
        got, wide = compute(*pair), [v.astype(float) if isinstance(v, np.ndarray) else v for v in pair]
        want = exact(*wide)
        assert got.dtype == dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-12 if dtype == np.float64 else 3e-7, atol=1e-14)


@pytest.mark.skipif(not emulation.available(), reason="needs the CUDA kernels")
@pytest.mark.parametrize("kernel", KERNELS.values())
def test_half_precision_is_rounded_once(kernel):
    a, x = np.meshgrid(np.linspace(1.125, 60, 40), np.linspace(0.25, 70, 40))
    for dtype in (np.dtype(np.float16), fastdl.bfloat16):
        a, x = a.astype(dtype), x.astype(dtype)
        want = getattr(reference, kernel)(a.astype(float), x.astype(float))
        a, x, want = [v[np.abs(want) < 60000] for v in (a, x, want)]  # float16 has no larger ones
        want = want.astype(dtype).astype(float)
        got = getattr(load(emulation.NAME), kernel)(a, x)
        assert got.dtype == dtype
        spacing = np.maximum(
            np.abs(want) * float(ml_dtypes.finfo(dtype).eps), float(ml_dtypes.finfo(dtype).smallest_subnormal)
        )
        assert np.all(np.abs(got.astype(float) - want) <= spacing)
        assert np.mean(got.astype(float) == want) > 0.99


def test_broadcast_and_gradient():
    a, x = torch.rand(5, 1) + 0.5, torch.rand(7) * 4
    ours = fastdl.tensor(x.numpy(), requires_grad=True)
    theirs = x.clone().requires_grad_()
    y, z = fastdl.igamma(fastdl.tensor(a.numpy()), ours), torch.igamma(a, theirs)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), 2e-6)
    y.sum().backward(), z.sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), 1e-5)

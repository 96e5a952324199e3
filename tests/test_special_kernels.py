"""Special functions, running reductions and bits: kernels on every level against known values and the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from parity import backends, load

rng = np.random.default_rng(0)
POSITIVE = np.concatenate([rng.uniform(0, 12, 300), 10.0 ** rng.uniform(-30, 30, 60), np.arange(1.0, 13)])
REAL = np.concatenate([rng.uniform(-9, 9, 300), rng.uniform(-40, 40, 60), 10.0 ** rng.uniform(-30, -1, 30)])
UNIT = np.concatenate(
    [rng.uniform(0, 1, 300), 10.0 ** rng.uniform(-300, 0, 60), 1 - 10.0 ** rng.uniform(-15, -1, 60)]
)
DOMAIN = {
    "lgamma": np.concatenate([POSITIVE, 1 + rng.uniform(-1e-3, 1e-3, 20), 2 + rng.uniform(-1e-3, 1e-3, 20)]),
    "digamma": POSITIVE,
    "trigamma": POSITIVE,
    "erfc": REAL,
    "erfcx": np.concatenate([REAL[REAL > -26], 10.0 ** rng.uniform(0, 200, 30)]),
    "erfinv": np.concatenate([UNIT[UNIT > 1e-30], -UNIT[UNIT > 1e-30]]),
    "ndtr": REAL[REAL > -37],
    "log_ndtr": np.concatenate([REAL, [-1e3, -1e30]]),
    "ndtri": UNIT,
    "i0": REAL,
    "i0e": np.concatenate([REAL, 10.0 ** rng.uniform(0, 200, 30)]),
    "i1": REAL,
    "i1e": np.concatenate([REAL, 10.0 ** rng.uniform(0, 200, 30)]),
    "logit": np.concatenate([UNIT, 0.5 + rng.uniform(-1e-3, 1e-3, 30)]),
    "entr": np.concatenate([POSITIVE, 1 + rng.uniform(-1e-3, 1e-3, 30)]),
    "sinc": REAL,
}
# The reference's own error in double: its series, Newton steps and products are not the last word.
REFERENCE = {
    "digamma": 1e-13,
    "erfcx": 2e-13,
    "ndtr": 3e-13,
    "log_ndtr": 3e-13,
    "ndtri": 1e-13,
    "erfinv": 1e-13,
}

# Computed in single precision by the CPU; the others are in double and rounded once. CUDA computes all so.
SINGLE = ("erfc", "erfinv", "ndtr", "logit", "entr")

# Exact to all digits that a double has: f, x, f(x).
KNOWN = [
    ("lgamma", 0.5, 0.5723649429247001),
    ("lgamma", 3.0, 0.6931471805599453),
    ("lgamma", -0.5, 1.2655121234846454),
    ("lgamma", 100.0, 359.1342053695754),
    ("digamma", 1.0, -0.5772156649015329),
    ("digamma", 0.5, -1.9635100260214235),
    ("digamma", -0.5, 0.03648997397857652),
    ("trigamma", 1.0, 1.6449340668482264),
    ("trigamma", 0.5, 4.934802200544679),
    ("trigamma", -0.5, 8.934802200544679),
    ("erfc", 10.0, 2.088487583762545e-45),
    ("erfcx", 10.0, 0.05614099274382259),
    ("erfinv", 0.5, 0.4769362762044699),
    ("ndtr", -10.0, 7.619853024160526e-24),
    ("log_ndtr", -10.0, -53.23128515051247),
    ("ndtri", 0.975, 1.9599639845400538),
    ("i0", 10.0, 2815.7166284662544),
    ("i1", 10.0, 2670.9883037012546),
    ("i0e", 0.5, 0.6450352704491501),
    ("i1e", -0.5, -0.1564208031848717),
    ("logit", 0.9, 2.1972245773362196),
    ("logit", 0.25, -1.0986122886681098),
    ("entr", 0.5, 0.34657359027997264),
    ("sinc", 0.5, 0.6366197723675814),
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beside_the_reference(level, dtype):
    kernel = load(level)
    for name, values in DOMAIN.items():
        with np.errstate(all="ignore"):
            x = values.astype(dtype)
        x = x[np.isfinite(x) & ((x == 0) | (np.abs(x) > np.finfo(dtype).tiny))]
        got = getattr(kernel, name + "_forward")(x)
        want = getattr(reference, name + "_forward")(x.astype(np.float64))
        assert got.dtype == dtype
        with np.errstate(over="ignore"):
            want = want.astype(dtype)
        usual = np.isfinite(want) & (np.abs(want) > np.finfo(dtype).tiny)  # the rest may be flushed
        single = level == emulation.NAME or name in SINGLE
        tolerance = REFERENCE.get(name, 2e-14)
        at_zeros = {"lgamma": 2e-15, "sinc": 5e-16}.get(name, 0)  # where the reference is exact absolutely
        if dtype == np.float32:
            tolerance = (8 if level == emulation.NAME else 4 if single else 2) * np.finfo(np.float32).eps
            if single and name in ("lgamma", "digamma"):
                at_zeros = tolerance
        np.testing.assert_allclose(got[usual], want[usual], rtol=tolerance, atol=at_zeros, err_msg=name)
        assert np.all(np.abs(got[np.abs(want) <= np.finfo(dtype).tiny]) <= 2 * np.finfo(dtype).tiny), name
        np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)], err_msg=name)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_known_values(level):
    kernel = load(level)
    for name, x, want in KNOWN:
        got = getattr(kernel, name + "_forward")(np.array([x]))[0]
        size = abs(want)
        if level == emulation.NAME and name == "digamma":  # its zeros are exact absolutely
            size = max(size, 1)
        ulps = 8 if level == emulation.NAME else 4  # what CUDA's manual says of its functions
        assert abs(got - want) <= ulps * np.spacing(size), (name, x, got, want)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_and_poles(level, dtype):
    kernel = load(level)
    inf, nan = math.inf, math.nan
    table = {
        "lgamma": ([0.0, -0.0, 1, 2, -1, -7, inf, -inf, -1e30], [inf, inf, 0, 0, inf, inf, inf, inf, inf]),
        "digamma": ([0.0, -0.0, -1, -7, inf, -inf, -1e30], [-inf, inf, nan, nan, inf, nan, nan]),
        "trigamma": ([0.0, -0.0, -1, inf], [inf, inf, inf, 0]),
        "erfc": ([0.0, -0.0, inf, -inf, 30, -30], [1, 1, 0, 2, 0, 2]),
        "erfcx": ([0.0, -0.0, inf, -inf, -30], [1, 1, 0, inf, inf]),
        "erfinv": ([0.0, -0.0, 1, -1, 1.5, -2, inf], [0.0, -0.0, inf, -inf, nan, nan, nan]),
        "ndtr": ([0.0, inf, -inf, 50, -50], [0.5, 1, 0, 1, 0]),
        "log_ndtr": ([inf, -inf, 50], [0, -inf, 0]),
        "ndtri": ([0.0, 0.5, 1, -0.1, 1.1], [-inf, 0, inf, nan, nan]),
        "i0": ([0.0, inf, -inf], [1, inf, inf]),
        "i0e": ([0.0, inf, -inf], [1, 0, 0]),
        "i1": ([0.0, -0.0, inf, -inf], [0.0, -0.0, inf, -inf]),
        "i1e": ([0.0, -0.0, inf, -inf], [0.0, -0.0, 0.0, -0.0]),
        "logit": ([0.0, 0.5, 1, -0.1, 1.1, inf, -inf], [-inf, 0, inf, nan, nan, nan, nan]),
        "entr": ([0.0, -0.0, 1, -1e-30, inf, -inf], [0, 0, 0, -inf, -inf, -inf]),
        "sinc": ([0.0, -0.0, inf, -inf], [1, 1, nan, nan]),
    }
    assert set(table) == set(DOMAIN)
    for name, (x, want) in table.items():
        got = getattr(kernel, name + "_forward")(np.array([*x, nan], dtype))
        np.testing.assert_array_equal(got, np.array([*want, nan], dtype), err_msg=name)
    for name in ("erfinv", "i1", "i1e"):
        got = getattr(kernel, name + "_forward")(np.array([0.0, -0.0], dtype))
        np.testing.assert_array_equal(np.signbit(got), [False, True], err_msg=name)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_denormal_arguments(level):
    kernel = load(level)
    for dtype, x, log_gamma, quantile in (
        (np.float32, 1e-40, 92.10340910966488, -13.310921774100802),
        (np.float64, 1e-310, 713.8013788281542, -37.663060331949524),
    ):
        got = kernel.lgamma_forward(np.array([x, -x, 1.0], dtype))
        np.testing.assert_allclose(got, [log_gamma, log_gamma, 0], rtol=4 * np.finfo(dtype).eps)
        got = kernel.ndtri_forward(np.array([x, 0.5], dtype))
        np.testing.assert_allclose(got, [quantile, 0], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_negative_arguments_of_gamma(level):
    """Reflection: near the poles relatively, near zeros of lgamma absolutely exact."""
    kernel = load(level)
    x = np.concatenate(
        [-rng.uniform(0, 20, 300), -np.arange(1, 8) + 1e-6, -(10.0 ** rng.uniform(-30, -1, 20))]
    )
    for name in ("lgamma", "digamma", "trigamma"):
        want = getattr(reference, name + "_forward")(x)
        scale = np.maximum(np.abs(want), 1)
        error = np.abs(getattr(kernel, name + "_forward")(x) - want) / scale
        # The reference takes the sine of pi x, whose rounding counts beside a pole.
        bound = 1e-14 if name == "lgamma" else 4e-15 * np.maximum(1, np.abs(x / (x - np.rint(x))))
        assert np.all(error <= bound), name


@pytest.mark.parametrize("level", backends(cuda=True))
def test_layouts_and_output(level):
    kernel = load(level)
    x = rng.uniform(0.1, 5, (7, 33)).astype(np.float32)
    want = kernel.lgamma_forward(x)
    np.testing.assert_array_equal(kernel.lgamma_forward(np.asfortranarray(x)), want)
    np.testing.assert_array_equal(kernel.lgamma_forward(x[:, ::3]), want[:, ::3])
    assert kernel.lgamma_forward(x, x) is x
    np.testing.assert_array_equal(x, want)
    assert kernel.digamma_forward(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(TypeError, match=r"lgamma: (x|input) must be"):
        kernel.lgamma_forward(np.arange(3))


SIDES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    3.0,
    -2.5,
    80.0,
    -80.0,
    700.0,
    -700.0,
    1e30,
    -1e30,
    math.inf,
    -math.inf,
    math.nan,
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_with_logarithms_steps_and_fractions(level, dtype):
    kernel = load(level)
    x, y = [
        np.ravel(a) for a in np.meshgrid(np.array([*SIDES, 0.7, -3.2], dtype), np.array([*SIDES, 1.0], dtype))
    ]
    for name in ("fmax", "fmin", "heaviside"):
        got = getattr(kernel, name + "_forward")(x, y)
        np.testing.assert_array_equal(got, getattr(reference, name + "_forward")(x, y))
        assert got.dtype == dtype
    for name in ("xlogy", "xlog1py"):
        for a, b in ((x, y), (2.5, y), (x, 2.5), (0.0, y)):
            got = getattr(kernel, name + "_forward")(a, b)
            wide = [v.astype(np.float64) if isinstance(v, np.ndarray) else v for v in (a, b)]
            with np.errstate(over="ignore"):
                want = getattr(reference, name + "_forward")(*wide).astype(dtype)
            np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(kernel.frac_forward(x), reference.frac_forward(x))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_exponentials_signs_and_neighbours(level, dtype):
    kernel = load(level)
    tiny = np.finfo(dtype).smallest_subnormal
    x, y = [
        np.ravel(a)
        for a in np.meshgrid(np.array([*SIDES, tiny, -tiny], dtype), np.array([*SIDES, -tiny], dtype))
    ]
    np.testing.assert_array_equal(kernel.copysign_forward(x, y), np.copysign(x, y))
    for steps in (kernel.nextafter_forward(x, y), kernel.nextafter_forward(np.nextafter(y, x), y)):
        assert steps.dtype == dtype
    got, want = kernel.nextafter_forward(x, y), np.nextafter(x, y)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[want == 0]))
    x, y = [np.concatenate([a, rng.standard_normal(500).astype(dtype) * 9]) for a in (x, y)]
    eps = np.finfo(dtype).eps
    with np.errstate(all="ignore"):
        want = np.logaddexp(x.astype(np.float64), y.astype(np.float64))
    scale = np.maximum(1, np.minimum(np.abs(x), np.abs(y)))  # the sum passes through 0 where it cancels
    finite = np.isfinite(want) & (np.abs(want) < 1e29)
    got = kernel.logaddexp_forward(x, y)
    assert np.all(np.abs(got[finite] - want[finite]) <= (4 * eps * scale)[finite])
    np.testing.assert_array_equal(got[~finite], want.astype(dtype)[~finite])
    grad = rng.standard_normal(x.shape).astype(dtype)
    for a, b in zip(
        kernel.logaddexp_backward(grad, x, y), reference.logaddexp_backward(grad, x, y), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=8 * eps, atol=16 * eps)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two(level, dtype):
    kernel = load(level)
    x = np.concatenate(
        [rng.uniform(-20, 20, 300), rng.uniform(-126, 127.9, 100), np.arange(-126.0, 128)]
    ).astype(dtype)
    y = kernel.exp2_forward(x)
    np.testing.assert_allclose(y, np.exp2(x.astype(np.float64)), rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(y[400:], np.exp2(x[400:].astype(np.float64)))  # whole powers exactly
    ends = kernel.exp2_forward(np.array([math.inf, -math.inf, 2000, -2000, math.nan], dtype))
    np.testing.assert_array_equal(ends, [math.inf, 0, math.inf, 0, math.nan])
    grad = rng.standard_normal(x.shape).astype(dtype)
    rounding = {
        "rtol": 4 * np.finfo(dtype).eps,
        "atol": 2 * np.finfo(dtype).tiny,
    }  # what is smaller is flushed
    with np.errstate(over="ignore"):
        want = reference.exp2_backward(grad, y)
    np.testing.assert_allclose(kernel.exp2_backward(grad, y), want, **rounding)


@pytest.mark.parametrize("level", backends())
def test_bits(level):
    kernel = load(level)
    for shapes in (((1000,), (1000,)), ((5, 70), (70,)), ((5, 1), (1, 300)), ((), (3,)), ((0, 3), (3,))):
        masks = [rng.random(shape) < 0.5 for shape in shapes]
        words = [rng.integers(-9, 9, shape) for shape in shapes]
        for name, (x, y) in [(n, pair) for n in ("and", "or", "xor") for pair in (masks, words)]:
            got = getattr(kernel, f"bitwise_{name}_forward")(x, y)
            want = getattr(np, f"bitwise_{name}")(x, y)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    spread = rng.random((6, 9)) < 0.5
    np.testing.assert_array_equal(
        kernel.bitwise_xor_forward(spread[:, ::2], True), np.logical_not(spread[:, ::2])
    )
    with pytest.raises(TypeError, match=r"bitwise_and: (y|input) must be"):
        kernel.bitwise_and_forward(spread, np.arange(9))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_running_extremes(level, dtype):
    kernel = load(level)
    for shape in ((1,), (7,), (16,), (1000,), (3, 40), (40, 3), (2, 50, 300), (5, 0), (0, 5)):
        x = np.rint(rng.standard_normal(shape) * 3).astype(dtype)  # ties
        for axis in range(len(shape)):
            for missing in (False, True) if dtype != np.int64 and x.size > 3 else (False,):
                if missing:
                    x.flat[x.size // 2] = np.nan
                for name in ("running_max", "running_min"):
                    values, indices = getattr(kernel, name)(x, axis)
                    want = getattr(reference, name)(x, axis)
                    np.testing.assert_array_equal(values, want[0])
                    np.testing.assert_array_equal(indices, want[1])
                    assert (values.dtype, indices.dtype) == (dtype, np.int64)
    rising = np.arange(300).astype(dtype)
    np.testing.assert_array_equal(kernel.running_max(rising, 0)[1], np.arange(300))
    np.testing.assert_array_equal(kernel.running_min(rising, 0)[1], np.zeros(300))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("from_end", [False, True])
def test_running_logsumexp(level, dtype, from_end):
    kernel = load(level)
    for shape in ((1,), (7,), (256,), (1000,), (3, 300), (300, 3), (2, 50, 300), (5, 0)):
        for axis in range(len(shape)):
            for kind in range(5):
                x = (rng.standard_normal(shape) * 3).astype(dtype)
                if kind == 1:
                    x *= 500  # a block spans more than exp can
                if kind == 2:
                    x[rng.random(shape) < 0.7] = -np.inf
                if kind == 3 and x.size:
                    x.flat[x.size // 2] = np.inf
                if kind == 4 and x.size:
                    x.flat[x.size // 2] = np.nan
                got = kernel.running_logsumexp(x, axis, from_end)
                want = reference.running_logsumexp(x.astype(np.float64), axis, from_end)
                tolerance = 64 * np.finfo(dtype).eps
                np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_of_numbers(level, dtype):
    kernel = load(level)
    x = rng.standard_normal((5, 40, 33)).astype(dtype)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[0, :, 0] = np.nan
    for axes in (None, (0,), (1,), (2,), (0, 2)):
        np.testing.assert_allclose(
            kernel.nansum_forward(x, axes), reference.nansum_forward(x, axes), rtol=1e-5, atol=1e-5
        )
    assert kernel.nansum_forward(np.array([np.inf, np.nan], dtype)) == np.inf

"""Accuracy of the vector functions in units in the last place, and their special values, on every level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdl import kernels
from parity import DTYPES, backends

# The bounds that csrc/cpu/simd/math.h states.
ULPS = {"exp": 2, "expm1": 3, "log": 2, "log1p": 3, "log1p_unit": 3, "tanh": 4, "sigmoid": 3, "erf": 5}
EXACT = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log1p_unit": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x >= 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x))),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
}


def arguments(function: str, dtype: type) -> np.ndarray:
    """Points over the whole domain: dense where the function bends, over all binades, around zero."""
    rng = np.random.default_rng(1)
    info = np.finfo(dtype)
    log_range = np.log(float(info.max))
    binades = np.exp2(rng.uniform(info.minexp + 2, info.maxexp - 2, 20_000))
    small = np.exp2(rng.uniform(-40, 3, 20_000))
    dense = np.concatenate([rng.uniform(-1, 1, 20_000), rng.uniform(-10, 10, 20_000)])
    wide = rng.uniform(-log_range * 0.99, log_range * 0.99, 20_000)
    signed = np.concatenate([small, -small, dense, binades, -binades])
    points = {
        "exp": np.concatenate([signed[np.abs(signed) < 80], wide]),
        "expm1": np.concatenate([signed[np.abs(signed) < 80], wide]),
        "log": np.concatenate(
            [binades, small, np.abs(dense), 1 + dense[:20_000] * 1e-3, np.sqrt(0.5) * (1 + dense * 1e-5)]
        ),
        "log1p": np.concatenate([signed[signed > -1], -1 + small[small < 1]]),
        "log1p_unit": np.concatenate([np.abs(dense[:20_000]), small[small <= 1], [0.0, 1.0]]),
        "tanh": signed,
        "sigmoid": np.concatenate([small, -small, dense, wide]),
        "erf": signed,
    }
    return points[function].astype(dtype)


def long_double(function: str, x: np.ndarray) -> np.ndarray:
    """The value in more than x's precision."""
    if x.dtype == np.float32:
        return EXACT[function](x.astype(np.float64))
    if function == "erf":  # the C library's own function: correct within an ulp
        return EXACT[function](x)
    return EXACT[function](x.astype(np.longdouble))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ULPS)
def test_accuracy(function, dtype, level):
    x = arguments(function, dtype)
    with np.errstate(all="ignore"):
        exact = long_double(function, x)
        normal = (np.abs(exact) >= np.finfo(dtype).tiny) & (np.abs(exact) <= np.finfo(dtype).max)
    x, exact = x[normal], exact[normal]
    got = kernels.load(level).vector_math(function, x)
    ulp = np.spacing(np.abs(exact.astype(dtype)))
    error = np.abs(got.astype(exact.dtype) - exact) / ulp
    worst = int(np.argmax(error))
    allowed = ULPS[function] + (1 if function == "erf" and dtype is np.float64 else 0)  # the oracle's own ulp
    assert error[worst] <= allowed, f"{function}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["sin_2pi", "cos_2pi"])
def test_turns(function, dtype, level):
    u = np.concatenate([np.arange(16) / 16, np.random.default_rng(2).uniform(0, 1, 50_000)]).astype(dtype)
    u = u[u < 1]
    wide = np.longdouble if dtype is np.float64 else np.float64
    pi = np.longdouble("3.14159265358979323846264338327950288")
    angle = (u.astype(wide) * 2) * wide(pi)
    exact = np.sin(angle) if function == "sin_2pi" else np.cos(angle)
    got = kernels.load(level).vector_math(function, u)
    assert np.max(np.abs(got - exact)) <= 2 * np.finfo(dtype).eps / 2
    assert np.max(np.abs(got)) <= 1


INF, NAN = float("inf"), float("nan")
SPECIAL = {
    "exp": [(INF, INF), (-INF, 0.0), (NAN, NAN), (0.0, 1.0), (-0.0, 1.0), (1e4, INF), (-1e4, 0.0)],
    "expm1": [(INF, INF), (-INF, -1.0), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (1e4, INF), (-1e4, -1.0)],
    "log": [(INF, INF), (-INF, NAN), (NAN, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN)],
    "log1p": [(INF, INF), (-INF, NAN), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (-2.0, NAN)],
    "log1p_unit": [(0.0, 0.0)],
    "tanh": [(INF, 1.0), (-INF, -1.0), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (1e30, 1.0), (-1e30, -1.0)],
    "sigmoid": [(INF, 1.0), (-INF, 0.0), (NAN, NAN), (0.0, 0.5), (1e4, 1.0), (-1e4, 0.0)],
    "erf": [(INF, 1.0), (-INF, -1.0), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (1e30, 1.0), (-1e30, -1.0)],
}


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", SPECIAL)
def test_special_values(function, dtype, level):
    x = np.array([a for a, _ in SPECIAL[function]], dtype)
    want = np.array([b for _, b in SPECIAL[function]], dtype)
    got = kernels.load(level).vector_math(function, x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_of_denormals(dtype, level):
    """Denormals are flushed by arithmetic, not by log: it looks at their bits."""
    tiny = np.finfo(dtype).tiny
    x = np.array([tiny / 2, tiny / 1024, np.finfo(dtype).smallest_subnormal], dtype)
    got = kernels.load(level).vector_math("log", x)
    np.testing.assert_allclose(
        got, np.log(x.astype(np.longdouble)).astype(dtype), rtol=2 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ULPS)
def test_position_does_not_matter(function, dtype, level):
    """A value in a vector's tail gives the same bits as inside; lengths around the vector width."""
    module = kernels.load(level)
    x = arguments(function, dtype)[:130]
    whole = module.vector_math(function, x)
    for n in (0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127):
        np.testing.assert_array_equal(module.vector_math(function, x[:n]), whole[:n])


@pytest.mark.parametrize("level", backends())
def test_errors(level):
    module = kernels.load(level)
    with pytest.raises(ValueError, match="unknown function 'sinh'"):
        module.vector_math("sinh", np.zeros(3))
    with pytest.raises(TypeError, match="float32 or float64"):
        module.vector_math("exp", np.zeros(3, np.int64))

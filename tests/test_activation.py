"""Activation functions: kernels against their definitions on every level, the rest against torch."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends

DTYPES = (np.float32, np.float64)

# Kernel parameters to try: the defaults and something else.
PARAMETERS = {
    "relu": [()],
    "leaky_relu": [(0.01,), (-0.5,)],
    "sigmoid": [()],
    "tanh": [()],
    "gelu": [()],
    "gelu_tanh": [()],
    "silu": [()],
    "mish": [()],
    "elu": [(1.0, 1.0, 1.0), (0.7, 1.3, 0.5), (-0.5, 1.0, 1.0)],
    "softplus": [(1.0, 20.0), (2.0, 1.0)],
    "hardtanh": [(-1.0, 1.0), (0.0, 6.0)],
    "hardsigmoid": [()],
    "hardswish": [()],
    "hardshrink": [(0.5,), (0.0,)],
    "softshrink": [(0.5,), (0.0,)],
    "tanhshrink": [()],
    "softsign": [()],
    "logsigmoid": [()],
    "threshold": [(0.1, 20.0), (-1.0, 0.0)],
}
READS_OUTPUT = ("relu", "sigmoid", "tanh")
CASES = [(name, p) for name, all_p in PARAMETERS.items() for p in all_p]
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1000)


def points(n: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Normal numbers, with kinks and large values among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * rng.choice([0.1, 1, 5, 30], n)
    kinks = rng.choice([0.0, -0.0, 1, -1, 3, -3, 6, 0.5, -0.5, 100, -100, 1e4, -1e4], n)
    return np.where(rng.random(n) < 0.2, kinks, x).astype(dtype)


def check(module, name, parameters, x, grad_y):
    wide = x.astype(np.float64)
    y = getattr(module, f"{name}_forward")(x, *parameters)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    # Parameters reach a float32 kernel as float32: so do the definition's.
    exact = [float(x.dtype.type(p)) for p in parameters]
    want = getattr(reference, f"{name}_forward")(wide, *exact)
    np.testing.assert_allclose(y, want, rtol=16 * np.finfo(x.dtype).eps, atol=16 * np.finfo(x.dtype).eps)
    saved = y if name in READS_OUTPUT else x
    grad_x = getattr(module, f"{name}_backward")(grad_y, saved, *parameters)
    assert grad_x.dtype == x.dtype
    assert grad_x.shape == x.shape
    want = getattr(reference, f"{name}_backward")(grad_y.astype(np.float64), saved.astype(np.float64), *exact)
    # 1 - y^2, 1 + x (1 - s) and their like cancel: the error is a few eps of the terms, not of the result.
    terms = np.abs(grad_y.astype(np.float64)) * np.maximum(1, np.abs(saved.astype(np.float64)))
    assert np.all(np.abs(grad_x - want) <= 16 * np.finfo(x.dtype).eps * terms)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_parity(name, parameters, dtype, level):
    module = kernels.load(level)
    for n in LENGTHS:
        check(module, name, parameters, points(n, dtype), points(n, dtype, 1))
    x, g = points(24 * 10, dtype).reshape(24, 10), points(24 * 10, dtype, 1).reshape(24, 10)
    check(module, name, parameters, x.T, g.T)
    check(module, name, parameters, x[::2, ::-3], g[::2, ::-3])
    check(module, name, parameters, x[0, 0:1].reshape(()), g[0, 0:1].reshape(()))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", PARAMETERS)
def test_threads_and_streaming_stores(name, level):
    """Many threads, and results so large that they bypass the caches: the same bits as in small pieces."""
    module = kernels.load(level)
    parameters = PARAMETERS[name][0]
    x = np.resize(points(100_003, np.float32), 4_400_001)
    grad_y = x[::-1].copy()
    forward, backward = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    y, grad_x = forward(x, *parameters), backward(grad_y, x, *parameters)
    for start in range(0, x.size, 1_000_000):
        part = slice(start, start + 1_000_000)
        np.testing.assert_array_equal(forward(x[part], *parameters), y[part])
        np.testing.assert_array_equal(backward(grad_y[part], x[part], *parameters), grad_x[part])
    before = module.num_threads()
    try:
        for threads in THREADS:
            module.set_num_threads(threads)
            np.testing.assert_array_equal(forward(x, *parameters), y)
            np.testing.assert_array_equal(backward(grad_y, x, *parameters), grad_x)
    finally:
        module.set_num_threads(before)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETERS)
def test_nan_stays_nan(name, dtype, level):
    x = np.full(19, np.nan, dtype)
    assert np.isnan(getattr(kernels.load(level), f"{name}_forward")(x, *PARAMETERS[name][0])).all()


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", PARAMETERS)
def test_kernel_errors(name, level):
    module = kernels.load(level)
    parameters = PARAMETERS[name][0]
    with pytest.raises(TypeError, match="float32 or float64"):
        getattr(module, f"{name}_forward")(np.zeros(3, np.int64), *parameters)
    with pytest.raises(TypeError, match="byte order"):
        getattr(module, f"{name}_forward")(np.zeros(3, ">f4"), *parameters)
    with pytest.raises(TypeError, match="grad_y must be float32"):
        getattr(module, f"{name}_backward")(np.zeros(3), np.zeros(3, np.float32), *parameters)
    with pytest.raises(ValueError, match="differ in size"):
        getattr(module, f"{name}_backward")(np.zeros(3), np.zeros(4), *parameters)


PRELU_SHAPES = [
    (5,),
    (3, 1),
    (7, 33),
    (2, 3, 5),
    (4, 16, 9),
    (2, 5, 3, 7),
    (1, 2, 20_001),
    (300, 40),
    (0, 3, 2),
    (2, 3, 0),
]


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PRELU_SHAPES)
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(shape, shared, dtype, level):
    module = kernels.load(level)
    channels = 1 if shared or len(shape) < 2 else shape[1]
    x, g = (points(int(np.prod(shape)), dtype, seed).reshape(shape).clip(-50, 50) for seed in (0, 1))
    weight = np.random.default_rng(2).standard_normal(channels).astype(dtype)
    wide = [a.astype(np.float64) for a in (g, x, weight)]
    assert_close(module.prelu_forward(x, weight), reference.prelu_forward(*wide[1:]))
    grad_x, grad_weight = module.prelu_backward(g, x, weight)
    want_x, want_weight = reference.prelu_backward(*wide)
    assert_close(grad_x, want_x)
    assert_close(grad_weight, want_weight, reduction=max(1, x.size // channels))
    only_x, none = module.prelu_backward(g, x, weight, need_x=True, need_weight=False)
    np.testing.assert_array_equal(only_x, grad_x)
    assert none is None
    none, only_weight = module.prelu_backward(g, x, weight, need_x=False, need_weight=True)
    np.testing.assert_array_equal(only_weight, grad_weight)
    assert none is None
    before = module.num_threads()
    try:
        for threads in THREADS:
            module.set_num_threads(threads)
            np.testing.assert_array_equal(module.prelu_backward(g, x, weight)[1], grad_weight)
    finally:
        module.set_num_threads(before)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "dim"), [((2,), 0), ((3, 34), 1), ((4, 3), 0), ((2, 6, 5), 1), ((5, 2, 8200), 1), ((0, 4), 1)]
)
def test_glu(shape, dim, dtype, level):
    module = kernels.load(level)
    x = points(int(np.prod(shape)), dtype).reshape(shape)
    y, want = module.glu_forward(x, dim), reference.glu_forward(x.astype(np.float64), dim)
    assert_close(y, want)
    g = points(y.size, dtype, 1).reshape(y.shape).clip(-50, 50)
    assert_close(
        module.glu_backward(g, x, dim),
        reference.glu_backward(g.astype(np.float64), x.astype(np.float64), dim),
    )


@pytest.mark.parametrize("level", backends())
def test_channel_kernel_errors(level):
    module = kernels.load(level)
    with pytest.raises(ValueError, match="weight has 3 elements, x has 4 channels"):
        module.prelu_forward(np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(ValueError, match="even size"):
        module.glu_forward(np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match="dim out of range"):
        module.glu_forward(np.zeros((2, 4)), 2)
    with pytest.raises(ValueError, match="half of x"):
        module.glu_backward(np.zeros((2, 3)), np.zeros((2, 4)), 1)

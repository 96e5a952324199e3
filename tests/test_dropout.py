"""Dropout: the mask is the definition's on every level, for any number of threads, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends

DTYPES = (np.float32, np.float64)
LENGTHS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 1000)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_kernel(p, dtype, level):
    module = kernels.load(level)
    scale = 1 / (1 - p) if p < 1 else 0.0
    for n in LENGTHS:
        x = np.random.default_rng(n).standard_normal(n).astype(dtype) + 10
        y = module.dropout_forward(x, p, scale, 5, n)
        want = reference.dropout_forward(x.astype(np.float64), p, scale, 5, n)
        assert_close(y, want)
        np.testing.assert_array_equal(y == 0, want == 0)
        np.testing.assert_array_equal(module.dropout_backward(x, p, scale, 5, n), y)
    x = np.random.default_rng(0).standard_normal((6, 5, 4, 3)).astype(dtype) + 10
    for length in (1, 3, 12, 60, 360):
        y = module.dropout_forward(x, p, scale, 5, 2, length=length, kept_bias=0.5, dropped_bias=-3.0)
        want = reference.dropout_forward(x.astype(np.float64), p, scale, 5, 2, length, 0.5, -3.0)
        assert_close(y, want)
        assert_close(
            module.dropout_backward(x, p, scale, 5, 2, length=length),
            reference.dropout_backward(x.astype(np.float64), p, scale, 5, 2, length),
        )
    assert_close(module.dropout_forward(x.T, p, scale, 5, 2), reference.dropout_forward(x.T, p, scale, 5, 2))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_and_threads(dtype, level):
    """Streaming stores and any number of threads give the same mask, float64 the same as float32."""
    module = kernels.load(level)
    n = 4_400_003
    x = np.ones(n, dtype)
    kept = reference.philox_words(n, 9, 4) >> 1 >= round(0.3 * 2**31)
    before = module.num_threads()
    try:
        for threads in THREADS:
            module.set_num_threads(threads)
            np.testing.assert_array_equal(module.dropout_forward(x, 0.3, 1.0, 9, 4), kept)
    finally:
        module.set_num_threads(before)
    assert abs(np.mean(kept) - 0.7) < 4 * np.sqrt(0.21 / n)


@pytest.mark.parametrize("level", backends())
def test_nan_and_infinity(level):
    """x * 0 and x * scale, as in torch: what is dropped is not forgotten when it was not finite."""
    module = kernels.load(level)
    x = np.tile(np.array([np.nan, np.inf, -np.inf, 1.0]), 50)
    y = module.dropout_forward(x, 0.5, 2.0, 1, 1)
    np.testing.assert_array_equal(y, reference.dropout_forward(x, 0.5, 2.0, 1, 1))
    assert np.isnan(y[0::4]).all()


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_rrelu_kernel(dtype, level):
    module = kernels.load(level)
    for n in LENGTHS:
        x, g = (np.random.default_rng((n, k)).standard_normal(n).astype(dtype) for k in (0, 1))
        assert_close(module.rrelu_forward(x, 0.1, 0.4, 3, n), reference.rrelu_forward(x, 0.1, 0.4, 3, n))
        assert_close(
            module.rrelu_backward(g, x, 0.1, 0.4, 3, n), reference.rrelu_backward(g, x, 0.1, 0.4, 3, n)
        )


@pytest.mark.parametrize("level", backends())
def test_kernel_errors(level):
    module = kernels.load(level)
    with pytest.raises(ValueError, match="p must be between 0 and 1"):
        module.dropout_forward(np.zeros(3), 1.5, 1.0, 0, 0)
    with pytest.raises(ValueError, match="p must be between 0 and 1"):
        module.dropout_forward(np.zeros(3), float("nan"), 1.0, 0, 0)
    with pytest.raises(ValueError, match="length must divide"):
        module.dropout_forward(np.zeros(3), 0.5, 1.0, 0, 0, length=2)
    with pytest.raises(ValueError, match="length must divide"):
        module.dropout_forward(np.zeros(3), 0.5, 1.0, 0, 0, length=0)
    with pytest.raises(TypeError, match="float32 or float64"):
        module.dropout_forward(np.zeros(3, np.float16), 0.5, 1.0, 0, 0)
    with pytest.raises(ValueError, match="differ in size"):
        module.rrelu_backward(np.zeros(3), np.zeros(4), 0.1, 0.2, 0, 0)

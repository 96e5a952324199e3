"""CUDA kernels whose limit is memory, at the borders of their paths: packs, lanes, blocks, rows that start anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
from fastdl.kernels import reference
from test_cuda_kernels import HALVES, check, numbers, wide

pytestmark = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)
DTYPES = [pytest.param(t, id=np.dtype(t).name) for t in (np.float32, np.float64)] + HALVES


def shifted(x: Any, by: int) -> Any:
    """A dense copy that starts ``by`` elements behind an aligned place."""
    memory = np.empty(x.size + 64 // x.itemsize + by, x.dtype)
    start = -memory.ctypes.data % 16 // x.itemsize + by
    view = memory[start : start + x.size].reshape(x.shape)
    view[...] = x
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 8, 1023, 2048, 4099, 16384 + 5])
def test_dense_maps(cuda, dtype, size):
    x, y = numbers(size, dtype), numbers(size, dtype, 1)
    one, near = y[:1], np.abs(x) + np.asarray(0.5, dtype)
    for a, b in ((x, y), (shifted(x, 1), y), (shifted(x, 1), shifted(y, 1)), (x, one), (one, y), (x, 0.1)):
        for name in ("add_forward", "maximum_forward", "gt_forward"):
            check(getattr(cuda, name)(a, b), getattr(reference, name)(wide(a), wide(b)))
    for start in (0, 1):
        for name in ("exp_forward", "gelu_forward"):
            check(getattr(cuda, name)(shifted(x, start)), getattr(reference, name)(wide(x)))
        check(cuda.log_forward(shifted(near, start)), reference.log_forward(wide(near)))
        check(cuda.gelu_backward(shifted(x, start), y), reference.gelu_backward(wide(x), wide(y)))
    for arrays in ((x, y), (shifted(x, 1), y)):
        check(cuda.mse_loss_forward(*arrays, "mean"), reference.mse_loss_forward(wide(x), wide(y), "mean"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 9, 63, 257, 1025, 4099])
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_rows_that_start_anywhere(cuda, dtype, classes, start, smoothing):
    x = shifted(numbers((5, classes), dtype, scale=2), start)
    target = np.array([0, classes - 1, -100, classes // 2, classes // 3])
    options = (1, -100, smoothing, "mean")
    loss, statistics, normaliser = cuda.cross_entropy_forward(x, target, None, *options)
    want, exact, divisor = reference.cross_entropy_forward(wide(x), target, None, *options)
    check(loss, want)
    one = np.asarray(1, dtype)
    got = cuda.cross_entropy_backward(one, x, target, None, statistics, normaliser, *options)
    want = reference.cross_entropy_backward(wide(one), wide(x), target, None, exact, divisor, *options)
    check(got, want, 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 5, 33, 64, 128, 129, 250, 512, 516])
def test_softmax_of_short_rows(cuda, dtype, length):
    x, g = numbers((37, length), dtype), numbers((37, length), dtype, 1)
    for name in ("softmax", "log_softmax"):
        y = getattr(cuda, f"{name}_forward")(x, 1)
        check(y, getattr(reference, f"{name}_forward")(wide(x), 1))
        got = getattr(cuda, f"{name}_backward")(g, y, 1)
        check(got, getattr(reference, f"{name}_backward")(wide(g), wide(y), 1), 2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 45])
@pytest.mark.parametrize("length", [1, 3, 60, 250, 257, 768, 1024, 1028, 2050, 5000])
def test_row_norms_make_all_gradients(cuda, dtype, rows, length):
    x, g, weight = (
        numbers((rows, length), dtype),
        numbers((rows, length), dtype, 1),
        numbers(length, dtype, 2),
    )
    x, weight = x + np.asarray(2, dtype), weight + np.asarray(1, dtype)
    for w in (weight, shifted(weight, 1)):
        y, mean, var = cuda.layer_norm_forward(x, w, weight, length, 1e-3)
        check(y, reference.layer_norm_forward(wide(x), wide(w), wide(weight), length, 1e-3)[0], 4.0)
        options = (length, 1e-3, True, True, True)
        got = cuda.layer_norm_backward(g, x, w, mean, var, *options)
        check(got, reference.layer_norm_backward(wide(g), wide(x), wide(w), mean, var, *options), 8.0)
        if length == 1:
            continue  # of RMS norm the gradient is what is left of 1 - h^2, rounding
        y, square = cuda.rms_norm_forward(x, w, length, 1e-3)
        check(y, reference.rms_norm_forward(wide(x), wide(w), length, 1e-3)[0], 4.0)
        got = cuda.rms_norm_backward(g, x, w, square, *options[:-1])
        check(got, reference.rms_norm_backward(wide(g), wide(x), wide(w), square, *options[:-1]), 8.0)
    for need in ((True, True, False), (True, False, False), (False, True, True)):
        got = cuda.layer_norm_backward(g, x, weight, mean, var, length, 1e-3, *need)
        assert tuple(a is not None for a in got) == need


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 70), (3, 5, 7, 7), (9, 4, 3, 11), (2, 3, 34, 37), (2, 2, 50, 61)])
@pytest.mark.parametrize("start", [0, 1])
def test_batch_norm_of_planes_of_any_size(cuda, dtype, shape, start):
    x, g = shifted(numbers(shape, dtype), start), numbers(shape, dtype, 1)
    weight = numbers(shape[1], dtype, 2) + np.asarray(1, dtype)
    y, mean, var = cuda.batch_norm_forward(x, weight, weight, 1e-3)
    want, exact_mean, exact_var = reference.batch_norm_forward(wide(x), wide(weight), wide(weight), 1e-3)
    check(y, want, 4.0)
    options = (1e-3, True, True, True, True)
    got = cuda.batch_norm_backward(g, x, weight, mean, var, *options)
    want = reference.batch_norm_backward(wide(g), wide(x), wide(weight), exact_mean, exact_var, *options)
    check(got, want, 8.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spatial", [(9,), (6, 7), (7, 8), (3, 5, 12)])
@pytest.mark.parametrize("window", [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 1, 2, 2), (5, 3, 2, 1)])
def test_pooling_in_every_type(cuda, dtype, spatial, window):
    kernel, stride, padding, dilation = ((n,) * len(spatial) for n in window)
    reach = (window[0] - 1) * window[3] + 1
    output = tuple((n + 2 * window[2] - reach) // window[1] + 1 for n in spatial)
    if min(output) < 1:
        pytest.skip("no output")
    x = np.round(numbers((2, 3, *spatial), dtype), 1)  # equal values, so that the first of them counts
    x[0, 0] = -np.inf
    geometry = (kernel, stride, padding, dilation)
    y, offsets = cuda.max_pool_forward(x, *geometry, output, True)
    want, expected = reference.max_pool_forward(x.astype(np.float64), *geometry, output, True)
    np.testing.assert_array_equal(y.astype(np.float64), want)
    np.testing.assert_array_equal(offsets, expected)
    g = numbers(y.shape, dtype, 1)
    got = cuda.max_pool_backward(g, offsets, spatial, *geometry)
    check(got, reference.max_pool_backward(wide(g), expected, spatial, *geometry), 4.0)
    x, geometry = numbers(x.shape, dtype, 2), (kernel, stride, padding)
    if window[3] == 1:
        for options in ((True, None), (False, None), (True, 3)):
            check(
                cuda.avg_pool_forward(x, *geometry, output, *options),
                reference.avg_pool_forward(wide(x), *geometry, output, *options),
            )
            got = cuda.avg_pool_backward(g, spatial, *geometry, *options)
            check(got, reference.avg_pool_backward(wide(g), spatial, *geometry, *options), 4.0)
    for pieces in ((1,) * len(spatial), (2,) * len(spatial)):
        got = cuda.adaptive_avg_pool_forward(x, pieces)
        check(got, reference.adaptive_avg_pool_forward(wide(x), pieces), 2.0)

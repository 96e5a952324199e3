"""Normalisation: kernels against their definitions, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import DTYPES, assert_close, backends, load, thread_counts

EPS = 1e-5

# Matrices, small and large inner sizes, one channel, more channels than a tile, one value per channel, more
# than one piece of rows; sizes around the vector width.
BATCH_SHAPES = [
    (2, 3),
    (64, 1),
    (5, 300),
    (300, 17),
    (1, 4, 1, 9),
    (3, 5, 7),
    (4, 3, 2, 2),
    (6, 2, 8),
    (3, 20, 4, 4),
    (2, 3, 15),
    (2, 3, 16),
    (2, 3, 17),
    (2, 3, 33),
    (3, 2, 50, 50),
    (2, 1, 70_000),
    (40, 2, 2000),
    (9, 70, 5, 11),
    # On CUDA: eight and four channels of a block side by side, then more than its registers hold.
    (300, 13),
    (2500, 6),
    (4500, 5),
    (70, 3, 15, 17),
    (300, 2, 8, 8),
]


def arrays(shape, dtype, channels, scale=1.0, offset=0.0):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(channels).astype(dtype) for _ in range(2))
    return (x * dtype(scale) + dtype(offset)).astype(dtype), g, weight, bias


def wide(*values):
    return [v if v is None else v.astype(np.float64) for v in values]


def with_threads(module, compute):
    """The same bits for any number of threads."""
    results = [compute() for _ in thread_counts(module)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return results[0]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", BATCH_SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_kernels(shape, affine, dtype, level):
    module = load(level)
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 3.0)
    if not affine:
        weight = bias = None
    n = x.size // shape[1]
    y, mean, var = with_threads(module, lambda: module.batch_norm_forward(x, weight, bias, EPS))
    want_y, want_mean, want_var = reference.batch_norm_forward(*wide(x, weight, bias), EPS)
    assert_close(y, want_y, reduction=n)
    # float64 statistics of values that themselves are only dtype.
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, want_mean, rtol=0, atol=8 * eps * np.sqrt(n))
    np.testing.assert_allclose(var, want_var, rtol=8 * eps * np.sqrt(n), atol=eps)
    for training in (True, False):
        arguments = (mean, var, EPS, training, True, True, True)
        got = with_threads(module, lambda a=arguments: module.batch_norm_backward(g, x, weight, *a))
        want = reference.batch_norm_backward(*wide(g, x, weight), want_mean, want_var, *arguments[2:])
        # Sums over n values times 1 / sqrt(var + eps); with one or two values per channel that is large.
        scale = 1 / np.sqrt(want_var.min() + EPS) * (1 + np.abs(want[1]).max())
        for a, b in zip(got, want, strict=True):
            assert_close(a, b, reduction=n, scale=max(1, np.abs(b).max(), scale))
    got = module.batch_norm_backward(g, x, weight, mean, var, EPS, True, False, True, False)
    assert got[0] is None
    assert got[2] is None
    running = [v.astype(dtype) for v in (mean, var)]
    assert_close(
        module.batch_norm_inference(x, *running, weight, bias, EPS),
        reference.batch_norm_inference(*wide(x, *running, weight, bias), EPS),
        factor=64,
    )


ROWS = [
    (1, 1),
    (3, 1),
    (5, 2),
    (4, 7),
    (3, 8),
    (2, 15),
    (3, 16),
    (3, 17),
    (2, 31),
    (2, 33),
    (700, 64),
    (130, 768),
]
ROWS += [(2, 5000), (1, 20_000), (9, 20_000), (0, 5), (1000, 3)]
# Lanes of a warp that hold 8, 16, 24 or 32 values on CUDA, moved by packs or one by one.
ROWS += [(40, 200), (35, 300), (34, 512), (33, 509), (20, 601), (5, 1000), (3, 1023), (6, 1024), (6, 2048)]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "length"), ROWS)
@pytest.mark.parametrize("affine", [True, False])
def test_layer_and_rms_norm_kernels(rows, length, affine, dtype, level):
    module = load(level)
    x, g, weight, bias = arrays((rows, length), dtype, length, 2.0, 3.0)
    if not affine:
        weight = bias = None
    y, mean, var = with_threads(module, lambda: module.layer_norm_forward(x, weight, bias, length, EPS))
    want_y, want_mean, want_var = reference.layer_norm_forward(*wide(x, weight, bias), length, EPS)
    # A row of a few numbers may have a tiny variance: 1 / sqrt(var + eps) multiplies what rounding does to x
    # - mean,
    # and does so again in the gradient.
    r = 1 / np.sqrt(want_var.min(initial=1.0) + EPS)
    assert_close(y, want_y, reduction=length, scale=4 * r)
    np.testing.assert_allclose(mean, want_mean, rtol=0, atol=16 * np.finfo(dtype).eps * np.sqrt(length))
    got = with_threads(
        module, lambda: module.layer_norm_backward(g, x, weight, mean, var, length, EPS, True, True, True)
    )
    want = reference.layer_norm_backward(
        *wide(g, x, weight), want_mean, want_var, length, EPS, True, True, True
    )
    assert_close(got[0], want[0], reduction=length, scale=4 * r * r)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert_close(a, b, reduction=rows, scale=max(1, np.abs(b).max(initial=0)))

    y, square = with_threads(module, lambda: module.rms_norm_forward(x, weight, length, EPS))
    want_y, want_square = reference.rms_norm_forward(*wide(x, weight), length, EPS)
    assert_close(y, want_y, reduction=length)
    got = module.rms_norm_backward(g, x, weight, square, length, EPS, True, True)
    want = reference.rms_norm_backward(*wide(g, x, weight), want_square, length, EPS, True, True)
    assert_close(
        got[0], want[0], reduction=length, scale=max(1, 1 / np.sqrt(want_square.min(initial=1.0) + EPS))
    )
    assert_close(got[1], want[1], reduction=rows, scale=max(1, np.abs(want[1]).max(initial=0)))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 6), 3),
        ((64, 32), 8),
        ((3, 4, 5), 4),
        ((2, 6, 4, 4), 2),
        ((1, 8, 17), 1),
        ((5, 32, 7, 7), 8),
        ((2, 4, 3000), 2),
        ((2, 6, 8500), 2),  # long rows: by planes, or slices of them, on a GPU
        ((3, 120, 300), 2),
        ((1, 70, 9, 33), 1),
        ((2, 2, 130, 131), 2),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_kernels(shape, groups, affine, dtype, level):
    module = load(level)
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 3.0)
    if not affine:
        weight = bias = None
    n = x.size // (shape[0] * groups)
    y, mean, var = with_threads(module, lambda: module.group_norm_forward(x, weight, bias, groups, EPS))
    want_y, want_mean, want_var = reference.group_norm_forward(*wide(x, weight, bias), groups, EPS)
    assert mean.shape == (shape[0], groups)
    assert_close(y, want_y, reduction=n)
    np.testing.assert_allclose(mean, want_mean, rtol=0, atol=16 * np.finfo(dtype).eps * np.sqrt(n))
    arguments = (groups, EPS, True, True, True)
    got = with_threads(module, lambda: module.group_norm_backward(g, x, weight, mean, var, *arguments))
    want = reference.group_norm_backward(*wide(g, x, weight), want_mean, want_var, *arguments)
    scale = 1 / np.sqrt(want_var.min() + EPS)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, reduction=n, scale=max(1, np.abs(b).max(), scale))
    for only in range(3):  # as the first pass and the last one are shared
        wanted = [i == only for i in range(3)]
        alone = module.group_norm_backward(g, x, weight, mean, var, groups, EPS, *wanted)
        assert [a is not None for a in alone] == wanted
        assert_close(alone[only], got[only], reduction=n, scale=max(1, np.abs(got[only]).max(), scale))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 3, 1), (2, 20, 9, 9), (3, 1, 65), (2, 4)])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_local_response_kernels(shape, size, dtype, level):
    module = load(level)
    x, g, _, _ = arrays(shape, dtype, 1, 2.0)
    for options in ((1e-4, 0.75, 1.0), (0.9, 0.5, 2.0)):
        y = module.local_response_norm_forward(x, size, *options)
        assert_close(y, reference.local_response_norm_forward(*wide(x), size, *options), reduction=size)
        grad_x = with_threads(module, lambda o=options: [module.local_response_norm_backward(g, x, size, *o)])
        want = reference.local_response_norm_backward(*wide(g, x), size, *options)
        assert_close(grad_x[0], want, reduction=size)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("offset", [1e3, 1e4, -3e5])
def test_large_means_in_float32(level, offset):
    """x - mean is right although float32 has few digits left for it; so are the gradients."""
    module = load(level)
    for shape in ((8, 4, 500), (2000, 4), (3, 2, 100, 100), (40, 4, 500), (5000, 4), (2, 40, 500)):
        x, g, weight, bias = arrays(shape, np.float32, shape[1], 1.0, offset)
        y, mean, var = module.batch_norm_forward(x, weight, bias, EPS)
        want_y, want_mean, want_var = reference.batch_norm_forward(*wide(x, weight, bias), EPS)
        np.testing.assert_allclose(mean, want_mean, rtol=1e-9)
        np.testing.assert_allclose(var, want_var, rtol=1e-5)
        np.testing.assert_allclose(y, want_y, rtol=0, atol=2e-5)
        got = module.batch_norm_backward(g, x, weight, mean, var, EPS, True, True, True, True)
        want = reference.batch_norm_backward(
            *wide(g, x, weight), want_mean, want_var, EPS, True, True, True, True
        )
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, np.abs(b).max()))
        flat, length = x.reshape(-1, x.shape[-1]), x.shape[-1]
        y, mean, var = module.layer_norm_forward(flat, None, None, length, EPS)
        np.testing.assert_allclose(
            y, reference.layer_norm_forward(*wide(flat), None, None, length, EPS)[0], rtol=0, atol=2e-5
        )
        y, mean, var = module.group_norm_forward(x, weight, bias, 1, EPS)
        np.testing.assert_allclose(
            y, reference.group_norm_forward(*wide(x, weight, bias), 1, EPS)[0], rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("level", backends(cuda=True))
def test_constant_and_not_finite(level):
    module = load(level)
    x = np.full((4, 3, 20), 7.25, np.float32)
    y, mean, var = module.batch_norm_forward(x, None, None, EPS)
    assert not y.any()
    assert (var == 0).all()
    assert (mean == 7.25).all()
    for bad in (np.nan, np.inf):
        x = np.ones((4, 3, 20), np.float32)
        x[1, 1, 3] = bad
        y, mean, var = module.batch_norm_forward(x, None, None, EPS)
        assert np.isnan(y[:, 1]).all()
        assert np.isfinite(y[:, [0, 2]]).all()
        y, _, _ = module.layer_norm_forward(x, None, None, 20, EPS)
        assert np.isnan(y[1, 1]).all()
        assert np.isfinite(y[0]).all()


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics(dtype, level):
    update = load(level).update_running
    rng = np.random.default_rng(0)
    for channels in (1, 37, 300):
        mean, var = rng.uniform(1, 9, (2, channels))
        for momentum in (0.0, 0.1, 1.0):
            got, want = ([np.linspace(-2, 3, channels).astype(dtype) for _ in range(2)] for _ in range(2))
            counts = np.array(6), np.array(6)
            update(*got, mean, var, momentum, 1.25, counts[0])
            reference.update_running(*want, mean, var, momentum, 1.25, counts[1])
            assert counts[0] == counts[1] == 7
            # Products of float64 up to 12, rounded once more or less with FMA; then to dtype.
            np.testing.assert_allclose(
                got, want, rtol=np.finfo(dtype).eps, atol=4 * 12 * np.finfo(np.float64).eps
            )
            update(None, got[1], mean, var, momentum, 1.25, None)
            reference.update_running(None, want[1], mean, var, momentum, 1.25, None)
            np.testing.assert_allclose(
                got, want, rtol=2 * np.finfo(dtype).eps, atol=8 * 12 * np.finfo(np.float64).eps
            )
    with pytest.raises(ValueError, match=r"of one size|differ in size"):
        update(got[0], None, mean[:3], var[:3], 0.1, 1.0, None)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_strided_input(level):
    module = load(level)
    x, g, weight, bias = arrays((6, 10, 8, 4), np.float64, 5)
    part = (slice(None, None, 2), slice(None, None, -2))
    a, b = x[part], np.ascontiguousarray(x[part])
    for got, want in zip(
        module.batch_norm_forward(a, weight, bias, EPS),
        module.batch_norm_forward(b, weight, bias, EPS),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)
    _, mean, var = module.batch_norm_forward(b, weight, bias, EPS)
    flags = (mean, var, EPS, True, True, True, True)
    for got, want in zip(
        module.batch_norm_backward(g[part], a, weight, *flags),
        module.batch_norm_backward(np.ascontiguousarray(g[part]), b, weight, *flags),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", backends())
def test_kernel_errors(level):
    module = kernels.load(level)
    x, c = np.zeros((2, 3, 4)), np.zeros(3)
    stats = (c, c, EPS)
    for call, text in [
        (lambda: module.batch_norm_forward(np.zeros(3), None, None, EPS), "at least two dimensions"),
        (lambda: module.batch_norm_forward(x, np.zeros(4), None, EPS), "weight must have 3 elements, got 4"),
        (lambda: module.batch_norm_inference(x, c, np.zeros(2), None, None, EPS), "var must have 3 elements"),
        (
            lambda: module.batch_norm_backward(x[:1], x, None, *stats, True, True, True, True),
            "differ in size",
        ),
        (
            lambda: module.batch_norm_backward(x, x, None, np.zeros(2), c, EPS, True, True, True, True),
            "one element per channel",
        ),
        (lambda: module.layer_norm_forward(x, None, None, 5, EPS), "length must divide"),
        (lambda: module.layer_norm_forward(x, None, None, 0, EPS), "length must divide"),
        (lambda: module.layer_norm_forward(x, None, c, 4, EPS), "bias must have 4 elements"),
        (
            lambda: module.layer_norm_backward(x, x, None, c, c, 4, EPS, True, True, True),
            "one element per row",
        ),
        (lambda: module.rms_norm_forward(x, c, 4, EPS), "weight must have 4 elements"),
        (lambda: module.rms_norm_backward(x, x, None, c, 4, EPS, True, True), "one element per row"),
        (lambda: module.group_norm_forward(x, None, None, 2, EPS), "groups must divide"),
        (lambda: module.group_norm_forward(x, None, None, 0, EPS), "groups must divide"),
        (
            lambda: module.group_norm_backward(x, x, None, c, c, 3, EPS, True, True, True),
            "group of every sample",
        ),
        (lambda: module.local_response_norm_forward(x, 0, 1.0, 1.0, 1.0), "size must be positive"),
        (lambda: module.local_response_norm_backward(x[:1], x, 2, 1.0, 1.0, 1.0), "differ in size"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="weight must be float64"):
        module.batch_norm_forward(x, c.astype(np.float32), None, EPS)
    with pytest.raises(TypeError, match="mean must be float64"):
        module.batch_norm_backward(x, x, None, c.astype(np.float32), c, EPS, True, True, True, True)

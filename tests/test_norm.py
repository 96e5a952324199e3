"""Normalisation: kernels against their definitions on every level, functions and layers against torch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import kernels, nn
from fastdl.kernels import reference
from parity import assert_close, backends, check_gradient, load, thread_counts

DTYPES = (np.float32, np.float64)
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
ROWS += [(2, 5000), (1, 20_000), (0, 5), (1000, 3)]


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
    for shape in ((8, 4, 500), (2000, 4), (3, 2, 100, 100)):
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


# Functions and layers ---------------------------------------------------------------------------------


def both(torch, *values, grad=True):
    """The same arrays as tensors of torch and of fastdl."""
    theirs = [None if v is None else torch.from_numpy(v.copy()).requires_grad_(grad) for v in values]
    ours = [None if v is None else fastdl.tensor(v, requires_grad=grad) for v in values]
    return theirs, ours


def compare(theirs, ours, reduction, factor=64.0):
    for a, b in zip(ours, theirs, strict=True):
        if b is not None:
            assert_close(a.grad, b.grad.numpy(), reduction=reduction, factor=factor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 9), (3, 6, 7, 5), (2, 3, 4, 5, 2)])
@pytest.mark.parametrize("affine", ["both", "weight", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_against_torch(shape, affine, training, dtype):
    torch = pytest.importorskip("torch")
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 1.0)
    weight, bias = {"both": (weight, bias), "weight": (weight, None), "none": (None, None)}[affine]
    theirs, ours = both(torch, x, weight, bias)
    running = [np.linspace(-1, 1, shape[1]).astype(dtype), np.linspace(0.5, 2, shape[1]).astype(dtype)]
    their_running, our_running = both(torch, *running, grad=False)
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    want = torch.nn.functional.batch_norm(theirs[0], *their_running, *theirs[1:], **options)
    got = F.batch_norm(ours[0], *our_running, *ours[1:], **options)
    n = x.size // shape[1]
    assert_close(got.detach(), want.detach().numpy(), reduction=n)
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    compare(theirs, ours, n)
    for a, b in zip(our_running, their_running, strict=True):
        assert_close(a, b.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7), 1), ((4, 3, 9), 1), ((4, 3, 9), 2), ((6,), 1), ((2, 3, 4, 5), 3)]
)
@pytest.mark.parametrize("affine", ["both", "weight", "none"])
def test_layer_and_rms_norm_against_torch(shape, axes, affine, dtype):
    torch = pytest.importorskip("torch")
    normalized = shape[len(shape) - axes :]
    x, g, weight, bias = arrays(shape, dtype, normalized, 2.0, 1.0)
    weight, bias = {"both": (weight, bias), "weight": (weight, None), "none": (None, None)}[affine]
    theirs, ours = both(torch, x, weight, bias)
    want = torch.nn.functional.layer_norm(theirs[0], normalized, *theirs[1:], eps=1e-3)
    got = F.layer_norm(ours[0], normalized, *ours[1:], eps=1e-3)
    assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    compare(theirs, ours, x.size)
    for eps in (None, 1e-2):
        theirs, ours = both(torch, x, weight)
        want = torch.nn.functional.rms_norm(theirs[0], normalized, theirs[1], eps)
        got = F.rms_norm(ours[0], normalized, ours[1], eps)
        assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, x.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6, 9), (3, 6, 7, 5), (2, 6)])
def test_group_and_instance_norm_against_torch(shape, dtype):
    torch = pytest.importorskip("torch")
    x, g, weight, bias = arrays(shape, dtype, shape[1], 2.0, 1.0)
    for groups in (1, 2, 3):
        for w, b in ((weight, bias), (weight, None), (None, None)):
            theirs, ours = both(torch, x, w, b)
            want = torch.nn.functional.group_norm(theirs[0], groups, *theirs[1:])
            got = F.group_norm(ours[0], groups, *ours[1:])
            assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
            want.backward(torch.from_numpy(g))
            got.backward(fastdl.tensor(g))
            compare(theirs, ours, x.size, 256.0)
    if len(shape) == 2:
        return
    for use in (True, False):
        theirs, ours = both(torch, x, weight, bias)
        running = [np.linspace(-1, 1, shape[1]).astype(dtype), np.linspace(0.5, 2, shape[1]).astype(dtype)]
        their_running, our_running = both(torch, *running, grad=False)
        options = {"use_input_stats": use, "momentum": 0.2}
        want = torch.nn.functional.instance_norm(theirs[0], *their_running, *theirs[1:], **options)
        got = F.instance_norm(ours[0], *our_running, *ours[1:], **options)
        assert_close(got.detach(), want.detach().numpy(), reduction=x.size)
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, x.size)
        for a, b in zip(our_running, their_running, strict=True):
            assert_close(a, b.numpy())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_local_response_norm_against_torch(size):
    torch = pytest.importorskip("torch")
    for shape in ((2, 7, 5), (2, 5, 4, 3)):
        x, g, _, _ = arrays(shape, np.float64, 1, 3.0)
        theirs, ours = both(torch, x)
        options = {"alpha": 0.3, "beta": 0.6, "k": 1.5}
        want = torch.nn.functional.local_response_norm(theirs[0], size, **options)
        got = F.local_response_norm(ours[0], size, **options)
        assert_close(got.detach(), want.detach().numpy())
        want.backward(torch.from_numpy(g))
        got.backward(fastdl.tensor(g))
        compare(theirs, ours, size)


def test_gradients():
    x, _, weight, bias = arrays((5, 4, 6), np.float64, 4, 1.5, 0.5)
    long_weight, long_bias = arrays((1,), np.float64, 6)[2:]
    mean, var = fastdl.tensor(np.linspace(-1, 1, 4)), fastdl.tensor(np.linspace(0.5, 2, 4))
    check_gradient(lambda *t: F.batch_norm(t[0], None, None, t[1], t[2], training=True), x, weight, bias)
    check_gradient(lambda *t: F.batch_norm(t[0], mean, var, t[1], t[2]), x, weight, bias)
    check_gradient(lambda *t: F.layer_norm(t[0], 6, t[1], t[2]), x, long_weight, long_bias)
    check_gradient(lambda *t: F.rms_norm(t[0], (6,), t[1]), x, long_weight)
    check_gradient(lambda *t: F.group_norm(t[0], 2, t[1], t[2]), x, weight, bias)
    check_gradient(lambda *t: F.instance_norm(t[0], None, None, t[1], t[2]), x, weight, bias)
    check_gradient(lambda t: F.local_response_norm(t, 3, 0.5, 0.7, 1.1), x)
    with fastdl.use_backend("reference"):
        check_gradient(lambda *t: F.batch_norm(t[0], None, None, t[1], t[2], training=True), x, weight, bias)
        check_gradient(lambda *t: F.layer_norm(t[0], 6, t[1], t[2]), x, long_weight, long_bias)


LAYERS = [
    ("BatchNorm1d", (5,), {}, (7, 5)),
    ("BatchNorm1d", (5,), {"momentum": None}, (7, 5, 3)),
    ("BatchNorm2d", (5,), {"eps": 1e-3, "bias": False}, (4, 5, 3, 2)),
    ("BatchNorm2d", (5,), {"affine": False, "track_running_stats": False}, (4, 5, 3, 2)),
    ("BatchNorm3d", (5,), {"momentum": 0.4}, (4, 5, 3, 2, 2)),
    ("InstanceNorm1d", (5,), {}, (4, 5, 6)),
    ("InstanceNorm1d", (5,), {}, (5, 6)),
    ("InstanceNorm2d", (5,), {"affine": True, "track_running_stats": True}, (4, 5, 3, 2)),
    ("InstanceNorm3d", (5,), {"affine": True, "bias": False}, (4, 5, 3, 2, 2)),
    ("LayerNorm", (6,), {}, (4, 6)),
    ("LayerNorm", ((2, 3),), {"bias": False}, (4, 2, 3)),
    ("LayerNorm", ([6],), {"elementwise_affine": False}, (4, 6)),
    ("RMSNorm", (6,), {}, (4, 6)),
    ("RMSNorm", ((2, 3),), {"eps": 1e-4, "elementwise_affine": False}, (4, 2, 3)),
    ("GroupNorm", (2, 6), {}, (4, 6, 3)),
    ("GroupNorm", (3, 6), {"bias": False}, (4, 6, 3)),
    ("GroupNorm", (3, 6), {"affine": False}, (4, 6, 3)),
    ("LocalResponseNorm", (3,), {"alpha": 0.1}, (4, 6, 3)),
]


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS)
def test_layers_against_torch(name, args, options, shape):
    """Three steps of training, then evaluation; state and text are torch's."""
    torch = pytest.importorskip("torch")
    theirs, ours = getattr(torch.nn, name)(*args, **options), getattr(nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for mode in (True, True, True, False):
        theirs.train(mode)
        ours.train(mode)
        x = (rng.standard_normal(shape) * 2 + 1).astype(np.float32)
        want = theirs(torch.from_numpy(x.copy())).detach().numpy()
        assert_close(ours(fastdl.tensor(x)).detach(), want, reduction=16)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value.numpy())
    fresh = getattr(nn, name)(*args, **options)
    fresh.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    fresh.eval()
    assert_close(fresh(fastdl.tensor(x)).detach(), want, reduction=16)
    if hasattr(fresh, "reset_parameters"):
        fresh.reset_parameters()
        for key, value in getattr(torch.nn, name)(*args, **options).state_dict().items():
            np.testing.assert_array_equal(fresh.state_dict()[key].numpy(), value.numpy())


def test_old_checkpoint_without_counter():
    layer = nn.BatchNorm2d(3)
    state = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    layer.load_state_dict(state)
    nn.Sequential(layer).load_state_dict({f"0.{k}": v for k, v in state.items()})


def test_statistics_move_before_backward():
    """Evaluation, then a training step, then backward of the evaluation: it uses what was used forward."""
    layer = nn.BatchNorm1d(2)
    layer.eval()
    x = fastdl.tensor(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), requires_grad=True)
    y = layer(x)
    layer.train()
    layer(fastdl.tensor(np.array([[9.0, 2.0], [3.0, 55.0]], np.float32)))
    y.backward(fastdl.ones(2, 2))
    np.testing.assert_allclose(x.grad.numpy(), 1 / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_changed_input_is_noticed():
    x = F.leaky_relu(fastdl.ones(4, 3, requires_grad=True), 0.5)
    y = F.layer_norm(x, 3)
    F.relu(x, inplace=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(fastdl.ones(4, 3))


def test_empty():
    for shape in ((0, 3, 2), (2, 3, 0)):
        x = fastdl.zeros(shape, requires_grad=True)
        layer = nn.BatchNorm1d(3)
        y = layer(x)
        y.backward(fastdl.zeros(shape))
        assert y.shape == shape
        assert layer.weight.grad.tolist() == [0, 0, 0]
        assert layer.running_mean.tolist() == [0, 0, 0]
        assert layer.eval()(x).shape == shape
        assert F.group_norm(x, 3).shape == shape
    assert F.layer_norm(fastdl.zeros(3, 0), 0).shape == (3, 0)
    assert F.layer_norm(fastdl.zeros(0, 3), 3).shape == (0, 3)
    assert F.rms_norm(fastdl.zeros(0, 3), 3).shape == (0, 3)


def test_messages():
    x, c = fastdl.ones(2, 3, 4), fastdl.ones(3)
    one = fastdl.ones(1, 3)
    for text, call in [
        (
            r"Expected more than 1 value per channel .* \(1, 3\)",
            lambda: F.batch_norm(one, c, c, training=True),
        ),
        (r"Expected more than 1 value per channel", lambda: nn.BatchNorm1d(3)(one)),
        (r"BatchNorm2d: expected 4D input \(got 3D input\)", lambda: nn.BatchNorm2d(3)(x)),
        (r"BatchNorm1d: expected 2D or 3D input", lambda: nn.BatchNorm1d(3)(c)),
        (r"running_mean must have one element .* 3 channels", lambda: nn.BatchNorm1d(4, affine=False)(x)),
        (r"batch_norm: weight must have one element", lambda: F.batch_norm(x, c, c, fastdl.ones(4))),
        (r"must be given when training is False", lambda: F.batch_norm(x, None, None)),
        (r"eps must be positive .* got 0", lambda: nn.BatchNorm1d(3, eps=0.0)(x)),
        (r"eps must be positive .* got -1", lambda: F.batch_norm(x, c, c, eps=-1.0)),
        (r"batch_norm: input must be \(N, C, ...\), got shape \(3,\)", lambda: F.batch_norm(c, c, c)),
        (
            r"layer_norm: the last axes .* normalized_shape=\(3,\), got .* \(2, 3, 4\)",
            lambda: F.layer_norm(x, 3),
        ),
        (r"layer_norm: weight must have shape normalized_shape=\(4,\)", lambda: F.layer_norm(x, 4, c)),
        (r"layer_norm: normalized_shape must name", lambda: F.layer_norm(x, ())),
        (r"rms_norm: the last axes", lambda: F.rms_norm(x, (2, 3))),
        (r"group_norm: num_groups must divide", lambda: F.group_norm(x, 2)),
        (r"group_norm: Expected more than 1 value", lambda: F.group_norm(one, 3)),
        (r"GroupNorm: num_channels \(4\) must be divisible", lambda: nn.GroupNorm(3, 4)),
        (r"InstanceNorm2d: expected 3D or 4D input", lambda: nn.InstanceNorm2d(3)(c)),
        (r"InstanceNorm1d: expected input's size at dim=1", lambda: nn.InstanceNorm1d(4, affine=True)(x)),
        (r"more than 1 spatial element", lambda: nn.InstanceNorm1d(3)(fastdl.ones(2, 3, 1))),
        (r"must be given when use_input_stats", lambda: F.instance_norm(x, use_input_stats=False)),
        (r"local_response_norm: input must be", lambda: F.local_response_norm(one, 3)),
        (r"local_response_norm: size must be positive", lambda: F.local_response_norm(x, 0)),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match=r"^batch_norm: weight must be float64"):
        F.batch_norm(x.double(), None, None, c, training=True)
    with pytest.raises(TypeError, match="float32 or float64"):
        F.layer_norm(fastdl.tensor([[1, 2]]), 2)

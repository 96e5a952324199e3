"""Dropout: the mask is the definition's on every level, for any number of threads, in both directions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import kernels, nn
from fastdl.kernels import reference
from parity import DTYPES, assert_close, backends, load, thread_counts

LENGTHS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 1000)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_kernel(p, dtype, level):
    module = load(level)
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
    for _ in thread_counts(module):
        np.testing.assert_array_equal(module.dropout_forward(x, 0.3, 1.0, 9, 4), kept)
    assert abs(np.mean(kept) - 0.7) < 4 * np.sqrt(0.21 / n)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nan_and_infinity(level):
    """x * 0 and x * scale, as in torch: what is dropped is not forgotten when it was not finite."""
    module = load(level)
    x = np.tile(np.array([np.nan, np.inf, -np.inf, 1.0]), 50)
    y = module.dropout_forward(x, 0.5, 2.0, 1, 1)
    np.testing.assert_array_equal(y, reference.dropout_forward(x, 0.5, 2.0, 1, 1))
    assert np.isnan(y[0::4]).all()


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rrelu_kernel(dtype, level):
    module = load(level)
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


# Functions and layers ---------------------------------------------------------------------------------


def test_gradient_has_the_mask():
    x = fastdl.tensor(np.full((50, 40), 3.0, np.float32), requires_grad=True)
    y = F.dropout(x, 0.3)
    y.backward(fastdl.ones(50, 40))
    np.testing.assert_allclose(x.grad.numpy() * 3, y.detach().numpy(), rtol=1e-6)
    assert set(np.unique(x.grad.numpy())) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs(np.mean(x.grad.numpy() == 0) - 0.3) < 0.05


def test_same_seed_same_mask():
    x = fastdl.ones(1000)
    fastdl.manual_seed(11)
    first, second = F.dropout(x), F.dropout(x)
    assert not np.array_equal(first.numpy(), second.numpy())
    fastdl.manual_seed(11)
    np.testing.assert_array_equal(F.dropout(x).numpy(), first.numpy())
    state = fastdl.get_rng_state()
    third = F.dropout(x)
    fastdl.set_rng_state(state)
    np.testing.assert_array_equal(F.dropout(x).numpy(), third.numpy())
    fastdl.manual_seed(11)
    with fastdl.use_backend("reference"):
        np.testing.assert_array_equal(F.dropout(x).numpy(), first.numpy())


def test_backward_on_another_backend():
    """The mask is no array that could be lost: a graph made by one backend is walked by another."""
    x = fastdl.tensor(np.full(500, 2.0), requires_grad=True)
    y = F.dropout(x, 0.5)
    with fastdl.use_backend("reference"):
        y.backward(fastdl.ones(500, dtype=fastdl.float64))
    np.testing.assert_array_equal(x.grad.numpy() * 2, y.detach().numpy())


SHAPES = [
    ("dropout1d", (30, 7), 1),
    ("dropout1d", (8, 9, 7), 2),
    ("dropout2d", (8, 9, 5, 3), 2),
    ("dropout2d", (8, 9, 5), 2),
    ("dropout2d", (8, 9), 2),
    ("dropout3d", (40, 4, 3, 2), 1),
    ("dropout3d", (8, 9, 4, 3, 2), 2),
    ("feature_alpha_dropout", (8, 9, 4), 2),
]


@pytest.mark.parametrize(("name", "shape", "axes"), SHAPES)
def test_channels_drop_as_a_whole(name, shape, axes):
    """The axes that name a channel are torch's, odd cases included."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = getattr(F, name)(fastdl.ones(shape), 0.5, True).numpy()
        theirs = getattr(torch.nn.functional, name)(torch.ones(shape), 0.5, True).numpy()
    for y in (ours, theirs):
        rows = y.reshape(int(np.prod(shape[:axes])), -1)
        assert (rows == rows[:, :1]).all()
        assert len(np.unique(rows)) == 2
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-5, atol=1e-6)


def test_alpha_dropout():
    """Mean and variance of standard normal input stay; the two affine forms are torch's."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(200_000)
    y = F.alpha_dropout(fastdl.tensor(x), 0.3, True).numpy()
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02
    ones = F.alpha_dropout(fastdl.ones(1000), 0.3, True).numpy()
    theirs = torch.nn.functional.alpha_dropout(torch.ones(1000), 0.3, True).numpy()
    np.testing.assert_allclose(np.unique(ones), np.unique(theirs), rtol=1e-5)
    x = fastdl.ones(1000, requires_grad=True)
    F.alpha_dropout(x, 0.3, True).backward(fastdl.ones(1000))
    assert len(np.unique(x.grad.numpy())) == 2
    assert 0 in x.grad.numpy()
    assert F.alpha_dropout(fastdl.ones(3), 1.0, True).tolist() == [0, 0, 0]


def test_edges():
    x = fastdl.tensor(np.arange(1.0, 7.0), requires_grad=True)
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert F.feature_alpha_dropout(x, 0.5, training=False) is x  # although it has no channels
    y = F.dropout(x, 1.0)
    y.backward(fastdl.ones(6, dtype=fastdl.float64))
    assert not y.detach().numpy().any()
    assert not x.grad.numpy().any()
    assert F.dropout(fastdl.ones(0, 3)).shape == (0, 3)
    assert F.dropout(fastdl.tensor(2.0), 0.5).numpy() in (0.0, 4.0)
    strided = fastdl.ones(6, 8).t()
    assert F.dropout(strided, 0.5).shape == (8, 6)


def test_inplace():
    x = fastdl.ones(1000)
    array = x.numpy()
    assert F.dropout(x, 0.4, inplace=True) is x
    assert set(np.unique(array)) == {np.float32(0), np.float32(1 / 0.6)}
    leaf = fastdl.ones(100, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        F.dropout(leaf, inplace=True)
    middle = F.leaky_relu(leaf, 1.0)
    F.dropout(middle, 0.4, inplace=True)
    middle.backward(fastdl.ones(100))
    np.testing.assert_array_equal(leaf.grad.numpy(), middle.detach().numpy())


@pytest.mark.parametrize(
    "name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
)
def test_layers(name):
    torch = pytest.importorskip("torch")
    for options in ({}, {"p": 0.2}, {"p": 0.2, "inplace": True}):
        layer = getattr(nn, name)(**options)
        assert repr(layer) == repr(getattr(torch.nn, name)(**options))
    shape = {"Dropout1d": (4, 50, 3), "Dropout2d": (4, 50, 3, 3), "Dropout3d": (4, 50, 3, 3, 3)}.get(
        name, (4, 50)
    )
    x = fastdl.ones(shape)
    assert len(np.unique(getattr(nn, name)(0.5)(x).numpy())) == 2
    assert getattr(nn, name)(0.5).eval()(x) is x
    with pytest.raises(ValueError, match=f"{name}: p, .* between 0 and 1, got 1.5"):
        getattr(nn, name)(1.5)


def test_messages():
    x = fastdl.ones(3)
    for call in (
        lambda: F.dropout(x, -0.1),
        lambda: F.dropout(x, float("nan")),
        lambda: F.dropout(x, 1.5, training=False),
    ):
        with pytest.raises(ValueError, match="dropout: p, the probability"):
            call()
    with pytest.raises(ValueError, match=r"dropout1d: input must be \(N, C, L\)"):
        F.dropout1d(x)
    with pytest.raises(ValueError, match="dropout2d: input must have at least two dimensions"):
        F.dropout2d(x)
    with pytest.warns(UserWarning, match="dropout2d: expected an input"):
        F.dropout2d(fastdl.ones(2, 3, 4))
    with pytest.warns(UserWarning, match="dropout3d: expected an input"):
        F.dropout3d(fastdl.ones(2, 3, 4))
    with pytest.raises(TypeError, match="float32 or float64"):
        F.dropout(fastdl.tensor([1, 2]))

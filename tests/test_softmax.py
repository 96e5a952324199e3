"""Softmax, log_softmax and softmin: kernels against the reference on every level, functions against torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels, nn
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import DTYPES, THREADS, assert_close, backends, check_gradient, load, thread_counts

# shape, dim: rows (the last dimension) and columns, lengths around vector widths and blocks, empty ones
SHAPES = [
    ((1,), 0),
    ((5,), 0),
    ((4, 1), 1),
    ((3, 2), 1),
    ((7, 7), 1),
    ((5, 15), 1),
    ((5, 16), 1),
    ((5, 17), 1),
    ((3, 33), 1),
    ((2, 64), 1),
    ((2, 129), 1),
    ((2, 4095), 1),
    ((1, 4097), 1),
    ((3, 20000), 1),
    ((300, 10), 1),
    ((0, 4), 1),
    ((4, 0), 1),
    ((2, 3, 0), 1),
    ((1, 4), 0),
    ((2, 4), 0),
    ((17, 3), 0),
    ((5, 16), 0),
    ((5, 70), 0),
    ((2, 40, 65), 1),
    ((2, 3, 4, 5), 1),
    ((2, 1, 33), 1),
    ((1, 700, 130), 1),
]
KERNELS = ("softmax", "log_softmax")


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_kernel_agrees_with_definition(level, dtype, name, shape, dim):
    rng = np.random.default_rng(0)
    module = load(level)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    y = getattr(module, f"{name}_forward")(x, dim)
    want = getattr(reference, f"{name}_forward")(x.astype(np.float64), dim)
    assert y.dtype == dtype
    assert_close(y, want)
    got = getattr(module, f"{name}_backward")(grad, want.astype(dtype), dim)
    assert_close(
        got,
        getattr(reference, f"{name}_backward")(grad.astype(np.float64), want, dim),
        reduction=shape[dim],
    )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_threads_and_repeats_agree(level, name, dim):
    module = kernels.load(level)
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((2, 60, 70, 41), dtype=np.float32)
    results = []
    for _ in thread_counts(module, (*THREADS, 2)):
        y = getattr(module, f"{name}_forward")(x, dim)
        results.append((y, getattr(module, f"{name}_backward")(g, y, dim)))
    for y, grad in results[1:]:  # no sum crosses threads: the same bits for any number of them
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(grad, results[0][1])


@pytest.mark.parametrize("level", backends())
def test_results_written_around_the_caches(level):
    """Large enough for streaming stores, rows that start at odd addresses."""
    module = kernels.load(level)
    x = np.random.default_rng(2).standard_normal((3003, 2101), dtype=np.float32)
    rows = np.array([0, 1, 17, 1500, 3002])
    for name in KERNELS:
        y = getattr(module, f"{name}_forward")(x, 1)
        want = getattr(reference, f"{name}_forward")(x[rows].astype(np.float64), 1)
        assert_close(y[rows], want)
        grad = getattr(module, f"{name}_backward")(x, y, 1)
        assert_close(
            grad[rows],
            getattr(reference, f"{name}_backward")(x[rows].astype(np.float64), want, 1),
            reduction=2101,
        )


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("n", [3, 16, 50, 5000])
def test_extremes(level, dtype, name, columns, n):
    inf, nan, big = np.inf, np.nan, 0.9 * np.finfo(dtype).max
    tiny = np.finfo(dtype).smallest_subnormal
    rows = [
        np.full(n, -inf),  # NaN
        np.full(n, big),  # uniform
        np.full(n, -big),
        np.full(n, tiny),
        np.linspace(-1e4, 1e4, n),
        np.r_[inf, np.zeros(n - 1)],  # NaN
        np.r_[np.zeros(n - 1), nan],
        np.r_[np.full(n - 1, -inf), nan],
        np.r_[np.full(n - 1, -inf), 1.0],  # one-hot
        np.r_[-inf, np.ones(n - 1)],
        np.r_[big, np.full(n - 1, -big)],
        1e5 + np.random.default_rng(0).standard_normal(n),
    ]
    x = np.array(rows, dtype)
    want = getattr(reference, f"{name}_forward")(x.astype(np.float64), 1)
    function = getattr(load(level), f"{name}_forward")
    got = function(np.ascontiguousarray(x.T), 0).T if columns else function(x, 1)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.isnan(g), np.isnan(w))
        with np.errstate(over="ignore", invalid="ignore"):
            w = w.astype(dtype)
        finite = np.isfinite(w)
        np.testing.assert_array_equal(g[~finite], w[~finite])
        # Near 0 log_softmax is the log of a sum near 1: exact to that sum's last bit, not to its own.
        info = np.finfo(dtype)
        atol = 4 * info.eps if name == "log_softmax" else info.tiny
        np.testing.assert_allclose(g[finite], w[finite], rtol=32 * info.eps, atol=atol)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_a_blocks_of_minus_infinity_before_the_maximum(level):
    """The running maximum starts late: earlier blocks must not have left NaN behind."""
    x = np.full((2, 9000), -np.inf, np.float32)
    x[0, 8999] = 3.0
    x[1, 5000:5002] = 1.0
    y = load(level).log_softmax_forward(x, 1)
    assert y[0, 8999] == 0
    assert_close(y[1, 5000:5002], np.full(2, -np.log(2)))
    columns = load(level).log_softmax_forward(np.ascontiguousarray(x.T), 0).T
    np.testing.assert_allclose(columns, y, rtol=1e-6)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_sum_to_one(level, dtype):
    x = np.random.default_rng(3).standard_normal((11, 50257)).astype(dtype)
    total = load(level).softmax_forward(x, 1).sum(1, dtype=np.float64)
    assert_close(total.astype(dtype), np.ones(11))


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    pick=st.integers(0, 3),
    seed=st.integers(0, 1000),
    double=st.booleans(),
    order=st.permutations(range(4)),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_strides(shape, pick, seed, double, order):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float64 if double else np.float32)
    x = x.transpose([i for i in order if i < x.ndim])[..., ::-1]
    dim = pick % x.ndim
    for name in KERNELS:
        got = getattr(kernels.cpu, f"{name}_forward")(x, dim)
        assert got.flags.c_contiguous
        assert_close(got, getattr(reference, f"{name}_forward")(x.astype(np.float64), dim))


# ------------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin])
@pytest.mark.parametrize(
    ("shape", "dim"), [((4, 7), 1), ((4, 7), 0), ((2, 5, 3), -2), ((6,), 0), ((2, 3, 2, 2), 1)]
)
def test_gradient(function, shape, dim):
    check_gradient(lambda x: function(x, dim), np.random.default_rng(4).standard_normal(shape))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
@pytest.mark.parametrize("dim", [0, 1, -1, None])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4), (2, 3, 4, 5), ()])
@pytest.mark.filterwarnings("ignore:.*dim.*:UserWarning")
def test_against_torch(name, dim, shape):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    ours, theirs = fastdl.from_numpy(x).requires_grad_(), torch.tensor(x, requires_grad=True)
    try:
        want = getattr(torch.nn.functional, name)(theirs, dim)
    except IndexError:
        with pytest.raises(IndexError):
            getattr(F, name)(ours, dim)
        return
    got = getattr(F, name)(ours, dim)
    assert_close(got.detach(), want.detach().numpy())
    g = np.asarray(np.random.default_rng(6).standard_normal(shape), np.float32)
    got.backward(fastdl.from_numpy(g))
    want.backward(torch.tensor(g))
    assert_close(ours.grad, theirs.grad.numpy(), reduction=5)


def test_dtype_converts_first():
    x = fastdl.tensor([1.0, 2.0])
    assert F.softmax(x, 0, dtype=fastdl.float64).dtype == fastdl.float64
    assert F.log_softmax(fastdl.tensor([1, 2]), 0, dtype=fastdl.float32).dtype == fastdl.float32


def test_messages():
    x = fastdl.tensor([[1.0, 2.0]])
    with pytest.raises(
        IndexError, match=r"softmax: dim must be in \[-2, 1\] for a tensor of 2 dimensions, got 2"
    ):
        F.softmax(x, 2)
    with pytest.raises(TypeError, match=r"softmax.*float32 or float64"):
        F.softmax(fastdl.tensor([1, 2]), 0)
    with pytest.raises(ValueError, match=r"Softmax2d: input must be \(N, C, H, W\)"):
        nn.Softmax2d()(x)
    with pytest.warns(UserWarning, match=r"log_softmax: the choice of dim=1 .* pass dim"):
        F.log_softmax(x)


def test_modules():
    x = fastdl.from_numpy(np.random.default_rng(7).standard_normal((2, 3, 4, 5)))
    np.testing.assert_array_equal(nn.Softmax(dim=1)(x).numpy(), F.softmax(x, 1).numpy())
    np.testing.assert_array_equal(nn.LogSoftmax(2)(x).numpy(), F.log_softmax(x, 2).numpy())
    np.testing.assert_array_equal(nn.Softmin(-1)(x).numpy(), F.softmin(x, -1).numpy())
    np.testing.assert_array_equal(nn.Softmax2d()(x).numpy(), F.softmax(x, 1).numpy())
    assert repr(nn.Softmax(dim=1)) == "Softmax(dim=1)"
    assert repr(nn.Softmax2d()) == "Softmax2d()"


def test_methods_and_names():
    x = fastdl.from_numpy(np.random.default_rng(8).standard_normal((3, 4), dtype=np.float32))
    for name in KERNELS:
        want = getattr(F, name)(x, 1).numpy()
        np.testing.assert_array_equal(getattr(x, name)(1).numpy(), want)
        np.testing.assert_array_equal(getattr(fastdl, name)(x, -1).numpy(), want)
        assert getattr(x, name)(0, fastdl.float64).dtype == fastdl.float64


def test_gumbel_softmax():
    """Its argmax draws classes with the probabilities of softmax; hard samples pass the soft gradient on."""
    fastdl.manual_seed(0)
    logits = fastdl.tensor([1.0, 0.0, -1.0, 2.0]).expand(40000, 4)
    soft = F.gumbel_softmax(logits, tau=0.5)
    np.testing.assert_allclose(soft.numpy().sum(1), 1, rtol=1e-5)
    hard = F.gumbel_softmax(logits, hard=True).numpy()
    np.testing.assert_array_equal(np.sort(hard, 1)[:, :3], 0)
    np.testing.assert_array_equal(hard.max(1), 1)
    # Standard deviation of a frequency of 40000 draws: at most 0.0025.
    np.testing.assert_allclose(hard.mean(0), F.softmax(logits[0], 0).numpy(), atol=0.0125)
    for dim in (0, 1, -1):
        weights = fastdl.from_numpy(np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32))
        grads = []
        for hard in (False, True):
            x = fastdl.from_numpy(np.zeros((5, 3), np.float32)).requires_grad_()
            fastdl.manual_seed(3)
            F.gumbel_softmax(x, hard=hard, dim=dim).backward(weights)
            grads.append(x.grad.numpy())
        np.testing.assert_array_equal(grads[0], grads[1])
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        F.gumbel_softmax(logits, tau=0)

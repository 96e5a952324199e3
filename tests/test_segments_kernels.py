"""Segments, counts in bins, cross products: compiled once for all levels; and what half precision adds up."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends, load, on_threads

DTYPES = (np.float32, np.float64)
REDUCE = ("sum", "mean", "max", "min", "prod")


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCE)
def test_segments(level, dtype, reduce):
    k = load(level)
    long = np.array([0, 3, 3, 700, 40_000, 40_001])
    cases = [
        (numbers(40_001, dtype=dtype), long),
        (numbers(700, 40, dtype=dtype), long[:4]),
        (numbers(2, 5, 3, dtype=dtype), np.array([[0, 2, 5], [1, 1, 4]])),
        (numbers(0, 3, dtype=dtype), np.zeros(3, np.int64)),
        (numbers(4, 3, dtype=dtype)[:, ::-1], np.array([0, 4])),
        (np.array([1, np.nan, 0, -np.inf, 0, 2], dtype), np.array([0, 2, 4, 6])),
    ]
    for threads in THREADS:
        with on_threads(k, threads):
            for x, offsets in cases:
                for start, begun in ((1.0, True), ({"max": -np.inf, "min": np.inf}.get(reduce, 0.0), False)):
                    if reduce == "prod":
                        x = (
                            x if x.size < 50 else np.sign(x) + x.dtype.type(0.01) * x
                        )  # no product of thousands leaves the range
                        start = 1.0
                    options = offsets.astype(np.int64), reduce, start
                    want = reference.segment_forward(x, *options, begun)
                    got = k.segment_forward(x, *options, begun)
                    assert_close(got, want, 40_000)
                    if reduce == "prod" and len(x) > 100:
                        continue  # the definition takes the square of the length
                    g = numbers(*want.shape, dtype=dtype, seed=1)
                    want = np.ascontiguousarray(want)
                    gradients = [b.segment_backward(g, x, want, *options) for b in (k, reference)]
                    assert_close(*gradients, 100)


@pytest.mark.parametrize("level", backends())
def test_segments_are_checked(level):
    k, x = load(level), numbers(4)
    for offsets in ([0, 5], [-1, 2], [2, 1], []):
        with pytest.raises(ValueError, match="segment_reduce: offsets"):
            k.segment_forward(x, np.array(offsets, np.int64), "sum", 0.0, False)
    with pytest.raises(ValueError, match="reduce must be"):
        k.segment_forward(x, np.array([0, 4]), "median", 0.0, False)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_in_bins(level, dtype):
    k = load(level)
    for n in (0, 1, 17, 50_000):
        x = np.concatenate([numbers(n, dtype=dtype), np.array([np.nan, np.inf, -1, 0, 1, 2], dtype)])
        for bins in (1, 7, 300):
            edges = np.linspace(-1, 2, bins + 1).astype(dtype)
            for given in (None, edges):
                for threads in THREADS:
                    with on_threads(k, threads):
                        got = k.count_in_bins(x, -1.0, 2.0, bins, given)
                    assert (got == reference.count_in_bins(x, -1.0, 2.0, bins, given)).all()
    with pytest.raises(ValueError, match="low below high"):
        k.count_in_bins(x, 1.0, 1.0, 3, None)
    for low, high in ((-np.inf, 1.0), (0.0, np.inf), (-np.inf, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="finite"):
            k.count_in_bins(x, low, high, 3, None)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3,), 0), ((0, 3), 1), ((5, 3), 1), ((3, 9000), 0), ((9000, 3), 1), ((4, 3, 5), 1)]
)
def test_cross(level, dtype, shape, axis):
    k = load(level)
    x, y = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    for a, b in ((x, y), (x[::-1], y)):
        if a.shape[axis] == 3:
            assert_close(k.cross_forward(a, b, axis), reference.cross_forward(a, b, axis))
    with pytest.raises(ValueError, match="cross: "):
        k.cross_forward(x, y[..., :1], axis)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_and_slopes_of_logit(level, dtype):
    k = load(level)
    x = np.concatenate([numbers(100, dtype=dtype), np.array([0, -0.0, np.inf, -np.inf, np.nan], dtype)])
    assert_close(k.angle_forward(x), reference.angle_forward(x))
    x = np.concatenate([np.random.default_rng(0).random(100), [0, 1, -0.5, 2, np.nan, 0.5]]).astype(dtype)
    g = numbers(len(x), dtype=dtype)
    assert_close(k.logit_backward(g, x), reference.logit_backward(g, x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "width"), [(7, 33), (7, 3000), (30_000, 3), (1, 1)])
def test_half_precision_is_added_up_in_floats_and_rounded_once(dtype, rows, width):
    dtype = getattr(fastdl, dtype)
    index = fastdl.tensor(np.random.default_rng(0).integers(0, rows, 50))
    x, source = fastdl.tensor(numbers(rows, width)), fastdl.tensor(numbers(50, width, seed=1))
    x, source = x.to(dtype), source.to(dtype)
    want = x.float().index_add(0, index, source.float()).to(dtype)
    assert fastdl.equal(x.index_add(0, index, source), want)
    assert fastdl.equal(x.T.index_add(1, index, source.T), want.T)
    weight = x.detach().requires_grad_()
    fastdl.nn.functional.embedding(index, weight).backward(source)
    assert fastdl.equal(weight.grad, fastdl.zeros(rows, width).index_add(0, index, source.float()).to(dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3), (4,)])
def test_nll_loss_of_half_precision_reads_what_it_needs(dtype, reduction, shape):
    dtype = getattr(fastdl, dtype)
    x = fastdl.tensor(numbers(*shape)).to(dtype).requires_grad_()
    classes = shape[1] if len(shape) > 1 else shape[0]
    target = fastdl.tensor(
        np.random.default_rng(1).integers(0, classes, shape[:1] + shape[2:] if len(shape) > 1 else ())
    )
    weight = fastdl.tensor([0.5, 1.0, 2.0, 0.25])
    for w in (None, weight):
        wide = x.detach().float().requires_grad_()
        loss = fastdl.nn.functional.nll_loss
        y = loss(x, target, w if w is None else w.to(dtype), reduction=reduction)
        z = loss(wide, target, w, reduction=reduction)
        assert y.dtype == dtype
        assert fastdl.equal(y, z.to(dtype))
        g = fastdl.ones_like(y)
        (got,), (want,) = fastdl.autograd.grad(y, x, g), fastdl.autograd.grad(z, wide, g.float())
        assert fastdl.equal(got, want.to(dtype))
    with pytest.raises(IndexError, match="out of range"):
        loss(x, target * 0 + 9)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_in_bins_of_the_largest_numbers(level, dtype):
    """Neither the range nor its product with the bins may overflow."""
    most = np.finfo(dtype).max
    for low, high in ((-most, most), (0.0, most), (0.0, most / 50)):
        x = (np.array([0, 0.25, 0.75, 1]) * high + np.array([1, 0.75, 0.25, 0]) * low).astype(dtype)
        for k in (load(level), reference):
            assert k.count_in_bins(x, low, high, 100, None).nonzero()[0].tolist() == [0, 25, 75, 99]


def test_histograms_of_ranges_that_the_dtype_cannot_tell_apart():
    assert fastdl.histogram(fastdl.ones(2), 3, range=(1.0, 1.0 + 1e-9)).hist.sum() == 2
    assert fastdl.histogram(fastdl.tensor([-3e38, 0.0, 3e38]), 4).hist.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("reduce", REDUCE)
def test_no_segments(reduce):
    x = fastdl.zeros(0, 3, requires_grad=True)
    for places in ({"offsets": fastdl.tensor([0])}, {"lengths": fastdl.tensor([], dtype=fastdl.int64)}):
        y = fastdl.segment_reduce(x, reduce, **places)
        assert y.shape == (0, 3)
        y.sum().backward()
        assert x.grad.shape == (0, 3)

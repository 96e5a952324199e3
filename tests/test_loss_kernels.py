"""Kernels of losses against the reference on every level and on CUDA: values, threads, accuracy, memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import DTYPES, THREADS, assert_close, backends, load, thread_counts

REDUCTIONS = ("none", "mean", "sum")
IGNORE = -100


def wide(values: Any) -> Any:
    """Floating arrays in float64, so that the reference is exact next to float32 kernels."""
    return [
        v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype == np.float32 else v for v in values
    ]


@pytest.fixture(params=backends())
def module(request):
    return kernels.load(request.param)


@pytest.fixture(params=backends(cuda=True))
def any_module(request):
    return load(request.param)


# ------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 4), (3, 16), (4, 17), (2, 33), (700, 9), (2, 5000)])
def test_margins_of_classes(any_module, shape, dtype):
    module = any_module
    rng = np.random.default_rng(4)
    rows, classes = shape
    x = rng.standard_normal(shape).astype(dtype)
    target, weight = rng.integers(0, classes, rows), rng.random(classes).astype(dtype)
    grad = rng.standard_normal(rows).astype(dtype)
    for p, w, margin in itertools.product((1, 2), (None, weight), (0.7, -0.2)):
        got = module.multi_margin_loss_forward(x, target, w, p, margin)
        assert_close(
            got, reference.multi_margin_loss_forward(*wide([x, target, w]), p, margin), reduction=classes
        )
        got = module.multi_margin_loss_backward(grad, x, target, w, p, margin)
        want = reference.multi_margin_loss_backward(*wide([grad, x, target, w]), p, margin)
        assert_close(got, want, reduction=classes)
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < 0.3] = -1
    labels[: rows // 2, min(3, classes - 1) :] = -1
    if classes > 100:
        labels[:, 6:] = -1
    got = module.multilabel_margin_loss_forward(x, labels)
    want = reference.multilabel_margin_loss_forward(*wide([x, labels]))
    assert_close(got, want, reduction=classes * classes)
    got = module.multilabel_margin_loss_backward(grad, x, labels)
    want = reference.multilabel_margin_loss_backward(*wide([grad, x, labels]))
    assert_close(got, want, reduction=classes * classes)
    assert got.dtype == dtype


def test_margins_refuse(module):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(IndexError, match=r"target\[1\] = 3 is out of range"):
        module.multi_margin_loss_forward(x, np.array([0, 3]), None, 1, 1.0)
    with pytest.raises(ValueError, match="p must be 1 or 2"):
        module.multi_margin_loss_forward(x, np.array([0, 2]), None, 3, 1.0)
    for label in (-2, 3):
        with pytest.raises(IndexError, match=rf"target\[0, 0\] = {label} is out of range \[-1, 3\)"):
            module.multilabel_margin_loss_forward(x, np.full((2, 3), label))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 2.5, np.inf])
def test_distances_of_rows(module, p, dtype):
    for shape in ((0, 3), (1, 4), (2, 0), (2, 5), (4, 9000), (9, 65), (70, 3), (130, 16), (45, 64)):
        x = np.random.default_rng(5).standard_normal(shape).astype(dtype)
        x[-1:] = x[:1]
        got = module.pdist_forward(x, p)
        assert got.shape == (shape[0] * max(shape[0] - 1, 0) // 2,)
        if got.size:
            assert_close(got, reference.pdist_forward(*wide([x]), p), reduction=shape[1])


CLASS_SHAPES = [
    ((6, 1), 1),
    ((6, 2), 1),
    ((1,), 0),
    ((9,), 0),
    ((5, 15), 1),
    ((5, 16), 1),
    ((5, 17), 1),
    ((3, 65), 1),
    ((2, 4097), 1),
    ((2, 13000), 1),
    ((200, 10), 1),
    ((35, 2), 1),
    ((70, 33), 1),
    ((33, 128), 1),
    ((0, 4), 1),
    ((2, 3, 0), 1),
    ((3, 4, 5), 1),
    ((2, 21, 64), 1),
    ((2, 17, 65), 1),
    ((1, 150, 131), 1),
    ((2, 3, 4, 5), 1),
    ((2, 4, 5, 3), 3),
    ((7, 30), 0),
    ((37, 80), 1),
    ((3, 200, 2), 1),
    ((2, 130, 4), 1),
    ((5000, 2), 0),
]


def class_problem(shape, dim, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    positions = shape[:dim] + shape[dim + 1 :]
    target = np.asarray(rng.integers(0, shape[dim], positions), np.int64)
    some_ignored = np.where(rng.random(positions) < 0.3, IGNORE, target)
    weight = rng.uniform(0.1, 2, shape[dim]).astype(dtype)
    probabilities = rng.random(shape).astype(dtype)
    return x, target, some_ignored, weight, probabilities


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "dim"), CLASS_SHAPES)
def test_softmax_kernels(any_module, dtype, shape, dim):
    x = class_problem(shape, dim, dtype)[0]
    g = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for name in ("softmax", "log_softmax"):
        forward, backward = f"{name}_forward", f"{name}_backward"
        y = getattr(any_module, forward)(x, dim)
        assert y.dtype == dtype
        want = getattr(reference, forward)(x.astype(np.float64), dim)
        assert_close(y, want, reduction=max(shape[dim], 64))
        got = getattr(any_module, backward)(g, y, dim)
        want = getattr(reference, backward)(*wide([g, np.asarray(y)]), dim)
        assert_close(got, want, reduction=max(shape[dim], 64))


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_softmax_over_many_classes_is_accurate(any_module, columns):
    """Equal terms are rounded in one direction: a single chain of additions loses digits."""
    x = np.full((100_003, columns), 0.3, np.float32)
    x[5] = 1
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        any_module.softmax_forward(x, 0), reference.softmax_forward(wide, 0), rtol=2e-6
    )
    want = reference.log_softmax_forward(wide, 0)
    np.testing.assert_allclose(any_module.log_softmax_forward(x, 0), want, rtol=2e-6)


def test_softmax_of_short_rows_and_single_columns_knows_infinities(any_module):
    for shape, dim in (((20, 7), 1), ((130, 2), 0), ((3, 150, 3), 1)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        along = np.moveaxis(x, dim, -1)
        along[..., 3] = -np.inf
        along[0, ..., :] = -np.inf  # a row of nothing: NaN
        along[1, ..., 2] = np.nan
        for name in ("softmax_forward", "log_softmax_forward"):
            with np.errstate(all="ignore"):
                want = getattr(reference, name)(x.astype(np.float64), dim)
            np.testing.assert_allclose(getattr(any_module, name)(x, dim), want, rtol=1e-5, atol=1e-6)


def upstream(loss, seed=1):
    return np.asarray(np.random.default_rng(seed).standard_normal(loss.shape), loss.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("shape", "dim"), CLASS_SHAPES)
def test_cross_entropy_kernels(any_module, dtype, smoothing, shape, dim):
    x, target, some_ignored, weight, _ = class_problem(shape, dim, dtype)
    for labels, w, reduction in itertools.product((target, some_ignored), (None, weight), REDUCTIONS):
        options = (dim, IGNORE, smoothing, reduction)
        loss, statistics, normaliser = any_module.cross_entropy_forward(x, labels, w, *options)
        want = reference.cross_entropy_forward(*wide((x, labels, w)), *options)
        assert loss.dtype == dtype
        assert_close(loss, want[0])
        assert_close(normaliser, want[2], reduction=x.size // max(shape[dim], 1))
        grad_loss = upstream(loss)
        got = any_module.cross_entropy_backward(grad_loss, x, labels, w, statistics, normaliser, *options)
        exact = reference.cross_entropy_backward(*wide((grad_loss, x, labels, w)), want[1], want[2], *options)
        assert_close(got, exact)
        if smoothing == 0 and x.size:
            logp = reference.log_softmax_forward(x, dim)
            nll = (dim, IGNORE, reduction)
            loss, normaliser = any_module.nll_loss_forward(logp, labels, w, *nll)
            assert_close(loss, want[0])
            got = any_module.nll_loss_backward(grad_loss, labels, w, normaliser, shape[dim], *nll)
            assert_close(
                got,
                reference.nll_loss_backward(*wide((grad_loss, labels, w)), want[2], shape[dim], *nll),
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("shape", "dim"), CLASS_SHAPES)
def test_cross_entropy_of_probabilities_kernels(any_module, dtype, smoothing, shape, dim):
    x, _, _, weight, p = class_problem(shape, dim, dtype)
    for w, reduction in itertools.product((None, weight), REDUCTIONS):
        options = (dim, smoothing, reduction)
        loss, statistics = any_module.cross_entropy_probabilities_forward(x, p, w, *options)
        want = reference.cross_entropy_probabilities_forward(*wide((x, p, w)), *options)
        assert_close(loss, want[0], reduction=shape[dim])
        grad_loss = upstream(loss)
        got = any_module.cross_entropy_probabilities_backward(grad_loss, x, p, w, statistics, *options)
        exact = reference.cross_entropy_probabilities_backward(*wide((grad_loss, x, p, w)), want[1], *options)
        assert_close(got, exact, reduction=shape[dim])


# name -> (how to draw its arrays, the options between arrays and reduction, those that backward takes)
POINTWISE: dict[str, tuple[str, list[tuple[Any, ...]], Any]] = {
    "mse_loss": ("xx", [()], None),
    "l1_loss": ("xx", [()], None),
    "smooth_l1_loss": ("xx", [(1.0,), (0.3,)], None),
    "huber_loss": ("xx", [(1.0,), (0.4,)], None),
    "soft_margin_loss": ("xs", [()], None),
    "hinge_embedding_loss": ("xs", [(1.0,), (0.2,)], None),
    "kl_div": ("xp", [(False,), (True,)], None),
    "binary_cross_entropy": ("ppw", [()], None),
    "binary_cross_entropy_with_logits": ("xpww", [()], None),
    "poisson_nll_loss": (
        "pc",
        [(True, False, 1e-8), (True, True, 1e-8), (False, True, 1e-3)],
        lambda options: (options[0], options[2]),
    ),
    "gaussian_nll_loss": ("xxp", [(False, 1e-6), (True, 0.3)], lambda options: options[1:]),
    "margin_ranking_loss": ("xxs", [(0.0,), (0.7,)], None),
}
SIZES = [(), (1,), (15,), (16,), (17,), (3, 64), (5, 13, 7), (2047,), (2049,), (70001,), (0,), (4, 0)]


def draw(kind, shape, dtype, rng):
    if kind == "w":
        return [None, rng.uniform(0.5, 2, shape).astype(dtype), rng.uniform(0.5, 2, shape[1:]).astype(dtype)]
    array = {
        "x": lambda: rng.standard_normal(shape),
        "p": lambda: rng.uniform(0.01, 0.99, shape),
        "s": lambda: rng.choice([-1.0, 1.0], shape),
        "c": lambda: rng.poisson(3.0, shape),
    }[kind]()
    return [np.asarray(array, dtype)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_kernels(any_module, dtype, name):
    kinds, all_options, for_backward = POINTWISE[name]
    rng = np.random.default_rng(0)
    for shape, options, reduction in itertools.product(SIZES, all_options, REDUCTIONS):
        for arrays in itertools.product(*[draw(k, shape, dtype, rng) for k in kinds]):
            loss = getattr(any_module, f"{name}_forward")(*arrays, *options, reduction)
            exact = getattr(reference, f"{name}_forward")(*wide(arrays), *options, reduction)
            assert loss.dtype == dtype
            assert_close(loss, exact)
            g = upstream(loss)
            back = options if for_backward is None else for_backward(options)
            for backward in (f"{name}_backward", f"{name}_backward_variance"):
                if hasattr(any_module, backward):
                    got = getattr(any_module, backward)(g, *arrays, *back, reduction)
                    want = getattr(reference, backward)(*wide((g, *arrays)), *back, reduction)
                    assert_close(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(6, 1), (5, 3), (37, 3), (37, 8), (4, 16), (3, 33), (2, 5000), (0, 4), (4, 0), (2, 3, 17)]
)
def test_distance_kernels(any_module, dtype, shape):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, *shape)).astype(dtype)
    b[..., :1] = a[..., :1]  # a difference of zero
    sums = any_module.row_products_forward(a, b)
    assert_close(sums, reference.row_products_forward(*wide((a, b))), reduction=shape[-1])
    g = rng.standard_normal(sums.shape).astype(dtype)
    for needs in ((True, True), (True, False), (False, True)):
        got = any_module.row_products_backward(g, a, b, needs)
        want = reference.row_products_backward(*wide((g, a, b)), needs)
        for one, other in zip(got, want, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_close(one, other)
    for p in (2.0, 1.0, np.inf, 3.0, 1.5, 0.0):
        for eps in (0.0, 0.25):
            r = any_module.pairwise_distance_forward(a, b, p, eps)
            exact = reference.pairwise_distance_forward(*wide((a, b)), p, eps)
            assert_close(r, exact, reduction=shape[-1])
            g = rng.standard_normal(r.shape).astype(dtype)
            got = any_module.pairwise_distance_backward(g, a, b, r, p, eps)
            with np.errstate(divide="ignore"):
                want = reference.pairwise_distance_backward(g, a, b, r, p, eps)
            assert_close(got, want, reduction=shape[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [2.0, 1.0, np.inf, 3.0, 0.5, 0.0])
def test_distances_of_all_pairs(any_module, dtype, p):
    module = any_module
    rng = np.random.default_rng(0)
    for batch, count1, count2, n in (
        *((1, 1, 1, 1), (2, 3, 5, 3), (1, 40, 33, 2), (3, 17, 64, 5), (1, 70, 65, 100), (1, 300, 200, 7)),
        *((1, 3, 0, 2), (0, 2, 2, 2), (2, 0, 3, 1)),
    ):
        a = rng.standard_normal((batch, count1, n)).astype(dtype)
        b = rng.standard_normal((batch, count2, n)).astype(dtype)
        if count1 and count2:
            a[:, 0] = b[:, -1]  # a distance of zero
            a[:, -1:, :1] = b[:, :1, :1]  # a difference of zero
        r = module.cdist_forward(a, b, p)
        assert_close(r, reference.cdist_forward(*wide((a, b)), p), reduction=n)
        g = rng.standard_normal(r.shape).astype(dtype)
        got = module.cdist_backward(g, a, b, r, p)
        assert_close(got, reference.cdist_backward(g, a, b, r, p), reduction=n * max(count2, 1))
        turned = module.cdist_backward(g.swapaxes(1, 2), b, a, r.swapaxes(1, 2), p)
        want = reference.cdist_backward(g.swapaxes(1, 2), b, a, r.swapaxes(1, 2), p)
        assert_close(turned, want, reduction=n * max(count1, 1))
    a, b = np.ones((2, 1, 3, 2), dtype)
    missing = np.array([[[1, np.nan], [2, 3]]], dtype)
    got = module.cdist_forward(missing, np.zeros_like(missing), p)
    np.testing.assert_array_equal(np.isnan(got), [[[p != 0] * 2, [False] * 2]])
    for wrong in ((a, b[..., :1]), (a[0], b[0]), (a, np.zeros((5, 1, 2), dtype))):
        with pytest.raises(ValueError, match="cdist: x1 and x2 must have shapes"):
            module.cdist_forward(*wrong, p)
    with pytest.raises(ValueError, match="cdist: p must not be negative"):
        module.cdist_forward(missing, missing, -1.0)
    with pytest.raises(ValueError, match="grad_distance and distance must have shape"):
        module.cdist_backward(got[:, :1], missing, missing, got, p)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("frames", "batch", "classes", "longest"), [(1, 1, 2, 1), (12, 4, 5, 5), (40, 3, 30, 18)]
)
def test_ctc_kernels(any_module, dtype, frames, batch, classes, longest):
    rng = np.random.default_rng(0)
    for blank in (0, classes - 1):
        x = reference.log_softmax_forward(rng.standard_normal((frames, batch, classes)), 2)
        labels = rng.choice([c for c in range(classes) if c != blank], (batch, longest))
        inputs, lengths = rng.integers(1, frames + 1, batch), rng.integers(0, longest + 1, batch)
        arguments = (labels, inputs, lengths)
        loss, alpha = any_module.ctc_loss_forward(x.astype(dtype), *arguments, blank)
        want, want_alpha = reference.ctc_loss_forward(x, *arguments, blank)
        assert_close(loss, want, reduction=frames)
        g = rng.standard_normal(batch)
        for zero in (False, True):
            got = any_module.ctc_loss_backward(
                g.astype(dtype), x.astype(dtype), *arguments, loss, alpha, blank, zero
            )
            exact = reference.ctc_loss_backward(g, x, *arguments, want, want_alpha, blank, zero)
            assert_close(got, exact, reduction=frames, factor=64)


def test_threads_and_repeats_agree(module):
    """Same bits on the same number of threads; on others the sums over chunks may differ in the last bit."""
    x, target, labels, weight, p = class_problem((300, 211), 1, np.float32)
    results = {}
    for threads in thread_counts(module):
        for run in range(2):
            loss, *saved = module.cross_entropy_forward(x, labels, weight, 1, IGNORE, 0.1, "mean")
            grad = module.cross_entropy_backward(loss, x, labels, weight, *saved, 1, IGNORE, 0.1, "mean")
            squares = module.mse_loss_forward(x, p, "sum")
            nll = module.nll_loss_forward(x, target, None, 1, IGNORE, "mean")[0]
            results[threads, run] = (loss, grad, squares, nll)
    for threads in THREADS:
        for one, other in zip(results[threads, 0], results[threads, 1], strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(results[threads, 0], results[1, 0], strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6)


def test_large_sums_stay_accurate(module):
    """Ten million equal float32 terms, whose roundings all go one way: at most 32 of them add up in a
    lane."""
    n = 10_000_000
    x = np.full(n, 0.1, np.float32)
    total = module.l1_loss_forward(x, np.zeros_like(x), "sum")
    np.testing.assert_allclose(total, np.float64(np.float32(0.1)) * n, rtol=16 * np.finfo(np.float32).eps)
    total = module.cross_entropy_forward(
        np.zeros((400_000, 3), np.float32), np.zeros(400_000, np.int64), None, 1, IGNORE, 0.0, "sum"
    )[0]
    np.testing.assert_allclose(total, 400_000 * np.log(3), rtol=2e-7)


@pytest.mark.parametrize("columns", [False, True])
def test_cross_entropy_keeps_digits_of_shifted_logits(any_module, columns):
    """A common offset of all logits changes nothing but the logits' own rounding."""
    rng = np.random.default_rng(0)
    x = (rng.integers(-40, 40, (50, 37)) / 8).astype(np.float32)
    target = rng.integers(0, 37, 50)
    for smoothing in (0.0, 0.3):
        results = []
        for offset in (0, 65536):
            y, dim = x + np.float32(offset), 1
            if columns:
                y, dim = np.ascontiguousarray(y.T), 0
            loss, *saved = any_module.cross_entropy_forward(y, target, None, dim, IGNORE, smoothing, "none")
            grad = any_module.cross_entropy_backward(
                loss, y, target, None, *saved, dim, IGNORE, smoothing, "none"
            )
            results.append((loss, grad))
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
        np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("times", [1, 3])  # 24 rows: side by side
def test_cross_entropy_extremes(any_module, times):
    inf, nan = np.inf, np.nan
    big = np.float32(3e38)
    x = np.array(
        [
            [big, -big, 0],  # far above exp's overflow: certain and right
            [big, -big, 0],  # certain and wrong
            [-inf, 0, 0],  # an impossible class that is not the target
            [-inf, 0, 0],  # ... that is
            [-inf, -inf, -inf],  # nothing possible
            [inf, 0, 0],
            [nan, 0, 0],
            [1e-40, 0, -1e-40],
        ],
        np.float32,
    )
    target = np.array([0, 1, 1, 0, 0, 0, 2, 2])
    x, target = np.tile(x, (times, 1)), np.tile(target, times)
    with np.errstate(over="ignore"):
        want = -np.take_along_axis(
            reference.log_softmax_forward(x.astype(np.float64), 1), target[:, None], 1
        )[:, 0].astype(np.float32)
    for y, dim in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        loss, *saved = any_module.cross_entropy_forward(y, target, None, dim, IGNORE, 0.0, "none")
        np.testing.assert_allclose(loss, want, rtol=1e-6)
        grad = any_module.cross_entropy_backward(
            np.ones(8 * times, np.float32), y, target, None, *saved, dim, IGNORE, 0.0, "none"
        )
        grad = grad if dim == 1 else grad.T
        np.testing.assert_array_equal(grad[:3], [[0, 0, 0], [1, -1, 0], [0, -0.5, 0.5]])
        np.testing.assert_array_equal(np.isnan(grad[4:7]).all(1), True)
        # Ignored rows are silent, whatever they hold.
        ignored = np.full(8 * times, IGNORE)
        loss, *saved = any_module.cross_entropy_forward(y, ignored, None, dim, IGNORE, 0.0, "mean")
        assert np.isnan(loss)
        grad = any_module.cross_entropy_backward(loss, y, ignored, None, *saved, dim, IGNORE, 0.0, "mean")
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_allocates_nothing_of_the_logits_size(module, smoothing):
    x = np.random.default_rng(0).standard_normal((512, 4096), dtype=np.float32)
    target = np.arange(512)
    options = (1, IGNORE, smoothing, "mean")
    module.cross_entropy_forward(x, target, None, *options)  # warm
    start = module.memory_stats()["in_use"]
    same_size = module.empty(x.shape, x.dtype)
    block = module.memory_stats()["in_use"] - start  # what the pool hands out for a gradient
    del same_size
    module.reset_peak_memory_stats()
    loss, *saved = module.cross_entropy_forward(x, target, None, *options)
    assert module.memory_stats()["in_use_peak"] - start < x.nbytes // 64
    grad = module.cross_entropy_backward(loss, x, target, None, *saved, *options)
    assert grad.nbytes <= module.memory_stats()["in_use_peak"] - start < block + x.nbytes // 64


def test_whole_training_loss_allocates_only_the_gradient():
    module = kernels.cpu
    logits = fastdl.from_numpy(np.zeros((512, 4096), np.float32)).requires_grad_()
    target = fastdl.from_numpy(np.arange(512))
    start = module.memory_stats()["in_use"]
    same_size = module.empty((512, 4096), np.dtype(np.float32))
    block = module.memory_stats()["in_use"] - start
    del same_size
    module.reset_peak_memory_stats()
    F.cross_entropy(logits, target).backward()
    assert module.memory_stats()["in_use_peak"] - start < block + block // 64


def test_margins_of_what_is_no_number():
    inf, nan = float("inf"), float("nan")
    multi, multilabel = fastdl.nn.functional.multi_margin_loss, fastdl.nn.functional.multilabel_margin_loss
    first, label = fastdl.tensor([0]), fastdl.tensor([[0, -1, -1]])
    assert multi(fastdl.tensor([[1.0, nan, 2.0]]), first).item() == pytest.approx(2 / 3)
    assert multi(fastdl.tensor([[inf, inf, 2.0]]), first).item() == 0
    assert multilabel(fastdl.tensor([[1.0, nan, 2.0]]), label).item() == pytest.approx(2 / 3)
    assert multilabel(fastdl.tensor([[-inf, 1.0, 2.0]]), label).item() == inf

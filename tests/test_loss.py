"""Losses: kernels against the reference on every level, functions and gradients against torch, messages,
memory."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels, nn
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import THREADS, assert_close, backends, check_gradient, load

DTYPES = (np.float32, np.float64)
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
    ((0, 4), 1),
    ((2, 3, 0), 1),
    ((3, 4, 5), 1),
    ((2, 21, 64), 1),
    ((2, 17, 65), 1),
    ((1, 150, 131), 1),
    ((2, 3, 4, 5), 1),
    ((2, 4, 5, 3), 3),
    ((7, 30), 0),
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
@pytest.mark.parametrize("shape", [(6, 1), (5, 3), (4, 16), (3, 33), (2, 5000), (0, 4), (4, 0), (2, 3, 17)])
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
    before = module.num_threads()
    results = {}
    try:
        for threads in THREADS:
            module.set_num_threads(threads)
            for run in range(2):
                loss, *saved = module.cross_entropy_forward(x, labels, weight, 1, IGNORE, 0.1, "mean")
                grad = module.cross_entropy_backward(loss, x, labels, weight, *saved, 1, IGNORE, 0.1, "mean")
                squares = module.mse_loss_forward(x, p, "sum")
                nll = module.nll_loss_forward(x, target, None, 1, IGNORE, "mean")[0]
                results[threads, run] = (loss, grad, squares, nll)
    finally:
        module.set_num_threads(before)
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


def test_cross_entropy_extremes(any_module):
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
    with np.errstate(over="ignore"):
        want = -np.take_along_axis(
            reference.log_softmax_forward(x.astype(np.float64), 1), target[:, None], 1
        )[:, 0].astype(np.float32)
    for y, dim in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        loss, *saved = any_module.cross_entropy_forward(y, target, None, dim, IGNORE, 0.0, "none")
        np.testing.assert_allclose(loss, want, rtol=1e-6)
        grad = any_module.cross_entropy_backward(
            np.ones(8, np.float32), y, target, None, *saved, dim, IGNORE, 0.0, "none"
        )
        grad = grad if dim == 1 else grad.T
        np.testing.assert_array_equal(grad[:3], [[0, 0, 0], [1, -1, 0], [0, -0.5, 0.5]])
        np.testing.assert_array_equal(np.isnan(grad[4:7]).all(1), True)
        # Ignored rows are silent, whatever they hold.
        ignored = np.full(8, IGNORE)
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


# ------------------------------------------------------------------------------------ functions against torch


def tensors(arrays, dtype):
    import torch

    arrays = [np.asarray(a, dtype) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in arrays]
    return [fastdl.from_numpy(a.copy()) for a in arrays], [torch.from_numpy(a.copy()) for a in arrays]


def compare(name, arrays, needs, terms=1, /, **options):
    """Values and gradients of ``F.name`` and torch's, both dtypes."""
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        ours, theirs = tensors(arrays, dtype)
        for i in needs:
            ours[i].requires_grad_()
            theirs[i].requires_grad_()
        for key, value in options.items():
            if isinstance(value, np.ndarray):
                options[key] = value.astype(dtype)
        mine = {k: fastdl.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        peer = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        want = getattr(torch.nn.functional, name)(*theirs, **peer)
        got = getattr(F, name)(*ours, **mine)
        assert got.dtype == ours[0].dtype
        assert_close(got.detach(), want.detach().numpy(), reduction=terms)
        g = np.asarray(np.random.default_rng(9).standard_normal(tuple(want.shape)), dtype)
        got.backward(fastdl.from_numpy(g))
        want.backward(torch.from_numpy(g))
        for i in needs:
            peer_grad = theirs[i].grad
            assert_close(
                ours[i].grad,
                np.zeros(arrays[i].shape) if peer_grad is None else peer_grad.numpy(),
                reduction=terms,
            )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(
    ("shape", "dim"), [((7, 5), 1), ((5,), 0), ((3, 6, 4), 1), ((2, 20, 3, 17), 1), ((4, 1), 1)]
)
def test_cross_entropy_against_torch(shape, dim, smoothing, reduction):
    x, target, some_ignored, weight, p = class_problem(shape, dim, np.float64)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    n = shape[dim]
    for labels in (target, some_ignored):
        compare("cross_entropy", [x, labels], [0], n, **options)
        compare("cross_entropy", [x, labels], [0], n, weight=weight, **options)
    compare("cross_entropy", [x, target], [0], n, ignore_index=0, **options)
    compare("cross_entropy", [x, np.full_like(target, IGNORE)], [0], n, **options)
    compare("cross_entropy", [x, p], [0, 1], n, **options)
    compare("cross_entropy", [x, p], [0, 1], n, weight=weight, **options)
    compare("nll_loss", [x, some_ignored], [0], n, weight=weight, reduction=reduction)
    compare("nll_loss", [x, target], [0], n, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_classes_last_in_memory(reduction):
    """(N, C, T) as a transposed (N, T, C): no copy, the same numbers, positions named as the caller sees
    them."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3, 7, 11))
    target, p = rng.integers(0, 11, (3, 7)), rng.random((3, 11, 7))
    plain = fastdl.from_numpy(np.ascontiguousarray(base.transpose(0, 2, 1))).requires_grad_()
    moved = fastdl.from_numpy(base.transpose(0, 2, 1)).requires_grad_()
    for label in (target, p):
        losses = []
        for x in (plain, moved):
            x.grad = None
            loss = F.cross_entropy(x, fastdl.from_numpy(label), reduction=reduction)
            loss.backward(fastdl.from_numpy(np.full(loss.shape, 2.0)))
            losses.append(loss.detach())
        assert_close(losses[0], losses[1])
        assert_close(plain.grad, moved.grad)
    target[2, 4] = 11
    with pytest.raises(
        IndexError, match=r"cross_entropy: target\[2, 4\] = 11 is out of range for 11 classes"
    ):
        F.cross_entropy(moved, fastdl.from_numpy(target))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int16])
def test_other_integer_targets(dtype):
    x = fastdl.from_numpy(np.random.default_rng(0).standard_normal((4, 6)))
    target = np.array([0, 5, 2, 2])
    for function in (F.cross_entropy, F.nll_loss):
        narrow = function(x, fastdl.from_numpy(target.astype(dtype)))
        np.testing.assert_array_equal(narrow.numpy(), function(x, fastdl.from_numpy(target)).numpy())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(7, 5), (3000,), (), (0, 3)])
@pytest.mark.filterwarnings("ignore:.*reduction.*:UserWarning", "ignore:.*target size.*:UserWarning")
def test_pointwise_losses_against_torch(shape, reduction):
    rng = np.random.default_rng(3)
    x, t = np.asarray(rng.standard_normal(shape)), np.asarray(rng.standard_normal(shape))
    p, q = np.asarray(rng.uniform(0.01, 0.99, shape)), np.asarray(rng.uniform(0.01, 0.99, shape))
    signs, counts = np.where(t > 0, 1.0, -1.0), np.asarray(rng.poisson(3, shape) + 0.25)
    r = {"reduction": reduction}
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        compare(name, [x, t], [0, 1], **r)
    compare("smooth_l1_loss", [x, t], [0, 1], beta=0.3, **r)
    compare("smooth_l1_loss", [x, t], [0, 1], beta=0.0, **r)
    compare("huber_loss", [x, t], [0, 1], delta=0.4, **r)
    compare("binary_cross_entropy", [p, q], [0, 1], **r)
    compare("binary_cross_entropy", [p, q], [0, 1], weight=rng.random(shape[1:]), **r)
    compare("binary_cross_entropy_with_logits", [x, q], [0, 1], **r)
    compare(
        "binary_cross_entropy_with_logits",
        [x, q],
        [0, 1],
        weight=rng.random(shape[:1] + (1,) * len(shape[1:])),
        pos_weight=rng.random(shape[1:]),
        **r,
    )
    for log_target in (False, True):
        compare("kl_div", [x, q], [0, 1], log_target=log_target, **r)
        compare("kl_div", [x, q], [0, 1], log_target=log_target, reduction="batchmean")
    for full in (False, True):
        compare("poisson_nll_loss", [x, counts], [0, 1], full=full, **r)
        compare("poisson_nll_loss", [p, counts], [0], log_input=False, full=full, **r)
        if shape:
            compare("gaussian_nll_loss", [x, t, p], [0, 1, 2], full=full, **r)
            compare("gaussian_nll_loss", [x, t, p[..., :1]], [0, 1, 2], eps=0.5, **r)
            compare("gaussian_nll_loss", [x, t, p[..., 0]], [0, 2], full=full, **r)
            if len(shape) > 1:
                compare("gaussian_nll_loss", [x, t, p[:1]], [0, 1, 2], full=full, **r)
    compare("soft_margin_loss", [x, signs], [0], **r)
    compare("hinge_embedding_loss", [x, signs], [0], margin=0.5, **r)
    compare("margin_ranking_loss", [x, t, signs], [0, 1], margin=0.3, **r)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weighted_and_composed_losses_against_torch(reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    x, y, z, w = rng.random((4, 5, 3))
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        compare(name, [x, y], [0, 1], weight=w, reduction=reduction)
    for swap in (False, True):
        for distance in (None, lambda a, b: ((a - b) * (a - b)).sum(1)):
            results = []
            for make, functional in ((fastdl.from_numpy, F), (torch.from_numpy, torch.nn.functional)):
                inputs = [make(a.copy()).requires_grad_() for a in (x, y, z)]
                loss = functional.triplet_margin_with_distance_loss(
                    *inputs, distance_function=distance, swap=swap, margin=0.6, reduction=reduction
                )
                loss.sum().backward()
                results.append([loss.detach().numpy(), *[t.grad.numpy() for t in inputs]])
            for got, want in zip(*results, strict=True):
                assert_close(got, want, reduction=3)


@pytest.mark.filterwarnings("ignore:.*(broadcast|target size).*:UserWarning")
def test_broadcast_against_torch():
    rng = np.random.default_rng(4)
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss"):
        compare(name, [rng.standard_normal((4, 5)), rng.standard_normal((4, 1))], [0, 1])
        compare(name, [rng.standard_normal((5,)), rng.standard_normal((3, 4, 5))], [0, 1], reduction="none")
    signs = np.where(rng.random((1, 5)) > 0.5, 1.0, -1.0)
    compare("margin_ranking_loss", [rng.standard_normal((4, 5)), rng.standard_normal((4, 1)), signs], [0, 1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("classes", [1, 2, 17])
def test_margin_losses_against_torch(classes, reduction):
    rng = np.random.default_rng(5)
    x, target = rng.standard_normal((6, classes)), rng.integers(0, classes, 6)
    weight, labels = rng.random(classes), rng.integers(-1, classes, (6, classes))
    r = {"reduction": reduction}
    for p in (1, 2):
        compare("multi_margin_loss", [x, target], [0], classes, p=p, margin=0.7, **r)
        compare("multi_margin_loss", [x, target], [0], classes, p=p, weight=weight, **r)
    compare("multi_margin_loss", [x[0], target[0]], [0], classes, **r)
    compare("multilabel_margin_loss", [x, labels], [0], classes**2, **r)
    compare("multilabel_margin_loss", [x[0], labels[0]], [0], classes**2, **r)
    compare("multilabel_soft_margin_loss", [x, rng.random(x.shape)], [0], classes, **r)
    compare("multilabel_soft_margin_loss", [x, rng.random(x.shape)], [0], classes, weight=weight, **r)
    compare("multilabel_soft_margin_loss", [x[0], rng.random(classes)], [0], classes, **r)


@pytest.mark.parametrize("length", [1, 3, 16, 50])
def test_distances_against_torch(length):
    rng = np.random.default_rng(6)
    x, y, z = rng.standard_normal((3, 6, length))
    compare("cosine_similarity", [x, y], [0, 1], length)
    compare("cosine_similarity", [x, y], [0, 1], 6, dim=0)
    compare("cosine_similarity", [rng.standard_normal((2, length, 3)), y[:1, :, None]], [0, 1], 18 * length)
    compare("cosine_similarity", [0 * x, y], [1], length)
    for p in (2.0, 1.0, np.inf, 3.0, 1.5, 0.0):
        compare("pairwise_distance", [x, y], [0, 1], length, p=p)
        compare("pairwise_distance", [x, y[:1]], [0, 1], 6 * length, p=p, keepdim=True)
    compare("pairwise_distance", [x, x], [0, 1], length, eps=0.0)
    signs = np.array([1, -1, 1, -1, -1, 1])
    for reduction in REDUCTIONS:
        r = {"reduction": reduction}
        compare("cosine_embedding_loss", [x, y, signs], [0, 1], length, margin=0.1, **r)
        compare("cosine_embedding_loss", [x[0], y[0], signs[1]], [0, 1], length, **r)
        for swap in (False, True):
            compare("triplet_margin_loss", [x, y, z], [0, 1, 2], length, swap=swap, **r)
            compare("triplet_margin_loss", [x, y, z], [0, 1, 2], length, swap=swap, p=1.0, margin=0.5, **r)


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ctc_against_torch(reduction, zero_infinity):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    for frames, batch, classes, longest in ((12, 3, 5, 4), (50, 4, 20, 10), (5, 2, 3, 4)):
        logits = rng.standard_normal((frames, batch, classes))
        labels = rng.integers(1, classes, (batch, longest))
        inputs, lengths = rng.integers(frames // 2, frames + 1, batch), rng.integers(0, longest + 1, batch)
        joined = np.concatenate([row[:n] for row, n in zip(labels, lengths, strict=True)])
        for targets in (labels, joined):
            ours = fastdl.from_numpy(logits.copy()).requires_grad_()
            theirs = torch.tensor(logits, requires_grad=True)
            options = {"reduction": reduction, "zero_infinity": zero_infinity}
            got = F.ctc_loss(
                F.log_softmax(ours, 2),
                fastdl.from_numpy(targets),
                tuple(inputs.tolist()),
                fastdl.from_numpy(lengths),
                **options,
            )
            want = torch.nn.functional.ctc_loss(
                torch.log_softmax(theirs, 2),
                torch.tensor(targets),
                tuple(inputs.tolist()),
                tuple(lengths.tolist()),
                **options,
            )
            g = np.asarray(rng.standard_normal(tuple(want.shape)))
            got.backward(fastdl.from_numpy(g))
            want.backward(torch.tensor(g))
            assert_close(got.detach(), want.detach().numpy(), reduction=frames)
            # exp(alpha + beta - y + loss): four logarithms of some hundred, whose last bits count that often.
            assert_close(ours.grad, theirs.grad.numpy(), reduction=frames, factor=100)


def test_ctc_unbatched():
    rng = np.random.default_rng(8)
    x = F.log_softmax(fastdl.from_numpy(rng.standard_normal((9, 4))), 1)
    labels = fastdl.tensor([1, 3, 3])
    for reduction in REDUCTIONS:
        one = F.ctc_loss(x, labels, (9,), (3,), reduction=reduction)
        batch = F.ctc_loss(
            fastdl.from_numpy(x.numpy()[:, None]),
            fastdl.from_numpy(labels.numpy()[None]),
            (9,),
            (3,),
            reduction=reduction,
        )
        assert one.shape == ()
        assert_close(one, batch.numpy().reshape(()))


# ------------------------------------------------------------------------------------------ gradients

rng_ = np.random.default_rng(10)
X, Y, P, Q = (
    rng_.standard_normal((4, 6)),
    rng_.standard_normal((4, 6)),
    rng_.uniform(0.1, 0.9, (4, 6)),
    rng_.uniform(0.1, 0.9, (4, 6)),
)
T = fastdl.from_numpy(rng_.integers(0, 6, 4))
SIGNS = fastdl.from_numpy(np.where(rng_.random((4, 6)) > 0.5, 1.0, -1.0))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda x, **r: F.cross_entropy(x, T, **r), [X]),
        (lambda x, **r: F.cross_entropy(x, T, fastdl.from_numpy(P[0]), label_smoothing=0.2, **r), [X]),
        (lambda x, p, **r: F.cross_entropy(x, p, label_smoothing=0.2, **r), [X, P]),
        (lambda x, **r: F.nll_loss(x, T, **r), [X]),
        (F.mse_loss, [X, Y]),
        (F.huber_loss, [X, Y]),
        (F.smooth_l1_loss, [X, Y]),
        (F.l1_loss, [X, Y]),
        (F.binary_cross_entropy, [P, Q]),
        (F.binary_cross_entropy_with_logits, [X, Q]),
        (F.kl_div, [X, Q]),
        (F.poisson_nll_loss, [X, Q]),
        (F.gaussian_nll_loss, [X, Y, P]),
        (lambda x, **r: F.soft_margin_loss(x, SIGNS, **r), [X]),
        (lambda x, **r: F.hinge_embedding_loss(x, SIGNS, **r), [X]),
        (lambda x, y, **r: F.margin_ranking_loss(x, y, SIGNS, **r), [X, Y]),
        (lambda x, **r: F.multi_margin_loss(x, T, p=2, **r), [X]),
        (lambda x, y, **r: F.triplet_margin_loss(x, y, fastdl.from_numpy(P), **r), [X, Y]),
        (lambda x, y, reduction: F.cosine_similarity(x, y), [X, Y]),
        (lambda x, y, reduction: F.pairwise_distance(x, y, p=3.0), [X, Y]),
        (lambda x, **r: F.multilabel_soft_margin_loss(x, fastdl.from_numpy(Q), **r), [X]),
    ],
)
@pytest.mark.filterwarnings("ignore:kl_div.*:UserWarning")
def test_gradients(function, arrays, reduction):
    check_gradient(lambda *tensors: function(*tensors, reduction=reduction), *arrays)


@given(
    rows=st.integers(0, 20),
    classes=st.integers(1, 70),
    inner=st.integers(1, 20),
    seed=st.integers(0, 999),
    smoothing=st.sampled_from([0.0, 0.1]),
    reduction=st.sampled_from(REDUCTIONS),
    flip=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_cross_entropy_of_any_shape(rows, classes, inner, seed, smoothing, reduction, flip):
    x, _, target, weight, _ = class_problem((rows, classes, inner), 1, np.float32, seed)
    if flip:
        x, target, weight = x[::-1, :, ::-1], target.T.copy().T, weight[::-1]
    options = (1, IGNORE, smoothing, reduction)
    loss, *saved = kernels.cpu.cross_entropy_forward(x, target, weight, *options)
    want, *exact = reference.cross_entropy_forward(*wide((x, target, weight)), *options)
    assert_close(loss, want)
    g = upstream(loss)
    got = kernels.cpu.cross_entropy_backward(g, x, target, weight, *saved, *options)
    assert_close(got, reference.cross_entropy_backward(*wide((g, x, target, weight)), *exact, *options))


# ------------------------------------------------------------------------------------------ messages


def t(*shape: int) -> fastdl.Tensor:
    return fastdl.from_numpy(np.zeros(shape, np.float32))


def labels(*values: int) -> fastdl.Tensor:
    return fastdl.from_numpy(np.array(values))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: F.cross_entropy(t(4, 10), labels(1, 2, 3, 12)),
            IndexError,
            r"cross_entropy: target\[3\] = 12 is out of range for 10 classes",
        ),
        (
            lambda: F.cross_entropy(t(2, 10), labels(-1, 0)),
            IndexError,
            r"target\[0\] = -1 .* ignore_index is -100",
        ),
        (
            lambda: F.cross_entropy(t(10), fastdl.from_numpy(np.array(10))),
            IndexError,
            r"cross_entropy: target = 10 is out of range",
        ),
        (
            lambda: F.nll_loss(t(2, 3, 4), fastdl.from_numpy(np.full((2, 4), 3))),
            IndexError,
            r"nll_loss: target\[0, 0\] = 3 is out of range for 3 classes",
        ),
        (
            lambda: F.multi_margin_loss(t(2, 3), labels(0, 3)),
            IndexError,
            r"multi_margin_loss: target\[1\] = 3",
        ),
        (
            lambda: F.multilabel_margin_loss(t(1, 2), fastdl.from_numpy(np.array([[0, 2]]))),
            IndexError,
            r"multilabel_margin_loss: target\[0, 1\] = 2",
        ),
        (
            lambda: F.ctc_loss(t(5, 1, 3), fastdl.from_numpy(np.array([[1, 3]])), (5,), (2,)),
            IndexError,
            r"ctc_loss: targets\[0, 1\] = 3",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), t(4)),
            TypeError,
            r"target of class indices must be an integer tensor, got float32. Use target.to\(fastdl.int64\)",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), labels(1, 2)),
            ValueError,
            r"target must have shape \(4,\).*got \(2,\).*probabilities would have shape \(4, 10\)",
        ),
        (
            lambda: F.cross_entropy(t(4, 10), fastdl.from_numpy(np.zeros((4, 1), int))),
            ValueError,
            r"target.reshape\(4,\)",
        ),
        (
            lambda: F.cross_entropy(t(2, 2), fastdl.from_numpy(np.zeros((2, 2), int))),
            TypeError,
            r"class probabilities, so it must be floating point",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), fastdl.from_numpy(np.zeros((2, 3)))),
            TypeError,
            r"target must have input's dtype float32, got float64",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), weight=t(2)),
            ValueError,
            r"weight must have shape \(3,\)",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), label_smoothing=1.5),
            ValueError,
            r"label_smoothing must lie in \[0, 1\], got 1.5",
        ),
        (
            lambda: F.cross_entropy(t(2, 3), labels(0, 0), reduction="avg"),
            ValueError,
            r"reduction must be 'none', 'mean' or 'sum', got 'avg'",
        ),
        (
            lambda: F.cross_entropy(labels(1, 2), labels(0)),
            TypeError,
            r"cross_entropy: input must be float32 or float64, got int64",
        ),
        (
            lambda: F.cross_entropy(t(), labels(0)),
            ValueError,
            r"cross_entropy: input must be \(C\), \(N, C\)",
        ),
        (
            lambda: F.binary_cross_entropy(t(2), t(2).double()),
            TypeError,
            r"binary_cross_entropy: target must have input's dtype float32, got float64. Use target.to\(input.dtype\)",
        ),
        (
            lambda: F.mse_loss(t(2), t(3)),
            ValueError,
            r"mse_loss: input of shape \(2,\) and target of shape \(3,\) do not broadcast",
        ),
        (
            lambda: F.binary_cross_entropy(fastdl.tensor([0.5, 1.5]), t(2)),
            ValueError,
            r"input must lie in \[0, 1\]; element 1 is 1.5",
        ),
        (
            lambda: F.binary_cross_entropy(fastdl.tensor([0.5, float("nan")]), t(2)),
            ValueError,
            r"element 1 is nan",
        ),
        (
            lambda: F.binary_cross_entropy_with_logits(t(2, 1), t(2)),
            ValueError,
            r"target must have input's shape \(2, 1\), got \(2,\). Use target.reshape",
        ),
        (
            lambda: F.binary_cross_entropy_with_logits(t(2, 3), t(2, 3), pos_weight=t(2)),
            ValueError,
            r"pos_weight of shape \(2,\) must broadcast to input's shape \(2, 3\)",
        ),
        (lambda: F.huber_loss(t(2), t(2), delta=0), ValueError, r"huber_loss: delta must be positive"),
        (
            lambda: F.smooth_l1_loss(t(2), t(2), beta=-1),
            ValueError,
            r"smooth_l1_loss: beta must not be negative",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2), t(2), fastdl.tensor([1.0, -1.0])),
            ValueError,
            r"var must not be negative, its smallest entry is -1",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2, 3), t(2, 3), t(3)),
            ValueError,
            r"var must have input's shape \(2, 3\)",
        ),
        (
            lambda: F.gaussian_nll_loss(t(2, 3), t(2, 3), t(1, 1)),
            ValueError,
            r"var must have input's shape \(2, 3\), or one dimension 1",
        ),
        (lambda: nn.HuberLoss(delta=1j), TypeError, r"delta must be a float or int, got complex"),
        (
            lambda: F.cross_entropy(t(2, 3), t(2, 3), ignore_index=1),
            RuntimeError,
            r"ignore_index is for targets of class indices, got 1",
        ),
        (lambda: F.margin_ranking_loss(t(2), t(2, 1), t(2)), ValueError, r"as many dimensions"),
        (
            lambda: F.cosine_embedding_loss(t(2, 3), t(2, 3), t(3)),
            ValueError,
            r"inputs must be \(N, D\) with target \(N\)",
        ),
        (
            lambda: F.triplet_margin_loss(t(2, 3), t(2, 3), t(2, 3), margin=0),
            ValueError,
            r"margin must be positive",
        ),
        (lambda: F.multi_margin_loss(t(2, 3), labels(0, 0), p=3), ValueError, r"p must be 1 or 2, got 3"),
        (
            lambda: F.ctc_loss(t(5, 1, 3), labels(1), (6,), (1,)),
            ValueError,
            r"input_lengths must lie between 0 and the 5 frames",
        ),
        (
            lambda: F.ctc_loss(t(5, 2, 3), labels(1), (5,), (1, 0)),
            ValueError,
            r"input_lengths must have one entry per sequence of the batch of 2, got 1",
        ),
        (
            lambda: F.cosine_similarity(t(2, 3), t(2, 3), dim=2),
            IndexError,
            r"cosine_similarity: dim must be in",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_in_place_change_of_what_backward_needs_is_noticed():
    x, target = t(2, 3).requires_grad_(), labels(0, 1)
    loss = F.cross_entropy(x, target)
    target[0] = 2
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_older_names_of_reductions():
    x, y = fastdl.tensor([1.0, 2.0]), fastdl.tensor([0.0, 0.0])
    with pytest.warns(UserWarning, match="use reduction='sum'"):
        assert F.mse_loss(x, y, size_average=False).item() == 5
    with pytest.warns(UserWarning, match="use reduction='none'"):
        assert nn.MSELoss(reduce=False)(x, y).shape == (2,)
    with pytest.warns(UserWarning, match="broadcast"):
        F.mse_loss(fastdl.tensor([[1.0], [2.0]]), y)


# ------------------------------------------------------------------------------------------ modules

LOSSES = list(nn.modules.loss.__all__)


@pytest.mark.parametrize("name", LOSSES)
def test_constructors_and_options_are_torchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)

    def parameters(cls):
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls).parameters.values()]

    assert parameters(ours) == parameters(theirs)
    assert repr(ours()) == repr(theirs())


def test_modules_apply_their_functions():
    rng = np.random.default_rng(11)
    x, y, z = (fastdl.from_numpy(a) for a in rng.standard_normal((3, 4, 5)))
    p, q = (fastdl.from_numpy(a) for a in rng.uniform(0.1, 0.9, (2, 4, 5)))
    c, signs = fastdl.from_numpy(rng.integers(0, 5, 4)), fastdl.from_numpy(np.array([1.0, -1.0, 1.0, -1.0]))
    w = fastdl.from_numpy(rng.random(5))
    pairs = [
        (
            nn.CrossEntropyLoss(w, ignore_index=2, label_smoothing=0.1, reduction="sum")(x, c),
            F.cross_entropy(x, c, w, ignore_index=2, label_smoothing=0.1, reduction="sum"),
        ),
        (nn.NLLLoss(w)(x, c), F.nll_loss(x, c, w)),
        (nn.MSELoss(reduction="none")(x, y), F.mse_loss(x, y, reduction="none")),
        (nn.L1Loss()(x, y), F.l1_loss(x, y)),
        (nn.SmoothL1Loss(beta=0.5)(x, y), F.smooth_l1_loss(x, y, beta=0.5)),
        (nn.HuberLoss(delta=0.5)(x, y), F.huber_loss(x, y, delta=0.5)),
        (nn.BCELoss(w)(p, q), F.binary_cross_entropy(p, q, w)),
        (nn.BCEWithLogitsLoss(pos_weight=w)(x, q), F.binary_cross_entropy_with_logits(x, q, pos_weight=w)),
        (nn.KLDivLoss(reduction="batchmean")(x, q), F.kl_div(x, q, reduction="batchmean")),
        (nn.PoissonNLLLoss(full=True)(x, q), F.poisson_nll_loss(x, q, full=True)),
        (nn.GaussianNLLLoss(full=True)(x, y, p), F.gaussian_nll_loss(x, y, p, full=True)),
        (nn.MultiMarginLoss(p=2, weight=w)(x, c), F.multi_margin_loss(x, c, p=2, weight=w)),
        (nn.TripletMarginLoss(p=1.0, swap=True)(x, y, z), F.triplet_margin_loss(x, y, z, p=1.0, swap=True)),
        (nn.CosineEmbeddingLoss(0.2)(x, y, signs), F.cosine_embedding_loss(x, y, signs, 0.2)),
        (nn.MarginRankingLoss(0.2)(x, y, p), F.margin_ranking_loss(x, y, p, 0.2)),
        (nn.CosineSimilarity(dim=0)(x, y), F.cosine_similarity(x, y, 0)),
        (nn.PairwiseDistance(1.0, keepdim=True)(x, y), F.pairwise_distance(x, y, 1.0, keepdim=True)),
    ]
    for got, want in pairs:
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert list(nn.CrossEntropyLoss(w).state_dict()) == ["weight"]
    assert list(nn.BCEWithLogitsLoss(w, pos_weight=w).state_dict()) == ["weight", "pos_weight"]


@pytest.mark.parametrize("function", [F.cross_entropy, F.nll_loss])
def test_reference_backend_raises_the_same(function):
    with (
        fastdl.use_backend("reference"),
        pytest.raises(IndexError, match=r"target\[1\] = 3 is out of range for 3 classes"),
    ):
        function(t(2, 3), labels(0, 3))


@pytest.mark.parametrize("out_features", [(), (3,), (2, 3)])
def test_linear_cross_entropy_is_torchs(out_features):
    torch = pytest.importorskip("torch")
    if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
        pytest.skip("an older torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    target = rng.integers(0, 5, (6, *out_features))
    probabilities = rng.random((6, 5, *out_features))
    weight = rng.random(5)
    for options, t in [
        ({}, target),
        ({"bias": True, "reduction": "sum", "ignore_index": 2}, target),
        ({"bias": True, "label_smoothing": 0.2, "reduction": "none"}, target),
        ({}, probabilities),
    ]:
        results = []
        layers = []
        for library in (fastdl, torch):
            layer = library.nn.LinearCrossEntropyLoss(
                4,
                5,
                out_features=out_features,
                weight=library.from_numpy(weight),
                dtype=library.float64,
                **options,
            )
            if layers:
                layer.load_state_dict(
                    {k: torch.from_numpy(v.numpy()) for k, v in layers[0].state_dict().items()}
                )
            layers.append(layer)
            leaf = library.from_numpy(x.copy()).requires_grad_()
            loss = layer(leaf, library.from_numpy(t))
            loss.sum().backward()
            results.append([loss.detach(), leaf.grad, *[p.grad for p in layer.parameters()]])
        assert repr(layers[0]) == repr(layers[1])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w, t: F.linear_cross_entropy(x[None], w, t), "input must be"),
        (lambda x, w, t: F.linear_cross_entropy(x, w[:, 1:], t), r"linear_weight must be \(C, ..., 4\)"),
        (
            lambda x, w, t: F.linear_cross_entropy(x, w, t, linear_bias=w[0]),
            r"linear_bias must have shape \(5,\)",
        ),
        (lambda x, w, t: F.linear_cross_entropy(x[0], w[:, None], t), r"input must be \(N, 4\) with"),
        (lambda x, w, t: F.linear_cross_entropy(x, w, t, options=1), "options must be None"),
        (lambda x, w, t: nn.LinearCrossEntropyLoss(4, 5, weight=w[0]), r"weight must have shape \(5,\)"),
        (lambda x, w, t: nn.LinearCrossEntropyLoss(4, 5, label_smoothing=2.0), "label_smoothing must lie"),
    ],
)
def test_linear_cross_entropy_messages(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(fastdl.ones(3, 4), fastdl.ones(5, 4), fastdl.tensor([0, 1, 2]))


def test_kl_div_gradient_of_the_target_is_nan_where_the_loss_is():
    x, t = fastdl.zeros(4), fastdl.tensor([-0.5, 0.0, 0.5, float("nan")]).requires_grad_()
    loss = F.kl_div(x, t, reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(np.isnan(loss.detach().numpy()), [True, False, False, True])
    np.testing.assert_array_equal(np.isnan(t.grad.numpy()), [True, False, False, True])

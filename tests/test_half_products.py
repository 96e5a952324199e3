"""Products and convolutions in float16 and bfloat16: sums in float32, rounded once."""

from __future__ import annotations

import numpy as np
import pytest

from conv_cases import GEOMETRIES
from fastdl import kernels
from parity import backends, thread_counts
from test_half_kernels import HALVES, names, random, rounded, same_bits, wide

PRODUCTS = [
    *[(1, 1, 1), (1, 40, 70), (2, 33, 64), (3, 100, 33), (4, 31, 1000), (40, 3, 500), (70, 4, 17)],
    *[(5, 40, 9), (17, 1000, 300), (1000, 17, 30), (64, 65, 64), (100, 120, 64), (65, 70, 130)],
    *[(0, 3, 4), (3, 0, 4), (3, 4, 0), (300, 4, 0)],
    *[(15, 31, 1025), (29, 100, 2111), (200, 14, 1500), (130, 600, 33), (9, 500, 2), (8, 12, 1), (40, 9, 3)],
]


@pytest.fixture(params=[True, False, None], ids=["pairs", "floats", "chosen"])
def pairs(request):
    """Products in bfloat16 with the processor's instruction for pairs of numbers, without, and where it is quicker."""
    backends_here = [kernels.load(level) for level in backends()]
    for backend in backends_here:
        backend.use_pair_products(request.param)
    yield request.param
    for backend in backends_here:
        backend.use_pair_products(None)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_products(level, dtype, pairs):
    backend = kernels.load(level)
    if pairs and not (backend.has_pair_products() and dtype == HALVES[1]):
        pytest.skip("no instruction for pairs at this level and dtype")
    rng = np.random.default_rng(2)
    # Sums in float32, rounded once: half an ulp and what the order of the sum leaves.
    ulp = 2.0**-11 if dtype == np.float16 else 2.0**-8

    def check(got, want, k):
        assert got.dtype == dtype
        assert got.shape == want.shape
        limit = ulp * np.abs(want) * 1.001 + 2e-6 * max(k, 1)
        assert (np.abs(got.astype(np.float64) - want) <= limit).all()

    for m, n, k in PRODUCTS:
        a, b, bias = random(rng, (m, k), dtype), random(rng, (k, n), dtype), random(rng, (n,), dtype)
        want = a.astype(np.float64) @ b.astype(np.float64)
        lying = np.ascontiguousarray(a.T).T, np.ascontiguousarray(b.T).T
        for x in (a, lying[0], np.repeat(a, 2, 1)[:, ::2]):
            for y in (b, lying[1], np.repeat(b, 2, 0)[::2]):
                for _ in thread_counts(backend):
                    check(backend.matmul(x, y), want, k)
        added = random(rng, (m, n), dtype)
        sums = 0.5 * added.astype(np.float64) - 2 * want
        for c in (added, np.ascontiguousarray(added.T).T):
            check(backend.matmul(a, b, c, -2, 0.5), sums, 4 * k)
        check(backend.matmul(lying[0], lying[1], np.full_like(added, np.nan), -2, 0), -2 * want, 4 * k)
        for activation, f in (("none", lambda v: v), ("relu", lambda v: np.maximum(v, 0))):
            y = backend.linear_forward(a, lying[1].T, bias, activation)
            check(y, f(want + bias.astype(np.float64)), k)
        grad = random(rng, (m, n), dtype)
        g, x, w = (v.astype(np.float64) for v in (grad, a, b.T))
        found = backend.linear_backward(grad, a, np.ascontiguousarray(b.T), True, True, True)
        for got, wanted, terms in zip(found, (g @ w, g.T @ x, g.sum(0)), (n, m, m), strict=True):
            check(got, wanted, terms)
    for shape_a, shape_b in [
        ((5, 30, 20), (5, 20, 40)),
        ((5, 1, 30, 20), (4, 20, 8)),
        ((12, 90, 64), (12, 64, 200)),
        ((3, 100, 100), (100, 100)),
        ((2, 300, 300), (2, 300, 300)),
        ((7, 2, 3), (7, 3, 300)),
        ((6, 300, 40), (6, 40, 2)),
        ((300, 16, 16), (300, 16, 16)),
        ((41, 7, 5, 9), (7, 9, 8)),
        ((0, 2, 3), (0, 3, 4)),
    ]:
        a, b = random(rng, shape_a, dtype), random(rng, shape_b, dtype)
        check(backend.matmul(a, b), a.astype(np.float64) @ b.astype(np.float64), shape_a[-1])


# Besides those of conv_cases: last groups of images that are smaller than the others, inputs that meet no tap, odd
# channels, few results with images shared out, three axes.
MORE_GEOMETRIES = {
    "images of a smaller last group": ((13, 33, 9, 9), (34, 33, 2, 3), (1, 1), (1, 1), (1, 1), 1),
    "many small images": ((45, 35, 6, 5), (33, 35, 3, 2), (1, 1), (1, 1), (1, 1), 1),
    "no tap": ((2, 20, 11, 12), (36, 20, 2, 2), (3, 4), (0, 0), (1, 1), 1),
    "odd channels apart": ((2, 17, 12, 17), (33, 17, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "wide strides": ((2, 17, 12, 29), (33, 17, 5, 4), (3, 3), (2, 1), (1, 1), 1),
    "patch of three": ((3, 3, 32, 31), (40, 3, 8, 8), (8, 8), (0, 0), (1, 1), 1),
    "stride 1x1": ((5, 40, 9, 9), (33, 40, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "one by one": ((5, 40, 9, 9), (33, 40, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "shared images": ((7, 4, 10, 11), (16, 2, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "groups of four": ((3, 16, 9, 10), (16, 4, 3, 3), (1, 1), (1, 1), (1, 1), 4),
    "deep": ((1, 300, 7, 7), (33, 300, 2, 2), (1, 1), (1, 1), (1, 1), 1),
    "volumes": ((2, 17, 6, 7, 8), (33, 17, 3, 3, 3), (2, 1, 2), (1, 1, 1), (1, 1, 1), 1),
    "sequences": ((3, 20, 70), (33, 20, 5), (1,), (4,), (2,), 1),
}


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_convolution(level, dtype, pairs):
    """Every pass: sums in float32, rounded once; the same bits for every number of threads but grad_w's."""
    backend = kernels.load(level)
    if pairs and not (backend.has_pair_products() and dtype == HALVES[1]):
        pytest.skip("no instruction for pairs at this level and dtype")
    rng = np.random.default_rng(7)
    ulp = 2.0**-11 if dtype == np.float16 else 2.0**-8

    def check(got, want, name):
        assert got.dtype == dtype, name
        assert got.shape == want.shape, name
        # Winograd's transforms lose some digits of the largest.
        limit = ulp * np.abs(want) * 1.001 + (3e-6 if pairs else 3e-5) * max(1, np.abs(want).max(initial=0))
        assert (np.abs(got.astype(np.float64) - want) <= limit).all(), name

    cases = list({**GEOMETRIES, **MORE_GEOMETRIES}.items())
    for name, (x_shape, w_shape, stride, padding, dilation, groups) in cases:
        options = (stride, padding, dilation, groups)
        x, w, bias = (random(rng, shape, dtype) for shape in (x_shape, w_shape, w_shape[:1]))
        wide_x, wide_w, wide_b = (v.astype(np.float64) for v in (x, w, bias))
        want = backend.conv_forward(wide_x, wide_w, wide_b, *options)
        grad = random(rng, want.shape, dtype)
        wanted = backend.conv_backward(grad.astype(np.float64), wide_x, wide_w, *options)
        for _ in thread_counts(backend):
            check(backend.conv_forward(x, w, bias, *options), want, name)
            check(backend.conv_forward(x, w, wide(bias), *options), want, name)
            for got, right in zip(backend.conv_backward(grad, x, w, *options), wanted, strict=True):
                check(got, right, name)
        backwards = zip(want.shape[2:], w_shape[2:], stride, padding, dilation, strict=False)
        if len(padding) == len(stride) and all(
            (n - 1) * s - 2 * p + d * (k - 1) >= 0 for n, k, s, p, d in backwards
        ):
            extra = (0,) * len(stride)
            more = random(rng, (w_shape[1] * groups,), dtype)
            arguments = (stride, padding, extra, dilation, groups)
            want = backend.conv_transpose_forward(
                grad.astype(np.float64), wide_w, more.astype(np.float64), *arguments
            )
            check(backend.conv_transpose_forward(grad, w, more, *arguments), want, name)
            g = random(rng, want.shape, dtype)
            wanted = backend.conv_transpose_backward(
                g.astype(np.float64), grad.astype(np.float64), wide_w, *options
            )
            for got, right in zip(backend.conv_transpose_backward(g, grad, w, *options), wanted, strict=True):
                check(got, right, name)


@pytest.mark.parametrize("level", backends())
def test_convolution_keeps_nan_where_it_is_seen(level):
    """Lanes, steps and flat positions without a partner do not bring in what is not theirs."""
    backend = kernels.load(level)
    rng = np.random.default_rng(8)
    for options in (((1, 1), (1, 1), (1, 1), 1), ((2, 2), (0, 0), (1, 1), 1), ((1, 1), (0, 0), (1, 1), 1)):
        x, w = random(rng, (2, 17, 9, 11), HALVES[1]), random(rng, (33, 17, 3, 2), HALVES[1])
        x[1, 3, 4, 10] = np.inf
        want = backend.conv_forward(x.astype(np.float64), w.astype(np.float64), None, *options)
        got = backend.conv_forward(x, w, None, *options)
        np.testing.assert_array_equal(np.isfinite(got.astype(np.float64)), np.isfinite(want))
        grad = random(rng, want.shape, HALVES[1])
        right = backend.conv_backward(
            grad.astype(np.float64), x.astype(np.float64), w.astype(np.float64), *options
        )
        for a, b in zip(backend.conv_backward(grad, x, w, *options), right, strict=True):
            np.testing.assert_array_equal(np.isfinite(a.astype(np.float64)), np.isfinite(b))


def test_empty_convolutions():
    backend = kernels.load(backends()[-1])
    options = ((1, 1), (1, 1), (1, 1), 1)
    for x_shape, w_shape in (((0, 8, 5, 5), (8, 8, 3, 3)), ((2, 0, 5, 5), (8, 0, 3, 3))):
        for dtype in HALVES:
            x, w, bias = np.ones(x_shape, dtype), np.ones(w_shape, dtype), np.ones(8, dtype)
            want = backend.conv_forward(wide(x), wide(w), wide(bias), *options)
            y = backend.conv_forward(x, w, bias, *options)
            assert same_bits(y, rounded(want, dtype))
            wanted = backend.conv_backward(wide(want), wide(x), wide(w), *options)
            assert same_bits(backend.conv_backward(y, x, w, *options), rounded(wanted, dtype))

"""Kernels of convolution: every algorithm on every level and on CUDA against the reference."""

from __future__ import annotations

import numpy as np
import pytest

import emulation
import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends

# (x, weight, stride, padding, dilation, groups). Sizes of 1, odd sizes, sizes around the vectors' (4, 8, 16)
# and register tiles, kernels that stick out, strides that leave a rest, every option alone and together.
GEOMETRIES = {
    "1x1": ((2, 3, 5, 7), (4, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 stride": ((2, 17, 9, 6), (15, 17, 1, 1), (2, 3), (0, 0), (1, 1), 1),
    "1x1 one channel": ((2, 1, 9, 13), (35, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 few channels stride": ((2, 3, 9, 13), (35, 3, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "1x1 pad": ((1, 3, 4, 4), (2, 3, 1, 1), (1, 1), (1, 2), (1, 1), 1),
    "1x1 wide": ((3, 33, 17, 16), (31, 33, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 large": ((1, 160, 70, 31), (20, 160, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "one pixel padded": ((1, 2, 1, 1), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3": ((2, 16, 14, 14), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 valid": ((3, 17, 9, 16), (33, 17, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    "3x3 odd": ((5, 24, 7, 7), (40, 24, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 asymmetric": ((1, 16, 30, 33), (16, 16, 3, 3), (1, 1), (1, 0, 2, 1), (1, 1), 1),
    "3x3 far padding": ((1, 16, 5, 6), (16, 16, 3, 3), (1, 1), (4, 5), (1, 1), 1),
    "3x3 tall": ((1, 18, 61, 3), (19, 18, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 stride": ((2, 16, 15, 14), (20, 16, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "3x3 dilation": ((2, 8, 15, 14), (9, 8, 3, 3), (1, 1), (2, 2), (2, 2), 1),
    "3x3 few tiles": ((1, 37, 7, 7), (53, 37, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 one tile": ((2, 33, 3, 4), (35, 33, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 some tiles": ((1, 70, 13, 14), (40, 70, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 chunks": ((3, 40, 33, 29), (50, 40, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "3x3 groups few": ((1, 36, 6, 7), (40, 18, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "3x3 dilation odd": ((3, 16, 13, 17), (16, 16, 3, 3), (1, 1), (1, 3), (3, 2), 1),
    "3x3 wide lanes": ((1, 5, 9, 31), (49, 5, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "5x5": ((2, 16, 13, 18), (17, 16, 5, 5), (1, 1), (2, 2), (1, 1), 1),
    "rows meet padding": ((2, 44, 9, 8), (17, 44, 3, 3), (1, 1), (4, 2), (4, 2), 1),
    "rows beyond the image": ((2, 44, 5, 6), (16, 44, 3, 3), (1, 1), (6, 1), (6, 1), 1),
    "rows of padding alone": ((2, 88, 5, 6), (18, 44, 3, 3), (1, 1), (8, 1), (2, 1), 2),
    "7x4": ((1, 16, 15, 11), (16, 16, 7, 4), (1, 1), (3, 1), (1, 1), 1),
    "images fill lanes": ((16, 3, 6, 5), (5, 3, 3, 2), (1, 1), (1, 0), (1, 1), 1),
    "images over lanes": ((19, 4, 9, 7), (14, 2, 3, 3), (2, 2), (1, 1), (1, 1), 2),
    "images over two": ((33, 2, 5, 5), (7, 2, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "3x3 groups": ((2, 32, 10, 11), (48, 16, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "stem": ((2, 3, 33, 35), (16, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1),
    "lenet 1": ((3, 1, 28, 28), (6, 1, 5, 5), (1, 1), (2, 2), (1, 1), 1),
    "lenet 2": ((3, 6, 14, 14), (16, 6, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "all at once": ((2, 6, 17, 19), (9, 2, 3, 4), (2, 3), (2, 1, 0, 3), (2, 3), 3),
    "stride beyond kernel": ((2, 3, 20, 21), (4, 3, 2, 2), (5, 3), (1, 0), (1, 1), 1),
    "stride and dilation": ((1, 5, 25, 25), (7, 5, 3, 3), (4, 6), (3, 2), (2, 4), 1),
    "stride 4": ((2, 3, 12, 75), (5, 3, 8, 8), (4, 4), (2, 1), (1, 1), 1),
    "patches 4x4": ((2, 3, 13, 92), (17, 3, 4, 4), (4, 4), (0, 0), (1, 1), 1),
    "patches 16x16, blocks of k end within a row": (
        (1, 5, 32, 150),
        (14, 5, 16, 16),
        (16, 16),
        (0, 0),
        (1, 1),
        1,
    ),
    "7x7/4 padded": ((2, 12, 9, 71), (15, 12, 7, 7), (4, 4), (3, 3), (1, 1), 1),
    "9 wide, stride 3, image of 2": ((2, 3, 5, 2), (4, 3, 2, 9), (1, 3), (1, 8), (1, 1), 1),
    "patches 2x2": ((2, 17, 7, 38), (19, 17, 2, 2), (2, 2), (0, 0), (1, 1), 1),
    "kernel as large as input": ((2, 3, 6, 5), (8, 3, 6, 5), (1, 1), (0, 0), (1, 1), 1),
    "as wide as the image": ((3, 2, 12, 9), (17, 2, 3, 9), (1, 1), (0, 0), (1, 1), 1),
    "as wide, padded": ((2, 4, 11, 5), (6, 2, 4, 5), (2, 1), (1, 0, 2, 3), (1, 1), 2),
    "3d as wide": ((2, 3, 5, 6, 4), (4, 3, 2, 3, 4), (1, 2, 1), (1, 0, 0), (2, 1, 1), 1),
    "even kernel": ((2, 3, 8, 9), (4, 3, 2, 4), (1, 1), (1, 2), (1, 1), 1),
    "8x8/4 rows of two and a half vectors": ((1, 3, 9, 84), (17, 3, 8, 8), (4, 4), (0, 0), (1, 1), 1),
    "rows of two and a half vectors": ((1, 3, 5, 40), (7, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "depthwise": ((2, 19, 14, 15), (19, 1, 3, 3), (1, 1), (1, 1), (1, 1), 19),
    "depthwise stride": ((2, 8, 15, 33), (8, 1, 3, 3), (2, 2), (1, 1), (1, 1), 8),
    "depthwise multiplier": ((2, 5, 9, 10), (15, 1, 3, 3), (1, 1), (1, 1), (1, 1), 5),
    "depthwise 5x5": ((1, 3, 12, 40), (3, 1, 5, 5), (1, 1), (2, 2), (1, 1), 3),
    "depthwise odd": ((1, 4, 11, 18), (4, 1, 4, 3), (3, 2), (2, 0, 1, 3), (2, 3), 4),
    "depthwise small": ((2, 6, 2, 2), (6, 1, 3, 3), (1, 1), (1, 1), (1, 1), 6),
    "depthwise plane": ((3, 21, 7, 7), (21, 1, 3, 3), (1, 1), (1, 1), (1, 1), 21),
    "depthwise plane 5x5": ((2, 9, 7, 7), (9, 1, 5, 5), (1, 1), (2, 2), (1, 1), 9),
    "depthwise plane dilation": ((2, 6, 13, 13), (12, 1, 3, 3), (1, 1), (2, 2), (2, 2), 6),
    "depthwise 7x7 wide": ((1, 9, 8, 19), (9, 1, 7, 7), (1, 1), (3, 3), (1, 1), 9),
    "depthwise 5x5/2": ((1, 9, 9, 15), (9, 1, 5, 5), (2, 2), (2, 1, 2, 3), (1, 1), 9),
    "depthwise 5x5/3 multiplier": ((1, 8, 9, 20), (16, 1, 5, 5), (3, 3), (2, 2), (1, 1), 8),
    "depthwise 1x5 more padding": ((1, 8, 3, 6), (8, 1, 1, 5), (1, 1), (0, 6), (1, 1), 8),
    "depthwise 5x5 narrow": ((1, 8, 6, 3), (8, 1, 5, 5), (1, 1), (2, 2), (1, 1), 8),
    "depthwise plane shorter": ((2, 5, 9, 6), (5, 1, 3, 5), (1, 1), (0, 2), (1, 1), 5),
    "depthwise plane 7x6": ((1, 3, 15, 14), (3, 1, 7, 6), (1, 1), (3, 3, 3, 2), (1, 1), 3),
    "1d depthwise same": ((2, 5, 13), (5, 1, 3), (1,), (1,), (1,), 5),
    "1d": ((3, 4, 50), (6, 4, 5), (1,), (2,), (1,), 1),
    "1d causal": ((2, 4, 31), (4, 4, 3), (1,), (4, 0), (2,), 1),
    "1d depthwise": ((2, 7, 65), (7, 1, 4), (1,), (3, 0), (1,), 7),
    "1d taps meet padding": ((2, 130, 20), (129, 130, 3), (1,), (8,), (8,), 1),
    "1d stride": ((2, 1, 400), (8, 1, 25), (10,), (0,), (1,), 1),
    "bands 1d": ((2, 40, 3001), (17, 40, 5), (1,), (2,), (1,), 1),
    "bands 1d stride": ((1, 33, 4000), (9, 33, 4), (3,), (1, 7), (2,), 1),
    "bands 1d few outputs": ((1, 8, 20011), (3, 8, 2), (5,), (0,), (1,), 1),
    "bands 1d groups padding": ((1, 48, 2500), (6, 24, 1), (1,), (400,), (1,), 2),
    "bands 2d": ((2, 40, 50, 45), (18, 40, 3, 4), (1, 1), (2, 1), (2, 1), 1),
    "bands 2d stride": ((1, 48, 50, 45), (9, 48, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "bands 2d stride beyond kernel": ((1, 50, 49, 47), (7, 50, 2, 2), (3, 3), (0, 1), (1, 1), 1),
    "bands 3d": ((1, 24, 18, 13, 15), (10, 24, 3, 2, 3), (1, 2, 1), (2, 1, 0), (1, 1, 2), 1),
    "3d": ((2, 3, 6, 7, 8), (5, 3, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    "3d all": ((1, 4, 9, 8, 11), (6, 2, 3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 2), 2),
    "3d 3x3x3": ((2, 16, 4, 9, 8), (18, 16, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    "3d depth stride": ((1, 16, 7, 8, 9), (16, 16, 2, 3, 3), (2, 1, 1), (1, 1, 1), (2, 1, 1), 1),
    "3d depthwise": ((1, 4, 5, 6, 7), (4, 1, 3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), 4),
    "3d 1x1": ((2, 5, 3, 4, 5), (6, 5, 1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
}
# "bands": planes of more than the 256 kB that the direct algorithm takes at a time.
# Winograd's transforms magnify rounding: they add terms up to about 10 times the result. See the file's head.
FACTORS = {"winograd": 128.0, "as_3x3": 128.0}


@pytest.fixture(params=backends())
def backend(request):
    module = kernels.load(request.param)
    yield module
    module.set_conv_algorithm("auto")
    module.set_num_threads(2)


def problem(geometry, dtype, seed=0):
    x_shape, w_shape, *options = GEOMETRIES[geometry] if isinstance(geometry, str) else geometry
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(x_shape).astype(dtype)
    w = rng.standard_normal(w_shape).astype(dtype)
    b = rng.standard_normal(w_shape[0]).astype(dtype)
    return x, w, b, options


def wide(*arrays):
    return [a.astype(np.float64) for a in arrays]


def check(module, geometry, dtype, factor=16.0):
    """Forward, the three gradients and the transpose, against the reference in float64."""
    x, w, b, options = problem(geometry, dtype)
    stride, padding, dilation, groups = options
    patch, taps = int(np.prod(w.shape[1:])), int(np.prod(w.shape[2:]))
    y = module.conv_forward(x, w, b, *options)
    assert y.dtype == dtype
    assert_close(y, reference.conv_forward(*wide(x, w, b), *options), patch, factor)
    assert_close(
        module.conv_forward(x, w, None, *options),
        reference.conv_forward(*wide(x, w), None, *options),
        patch,
        factor,
    )

    g = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    got = module.conv_backward(g, x, w, *options)
    want = reference.conv_backward(*wide(g, x, w), *options)
    positions = g.size // w.shape[0]
    for name, a, e, n in zip(
        ("grad_x", "grad_weight", "grad_bias"),
        got,
        want,
        (w.shape[0] // groups * taps, positions, positions),
        strict=True,
    ):
        assert a.dtype == dtype, name
        assert_close(a, e, n, factor)

    if len(padding) == len(stride):  # the transpose takes symmetric padding only
        extra = [min(s - 1, 1) for s in stride]
        sizes = zip(y.shape[2:], w.shape[2:], stride, padding, dilation, extra, strict=True)
        if min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in sizes) < 1:
            return  # padding larger than what the transpose makes
        want = reference.conv_transpose_forward(*wide(g, w), None, stride, padding, extra, dilation, groups)
        c = np.random.default_rng(2).standard_normal(want.shape[1]).astype(dtype)
        t = module.conv_transpose_forward(g, w, c, stride, padding, extra, dilation, groups)
        assert_close(
            t,
            want + c.astype(np.float64).reshape(-1, *[1] * len(stride)),
            w.shape[0] // groups * taps,
            factor,
        )
        gt = np.random.default_rng(3).standard_normal(t.shape).astype(dtype)
        got = module.conv_transpose_backward(gt, g, w, stride, padding, dilation, groups)
        want = reference.conv_transpose_backward(*wide(gt, g, w), stride, padding, dilation, groups)
        for a, e, n in zip(got, want, (patch, positions, gt.size // gt.shape[1]), strict=True):
            assert_close(a, e, n, factor)


def algorithms(module, geometry, dtype):
    x_shape, w_shape, *options = GEOMETRIES[geometry]
    listed = module.conv_algorithms(x_shape, w_shape, *options, dtype == np.float64)
    return [name for name, refusal in listed if not refusal]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_algorithm_matches_the_reference(backend, geometry, dtype):
    names = algorithms(backend, geometry, dtype)
    assert names[-1] == "im2col"
    for name in [*names, "auto"]:
        backend.set_conv_algorithm(name)
        check(backend, geometry, dtype, max(FACTORS.values()) if name == "auto" else FACTORS.get(name, 16.0))


@pytest.mark.parametrize(
    "geometry",
    [
        "3x3",
        "3x3 few tiles",
        "3x3 chunks",
        "stem",
        "lenet 2",
        "depthwise",
        "depthwise plane",
        "1x1 wide",
        "all at once",
        "3d all",
        "5x5",
        "images over lanes",
        "rows meet padding",
    ],
)
def test_threads_and_repeats_give_the_same_bits(backend, geometry):
    x, w, b, options = problem(geometry, np.float32)
    want_y = reference.conv_forward(*wide(x, w, b), *options)
    g = np.random.default_rng(1).standard_normal(want_y.shape).astype(np.float32)
    for threads in THREADS:
        backend.set_num_threads(threads)
        for name in algorithms(backend, geometry, np.float32):
            backend.set_conv_algorithm(name)
            first = [backend.conv_forward(x, w, b, *options), *backend.conv_backward(g, x, w, *options)]
            again = [backend.conv_forward(x, w, b, *options), *backend.conv_backward(g, x, w, *options)]
            for a, c in zip(first, again, strict=True):
                np.testing.assert_array_equal(a, c)
            assert_close(first[0], want_y, w[0].size, FACTORS.get(name, 16.0))
            want = reference.conv_backward(*wide(g, x, w), *options)
            for a, e in zip(first[1:], want, strict=True):
                assert_close(a, e, g.size // g.shape[1], FACTORS.get(name, 16.0))


def test_strided_and_readonly_inputs(backend):
    x, w, b, options = problem("3x3", np.float32)
    want = backend.conv_forward(x, w, b, *options)
    apart = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)[..., ::2]
    apart[...] = x
    fortran = np.asfortranarray(w)
    reverse = b[::-1].copy()[::-1]
    for array in (apart, fortran, reverse):
        array.flags.writeable = False
    np.testing.assert_array_equal(backend.conv_forward(apart, fortran, reverse, *options), want)
    g = np.broadcast_to(np.float32(0.5), want.shape)  # strides of zero, as from sum().backward()
    for got, expected in zip(
        backend.conv_backward(g, apart, fortran, *options),
        backend.conv_backward(np.ascontiguousarray(g), x, w, *options),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)


def test_only_needed_gradients_are_made(backend):
    x, w, _, options = problem("3x3", np.float32)
    y = backend.conv_forward(x, w, None, *options)
    everything = backend.conv_backward(y, x, w, *options)
    for needs in [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]:
        got = backend.conv_backward(y, x, w, *options, needs)
        for value, full, need in zip(got, everything, needs, strict=True):
            if need:
                np.testing.assert_array_equal(value, full)
            else:
                assert value is None


def test_no_writes_beyond_the_outputs(backend):
    backend.set_memory_guard(True)
    before = backend.memory_stats()["guard_errors"]
    for geometry in GEOMETRIES:
        x, w, b, options = problem(geometry, np.float32)
        for name in algorithms(backend, geometry, np.float32):
            backend.set_conv_algorithm(name)
            y = backend.conv_forward(x, w, b, *options)
            backend.conv_backward(y, x, w, *options)
            del y
    backend.set_memory_guard(False)
    assert backend.memory_stats()["guard_errors"] == before


@pytest.mark.parametrize(
    "geometry",
    ["3x3", "stem", "lenet 1", "depthwise", "depthwise plane", "1x1 wide", "1d", "3d", "images over lanes"],
)
def test_nan_and_infinity_reach_exactly_the_outputs_that_see_them(backend, geometry):
    x, w, _, options = problem(geometry, np.float32)
    for bad in (np.nan, np.inf):
        x.flat[x.size // 2] = bad
        with np.errstate(invalid="ignore"):
            want = reference.conv_forward(*wide(x, w), None, *options)
        for name in algorithms(backend, geometry, np.float32):
            if name in FACTORS:  # combines whole tiles: neighbours in the same tile become NaN as well
                continue
            backend.set_conv_algorithm(name)
            got = backend.conv_forward(x, w, None, *options)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            assert_close(got, want, w[0].size)


def test_long_sums_stay_accurate(backend):
    """A weight gradient over 200,000 pixels that have a mean: one running sum would lose three digits."""
    rng = np.random.default_rng(0)
    for x_shape, w_shape, groups in [
        ((8, 3, 160, 160), (4, 3, 3, 3), 1),
        ((8, 4, 160, 160), (4, 1, 3, 3), 4),
    ]:
        x = (rng.standard_normal(x_shape) + 1).astype(np.float32)
        w = rng.standard_normal(w_shape).astype(np.float32)
        g = (rng.standard_normal((8, 4, 160, 160)) + 1).astype(np.float32)
        options = ((1, 1), (1, 1), (1, 1), groups)
        want = reference.conv_backward(*wide(g, x, w), *options, (False, True, True))
        for name in [n for n, refusal in backend.conv_algorithms(x_shape, w_shape, *options) if not refusal]:
            backend.set_conv_algorithm(name)
            got = backend.conv_backward(g, x, w, *options, (False, True, True))
            for a, e in zip(got[1:], want[1:], strict=True):
                assert np.max(np.abs(a - e)) <= 2e-6 * np.max(np.abs(e)), name


def test_winograd_is_chosen_where_it_saves_more_than_it_costs(backend):
    def choice(direction, x, w):
        return backend.conv_choice(direction, x, w, (1, 1), (1, 1), (1, 1), 1)

    for x, w in [
        ((1, 256, 14, 14), (256, 256, 3, 3)),
        ((1, 512, 7, 7), (512, 512, 3, 3)),
        ((16, 64, 56, 56), (64, 64, 3, 3)),
    ]:
        assert choice("forward", x, w) == choice("grad_x", x, w) == "winograd"
    assert choice("grad_weight", (16, 64, 56, 56), (64, 64, 3, 3)) == "winograd"
    # One tile's weight gradient is all transforms; three channels do not pay for transforming 64.
    assert choice("grad_weight", (1, 512, 4, 4), (512, 512, 3, 3)) != "winograd"
    assert choice("forward", (8, 3, 32, 32), (64, 3, 3, 3)) != "winograd"


def test_gradient_of_a_kernel_as_wide_as_the_image_does_not_slide_over_it(backend):
    sentences, kernels_ = (32, 1, 50, 64), (50, 1, 3, 64)
    assert backend.conv_choice("grad_x", sentences, kernels_, (1, 1), (0, 0), (1, 1), 1) == "im2col"
    assert backend.conv_choice("forward", sentences, kernels_, (1, 1), (0, 0), (1, 1), 1) != "im2col"


def test_patches_are_multiplied_where_weights_are_many_or_pixels_few(backend):
    def choice(direction, x, w, stride, pad):
        return backend.conv_choice(direction, x, w, (stride,) * 2, (pad,) * 2, (1, 1), 1)

    assert choice("grad_weight", (1, 32, 40, 40), (32, 32, 11, 11), 1, 5) == "direct"
    assert choice("grad_weight", (1, 32, 12, 12), (32, 32, 7, 7), 1, 3) == "im2col"
    assert choice("grad_x", (1, 96, 28, 28), (192, 96, 2, 2), 2, 0) == "direct"
    assert choice("grad_x", (1, 384, 14, 14), (768, 384, 2, 2), 2, 0) == "im2col"
    assert choice("grad_x", (1, 256, 16, 16), (256, 256, 5, 5), 1, 2) == "im2col"
    assert choice("grad_x", (1, 16, 16, 16), (256, 16, 5, 5), 1, 2) == "direct"


@pytest.mark.parametrize("threads", THREADS)
def test_winograd_of_many_channels_and_tiles(backend, threads):
    """More than fits the caches at once: several groups of chunks, weight gradients summed over chunks."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 230, 34, 31)), rng.standard_normal((250, 230, 3, 3))
    options = ((1, 1), (1, 1), (1, 1), 1)
    g = rng.standard_normal((2, 250, 34, 31))
    backend.set_num_threads(threads)
    backend.set_conv_algorithm("direct")
    want = [backend.conv_forward(x, w, None, *options), *backend.conv_backward(g, x, w, *options)]
    backend.set_conv_algorithm("winograd")
    for a, e in zip(
        [backend.conv_forward(x, w, None, *options), *backend.conv_backward(g, x, w, *options)],
        want,
        strict=True,
    ):
        assert np.max(np.abs(a - e)) <= 2e-14 * np.max(np.abs(e))


@pytest.mark.parametrize(("channels", "size", "batch"), [(512, 7, 1), (256, 14, 1), (64, 56, 1), (64, 13, 4)])
def test_winograd_in_float32_keeps_five_digits(backend, channels, size, batch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, size, size)).astype(np.float32)
    w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    g = rng.standard_normal(x.shape).astype(np.float32)
    options = ((1, 1), (1, 1), (1, 1), 1)
    backend.set_conv_algorithm("im2col")
    want = [
        backend.conv_forward(*wide(x, w), None, *options),
        *backend.conv_backward(*wide(g, x, w), *options, (True, True, False))[:2],
    ]
    backend.set_conv_algorithm("winograd")
    got = [
        backend.conv_forward(x, w, None, *options),
        *backend.conv_backward(g, x, w, *options, (True, True, False))[:2],
    ]
    for a, e in zip(got, want, strict=True):
        assert np.max(np.abs(a - e)) <= 1e-5 * np.max(np.abs(e))


def test_empty_batch_and_no_channels(backend):
    w = np.ones((4, 3, 3, 3), np.float32)
    x = np.zeros((0, 3, 8, 8), np.float32)
    options = ((1, 1), (1, 1), (1, 1), 1)
    y = backend.conv_forward(x, w, None, *options)
    assert y.shape == (0, 4, 8, 8)
    gx, gw, gb = backend.conv_backward(y, x, w, *options)
    assert gx.shape == x.shape
    assert not gw.any()
    assert not gb.any()
    b = np.arange(4, dtype=np.float32)
    y = backend.conv_forward(
        np.zeros((2, 0, 8, 8), np.float32), np.zeros((4, 0, 3, 3), np.float32), b, *options
    )
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], (2, 4, 8, 8)))


@pytest.mark.parametrize(
    "arguments",
    [
        ((1, 3, 4, 4), (2, 4, 3, 3), (1, 1), (0, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 5, 5), (1, 1), (0, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (0, 1), (0, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1, 1), (-1, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1, 1), (0, 0, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1,), (0, 0), (1, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1, 1), (0, 0), (1, 0), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1, 1), (0, 0), (2**62, 1), 1),
        ((1, 3, 4, 4), (2, 3, 3, 3), (1, 1), (0, 0), (1, 1), 0),
        ((1, 4, 4, 4), (3, 2, 3, 3), (1, 1), (0, 0), (1, 1), 2),
        ((1, 3, 4, 4), (2, 3, 3), (1, 1), (0, 0), (1, 1), 1),
        ((3, 4), (2, 3), (), (), (), 1),
        ((1, 3, 4, 4, 4, 4), (2, 3, 3, 3, 3, 3), (1,) * 4, (0,) * 4, (1,) * 4, 1),
    ],
)
def test_the_binding_refuses_what_does_not_fit(backend, arguments):
    x, w, *options = arguments
    with pytest.raises((ValueError, TypeError)):
        backend.conv_forward(np.zeros(x, np.float32), np.zeros(w, np.float32), None, *options)


def test_the_binding_checks_the_other_arrays(backend):
    x, w, b, options = problem("3x3", np.float32)
    y = backend.conv_forward(x, w, b, *options)
    with pytest.raises(ValueError, match="bias"):
        backend.conv_forward(x, w, b[1:], *options)
    with pytest.raises(TypeError, match="weight must be float32"):
        backend.conv_forward(x, w.astype(np.float64), b, *options)
    with pytest.raises(ValueError, match="grad_y has the wrong shape"):
        backend.conv_backward(y[:, :, 1:], x, w, *options)
    stride, padding, dilation, groups = options
    with pytest.raises(ValueError, match="grad_y has the wrong shape"):
        backend.conv_transpose_backward(x[:, :, 3:], y, w, stride, padding, dilation, groups)
    with pytest.raises(ValueError, match=r"must be one of auto, .*im2col, got 'fft'"):
        backend.set_conv_algorithm("fft")


# ------------------------------------------------------------------------------------------ CUDA, under emulation

emulated = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)


def cuda_algorithms(geometry):
    """The algorithms that do this on CUDA (fastdl/kernels/cuda/conv.py)."""
    _, weight, stride, padding, _, _ = GEOMETRIES[geometry]
    names = ["direct", "im2col"]
    if set(weight[2:]) == set(stride) == {1} and not any(padding):
        names.append("pointwise")
    if weight[1] == 1:
        names.append("depthwise")
    return names


def tf32(x):
    """Rounded to TF32's 10 bits, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)


@emulated
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_cuda_algorithm_matches_the_reference(geometry, dtype):
    for name in [*cuda_algorithms(geometry), "auto"]:
        with fastdl.conv_algorithm(name):
            check(emulation.backend(), geometry, dtype)


@emulated
@pytest.mark.parametrize(
    "geometry", ["1x1 wide", "3x3 some tiles", "3x3 stride", "all at once", "3d all", "stride beyond kernel"]
)
def test_cuda_rounds_to_tf32_once_where_that_is_allowed(geometry, monkeypatch):
    cuda = emulation.backend()
    x, w, b, options = problem(geometry, np.float32)
    with fastdl.conv_algorithm("direct"):
        exact = cuda.conv_forward(x, w, b, *options)
        g = np.random.default_rng(1).standard_normal(exact.shape).astype(np.float32)
        monkeypatch.setattr(kernels.precisions, "convolution", "high")
        y = cuda.conv_forward(x, w, b, *options)
        got = cuda.conv_backward(g, x, w, *options)
    assert np.max(np.abs(y - exact)) > 1e-5, "tensor cores were not used"
    x_, w_, g_ = tf32(x), tf32(w), tf32(g)
    assert_close(y, reference.conv_forward(*wide(x_, w_, b), *options), w[0].size)
    for a, e in zip(got[:2], reference.conv_backward(*wide(g_, x_, w_), *options)[:2], strict=True):
        assert_close(a, e, g.size // g.shape[1])


@emulated
def test_cuda_tall_tiles(monkeypatch):
    """Tiles of 128 rows, which are taken where there are enough of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 106, 107)).astype(np.float32)
    w = rng.standard_normal((130, 5, 1, 1)).astype(np.float32)
    monkeypatch.setattr(kernels.precisions, "convolution", "high")
    with fastdl.conv_algorithm("direct"):
        y = emulation.backend().conv_forward(x, w, None, (1, 1), (0, 0), (1, 1), 1)
    assert_close(y, reference.conv_forward(*wide(tf32(x), tf32(w)), None, (1, 1), (0, 0), (1, 1), 1), 5)


@emulated
def test_cuda_long_sums_are_cut_into_parts():
    """A weight gradient over 60,000 pixels that have a mean, in parts added in order."""
    rng = np.random.default_rng(0)
    cuda = emulation.backend()
    for w_shape, groups in (((4, 3, 3, 3), 1), ((3, 1, 3, 3), 3)):
        x = (rng.standard_normal((6, 3, 100, 100)) + 1).astype(np.float32)
        w = rng.standard_normal(w_shape).astype(np.float32)
        g = (rng.standard_normal((6, w_shape[0], 100, 100)) + 1).astype(np.float32)
        arguments = ((1, 1), (1, 1), (1, 1), groups, (False, True, True))
        want = reference.conv_backward(*wide(g, x, w), *arguments)
        got = cuda.conv_backward(g, x, w, *arguments)
        for a, e in zip(got[1:], want[1:], strict=True):
            assert np.max(np.abs(a - e)) <= 2e-6 * np.max(np.abs(e))


# Few channels of a group: whole planes and bands of them, results and pairs over several blocks, ends of runs that are
# not whole accesses, kernels that reach beyond the image on both sides, strides in all phases.
PLANES = {
    "bands": ((2, 3, 61, 30), (3, 1, 3, 3), (1, 1), (1, 1), (1, 1), 3),
    "bands stride": ((1, 2, 75, 33), (2, 1, 3, 3), (2, 2), (1, 0), (1, 1), 2),
    "bands of groups": ((1, 8, 37, 29), (12, 4, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "bands 5x5 stride": ((1, 4, 58, 23), (4, 2, 5, 5), (2, 2), (2, 1), (1, 1), 2),
    "units": ((3, 37, 7, 7), (37, 1, 3, 3), (1, 1), (1, 1), (1, 1), 37),
    "units stride": ((3, 21, 7, 9), (21, 1, 3, 3), (2, 2), (1, 1), (1, 1), 21),
    "multiplier": ((2, 6, 9, 11), (24, 1, 3, 3), (1, 1), (1, 1), (1, 1), 6),
    "multiplier stride": ((2, 3, 10, 9), (9, 1, 5, 5), (2, 2), (2, 2), (1, 1), 3),
    "groups of 4": ((2, 16, 14, 14), (16, 4, 3, 3), (1, 1), (1, 1), (1, 1), 4),
    "groups of 8 stride": ((2, 16, 13, 14), (16, 8, 3, 3), (2, 2), (1, 1), (1, 1), 2),
    "7x7": ((2, 5, 15, 14), (5, 1, 7, 7), (1, 1), (3, 3), (1, 1), 5),
    "7x7 bands": ((1, 2, 40, 39), (2, 1, 7, 7), (1, 1), (3, 3), (1, 1), 2),
    "first layer": ((2, 3, 33, 35), (16, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "lenet": ((3, 6, 14, 14), (16, 6, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "far padding": ((1, 2, 5, 6), (2, 1, 3, 3), (1, 1), (4, 5), (1, 1), 2),
    "far padding stride": ((1, 2, 5, 6), (2, 1, 3, 3), (2, 2), (4, 5), (1, 1), 2),
    "asymmetric": ((1, 3, 12, 11), (3, 1, 3, 3), (1, 1), (1, 0, 2, 1), (1, 1), 3),
    "one pixel": ((2, 4, 1, 1), (4, 1, 3, 3), (1, 1), (1, 1), (1, 1), 4),
    "one row": ((1, 2, 3, 400), (2, 1, 3, 3), (1, 1), (0, 1), (1, 1), 2),
    "rows too long": ((1, 2, 3, 5000), (2, 1, 3, 3), (1, 1), (0, 1), (1, 1), 2),
}


@emulated
@pytest.mark.parametrize("geometry", PLANES)
def test_cuda_planes_match_the_reference(geometry):
    with fastdl.conv_algorithm("depthwise"):
        check(emulation.backend(), PLANES[geometry], np.float32)


@emulated
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("geometry", PLANES)
def test_cuda_planes_in_16_bits_from_any_address(geometry, dtype):
    """Within one rounding of the result, for arrays that begin anywhere within 16 bytes; the same bits twice."""
    dtype = np.dtype(dtype if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16)
    cuda = emulation.backend()
    eps = 2.0 ** (-11 if dtype == np.float16 else -8)
    x, w, b, options = problem(PLANES[geometry], np.float32)

    def moved(a, by):
        flat = np.zeros(a.size + by, dtype)[by:]
        flat[...] = a.reshape(-1).astype(dtype)
        return flat.reshape(a.shape)

    x, w, b = moved(x, 3), moved(w, 1), moved(b, 1)
    g = np.random.default_rng(1).standard_normal(reference.conv_forward(*wide(x, w, b), *options).shape)
    g = moved(g, 5)
    with fastdl.conv_algorithm("depthwise"):
        got = [cuda.conv_forward(x, w, b, *options), *cuda.conv_backward(g, x, w, *options)[:2]]
        again = [cuda.conv_forward(x, w, b, *options), *cuda.conv_backward(g, x, w, *options)[:2]]
    want = [
        reference.conv_forward(*wide(x, w, b), *options),
        *reference.conv_backward(*wide(g, x, w), *options)[:2],
    ]
    for a, a_again, e in zip(got, again, want, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, a_again)
        np.testing.assert_allclose(wide(a)[0], e, rtol=eps, atol=1e-5 * max(1.0, np.abs(e).max()))


@emulated
def test_cuda_planes_are_taken_for_few_channels():
    cuda = emulation.extension()
    forward, grad_x, grad_weight = range(3)

    def suits(x, w, stride, groups, part=forward, dtype=0):
        p = cuda.conv_problem("conv", x, w, (stride, stride), (1, 1), (1, 1), groups)
        return cuda.conv_planes_suit(dtype, p, part)

    for part in (forward, grad_x, grad_weight):
        assert suits((8, 128, 56, 56), (128, 4, 3, 3), 1, 32, part)
        assert suits((16, 32, 112, 112), (32, 1, 3, 3), 2, 32, part)
        assert not suits((16, 64, 56, 56), (64, 64, 3, 3), 1, 1, part)
        assert not suits((16, 32, 112, 112), (32, 1, 3, 3), 3, 32, part)
        assert not suits((16, 32, 112, 112), (32, 1, 3, 3), 1, 32, part, dtype=3)
    assert suits((1, 6, 14, 14), (16, 6, 5, 5), 1, 1)
    assert suits((8, 3, 224, 224), (32, 3, 3, 3), 2, 1)
    assert not suits((32, 256, 56, 56), (256, 32, 3, 3), 1, 8)


@emulated
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "w", "groups"),
    [
        ((3, 8, 6, 6), (12, 8, 1, 1), 1),
        ((3, 8, 6, 6), (12, 4, 1, 1), 2),
        ((2, 24, 4, 2), (24, 4, 1, 1), 6),
        ((5, 8, 1, 1), (12, 8, 1, 1), 1),
        ((5, 8, 7, 7), (12, 8, 1, 1), 1),
        ((2, 8, 16), (4, 8, 1), 1),
    ],
)
def test_cuda_products_of_images(x, w, groups, dtype, monkeypatch):
    """1x1 kernels by cuBLAS (here: NumPy) and otherwise, with one rounding, bias included."""
    monkeypatch.setattr(kernels.precisions, "convolution", "high")
    dtype = np.dtype(dtype if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16)
    cuda = emulation.backend()
    eps = {"float32": 1e-3, "float64": 1e-14, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype.name]
    axes = len(x) - 2
    options = ((1,) * axes, (0,) * axes, (1,) * axes, groups)
    rng = np.random.default_rng(0)
    x, w, b, g = (
        rng.standard_normal(n).astype(np.float32).astype(dtype) for n in (x, w, w[0], (x[0], w[0], *x[2:]))
    )
    for name in ("auto", "pointwise", "direct"):
        with fastdl.conv_algorithm(name):
            got = [cuda.conv_forward(x, w, b, *options), *cuda.conv_backward(g, x, w, *options)[:2]]
        want = [
            reference.conv_forward(*wide(x, w, b), *options),
            *reference.conv_backward(*wide(g, x, w), *options)[:2],
        ]
        # The plain products of weights are rounded for each image before they are added.
        for i, (a, e) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == dtype
            factor = 4 * len(x) if name == "pointwise" and i == 2 else 1
            scale = max(1e-6, eps if dtype == np.float32 or factor > 1 else 0) * np.abs(e).max()
            np.testing.assert_allclose(wide(a)[0], e, rtol=factor * eps, atol=factor * scale)


@emulated
def test_cuda_takes_what_the_cpu_takes():
    cuda = emulation.backend()
    test_empty_batch_and_no_channels(cuda)
    test_only_needed_gradients_are_made(cuda)
    test_strided_and_readonly_inputs(cuda)
    # 49 by 2 interleaved images: too many, so the gradient of x goes by columns.
    check(cuda, ((2, 3, 60, 9), (4, 3, 49, 2), (49, 2), (2, 1), (1, 1), 1), np.float32)


@emulated
def test_cuda_refuses_what_does_not_fit():
    cuda = emulation.backend()
    x, w, b, options = problem("3x3", np.float32)
    with pytest.raises(ValueError, match="bias must have one entry per output channel"):
        cuda.conv_forward(x, w, b[1:], *options)
    with pytest.raises(TypeError, match="weight must be float32"):
        cuda.conv_forward(x, w.astype(np.float64), b, *options)
    with pytest.raises(ValueError, match="the input's channels differ"):
        cuda.conv_forward(x[:, 1:], w, b, *options)
    with pytest.raises(ValueError, match="grad_y has the wrong shape"):
        cuda.conv_backward(x[:, 1:], x, w, *options)
    with pytest.raises(ValueError, match="grad_y has the wrong shape"):
        cuda.conv_transpose_backward(
            x[:, :, 3:], cuda.conv_forward(x, w, b, *options), w, *options[:3], options[3]
        )
    x, w, b, options = problem("3x3 dilation", np.float32)
    for name, reason in (
        ("winograd", "it has no CUDA kernels; those are direct, pointwise, depthwise and im2col"),
        ("pointwise", "1x1 kernels with stride 1"),
        ("depthwise", "groups of one input channel"),
    ):
        with fastdl.conv_algorithm(name), pytest.raises(ValueError, match=reason):
            cuda.conv_forward(x, w, b, *options)

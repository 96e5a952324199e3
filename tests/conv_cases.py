"""Convolutions that every kernel must do, and how they are checked against the reference."""

from __future__ import annotations

import numpy as np

from fastdl.kernels import reference
from parity import assert_close

# (x, weight, stride, padding, dilation, groups). Sizes of 1, odd sizes, sizes around the vectors' (4, 8, 16)
# and register tiles, kernels that stick out, strides that leave a rest, every option alone and together.
GEOMETRIES = {
    "1x1": ((2, 3, 5, 7), (4, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 stride": ((2, 17, 9, 6), (15, 17, 1, 1), (2, 3), (0, 0), (1, 1), 1),
    "1x1 one channel": ((2, 1, 9, 13), (35, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 few channels stride": ((2, 3, 9, 13), (35, 3, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "1x1 dot products": ((3, 5, 23, 31), (7, 5, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 dot products groups": ((2, 6, 9, 33), (26, 3, 1, 1), (1, 1), (0, 0), (1, 1), 2),
    "1x1 plane by number": ((2, 5, 23, 29), (5, 1, 1, 1), (1, 1), (0, 0), (1, 1), 5),
    "1x1 planes by numbers": ((2, 5, 23, 29), (10, 1, 1, 1), (1, 1), (0, 0), (1, 1), 5),
    "1x1 pad": ((1, 3, 4, 4), (2, 3, 1, 1), (1, 1), (1, 2), (1, 1), 1),
    "1x1 sums in parts": ((3, 40, 35, 33), (36, 20, 1, 1), (1, 1), (0, 0), (1, 1), 2),
    "1x1 sums in parts of small images": ((16, 40, 11, 13), (36, 20, 1, 1), (1, 1), (0, 0), (1, 1), 2),
    "1x1 rows as they lie, at their limits": ((8, 128, 16, 12), (30, 128, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 rows beyond their limits": ((8, 129, 191, 1), (30, 129, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 rows of no whole vectors": ((6, 127, 193, 1), (33, 127, 1, 1), (1, 1), (0, 0), (1, 1), 1),
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
    "few outputs long sums": ((2, 70, 11, 29), (3, 70, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "few outputs": ((2, 36, 9, 11), (4, 18, 3, 2), (1, 1), (1, 0, 2, 1), (2, 1), 2),
    "few outputs 3d": ((2, 40, 4, 5, 6), (2, 40, 3, 2, 3), (1, 1, 1), (1, 1, 0), (1, 2, 1), 1),
    "few outputs far padding": ((1, 40, 5, 6), (3, 40, 3, 3), (1, 1), (4, 1), (1, 1), 1),
    "rows of some strips": ((1, 3, 5, 600), (7, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "patches": ((2, 3, 28, 44), (17, 3, 4, 4), (4, 4), (0, 0), (1, 1), 1),
    "rows apart in grad_x": ((2, 6, 9, 40), (7, 6, 3, 1), (2, 1), (1, 0), (1, 1), 1),
    "neighbouring taps of stride 2": ((2, 3, 9, 75), (66, 3, 4, 5), (2, 2), (1, 2), (1, 1), 1),
    "few of many": ((1, 7, 8, 8), (40, 7, 4, 4), (2, 2), (1, 1), (1, 1), 1),
    "weights outnumber patches": ((2, 130, 6, 7), (230, 130, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "halves": ((2, 3, 12, 40), (17, 3, 2, 2), (2, 2), (0, 0), (1, 1), 1),
    "fours overlap": ((1, 3, 9, 64), (5, 3, 7, 7), (3, 3), (3, 3), (1, 1), 1),
    "signals": ((16, 8, 1, 35), (9, 8, 1, 5), (1, 1), (0, 2), (1, 1), 1),
    "depthwise signal": ((2, 20, 1, 150), (20, 1, 1, 7), (1, 1), (0, 3), (1, 1), 20),
    "depthwise few rows": ((2, 17, 3, 70), (34, 1, 3, 5), (1, 1), (1, 2), (1, 1), 17),
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
    "stride 3, rows of some vectors": ((2, 5, 11, 120), (19, 5, 5, 4), (3, 3), (2, 1), (1, 1), 1),
    "stride 2, dilation 2": ((2, 5, 19, 43), (18, 5, 3, 3), (2, 2), (1, 2), (2, 2), 1),
    "stride 2, dilation 3, one output": ((3, 7, 17, 41), (1, 7, 3, 2), (2, 2), (3, 1), (3, 3), 1),
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
    "depthwise bands": ((2, 8, 30, 33), (16, 1, 5, 5), (1, 1), (2, 2), (1, 1), 8),
    "depthwise bands stride": ((1, 8, 59, 41), (8, 1, 4, 5), (2, 3), (1, 2), (2, 1), 8),
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
    "depthwise 4x4/2 narrow results": ((2, 8, 5, 6), (16, 1, 4, 4), (2, 2), (1, 1), (1, 1), 8),
    "depthwise 3x5, stride 4 and 6, dilation 2 and 4": (
        (2, 8, 25, 30),
        (8, 1, 3, 5),
        (4, 6),
        (3, 4),
        (2, 4),
        8,
    ),
    "depthwise 3d stride": ((2, 8, 5, 7, 6), (8, 1, 3, 3, 2), (2, 2, 2), (1, 1, 0), (1, 1, 1), 8),
    "depthwise 2x2/3": ((2, 8, 7, 8), (8, 1, 2, 2), (3, 3), (0, 1), (1, 1), 8),
    "depthwise meets padding alone": ((2, 8, 1, 5), (8, 1, 1, 3), (3, 2), (1, 1), (1, 1), 8),
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
    "weights beyond L2, images together": ((5, 120, 7, 6), (250, 120, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "weights beyond L2, stride": ((3, 120, 11, 15), (250, 120, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "weights beyond L2, bands": ((1, 120, 46, 45), (250, 120, 3, 3), (2, 1), (1, 1), (1, 1), 1),
    "bands 3d": ((1, 24, 18, 13, 15), (10, 24, 3, 2, 3), (1, 2, 1), (2, 1, 0), (1, 1, 2), 1),
    "3d": ((2, 3, 6, 7, 8), (5, 3, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    "3d all": ((1, 4, 9, 8, 11), (6, 2, 3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 2), 2),
    "3d 3x3x3": ((2, 16, 4, 9, 8), (18, 16, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    "3d depth stride": ((1, 16, 7, 8, 9), (16, 16, 2, 3, 3), (2, 1, 1), (1, 1, 1), (2, 1, 1), 1),
    "3d depthwise": ((1, 4, 5, 6, 7), (4, 1, 3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), 4),
    "3d 1x1": ((2, 5, 3, 4, 5), (6, 5, 1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
}
# "bands": planes of more than the 256 kB that the direct algorithm takes at a time (with weights beyond L2 at
# AVX-512 1 MB); depthwise, than the 32 kB that weight gradients of channels side by side do.
# Winograd's transforms magnify rounding: they add terms up to about 10 times the result.
FACTORS = {"winograd": 128.0, "as_3x3": 128.0}


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

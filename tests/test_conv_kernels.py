"""Kernels of convolution: every algorithm on every level against the reference."""

from __future__ import annotations

import time

import numpy as np
import pytest

from conv_cases import FACTORS, GEOMETRIES, check, problem, wide
from fastdl import kernels
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends


@pytest.fixture(params=backends())
def backend(request):
    module = kernels.load(request.param)
    yield module
    module.set_conv_algorithm("auto")
    module.set_num_threads(2)


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
        "1x1 dot products",
        "1x1 sums in parts",
        "1x1 sums in parts of small images",
        "1x1 rows as they lie, at their limits",
        "1x1 rows of no whole vectors",
        "1x1 planes by numbers",
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("row", [1, 2, 3, 5, 9, 13])
def test_patches_of_short_rows(backend, row, stride, dtype):
    """Rows gathered by index and rows copied, some of whose taps meet padding, of images taken together."""
    rng = np.random.default_rng(row * 8 + stride)
    backend.set_conv_algorithm("im2col")
    for kernel, dilation, padding in [(1, 1, 0), (3, 1, 0), (3, 2, 2), (5, 1, 2), (4, 1, 3)]:
        size = max((row - 1) * stride + (kernel - 1) * dilation + 1 - 2 * padding, 1)
        x = rng.standard_normal((3, 10, 4, size + 1, size)).astype(dtype)
        w = rng.standard_normal((6, 5, 2, kernel, kernel)).astype(dtype)
        b = rng.standard_normal(6).astype(dtype)
        options = ((1, stride, stride), (1, padding, padding), (1, dilation, dilation), 2)
        want = reference.conv_forward(*wide(x, w, b), *options)
        assert_close(backend.conv_forward(x, w, b, *options), want, w[0].size)
        g = rng.standard_normal(want.shape).astype(dtype)
        gradients = backend.conv_backward(g, x, w, *options)
        for ours, theirs in zip(gradients, reference.conv_backward(*wide(g, x, w), *options), strict=True):
            assert_close(ours, theirs, g.size // 6)


@pytest.mark.parametrize(
    ("name", "dtype"), [("direct", np.float32), ("direct", np.float64), ("depthwise", np.float32)]
)
@pytest.mark.parametrize("stride", [2, 3, 4, 5])
def test_rows_taken_apart(backend, stride, name, dtype):
    """Every remainder of the stride has its plane: rows of all lengths around vectors', padding, taps left out."""
    rng = np.random.default_rng(stride)
    backend.set_conv_algorithm(name)
    for kernel, dilation, padding in [
        (1, 1, (0, 0)),
        (3, 1, (1, 1)),
        (3, 2, (2, 3)),
        (4, 3, (5, 0)),
        (7, 1, (3, 3)),
        (2, 1, (0, 6)),
    ]:
        for row in [1, 2, 4, 7, 8, 9, 15, 16, 17, 31, 33, 50]:
            size = max((row - 1) * stride + (kernel - 1) * dilation + 1 - sum(padding), 1)
            x = rng.integers(-4, 5, (2, 3, 3, size + row % stride)).astype(dtype)
            groups, out = (3, 3) if name == "depthwise" else (1, 20)
            w = rng.integers(-4, 5, (out, 3 // groups, 2, kernel)).astype(dtype)
            options = ((1, stride), (0, 0, *padding), (1, dilation), groups)
            want = reference.conv_forward(x, w, None, *options)
            np.testing.assert_array_equal(backend.conv_forward(x, w, None, *options), want)
            g = rng.integers(-4, 5, want.shape).astype(dtype)
            gradients = backend.conv_backward(g, x, w, *options)
            for ours, theirs in zip(gradients, reference.conv_backward(g, x, w, *options), strict=True):
                np.testing.assert_array_equal(ours, theirs)


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


def test_the_choice_is_what_is_faster_by_far(backend):
    def choice(direction, x, w, stride, pad):
        return backend.conv_choice(direction, x, w, (stride,) * 2, (pad,) * 2, (1, 1), 1)

    assert choice("grad_weight", (1, 384, 14, 14), (768, 384, 2, 2), 2, 0) == "im2col"
    assert choice("grad_x", (1, 96, 28, 28), (192, 96, 2, 2), 2, 0) == "im2col"
    assert choice("grad_x", (1, 3, 32, 32), (128, 3, 4, 4), 2, 1) == "im2col"
    assert choice("grad_x", (1, 384, 14, 14), (768, 384, 2, 2), 2, 0) == "im2col"
    # Few output channels leave rows of im2col's tiles empty; direct puts the input channels into its lanes.
    assert choice("grad_weight", (1, 139, 70, 70), (2, 139, 3, 3), 1, 1) == "direct"
    assert choice("grad_weight", (32, 30, 35, 35), (6, 30, 7, 7), 1, 0) == "interleaved"
    # Winograd's transforms of many positions cost more than the products of 16 channels they save.
    assert choice("grad_weight", (8, 32, 61, 51), (16, 32, 3, 3), 1, 1) != "winograd"
    # Patches are added to the image row by row, and a row of few pixels takes as long to begin as to add.
    assert choice("grad_x", (3, 512, 13, 13), (8, 512, 11, 11), 2, 0) != "im2col"
    assert choice("grad_x", (4, 397, 20, 20), (24, 397, 3, 3), 3, 1) != "im2col"


def test_many_results_of_a_plane_are_products(backend):
    def choice(direction, groups, results):
        return backend.conv_choice(
            direction, (2, groups, 40, 40), (groups * results, 1, 3, 3), (2, 2), (1, 1), (1, 1), groups
        )

    for direction in ["forward", "grad_x", "grad_weight"]:
        assert choice(direction, 32, 2) == choice(direction, 128, 8) == "depthwise"
        assert choice(direction, 2, 200) != "depthwise"
    assert choice("grad_x", 2, 200) == "im2col"


def test_planes_times_numbers_are_products_unless_small(backend):
    def choice(direction, *image):
        return backend.conv_choice(direction, (8, 32, *image), (32, 1, 1, 1), (1, 1), (0, 0), (1, 1), 32)

    assert choice("forward", 32, 32) == choice("grad_x", 32, 32) == "pointwise"
    assert choice("forward", 7, 7) == choice("grad_weight", 32, 32) == "depthwise"


def test_weight_gradients_of_few_channels_read_rows_as_they_lie(backend):
    """Packed for the matrix engine they took more than twice as long as by direct; a tenth of it is usual."""
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((8, 2, 100, 100), np.float32) for _ in range(2))
    w = np.ones((2, 2, 1, 1), np.float32)
    least = dict.fromkeys(["pointwise", "direct"], float("inf"))
    for _ in range(20):
        for name in least:
            backend.set_conv_algorithm(name)
            start = time.perf_counter()
            backend.conv_backward(g, x, w, (1, 1), (0, 0), (1, 1), 1, (False, True, False))
            least[name] = min(least[name], time.perf_counter() - start)
    assert least["pointwise"] < least["direct"]


def test_a_choice_is_quick_for_strides_as_long_as_signals(backend):
    """There are 40,000 lattices here, all alike, and 1.6 billion pairs of taps and places, of which 40,000 meet."""
    x, w, options = (1, 2, 1, 80_000), (3, 2, 1, 40_000), ((1, 40_000), (0, 0), (1, 1), 1)
    start = time.perf_counter()
    backend.conv_choice("grad_x", x, w, *options)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("threads", THREADS)
def test_winograd_of_many_channels_and_tiles(backend, threads):
    """More than fits the caches at once: several groups of chunks, weight gradients summed over chunks."""
    rng = np.random.default_rng(0)
    shapes = ((2, 230, 34, 31), (250, 230, 3, 3), (2, 250, 34, 31))
    x, w, g = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    options = ((1, 1), (1, 1), (1, 1), 1)
    backend.set_num_threads(threads)
    backend.set_conv_algorithm("direct")
    want = [
        backend.conv_forward(*wide(x, w), None, *options),
        *backend.conv_backward(*wide(g, x, w), *options),
    ]
    backend.set_conv_algorithm("winograd")
    for a, e in zip(
        [backend.conv_forward(x, w, None, *options), *backend.conv_backward(g, x, w, *options)],
        want,
        strict=True,
    ):
        assert np.max(np.abs(a - e)) <= 1e-5 * np.max(np.abs(e))


@pytest.mark.parametrize("name", ["winograd", "as_3x3", "interleaved"])
def test_algorithms_of_float32_alone_say_so(backend, name):
    x, w = np.ones((1, 4, 8, 8)), np.ones((4, 4, 3, 3))
    backend.set_conv_algorithm(name)
    with pytest.raises(ValueError, match=f"'{name}' cannot do this: it computes float32 alone"):
        backend.conv_forward(x, w, None, (1, 1), (1, 1), (1, 1), 1)


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

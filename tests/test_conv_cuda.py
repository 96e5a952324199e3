"""CUDA's kernels of convolution, under emulation: every algorithm against the reference."""

from __future__ import annotations

import numpy as np
import pytest

import emulation
import fastdl
import test_conv_kernels as on_cpu
from conv_cases import GEOMETRIES, check, problem, wide
from fastdl import kernels
from fastdl.kernels import reference
from parity import assert_close

emulated = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)


def cuda_algorithms(geometry):
    """The algorithms that do this on CUDA (fastdl/kernels/cuda/conv_problem.py)."""
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


# Few channels of a group: whole planes and bands of them, tiles of packs and of elements, results and pairs over more
# blocks than one, ends of runs that are not whole accesses, kernels that reach beyond the image on both sides, strides
# in all phases.
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
    "packs": ((3, 5, 9, 12), (5, 1, 3, 3), (1, 1), (1, 1), (1, 1), 5),
    "packs stride": ((2, 3, 11, 16), (3, 1, 3, 3), (2, 2), (1, 1), (1, 1), 3),
    "packs 5x5": ((2, 3, 6, 8), (3, 1, 5, 5), (1, 1), (2, 2), (1, 1), 3),
    "packs 5x5 stride": ((1, 3, 13, 24), (3, 1, 5, 5), (2, 2), (2, 2), (1, 1), 3),
    "packs 5x5 stride, results by elements": ((1, 3, 13, 20), (3, 1, 5, 5), (2, 2), (2, 2), (1, 1), 3),
    "packs 7x7": ((1, 4, 10, 16), (4, 1, 7, 7), (1, 1), (3, 3), (1, 1), 4),
    "many tiles": ((5, 2, 61, 60), (2, 1, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "odd and even padding, stride": ((2, 3, 11, 9), (3, 1, 3, 3), (2, 2), (1, 2), (1, 1), 3),
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
    cuda = emulation.used()
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
        # The plain products of weights are rounded for each image before they are added; a small one of cuBLAS's own
        # before it is added to the bias.
        for i, (a, e) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == dtype
            factor = 4 * len(x) if name == "pointwise" and i == 2 else 1
            if i == 0 and name != "direct" and emulation.on_gpu():
                factor = 2
            scale = max(1e-6, eps if dtype == np.float32 or factor > 1 else 0) * np.abs(e).max()
            np.testing.assert_allclose(wide(a)[0], e, rtol=factor * eps, atol=factor * scale)


@emulated
def test_cuda_takes_what_the_cpu_takes():
    cuda = emulation.backend()
    on_cpu.test_empty_batch_and_no_channels(cuda)
    on_cpu.test_only_needed_gradients_are_made(cuda)
    on_cpu.test_strided_and_readonly_inputs(cuda)
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


@emulated
def test_cuda_transposed_output_of_padding_alone_has_gradients():
    cuda, one = emulation.backend(), np.ones((1, 1, 1), np.float32)
    options = (3,), (1,), (1,), 1
    got = cuda.conv_transpose_backward(one, one, one, *options)
    want = reference.conv_transpose_backward(one, one, one, *options)
    for mine, right in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, right)


@emulated
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "w", "stride", "groups"),
    [
        ((3, 8, 7, 9), (12, 8, 1, 1), (2, 2), 1),
        ((2, 8, 6), (6, 4, 1), (3,), 2),
        ((2, 4, 5, 6, 7), (8, 4, 1, 1, 1), (1, 2, 3), 1),
        ((2, 6, 1, 5), (6, 1, 1, 1), (2, 2), 6),
    ],
)
def test_cuda_1x1_kernels_with_strides(x, w, stride, groups, dtype):
    """A plain product with what they see of x; places that they do not see have no gradient."""
    dtype = np.dtype(dtype if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16)
    cuda = emulation.backend()
    options = (stride, (0,) * len(stride), (1,) * len(stride), groups)
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(n).astype(np.float32).astype(dtype) for n in (x, w, w[0]))
    y = reference.conv_forward(*wide(x, w, b), *options)
    g = rng.standard_normal(y.shape).astype(np.float32).astype(dtype)
    eps = {"float32": 1e-3, "float64": 1e-14, "bfloat16": 2.0**-7}[dtype.name]
    got = [cuda.conv_forward(x, w, b, *options), *cuda.conv_backward(g, x, w, *options)]
    want = [y, *reference.conv_backward(*wide(g, x, w), *options)]
    for a, e in zip(got, want, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(wide(a)[0], e, rtol=eps, atol=eps * np.abs(e).max())
    partly = cuda.conv_backward(g, x, w, *options, (False, True, False))
    assert partly[0] is None
    assert partly[2] is None
    np.testing.assert_array_equal(partly[1], got[2])

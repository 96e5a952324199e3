"""Interpolation, padding, unfold/fold and shuffling: gradients, torch, messages, layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastdl
from fastdl.nn import functional as F
from parity import DTYPES, assert_close, assert_like_torch, check_gradient
from test_resample_kernels import RESIZES, WINDOWS


def tensor(array: Any) -> fastdl.Tensor:
    return fastdl.from_numpy(np.asarray(array))


def test_gradients() -> None:
    rng = np.random.default_rng(6)
    x1, x2, x3 = (rng.standard_normal(s) for s in ((2, 2, 9), (2, 2, 6, 7), (1, 2, 3, 4, 5)))
    for name in ("cpu", "reference"):
        with fastdl.use_backend(name):
            check_gradient(lambda x: F.interpolate(x, 14, mode="linear"), x1)
            check_gradient(lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), x2)
            check_gradient(lambda x: F.interpolate(x, (4, 9), mode="bicubic", align_corners=True), x2)
            check_gradient(lambda x: F.interpolate(x, (3, 3), mode="bicubic", antialias=True), x2)
            check_gradient(lambda x: F.interpolate(x, (5, 5, 5), mode="trilinear"), x3)
            check_gradient(lambda x: F.interpolate(x, scale_factor=2), x2)
            check_gradient(lambda x: F.interpolate(x, scale_factor=(0.5, 3), mode="nearest-exact"), x2)
            check_gradient(lambda x: F.interpolate(x, (4, 4), mode="area"), x2)
            check_gradient(lambda x: F.pad(x, (1, -2, 0, 3, 1, 0), value=4.0), x2)
            check_gradient(lambda x: F.pad(x, (3, 2, 1, 5), "reflect"), x2)
            check_gradient(lambda x: F.pad(x, (3, 2, 1, 9), "replicate"), x2)
            check_gradient(lambda x: F.pad(x, (3, 2, 1, -1), "circular"), x2)
            check_gradient(lambda x: F.unfold(x, (3, 2), 1, 1, 2), x2)
            check_gradient(lambda x: F.fold(F.unfold(x, (3, 2), 1, 1, 2), (6, 7), (3, 2), 1, 1, 2), x2)
            check_gradient(lambda x: F.pixel_unshuffle(x, 3), rng.standard_normal((1, 2, 6, 3)))
            check_gradient(lambda x: F.pixel_shuffle(x, 2), rng.standard_normal((1, 8, 2, 3)))
            check_gradient(lambda x: F.channel_shuffle(x, 3), rng.standard_normal((2, 6, 2, 3)))


FUNCTION_MODES = {
    1: ["nearest", "nearest-exact", "area", "linear"],
    2: ["nearest", "nearest-exact", "area", "bilinear", "bicubic"],
    3: ["nearest", "nearest-exact", "area", "trilinear"],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_torch_interpolate(resize: tuple[Any, Any], dtype: Any) -> None:
    size, output = resize
    rank = len(size)
    x = np.random.default_rng(8).standard_normal((2, 3, *size)).astype(dtype)
    for mode in FUNCTION_MODES[rank]:
        for align in (None, False, True) if mode.endswith(("linear", "cubic")) else (None,):
            assert_like_torch("interpolate", x, output, mode=mode, align_corners=align)
            for scale in (2, 1.3, tuple(np.linspace(1.9, 2.6, rank)), (3.0,) * rank):
                for recompute in (None, True):
                    assert_like_torch(
                        "interpolate",
                        x,
                        # torch's gradient of 1-D and 3-D nearest belongs to other pixels than its forward pass
                        # where an axis keeps or doubles its size with an uneven factor.
                        gradient=mode != "nearest" or rank == 2 or scale in (2, (3.0,) * rank),
                        scale_factor=scale,
                        mode=mode,
                        align_corners=align,
                        recompute_scale_factor=recompute,
                    )
    if rank == 2:
        for mode in ("bilinear", "bicubic", "lanczos"):
            for align in (False, True) if mode != "lanczos" else (False,):
                assert_like_torch("interpolate", x, output, mode=mode, align_corners=align, antialias=True)
            # torch does not resample an axis that keeps its size, but its gradient does.
            kept = any(int(1.3 * n) == n for n in size)
            assert_like_torch(
                "interpolate", x, scale_factor=1.3, mode=mode, antialias=True, gradient=not kept
            )


def test_torch_picks_the_same_pixels() -> None:
    torch = pytest.importorskip("torch")
    sizes = [(n, {"size": out}, out / n) for n in range(1, 41, 3) for out in range(1, 60, 2)]
    sizes += [
        (n, {"scale_factor": s}, s) for n in range(4, 41, 3) for s in (0.3, 0.7, 1.1, 1.5, 2.0, 2.3, 3.0, 3.7)
    ]
    for dtype, (n, options, scale), mode in itertools.product(DTYPES, sizes, ("nearest", "nearest-exact")):
        x = np.arange(n, dtype=dtype).reshape(1, 1, n)
        want = torch.nn.functional.interpolate(torch.tensor(x), **options, mode=mode).numpy()
        got = F.interpolate(tensor(x), **options, mode=mode).numpy()
        # Half way between two pixels the last bit decides, and torch's last bit is another on CPUs with FMA.
        position = (np.arange(got.size) + (0.5 if mode == "nearest-exact" else 0)) / scale
        tie = np.abs(position - np.round(position)) < (1e-5 if mode == "nearest-exact" else 0)
        np.testing.assert_array_equal(got[0, 0, ~tie], want[0, 0, ~tie])
        assert np.all(np.abs(got - want) <= 1)


def test_torch_pad() -> None:
    rng = np.random.default_rng(9)
    for dtype in DTYPES:
        for shape, pad in (
            ((5,), (1, 2)),
            ((2, 3, 4), (1, 0, 2, 3)),
            ((2, 3, 4), (-1, 2, 0, -1, 1, 1)),
            ((2, 3, 4, 5), (0, 0, 1, 1)),
            ((1, 2, 3, 4, 5), (1, 1, 2, 2, 0, 1, 1, 0)),
        ):
            assert_like_torch("pad", rng.standard_normal(shape).astype(dtype), pad)
            assert_like_torch("pad", rng.standard_normal(shape).astype(dtype), pad, value=-1.5)
        for shape, pad in (
            ((2, 9), (3, 2)),
            ((2, 3, 9), (3, 2)),
            ((2, 3, 9), (0, -2)),
            ((3, 5, 6), (3, 2, 1, 4)),
            ((2, 3, 5, 6), (3, 2, 1, 4)),
            ((2, 3, 5, 6), (-1, 2, 1, -2)),
            ((2, 4, 5, 6), (3, 2, 1, 4, 2, 0)),
            ((1, 2, 4, 5, 6), (3, 2, 1, 4, 2, 0)),
        ):
            for mode in ("reflect", "replicate", "circular"):
                assert_like_torch("pad", rng.standard_normal(shape).astype(dtype), pad, mode)
        for pad in (
            (-4, 5, 0, 0),
            (6, -5, 1, 0),
            (-2, 3, -5, 6),
            (-7, 9, 0, 0),
            (-4, 5, 2, -6),
        ):  # of the row the last or first element stays
            assert_like_torch("pad", rng.standard_normal((2, 3, 5, 4)).astype(dtype), pad, "replicate")


def test_pad_of_other_numbers() -> None:
    for array in (
        np.arange(6).reshape(2, 3),
        np.array([[True, False]]),
        np.arange(4, dtype=np.uint8).reshape(2, 2),
    ):
        got = F.pad(tensor(array), (1, 2), value=1)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got.numpy(), np.pad(array, [(0, 0), (1, 2)], constant_values=1))
    # Moved as floats of their width, whatever number their bits are: NaN, infinity or a denormal.
    for dtype in (np.int64, np.int32):
        info = np.iinfo(dtype)
        array = np.array([[info.min, info.min + 1, -1], [info.max, 1, 0x7F800001]], dtype)
        for value in (0, -100, 1, 2**31 - 1, -(2**31)):
            got = F.pad(tensor(array), (1, 2), value=value).numpy()
            np.testing.assert_array_equal(got, np.pad(array, [(0, 0), (1, 2)], constant_values=value))
        got = F.pad(tensor(array[None]), (2, 1), mode="reflect").numpy()
        np.testing.assert_array_equal(got, np.pad(array[None], [(0, 0), (0, 0), (2, 1)], mode="reflect"))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_pad_of_complex_numbers(dtype) -> None:
    x = np.array([[1 + 2j, -3j, np.nan], [0, -0.0, np.inf * 1j]], dtype)
    for value in (0, 2):
        t = tensor(x).requires_grad_()
        y = F.pad(t, (1, -1, 0, 3), value=value)
        assert y.dtype == x.dtype
        want = np.pad(x[:, :2], [(0, 3), (1, 0)], constant_values=value)
        np.testing.assert_array_equal(y.detach().numpy(), want)
        y.backward(tensor(want))
        np.testing.assert_array_equal(t.grad.numpy()[:, :2], x[:, :2])
        assert (t.grad.numpy()[:, 2] == 0).all()
    got = F.pad(tensor(x[None]), (2, 1), mode="reflect").numpy()
    np.testing.assert_array_equal(got, np.pad(x[None], [(0, 0), (0, 0), (2, 1)], mode="reflect"))


def test_torch_rearrangements() -> None:
    rng = np.random.default_rng(10)
    for dtype in DTYPES:
        for shape, kernel, dilation, padding, stride in WINDOWS:
            if 0 in shape:
                continue
            x = rng.standard_normal(shape).astype(dtype)
            assert_like_torch("unfold", x, kernel, dilation, padding, stride)
            columns = F.unfold(tensor(x), kernel, dilation, padding, stride).numpy()
            assert_like_torch("fold", columns, shape[-2:], kernel, dilation, padding, stride)
        assert_like_torch("pixel_shuffle", rng.standard_normal((2, 12, 3, 18)).astype(dtype), 2)
        assert_like_torch("pixel_shuffle", rng.standard_normal((9, 3, 5)).astype(dtype), 3)
        assert_like_torch("pixel_unshuffle", rng.standard_normal((2, 2, 4, 70)).astype(dtype), 2)
        assert_like_torch("channel_shuffle", rng.standard_normal((2, 12, 3, 4)).astype(dtype), 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: F.interpolate(x), ValueError, "either size or scale_factor must be given"),
        (lambda x: F.interpolate(x, 3, 2.0), ValueError, "only one of size and scale_factor"),
        (lambda x: F.interpolate(x, (3,)), ValueError, "size must have one number for each spatial axis"),
        (lambda x: F.interpolate(x, 2.5), TypeError, "size must be an int or a tuple of ints, got 2.5"),
        (lambda x: F.interpolate(x, 0), ValueError, "input and output sizes must be positive"),
        (lambda x: F.interpolate(x, scale_factor=0.1), ValueError, "input and output sizes must be positive"),
        (lambda x: F.interpolate(x, scale_factor=-1.0), ValueError, "scale_factor must be positive"),
        (lambda x: F.interpolate(x, scale_factor=(1, 2, 3)), ValueError, "one number for each spatial axis"),
        (lambda x: F.interpolate(x, 3, mode="quintic"), NotImplementedError, "mode must be one of nearest"),
        (
            lambda x: F.interpolate(x, 3, mode="linear"),
            NotImplementedError,
            "mode 'linear' needs a 3-D input",
        ),
        (lambda x: F.interpolate(x, 3, align_corners=True), ValueError, "align_corners does not go with"),
        (lambda x: F.interpolate(x, 3, antialias=True), ValueError, "antialias goes with bilinear"),
        (
            lambda x: F.interpolate(x, 3, recompute_scale_factor=True),
            ValueError,
            "recompute_scale_factor goes with",
        ),
        (lambda x: F.pad(x, (1,)), ValueError, "pad must have two numbers for each padded axis"),
        (lambda x: F.pad(x, (1,) * 10), ValueError, "at most 8 for an input of shape"),
        (lambda x: F.pad(x, (1.5, 1)), TypeError, "pad must be a sequence of ints"),
        (lambda x: F.pad(x, (1, 1), "mirror"), NotImplementedError, "mode must be constant, reflect"),
        (lambda x: F.pad(x, (1, 1), "reflect"), NotImplementedError, "pad needs 4 numbers"),
        (lambda x: F.pad(x, (5, 0, 0, 0), "reflect"), ValueError, "can pad axis 3 .* by at most 4"),
        (lambda x: F.pad(x, (6, 0, 0, 0), "circular"), ValueError, "can pad axis 3 .* by at most 5"),
        (lambda x: F.pad(x, (1, 1, 0, 0), "reflect", 2.0), ValueError, "value goes with mode 'constant'"),
        (lambda x: F.pad(x, (-3, -3)), ValueError, "cuts off more than axis 3"),
        (
            lambda x: fastdl.nn.CircularPad1d(1)(x),
            ValueError,
            r"CircularPad1d: expected 2D or 3D input \(got 4D input\)",
        ),
        (lambda x: F.unfold(x, 5), ValueError, "the window is larger than the padded image"),
        (
            lambda x: F.unfold(x, 0),
            ValueError,
            "kernel_size must be an int or a tuple of 2 ints of at least 1",
        ),
        (lambda x: F.fold(x, 4, 2), ValueError, r"input must be \(N, C \* 4, windows\)"),
        (
            lambda x: F.fold(tensor(np.zeros((1, 4, 3))), (2, 5), 2),
            ValueError,
            r"has 1 \* 4 = 4 windows .* input of shape \(1, 4, 3\) has 3",
        ),
        (lambda x: F.pixel_shuffle(x, 2), ValueError, "C divisible by upscale_factor squared"),
        (lambda x: F.pixel_unshuffle(x, 2), ValueError, "H and W divisible by downscale_factor"),
        (lambda x: F.channel_shuffle(x, 2), ValueError, "C divisible by groups"),
        (lambda x: F.pad(x.numpy(), (1, 1)), TypeError, "pad: input must be a Tensor, got numpy"),
    ],
)
def test_messages(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(tensor(np.zeros((2, 3, 4, 5), np.float32)))


def test_deprecated_names() -> None:
    x = tensor(np.arange(8.0).reshape(1, 1, 2, 4))
    with pytest.warns(UserWarning, match="use interpolate"):
        np.testing.assert_array_equal(F.upsample(x, 3).numpy(), F.interpolate(x, 3).numpy())
    with pytest.warns(UserWarning, match="use interpolate"):
        F.upsample_nearest(x, scale_factor=2)
    with pytest.warns(UserWarning, match="use interpolate"):
        got = F.upsample_bilinear(x, 3)
    np.testing.assert_array_equal(
        got.numpy(), F.interpolate(x, 3, mode="bilinear", align_corners=True).numpy()
    )


LAYERS = [
    ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", ((3, 4),), {"mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
    ("UpsamplingNearest2d", (), {"scale_factor": 3}, (2, 3, 4, 5)),
    ("UpsamplingBilinear2d", (7,), {}, (2, 3, 4, 5)),
    *[
        (f"{kind}Pad{rank}d", (1, *value), {}, (1, 2, *(3, 4, 5)[:rank]))
        for kind, value in (
            ("Constant", (3.5,)),
            ("Zero", ()),
            ("Reflection", ()),
            ("Replication", ()),
            ("Circular", ()),
        )
        for rank in (1, 2, 3)
    ],
    ("ZeroPad2d", ((1, -1, 0, 2),), {}, (1, 2, 3, 4)),
    ("Unfold", (3,), {"padding": 1, "stride": (1, 2)}, (2, 3, 4, 5)),
    ("Fold", ((4, 5), (2, 3)), {}, (2, 12, 9)),
    ("PixelShuffle", (2,), {}, (2, 8, 3, 4)),
    ("PixelUnshuffle", (2,), {}, (2, 3, 4, 6)),
    ("ChannelShuffle", (2,), {}, (2, 8, 3, 4)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer[0])
def test_torch_layers(layer: tuple[Any, ...]) -> None:
    torch = pytest.importorskip("torch")
    name, args, options, shape = layer
    ours, theirs = getattr(fastdl.nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(14).standard_normal(shape).astype(np.float32)
    assert_close(ours(tensor(x)), theirs(torch.tensor(x)).numpy(), reduction=64)


def test_padding_layers_check_their_padding() -> None:
    with pytest.raises(ValueError, match="ReflectionPad2d: padding must be an int or 4 ints"):
        fastdl.nn.ReflectionPad2d((1, 2))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "options", [{"size": (5, 40)}, {"size": (8, 11), "antialias": True}, {"scale_factor": (1.3, 2.1)}]
)
def test_bytes_are_rounded(mode: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(15).integers(0, 256, (2, 3, 17, 23), np.uint8)
    got = F.interpolate(fastdl.from_numpy(x), mode=mode, **options)
    want = torch.nn.functional.interpolate(torch.from_numpy(x), mode=mode, **options).numpy()
    assert got.dtype == fastdl.uint8
    difference = np.abs(got.numpy().astype(int) - want)  # PyTorch's weights are rounded, too
    assert difference.max() <= 1
    assert difference.mean() < 0.05

"""Interpolation, padding, unfold/fold and shuffling: kernels against the reference, functions against torch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.nn import functional as F
from parity import THREADS, assert_close, backends, check_gradient, load

DTYPES = (np.float32, np.float64)

RESIZES = [  # spatial sizes: before, after
    ((1,), (1,)),
    ((5,), (13,)),
    ((40,), (17,)),
    ((33,), (66,)),
    ((3, 4), (6, 8)),
    ((16, 18), (32, 36)),
    ((7, 35), (9, 9)),
    ((20, 6), (5, 50)),
    ((1, 9), (4, 1)),
    ((2, 3, 4), (5, 3, 9)),
    ((4, 6, 17), (2, 6, 8)),
]
MODES = [  # mode, align_corners, antialias
    ("nearest", False, False),
    ("nearest-exact", False, False),
    ("linear", False, False),
    ("linear", True, False),
    ("cubic", False, False),
    ("cubic", True, False),
    ("linear", False, True),
    ("cubic", False, True),
    ("lanczos", False, True),
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_interpolate_parity(level: str, mode: tuple[str, bool, bool]) -> None:
    backend = load(level)
    rng = np.random.default_rng(0)
    for (size, output), dtype, leading in itertools.product(RESIZES, DTYPES, ((2, 3), (0, 2))):
        x = rng.standard_normal((*leading, *size)).astype(dtype)
        for scale in ((0.0,) * len(size), tuple(o / n + 0.01 for n, o in zip(size, output, strict=True))):
            want = reference.interpolate_forward(x, output, scale, *mode)
            # Positions are rounded: an error of eps * size in a position is one of as much in a weight.
            assert_close(backend.interpolate_forward(x, output, scale, *mode), want, reduction=256)
            grad = rng.standard_normal(want.shape).astype(dtype)
            want = reference.interpolate_backward(grad, size, scale, *mode)
            assert_close(backend.interpolate_backward(grad, size, scale, *mode), want, reduction=256)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nan_stays_where_it_is(level: str) -> None:
    backend = load(level)
    x = np.arange(70, dtype=np.float32).reshape(1, 7, 10)
    x[0, 3, 4] = np.nan
    x[0, 6, 9] = -np.inf
    for output in ((14, 20), (5, 33), (7, 10)):
        for mode in MODES:
            with np.errstate(invalid="ignore"):
                want = reference.interpolate_forward(x, output, (0.0, 0.0), *mode)
            got = backend.interpolate_forward(x, output, (0.0, 0.0), *mode)
            if mode[2]:  # weights at the filter's edge vanish in theory: there may be one NaN more or less
                assert np.isfinite(got[np.isfinite(want)]).all()
            else:
                assert_close(got, want, reduction=256)


PADS = [  # shape, pairs of all axes
    ((5,), [(2, 1)]),
    ((3, 40), [(0, 0), (3, 4)]),
    ((2, 3, 5, 17), [(0, 0), (0, 0), (2, 1), (3, 4)]),
    ((2, 3, 5, 17), [(0, 0), (0, 0), (2, 1), (0, 0)]),
    ((2, 3, 5, 17), [(0, 0), (0, 0), (-2, 1), (3, -4)]),
    ((2, 3, 5, 7), [(0, 0), (0, 0), (0, 0), (-3, -4)]),
    ((1, 2, 3, 4, 5), [(0, 0), (0, 0), (1, 2), (0, 3), (2, 2)]),
    ((0, 2, 4), [(0, 0), (0, 0), (1, 1)]),
    ((2, 2, 4), [(0, 0), (0, 0), (0, 0)]),
    ((3, 4, 5), [(1, 0), (0, 2), (1, 1)]),
]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("threads", THREADS)
def test_long_rows_are_padded_in_pieces(mode: str, threads: int) -> None:
    x = np.random.default_rng(2).standard_normal((2, 150_001)).astype(np.float32)
    before = fastdl.get_num_threads()
    fastdl.set_num_threads(threads)
    try:
        for pairs in (
            [(0, 0), (3, 5)],
            [(1, 0), (70_000, 66_000)],
            [(0, 1), (-70_000, 2)],
            [(0, 0), (4, -140_000)],
        ):
            want = reference.pad_forward(x, pairs, mode, 2.5)
            for level in backends():
                np.testing.assert_array_equal(load(level).pad_forward(x, pairs, mode, 2.5), want)
    finally:
        fastdl.set_num_threads(before)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_parity(level: str, mode: str) -> None:
    backend = load(level)
    rng = np.random.default_rng(1)
    for (shape, pairs), dtype in itertools.product(PADS, DTYPES):
        x = rng.standard_normal(shape).astype(dtype)
        want = reference.pad_forward(x, pairs, mode, 2.5)
        np.testing.assert_array_equal(backend.pad_forward(x, pairs, mode, 2.5), want)
        if mode != "constant":
            grad = rng.standard_normal(want.shape).astype(dtype)
            want = reference.pad_backward(grad, shape, pairs, mode)
            assert_close(backend.pad_backward(grad, shape, pairs, mode), want, reduction=27)
    empty = np.zeros((2, 0, 3), np.float32)
    np.testing.assert_array_equal(
        backend.pad_forward(empty, [(0, 0), (2, 1), (1, 0)], "constant", 7.0), np.full((2, 3, 4), 7.0)
    )
    assert backend.pad_forward(empty, [(0, 0), (0, 0), (1, 0)], mode, 0.0).shape == (2, 0, 4)


WINDOWS = [  # shape, kernel, dilation, padding, stride
    ((2, 3, 8, 9), (3, 3), (1, 1), (0, 0), (1, 1)),
    ((2, 3, 8, 40), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 2, 9, 35), (3, 2), (2, 1), (1, 2), (2, 2)),
    ((1, 2, 5, 5), (2, 3), (1, 2), (4, 3), (3, 1)),
    ((3, 4, 4), (4, 4), (1, 1), (0, 0), (4, 4)),
    ((0, 2, 4, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_unfold_and_fold_parity(level: str, case: tuple[Any, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(2)
    shape, *options = case
    for dtype in DTYPES:
        x = rng.standard_normal(shape).astype(dtype)
        y = reference.unfold_forward(x, *options)
        np.testing.assert_array_equal(backend.unfold_forward(x, *options), y)
        y = rng.standard_normal(y.shape).astype(dtype)
        want = reference.fold_forward(y, shape[-2:], *options)
        assert_close(backend.fold_forward(y, shape[-2:], *options), want, reduction=16)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_shuffle_parity(level: str) -> None:
    backend = load(level)
    rng = np.random.default_rng(3)
    for shape, r in (
        ((4, 2, 3), 2),
        ((2, 8, 5, 37), 2),
        ((1, 2, 18, 4, 5), 3),
        ((0, 4, 2, 2), 2),
        ((2, 3, 4), 1),
    ):
        for dtype in DTYPES:
            x = rng.standard_normal(shape).astype(dtype)
            y = reference.pixel_shuffle_forward(x, r)
            np.testing.assert_array_equal(backend.pixel_shuffle_forward(x, r), y)
            np.testing.assert_array_equal(reference.pixel_unshuffle_forward(y, r), x)
            np.testing.assert_array_equal(backend.pixel_unshuffle_forward(y, r), x)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("level", backends())
def test_any_number_of_threads_and_strides(level: str, threads: int) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(4)
    wide = rng.standard_normal((3, 90, 2, 200)).astype(np.float32)
    x = wide[:, ::2, :, ::-2].transpose(0, 2, 1, 3)  # (3, 2, 45, 100)
    dense = np.ascontiguousarray(x)
    columns = rng.standard_normal((3, 18, 45 * 100)).astype(np.float32)
    reflect = [(0, 0), (0, 0), (3, 4), (5, 6)]
    before = backend.num_threads()

    def run(x: Any) -> list[bytes]:
        y = backend.interpolate_forward(x, (90, 130), (0.0, 0.0), "linear", False, False)
        padded = backend.pad_forward(x, reflect, "reflect", 0.0)
        results = (
            y,
            backend.interpolate_backward(y, (45, 100), (0.0, 0.0), "linear", False, False),
            backend.interpolate_forward(x, (20, 33), (0.0, 0.0), "cubic", False, True),
            padded,
            backend.pad_backward(padded, x.shape, reflect, "reflect"),
            backend.unfold_forward(x, (3, 3), (1, 1), (1, 1), (1, 1)),
            backend.fold_forward(columns, (45, 100), (3, 3), (1, 1), (1, 1), (1, 1)),
            backend.pixel_unshuffle_forward(x[:, :, :44], 2),
        )
        return [r.tobytes() for r in results]

    try:
        backend.set_num_threads(1)
        want = run(dense)
        backend.set_num_threads(threads)
        assert (
            run(x) == want
        )  # every output is computed by one thread in one order: bits do not depend on threads
        assert run(dense) == want
    finally:
        backend.set_num_threads(before)


@pytest.mark.parametrize("level", backends())
def test_nothing_is_written_beyond_the_arrays(level: str) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(5)
    backend.set_memory_guard(True)
    try:
        errors = backend.memory_stats()["guard_errors"]
        for (size, output), mode, dtype in itertools.product(RESIZES, MODES, DTYPES):
            x = rng.standard_normal((2, *size)).astype(dtype)
            y = backend.interpolate_forward(x, output, (0.0,) * len(size), *mode)
            backend.interpolate_backward(y, size, (0.0,) * len(size), *mode)
        for (shape, pairs), mode in itertools.product(PADS, ("reflect", "circular", "constant")):
            y = backend.pad_forward(rng.standard_normal(shape), pairs, mode, 0.0)
            if mode != "constant":
                backend.pad_backward(y, shape, pairs, mode)
        for shape, *options in WINDOWS:
            y = backend.unfold_forward(rng.standard_normal(shape).astype(np.float32), *options)
            backend.fold_forward(y, shape[-2:], *options)
        del y
        assert backend.memory_stats()["guard_errors"] == errors
    finally:
        backend.set_memory_guard(False)


@pytest.mark.parametrize("level", backends())
def test_bindings_refuse_what_they_cannot_do(level: str) -> None:
    backend = kernels.load(level)
    x = np.zeros((1, 4, 5), np.float32)
    for call, message in (
        (
            lambda: backend.interpolate_forward(x, (0, 4), (0.0, 0.0), "linear", False, False),
            "sizes must lie",
        ),
        (
            lambda: backend.interpolate_forward(x, (4, 4), (0.0,), "linear", False, False),
            "one scale for each",
        ),
        (lambda: backend.interpolate_forward(x, (4, 4), (1e-30, 0), "linear", False, False), "scale must be"),
        (
            lambda: backend.interpolate_forward(x, (4, 4), (0, float("nan")), "linear", False, False),
            "scale must",
        ),
        (lambda: backend.interpolate_forward(x, (4, 4), (0, 0), "quadratic", False, False), "mode must be"),
        (
            lambda: backend.interpolate_forward(x, (4, 4), (0, 0), "nearest", False, True),
            "antialias goes with",
        ),
        (lambda: backend.pad_forward(x, [(0, 0), (0, 0), (9, 0)], "reflect", 0.0), "input is too small"),
        (lambda: backend.pad_forward(x, [(0, 0), (0, 0), (9, 0)], "circular", 0.0), "input is too small"),
        (lambda: backend.pad_forward(x, [(0, 0), (0, 0), (-3, -3)], "constant", 0.0), "cuts off more"),
        (lambda: backend.pad_forward(x, [(0, 0)], "constant", 0.0), "one pair of paddings"),
        (lambda: backend.pad_backward(x, (1, 4, 4), [(0, 0), (0, 0), (9, 0)], "reflect"), "padded shape"),
        (lambda: backend.unfold_forward(x, (5, 1), (1, 1), (0, 0), (1, 1)), "window is larger"),
        (lambda: backend.unfold_forward(x, (1, 1), (0, 1), (0, 0), (1, 1)), "must lie in"),
        (
            lambda: backend.fold_forward(x, (4, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
            "one column for each window",
        ),
        (lambda: backend.pixel_shuffle_forward(x, 2), "divisible by the factor squared"),
        (lambda: backend.pixel_unshuffle_forward(x, 2), "divisible by the factor"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="float32 or float64"):
        backend.interpolate_forward(x.astype(np.int64), (4, 4), (0, 0), "linear", False, False)


# Functions.


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


def with_torch(
    name: str,
    x: np.ndarray[Any, Any],
    *args: Any,
    factor: float = 64.0,
    gradient: bool = True,
    **options: Any,
) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(x, requires_grad=True)
    ours = tensor(x.copy())
    ours.requires_grad = True
    want = getattr(torch.nn.functional, name)(theirs, *args, **options)
    got = getattr(F, name)(ours, *args, **options)
    assert_close(got, want.detach().numpy(), reduction=16, factor=factor)
    if not gradient:
        return
    grad = np.random.default_rng(7).standard_normal(want.shape).astype(x.dtype)
    want.backward(torch.tensor(grad))
    got.backward(tensor(grad))
    assert_close(ours.grad, theirs.grad.numpy(), reduction=16, factor=factor)


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
            with_torch("interpolate", x, output, mode=mode, align_corners=align)
            for scale in (2, 1.3, tuple(np.linspace(1.9, 2.6, rank)), (3.0,) * rank):
                for recompute in (None, True):
                    with_torch(
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
                with_torch("interpolate", x, output, mode=mode, align_corners=align, antialias=True)
            # torch does not resample an axis that keeps its size, but its gradient does.
            kept = any(int(1.3 * n) == n for n in size)
            with_torch("interpolate", x, scale_factor=1.3, mode=mode, antialias=True, gradient=not kept)


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
            with_torch("pad", rng.standard_normal(shape).astype(dtype), pad)
            with_torch("pad", rng.standard_normal(shape).astype(dtype), pad, value=-1.5)
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
                with_torch("pad", rng.standard_normal(shape).astype(dtype), pad, mode)


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


def test_torch_rearrangements() -> None:
    rng = np.random.default_rng(10)
    for dtype in DTYPES:
        for shape, kernel, dilation, padding, stride in WINDOWS:
            if 0 in shape:
                continue
            x = rng.standard_normal(shape).astype(dtype)
            with_torch("unfold", x, kernel, dilation, padding, stride)
            columns = F.unfold(tensor(x), kernel, dilation, padding, stride).numpy()
            with_torch("fold", columns, shape[-2:], kernel, dilation, padding, stride)
        with_torch("pixel_shuffle", rng.standard_normal((2, 12, 3, 18)).astype(dtype), 2)
        with_torch("pixel_shuffle", rng.standard_normal((9, 3, 5)).astype(dtype), 3)
        with_torch("pixel_unshuffle", rng.standard_normal((2, 2, 4, 70)).astype(dtype), 2)
        with_torch("channel_shuffle", rng.standard_normal((2, 12, 3, 4)).astype(dtype), 3)


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


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=2),
    mode=st.sampled_from(MODES),
    scale=st.one_of(st.just(0.0), st.floats(0.05, 20)),
    level=st.sampled_from(backends()),
)
def test_random_resizes(sizes: list[tuple[int, int]], mode: Any, scale: float, level: str) -> None:
    size, output = zip(*sizes, strict=True)
    x = np.random.default_rng(11).standard_normal((2, *size))
    backend = kernels.load(level)
    options = ((scale,) * len(size), *mode)
    with np.errstate(invalid="ignore"):
        want = reference.interpolate_forward(x, output, *options)
    if mode[2] and not np.isfinite(want).all():
        return  # a scale that does not match the sizes leaves outputs without inputs
    assert_close(backend.interpolate_forward(x, output, *options), want, reduction=256)
    grad = np.random.default_rng(12).standard_normal(want.shape)
    want = reference.interpolate_backward(grad, size, *options)
    assert_close(backend.interpolate_backward(grad, size, *options), want, reduction=256)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), mode=st.sampled_from(["constant", "reflect", "replicate", "circular"]))
def test_random_pads(data: Any, mode: str) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)))
    pairs = []
    for n in shape:
        most = {"constant": 20, "reflect": n - 1, "replicate": 20, "circular": n}[mode]
        pairs.append((data.draw(st.integers(0, most)), data.draw(st.integers(0, most))))
    x = np.random.default_rng(13).integers(-9, 10, shape).astype(np.float64)  # sums are exact
    backend = kernels.cpu
    y = reference.pad_forward(x, pairs, mode, 3.0)
    np.testing.assert_array_equal(backend.pad_forward(x, pairs, mode, 3.0), y)
    if mode == "constant":
        cut = [(-a, -b) for a, b in pairs]
        np.testing.assert_array_equal(backend.pad_forward(y, cut, mode, 0.0), x)
    else:
        want = reference.pad_backward(y, shape, pairs, mode)
        np.testing.assert_array_equal(backend.pad_backward(y, shape, pairs, mode), want)


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


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grids_meet_the_same_pixels(align_corners):
    """Bit for bit: between pixels the gradient jumps, and the identity, where networks start, has them all there."""
    torch = pytest.importorskip("torch")
    for size in (5, 7, 8, 12, 28, 33):
        ours, peers = [
            lib.nn.functional.affine_grid(
                lib.eye(2, 3)[None], (1, 1, size, size), align_corners=align_corners
            )
            for lib in (fastdl, torch)
        ]
        np.testing.assert_array_equal(ours.numpy(), peers.numpy())


GRIDS = [  # x, places, modes
    ((2, 3, 5, 7), (4, 6), ("bilinear", "nearest", "bicubic")),
    ((1, 1, 1, 1), (1, 1), ("bilinear", "nearest", "bicubic")),
    ((2, 17, 3, 1), (9, 15), ("bilinear", "nearest", "bicubic")),
    ((3, 2, 9, 4), (1, 64), ("bilinear", "bicubic")),
    ((1, 2, 3, 4, 5), (2, 5, 7), ("bilinear", "nearest")),
    ((0, 2, 3, 3), (2, 2), ("bilinear",)),
    ((2, 0, 3, 3), (2, 2), ("bilinear",)),
    ((2, 2, 3, 3), (0, 2), ("bilinear",)),
]


def _grid_cases():
    for (size, places, modes), padding, align in itertools.product(
        GRIDS, ("zeros", "border", "reflection"), (False, True)
    ):
        for mode in modes:
            yield size, (size[0], *places, len(places)), (mode, padding, align)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_sample_parity(level, dtype):
    backend = load(level)
    rng = np.random.default_rng(0)
    for size, places, options in _grid_cases():
        x = rng.standard_normal(size).astype(dtype)
        grid = rng.uniform(-1.7, 1.7, places).astype(dtype)
        want = reference.grid_sample_forward(x, grid, *options)
        # A place is rounded to eps * extent, and the weights of a tap with it.
        assert_close(backend.grid_sample_forward(x, grid, *options), want, reduction=4096)
        grad = rng.standard_normal(want.shape).astype(dtype)
        for wants in ((True, True), (True, False), (False, True)):
            got = backend.grid_sample_backward(grad, x, grid, *options, *wants)
            for a, b in zip(
                got, reference.grid_sample_backward(grad, x, grid, *options, *wants), strict=True
            ):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_close(a, b, reduction=4096 * max(1, places[1] * places[2], size[1]))


@pytest.mark.parametrize("level", backends())
def test_grid_sample_outside_of_numbers(level):
    """No place, however far, reads beyond the image, and pixels outside have no part in anything."""
    backend = load(level)
    x = np.full((1, 2, 3, 4), np.nan, np.float32)
    places = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e10]
    grid = np.array([[[(a, b) for a in places] for b in places]], np.float32)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding, align in itertools.product(("zeros", "border", "reflection"), (False, True)):
            y = backend.grid_sample_forward(x, grid, mode, padding, align)
            backend.grid_sample_backward(y, x, grid, mode, padding, align, True, True)
            if padding == "zeros":
                assert not y.any()
    for call, message in (
        (lambda: backend.grid_sample_forward(x, grid, "linear", "zeros", True), "mode must be"),
        (lambda: backend.grid_sample_forward(x, grid, "nearest", "wrap", True), "padding must be"),
        (lambda: backend.grid_sample_forward(x, grid[..., :1], "nearest", "zeros", True), "x must be"),
        (lambda: backend.grid_sample_forward(x[:, :, :0], grid, "nearest", "zeros", True), "spatial sizes"),
        (
            lambda: backend.grid_sample_backward(x, x, grid, "nearest", "zeros", True, True, True),
            "the result's shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("threads", THREADS)
def test_grid_sample_is_the_same_for_any_number_of_threads(level, threads):
    backend = load(level)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 40, 30)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (3, 70, 50, 2)).astype(np.float32)
    results = []
    for count in (1, threads):
        backend.set_num_threads(count)
        y = backend.grid_sample_forward(x, grid, "bilinear", "zeros", False)
        results.append((y, *backend.grid_sample_backward(y, x, grid, "bilinear", "zeros", False, True, True)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_grid_sample():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for size, places, (mode, padding, align) in _grid_cases():
        if 0 in size or 0 in places:
            continue
        x, grid = rng.standard_normal(size), rng.uniform(-1.7, 1.7, places)
        results = []
        for lib in (fastdl, torch):
            leaves = [lib.tensor(a, requires_grad=True) for a in (x, grid)]
            y = lib.nn.functional.grid_sample(*leaves, mode, padding, align)
            (y * y).sum().backward()
            results.append([y.detach().numpy(), *[leaf.grad.numpy() for leaf in leaves]])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_grid_sample_of_an_empty_batch():
    x = fastdl.zeros(0, 2, 3, 3, requires_grad=True)
    y = F.grid_sample(x, fastdl.zeros(0, 4, 5, 2), align_corners=False)
    assert y.shape == (0, 2, 4, 5)
    y.sum().backward()
    assert x.grad.shape == x.shape

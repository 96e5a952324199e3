"""Interpolation, padding, unfold/fold and shuffling: kernels against the reference on every level."""

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
from parity import DTYPES, THREADS, assert_close, backends, load, on_threads

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
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_many_planes(level: str, mode: tuple[str, bool, bool]) -> None:
    """Of which GPUs take several at once, and the last ones are fewer."""
    backend = load(level)
    rng = np.random.default_rng(3)
    for planes, size, output in ((8, (20, 21), (41, 42)), (19, (33, 40), (30, 25)), (17, (700,), (900,))):
        x, grad = (rng.standard_normal((planes, *s)).astype(np.float32) for s in (size, output))
        scale = (0.0,) * len(size)
        want = reference.interpolate_forward(x, output, scale, *mode)
        assert_close(backend.interpolate_forward(x, output, scale, *mode), want, reduction=256)
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
@pytest.mark.parametrize(
    "shape", [(7,), (3, 5), (2, 3, 1, 4), (2, 3, 4, 21), (3, 2, 70), (2, 0, 3), (150_001,)], ids=str
)
def test_rolling_is_padding_with_what_is_cut_off(level: str, shape: tuple[int, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        x = rng.standard_normal(shape).astype(dtype)
        for _ in range(6):
            steps = [int(rng.integers(0, max(n, 1))) * int(rng.integers(0, 2)) for n in shape]
            got = backend.pad_forward(x, [(s, -s) for s in steps], "roll", 0.0)
            np.testing.assert_array_equal(got, np.roll(x, steps, range(len(shape))))
    with pytest.raises(ValueError, match="mode roll takes"):
        backend.pad_forward(x, [(1, 0)] * len(shape), "roll", 0.0)


@pytest.mark.parametrize("level", backends())
def test_integers_are_padded_as_floats_of_their_width(level: str) -> None:
    """Small ones are denormal numbers there, which arithmetic would flush."""
    fill = np.asarray(7).view(np.float64).item()
    for n in (3, 40, 150):
        x = np.arange(1, 2 * n + 1).reshape(2, n)
        for pairs in ([(1, 0), (2, 1)], [(0, 0), (0, 9)], [(0, 0), (-1, 30)]):
            got = load(level).pad_forward(x.view(np.float64), pairs, "constant", fill).view(np.int64)
            np.testing.assert_array_equal(got, reference.pad_forward(x, pairs, "constant", 7))


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

    with on_threads(backend, 1):
        want = run(dense)
    with on_threads(backend, threads):  # every output is computed by one thread in one order: the same bits
        assert run(x) == want
        assert run(dense) == want


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

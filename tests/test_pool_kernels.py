"""Pooling kernels against the reference on every level and on CUDA."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from fastdl.ops.pool import _plan
from parity import DTYPES, THREADS, assert_close, backends, load, on_threads

# leading shape, spatial shape, kernel, stride, padding, dilation, ceil_mode
GEOMETRIES: list[tuple[Any, ...]] = [
    ((2, 3), (8,), 2, None, 0, 1, False),
    ((1, 1), (1,), 1, 1, 0, 1, False),
    ((3,), (33,), 2, 2, 0, 1, False),
    ((2, 2), (67,), 3, 2, 1, 1, True),
    ((2, 2), (40,), 5, 3, 2, 2, False),
    ((2, 1), (37,), 7, 1, 3, 1, False),
    ((0, 3), (8, 8), 2, None, 0, 1, False),
    ((2, 3), (7, 9), 2, None, 0, 1, False),
    ((2, 3), (7, 9), 2, None, 0, 1, True),
    ((1, 2), (30, 31), 2, 2, 0, 1, False),
    ((1, 2), (28, 28), 2, 2, 0, 1, False),
    ((1, 2), (6, 64), 2, 2, 0, 1, False),
    ((2, 2), (13, 14), 3, 2, 1, 1, False),
    ((2, 2), (12, 35), 3, 2, 1, 1, True),
    ((1, 3), (11, 17), 3, 1, 1, 1, False),
    ((1, 2), (9, 20), (2, 3), (1, 2), (1, 0), (2, 1), False),
    ((1, 2), (20, 9), (3, 2), (3, 1), (0, 1), (1, 2), True),
    ((1, 2), (21, 22), 5, 1, 2, 1, False),
    ((1, 1), (40, 41), 17, 1, 8, 1, False),
    ((1, 2), (50, 50), 11, 4, 2, 1, False),
    ((2, 3), (7, 7), 7, None, 0, 1, False),
    ((2, 3), (5, 33), (5, 33), None, 0, 1, False),
    ((5, 7), (5, 5), (5, 5), None, 0, 1, False),
    ((1, 3), (20, 30), (20, 30), 1, 0, 1, True),
    ((1, 1), (18, 19), 18, 18, 0, 1, True),
    ((5, 1), (4, 4), (1, 2), (1, 2), 0, 1, False),
    ((2, 2), (9, 13), 3, 2, 0, 1, False),  # small windows in one slice
    ((2, 1), (8, 16), 3, 1, 1, 1, False),
    ((1, 2), (7, 10), 3, 3, 1, 1, True),
    ((2, 2), (9, 11), 3, (2, 1), (1, 0), 1, False),
    ((2, 2), (9, 12), 2, (1, 2), (1, 0), 1, False),
    ((2, 2), (8, 9), (1, 3), (2, 2), (0, 1), 1, False),
    ((3, 2), (6, 12), (1, 3), (1, 2), (0, 1), 1, False),
    ((2, 2), (4, 6, 8), 2, None, 0, 1, False),
    ((1, 2), (5, 7, 9), 3, 2, 1, 1, True),
    ((1, 2), (6, 5, 18), (1, 2, 2), None, 0, 1, False),
    ((1, 1), (6, 7, 8), (2, 3, 3), (1, 2, 1), (1, 1, 1), (2, 1, 2), False),
    ((2, 1), (3, 4, 5), (3, 4, 5), None, 0, 1, False),
    ((2, 3), (500,), 100, 60, 30, 1, True),  # wide windows, one after the other
    ((17, 1), (45, 70), (8, 33), (8, 30), (4, 16), 1, False),
    ((1, 2), (20, 18, 19), (9, 8, 9), 8, (4, 1, 4), 1, True),
    ((2, 1), (301,), 4, 3, 1, 1, False),  # strides of more than two, tap by tap
    ((1, 2), (20, 90), (3, 5), (3, 6), (1, 2), 1, True),
    ((17, 2), (401,), 2, 3, 0, 1, False),  # long rows whose every third element is taken apart
    ((17, 1), (389,), 7, 3, 3, 1, True),
    ((1, 17), (2, 200), (1, 3), (2, 3), (0, 1), 1, False),
    ((1, 1), (4, 400), (2, 7), (1, 3), 0, 1, False),
]


# Dilated windows whose taps all fall into the padding; torch's index of these lies outside of the input.
EMPTY_WINDOWS = [
    ((1, 2), (3, 1), 2, 1, 1, (3, 2), False),
    ((2,), (1, 1, 1), (1, 2, 2), 1, (0, 1, 1), 2, False),
]


def geometry(case: tuple[Any, ...]) -> tuple[tuple[int, ...], Any]:
    leading, spatial, kernel, stride, padding, dilation, ceil = case
    shape = (*leading, *spatial)
    rank = len(spatial)
    return shape, _plan("test", rank, shape, kernel, stride, padding, dilation, ceil)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, kind: str) -> np.ndarray[Any, Any]:
    if kind == "random":
        return rng.standard_normal(shape).astype(dtype)
    if kind == "ties":
        return rng.integers(0, 3, shape).astype(dtype)
    if kind == "lowest":
        return np.full(shape, -np.inf, dtype)
    x = rng.standard_normal(shape).astype(dtype)  # "special"
    x[rng.random(shape) < 0.2] = -np.inf
    x[rng.random(shape) < 0.1] = np.nan
    x[rng.random(shape) < 0.1] = np.inf
    return x


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("case", GEOMETRIES + EMPTY_WINDOWS, ids=str)
def test_max_pool_parity(level: str, case: tuple[Any, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(0)
    shape, plan = geometry(case)
    for dtype, kind in itertools.product(DTYPES, ("random", "ties", "lowest", "special")):
        x = values(rng, shape, dtype, kind)
        want, want_offsets = reference.max_pool_forward(x, *plan[1:], True)
        got, offsets = backend.max_pool_forward(x, *plan[1:], True)
        np.testing.assert_array_equal(got, want)
        assert offsets.dtype == want_offsets.dtype
        np.testing.assert_array_equal(offsets, want_offsets)
        alone, none = backend.max_pool_forward(x, *plan[1:], False)
        np.testing.assert_array_equal(alone, want)
        assert none is None
        np.testing.assert_array_equal(
            backend.max_pool_indices(offsets, *plan[:5]), reference.max_pool_indices(offsets, *plan[:5])
        )
        grad = rng.standard_normal(want.shape).astype(dtype)
        assert_close(
            backend.max_pool_backward(grad, offsets, *plan[:5]),
            reference.max_pool_backward(grad, offsets, *plan[:5]),
            reduction=int(np.prod(plan.kernel)),
        )


def undilated(cases: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [case for case in cases if case[5] == 1]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("case", undilated(GEOMETRIES), ids=str)
def test_avg_pool_parity(level: str, case: tuple[Any, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(1)
    shape, (size, kernel, stride, padding, _, output) = geometry(case)
    taps = int(np.prod(kernel))
    for dtype, include, divisor in itertools.product(DTYPES, (True, False), (None, 3)):
        x = values(rng, shape, dtype, "random")
        want = reference.avg_pool_forward(x, kernel, stride, padding, output, include, divisor)
        got = backend.avg_pool_forward(x, kernel, stride, padding, output, include, divisor)
        assert_close(got, want, reduction=taps)
        grad = rng.standard_normal(want.shape).astype(dtype)
        assert_close(
            backend.avg_pool_backward(grad, size, kernel, stride, padding, include, divisor),
            reference.avg_pool_backward(grad, size, kernel, stride, padding, include, divisor),
            reduction=taps,
        )


@pytest.mark.parametrize("level", backends())
def test_avg_pool_passes_nan_and_inf_only_where_they_belong(level: str) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(2)
    for case in undilated(GEOMETRIES):
        shape, (size, kernel, stride, padding, _, output) = geometry(case)
        x = values(rng, shape, np.float32, "special")
        with np.errstate(invalid="ignore"):
            want = reference.avg_pool_forward(x, kernel, stride, padding, output, True, None)
        assert_close(backend.avg_pool_forward(x, kernel, stride, padding, output, True, None), want, 289)
        grad = values(rng, want.shape, np.float32, "special")
        with np.errstate(invalid="ignore"):
            want = reference.avg_pool_backward(grad, size, kernel, stride, padding, True, None)
        assert_close(backend.avg_pool_backward(grad, size, kernel, stride, padding, True, None), want, 289)


ADAPTIVE = [
    ((2, 3), (7,), (3,)),
    ((1, 2), (5,), (9,)),
    ((2, 2), (7, 11), (3, 4)),
    ((1, 3), (10, 33), (7, 20)),
    ((3,), (4, 5), (1, 3)),
    ((0, 2), (5, 5), (3, 3)),
    ((1, 2), (5, 5), (0, 3)),
    ((1, 2), (5, 6, 7), (2, 4, 3)),
    ((1, 1), (2, 3, 4), (3, 2, 5)),
    ((2, 9), (50, 45), (3, 2)),  # wide windows
    ((1, 2), (9, 10, 61), (2, 3, 4)),
    ((2, 1), (1000,), (7,)),
    ((3, 5), (7, 7), (1, 1)),  # a plane's mean, its maximum
    ((2, 1), (3,), (1,)),
    ((1, 3), (5, 50), (1, 1)),
    ((1, 2), (40, 50), (1, 1)),
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("case", ADAPTIVE, ids=str)
def test_adaptive_avg_parity(level: str, case: tuple[Any, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(3)
    leading, size, output = case
    for dtype in DTYPES:
        x = values(rng, (*leading, *size), dtype, "random")
        want = reference.adaptive_avg_pool_forward(x, output)
        assert_close(backend.adaptive_avg_pool_forward(x, output), want, reduction=64)
        grad = rng.standard_normal(want.shape).astype(dtype)
        assert_close(
            backend.adaptive_avg_pool_backward(grad, size),
            reference.adaptive_avg_pool_backward(grad, size),
            reduction=64,
        )


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("case", ADAPTIVE, ids=str)
def test_adaptive_max_parity(level: str, case: tuple[Any, ...]) -> None:
    backend = load(level)
    rng = np.random.default_rng(3)
    leading, size, output = case
    for dtype in DTYPES:
        grad = rng.standard_normal((*leading, *output)).astype(dtype)
        for kind in ("random", "ties", "lowest", "special"):
            x = values(rng, (*leading, *size), dtype, kind)
            want, want_indices = reference.adaptive_max_pool_forward(x, output)
            got, indices = backend.adaptive_max_pool_forward(x, output)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(indices, want_indices)
            assert_close(
                backend.adaptive_max_pool_backward(grad, indices, size),
                reference.adaptive_max_pool_backward(grad, indices, size),
                reduction=64,
            )


@pytest.mark.parametrize("level", backends(cuda=True))
def test_unpool_parity(level: str) -> None:
    backend = load(level)
    rng = np.random.default_rng(4)
    for dtype, shape, output in (
        (np.float32, (2, 3, 5), (11,)),
        (np.float64, (2, 3, 4, 5), (8, 11)),
        (np.float32, (0, 3, 4, 5), (8, 11)),
        (np.float32, (1, 2, 2, 3, 4), (4, 6, 9)),
    ):
        x = rng.standard_normal(shape).astype(dtype)
        at = rng.integers(0, int(np.prod(output)), shape)  # with repetitions: the last value stays
        y = reference.max_unpool_forward(x, at, output)
        np.testing.assert_array_equal(backend.max_unpool_forward(x, at, output), y)
        grad = rng.standard_normal(y.shape).astype(dtype)
        np.testing.assert_array_equal(
            backend.max_unpool_backward(grad, at, len(output)),
            reference.max_unpool_backward(grad, at, len(output)),
        )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("wrong", [-1, 16])
def test_bad_index_is_named(level: str, wrong: int) -> None:
    backend = kernels.load(level)
    x = np.ones((2, 4), np.float32)
    at = np.arange(8).reshape(2, 4)
    at[1, 2] = wrong
    for module in (backend, reference):
        with pytest.raises(
            IndexError, match=rf"indices\[6\] \(flattened\) is {wrong}, outside of a plane of 16"
        ):
            module.max_unpool_forward(x, at, (16,))
        with pytest.raises(IndexError, match=rf"indices\[6\] \(flattened\) is {wrong}"):
            module.adaptive_max_pool_backward(x, at, (16,))
        with pytest.raises(IndexError, match=rf"indices\[6\] \(flattened\) is {wrong}"):
            module.max_unpool_backward(np.ones((2, 16), np.float32), at, 1)


@pytest.mark.parametrize("level", backends())
def test_strided_input_and_repeated_bits(level: str) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(5)
    wide = rng.standard_normal((2, 40, 3, 44)).astype(np.float32)
    x = wide[:, ::2, :, ::-2].transpose(0, 2, 1, 3)
    dense = np.ascontiguousarray(x)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1), (4, 4, 0)):
        plan = _plan("test", 2, x.shape, kernel, stride, padding, 1, False)
        y, offsets = backend.max_pool_forward(x, *plan[1:], True)
        want, want_offsets = backend.max_pool_forward(dense, *plan[1:], True)
        np.testing.assert_array_equal(y, want)
        np.testing.assert_array_equal(offsets, want_offsets)
        grad = np.asfortranarray(rng.standard_normal(y.shape).astype(np.float32))
        results = [
            (
                backend.max_pool_backward(grad, offsets, *plan[:5]).tobytes(),
                backend.avg_pool_forward(x, *plan[1:4], plan.output, True, None).tobytes(),
                backend.avg_pool_backward(grad, *plan[:4], True, None).tobytes(),
            )
            for _ in range(3)
        ]
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("level", backends())
def test_any_number_of_threads(level: str, threads: int) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(6)
    with on_threads(backend, threads):
        for shape, kernel, stride, padding in (
            ((1, 1, 300, 301), 3, 2, 1),  # one plane: threads share its rows
            ((1, 1, 300, 301), 3, 1, 1),
            ((64, 65, 21, 23), 2, 2, 0),
            ((64, 65, 21, 23), 3, 2, 1),
            ((600, 60, 7, 7), 7, 7, 0),
        ):
            plan = _plan("test", 2, shape, kernel, stride, padding, 1, False)
            x = rng.integers(-9, 9, shape).astype(np.float32)  # integers: sums are exact
            y, offsets = backend.max_pool_forward(x, *plan[1:], True)
            mean = backend.avg_pool_forward(x, *plan[1:4], plan.output, True, None)
            grad = rng.integers(-9, 9, y.shape).astype(np.float32)
            backend.set_num_threads(1)
            single, single_offsets = backend.max_pool_forward(x, *plan[1:], True)
            np.testing.assert_array_equal(y, single)
            np.testing.assert_array_equal(offsets, single_offsets)
            np.testing.assert_array_equal(
                mean, backend.avg_pool_forward(x, *plan[1:4], plan.output, True, None)
            )
            grads = backend.max_pool_backward(grad, offsets, *plan[:5])
            shares = backend.avg_pool_backward(grad, *plan[:4], True, None)
            backend.set_num_threads(threads)
            np.testing.assert_array_equal(backend.max_pool_backward(grad, offsets, *plan[:5]), grads)
            np.testing.assert_array_equal(backend.avg_pool_backward(grad, *plan[:4], True, None), shares)


@pytest.mark.parametrize("level", backends())
def test_nothing_is_written_beyond_the_arrays(level: str) -> None:
    backend = kernels.load(level)
    rng = np.random.default_rng(7)
    backend.set_memory_guard(True)
    try:
        errors = backend.memory_stats()["guard_errors"]
        for case, dtype in itertools.product(GEOMETRIES, DTYPES):
            shape, plan = geometry(case)
            x = rng.standard_normal(shape).astype(dtype)
            y, offsets = backend.max_pool_forward(x, *plan[1:], True)
            backend.max_pool_backward(y, offsets, *plan[:5])
            # Offsets that no forward pass made are ignored or land inside.
            wild = rng.integers(0, 256, offsets.shape).astype(offsets.dtype)
            backend.max_pool_backward(y, wild, *plan[:5])
            backend.max_pool_indices(wild, *plan[:5])
            if max(plan.dilation) == 1:
                y = backend.avg_pool_forward(x, *plan[1:4], plan.output, True, None)
                backend.avg_pool_backward(y, *plan[:4], True, None)
        del y, offsets
        assert backend.memory_stats()["guard_errors"] == errors
    finally:
        backend.set_memory_guard(False)


@pytest.mark.parametrize("level", backends())
def test_binding_refuses_what_it_cannot_do(level: str) -> None:
    backend = kernels.load(level)
    x = np.zeros((1, 4, 4), np.float32)
    ok: dict[str, Any] = {
        "kernel": (2, 2),
        "stride": (2, 2),
        "padding": (0, 0),
        "dilation": (1, 1),
        "output": (2, 2),
    }
    for change in (
        {"kernel": (0, 2)},
        {"stride": (0, 2)},
        {"padding": (2, 0)},
        {"padding": (-1, 0)},
        {"dilation": (1, -1)},
        {"output": (9, 2)},
        {"output": (-1, 2)},
        {"output": (2,)},
        {"stride": (2,)},
        {"kernel": (1 << 40, 1)},
    ):
        with pytest.raises(ValueError, match="max_pool_forward"):
            backend.max_pool_forward(x, **{**ok, **change}, save=True)
    with pytest.raises(TypeError, match="float32 or float64"):
        backend.max_pool_forward(x.astype(np.int32), **ok, save=True)
    with pytest.raises(ValueError, match="differ in size"):
        backend.max_pool_backward(
            np.zeros((1, 2, 2), np.float32),
            np.zeros((1, 2, 1), np.uint8),
            (4, 4),
            (2, 2),
            (2, 2),
            (0, 0),
            (1, 1),
        )
    with pytest.raises(TypeError, match="offsets must be uint8"):
        backend.max_pool_backward(
            np.zeros((1, 2, 2), np.float32),
            np.zeros((1, 2, 2), np.int64),
            (4, 4),
            (2, 2),
            (2, 2),
            (0, 0),
            (1, 1),
        )
    with pytest.raises(ValueError, match="must not be empty"):
        backend.adaptive_avg_pool_forward(np.zeros((1, 0, 4), np.float32), (1, 1))

"""Sorting, selecting, searching and joining by index: kernels against NumPy on every level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import emulation
import fastdl
from fastdl.kernels import reference
from parity import THREADS, backends, load, on_threads, thread_counts

DTYPES = [np.float32, np.float64, np.int64]


def rows_of(shape, dtype, kind, seed=0):
    """Rows with many equal elements ("ties"; floats also with NaN, infinities and both zeros), of a narrow or of the

    whole range of the dtype.
    """
    rng = np.random.default_rng(seed)
    if kind == "equal":
        return np.full(shape, 7, dtype)
    if kind == "ends":  # of the order
        ends = (
            (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype in (np.int32, np.int64) else (-np.inf, np.nan)
        )
        return np.where(rng.random(shape) < 0.1, *ends).astype(dtype)
    if dtype in (np.int32, np.int64):
        info = np.iinfo(dtype)
        wide = rng.integers(info.min, info.max, shape, dtype)
        return {"ties": wide % 11 - 5, "narrow": wide % 70_000 + info.min // 2**23, "wide": wide}[kind]
    x = rng.standard_normal(shape).astype(dtype)
    if kind == "ties":
        x, small = np.rint(x * 2), x
        x[small > 2] = np.inf
        x[small < -2] = -np.inf
        x[np.abs(small) < 0.05] = np.nan
        x[(small > 0.1) & (small < 0.3)] = -0.0
    return x if kind != "wide" else x * dtype(10) ** rng.integers(-30, 30, shape).astype(dtype)


KINDS = ["ties", "narrow", "wide", "equal", "ends"]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [*DTYPES, np.int32])
def test_sorted_rows(level, dtype):
    kernel = load(level)
    shapes = [(1, 1), (3, 2), (5, 17), (4, 64), (3, 255), (2, 256), (3, 1000), (1, 70_000), (2, 0), (0, 4)]
    shapes += [(2, n) for n in (3, 15, 16, 31, 33, 65, 127, 128, 129, 257)]  # around what is ranked
    shapes += [(70, n) for n in (1, 2, 3, 5, 8, 16)]  # several vectors of rows, the last one not full
    if level == emulation.NAME:  # long rows come below
        shapes.remove((1, 70_000))
    for (rows, n), kind, descending in itertools.product(shapes, KINDS, (False, True)):
        x = rows_of((rows, n), dtype, kind)
        whole = reference.sort_forward(x, n, descending)
        for k in sorted({0, min(1, n), min(5, n), n // 10, n // 4, n}):
            values, indices = kernel.sort_forward(x, k, descending)
            np.testing.assert_array_equal(indices, whole[1][:, :k])
            np.testing.assert_array_equal(values, whole[0][:, :k])
    with pytest.raises(ValueError, match=r"sort: k must be in \[0, n\]"):
        kernel.sort_forward(np.zeros((2, 3), dtype), 4, True)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [*DTYPES, np.int32])
def test_long_rows(level, dtype):
    """Longer than what is sorted at once, and few or many of them in order."""
    kernel = load(level)
    for n, k, kinds in [
        (2049, 2049, KINDS),
        (2049, 7, KINDS),
        (4096, 300, KINDS[:2]),
        (9000, 9000, KINDS[:1]),
        (20_000, 200, KINDS[:1]),
        (6145, 6000, KINDS[-1:]),
    ]:
        for kind, descending in itertools.product(kinds, (False, True)):
            x = rows_of((2, n), dtype, kind)
            for a, b in zip(
                kernel.sort_forward(x, k, descending), reference.sort_forward(x, k, descending), strict=True
            ):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_shared_by_threads(dtype, threads):
    for level in backends()[-1:]:
        kernel = load(level)
        with on_threads(kernel, threads):
            for kind in KINDS:
                x = rows_of((50_001,), dtype, kind)
                for descending in (False, True):
                    got = kernel.sort_forward(x, x.size, descending)
                    for a, b in zip(got, reference.sort_forward(x, x.size, descending), strict=True):
                        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [*DTYPES, np.int32])
def test_selected(level, dtype):
    kernel = load(level)
    shapes = [(1,), (3, 2), (2, 3, 33), (2, 16), (2, 64), (2, 65), (2, 129), (3, 300), (1, 40_000)]
    for shape, kind in itertools.product(shapes, KINDS):
        x = rows_of(shape, dtype, kind)
        for k in sorted({0, shape[-1] // 2, shape[-1] - 1}):
            got = kernel.select_index(x, k)
            assert got.dtype == np.int64
            np.testing.assert_array_equal(got, reference.select_index(x, k))
    assert kernel.select_index(np.zeros((0, 3), dtype), 1).shape == (0,)
    for k in (-1, 3):
        with pytest.raises(ValueError, match=r"select_index: k must be in \[0, n\)"):
            kernel.select_index(np.zeros((2, 3), dtype), k)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_searched(level, dtype):
    kernel = load(level)
    for n, kind, right in itertools.product((0, 1, 2, 3, 16, 100, 1000), KINDS, (False, True)):
        row = np.sort(rows_of((n,), dtype, kind))
        row = row[row == row]
        for shape in ((), (1,), (17,), (3, 5), (0,), (5000,)):
            values = rows_of(shape, dtype, kind, 1) if shape else np.asarray(rows_of((1,), dtype, kind)[0])
            got = kernel.searchsorted(row, values, right)
            assert got.dtype == np.int64
            np.testing.assert_array_equal(got, reference.searchsorted(row, values, right))
            if values.size:  # the definition itself, by NumPy's own search; NaN is beyond all
                want = np.searchsorted(row, values, "right" if right else "left")
                np.testing.assert_array_equal(got, np.where(values == values, want, row.size))
        rows = np.sort(rows_of((2, 3, n), dtype, "narrow"), -1)
        values = rows_of((2, 3, 18), dtype, "narrow", 1)
        np.testing.assert_array_equal(
            kernel.searchsorted(rows, values, right), reference.searchsorted(rows, values, right)
        )
    with pytest.raises(ValueError, match=r"searchsorted: (sorted must have one axis|rows of shape)"):
        kernel.searchsorted(np.zeros((2, 3), dtype), np.zeros((3, 3), dtype), False)
    with pytest.raises(TypeError, match=r"searchsorted: (values|arrays) must"):
        kernel.searchsorted(np.zeros(3, dtype), np.zeros(3, np.int32), False)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_joined_by_index(level, dtype):
    kernel = load(level)
    rng = np.random.default_rng(0)
    for _ in thread_counts(kernel):
        for shape, dim, extent in (
            ((70_000,), 0, 900),
            ((5, 40), 1, 3),
            ((300, 260), 0, 7),
            ((3, 400, 70), 1, 9),
            ((2, 0, 3), 1, 4),
        ):
            index = rng.integers(0, extent, shape)
            target = (*shape[:dim], extent, *shape[dim + 1 :])
            x, source = np.ones(target, dtype), rng.integers(-3, 4, shape).astype(dtype)
            factors = np.where(rng.random(shape) < 0.5, dtype(1), dtype(-1))
            if dtype is not np.int64 and source.size:
                source.reshape(-1)[3] = np.nan
            for name, part, rest in (
                ("scatter_add", source, ()),
                ("scatter_reduce", factors, ("prod",)),
                ("scatter_reduce", source, ("amax",)),
                ("scatter_reduce", source, ("amin",)),
                ("scatter_reduce", np.asarray(dtype(2)), ("amax",)),
            ):
                got, want = x.copy(), x.copy()
                getattr(kernel, name)(got, dim, index, part, *rest)
                getattr(reference, name)(want, dim, index, part, *rest)
                np.testing.assert_array_equal(got, want)
            if level == emulation.NAME:
                continue
            place = rng.integers(0, extent, shape[dim])
            got, want = x.copy(), x.copy()
            kernel.index_add(got, dim, place, source)
            reference.index_add(want, dim, place, source)
            np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="scatter_reduce: reduce must be prod, amax or amin"):
        kernel.scatter_reduce(np.zeros(3, dtype), 0, np.zeros(3, np.int64), np.zeros(3, dtype), "sum")

    def reduce_to_a_wrong_place():
        kernel.scatter_reduce(np.zeros(3, dtype), 0, np.array([0, 3]), np.zeros(2, dtype), "amax")
        kernel.raise_reports()  # where the CPU's levels have raised already

    with pytest.raises(IndexError, match=r"index\[1\].* = 3 is out of range \[0, 3\)"):
        reduce_to_a_wrong_place()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nan_is_never_a_mode_of_several(backend):
    nan = float("nan")
    for values, expected in (
        ([2, nan, nan], 2),
        ([nan, nan, nan, 1, 1], 1),
        ([nan] * 300 + [1, 1], 1),
        ([3, 3, 2], 3),
    ):
        for dtype in (fastdl.float32, fastdl.float64):
            with fastdl.use_backend(backend):
                assert fastdl.mode(fastdl.tensor(values, dtype=dtype)).values.item() == expected
    with fastdl.use_backend(backend):
        of_nan = fastdl.mode(fastdl.tensor([nan, nan]))
    assert fastdl.isnan(of_nan.values)
    assert of_nan.indices.item() == 0


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64, fastdl.float16, fastdl.bfloat16])
def test_the_best_alone_is_the_first_of_two(dtype):
    """It is searched by another kernel; with NaN, infinities, both zeros and equal elements."""
    for kind, dim in itertools.product(KINDS, (0, 1)):
        x = fastdl.tensor(rows_of((40, 300), np.float32, kind)).to(dtype).requires_grad_()
        values, indices = x.topk(1, dim)
        two = x.topk(2, dim)
        np.testing.assert_array_equal(indices.numpy(), two.indices.narrow(dim, 0, 1).numpy())
        np.testing.assert_array_equal(
            values.detach().float().numpy(), two.values.detach().narrow(dim, 0, 1).float().numpy()
        )
        got, want = (fastdl.autograd.grad(v.sum(), x)[0] for v in (values, two.values.narrow(dim, 0, 1)))
        np.testing.assert_array_equal(got.float().numpy(), want.float().numpy())
    assert fastdl.zeros(0, 3).topk(1).values.shape == (0, 1)

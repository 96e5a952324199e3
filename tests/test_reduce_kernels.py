"""Reductions' kernels against NumPy on every level and on CUDA: layouts, accuracy, threads, counts, order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emulation
import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.ops import reduce as R
from parity import backends, load, thread_counts, tolerance

SHAPES = [
    (),
    (1,),
    (17,),
    (1000,),
    (7, 9),
    (3, 700),
    (700, 3),
    (257, 40),
    (2, 3, 4, 5),
    (4, 200, 3),
    (33, 5, 65),
]
EMPTY = [(0,), (0, 3), (3, 0), (2, 0, 3)]
FOLDS = ["sum", "prod", "amax", "amin", "mean", "logsumexp"]


def numbers(shape, dtype, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def subsets(ndim):
    return [None] + [axes for n in range(ndim + 1) for axes in itertools.combinations(range(ndim), n)]


def views(x):
    """x in memory orders that a kernel has to see through."""
    yield x
    if x.ndim:
        yield np.ascontiguousarray(x.T).T
        yield np.ascontiguousarray(x[::-1])[::-1]
        yield np.repeat(x, 2, -1)[..., ::2]
    if x.ndim > 2:
        yield np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)


def windows(dtype):
    """Windows that overlap: of two axes with one stride either may be the longer one, or merge with others."""
    x = numbers((3, 40, 9), dtype)
    for size in (1, 2, 3, 7):
        yield np.lib.stride_tricks.sliding_window_view(x, size, 1)
        yield np.lib.stride_tricks.sliding_window_view(x, size, 2)
        yield np.lib.stride_tricks.sliding_window_view(x.transpose(0, 2, 1), size, 1)
    yield np.lib.stride_tricks.sliding_window_view(x, (3, 5), (1, 2))
    item = x.itemsize
    yield np.lib.stride_tricks.as_strided(x, (20, 3, 5), (3 * item, item, item))
    yield np.lib.stride_tricks.as_strided(x, (20, 5, 3), (3 * item, item, item))


def close(got, want, x):
    """Within roundings of the largest and of the sum of magnitudes, which is what sums can promise."""
    assert got.dtype == x.dtype
    assert got.shape == want.shape
    scale = max(1.0, float(np.abs(x[np.isfinite(x)]).sum()) / max(want.size, 1))
    np.testing.assert_allclose(got, want, rtol=tolerance(x.dtype), atol=tolerance(x.dtype) * scale)


# ---------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folds(level, dtype):
    kernel = load(level)
    for shape in SHAPES:
        base = numbers(shape, dtype)
        for x, axes in itertools.product(views(base), subsets(len(shape))):
            keepdim = axes is not None and len(axes) % 2 == 1
            for name in FOLDS:
                got = getattr(kernel, name + "_forward")(x, axes, keepdim)
                close(got, getattr(reference, name + "_forward")(base, axes, keepdim), base)
            for p in (0, 1, 2, 3, 0.5, np.inf, -np.inf):
                close(
                    kernel.norm_forward(x, p, axes, keepdim),
                    reference.norm_forward(base, p, axes, keepdim),
                    base,
                )
            for mine, plain in zip(
                kernel.var_forward(x, 0, axes, keepdim),
                reference.var_forward(base, 0, axes, keepdim),
                strict=True,
            ):
                close(mine, plain, base)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folds_of_windows(level, dtype):
    kernel = load(level)
    for x in windows(dtype):
        for axes in subsets(x.ndim):
            for name in FOLDS:
                got = getattr(kernel, name + "_forward")(x, axes)
                close(got, getattr(reference, name + "_forward")(x, axes), x)
            close(kernel.norm_forward(x, 2, axes), reference.norm_forward(x, 2, axes), x)
            for mine, plain in zip(
                kernel.var_forward(x, 0, axes), reference.var_forward(x, 0, axes), strict=True
            ):
                close(mine, plain, x)
            if axes:
                target = tuple([1 if i in axes else n for i, n in enumerate(x.shape)])
                y = x[..., ::-1]
                close(
                    kernel.sum_product_to(x, y, target), reference.sum_product_to(x, y, target), np.abs(x * y)
                )


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_results_of_many_values(level, dtype):
    """CUDA cuts them into slices, and its threads load several values at a time: whole steps and a rest."""
    kernel = load(level)
    for shape, axes in [((2501, 3), (0,)), ((2, 9001), (1,)), ((3, 2501, 2), (0, 1)), ((2049, 2, 5), (0, 2))]:
        base = numbers(int(np.prod(shape)) + 1, dtype)[1:].reshape(shape)
        for x in views(base):
            for name in ("sum", "amax", "amin", "logsumexp"):
                got = getattr(kernel, name + "_forward")(x, axes)
                close(got, getattr(reference, name + "_forward")(base, axes), base)
            for p in (1, 2, 3):
                close(kernel.norm_forward(x, p, axes), reference.norm_forward(base, p, axes), base)
            close(kernel.var_forward(x, 0, axes)[0], reference.var_forward(base, 0, axes)[0], base)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_places_of_extremes(level):
    kernel = load(level)
    for shape, dtype in itertools.product(
        [s for s in SHAPES if s] + [(300, 3), (5, 70000)], [np.float32, np.float64]
    ):
        ties = np.rint(numbers(shape, dtype) * 2)
        missing = ties.copy()
        missing.flat[[missing.size // 2, missing.size - 1]] = np.nan
        for x, axis, keepdim in itertools.product(
            [ties, missing, ties.T], [None, *range(len(shape))], [False, True]
        ):
            for name in ("max", "min"):
                values, indices = getattr(kernel, name + "_forward")(x, axis, keepdim)
                want_values, want_indices = getattr(reference, name + "_forward")(x, axis, keepdim)
                np.testing.assert_array_equal(values, want_values)
                np.testing.assert_array_equal(indices, want_indices)
                assert indices.dtype == np.int64


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_to_a_shape(level, dtype):
    kernel = load(level)
    for shape in SHAPES:
        x = numbers(shape, dtype)
        for kept in itertools.product([False, True], repeat=len(shape)):
            target = tuple(n if k else 1 for n, k in zip(shape, kept, strict=True))
            for short in {target, target[next((i for i, k in enumerate(kept) if k), len(kept)) :]}:
                close(kernel.sum_to(x, short), reference.sum_to(x, short), x)
                for y in (x, x[:1], x[..., :1]) if shape else (x,):
                    got = kernel.sum_product_to(x, y, short)
                    close(got, reference.sum_product_to(x, y, short), x * y)
    with pytest.raises(ValueError, match=r"sum_to: shape \(2,\) does not broadcast to \(3, 4\)"):
        kernel.sum_to(numbers((3, 4), dtype), (2,))


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nothing_to_reduce(level):
    kernel = load(level)
    with np.errstate(all="ignore"):
        for shape in EMPTY:
            x = np.zeros(shape, np.float32)
            for name, axes in itertools.product(FOLDS, subsets(len(shape))):
                np.testing.assert_array_equal(
                    getattr(kernel, name + "_forward")(x, axes),
                    getattr(reference, name + "_forward")(x, axes),
                )
    with pytest.raises(ValueError, match="max: no elements to choose from"):
        kernel.max_forward(np.zeros((3, 0), np.float32), 1)
    with pytest.raises(IndexError, match="sum: axis 2 of an array with 2 axes"):
        kernel.sum_forward(np.zeros((3, 2), np.float32), (2,))
    with pytest.raises(ValueError, match="axis -1 is given twice"):
        kernel.sum_forward(np.zeros((3, 2), np.float32), (1, -1))


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nan_and_infinities(level):
    kernel = load(level)
    for place, shape in itertools.product([0, 5, 20, 63, 130], [(200,), (200, 3), (3, 200)]):
        x = numbers(shape, np.float32)
        x.flat[place] = np.nan
        axis = shape.index(200)
        for name in FOLDS:
            got = getattr(kernel, name + "_forward")(x, (axis,))
            np.testing.assert_array_equal(np.isnan(got), np.isnan(x).any(axis))
        x.flat[place] = np.inf
        for name in ("sum", "amax", "logsumexp", "mean"):
            np.testing.assert_array_equal(
                np.isposinf(getattr(kernel, name + "_forward")(x, (axis,))), np.isinf(x).any(axis)
            )
    assert kernel.logsumexp_forward(np.full(9, -np.inf, np.float32)) == -np.inf
    assert np.isnan(kernel.sum_forward(np.array([np.inf, -np.inf], np.float32)))


def test_long_float32_sums_are_accurate():
    x = np.full(20_000_000, 0.1, np.float32)
    exact = float(np.float32(0.1)) * x.size
    assert abs(float(kernels.cpu.sum_forward(x)) - exact) <= exact * np.finfo(np.float32).eps
    columns = x.reshape(-1, 4)
    np.testing.assert_allclose(
        kernels.cpu.sum_forward(columns, (0,)), exact / 4, rtol=np.finfo(np.float32).eps
    )


def test_variance_far_from_zero():
    x = (np.arange(1000) % 7 + 1e6).astype(np.float32)
    var, mean = kernels.cpu.var_forward(x, 1)
    np.testing.assert_allclose(var, x.astype(np.float64).var(ddof=1), rtol=1e-6)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(), rtol=1e-7)


@pytest.mark.parametrize("level", backends())
def test_threads_and_repetition(level):
    """The same thread count gives the same bits; any count gives the sum."""
    kernel = kernels.load(level)
    x = numbers((400, 900), np.float32)
    for _ in thread_counts(kernel):
        for axes in (None, (0,), (1,)):
            first, second = kernel.sum_forward(x, axes), kernel.sum_forward(x, axes)
            assert first.tobytes() == second.tobytes()
            close(first, reference.sum_forward(x, axes), x)
            assert kernel.norm_forward(x, 2, axes).tobytes() == kernel.norm_forward(x, 2, axes).tobytes()
            places = kernel.max_forward(x, None if axes is None else axes[0])[1]
            np.testing.assert_array_equal(places, np.argmax(x, None if axes is None else axes[0]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 15),
    st.permutations(range(4)),
    st.booleans(),
)
def test_any_shape_axes_and_order(shape, mask, order, reverse):
    base = numbers(shape, np.float32)
    x = base.transpose([i for i in order if i < base.ndim])
    if reverse:
        x = x[::-1]
    axes = tuple(i for i in range(x.ndim) if mask >> i & 1)
    for name in ("sum", "amax", "logsumexp"):
        close(
            getattr(kernels.cpu, name + "_forward")(x, axes),
            getattr(reference, name + "_forward")(x, axes),
            x,
        )


def test_broadcast_view():
    x = numbers((3, 1), np.float32)
    view = kernels.cpu.broadcast_to(x, (2, 3, 4))
    np.testing.assert_array_equal(view, np.broadcast_to(x, (2, 3, 4)))
    assert not view.flags.writeable
    assert np.shares_memory(view, x)
    with pytest.raises(ValueError, match="does not broadcast"):
        kernels.cpu.broadcast_to(x, (3, -1))
    with pytest.raises(ValueError, match="does not broadcast"):
        kernels.cpu.broadcast_to(x, (4,))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["max", "min"])
def test_the_first_of_equal_extremes_in_rows_of_any_length(level, dtype, name):
    """Ties, NaN and infinities in every lane and step of the vectors; few different values make many ties."""
    kernel, rng = kernels.load(level), np.random.default_rng(0)
    function = getattr(kernel, f"{name}_forward")
    definition = getattr(reference, f"{name}_forward")
    for n in [*range(1, 40), 63, 64, 65, 127, 128, 129, 200, 300, 1000]:
        x = rng.integers(-1, 2, (300 if n < 40 else 9, n)).astype(dtype)  # several blocks of short rows
        x[1, rng.integers(n)] = np.nan
        x[2, rng.integers(n, size=3)] = np.nan
        x[3] = -np.inf
        x[4] = np.inf
        x[-1, -1] = np.nan
        for values in (x, np.ascontiguousarray(x.T)):
            axis = 1 if values is x else 0
            for got, want in zip(function(values, axis), definition(values, axis), strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_every_length(level, dtype):
    kernel = load(level)
    for n in [*range(1, 70), 127, 128, 129, 255, 256, 257, 1000]:
        x = numbers((37, n), dtype)
        for name in FOLDS:
            for axis in (0, 1):
                got = getattr(kernel, name + "_forward")(x, (axis,))
                close(got, getattr(reference, name + "_forward")(x, (axis,)), x)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_counts(level):
    kernel = load(level)
    for shape in [*SHAPES, (3, 100_000), (100_000, 3), (600, 1100), (1, 1_000_000), *EMPTY]:
        x = np.asarray(np.random.default_rng(1).integers(0, 3, shape) > 0)
        for axis, keepdim in itertools.product([None, *range(len(shape))], [False, True]):
            for view in (x, x[..., ::-1] if shape else x):
                got = kernel.count_true(view, axis, keepdim)
                np.testing.assert_array_equal(got, reference.count_true(view, axis, keepdim))
                assert got.dtype == np.int64
    ones = np.full((1000, 300), 2, np.uint8).view(np.bool_)  # any byte that is not zero counts
    assert (kernel.count_true(ones, 0) == 1000).all()
    assert (kernel.count_true(ones, 1) == 300).all()
    for n in [*range(1, 20), 63, 64, 65, 71, 130]:  # rows that begin and end anywhere in a word
        x = np.random.default_rng(n).integers(0, 256, (50, n), np.uint8) * (
            np.arange(50 * n).reshape(50, n) % 3 > 0
        )
        np.testing.assert_array_equal(
            kernel.count_true(x.astype(np.uint8).view(np.bool_), 1), (x != 0).sum(1)
        )
    with pytest.raises(TypeError, match="count_true: x must be bool"):
        kernel.count_true(np.ones(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("level", backends(cuda=True))
def test_tall_and_wide(level, dtype):
    """Many short rows, tall narrow matrices, few long rows: with and without a start at a multiple of 16 bytes."""
    kernel = load(level)
    for shape in [
        (9001, 3),
        (4000, 10),
        (2111, 33),
        (600, 131),
        (3, 8200),
        (2, 2003, 12),
        (3, 5, 4100),
        (1100, 1028),
        (1, 40_000),
    ]:
        for start in (0, 1):
            x = numbers(1 + np.prod(shape), dtype, 3)[start:][: np.prod(shape)].reshape(shape)
            for axis in [*range(len(shape)), None]:
                axes = None if axis is None else (axis,)
                for name in ("sum", "amax", "logsumexp"):
                    got = getattr(kernel, name + "_forward")(x, axes)
                    close(got, getattr(reference, name + "_forward")(x, axes), x)
                for got, want in zip(
                    kernel.var_forward(x, 0, axes), reference.var_forward(x, 0, axes), strict=True
                ):
                    close(got, want, x)
                whole = np.round(2 * x)  # of many equal ones the first
                whole.flat[7::501] = np.nan
                for name in ("max_forward", "min_forward"):
                    for got, want in zip(
                        getattr(kernel, name)(whole, axis), getattr(reference, name)(whole, axis), strict=True
                    ):
                        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_extremes_of_infinities(level):
    kernel = load(level)
    for shape, axis in (((300, 6), 1), ((300, 6), 0), ((2, 1000), 1), ((5000, 3), 0)):
        x = np.full(shape, -np.inf, np.float32)
        values, indices = kernel.max_forward(x, axis)
        assert (values == -np.inf).all()
        assert not indices.any()
        assert not kernel.min_forward(-x, axis)[1].any()


@pytest.mark.skipif(
    emulation.NAME not in backends(cuda=True), reason="needs the CUDA kernels under emulation"
)
def test_counts_over_several_axes_on_cuda():
    kernel = load(emulation.NAME)
    for shape in [(7, 9), (4000, 10), (10, 4000), (2, 300, 33), (0, 3), (33, 5, 6, 7)]:
        x = np.random.default_rng(5).random(shape) < 0.7
        for axes, keepdim in itertools.product(subsets(len(shape)), (False, True)):
            got = kernel.count_true(x, axes, keepdim)
            np.testing.assert_array_equal(got, x.sum(axes, np.int64, keepdims=keepdim))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_sums_of_integers(level, dtype):
    kernel, rng = load(level), np.random.default_rng(5)
    info = np.iinfo(dtype)
    for shape in ((), (0,), (7,), (3, 0), (300, 5), (3, 2100, 4), (2, 50000), (40, 3, 1500)):
        x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        for view in (x, x.T):
            for axis, keepdim in itertools.product((None, *range(view.ndim)), (False, True)):
                for product in (False, True):
                    got = kernel.sum_integers(view, axis, keepdim, product)
                    np.testing.assert_array_equal(got, reference.sum_integers(view, axis, keepdim, product))
                    assert got.dtype == np.int64
    with pytest.raises(TypeError, match="sum_integers: x must be int64"):
        kernel.sum_integers(np.ones(3))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_extremes_of_integers(level, dtype):
    kernel, rng = load(level), np.random.default_rng(6)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for shape in ((), (1,), (7,), (300, 5), (3, 2100, 4), (2, 150_000), (1, 5, 1, 130), (40, 3, 1500)):
        x = rng.integers(low, high, shape, np.int64, endpoint=True).astype(dtype)
        if x.size > 100 and dtype != "bool":  # few reach the ends
            x = np.where(rng.random(shape) < 0.999, x // 2, x).astype(dtype)
        for view in (x, x.T, x[..., ::-1] if shape else x):
            for axes, keepdim in itertools.product(subsets(view.ndim), (False, True)):
                for name in ("amax_forward", "amin_forward"):
                    got = getattr(kernel, name)(view, axes, keepdim)
                    np.testing.assert_array_equal(got, getattr(reference, name)(view, axes, keepdim))
                    assert got.dtype == np.dtype(dtype)
            if dtype == "int64":
                for axis, name in itertools.product(
                    (None, *range(view.ndim)), ("max_forward", "min_forward")
                ):
                    got = getattr(kernel, name)(view, axis, True)
                    for a, b in zip(got, getattr(reference, name)(view, axis, True), strict=True):
                        np.testing.assert_array_equal(a, b)
    assert kernel.amax_forward(np.zeros((0, 3), dtype), (1,)).shape == (0,)
    with pytest.raises(ValueError, match="amin: no elements to choose from"):
        kernel.amin_forward(np.zeros((0, 3), dtype), (0,))


def test_messages():
    x = fastdl.from_numpy(np.ones((3, 4), np.float32))
    with pytest.raises(
        IndexError, match=r"sum: dim 2 is out of range for a tensor of 2 dimensions; it must be in \[-2, 1\]"
    ):
        R.sum(x, 2)
    with pytest.raises(IndexError, match=r"max: dim -3 is out of range"):
        R.max(x, -3)
    with pytest.raises(RuntimeError, match=r"sum: dim \(0, -2\) names an axis twice"):
        R.sum(x, (0, -2))
    with pytest.raises(RuntimeError, match="mean: defined for floating-point tensors, got int64"):
        R.mean(fastdl.from_numpy(np.array([1, 2])))
    with pytest.raises(
        IndexError, match=r"amax: there is no element to choose from in a tensor of shape \(3, 0\)"
    ):
        R.amax(fastdl.from_numpy(np.zeros((3, 0), np.float32)), 1)
    with pytest.raises(RuntimeError, match=r"topk: k must be in \[0, 4\], the extent of dim -1, got 5"):
        R.topk(x, 5)
    with pytest.raises(RuntimeError, match=r"kthvalue: k must be in \[1, 4\], the extent of dim -1, got 0"):
        R.kthvalue(x, 0)
    with pytest.raises(ValueError, match="var: give either unbiased or correction, not both"):
        fastdl.var(x, 0, True, correction=1)
    with pytest.raises(ValueError, match="norm: p must be a number, 'fro' or 'nuc', got 'max'"):
        fastdl.norm(x, "max")
    with pytest.raises(TypeError, match="sum: input must be a Tensor, got list"):
        R.sum([1.0])


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_running_sums_and_products(level, dtype):
    module, rng = load(level), np.random.default_rng(0)
    for shape in (
        (1,),
        (15,),
        (16,),
        (4099,),
        (9, 33),
        (5, 40, 2),
        (1, 40, 3),
        (3, 40, 4),
        (2, 40, 5),
        (1, 40, 6),
        (6, 40, 7),
        (2, 40, 8),
        (1, 3, 700),
        (3, 0, 2),
    ):
        for axis in range(len(shape)):
            x = (
                (1 + 0.01 * rng.standard_normal(shape)).astype(dtype)
                if dtype != np.int64
                else rng.integers(-3, 4, shape)
            )
            wide = x.astype(np.float64) if dtype == np.float32 else x
            tolerance = {"rtol": 64 * np.finfo(dtype).eps} if dtype != np.int64 else {}
            for from_end in (False, True):
                want = reference.running_sum(wide, axis, from_end)
                np.testing.assert_allclose(module.running_sum(x, axis, from_end), want, **tolerance)
            got, want = module.running_product(x, axis), reference.running_product(wide, axis)
            np.testing.assert_allclose(got, want, **tolerance)

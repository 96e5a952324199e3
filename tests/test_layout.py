"""Strided copies and indexing kernels against the reference, on every level and number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
from fastdl.kernels import reference
from parity import assert_same_sums


def variants(rng, dtype):
    """Arrays of all layouts: whole, transposed, sliced, reversed, broadcast, odd and empty."""

    def make(*shape):
        return rng.integers(0, 100, shape).astype(dtype)

    yield make()
    yield make(5)
    yield make(0, 3)
    yield make(100_003)
    yield make(33, 65).T
    yield make(16, 16).T
    yield make(700, 333).T
    yield make(3, 17, 40).transpose(2, 0, 1)
    yield make(3, 17, 40).transpose(0, 2, 1)
    yield make(2, 3, 64, 48).transpose(0, 2, 3, 1)
    yield make(4, 31, 5, 37).transpose(3, 1, 2, 0)
    yield make(20, 1, 30).transpose(2, 1, 0)
    yield make(50, 60)[3:, 5:-1]
    yield make(50, 60)[::2, ::3]
    yield make(50, 60)[::-1, ::-1]
    yield make(40, 40)[::-1].T
    yield np.broadcast_to(make(50), (40, 50))
    yield np.broadcast_to(make(40, 1), (40, 50))
    yield np.broadcast_to(make(40, 1), (40, 50)).T
    yield np.broadcast_to(make(1), (1000, 7))
    yield make(100)[::-1]
    yield make(2, 3, 4, 5, 2, 3, 4, 5).transpose(7, 1, 5, 3, 0, 6, 2, 4)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", "?", "c16"])
def test_contiguous(any_backend, dtype):
    for x in variants(np.random.default_rng(0), dtype):
        got = any_backend.contiguous(x)
        np.testing.assert_array_equal(got, x)
        assert got.flags.c_contiguous
        assert not np.shares_memory(got, x)


def test_contiguous_of_large_arrays(backend):
    """From 16 MB on copies go around the caches; constants are written by all threads."""
    x = np.random.default_rng(0).integers(0, 255, (17 << 20) + 8, np.uint8)
    for part in (x[4:], x[8:-1], x[3:-1]):
        np.testing.assert_array_equal(backend.contiguous(part), part)
    for dtype in (np.uint8, np.float32, np.float64):
        constant = np.broadcast_to(np.array(7, dtype), (100, 1001))
        np.testing.assert_array_equal(backend.contiguous(constant), constant)
    # Transposed: rows of the result that are aligned to vectors, and rows that are not.
    for dtype, shape, axes in (
        ("f4", (2100, 2048), (1, 0)),
        ("f4", (2048, 2101), (1, 0)),
        ("f8", (33, 70, 1024), (0, 2, 1)),
        ("f8", (1024, 33, 80), (2, 1, 0)),
    ):
        x = np.arange(np.prod(shape), dtype=dtype).reshape(shape).transpose(axes)
        np.testing.assert_array_equal(backend.contiguous(x), x)


@pytest.mark.parametrize("source", ["?", "u1", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("target", ["?", "u1", "i4", "i8", "f4", "f8"])
def test_convert(backend, source, target):
    draw = np.random.default_rng(4)
    for shape in ((), (0,), (1,), (3, 21), (64,), (100_003,)):
        x = np.asarray(draw.standard_normal(shape) * 50).astype("f8")
        x = np.asarray(np.abs(x) if "u1" in (source, target) else x * (np.abs(x) > 10)).astype(source)
        got = backend.convert(x, np.dtype(target))
        np.testing.assert_array_equal(got, reference.convert(x, np.dtype(target)))
        assert got.dtype == target
        assert got.shape == shape
    wide = np.asarray(draw.standard_normal((6, 5, 600)) * 50 * draw.integers(0, 2, (6, 5, 600)))
    wide = (np.abs(wide) if "u1" in (source, target) else wide).astype(source)
    for x in (wide[:, ::2], wide[..., ::2], wide[::-1], wide.T, wide[:1, :1, :7].repeat(3, 0), wide[:, :0]):
        got = backend.convert(x, np.dtype(target))
        np.testing.assert_array_equal(got, x.astype(target))
        assert got.dtype == target
        assert got.flags.c_contiguous
    x = np.broadcast_to(wide[0, 0], (3, 4, 600))
    np.testing.assert_array_equal(backend.convert(x, np.dtype(target)), x.astype(target))
    assert backend.convert(np.ones(4, source), np.dtype("i2")) is None


def test_convert_to_bytes_keeps_the_lowest_bits(backend):
    x = np.array([0, 255, 256, 300, -1, -300, 70_000] * 500)
    for source in ("i4", "i8", "f4", "f8"):
        got = backend.convert(x.astype(source), np.dtype("u1"))
        np.testing.assert_array_equal(got, (x & 255).astype("u1"))


def test_convert_into(backend):
    """Memory of the caller, which may be that of the source; what it does not know it leaves as it is."""
    for source, target, n in (("?", "f4", 5000), ("f8", "f4", 70), ("f4", "f8", 100_000), ("i8", "f2", 3000)):
        x = (np.arange(n) % 5).astype(source)
        out = np.empty(n, target)
        assert backend.convert(x, np.dtype(target), out) is out
        np.testing.assert_array_equal(out, x.astype(target))
        wide = np.empty((2, n), target)
        assert backend.convert(x, np.dtype(target), wide[1]).base is wide
        np.testing.assert_array_equal(wide[1], out)
    bits = np.arange(4000, dtype="i4")
    assert backend.convert(bits, np.dtype("f4"), bits.view("f4")) is not None
    np.testing.assert_array_equal(bits.view("f4"), np.arange(4000))
    x, frozen = np.ones((4, 6), "f4"), np.zeros((4, 6), "f8")
    frozen.flags.writeable = False
    for out in (np.zeros((6, 4), "f8").T, np.zeros((4, 1), "f8"), np.zeros((4, 6), "f4"), frozen):
        assert backend.convert(x, np.dtype("f8"), out) is None
        assert not out.any()


def test_doubles_become_half_precision_by_way_of_floats(backend):
    x = np.full(50, 1 + 2.0**-11 + 2.0**-30)  # rounded once it is 1 + 2^-10
    np.testing.assert_array_equal(backend.convert(x, np.dtype("f2")), np.ones(50))


@pytest.mark.parametrize("n", [1, 21, 100_003])
def test_convert_keeps_denormal_numbers(backend, n):
    for source, target, tiny in (
        ("f8", "f4", 1e-40),
        ("f4", "f8", 1e-40),
        ("f4", "?", 1e-40),
        ("f8", "?", 1e-310),
    ):
        x = np.full(n, tiny, source)
        np.testing.assert_array_equal(backend.convert(x, np.dtype(target)), x.astype(target))


def test_zeros(backend):
    for shape, dtype in (((), "f4"), ((0, 3), "i8"), ((7, 9), "?"), ((5_000_001,), "f4"), ((33_333,), "f8")):
        x = backend.zeros(shape, np.dtype(dtype))
        assert x.shape == shape
        assert x.dtype == dtype
        assert not x.any()


def test_contiguous_of_unaligned_elements(backend):
    fields = np.zeros(1000, "i1,f4")
    fields["f1"] = np.arange(1000)
    np.testing.assert_array_equal(backend.contiguous(fields["f1"]), np.arange(1000))
    halves = np.arange(12, dtype="f4").astype(pytest.importorskip("ml_dtypes").bfloat16).reshape(3, 4)
    copy = backend.contiguous(halves.T)
    assert copy.dtype == halves.dtype
    np.testing.assert_array_equal(copy.astype("f4"), halves.T.astype("f4"))
    for refused in (np.array([object()]), fields):
        with pytest.raises(TypeError, match="plain numbers"):
            backend.contiguous(refused)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?"])
def test_concat(any_backend, dtype):
    rng = np.random.default_rng(0)
    for shape, dim, extents in (
        ((1,), 0, (3, 0, 5)),
        ((1, 7), 0, (2, 100_000, 1)),
        ((300, 1, 33), 1, (1, 5, 2)),
        ((4, 3, 1), 2, (6, 1)),
        ((0, 1), 1, (2, 3)),
        ((2, 1), 1, (4,)),
        ((1, 1101), 0, (2000, 2300)),  # larger than the caches
        ((3000, 1, 301), 1, (2, 3)),
        ((1,), 0, (50_001, 0, 7, 120_000, 1, 64, 0)),  # ranges of threads that begin and end within parts
        ((1, 3), 0, tuple(range(200))),
    ):
        parts = [rng.integers(0, 100, (*shape[:dim], n, *shape[dim + 1 :])).astype(dtype) for n in extents]
        want = reference.concat(parts, dim)
        np.testing.assert_array_equal(any_backend.concat(parts, dim), want)
        np.testing.assert_array_equal(any_backend.concat([np.asfortranarray(p) for p in parts], dim), want)
    x = np.ones((2, 3), dtype)
    for mistake in ([], [x, x[:1]], [x, x[0]], [x[0], x], [x, x[None]], [np.ones(())]):
        with pytest.raises(ValueError, match="concat"):
            any_backend.concat(mistake, 1)
    with pytest.raises(TypeError, match="same dtype"):
        any_backend.concat([x, x.astype("i2")], 0)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1"])
def test_parts_with_gaps(any_backend, dtype):
    """Rows and single elements that lie evenly apart are joined, and every other element copied, as they lie."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 511, 513, 1100, 40_001):
        x = rng.integers(0, 100, (2, n, 4)).astype(dtype)
        flat = x.reshape(-1)
        whole, even, odd, third = flat[: 2 * n], flat[::2][: 2 * n], flat[1::2][: 2 * n], flat[::3][: 2 * n]
        for view in (
            even,
            odd,
            third,
            flat[2::3],
            flat[3::4],
            flat[::4],
            flat[::5],
            even[::-1],
            x[..., ::2],
            x[..., 1],
        ):
            np.testing.assert_array_equal(any_backend.contiguous(view), view)
        for parts in (
            (even, odd),
            (even, whole),
            (whole, third[: 2 * n]),
            (odd[::-1], even),
            (odd, whole, even),
        ):
            length = min(part.size for part in parts)
            columns = [part[:length, None] for part in parts]
            np.testing.assert_array_equal(any_backend.concat(columns, 1), np.concatenate(columns, 1))
        for columns in (
            [x[..., 1:2], x[..., 3:]],
            [x[..., 1:3], x[..., :1], x[::-1, ::-1, 2:]],
            [np.broadcast_to(x[:1, :1], x.shape), x],
            [x[:, ::-1], x[..., :0], x[..., ::2]],
        ):
            np.testing.assert_array_equal(any_backend.concat(columns, 2), np.concatenate(columns, 2))
            np.testing.assert_array_equal(
                any_backend.concat(columns[::-1], 2), np.concatenate(columns[::-1], 2)
            )


def test_bfloat16_is_copied_and_joined_as_it_is(backend):
    x = fastdl.arange(700).to(fastdl.bfloat16).numpy().reshape(20, 35)
    for part in (x.T, x[:, 3:9]):
        np.testing.assert_array_equal(backend.contiguous(part), part)
        np.testing.assert_array_equal(backend.concat([part, part], 1), np.concatenate([part, part], 1))


# (shape, dim, number of indices): single and many rows, row lengths around vector widths, both sides of threading
PROBLEMS = [
    ((5,), 0, 3),
    ((5,), 0, 0),
    ((1,), 0, 1000),
    ((1000,), 0, 70_000),
    ((7, 3), 0, 11),
    ((7, 3), 1, 4),
    ((300, 33), 0, 2000),
    ((3, 40, 17), 1, 500),
    ((2, 2, 3, 5), 2, 9),
    ((4, 0), 0, 3),
    ((64, 100), 1, 600),
]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("shape", "dim", "count"), PROBLEMS)
def test_index_select(any_backend, shape, dim, count, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    index = rng.integers(0, shape[dim], count)
    want = reference.index_select_forward(x, dim, index)
    np.testing.assert_array_equal(any_backend.index_select_forward(x, dim, index), want)
    moved = np.asfortranarray(x)
    np.testing.assert_array_equal(any_backend.index_select_forward(moved, dim, index[::-1][::-1]), want)
    grad = rng.integers(-8, 8, want.shape).astype(dtype)  # sums of small integers are exact
    got = any_backend.index_select_backward(grad, dim, index, shape[dim])
    np.testing.assert_array_equal(got, reference.index_select_backward(grad, dim, index, shape[dim]))
    # Any values: the order of additions is the index's, whatever the threads.
    grad = rng.standard_normal(want.shape).astype(dtype)
    got = any_backend.index_select_backward(grad, dim, index, shape[dim])
    assert_same_sums(
        any_backend, got, reference.index_select_backward(grad, dim, index, shape[dim]), index, dim
    )


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("shape", "dim", "count"), PROBLEMS)
def test_gather(any_backend, shape, dim, count, dtype):
    backend = any_backend
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    index = rng.integers(0, shape[dim], (*shape[:dim], count, *shape[dim + 1 :]))
    want = reference.gather_forward(x, dim, index)
    np.testing.assert_array_equal(backend.gather_forward(x, dim, index), want)
    grad = rng.standard_normal(want.shape).astype(dtype)
    got = backend.gather_backward(grad, dim, index, shape[dim])
    np.testing.assert_array_equal(got, reference.gather_backward(grad, dim, index, shape[dim]))


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 40), (9000,)])
def test_flat_index(any_backend, shape):
    rng = np.random.default_rng(0)
    extents = (3, 1, 7)
    arrays = [np.asarray(rng.integers(-n, n, shape)) for n in extents]
    want = np.ravel_multi_index([a % n for a, n in zip(arrays, extents, strict=True)], extents)
    for given in (arrays, [np.array(a, order="F") for a in arrays]):
        got = any_backend.flat_index(given, extents)
        assert got.dtype == np.int64
        assert got.shape == shape
        np.testing.assert_array_equal(got, want)
    if want.size:
        for axis, wrong in itertools.product(range(3), (-1 - 7, 7, np.iinfo(np.int64).min)):
            off = [a.copy() for a in arrays]
            off[axis].reshape(-1)[-1] = wrong
            assert any_backend.flat_index(off, extents) is None


@pytest.mark.parametrize("dtype", ["i8", "i2", "u1", "?", "f2", "i4"])
def test_other_dtypes(backend, dtype):
    x = np.arange(60).reshape(6, 10).astype(dtype)
    index = np.array([5, 0, 0])
    np.testing.assert_array_equal(backend.index_select_forward(x, 0, index), x[index])
    np.testing.assert_array_equal(backend.index_select_forward(x, 1, index), x[:, index])
    many = np.tile(index, (6, 1))
    np.testing.assert_array_equal(backend.gather_forward(x, 1, many), np.take_along_axis(x, many, 1))


@pytest.mark.parametrize("shape", [(3, 3000), (2500, 4), (40, 5, 700)])
def test_an_index_outside_is_found_wherever_it_is(backend, shape):
    rng = np.random.default_rng(0)
    x, good = np.ones(shape, np.float32), rng.integers(0, 3, shape)
    for dim, wrong in itertools.product(range(len(shape)), (-1, shape[-1] * 10_000, np.iinfo(np.int64).min)):
        index, place = good.copy(), tuple(rng.integers(n) for n in shape)
        index[place] = wrong
        message = rf"index\[{', '.join(map(str, place))}\] = {wrong} is out of range"
        with pytest.raises(IndexError, match=message):
            backend.gather_forward(x, dim, index)
        with pytest.raises(IndexError, match=message):
            backend.gather_backward(x, dim, index, shape[dim])


def test_strided_views(backend):
    x = np.arange(60.0).reshape(6, 10)
    every = x[::2, ::-3]
    for base, shape, strides in (
        (x, (5, 3), (80, 24)),
        (x, (4, 3, 2), (80, 80, 8)),  # windows: elements appear several times
        (x, (7,), (0,)),
        (x, (0, 5), (8, 8)),
        (every, (4, 3), (-24, 160)),
        (every, (), ()),
        (x[2], (9,), (8,)),
    ):
        got, want = backend.strided(base, shape, strides), reference.strided(base, shape, strides)
        np.testing.assert_array_equal(got, want)
        assert got.strides == want.strides
        assert np.may_share_memory(got, x) or got.size == 0
        assert got.flags.writeable
    x.flags.writeable = False
    assert not backend.strided(x, (3,), (8,)).flags.writeable
    for module in (backend, reference):
        for base, shape, strides in (
            (x, (61,), (8,)),
            (x, (2,), (-8,)),
            (x[2], (11,), (8,)),
            (every, (5,), (-24,)),
            (x[:0], (1,), (8,)),
        ):
            with pytest.raises(ValueError, match="reaches outside"):
                module.strided(base, shape, strides)
    for shape, strides in (((2,), (8, 8)), ((-1,), (8,)), ((1 << 62, 3), (1 << 62, 1 << 62))):
        with pytest.raises(ValueError, match="strided: "):
            backend.strided(x, shape, strides)


def test_progressions_and_places_of_triangles(backend):
    for dtype, count in itertools.product((np.float32, np.float64, np.int64), (0, 1, 63, 64, 65, 100_003)):
        for start, step in ((0, 1), (5, -3), (2**40, 7)) if dtype is np.int64 else ((0.1, 0.3), (1e6, -1e-3)):
            got, want = (np.full((2, count), 9, dtype) for _ in range(2))
            for module, out in ((backend, got), (reference, want)):
                module.progression(out[0], start, step)
                module.progression(out[1][::-1], start, step)
            np.testing.assert_array_equal(got, want)
    for rows, columns, diagonal, lower in itertools.product(
        (0, 1, 5, 300), (0, 1, 7, 301), (-400, -2, 0, 3), (True, False)
    ):
        got = backend.triangle_places(rows, columns, diagonal, lower)
        np.testing.assert_array_equal(got, reference.triangle_places(rows, columns, diagonal, lower))
    with pytest.raises(ValueError, match="progression: out must be a writable array of one axis"):
        backend.progression(np.zeros((2, 2)), 0, 1)
    with pytest.raises(TypeError, match="progression"):
        backend.progression(np.zeros(2, np.int16), 0, 1)
    with pytest.raises(ValueError, match="triangle_places: rows and columns"):
        backend.triangle_places(-1, 2, 0, True)


def test_strided_parts_are_joined_where_they_belong():
    rng = np.random.default_rng(3)
    column, wide = rng.standard_normal((300, 1)), rng.standard_normal((300, 140)).astype(np.float32)
    cases = [
        [np.broadcast_to(column, (300, 50)), np.broadcast_to(column[::-1], (300, 20))],
        [wide[:, ::2], wide[:, :70]],
        [wide.T, wide.T[:, ::-1]],
        [np.broadcast_to(wide[:1], (300, 140)), wide],
    ]
    for arrays, dim in itertools.product(cases, (0, 1, -1)):
        if dim == 0 and arrays[0].shape[1] != arrays[1].shape[1]:
            continue
        joined = fastdl.cat([fastdl.from_numpy(a) for a in map(np.array, arrays)], dim).numpy()
        views = fastdl.cat([fastdl.Tensor._wrap(a) for a in arrays], dim)
        np.testing.assert_array_equal(views.numpy(), joined)
        np.testing.assert_array_equal(joined, np.concatenate(arrays, dim))


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "i8"])
def test_entries_of_strided_arrays_are_selected_where_they_lie(backend, dtype):
    rng = np.random.default_rng(4)
    x = rng.integers(0, 100, (6, 9, 40, 5)).astype(dtype)
    views = [x[0, 0], x[1, :, :, 0], x[1, :, :, 0].T, x[:, 1:7], x[:, ::2, 1:3], x[::-1, :, ::-1], x.T]
    views += [
        x[2, 3, ::-7, 1],
        x[:, :1, :, :4],
        np.broadcast_to(x[:1], (3, 9, 40, 5)),
        x[0].transpose(1, 0, 2),
    ]
    for view in views:
        for dim in range(view.ndim):
            index = rng.integers(0, view.shape[dim], 7)
            got = backend.index_select_forward(view, dim, index)
            np.testing.assert_array_equal(got, np.take(view, index, dim), strict=True)
    # Numbers that are not aligned, as those of a field of a record.
    packed = np.zeros(10, np.dtype([("a", "u1"), ("b", dtype)]))
    packed["b"] = np.arange(10)
    np.testing.assert_array_equal(backend.index_select_forward(packed["b"], 0, np.array([3, 1])), [3, 1])


def test_refusals(backend):
    x, index = np.ones((3, 4), np.float32), np.array([0, 3])
    for module in (backend, reference):
        with pytest.raises(IndexError, match=r"index_select: index\[1\] = 3 is out of range \[0, 3\)"):
            module.index_select_forward(x, 0, index)
        with pytest.raises(IndexError, match=r"index\[0, 1\] = -1"):
            module.gather_forward(x, 1, np.array([[0, -1]] * 3))
    for mistake, match in (
        (lambda: backend.index_select_forward(x, 2, index), "dim 2"),
        (lambda: backend.index_select_forward(x, 0, index.reshape(1, 2)), "one dimension"),
        (lambda: backend.index_select_backward(x, 0, index, 4), "one entry for each"),
        (lambda: backend.index_select_backward(x[:2], 0, index, -4), "must not be negative"),
        (lambda: backend.gather_forward(x, 0, np.zeros((2, 3), np.int64)), "equal extents"),
        (lambda: backend.gather_backward(x, 0, np.zeros((2, 4), np.int64), 3), "same shape"),
    ):
        with pytest.raises(ValueError, match=match):
            mistake()
    for wrong in (x.astype("O"), x.astype("c16")):
        with pytest.raises(TypeError):
            backend.index_select_forward(wrong, 1, index)
    with pytest.raises(TypeError, match="int64"):
        backend.index_select_forward(x, 1, index.astype(np.int32))


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8"])
def test_rows_of_every_short_length(backend, dtype):
    """Rows up to 128 bytes are two words that overlap: nothing may be missing between them, nothing lie beyond."""
    rng = np.random.default_rng(0)
    for n in (*range(1, 21), 31, 32, 33, 63, 64, 65, 127, 128, 129):
        x = rng.integers(0, 100, (5, 70, n + 3)).astype(dtype)
        for view in (
            x[:, :, 1 : n + 1],
            x[1:4, ::2, 3:],
            np.broadcast_to(x[0, 0, :n], (300, n)),
            np.broadcast_to(x[:, :, :1], (5, 70, n)),
        ):
            np.testing.assert_array_equal(backend.contiguous(view), view)
        parts = [x[:, :, :n].copy(), x[:, :, :1].copy(), x]
        np.testing.assert_array_equal(backend.concat(parts, 2), np.concatenate(parts, 2))

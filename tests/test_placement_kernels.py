"""Kernels that write to places: fills, triangles, indices, masks, and single elements of half precision."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.kernels import reference
from fastdl.ops import gather

SHAPES = [(0,), (1,), (5,), (3, 4), (7, 0), (2, 3, 5), (33, 70), (40_000,), (300, 257)]
DTYPES = ["?", "u1", "i2", "i4", "i8", "f2", "f4", "f8"]


def drawn(shape, dtype, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 20).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill(backend, dtype):
    for shape in ((), (0,), (3,), (5000, 3), (1 << 21,)):
        out = backend.empty(shape, np.dtype(dtype))
        backend.fill(out, 7)
        assert (out == np.array(7).astype(dtype)).all()
    for value in (-2, 1.0, True, np.int64(3)):
        out = backend.empty((5000,), np.dtype(dtype))
        if value != -2 or np.dtype(dtype).kind in "if":
            backend.fill(out, value)
            np.testing.assert_array_equal(out, np.full(5000, value, dtype))
    every_other = np.zeros((4000, 4), dtype)
    backend.fill(every_other[:, ::2], 1)
    assert every_other.astype("f8").sum() == 8000
    frozen = np.zeros(9000, dtype)
    frozen.flags.writeable = False
    with pytest.raises(ValueError):
        backend.fill(frozen, 1)


def test_fill_memory_that_is_not_aligned(backend):
    memory = np.zeros((1 << 25) + 64, "u1")
    backend.fill(memory[3:-5], 9)
    assert memory[:3].sum() == memory[-5:].sum() == 0
    assert (memory[3:-5] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_into(backend, dtype):
    x = drawn((70, 50), dtype)
    for source in (x, x.T.copy().T, x[::-1], np.broadcast_to(x[:1], x.shape)):
        out = np.zeros(x.shape, dtype)
        assert backend.copy_into(out, source)
        np.testing.assert_array_equal(out, source)
    square = drawn((40, 40), dtype)
    before = square.copy()
    assert not backend.copy_into(square, square.T)  # memory in common
    assert not backend.copy_into(square, np.zeros((40, 1), dtype))
    assert not backend.copy_into(square, np.zeros((40, 40), "u2"))
    assert not backend.copy_into(square[:, ::2], square[:, ::2].copy())
    np.testing.assert_array_equal(square, before)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_triangle(backend, dtype):
    for shape in ((1, 1), (3, 3), (5, 2), (2, 9), (3, 0), (2, 3, 4, 5), (130, 90)):
        x = drawn(shape, dtype)
        for diagonal in (-200, -3, -1, 0, 1, 2, 200):
            for lower in (True, False):
                got = backend.triangle(x, diagonal, lower)
                np.testing.assert_array_equal(got, reference.triangle(x, diagonal, lower))
                same, apart = x.copy(), np.empty_like(x)
                assert backend.triangle(same, diagonal, lower, same) is same
                assert backend.triangle(x, diagonal, lower, apart) is apart
                np.testing.assert_array_equal(same, got)
                np.testing.assert_array_equal(apart, got)
    x = drawn((8, 6), dtype)
    np.testing.assert_array_equal(backend.triangle(x.T, 1, True), np.tril(x.T, 1))
    square = x[:6].copy()
    backend.triangle(square.T, 0, True, square)  # memory in common, but not the same
    np.testing.assert_array_equal(square, np.tril(x[:6].T))
    with pytest.raises(ValueError, match="two axes"):
        backend.triangle(x[0], 0, True)
    with pytest.raises(ValueError, match="shape and dtype"):
        backend.triangle(x, 0, True, x[:2].copy())


def both(backend, name, out, *arguments):
    """What the kernel and its definition make of the same array."""
    got, wanted = out.copy(), out.copy()
    getattr(backend, name)(got, *arguments)
    getattr(reference, name)(wanted, *arguments)
    return got, wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (9,), (4, 6), (3, 5, 7), (70, 300), (20_000,)])
def test_rows(backend, dtype, shape):
    draw = np.random.default_rng(1)
    out = drawn(shape, dtype)
    for dim, extent in enumerate(shape):
        for count in (0, 1, extent, 2 * extent + 3):
            index = draw.integers(0, extent, count)
            source = drawn((*shape[:dim], count, *shape[dim + 1 :]), dtype, 2)
            got, wanted = both(backend, "index_copy", out, dim, index, source)
            np.testing.assert_array_equal(got, wanted)
            if dtype in ("f4", "f8"):
                got, wanted = both(backend, "index_add", out, dim, index, source)
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (9,), (4, 6), (3, 5, 7), (70, 300), (20_000,)])
def test_elements(backend, dtype, shape):
    draw = np.random.default_rng(1)
    out = drawn(shape, dtype)
    for dim, extent in enumerate(shape):
        for count in (0, 1, extent, extent + 3):
            at = (*shape[:dim], count, *shape[dim + 1 :])
            index = draw.integers(0, extent, at)
            # Equal indices have no order in the definition: sources that say their place only.
            place = (index % 7).astype(dtype)
            got, wanted = both(backend, "scatter", out, dim, index, place)
            np.testing.assert_array_equal(got, wanted)
            one = np.array(3).astype(dtype)
            got, wanted = both(backend, "scatter", out, dim, index, one)
            np.testing.assert_array_equal(got, wanted)
            if dtype in ("f4", "f8"):
                for source in (drawn(at, dtype, 2), one):
                    got, wanted = both(backend, "scatter_add", out, dim, index, source)
                    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["scatter", "scatter_add", "scatter_reduce", "index_copy", "index_add"])
@pytest.mark.parametrize("shape", [(20000,), (70, 300), (5, 40, 50)])
def test_a_wrong_index_leaves_everything_as_it_was(backend, name, shape):
    for dim in range(len(shape)):
        out, source = np.zeros(shape, "f4"), np.ones(shape, "f4")
        index = np.zeros(shape[dim] if name.startswith("index") else shape, "i8")
        index.reshape(-1)[-1] = shape[dim]  # the last one to be looked at
        with pytest.raises(IndexError, match=f"= {shape[dim]} is out of range"):
            getattr(backend, name)(out, dim, index, source, *(["amax"] if name == "scatter_reduce" else []))
        assert not out.any()


def test_refusals(backend):
    out, index = np.zeros((3, 4), "f4"), np.zeros((3, 2), "i8")
    for name, at in (
        ("scatter", index),
        ("scatter_add", index),
        ("index_copy", index[0]),
        ("index_add", index[0]),
    ):
        function, source = getattr(backend, name), np.ones((3, 2), "f4")
        for wrong in (-1, 4, 1 << 40):
            bad = at.copy()
            bad[..., 1] = wrong
            with pytest.raises(IndexError, match=f"= {wrong} is out of range"):
                function(out, 1, bad, source)
        with pytest.raises((TypeError, ValueError)):
            function(out, 1, at, source.astype("f8"))
        with pytest.raises(ValueError, match="source must have"):
            function(out, 1, at, source[:, :1])
        with pytest.raises(ValueError, match="C order"):
            function(out.T, 0, at.T.copy() if at.ndim == 2 else at, source.T.copy())
        with pytest.raises(ValueError, match="not an axis"):
            function(out, 2, at, source)
        with pytest.raises(TypeError):
            function(out, 1, at.astype("i4"), source)
    with pytest.raises(ValueError, match="first axes"):
        backend.masked_select(out, np.ones(4, bool))
    with pytest.raises(ValueError, match="fewer elements"):
        backend.masked_put(out, np.ones((3, 4), bool), np.ones(11, "f4"))
    with pytest.raises(ValueError, match="at least one axis"):
        backend.nonzero(np.array(True))
    assert not out.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_masks(backend, dtype, shape, share):
    draw = np.random.default_rng(3)
    x = drawn(shape, dtype)
    for covered in range(1, len(shape) + 1):
        mask = draw.random(shape[:covered]) < share
        picked = backend.masked_select(x, mask)
        np.testing.assert_array_equal(picked, x[mask])
        values = drawn(picked.shape, dtype, 4)
        got, wanted = both(backend, "masked_put", x, mask, values)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(backend.nonzero(mask), np.argwhere(mask))
    got, wanted = both(backend, "masked_put", x, mask, np.array(1).astype(dtype))
    np.testing.assert_array_equal(got, wanted)


def test_inputs_in_the_memory_of_the_output(backend):
    x = np.arange(5000) % 50
    wanted = x.copy()
    wanted[x] = x
    got = x.copy()
    backend.scatter(got, 0, got, got)
    np.testing.assert_array_equal(got, wanted)
    mask = np.random.default_rng(0).random(40_000) < 0.5
    got = mask.copy()
    backend.masked_put(got, got, np.array(False))
    assert not got.any()
    rows = drawn((300, 4), "f4")
    got = rows.copy()
    backend.index_copy(got, 0, np.arange(300)[::-1].copy(), got)
    np.testing.assert_array_equal(got, rows[::-1])


def test_half_precision(backend):
    every = np.arange(1 << 16).astype("u2").view("f2")
    wide = backend.convert(every, np.dtype("f4"))

    np.testing.assert_array_equal(wide, every.astype("f4"))
    # Around every boundary between two numbers of half precision: below, at and above the middle.
    finite = every[np.isfinite(every)].astype("f8")
    middle = ((finite + np.roll(finite, -1)) / 2).astype("f4")
    x = np.concatenate(
        [middle, np.nextafter(middle, np.float32(9e9)), np.nextafter(middle, np.float32(-9e9))]
    )
    x = np.concatenate([x, np.float32([0, -0.0, np.inf, -np.inf, 65519.9, 65520, 1e-8, -6e-8, 3e38])])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            backend.convert(x, np.dtype("f2")).view("u2"), x.astype("f2").view("u2")
        )
    assert np.isnan(backend.convert(np.float32([np.nan] * 3), np.dtype("f2"))).all()


def test_bfloat16(backend):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    every = np.arange(1 << 16).astype("u2").view(dtype)
    np.testing.assert_array_equal(backend.convert(every, np.dtype("f4")), every.astype("f4"))
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_003).astype("u4")
    x = bits.view("f4")
    x = np.concatenate([x[np.isfinite(x)], np.float32([np.inf, -np.inf, 3.4e38, 0, -0.0])])
    got = backend.convert(x, dtype)
    np.testing.assert_array_equal(got.view("u2"), x.astype(dtype).view("u2"))
    assert np.isnan(backend.convert(np.float32([np.nan]), dtype).astype("f4")).all()


def test_tensors_written_from_their_own_memory():
    x = fastdl.arange(600, dtype=fastdl.float32).reshape(300, 2)
    wanted = x.numpy()[::-1].copy()
    x[fastdl.arange(299, -1, -1)] = x
    np.testing.assert_array_equal(x.numpy(), wanted)
    places = fastdl.arange(400).flip(0)
    places.scatter_(0, places, places)
    np.testing.assert_array_equal(places.numpy(), np.arange(400))
    mask = fastdl.ones(500, dtype=fastdl.bool)
    mask.masked_fill_(mask, False)
    assert not mask.any()


@pytest.mark.parametrize("operator", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_operators_without_a_graph(operator):
    """The short way to a kernel gives what the graph's way gives: values, dtypes, and no gradient where none is."""
    draw = np.random.default_rng(0)
    x, row = fastdl.tensor(draw.random((3, 4))), fastdl.tensor(draw.random(4))
    kept = fastdl.tensor(draw.random((3, 4)), requires_grad=True)
    for other in (row, 2, 0.5, fastdl.tensor(3), row.float(), np.float64(2), kept):
        got = getattr(x, operator)(other)
        with fastdl.enable_grad():
            wanted = getattr(x.detach().requires_grad_(), operator)(other)
        np.testing.assert_array_equal(got.detach().numpy(), wanted.detach().numpy())
        assert got.dtype == wanted.dtype
        assert got.requires_grad == (other is kept)
    with fastdl.no_grad():
        assert not getattr(kept, operator)(row).requires_grad
    with pytest.raises(ValueError, match="do not broadcast"):
        getattr(x, operator)(fastdl.ones(5, dtype=fastdl.float64))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.float64, fastdl.int64, fastdl.float16])
@pytest.mark.parametrize("reduce", ["sum", "mean", "prod", "amax", "amin"])
def test_an_expanded_vector_speaks_for_rows(reduce, dtype, dim):
    """What goes by rows is what goes element by element, gradients and NaN included."""
    rng = np.random.default_rng(dim)
    shape, places = [5, 6, 7], [5, 6, 7]
    places[dim] = 9
    x = fastdl.tensor(rng.integers(-3, 4, shape)).to(dtype)
    source = fastdl.tensor(rng.integers(-3, 4, places)).to(dtype)
    if dtype != fastdl.int64:
        source.view(-1)[11] = float("nan")
        x, source = x.requires_grad_(), source.requires_grad_()
    vector = fastdl.tensor(rng.integers(0, shape[dim], 9)).view([9 if i == dim else 1 for i in range(3)])
    spread = vector.expand(places)
    assert gather.as_rows(spread._data, x._data, source._data, dim) is not None
    assert gather.as_rows(spread.contiguous()._data, x._data, source._data, dim) is None
    for include_self in (True, False):
        results = []
        for index in (spread, spread.contiguous()):
            y = x.scatter_reduce(dim, index, source, reduce, include_self=include_self)
            grads = fastdl.autograd.grad(y.sum(), (x, source)) if y.requires_grad else ()
            results.append([v.detach().double().numpy() for v in (y, *grads)])
        for got, want in zip(*results, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-3 if dtype == fastdl.float16 else 1e-6)
    added = [
        x.detach().scatter_add(dim, index, source.detach()).double()
        for index in (spread, spread.contiguous())
    ]
    np.testing.assert_allclose(*[a.numpy() for a in added], rtol=2e-3 if dtype == fastdl.float16 else 1e-6)
    with pytest.raises(RuntimeError, match="scatter_add"):
        x.detach().scatter_add(dim, spread + 100, source.detach())
    with pytest.raises(RuntimeError, match="scatter_add"):
        x.detach().scatter_add(dim, (vector + 100).expand(places), source.detach())

"""Where operands and results of elementwise kernels lie: strides, broadcasting, overlap, streaming stores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels
from fastdl.ops import elementwise as E
from parity import assert_close, backends, load, on_threads
from test_elementwise_kernels import numbers


def layouts(x):
    """The same values in other places: transposed, reversed, every second one, Fortran, read-only,
    misaligned."""
    spread = np.zeros([2 * n for n in x.shape], x.dtype)
    spread[tuple([slice(None, None, 2)] * x.ndim)] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return [
        np.ascontiguousarray(x.T).T,
        np.ascontiguousarray(x[::-1])[::-1],
        spread[tuple([slice(None, None, 2)] * x.ndim)],
        np.asfortranarray(x),
        frozen,
        raw,
    ]


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("shape", [(7, 33), (3, 4, 5), (300, 40)])
def test_any_layout(level, shape):
    kernel = kernels.load(level)
    x, y = numbers(shape, np.float32), numbers(shape, np.float32, 1)
    want = kernel.sub_forward(x, y)
    for a, b in itertools.product(layouts(x), layouts(y)):
        np.testing.assert_array_equal(kernel.sub_forward(a, b), want)
    for target in layouts(np.zeros_like(x))[:4]:
        target.flags.writeable = True
        returned = kernel.sub_forward(x, y, target)
        assert returned is target
        np.testing.assert_array_equal(target, want)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(64, 100), (100, 64), (17, 16, 33), (2, 40, 5, 32), (16, 3000)])
def test_operands_that_lie_across(level, dtype, shape):
    """Where neighbours of a row are far apart and those of a column are not, the operand is turned first."""
    kernel = load(level)
    rng = np.random.default_rng(5)
    x, y = (rng.integers(1, 9, shape).astype(dtype) for _ in range(2))
    want = x + y
    for order in itertools.permutations(range(x.ndim)):
        across = np.ascontiguousarray(y.transpose(order)).transpose(np.argsort(order))
        np.testing.assert_array_equal(kernel.add_forward(x, across), want)
        np.testing.assert_array_equal(kernel.add_forward(across[:1], x), x + y[:1])
        np.testing.assert_array_equal(kernel.add_forward(x, across, across.copy("K")), want)
        np.testing.assert_array_equal(kernel.lt_forward(x, across), x < y)
        np.testing.assert_array_equal(kernel.where_forward(x < y, across, x), np.where(x < y, y, x))
        np.testing.assert_array_equal(kernel.where_forward(across < 5, x, y), np.where(y < 5, x, y))
        both = x.copy()
        kernel.add_forward(both, across, both)
        np.testing.assert_array_equal(both, want)
        np.testing.assert_array_equal(across, y)
    column = y[(slice(None), *[slice(1)] * (y.ndim - 1))]  # its numbers are a row of the whole apart
    turned = np.asfortranarray(x)
    np.testing.assert_array_equal(kernel.add_forward(turned, column), x + column)
    kernel.add_forward(turned, y, turned)  # across a result in the other order
    np.testing.assert_array_equal(turned, want)
    if min(shape) == 64:
        square = x[:64, :64].copy()
        kernel.add_forward(square, square.T, square)  # overlap
        np.testing.assert_array_equal(square, x[:64, :64] + x[:64, :64].T)


@pytest.mark.parametrize("level", backends())
def test_rows_beside_constants_and_strides(level):
    """Short rows are taken several at once, long ones in blocks: every mixture of operands."""
    kernel = load(level)
    draw = np.random.default_rng(2).standard_normal
    for rows, n in (
        (1000, 1),
        (700, 3),
        (300, 10),
        (65, 127),
        (33, 129),
        (20, 256),
        (9, 257),
        (5, 1000),
        (3, 5000),
    ):
        x = draw((rows, n)).astype(np.float32)
        wide = draw((rows, 2 * n)).astype(np.float32)
        others = [x[:1], x[:, :1], wide[:, ::2], wide[:, :n], np.asfortranarray(x), x[::-1], 1.5]
        for y in others:
            np.testing.assert_array_equal(kernel.sub_forward(x, y), x - np.float32(y))
            np.testing.assert_array_equal(kernel.lt_forward(x, y), x < np.float32(y))
            out = np.empty((rows, 2 * n), np.float32)[:, ::2]
            np.testing.assert_array_equal(kernel.add_forward(x, y, out), x + np.float32(y))
            np.testing.assert_array_equal(
                kernel.where_forward(x > 0, x, y), np.where(x > 0, x, np.float32(y))
            )


@pytest.mark.parametrize("level", backends())
def test_constants_of_rows_that_do_not_fill_blocks_evenly(level):
    """The last row of a batch stands alone in its block, which earlier rows have overwritten since the last batch."""
    kernel = load(level)
    draw = np.random.default_rng(3).standard_normal
    for batch, rows, n in ((2, 16, 51), (3, 16, 51), (4, 11, 50), (2, 7, 100), (3, 3, 90)):
        x, y = draw((batch, rows, n)).transpose(0, 2, 1), draw(rows)
        np.testing.assert_array_equal(kernel.mul_forward(x, y), x * y)
        np.testing.assert_array_equal(kernel.sub_forward(y, x), y - x)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_beside_a_vector_of_a_constant(level, dtype, threads):
    """Whole vectors and rows with an end, more rows than vectors fit at once, either side, outer sums, in place."""
    kernel = load(level)
    for planes, rows, n in (
        (3, 700, 16),
        (2, 600, 32),
        (5, 129, 49),
        (3, 300, 64),
        (2, 30, 576),
        (1, 3, 5003),
    ):
        x = numbers((planes, rows, n), dtype)
        for y in (x[:, :, :1], x[:1, :, :1], x[:, :1, :1], x[:, :1], x[0, 0, 0]):
            y = y.copy()
            with on_threads(kernel, threads):
                np.testing.assert_array_equal(kernel.sub_forward(x, y), x - y)
                np.testing.assert_array_equal(kernel.div_forward(y, x), y / x)
                np.testing.assert_array_equal(kernel.add_forward(y, x[:, :, ::-1]), y + x[:, :, ::-1])
                if y.ndim:
                    outer = kernel.mul_forward(y[:, :, :1], x[:, :1])
                    np.testing.assert_array_equal(outer, y[:, :, :1] * x[:, :1])
                over = x.copy()
                assert kernel.mul_forward(over, y, over) is over
            np.testing.assert_array_equal(over, x * y)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_ranges_that_begin_and_end_within_a_row(level, threads):
    """A thread's last piece of a row finds another row's constant in the block, which whole rows have written over."""
    kernel = load(level)
    for planes in (3, 4, 5):
        for rows in (3, 4):
            for n in (300, 700, 1100, 2100, 3001, 5000):
                of_rows = np.arange(rows).reshape(1, rows, 1)
                for dtype in (np.float32, np.float64, np.int64, np.uint8, np.float16):
                    x = np.zeros((planes, rows, n), dtype)
                    y = of_rows.astype(dtype)
                    want = np.broadcast_to(y, x.shape)
                    with on_threads(kernel, threads):
                        np.testing.assert_array_equal(kernel.add_forward(x, y), want)
                        np.testing.assert_array_equal(kernel.maximum_forward(y, x), want)
                        if dtype is np.float32:
                            np.testing.assert_array_equal(kernel.hypot_forward(x, y), want)
                        if dtype is not np.float16:
                            np.testing.assert_array_equal(kernel.where_forward(x > 1, x, y), want)
                            np.testing.assert_array_equal(kernel.eq_forward(x, y), want == 0)


@pytest.mark.parametrize("level", backends())
def test_results_lie_as_their_inputs_do(level):
    kernel = load(level)
    x = np.random.default_rng(4).standard_normal((5, 6, 7)).astype(np.float32)
    for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1), (2, 0, 1)):
        y = x.transpose(order)
        one = y[:1]  # broadcast: has no say
        for got, want in (
            (kernel.sqrt_forward(y * y), np.abs(y)),
            (kernel.sub_forward(y, 2.0), y - np.float32(2)),
            (kernel.add_forward(y, y), y + y),
            (kernel.sub_forward(y, one), y - one),
            (kernel.lt_forward(y, 0.5), y < 0.5),
            (kernel.addcmul_forward(y, y, one, 2.0), y + 2 * y * one),
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
            assert got.transpose(np.argsort(order)).flags.c_contiguous
        in_order = np.ascontiguousarray(y)
        assert kernel.add_forward(y, in_order).flags.c_contiguous  # no agreement: C order
        assert kernel.neg_forward(y[:, ::2]).flags.c_contiguous  # not dense
        np.testing.assert_array_equal(kernel.neg_forward(y[:, ::-1]), -y[:, ::-1])
    assert kernel.neg_forward(np.broadcast_to(x[:1], x.shape)).flags.c_contiguous


@pytest.mark.parametrize("level", backends())
def test_writing_over_an_operand(level):
    kernel = kernels.load(level)
    x = numbers((50, 20), np.float32)
    y = x.copy()
    kernel.add_forward(y, y, y)
    np.testing.assert_array_equal(y, x + x)
    y = x.copy()
    kernel.add_forward(y, y[0], y)  # the row is read before it is overwritten
    np.testing.assert_array_equal(y, x + x[0])
    y = x.copy()
    kernel.sub_forward(y[1:], y[:-1], y[1:])  # overlapping by all but a row
    np.testing.assert_array_equal(y[1:], x[1:] - x[:-1])
    flat = numbers((100,), np.float32)
    y = flat.copy()
    kernel.add_forward(y[::-1], 0.0, y)
    np.testing.assert_array_equal(y, flat[::-1])


@pytest.mark.parametrize("level", backends())
def test_refused_outputs(level):
    kernel = kernels.load(level)
    x = numbers((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"add: the result has shape \(4, 3\), but out has shape \(3,\)"):
        kernel.add_forward(x, x, x[0].copy())
    with pytest.raises(TypeError, match="out must be float32"):
        kernel.add_forward(x, x, x.astype(np.float64))
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        kernel.add_forward(x, x, frozen)
    with pytest.raises(ValueError, match="share one place"):
        kernel.add_forward(x, x, np.lib.stride_tricks.as_strided(x, (4, 3), (0, 4)))
    with pytest.raises(TypeError, match="must be an array or a number, got"):
        kernel.add_forward(x, "1")
    with pytest.raises(TypeError, match="y must be float32"):
        kernel.add_forward(x, x.astype(np.float64))
    with pytest.raises(TypeError, match="at least one operand"):
        kernel.add_forward(1.0, 2.0)


def test_results_larger_than_the_caches():
    """Streaming stores: odd starts, several rows, beside the plain path."""
    x = np.arange(6_000_007, dtype=np.float32)
    np.testing.assert_array_equal(kernels.cpu.add_forward(x, 1.0), x + 1)
    rows = x[: 600 * 10_000].reshape(600, 10_000)
    np.testing.assert_array_equal(kernels.cpu.mul_forward(rows, rows[0]), rows * rows[0])
    target = x.copy()
    kernels.cpu.add_forward(x[1:], 1.0, target[1:])
    np.testing.assert_array_equal(target[1:], x[1:] + 1)
    assert target[0] == 0


extents = st.lists(st.integers(0, 5), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    extents,
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_any_broadcast(shape, ones, cut_x, cut_y):
    """Shapes derived from one by ones and by leading axes left out broadcast; the result is NumPy's."""
    x_shape = [1 if flags[0] else n for n, flags in zip(shape, ones, strict=False)][min(cut_x, len(shape)) :]
    y_shape = [1 if flags[1] else n for n, flags in zip(shape, ones, strict=False)][min(cut_y, len(shape)) :]
    x, y = numbers(x_shape, np.float32), numbers(y_shape, np.float32, 1)
    np.testing.assert_array_equal(kernels.cpu.sub_forward(x, y), np.asarray(x - y))
    a, b = fastdl.from_numpy(x), fastdl.from_numpy(y)
    a.requires_grad = b.requires_grad = True
    z = E.mul(a, b)
    z.backward(fastdl.from_numpy(np.ones(z.shape, np.float32)))
    for tensor, other in ((a, y), (b, x)):
        full = np.broadcast_to(other, z.shape)
        lead = full.ndim - tensor.ndim
        axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(tensor.shape) if n == 1)
        assert_close(
            tensor.grad, full.sum(axes, dtype=np.float64).reshape(tensor.shape).astype(np.float32), full.size
        )

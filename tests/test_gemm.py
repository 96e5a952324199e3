"""The matrix product at every level: shapes around the tile sizes, layouts, factors, special values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl import kernels
from fastdl.kernels import reference
from parity import DTYPES, THREADS, assert_close, backends

# Around 1, the vector widths (2..16), the tiles' rows (4, 6, 12, 14) and columns (4..32), and more than one
# tile.
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 13, 14, 15, 16, 17, 29, 31, 32, 33, 64, 65)


def random(rng, shape, dtype=np.float32):
    return rng.uniform(-1, 1, shape).astype(dtype)


@pytest.fixture(params=backends())
def backend(request):
    return kernels.load(request.param)


@pytest.fixture(autouse=True)
def restore_threads():
    before = kernels.cpu.num_threads()
    yield
    for level in backends():
        kernels.load(level).set_num_threads(before)


def layouts(rng, rows, cols, dtype):
    """The same kind of matrix as C order, transposed, a slice of wider rows, and a slice of both axes."""
    yield random(rng, (rows, cols), dtype)
    yield random(rng, (cols, rows), dtype).T
    yield random(rng, (rows, cols + 3), dtype)[:, 1 : cols + 1]
    yield random(rng, (2 * rows, 2 * cols), dtype)[::2, ::2]


def check(backend, a, b, *rest):
    got = backend.matmul(a, b, *rest)
    assert got.dtype == a.dtype
    want = reference.matmul(
        a.astype(np.float64), b.astype(np.float64), *[r.astype(np.float64) if np.ndim(r) else r for r in rest]
    )
    assert_close(got, want, reduction=a.shape[-1])
    return got


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_around_the_tiles(backend, dtype):
    rng = np.random.default_rng(0)
    for m, n in itertools.product(SIZES, SIZES):
        k = SIZES[(m * 7 + n) % len(SIZES)]
        check(backend, random(rng, (m, k), dtype), random(rng, (k, n), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 40, 70), (40, 1, 70), (5, 33, 17), (33, 5, 130), (50, 47, 31), (16, 16, 600), (40, 37, 3)]
)
def test_layouts(backend, dtype, shape):
    m, n, k = shape
    rng = np.random.default_rng(1)
    for a, b in itertools.product(layouts(rng, m, k, dtype), layouts(rng, k, n, dtype)):
        check(backend, a, b)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    "shape",
    [
        (200, 190, 180),  # square
        (3, 1000, 600),  # few rows
        (3000, 70, 5),  # short sums, C row by row
        (40, 3001, 8),  # in blocks of columns
        (64, 1500, 1),
        (1000, 3, 600),  # few columns
        (1, 700, 900),
        (700, 1, 900),
        (16, 500, 1100),
        (500, 16, 1100),
        (4, 5, 50000),  # long sums
        (40, 40, 20000),
        (17, 20, 9000),  # few tiles, too: the sum is shared out
        (100, 60, 5000),
        (300, 300, 1),  # no sums
        (300, 300, 3),
        (30, 3000, 20),
        (3000, 30, 20),
        (30, 2600, 270),  # some rows with a large matrix
        (2600, 30, 270),
        (27, 7333, 300),  # ... larger than 8 MB
        (130, 200, 1024),  # rows 4 kB apart
        (1000, 9, 10),  # sums too short for dot products
        (14, 1993, 2),
        (8, 2048, 1),  # a row of contiguous k that is also a contiguous row
        (1, 40, 1500),  # a row whose elements lie side by side, and apart
        (7, 250, 39),  # steps of k beyond a whole vector's
        (3, 300, 60),
    ],
)
def test_shapes_that_choose_differently(backend, threads, shape):
    m, n, k = shape
    rng = np.random.default_rng(2)
    backend.set_num_threads(threads)
    for trans_a, trans_b in itertools.product((False, True), repeat=2):
        a = random(rng, (k, m)).T if trans_a else random(rng, (m, k))
        b = random(rng, (n, k)).T if trans_b else random(rng, (k, n))
        first = check(backend, a, b)
        np.testing.assert_array_equal(first, backend.matmul(a, b))  # bit for bit


def test_large_blocks_of_every_kind(backend):
    """More than one block of the sum, of the shared panels and of the private ones."""
    rng = np.random.default_rng(3)
    a, b = random(rng, (230, 1100)), random(rng, (1100, 2200))
    check(backend, a, b)
    check(backend, np.asfortranarray(b).T, np.asfortranarray(a).T)
    check(backend, random(rng, (30, 80000)), random(rng, (80000, 50)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (2.5, 1), (1, 0.5), (-1, 0), (0, 2), (0.5, -3)])
@pytest.mark.parametrize("shape", [(5, 7, 3), (50, 40, 30), (1, 100, 200), (100, 1, 200), (20, 600, 700)])
def test_factors(backend, dtype, alpha, beta, shape):
    m, n, k = shape
    rng = np.random.default_rng(4)
    for b in (random(rng, (k, n), dtype), random(rng, (n, k), dtype).T):
        for c_shape in ((m, n), (n,), (m, 1), (1, 1)):
            check(
                backend, random(rng, (m, k), dtype), b, random(rng, c_shape, dtype), float(alpha), float(beta)
            )


@pytest.mark.parametrize(
    "shape", [(3, 5, 4), (1, 70, 300), (70, 1, 300), (60, 70, 80), (15, 33, 513), (40, 37, 3)]
)
def test_nan_and_infinity_spread_only_where_they_belong(backend, shape):
    m, n, k = shape
    rng = np.random.default_rng(5)
    a, b = random(rng, (m, k)), random(rng, (k, n))
    a[m // 2, k // 2] = np.nan
    b[k - 1, n - 1] = np.inf
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b))):
        got = backend.matmul(left, right)
        with np.errstate(invalid="ignore"):
            want = a.astype(np.float64) @ b.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    # alpha = 0 and beta = 0 remove their term, whatever is in it
    c = np.full((m, n), np.nan, np.float32)
    assert np.isfinite(backend.matmul(random(rng, (m, k)), random(rng, (k, n)), c, 1.0, 0.0)).all()
    np.testing.assert_array_equal(backend.matmul(a, b, np.ones((m, n), np.float32), 0.0, 2.0), 2.0)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 0, 1), (200, 100, 0)])
def test_empty(backend, shape):
    m, n, k = shape
    got = backend.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    np.testing.assert_array_equal(got, np.zeros((m, n)))
    c = np.ones((m, n), np.float32)
    np.testing.assert_array_equal(
        backend.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32), c), k + c
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4, 5, 6), (6, 7)),
        ((5, 6), (4, 6, 7)),
        ((4, 5, 6), (4, 6, 7)),
        ((2, 1, 5, 6), (3, 6, 7)),
        ((3, 1, 1, 6), (1, 4, 6, 1)),
        ((300, 5, 6), (300, 6, 3)),
        ((0, 5, 6), (6, 7)),
        ((2, 0, 5, 6), (1, 6, 7)),
        ((1, 70, 60), (1, 60, 50)),
        ((64, 64, 64), (64, 64, 64)),
    ],
)
def test_batches_broadcast(backend, a, b):
    rng = np.random.default_rng(6)
    x, y = random(rng, a), random(rng, b)
    check(backend, x, y)
    check(backend, y.swapaxes(-1, -2), x.swapaxes(-1, -2))
    check(backend, np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 7, 8, 9])
def test_batches_of_tiny_matrices(backend, dtype, m):
    rng = np.random.default_rng(8)
    for n, k in itertools.product((1, 3, 8, 15, 16, 17, 33), (1, 2, 7, 33)):
        x, y = random(rng, (5, m, k), dtype), random(rng, (5, k, n), dtype)
        check(backend, x, y)
        check(backend, x, np.ascontiguousarray(y.swapaxes(1, 2)).swapaxes(1, 2))
        check(backend, x[:, ::-1], y[0])
    # A factor of zero removes the product, whatever it is.
    bad = np.full((5, m, 3), np.nan, dtype)
    assert not backend.matmul(bad, random(rng, (5, 3, 4), dtype), None, 0.0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_rows_and_columns(backend, dtype):
    rng = np.random.default_rng(10)
    a, b = random(rng, (3, 1, 4, 6), dtype), random(rng, (5, 6, 7), dtype)
    row, wide = random(rng, (6,), dtype), random(rng, (6, 3), dtype)
    for x, y in (
        (row, row),
        (row, b),
        (row, b[0]),
        (a, row),
        (a[0, 0], row),
        (wide[:, 1], b[0]),  # strides of three elements
        (a, wide[:, 2]),
        (row[::-1], row),
        (row[:0], row[:0]),
        (row[:0], b[0, :0]),
        (a[..., :0], row[:0]),
    ):
        got, want = backend.matmul(x, y), np.matmul(x.astype(np.float64), y.astype(np.float64))
        assert got.shape == want.shape
        assert got.dtype == dtype
        assert_close(got, want, reduction=6)
    odd = np.frombuffer(b"." + row.tobytes(), np.uint8)[1:].view(dtype)
    np.testing.assert_array_equal(backend.matmul(odd, row), backend.matmul(row, row))
    total = random(rng, (4,), dtype)
    got = backend.matmul(a[0, 0], row, total, 2.0, 0.5)
    assert_close(got, 2 * np.matmul(a[0, 0], row) + dtype(0.5) * total, reduction=6)
    for c in (random(rng, (7,), dtype), random(rng, (1,), dtype), random(rng, (), dtype)):
        assert_close(backend.matmul(row, b[0], c, 1.0, 3.0), np.matmul(row, b[0]) + 3 * c, reduction=6)


def test_batches_of_heads_are_read_in_place(backend):
    """(B, S, H, D) seen as (B, H, S, D): two batch axes whose strides do not fold into one."""
    rng = np.random.default_rng(7)
    q, k = random(rng, (3, 20, 4, 16)), random(rng, (3, 20, 4, 16))
    check(backend, q.swapaxes(1, 2), k.swapaxes(1, 2).swapaxes(2, 3))
    check(backend, q.swapaxes(1, 2), np.broadcast_to(k[0].transpose(1, 2, 0), (3, 4, 16, 20)))
    check(backend, q[:, ::-1].swapaxes(1, 2), k.swapaxes(1, 2).swapaxes(2, 3))  # negative strides


def test_rows_of_c_beyond_n_are_untouched(backend):
    """Guard bands: the allocator checks the bytes around every block when it is freed."""
    rng = np.random.default_rng(8)
    before = backend.memory_stats()["guard_errors"]
    backend.set_memory_guard(True)
    try:
        for m, n, k in [(1, 1, 1), (15, 33, 7), (29, 31, 530), (3, 515, 40), (515, 3, 40), (64, 100, 2100)]:
            for a, b in itertools.product(
                (random(rng, (m, k)), random(rng, (k, m)).T), (random(rng, (k, n)), random(rng, (n, k)).T)
            ):
                backend.matmul(a, b)
                backend.linear_forward(a, np.ascontiguousarray(b.T), random(rng, n), "relu")
    finally:
        backend.set_memory_guard(False)
    backend.empty_cache()
    assert backend.memory_stats()["guard_errors"] == before


@given(
    m=st.integers(0, 70),
    n=st.integers(0, 70),
    k=st.integers(0, 140),
    layout=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dtype=st.sampled_from(DTYPES),
    level=st.sampled_from(backends()),
)
@settings(deadline=None, max_examples=150)
def test_any_product(m, n, k, layout, dtype, level):
    rng = np.random.default_rng(m * 10000 + n * 100 + k)
    a = list(layouts(rng, m, k, dtype))[layout[0]]
    b = list(layouts(rng, k, n, dtype))[layout[1]]
    check(kernels.load(level), a, b)


def test_result_does_not_depend_on_rows_around_it(backend):
    """Row i of a tall product has the same bits for any number of threads."""
    rng = np.random.default_rng(9)
    a, b = random(rng, (400, 300)), random(rng, (300, 200))
    results = []
    for threads in THREADS:
        backend.set_num_threads(threads)
        results.append(backend.matmul(a, b))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_binding_refuses_what_it_cannot_read(backend):
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    with pytest.raises(TypeError, match=r"matmul: b must be float32 .* got float64"):
        backend.matmul(a, b.astype(np.float64))
    with pytest.raises(TypeError, match="float32 or float64"):
        backend.matmul(a.astype(np.int32), b)
    with pytest.raises(ValueError, match="a has 3 columns, b has 4 rows"):
        backend.matmul(a, b.T)
    with pytest.raises(ValueError, match="a has 2 columns, b has 3 rows"):
        backend.matmul(a[:, 0], b)
    with pytest.raises(ValueError, match="b must have at least 1 dimension, got 0"):
        backend.matmul(a, np.array(1.0, np.float32))
    with pytest.raises(ValueError, match="x must have at least"):
        backend.linear_forward(np.array(1.0, np.float32), b.T.copy(), None)
    with pytest.raises(ValueError, match="weight must have at least 2 dimensions"):
        backend.linear_forward(a, a[0], None)
    with pytest.raises(ValueError, match="batch dimensions do not broadcast"):
        backend.matmul(np.ones((2, 2, 3), np.float32), np.ones((3, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"c .* does not broadcast"):
        backend.matmul(a, b, np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="activation must be"):
        backend.linear_forward(a, b.T.copy(), None, "swish")
    with pytest.raises(ValueError, match="linear: x is"):
        backend.linear_forward(a, b, None)
    with pytest.raises(ValueError, match="linear_backward: grad_y is"):
        backend.linear_backward(a, a, b, True, True, True)
    misaligned = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)
    np.testing.assert_array_equal(backend.matmul(misaligned, b), a @ b)

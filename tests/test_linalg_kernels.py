"""LU decompositions and triangular systems: the kernels beside their definitions."""

from __future__ import annotations

import numpy as np
import pytest

import emulation
import parity
from fastdl.kernels import reference

rng = np.random.default_rng(0)
FIELDS = (np.float32, np.float64, np.complex64, np.complex128)
SHAPES = [
    (1, 1),
    (5, 5),
    (2, 0, 3, 3),
    (0, 0),
    (3, 0),
    (0, 4),
    (2, 3, 9, 9),
    (17, 40),
    (40, 17),
    (3, 70, 70),
    (150, 150),
    (910, 34),  # whose panels of 8 bytes and more do not fit into a block's shared memory
]
cpu = parity.load(parity.backends()[-1])


def drawn(shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype in FIELDS[2:] else x).astype(dtype)


def close(got, want, dtype, factor=1.0):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(
        got, want, rtol=0, atol=4000 * factor * eps * max(1.0, np.abs(want).max(initial=0))
    )


@pytest.mark.parametrize("level", parity.backends(cuda=True))
@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lu_factor(level, dtype, shape):
    kernels, a = parity.load(level), drawn(shape, dtype)
    for x in (a, np.asfortranarray(a), np.repeat(a, 2, -1)[..., ::2]):  # as it lies, transposed, with gaps
        for threads in parity.thread_counts(kernels):
            del threads
            packed, pivots, info = kernels.lu_factor(x, True)
            want = reference.lu_factor(x, True)
            close(packed, want[0], dtype)
            np.testing.assert_array_equal(pivots, want[1])
            np.testing.assert_array_equal(info, want[2])
            assert pivots.dtype == info.dtype == np.int32
    for got, want in zip(kernels.lu_unpack(packed), reference.lu_unpack(packed), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(
        kernels.lu_permutation(pivots, packed), reference.lu_permutation(pivots, packed)
    )
    dominant = a + 8 * np.eye(*shape[-2:], dtype=dtype)  # so that no pivot is small without exchanges
    packed, pivots, info = kernels.lu_factor(dominant, False)
    lower, upper = reference.lu_unpack(packed)
    close(lower @ upper, dominant, dtype, 30)
    assert (pivots == np.arange(1, pivots.shape[-1] + 1)).all()
    assert not info.any()


@pytest.mark.parametrize("level", parity.backends(cuda=True))
@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 33, 130])
def test_systems(level, dtype, n):
    kernels = parity.load(level)
    a = drawn((2, 1, n, n), dtype) / max(n, 1) + 2 * np.eye(n, dtype=dtype)
    for b in (
        drawn((3, n, 5), dtype),
        drawn((n, 1), dtype),
        drawn((2, 3, 70, n), dtype).swapaxes(-1, -2),
        None,
    ):
        for upper in (False, True):
            for unit in (False, True):
                for x in (a, a.swapaxes(-1, -2)):
                    want = reference.triangular_solve(x.astype(np.complex128), b, upper, unit)
                    got = kernels.triangular_solve(x, b, upper, unit)
                    close(got, want.astype(dtype) if np.iscomplexobj(a) else want.real.astype(dtype), dtype)
        packed, pivots, _ = kernels.lu_factor(a, True)
        for transposed in (False, True):
            close(
                kernels.lu_solve(packed, pivots, b, transposed),
                reference.lu_solve(packed, pivots, b, transposed),
                dtype,
            )


def test_pivots_of_zero_and_nan():
    a = np.stack([np.eye(3), np.diag([1.0, 0, 2]), np.zeros((3, 3)), [[1.0, 2, 3], [2, 4, 6], [1, 0, 0]]])
    assert cpu.lu_factor(a, True)[2].tolist() == [0, 2, 1, 3]
    for place in range(3):
        b = np.zeros((3, 3))
        b[place, 0] = np.nan
        packed, _, info = cpu.lu_factor(b, True)
        assert info != 1
        assert np.isnan(packed).any()


def test_what_does_not_fit_is_refused():
    packed, pivots, _ = cpu.lu_factor(np.eye(3), True)
    for wrong in (pivots * 0, pivots + 1, pivots[:1], pivots[None]):
        with pytest.raises(ValueError, match="pivots must be"):
            cpu.lu_solve(packed, wrong, packed, False)
    with pytest.raises(ValueError, match="numbers of rows"):
        cpu.lu_permutation(pivots + 1, packed)
    with pytest.raises(TypeError, match="pivots must be int32"):
        cpu.lu_solve(packed, pivots.astype(np.int64), packed, False)
    with pytest.raises(ValueError, match="as many rows"):
        cpu.triangular_solve(packed, np.ones((2, 1)), False, False)
    with pytest.raises(ValueError, match="square"):
        cpu.triangular_solve(np.ones((2, 3)), np.ones((2, 1)), False, False)
    with pytest.raises(ValueError, match="do not broadcast"):
        cpu.triangular_solve(np.ones((2, 1, 1)), np.ones((3, 1, 1)), False, False)
    with pytest.raises(TypeError, match="b must be float64"):
        cpu.triangular_solve(packed, np.ones((3, 1), np.float32), False, False)
    for integers in (np.ones((2, 2), np.int64), np.ones((2, 2), np.float16)):
        with pytest.raises(TypeError, match="float32, float64, complex64 or complex128"):
            cpu.lu_factor(integers, True)
    with pytest.raises(ValueError, match="matrices"):
        cpu.lu_factor(np.ones(2), True)


needs_cuda = pytest.mark.skipif(
    emulation.NAME not in parity.backends(cuda=True), reason="needs the emulated CUDA kernels"
)


@needs_cuda
def test_pivots_that_are_no_rows_are_reported_by_cuda():
    cuda = parity.load(emulation.NAME)
    packed, pivots, _ = cuda.lu_factor(np.eye(3), True)
    got = cuda.lu_solve(packed, pivots + np.array([0, 3, 0], np.int32), np.eye(3), False)
    np.testing.assert_array_equal(got, np.eye(3))  # what is no row exchanges nothing
    with pytest.raises(
        IndexError, match=r"lu_solve: \(pivots - 1\)\[1\] \(flattened\) = 4 is out of range \[0, 3\)"
    ):
        cuda.raise_reports()


@needs_cuda
@pytest.mark.parametrize(
    ("dtype", "n"), [(np.float32, 109), (np.float32, 110), (np.float64, 78), (np.complex128, 55)]
)
def test_panels_around_the_shared_memory_that_cuda_gives_unasked(dtype, n):
    """A whole matrix, or panels of 32 columns."""
    cuda, a = parity.load(emulation.NAME), drawn((n, n), dtype)
    packed, pivots, info = cuda.lu_factor(a, True)
    want = reference.lu_factor(a, True)
    close(packed, want[0], dtype)
    np.testing.assert_array_equal(pivots, want[1])
    np.testing.assert_array_equal(info, want[2])


def drawn_for_pivots(kind, shape, dtype):
    """Matrices whose pivots have equals, are NaN or infinite, or 0."""
    a = drawn(shape, dtype)
    rows, columns = shape[-2:]
    if kind == "equal":
        a[..., 0] = 1 - 2 * rng.integers(2, size=rows)
        a[..., 1::3] = rng.integers(-1, 2, size=a[..., 1::3].shape)
    elif kind == "nan":
        a[..., rows // 2, columns // 3] = np.nan
        a[..., rows // 4, columns // 2] = np.inf
        a[..., 1 :: rows // 3, columns - 1] = np.nan
    elif kind == "singular":
        a[..., 1] = 2 * a[..., 0]
        a[..., 0] = a[..., columns // 2] = 0
        a[..., rows // 2 :, -1] = 0
    return a


@pytest.fixture
def without_panels():
    """Once it is called the device has as little shared memory as any, and blocks and threads come in any order."""

    def switch():
        emulation.extension().set_device(80, 48 << 10)
        emulation.extension().set_order("random", 3)

    yield switch
    emulation.extension().set_device(90, 227 << 10)
    emulation.extension().set_order("ascending", 0)


@needs_cuda
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("kind", ["any", "equal", "nan", "singular"])
@pytest.mark.parametrize(("dtype", "n"), list(zip(FIELDS, (400, 200, 200, 100), strict=True)))
def test_panels_by_many_blocks_are_those_in_shared_memory(dtype, n, kind, exchange, without_panels):
    cuda = parity.load(emulation.NAME)
    shapes = [(n, 40), (2, n, 33)] if kind == "any" else [(n, 40)]
    if kind == "any" and dtype in FIELDS[1:]:
        shapes += [(n, n + 20), (3, n, n)]
    matrices = [drawn_for_pivots(kind, shape, dtype) for shape in shapes]
    wants = [cuda.lu_factor(a, exchange) for a in matrices]
    without_panels()
    for a, want in zip(matrices, wants, strict=True):
        for g, w in zip(cuda.lu_factor(a, exchange), want, strict=True):
            np.testing.assert_array_equal(g, w)
        if exchange and kind != "singular":
            np.testing.assert_array_equal(want[1][..., 0], reference.lu_factor(a[..., :1], True)[1][..., 0])


@needs_cuda
def test_blocks_of_a_tall_panel_have_as_many_rows_as_it_takes(without_panels):
    cuda, a = parity.load(emulation.NAME), drawn((16500, 2), np.float32)
    a[16499, 0], a[70:3000, 1] = 100, -50
    want = reference.lu_factor(a, True)
    without_panels()
    packed, pivots, info = cuda.lu_factor(a, True)
    close(packed, want[0], np.float32)
    np.testing.assert_array_equal(pivots, want[1])
    np.testing.assert_array_equal(info, want[2])

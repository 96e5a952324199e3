"""Complex numbers by kernels: functions and products composed of real ones, arithmetic of mixed operands, selection."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from complex_cases import RNG, A, B, R, needs_torch, numbers, torch
from fastdl.autograd import gradcheck
from fastdl.nn import functional as F

COMPOSED = (
    "exp log log2 log10 sqrt sin cos tan sinh cosh tanh sigmoid reciprocal square neg sgn angle".split()
)


@pytest.mark.parametrize("dtype", [fastdl.complex64, fastdl.complex128])
@pytest.mark.parametrize("name", COMPOSED)
def test_functions_in_every_quadrant_and_at_the_ends(name, dtype):
    """By the real kernels where nothing overflows, by NumPy where something would: NumPy's values."""
    parts = np.concatenate([[-3.0, -1.0, -0.5, -0.0, 0.0, 1e-20, 0.5, 1.0, 3.0], RNG.standard_normal(8)])
    ordinary = (parts[:, None] + 1j * parts).astype(dtype)
    names = {"neg": "negative", "angle": "angle"}
    numpy_of = {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "sgn": lambda z: np.where(z == 0, 0, z / np.where(z == 0, 1, np.abs(z))),
    }
    of = numpy_of.get(name) or getattr(np, names.get(name, name))
    eps = float(fastdl.finfo(dtype).eps)
    with np.errstate(all="ignore"):
        for z in (ordinary, ordinary * 100, np.full((2, 3), complex(np.inf, 1), dtype), ordinary.T[:, ::2]):
            expected = of(z.astype(np.complex128))
            got = getattr(fastdl, name)(fastdl.tensor(z)).numpy()
            assert got.shape == z.shape
            finite = np.isfinite(expected)
            if dtype is fastdl.complex64:
                finite &= (np.abs(expected) < 1e37) & (abs(z.real) < 80 if name == "sigmoid" else True)
            error = np.abs(got - expected)[finite]
            assert (error <= 40 * eps * (np.abs(expected[finite]) + (1 if "log" in name else 1e-30))).all()
    assert getattr(fastdl, name)(fastdl.zeros(0, 3, dtype=dtype)).shape == (0, 3)


@pytest.mark.parametrize("name", ["exp", "sin", "cos", "sinh", "cosh"])
def test_functions_of_large_angles(name, monkeypatch):
    """The part that only goes through sine and cosine may be large (the kernel of a state-space model): no NumPy."""
    small, angle = RNG.uniform(-20, 2, (16, 16)), RNG.uniform(-1, 1, (16, 16)) * 10.0 ** RNG.integers(2, 30)
    z = (angle + 1j * small if name in ("sin", "cos") else small + 1j * angle).astype(np.complex64)
    expected = getattr(np, name)(z.astype(np.complex128))
    monkeypatch.setattr(np, name, None)
    got = getattr(fastdl, name)(fastdl.tensor(z)).numpy()
    assert (np.abs(got - expected) <= 4e-7 * np.abs(expected)).all()


@pytest.mark.parametrize(
    "shapes", [((9, 7), (7, 6)), ((3, 8, 8), (3, 8, 8)), ((2, 1, 9, 5), (4, 5, 9)), ((6, 5, 7), (7, 9))]
)
def test_products_with_gradients(shapes):
    a, b = [
        fastdl.tensor(
            RNG.standard_normal(s) + 1j * RNG.standard_normal(s), dtype=fastdl.complex64, requires_grad=True
        )
        for s in shapes
    ]
    wide = [t.detach().cdouble().requires_grad_() for t in (a, b)]
    for function in (
        lambda x, y: x @ y,
        lambda x, y: (y.mH @ x.mH).mH,
        lambda x, y: fastdl.einsum("...ij,...jk->...ik", x, y),
    ):
        y, z = function(a, b), function(*wide)
        assert np.allclose(y.detach().numpy(), z.detach().numpy(), 1e-4, 1e-4)
        for got, expected in zip(
            fastdl.autograd.grad(y, (a, b), y.detach()),
            fastdl.autograd.grad(z, wide, z.detach()),
            strict=True,
        ):
            assert got.dtype is fastdl.complex64
            assert np.allclose(got.numpy(), expected.numpy(), 1e-3, 1e-3)


def test_arithmetic_of_mixed_operands():
    """complex64 beside real tensors of all dtypes and numbers, in place, broadcast."""
    z = fastdl.tensor(A, dtype=fastdl.complex64)
    real = fastdl.tensor(R, dtype=fastdl.float32)
    for other, dtype in (
        (real, "c8"),
        (real.double(), "c16"),
        (real.half(), "c8"),
        (fastdl.arange(4), "c8"),
        (2.5, "c8"),
        (1 - 2j, "c8"),
        (z[:, :1], "c8"),
        (z[0, 0], "c8"),
    ):
        plain = other.numpy() if isinstance(other, fastdl.Tensor) else other
        for op in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"):
            got = getattr(z, op)(other)
            assert got.dtype == np.dtype(dtype), (op, other)
            with np.errstate(all="ignore"):
                expected = getattr(A, op)(plain.astype("c16") if hasattr(plain, "astype") else plain)
            finite = np.isfinite(expected)
            assert np.allclose(got.numpy()[finite], expected[finite], 1e-5, 1e-5)
    w = z.clone()
    w.mul_(real).add_(1j).div_(z).sub_(z[0])
    assert np.allclose(w.numpy(), (A * R + 1j) / A - A[0], 1e-4, 1e-4)
    for power in (2, 3, -1, 0.5, 2 + 1j):
        assert np.allclose((z**power).numpy(), A**power, 1e-4, 1e-4)
    x = numbers(5, 64)
    for dims in (None, 0, 1, (0, 1)):
        assert np.allclose(x.sum(dims).detach().numpy(), x.detach().numpy().sum(dims), 1e-5, 1e-5)
        assert x.sum(dims, keepdim=True).ndim == 2 if dims is not None else True
    long = fastdl.tensor(RNG.standard_normal((3, 5, 35)) + 1j, dtype=fastdl.complex64)
    for dim in (0, 1, 2):
        assert np.allclose(long.prod(dim).numpy(), long.numpy().astype("c16").prod(dim), 1e-3, 1e-3)


def test_gradients_of_single_numbers_that_are_zero():
    for value in (0j, 3 + 4j):
        z = fastdl.tensor(value, dtype=fastdl.complex64, requires_grad=True)
        for function in (
            fastdl.angle,
            fastdl.sgn,
            fastdl.abs,
            lambda z: z**2.5,
            lambda z: z ** fastdl.tensor(0.0),
        ):
            y = function(z)
            (grad,) = fastdl.autograd.grad(y, z, fastdl.ones_like(y))
            assert np.isfinite(grad.item())
        chosen = fastdl.where(z.detach() == 0, z, 2.0)
        assert fastdl.autograd.grad(chosen, z, fastdl.ones_like(chosen))[0].item() == (value == 0)
        assert z.detach().masked_fill(fastdl.tensor(True), 1j).item() == 1j


def test_selection_by_masks_with_broadcasting():
    z = fastdl.tensor(A, dtype=fastdl.complex64, requires_grad=True)
    row = fastdl.tensor(B[0], dtype=fastdl.complex64, requires_grad=True)
    mask = fastdl.tensor(R > 0.6)
    y = fastdl.where(mask, z, row)
    assert np.array_equal(y.detach().numpy(), np.where(R > 0.6, A, B[0]).astype(np.complex64))
    weight = fastdl.tensor(B, dtype=fastdl.complex64)
    first, second = fastdl.autograd.grad(y, (z, row), weight)
    assert np.allclose(first.numpy(), np.where(R > 0.6, B, 0), 1e-6)
    assert np.allclose(second.numpy(), np.where(R > 0.6, 0, B).sum(0), 1e-5)
    for other, dtype in (
        (fastdl.tensor(R), fastdl.complex64),
        (1.5, fastdl.complex64),
        (2j, fastdl.complex64),
    ):
        plain = other.numpy() if isinstance(other, fastdl.Tensor) else other
        got = fastdl.where(mask, other, z)
        assert got.dtype is (fastdl.complex128 if getattr(other, "dtype", None) is fastdl.float64 else dtype)
        assert np.allclose(got.detach().numpy(), np.where(R > 0.6, plain, A), 1e-6)
    real = fastdl.tensor(R, dtype=fastdl.float32, requires_grad=True)
    y = fastdl.where(mask, real, z)
    assert fastdl.autograd.grad(y, real, weight)[0].dtype is fastdl.float32
    for function in (
        lambda t: t.tril(1),
        lambda t: t.triu(),
        lambda t: t.flip(0, 1),
        lambda t: t.roll(2, 1),
        lambda t: t.repeat(2, 3),
        fastdl.diag_embed,
        lambda t: t.cumsum(1),
        lambda t: t[[0, 2, 0]],
        lambda t: t[:, [1, 1]],
        lambda t: t.index_add(0, fastdl.tensor([1, 1]), t[:2]),
        lambda t: F.pad(t, (1, -1, 2, 0)),
        lambda t: t.repeat_interleave(3, 1),
    ):
        for dtype in (fastdl.complex64, fastdl.complex128):
            t = fastdl.tensor(A, dtype=dtype, requires_grad=True)
            y = function(t)
            re, im = [
                function(fastdl.tensor(part, requires_grad=True)) for part in (A.real.copy(), A.imag.copy())
            ]
            assert y.dtype is dtype
            assert np.allclose(y.detach().numpy(), re.detach().numpy() + 1j * im.detach().numpy(), 1e-5, 1e-5)
            gradcheck(function, (t.detach().cdouble().requires_grad_(),))


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_cross_of_single_vectors(dtype):
    a, b = [np.arange(3) + k for k in (1, 2.5)]
    results = []
    for lib in (fastdl, torch):
        x, y = [lib.tensor(v).to(getattr(lib, dtype)).requires_grad_() for v in (a, b)]
        z = lib.linalg.cross(x, y)
        abs(z).sum().backward()
        results.append((z.detach().numpy(), x.grad.numpy(), y.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("name", ["log", "log2", "log10"])
@pytest.mark.parametrize("single", [True, False])
def test_logarithms_near_the_unit_circle(name, single):
    """log |z| is small there, and must not be lost in rounding |z|."""
    turn = np.linspace(-3, 3, 500)
    z = (1 + np.geomspace(1e-7, 0.4, 500) * np.sign(turn)) * np.exp(1j * turn)
    z = z.astype(np.complex64 if single else np.complex128)
    wide = z.astype(np.clongdouble)
    x, y = wide.real, wide.imag
    size = np.log1p((x - 1) * (x + 1) + y * y) / 2 / (np.log(np.longdouble(int(name[3:] or 0) or np.e)))
    ours = getattr(fastdl, name)(fastdl.tensor(z)).numpy()
    assert abs(ours.real - size).max() < 4 * np.finfo(z.real.dtype).eps
    assert (
        abs(ours.real - size) < 1e-5 * abs(size) + 4 * np.finfo(z.real.dtype).eps * abs(size)
    ).all() or single


def test_angles_of_denormal_numbers():
    for tiny in (1e-42, -1e-42):
        z = fastdl.complex(fastdl.full((40,), tiny), fastdl.full((40,), 1e-42))
        assert not z.angle().isnan().any()
        assert not fastdl.atan2(fastdl.full((40,), 1e-42), fastdl.full((40,), tiny)).isnan().any()


def test_imaginary_parts_are_not_dropped():
    real, mask = fastdl.ones(3), fastdl.tensor([True, False, True])
    index = fastdl.tensor([0, 2])
    for call in (
        lambda: real.masked_fill(mask, fastdl.tensor(1 + 2j)),
        lambda: fastdl.index_add(real, 0, index, fastdl.ones(2), alpha=1 + 2j),
        lambda: real.scatter(0, index, 2j),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            call()
    z = fastdl.zeros(3, dtype=fastdl.complex64)
    added = fastdl.index_add(z, 0, index, fastdl.tensor([1j, 2 + 0j]), alpha=1 + 2j)
    assert added.tolist() == [1j * (1 + 2j), 0, 2 + 4j]
    assert not (z + (1.5e308 + 1.5e308j)).real.isfinite().any()

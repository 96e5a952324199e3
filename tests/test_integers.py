"""Integers where PyTorch's CPU takes them: convolution, pooling, linear, piecewise activations, losses."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import kernels
from fastdl.nn import functional as F

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)


def _array(*shape):
    return rng.integers(-5, 6, shape)


X1, X2, X3 = _array(2, 4, 9), _array(2, 4, 6, 7), _array(1, 2, 5, 5, 5)
W1, W2, W3, BIAS = _array(3, 4, 3), _array(3, 4, 3, 3), _array(3, 2, 2, 2, 2), _array(3)
M, N, SIGNS = _array(5, 4), _array(5, 4), np.sign(_array(5) * 2 + 1)
CALLS = {
    "linear": lambda F, t: F.linear(t(M), t(W1[:, :, 0]), t(BIAS)),
    "conv1d": lambda F, t: F.conv1d(t(X1), t(W1), t(BIAS), padding=1),
    "conv2d": lambda F, t: F.conv2d(t(X2), t(W2), stride=2, dilation=2),
    "conv2d groups": lambda F, t: F.conv2d(t(X2), t(W2[:2, :2].copy()), groups=2, padding="same"),
    "conv3d": lambda F, t: F.conv3d(t(X3), t(W3), t(BIAS)),
    "conv_transpose1d": lambda F, t: F.conv_transpose1d(
        t(X1), t(W1.transpose(1, 0, 2).copy()), t(BIAS), stride=2
    ),
    "conv_transpose2d": lambda F, t: F.conv_transpose2d(
        t(X2), t(W2.transpose(1, 0, 2, 3).copy()), output_padding=1, stride=2
    ),
    "max_pool2d": lambda F, t: F.max_pool2d(t(X2), 3, 2, 1, return_indices=True),
    "max_pool3d": lambda F, t: F.max_pool3d(t(X3), 2),
    "avg_pool1d": lambda F, t: F.avg_pool1d(t(X1), 3, 2, 1),
    "avg_pool2d": lambda F, t: F.avg_pool2d(t(X2), 2, count_include_pad=False, padding=1),
    "hardtanh": lambda F, t: F.hardtanh(t(M), -2, 3),
    "hardtanh fractions": lambda F, t: F.hardtanh(t(M), -2.9, 3.9),
    "relu6": lambda F, t: F.relu6(t(M)),
    "threshold": lambda F, t: F.threshold(t(M), 1, 7),
    "softsign": lambda F, t: F.softsign(t(M)),
    "tanhshrink": lambda F, t: F.tanhshrink(t(M)),
    "pixel_shuffle": lambda F, t: F.pixel_shuffle(t(X2), 2),
    "pixel_unshuffle": lambda F, t: F.pixel_unshuffle(t(X2[:, :, :, :6].copy()), 2),
    "pixel_shuffle wide": lambda F, t: F.pixel_shuffle(t(X2 + 2**62 + 1), 2) - 2**62,
    "l1_loss none": lambda F, t: F.l1_loss(t(M), t(N), reduction="none"),
    "l1_loss sum": lambda F, t: F.l1_loss(t(M), t(N), reduction="sum"),
    "poisson_nll_loss": lambda F, t: F.poisson_nll_loss(t(M), t(N)),
    "margin_ranking_loss": lambda F, t: F.margin_ranking_loss(
        t(M[:, 0].copy()), t(N[:, 0].copy()), t(SIGNS), 0.5
    ),
    "triplet_margin_loss": lambda F, t: F.triplet_margin_loss(t(M), t(N), t(M + 1)),
    "cosine_embedding_loss": lambda F, t: F.cosine_embedding_loss(t(M), t(N), t(SIGNS)),
    "pairwise_distance": lambda F, t: F.pairwise_distance(t(M), t(N)),
}


@pytest.mark.parametrize("name", CALLS)
def test_integers_are_torch_s(name):
    got = CALLS[name](fastdl.nn.functional, fastdl.tensor)
    expected = CALLS[name](torch.nn.functional, torch.tensor)
    for a, b in zip(*[v if isinstance(v, tuple) else (v,) for v in (got, expected)], strict=True):
        assert str(a.dtype) == str(b.dtype).removeprefix("torch.")
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.parametrize("size", [(12, 14), (5, 4)])
def test_images_of_bytes_are_resized(size):
    image = rng.integers(0, 256, (1, 3, 6, 7)).astype(np.uint8)
    got = fastdl.nn.functional.interpolate(fastdl.tensor(image), size)
    expected = torch.nn.functional.interpolate(torch.tensor(image), size)
    assert got.dtype == fastdl.uint8
    np.testing.assert_array_equal(got.numpy(), expected.numpy())


def test_sums_too_large_wrap():
    x, w = np.full((1, 4), 100, np.uint8), np.full((1, 4), 3, np.uint8)
    got = fastdl.nn.functional.linear(fastdl.tensor(x), fastdl.tensor(w))
    assert got.item() == torch.nn.functional.linear(torch.tensor(x), torch.tensor(w)).item() == 1200 % 256


def test_what_is_refused_says_so():
    x, w = fastdl.tensor(X2), fastdl.tensor(W2)
    with pytest.raises(TypeError, match=r"conv2d: input must be float32 or float64, got int64; convert it"):
        fastdl.nn.functional.conv2d(x, w.float())
    for call in (lambda: fastdl.nn.Linear(4, 3)(fastdl.tensor(M)), lambda: fastdl.nn.functional.gelu(x)):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("function", ["floor_divide", "remainder", "fmod", "trunc"])
def test_division_of_int64(function, far):
    """Small numbers are divided as doubles, those beyond 2^51 one by one; signs, -1 and exact quotients included."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**51) + 1, 2**51, 1000)
    y = rng.integers(-(2**51) + 1, 2**51, 1000) >> rng.integers(0, 51, 1000)
    x[:300] >>= rng.integers(0, 51, 300)
    x[300:500] = y[300:500] * (x[300:500] >> 40)
    y[y == 0] = -1
    if far:
        x[::7] = np.iinfo(np.int64).max - np.arange(x[::7].size)
        x[::11], y[::13] = np.iinfo(np.int64).min + 1, 2**62
    for size in (1, 3, 8, 9, 1000):
        a, b = x[:size], y[:size]
        if function == "trunc":
            ours = fastdl.div(fastdl.from_numpy(a), fastdl.from_numpy(b), rounding_mode="trunc")
            theirs = torch.div(torch.from_numpy(a), torch.from_numpy(b), rounding_mode="trunc")
        else:
            ours = getattr(fastdl, function)(fastdl.from_numpy(a), fastdl.from_numpy(b))
            theirs = getattr(torch, function)(torch.from_numpy(a), torch.from_numpy(b))
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("level", kernels.levels())
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_functions_of_integers(level, dtype):
    kernel = kernels.load(level)
    info = np.iinfo(dtype)
    for size in (0, 1, 3, 63, 64, 65, 1000):
        x = np.random.default_rng(size).integers(info.min, info.max, 2 * size, dtype, endpoint=True)
        x[:3] = [info.min, 0, info.max][: len(x[:3])]
        for view in (x[:size], x[::2], x[::-1]):
            for name in ("neg", "abs", "sign", "square"):
                got = getattr(kernel, name + "_forward")(view)
                want = {"neg": np.negative, "abs": np.absolute, "sign": np.sign, "square": np.square}[name](
                    view
                )
                np.testing.assert_array_equal(got, want)
                assert got.dtype == want.dtype
    y = x.copy()
    assert kernel.neg_forward(y, y) is y
    np.testing.assert_array_equal(y, np.negative(x))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_arithmetic_of_narrow_integers(dtype):
    """Numbers wrap into the dtype, results wrap around, zero divisors are refused before anything is written."""
    x = np.arange(-128, 128).astype(dtype)
    y = np.roll(x, 7)
    y[y == 0] = 1
    ours, theirs = fastdl.from_numpy(x), torch.from_numpy(x)
    other, their_other = fastdl.from_numpy(y), torch.from_numpy(y)
    calls = {
        "+": lambda a, b: a + b,
        "+ 300": lambda a, b: a + 300,
        "* -3": lambda a, b: a * -3,
        "//": lambda a, b: a // b,
        "%": lambda a, b: a % b,
        "% 7": lambda a, b: a % 7,
        "<< 2": lambda a, b: a << 2,
        ">> 1": lambda a, b: a >> 1,
        "&": lambda a, b: a & b,
        "~": lambda a, b: ~a,
        ">=": lambda a, b: a >= b,
        "T": lambda a, b: a.reshape(16, 16).t() - b[:16],
        "in place": lambda a, b: a.clone().add_(b).bitwise_and_(60).bitwise_left_shift_(1).clamp_(3, 100),
    }
    for name, call in calls.items():
        got, want = call(ours, other), call(theirs, their_other)
        assert str(got.dtype) == str(want.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=name)
    for rounding in ("trunc", "floor"):
        got, want = (
            fastdl.div(ours, other, rounding_mode=rounding),
            torch.div(theirs, their_other, rounding_mode=rounding),
        )
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    large = fastdl.ones(5000, dtype=ours.dtype)
    zeros = fastdl.ones(5000, dtype=ours.dtype)
    zeros[4999] = 0
    with pytest.raises(RuntimeError, match="division by zero"):
        large.floor_divide_(zeros)
    assert large.sum().item() == 5000
    for divide in (lambda x: x % 2**31, lambda x: x // 256):  # which as bytes are 0
        with pytest.raises(RuntimeError, match="division by zero"):
            divide(fastdl.ones(2, dtype=fastdl.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_clamp_of_narrow_integers(dtype):
    x = np.arange(0, 250, 7).astype(dtype)
    ours = fastdl.from_numpy(x).clamp
    np.testing.assert_array_equal(ours(3, 50).numpy(), x.clip(3, 50))
    np.testing.assert_array_equal(ours(min=9).numpy(), x.clip(9, None))
    np.testing.assert_array_equal(ours(max=9).numpy(), x.clip(None, 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_products_by_floats_are_exact(dtype):
    """Sums that floats or doubles hold go by their kernels; larger ones, which wrap, by NumPy's."""
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    for high in (3, 200, 1 << 15, info.max):
        high = min(high, info.max)
        a, b = [rng.integers(max(-high, info.min), high, s).astype(dtype) for s in ((2, 33, 40), (40, 35))]
        got = fastdl.matmul(fastdl.tensor(a), fastdl.tensor(b))
        assert got.numpy().dtype == dtype
        assert np.array_equal(got.numpy(), np.matmul(a, b))
        got = fastdl.einsum("bij,jk->bki", fastdl.tensor(a), fastdl.tensor(b))
        assert np.array_equal(got.numpy(), np.matmul(a, b).swapaxes(1, 2))
        c = fastdl.addmm(fastdl.tensor(b[:33, :35]), fastdl.tensor(a[0]), fastdl.tensor(b), beta=2, alpha=3)
        assert np.array_equal(c.numpy(), (2 * b[:33, :35] + 3 * np.matmul(a[0], b)).astype(dtype))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int32, np.int64])
def test_padding_threshold_and_steps_of_integers(dtype):
    x = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    t = fastdl.tensor(x)
    for padding, value in (((1, 2), 0), ((1, 0, 2, 1), 1), ((-1, 2), 1), ((-1, -1, 1, -1), 0), ((2, -4), 1)):
        pairs = [(0, 0)] * (3 - len(padding) // 2) + [padding[i : i + 2] for i in range(0, len(padding), 2)][
            ::-1
        ]
        cut = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))]
        expected = np.pad(cut, [(max(a, 0), max(b, 0)) for a, b in pairs], constant_values=value)
        assert np.array_equal(F.pad(t, padding, value=value).numpy(), expected)
    if dtype is np.bool_:
        return
    assert np.array_equal(F.relu(t).numpy(), np.maximum(x, 0))
    assert np.array_equal(F.threshold(t, 3, 7).numpy(), np.where(x > 3, x, 7))
    values = np.full_like(x, 9)
    step = fastdl.heaviside(t, fastdl.tensor(values))
    assert np.array_equal(step.numpy(), np.where(x == 0, 9, (x > 0).astype(dtype)))
    assert np.array_equal(fastdl.fmax(t, fastdl.tensor(values)).numpy(), np.maximum(x, values))
    assert fastdl.isclose(t, t + 1, rtol=0.2).tolist() == np.isclose(x, (x + np.ones(1, dtype)), 0.2).tolist()


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (4, 5), (0, 3), (3, 0), (3, 4, 5), (40, 300)])
def test_products_and_powers(dtype, shape):
    numbers = np.random.default_rng(1).integers(-3 if dtype[0] == "i" else 1, 4, shape)
    x = np.asarray(numbers > 0 if dtype == "bool" else numbers, dtype)
    ours, theirs = fastdl.tensor(x), torch.tensor(x)
    for args in ((), *[(axis, kept) for axis in range(-x.ndim, x.ndim) for kept in (False, True)]):
        assert_same(ours.prod(*args), theirs.prod(*args))
        assert_same(ours.sum(*args), theirs.sum(*args))
        if x.ndim == 2:
            assert_same(ours.t().sum(*args), theirs.t().sum(*args))
    for exponent in (0, 1, 2, 3, 6, 7, 63, 64, 65) if dtype != "bool" else ():
        assert_same(ours**exponent, theirs**exponent)  # which wraps around
    for bounds in ((-1, 2), (None, 1), (1, None), (3, -3), (-100, 99)) if dtype[0] == "i" else ():
        assert_same(ours.clamp(*bounds), theirs.clamp(*bounds))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), strict=True)


def test_matrix_products_of_integers():
    for dtype in ("int64", "int32", "uint8"):
        a, b, v = [np.random.default_rng(2).integers(0, 99, s).astype(dtype) for s in ((7, 9), (9, 4), 9)]
        for x, y in ((a, b), (a, v), (v, b), (v, v), (a[None], b), (a[:, ::2], b[::2]), (a[:0], b)):
            assert_same(fastdl.tensor(x) @ fastdl.tensor(y), torch.tensor(x) @ torch.tensor(y))
    with pytest.raises(RuntimeError, match="matmul: the last dimension"):
        fastdl.tensor(a) @ fastdl.tensor(a)
    with pytest.raises(RuntimeError, match="one dtype"):
        fastdl.tensor(a) @ fastdl.ones(9, 4)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (100, 300)])
def test_masks_and_operands_on_either_side(dtype, shape):
    rng = np.random.default_rng(3)
    x, y = [np.asarray(rng.integers(0, 2 if dtype == "bool" else 9, shape), dtype) for _ in range(2)]
    mask = np.asarray(rng.random(shape) < 0.4)
    for lib, results in ((fastdl, ours := []), (torch, theirs := [])):
        a, b, m = [lib.tensor(v) for v in (x, y, mask)]
        results += [a + b, a * b, a * m, m * a, m + m, lib.maximum(a, b), lib.minimum(a, b)]
        results += [a.masked_fill(m, 1), a.clone().masked_fill_(m, 1), a.count_nonzero(), a == 1]
        results += [a.masked_fill(lib.tensor(True), 0), a.masked_fill(m, lib.tensor(1))]
        if dtype != "bool":
            results += [2 - a, 300 * a, 7 + a, a - b, -1 - a]
        c = a.clone()
        c[m] = 1
        results.append(c)
        if shape:
            results += [a.any(0), a.all(-1), a.count_nonzero(-1), a * b[:1]]
    for got, want in zip(ours, theirs, strict=True):
        assert_same(got, want)

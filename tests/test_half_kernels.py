"""float16 and bfloat16 on the CPU: kernels compute in float32 and round once, whatever the layout."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import kernels
from parity import backends

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
names = {"ids": ["float16", "bfloat16"]}

BINARY = (
    "add sub mul div floor_divide remainder fmod maximum minimum atan2 hypot copysign pow logaddexp".split()
)
COMPARE = "eq ne lt le gt ge".split()
UNARY = (
    "neg abs sign floor ceil round trunc square sqrt rsqrt reciprocal exp expm1 log log1p log2 log10 sin cos tan asin "
    "acos atan sinh cosh asinh acosh atanh erf exp2 lgamma digamma erfc erfinv ndtr i0 i0e logit sinc"
).split()
ACTIVATIONS = "relu sigmoid tanh gelu gelu_tanh silu mish softsign tanhshrink hardswish hardsigmoid".split()


def random(rng, shape, dtype):
    return rng.uniform(-2, 2, shape).astype(dtype)


def wide(value):
    return value.astype(np.float32) if isinstance(value, np.ndarray) else value


def rounded(result, dtype):
    if isinstance(result, tuple):
        return tuple(rounded(part, dtype) for part in result)
    with np.errstate(over="ignore"):
        return result.astype(dtype) if result.dtype == np.float32 else result


def is_nan(array):
    with np.errstate(invalid="ignore"):  # which ml_dtypes raises
        return np.isnan(array)


def same_bits(got, want):
    """Of two arrays, or tuples of them; one NaN is as good as another."""
    if isinstance(got, tuple):
        return all([same_bits(g, w) for g, w in zip(got, want, strict=True)])
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.dtype == np.bool_:
        return np.array_equal(got, want)
    nan = is_nan(want)
    return np.array_equal(is_nan(got), nan) and np.array_equal(
        got[~nan].view(np.uint16), want[~nan].view(np.uint16)
    )


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_all_numbers_there_and_back(level, dtype):
    backend = kernels.load(level)
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(dtype)
    floats = backend.convert(halves, np.dtype(np.float32))
    np.testing.assert_array_equal(floats, halves.astype(np.float32))
    back = backend.convert(floats, dtype)
    assert same_bits(back, halves)
    # Between two neighbours, at their middle, and beside it.
    finite = np.sort(floats[np.isfinite(floats)])
    middle = (finite[1:] / 2 + finite[:-1] / 2).astype(np.float32)
    for x in (middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))):
        with np.errstate(over="ignore"):
            assert same_bits(backend.convert(x, dtype), x.astype(dtype))
    with np.errstate(over="ignore"):
        large = np.array([65503.9, 65519.9, 65520, 1e30, 3.4e38, -3.4e38, np.inf, np.nan], np.float32)
        assert same_bits(backend.convert(large, dtype), large.astype(dtype))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_elementwise_rounds_once(level, dtype):
    backend = kernels.load(level)
    rng = np.random.default_rng(0)
    for shape in [(), (1,), (31,), (513,), (3, 700), (0, 4)]:
        x, y = random(rng, shape, dtype), random(rng, shape, dtype)
        for name in BINARY + COMPARE:
            kernel = getattr(backend, f"{name}_forward")
            for a, b in ((x, y), (x, 0.3), (1.7, y)):
                assert same_bits(kernel(a, b), rounded(kernel(wide(a), wide(b)), dtype)), (name, shape)
        for name in UNARY:
            kernel = getattr(backend, f"{name}_forward")
            assert same_bits(kernel(x), rounded(kernel(wide(x)), dtype)), (name, shape)
            if backward := getattr(backend, f"{name}_backward", None):
                assert same_bits(backward(y, x), rounded(backward(wide(y), wide(x)), dtype)), (name, shape)
        for name in ACTIVATIONS:
            forward, backward = (getattr(backend, f"{name}_{way}", None) for way in ("forward", "backward"))
            assert same_bits(forward(x), rounded(forward(wide(x)), dtype)), (name, shape)
            assert same_bits(backward(y, x), rounded(backward(wide(y), wide(x)), dtype)), (name, shape)
        for name in ("mul", "maximum", "minimum", "logaddexp", "div"):
            backward = getattr(backend, f"{name}_backward")
            assert same_bits(backward(x, y, x), rounded(backward(wide(x), wide(y), wide(x)), dtype)), name
        mask = rng.random(shape) < 0.5
        assert same_bits(backend.where_forward(mask, x, y), np.where(mask, x, y))
        zero = np.zeros_like(x)
        parts = np.where(mask, x, zero), np.where(mask, zero, x)
        assert same_bits(backend.where_backward(x, mask), parts)
        for call in (
            lambda x, y: backend.addcmul_forward(x, y, y, 0.5),
            lambda x, y: backend.addcmul_forward(x, y, 0.3, 1.0),
            lambda x, y: backend.addcdiv_forward(x, y, y, 0.5),
            lambda x, y: backend.lerp_forward(x, y, x),
            lambda x, y: backend.clamp_forward(x, -0.5, 1.0),
            lambda x, y: backend.clamp_backward(y, x, -0.5, 1.0),
            lambda x, y: backend.pow_scalar_forward(x, 3.0),
            lambda x, y: backend.pow_scalar_backward(y, x, 3.0),
        ):
            assert same_bits(call(x, y), rounded(call(wide(x), wide(y)), dtype))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_any_layout(level, dtype):
    backend = kernels.load(level)
    rng = np.random.default_rng(1)
    x = random(rng, (40, 66, 9), dtype)
    others = [
        random(rng, (40, 66, 9), dtype),
        random(rng, (9,), dtype),
        random(rng, (66, 1), dtype),
        random(rng, (40, 1, 1), dtype),
        random(rng, (1, 66, 9), dtype),
        np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0),
        random(rng, (80, 66, 18), dtype)[::2, :, ::-2],
    ]
    for y in others:
        for a, b in ((x, y), (y, x), (x.transpose(1, 0, 2), np.broadcast_to(y, x.shape).transpose(1, 0, 2))):
            assert same_bits(backend.sub_forward(a, b), rounded(wide(a) - wide(b), dtype)), y.strides
    out = np.zeros((40, 66, 18), dtype)
    backend.mul_forward(x, x, out[..., ::2])
    assert same_bits(np.ascontiguousarray(out[..., ::2]), rounded(wide(x) * wide(x), dtype))
    assert not out[..., 1::2].any()
    changed = x.copy()
    backend.add_forward(changed[1:], changed[:-1], changed[1:])  # memory in common
    assert same_bits(changed[1:], rounded(wide(x[1:]) + wide(x[:-1]), dtype))
    transposed = x.copy().T
    backend.exp_forward(transposed, transposed)
    assert same_bits(np.ascontiguousarray(transposed), rounded(backend.exp_forward(wide(x.T)), dtype))


@pytest.mark.parametrize("level", backends())
def test_precisions_do_not_mix(level):
    backend = kernels.load(level)
    half, brain = (np.ones((4, 4), dtype) for dtype in HALVES)
    for call in (
        lambda: backend.add_forward(half, brain),
        lambda: backend.add_forward(half, wide(half)),
        lambda: backend.add_forward(wide(half), half),
        lambda: backend.add_forward(half, half, wide(half)),
        lambda: backend.relu_backward(half, brain),
        lambda: backend.matmul(half, brain),
        lambda: backend.matmul(half, wide(half)),
        lambda: backend.matmul(half, half, brain),
        lambda: backend.matmul(half, half, wide(half)),
        lambda: backend.linear_forward(half, half, wide(half[0])),
        lambda: backend.linear_backward(half, half, wide(half), True, True, True),
        lambda: backend.add_forward(half.astype(">f2"), half.astype(">f2")),
        lambda: backend.add_forward(np.zeros(4, "V2"), 1.0),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_conversions_and_padding(level, dtype):
    backend = kernels.load(level)
    rng = np.random.default_rng(9)
    for n in (0, 1, 17, 1500, 70001):
        x = rng.uniform(-200, 200, n).astype(dtype)
        for to in (np.float64, np.int64, np.bool_):
            got = backend.convert(x, np.dtype(to))
            assert got.dtype == to
            np.testing.assert_array_equal(got, wide(x).astype(to))
        for given in (np.int64, np.int32, np.uint8, np.bool_):
            integers = rng.integers(0, 200, n).astype(given)
            assert same_bits(backend.convert(integers, dtype), integers.astype(np.float32).astype(dtype))
    for shape, padding in (((3, 5, 7), ((0, 0), (1, 2), (3, 1))), ((2, 6, 40), ((1, 0), (-1, 2), (2, -3)))):
        x = random(rng, shape, dtype)
        for mode in ("constant", "reflect", "replicate", "circular"):
            if mode != "constant" and min(min(pair) for pair in padding) < 0:
                continue
            got = backend.pad_forward(x, padding, mode, 0.7)
            assert same_bits(got, rounded(backend.pad_forward(wide(x), padding, mode, 0.7), dtype))
            if mode != "constant":
                grad = random(rng, got.shape, dtype)
                want = backend.pad_backward(wide(grad), shape, padding, mode)
                assert same_bits(backend.pad_backward(grad, shape, padding, mode), rounded(want, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_clip_grad_norm(dtype):
    rng = np.random.default_rng(10)
    half = getattr(fastdl, dtype)
    parameters = [fastdl.nn.Parameter(fastdl.zeros(n, dtype=half)) for n in (5, 5000)]
    for p in parameters:
        p.grad = fastdl.tensor(rng.uniform(-1, 1, p.shape[0]).astype(np.float32)).to(half)
    before = [p.grad.float().numpy().copy() for p in parameters]
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in before))
    total = fastdl.nn.utils.clip_grad_norm_(parameters, 2.0)
    assert total.dtype == half
    assert abs(float(total) - norm) <= norm * 2.0**-8
    for p, g in zip(parameters, before, strict=True):
        np.testing.assert_allclose(p.grad.float().numpy(), g * 2.0 / float(total), rtol=2.0**-7, atol=1e-7)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_folds(level, dtype):
    """Any axes, sizes around the pieces that are converted at a time, NaN, nothing: as in float32, rounded once."""
    backend = kernels.load(level)
    rng = np.random.default_rng(4)
    shapes = [(), (1,), (7,), (9000,), (20001,), (3, 8193), (5, 40), (300, 700), (70, 40000), (2, 3, 4, 5)]
    shapes += [(40, 1, 33), (64, 5, 7, 9), (0,), (3, 0), (0, 3)]
    for shape in shapes:
        x = random(rng, shape, dtype)
        every = [None, *[(i,) for i in range(len(shape))]]
        if len(shape) > 2:
            every += [(0, 2), (1, 2), (0, 1), (0, len(shape) - 1), (1, -1)]
        for axes in every:
            for kept in (False, True):
                for name in ("sum", "mean", "nansum", "prod", "amax", "amin"):
                    if name in ("amax", "amin", "prod") and x.size > 30000:
                        continue
                    f = getattr(backend, f"{name}_forward")
                    got, want = f(x, axes, kept), f(wide(x).astype(np.float64), axes, kept)
                    assert got.dtype == dtype, (name, shape)
                    assert got.shape == want.shape, (name, shape, axes)
                    if name in ("amax", "amin"):
                        assert same_bits(got, want.astype(dtype)), (name, shape, axes)
                        continue
                    ulp = 2.0**-11 if dtype == np.float16 else 2.0**-8
                    with np.errstate(over="ignore", invalid="ignore"):
                        want = np.where(
                            np.abs(want) > 65504 if dtype == np.float16 else False, np.inf * want, want
                        )
                        limit = ulp * np.abs(want) * 1.001 + 1e-5 + 2e-7 * np.sqrt(max(x.size, 1))
                        got = got.astype(np.float64)
                        assert (
                            (np.abs(got - want) <= limit) | (got == want) | (np.isnan(got) & np.isnan(want))
                        ).all(), (
                            name,
                            shape,
                            axes,
                        )
                for p in (0, 1, 2, 3, -1.5, np.inf, -np.inf):
                    if x.size > 30000 and p != 2:
                        continue
                    with np.errstate(over="ignore"):
                        got = backend.norm_forward(x, p, axes, True)
                        want = backend.norm_forward(wide(x).astype(np.float64), p, axes, True).astype(dtype)
                    assert got.shape == want.shape
                    assert got.dtype == dtype
                    np.testing.assert_allclose(
                        wide(got), wide(want), rtol=2 * ulp, err_msg=str((p, shape, axes))
                    )
    x = random(rng, (50, 300), dtype)
    x[3, 200] = x[7, 4] = np.nan
    for axes in (None, (0,), (1,)):
        for y in (x, x.T, x[::2, ::3]):
            assert same_bits(
                backend.amax_forward(y, axes), rounded(backend.amax_forward(wide(y), axes), dtype)
            )
            assert same_bits(backend.sum_forward(y, axes), rounded(backend.sum_forward(wide(y), axes), dtype))
    assert same_bits(backend.sum_to(x, (300,)), rounded(backend.sum_to(wide(x), (300,)), dtype))
    assert same_bits(backend.sum_to(x, (50, 1)), rounded(backend.sum_to(wide(x), (50, 1)), dtype))
    for name in ("max", "min"):
        find = getattr(backend, f"{name}_forward")
        for shape in [(9,), (20000,), (40, 50), (3, 9000), (4, 5, 6)]:
            x = random(rng, shape, dtype).round(1)
            for axis in (None, *range(len(shape))):
                assert same_bits(find(x, axis)[0], rounded(find(wide(x), axis)[0], dtype))
                np.testing.assert_array_equal(find(x, axis)[1], find(wide(x), axis)[1])


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_rows_and_channels(level, dtype):
    """Softmax and normalisation in pieces: float32's results, rounded once; parameters in either precision."""
    backend = kernels.load(level)
    rng = np.random.default_rng(5)
    for shape in [(1, 1), (3, 7), (50, 300), (2, 20000), (4, 30, 50), (0, 5)]:
        x, g = random(rng, shape, dtype), random(rng, shape, dtype)
        for dim in range(len(shape)):
            for name in ("softmax", "log_softmax"):
                forward, backward = (getattr(backend, f"{name}_{way}") for way in ("forward", "backward"))
                y = forward(x, dim)
                assert same_bits(y, rounded(forward(wide(x), dim), dtype)), (name, shape, dim)
                assert same_bits(backward(g, y, dim), rounded(backward(wide(g), wide(y), dim), dtype))

    def check(got, want, parameter_sums):
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            if b is None:
                assert a is None
            elif b.dtype == np.float64:
                np.testing.assert_array_equal(a, b)
            elif parameter_sums and i > 0:
                assert a.dtype == np.float32
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            else:
                assert same_bits(a, rounded(b, dtype))

    for rows, length in [(1, 1), (5, 33), (700, 96), (3, 20000), (0, 8)]:
        x, g = random(rng, (rows, length), dtype), random(rng, (rows, length), dtype)
        for weight, bias in (
            (None, None),
            (random(rng, (length,), dtype), random(rng, (length,), np.float32)),
        ):
            w, b = wide(weight), wide(bias)
            got, want = (
                backend.layer_norm_forward(*a, length, 1e-5) for a in ((x, weight, bias), (wide(x), w, b))
            )
            check(got, want, False)
            _, mean, var = want
            for needs in ((True, True, True), (False, True, False), (True, False, False)):
                got = backend.layer_norm_backward(g, x, weight, mean, var, length, 1e-5, *needs)
                want = backend.layer_norm_backward(wide(g), wide(x), w, mean, var, length, 1e-5, *needs)
                check(got, want, True)
            got, want = (backend.rms_norm_forward(*a, length, 1e-5) for a in ((x, weight), (wide(x), w)))
            check(got, want, False)
            got = backend.rms_norm_backward(g, x, weight, got[1], length, 1e-5, True, True)
            check(
                got, backend.rms_norm_backward(wide(g), wide(x), w, want[1], length, 1e-5, True, True), True
            )

    shapes = [(4, 3), (3, 40, 5, 6), (2, 16, 40), (5, 3, 30, 30), (0, 4, 4), (300, 20, 1)]
    shapes += [(70, 41, 7, 7), (3, 90, 20, 20), (9, 3, 70, 70)]  # some channels at a time, one, all
    for shape in shapes:
        x, g = random(rng, shape, dtype), random(rng, shape, dtype)
        c = shape[1]
        for weight, bias in ((None, None), (random(rng, (c,), dtype), random(rng, (c,), np.float32))):
            w, b = wide(weight), wide(bias)
            got, want = (backend.batch_norm_forward(*a, 1e-5) for a in ((x, weight, bias), (wide(x), w, b)))
            assert same_bits(got[0], rounded(want[0], dtype)), shape
            for a, e in zip(got[1:], want[1:], strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-6)
            mean, var = (s.astype(np.float32) for s in want[1:])
            y = backend.batch_norm_inference(x, mean, var, weight, bias, 1e-5)
            assert same_bits(y, rounded(backend.batch_norm_inference(wide(x), mean, var, w, b, 1e-5), dtype))
            for training in (True, False):
                for needs in ((True, True, True), (False, True, False), (True, False, False)):
                    got = backend.batch_norm_backward(g, x, weight, *want[1:], 1e-5, training, *needs)
                    expected = backend.batch_norm_backward(
                        wide(g), wide(x), w, *want[1:], 1e-5, training, *needs
                    )
                    check(got, expected, True)

    table, g = random(rng, (30, 9), dtype), random(rng, (50, 9), dtype)
    index = rng.integers(0, 30, 50)
    assert same_bits(backend.embedding_forward(table, index), table[index])
    got, want = (backend.embedding_backward(v, index, None, None, 30, -1, True) for v in (g, wide(g)))
    assert same_bits(got, rounded(want, dtype))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_operations_give_what_pytorch_gives(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    data = [rng.uniform(0.5, 2, (6, 7)).astype(np.float32) for _ in range(2)]

    def results(lib, dtype):
        x, y = (lib.tensor(d).to(dtype).requires_grad_() for d in data)
        row = lib.tensor(data[0][0]).to(dtype).requires_grad_()
        parts = [
            *(
                x + y,
                x - y,
                x * y,
                x / y,
                x * 0.1,
                0.1 - x,
                x / 3,
                x + row,
                row * x,
                x / row,
                -x,
                x.exp(),
                x.sqrt(),
            ),
            *(
                x.sigmoid(),
                x.tanh(),
                x.relu(),
                x.clamp(0.7, 1.5),
                lib.where(x > 1, x, y),
                x.masked_fill(x < 1, 0.0),
            ),
            *(
                lib.maximum(x, y),
                x @ y.mT,
                lib.nn.functional.linear(x, y, row[:6]),
                x.square(),
                x**3,
                x.log(),
            ),
        ]
        sum([part.float().sum() for part in parts]).backward()
        compared = [
            (x > y),
            (x >= 1.1),
            (x == 1.1),
            x.floor(),
            x // y,
            x % y,
            x.add(y, alpha=0.3),
            x.lerp(y, 0.25),
        ]
        return [*parts, *compared, x.grad, y.grad, row.grad]

    ours, theirs = results(fastdl, getattr(fastdl, name)), results(torch, getattr(torch, name))
    step = 2.0**-10 if name == "float16" else 2.0**-7
    for i, (got, want) in enumerate(zip(ours, theirs, strict=True)):
        assert str(want.dtype).removeprefix("torch.") == str(got.dtype), i
        got, want = got.detach().float().numpy(), want.detach().float().numpy()
        # Gradients are sums of some thirty rounded terms of up to 8, in another order.
        limit = step * 16 if i >= len(ours) - 3 else step / 4
        np.testing.assert_allclose(got, want, rtol=step, atol=limit, err_msg=str(i))


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_norms_beyond_single_precision(level, dtype):
    """Rows whose squares are no floats, of zeros, with NaN and infinities."""
    backend = kernels.load(level)
    size = np.array([1e-4, 1, 1e3] if dtype == np.float16 else [1e-25, 1, 1e25])
    x = (np.random.default_rng(8).uniform(1, 2, (3, 700)) * size[:, None]).astype(dtype)
    x = np.concatenate([x, np.zeros((1, 700), dtype)])
    for y in (x, x[:2], x[1:3]):
        want = np.sqrt((y.astype(np.float64) ** 2).sum(1))
        np.testing.assert_allclose(wide(backend.norm_forward(y, 2, (1,))), want, rtol=2.0**-8)
    x[0, 3], x[1, 5] = np.nan, -np.inf
    assert np.isnan(wide(backend.norm_forward(x, 2, (1,)))[0])
    assert wide(backend.norm_forward(x, 2, (1,)))[1] == np.inf


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", HALVES, **names)
def test_glu(level, dtype):
    backend = kernels.load(level)
    rng = np.random.default_rng(12)
    for shape, dim in [((2,), 0), ((5, 34), 1), ((6, 700), 0), ((3, 4, 1100), 1), ((4, 2400), 1)]:
        x = random(rng, shape, dtype)
        y = backend.glu_forward(x, dim)
        assert same_bits(y, rounded(backend.glu_forward(wide(x), dim), dtype))
        want = rounded(backend.glu_backward(wide(y), wide(x), dim), dtype)
        assert same_bits(backend.glu_backward(y, x, dim), want)

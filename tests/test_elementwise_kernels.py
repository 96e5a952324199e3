"""Elementwise kernels against NumPy's definition on every level and on CUDA: integers, special values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastdl import kernels
from fastdl.kernels import reference
from parity import THREADS, assert_close, backends, load, thread_counts

BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "floor_divide",
    "remainder",
    "fmod",
    "pow",
    "maximum",
    "minimum",
    "atan2",
    "hypot",
]
COMPARE = ["eq", "ne", "lt", "le", "gt", "ge"]
UNARY = (
    "neg abs sign floor ceil round trunc square sqrt rsqrt reciprocal exp expm1 log log1p log2 log10 sin cos "
    "tan asin acos atan sinh cosh asinh acosh atanh erf"
).split()
FLAT = "neg sign floor ceil round trunc".split()  # their gradient needs no kernel
SAVES_OUTPUT = "sqrt rsqrt reciprocal exp expm1 tan".split()

# x and y shapes: equal, rows, columns, channels, outer products, scalars, none; lengths around the vector
# width.
SHAPES = [
    ((1,), (1,)),
    ((15,), (15,)),
    ((16,), (16,)),
    ((17,), (17,)),
    ((1031,), (1031,)),
    ((5, 7), (7,)),
    ((5, 300), (5, 1)),
    ((3, 4, 5, 6), (4, 1, 1)),
    ((6, 1), (1, 9)),
    ((), (4, 3)),
    ((2, 3), ()),
    ((), ()),
    ((2, 1, 40), (3, 1)),
    ((0, 3), (3,)),
    ((2, 1, 3), (1, 0, 3)),
    ((40000,), (40000,)),
]

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, -2.5, 1e-3, -1e-3, 100.0, -100.0, 1e30, -1e30]
SPECIAL += [1e-30, 88.8, -88.8, 720.0, -720.0, 1e6, -1e6, np.inf, -np.inf, np.nan]


def numbers(shape, dtype, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 3, dtype=dtype)


def domain(name, x):
    """Values for which the function is defined and moderate."""
    magnitude = np.abs(x) + x.dtype.type(0.1)
    if name in ("sqrt", "rsqrt", "log", "log2", "log10", "log1p", "reciprocal", "pow"):
        return magnitude
    if name in ("asin", "acos", "atanh"):
        return np.tanh(x) * x.dtype.type(0.9)
    if name == "acosh":
        return magnitude + 1
    if name == "tan":
        return np.tanh(x)
    return x


# ---------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_kernels(level, dtype):
    kernel = load(level)
    for name, (x_shape, y_shape) in itertools.product(BINARY, SHAPES):
        x, y = domain(name, numbers(x_shape, dtype)), numbers(y_shape, dtype, 1)
        want = getattr(reference, name + "_forward")(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
        got = getattr(kernel, name + "_forward")(x, y)
        assert got.dtype == dtype
        if name in ("floor_divide", "remainder", "fmod"):  # exact, but for quotients at an integer's edge
            want = getattr(reference, name + "_forward")(x, y)
        # pow to 10^4: the scale of the largest result would hide errors of the others.
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps, err_msg=name)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(level, dtype):
    """NaN, infinities, signed zeros and the ends of the domains: the same as NumPy."""
    kernel = load(level)
    x, y = [np.ravel(a) for a in np.meshgrid(np.array(SPECIAL, dtype), np.array(SPECIAL, dtype))]
    with np.errstate(all="ignore"):
        for name in BINARY:
            if name == "floor_divide":
                continue  # its huge quotients are rounded as torch does, not as NumPy (test below)
            want = getattr(reference, name + "_forward")(x, y)
            got = getattr(kernel, name + "_forward")(x, y)
            tiny = float(np.finfo(dtype).tiny)  # results below it may be flushed
            np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps, atol=tiny, err_msg=name)
            same = want == 0
            if name not in ("maximum", "minimum"):  # either zero may be the larger one
                np.testing.assert_array_equal(np.signbit(got[same]), np.signbit(want[same]), err_msg=name)
        for name in COMPARE:
            np.testing.assert_array_equal(
                getattr(kernel, name + "_forward")(x, y), getattr(reference, name + "_forward")(x, y)
            )
        x = np.array(SPECIAL, dtype)
        for name in UNARY:
            want = getattr(reference, name + "_forward")(x.astype(np.float64)).astype(dtype)
            got = getattr(kernel, name + "_forward")(x)
            tiny = float(np.finfo(dtype).tiny)  # results below it may be flushed
            np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps, atol=tiny, err_msg=name)
            same = (want == 0) & (x == 0)
            np.testing.assert_array_equal(np.signbit(got[same]), np.signbit(want[same]), err_msg=name)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unary_kernels(level, dtype):
    kernel = load(level)
    for name, size in itertools.product(UNARY, [0, 1, 7, 16, 33, 4000]):
        x = domain(name, numbers((size,), dtype))
        wide = x.astype(np.float64)
        got = getattr(kernel, name + "_forward")(x)
        want = getattr(reference, name + "_forward")(wide)
        # 5 ulp: simd/math.h promises 4 at most, and the reference is rounded once.
        np.testing.assert_allclose(got, want, rtol=5 * np.finfo(dtype).eps, atol=1e-300, err_msg=name)
        if name in FLAT:
            continue
        grad = numbers((size,), dtype, 2)
        saved = (want if name in SAVES_OUTPUT else wide).astype(dtype)
        slope = getattr(reference, name + "_backward")(grad.astype(np.float64), saved.astype(np.float64))
        mine = getattr(kernel, name + "_backward")(grad, saved)
        # 1 - x^2 and the like amplify roundings, by 1 / (1 - 0.9^2) at most here; y + 1 of expm1 by 1 / (y +
        # 1).
        if name == "expm1":
            mine, slope = mine[saved > -0.9], slope[saved > -0.9]
        np.testing.assert_allclose(
            mine, slope, rtol=40 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny, err_msg=name
        )


@pytest.mark.parametrize("level", backends())
def test_trigonometry_over_the_whole_range(level):
    """Small and huge arguments, beside multiples of pi/2, on both sides of the limit of the vector
    routine."""
    kernel = kernels.load(level)
    multiples = np.concatenate([np.arange(-300, 300), np.arange(300, 509000, 97)]) * (np.pi / 2)
    x = np.concatenate([multiples, np.logspace(-10, 30, 400), [799999.5, 800000.5]])
    for dtype in (np.float32, np.float64):
        values = x.astype(dtype)
        for name in ("sin", "cos", "tan"):
            want = getattr(np, name)(values.astype(np.float64))
            got = getattr(kernel, name + "_forward")(values)
            # In double near a multiple of pi/2 beyond 10^5: 1e-11 of the argument's reduction.
            rtol = 2 * np.finfo(dtype).eps
            np.testing.assert_allclose(
                got, want, rtol=rtol, atol=1e-11 if dtype == np.float64 else 0, err_msg=name
            )


def test_floor_division_is_exact():
    x = np.array([7, -7, 7, -7, 1, 0.3, -0.3, 1e8, 5, -5, 0.0, -0.0], np.float32)
    y = np.array([2, 2, -2, -2, 0.1, 0.1, 0.1, 3, 0, 0, 3, 3], np.float32)
    quotient = kernels.cpu.floor_divide_forward(x, y)
    exact = [3, -4, -4, 3, 9, 3, -4, 33333334, np.inf, -np.inf, 0, -0.0]
    np.testing.assert_array_equal(quotient, np.array(exact, np.float32))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(
        quotient, torch.floor_divide(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    )


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_with_other_operands(level, dtype):
    kernel = load(level)
    for x_shape, y_shape in SHAPES:
        x, y = numbers(x_shape, dtype), numbers(y_shape, dtype, 1)
        condition = np.asarray(numbers(np.broadcast_shapes(x_shape, y_shape), dtype, 2) > 0)
        grad = numbers(condition.shape, dtype, 3)
        calls = [
            ("where_forward", (condition, x, y)),
            ("where_forward", (condition, x, 0.5)),
            ("where_backward", (grad, condition)),
            ("mul_backward", (grad, x, y)),
            ("div_backward", (grad, x, y)),
            ("maximum_backward", (grad, np.asarray(np.rint(x)), np.asarray(np.rint(y)))),
            ("minimum_backward", (grad, np.asarray(np.rint(x)), np.asarray(np.rint(y)))),
            ("clamp_forward", (x, -1.0, 0.5)),
            ("clamp_backward", (numbers(x_shape, dtype, 4), x, -1.0, 0.5)),
            ("addcmul_forward", (x, y, grad, 0.3)),
            ("addcdiv_forward", (grad, x, y, 0.3)),
            ("lerp_forward", (x, y, grad)),
        ]
        calls += [
            ("pow_scalar_forward", (np.asarray(np.abs(x)), e)) for e in (0, 0.5, 1, 2, 3, -0.5, -1, -2, 2.5)
        ]
        calls += [
            ("pow_scalar_backward", (numbers(x_shape, dtype, 4), np.asarray(np.abs(x)), e))
            for e in (0, 0.5, 1, 2, 3, -1, 2.5)
        ]
        calls += [(name + "_forward", (x, y)) for name in COMPARE]
        calls += [("eq_forward", (np.asarray(np.rint(x)), 1.0)), ("lt_forward", (0.5, x))]
        for name, arguments in calls:
            got, want = getattr(kernel, name)(*arguments), getattr(reference, name)(*arguments)
            for g, w in zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]:
                assert g.dtype == w.dtype, name
                assert_close(g, w)


@pytest.mark.parametrize("level", backends())
def test_integers(level):
    kernel = load(level)
    big = np.array([2**63 - 1, -(2**63), 2**53 + 1, -1, 0, 7, 3, 2**53], np.int64)
    x = np.random.default_rng(3).integers(-5, 5, (3, 70))
    for a, b in (
        (big, big[::-1]),
        (x, x[:, ::-1]),
        (x, x[:1]),
        (x, x[:, :1]),
        (x, 3),
        (big, 2**53 + 1),
        (x[:, ::2], 0),
    ):
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(kernel.add_forward(a, b), a + b)
            np.testing.assert_array_equal(kernel.sub_forward(a, b), a - b)
            np.testing.assert_array_equal(kernel.mul_forward(a, b), a * b)
            np.testing.assert_array_equal(kernel.maximum_forward(a, b), np.maximum(a, b))
            np.testing.assert_array_equal(kernel.minimum_forward(a, b), np.minimum(a, b))
            # Division by zero is zero; the smallest number by -1 wraps.
            np.testing.assert_array_equal(kernel.floor_divide_forward(a, b), np.floor_divide(a, b))
            np.testing.assert_array_equal(kernel.remainder_forward(a, b), np.remainder(a, b))
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
            short = {"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt"}
            got = getattr(kernel, short.get(name, "ge") + "_forward")(a, b)
            np.testing.assert_array_equal(got, getattr(np, name)(a, b))
    with pytest.raises(TypeError, match=r"div: (x|input) must be"):
        kernel.div_forward(x, x)
    with pytest.raises(TypeError, match="y must be an array or a number"):
        kernel.add_forward(x, 2**64)


INTEGERS = ["int8", "uint8", "int16", "int32", "int64"]


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_width(level, dtype):
    """Ends of the range, -1, division by zero, shifts beyond the bits; lengths around a register; strides; numbers."""
    kernel = load(level)
    info = np.iinfo(dtype)
    rng = np.random.default_rng(7)
    names = "add sub mul maximum minimum floor_divide trunc_divide remainder fmod bitwise_and bitwise_or bitwise_xor"
    for n in (0, 1, 15, 16, 63, 64, 65, 700):
        x = rng.integers(info.min, info.max, 2 * n, dtype, endpoint=True)
        y = rng.integers(info.min, info.max, 2 * n, dtype, endpoint=True) >> rng.integers(0, 7, 2 * n).astype(
            dtype
        )
        x[:8] = np.array([info.min, info.max, 0, 1, info.min, 7, 6, info.max], dtype)[: 2 * n]
        y[:8] = np.array([-1, -1, 0, 0, info.max, -2, 3, info.min]).astype(dtype)[: 2 * n]
        shifts = rng.integers(0, 8 * x.itemsize + 3, 2 * n).astype(dtype)
        for a, b, s in ((x[:n], y[:n], shifts[:n]), (x[::2], y[1::2], shifts[::2]), (x, 3, 3), (x, y[:1], 0)):
            if isinstance(b, np.ndarray) and b.size == 1 and n == 0:
                continue
            with np.errstate(all="ignore"):
                for name in (*names.split(), "left_shift", "right_shift"):
                    other = s if name.endswith("shift") else b
                    got = getattr(kernel, name + "_forward")(a, other)
                    want = getattr(reference, name + "_forward")(a, other)
                    assert got.dtype == want.dtype == dtype, name
                    np.testing.assert_array_equal(got, want, err_msg=name)
                    over = a.copy()
                    if want.shape == over.shape:
                        assert getattr(kernel, name + "_forward")(over, other, over) is over
                        np.testing.assert_array_equal(over, want, err_msg=name)
            for name in COMPARE:
                want = getattr(reference, name + "_forward")(a, b)
                np.testing.assert_array_equal(getattr(kernel, name + "_forward")(a, b), want, err_msg=name)
            condition = np.broadcast_to(a > 3, np.broadcast_shapes(a.shape, np.shape(b)))
            want = reference.where_forward(condition, a, b)
            np.testing.assert_array_equal(kernel.where_forward(condition, a, b), want)
            np.testing.assert_array_equal(kernel.clamp_forward(a, 2, 50), a.clip(2, 50))
    long = np.arange(20 << 20, dtype=np.int64).astype(dtype)[(1 << 10) + 1 :]  # stored past the caches
    np.testing.assert_array_equal(kernel.add_forward(long, long), long + long)


@pytest.mark.parametrize("level", backends())
def test_selection_of_bools_and_refused_dtypes(level):
    kernel = load(level)
    x = np.random.default_rng(8).random(100) < 0.5
    np.testing.assert_array_equal(kernel.where_forward(x, ~x, x), np.where(x, ~x, x))
    with pytest.raises(TypeError, match="bitwise_left_shift: defined for integer arrays only"):
        kernel.left_shift_forward(np.ones(3), 1)
    with pytest.raises(TypeError, match="bitwise_and: input must be bool or an integer dtype"):
        kernel.bitwise_and_forward(np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="add: y must be"):
        kernel.add_forward(np.ones(3, np.int16), np.ones(3, np.int32))


def test_powers_of_negative_numbers():
    x = np.array([-2.0, -1.5, -1.0, -0.5, 3.0, 8.0] * 8, np.float32)
    for y in (0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 5.0, 7.0, 10.0, 2.5, -0.5, 1e9, 16777217.0, -16777216.0):
        exponents = np.full_like(x, y)
        with np.errstate(all="ignore"):
            want = np.power(x.astype(np.float64), exponents.astype(np.float64)).astype(np.float32)
        for level in backends():
            assert_close(load(level).pow_forward(x, exponents), want)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roots_and_logarithms_at_special_values(level, dtype):
    kernel = load(level)
    x = np.array([*SPECIAL, 4.0, 0.25] * 3, dtype)
    with np.errstate(all="ignore"):
        for exponent in (0.5, -0.5):
            got, want = kernel.pow_scalar_forward(x, exponent), np.power(x, np.full_like(x, exponent))
            np.testing.assert_allclose(got, want, rtol=2 * np.finfo(dtype).eps)
        for name, function in (("log2", np.log2), ("log10", np.log10)):
            got = getattr(kernel, name + "_forward")(x)
            np.testing.assert_allclose(got, function(x), rtol=2 * np.finfo(dtype).eps, atol=0)
    whole = np.arange(-30, 31 if dtype is np.float32 else 300)
    np.testing.assert_array_equal(kernel.log2_forward(np.ldexp(dtype(1), whole).astype(dtype)), whole)
    powers = np.arange(0, 11 if dtype is np.float32 else 23)  # those that are numbers of the dtype
    np.testing.assert_array_equal(kernel.log10_forward(10 ** powers.astype(dtype)), powers)


def test_other_byte_order_is_refused_by_kernels_and_computed_by_no_one_silently():
    x = np.arange(3, dtype=">f4")
    with pytest.raises(TypeError, match="native byte order"):
        kernels.cpu.add_forward(x, x)


@pytest.mark.parametrize("level", backends())
def test_threads_and_repetition_do_not_change_bits(level):
    kernel = kernels.load(level)
    x, y = numbers((300, 1000), np.float32), numbers((1000,), np.float32, 1)
    results = []
    for _ in thread_counts(kernel, (*THREADS, *THREADS)):
        results.append([kernel.mul_forward(x, y), kernel.sin_forward(x), kernel.exp_forward(x.T)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "name", ["add", "sub", "multiply", "multiply_conjugate", "divide", "scale", "shrink", "join"]
)
@pytest.mark.parametrize("level", backends())
def test_arithmetic_of_complex_numbers(level, name):
    backend, rng = load(level), np.random.default_rng(0)

    def numbers(*shape):
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), np.complex64)

    pairs = [
        (numbers(*s), numbers(*t)) for s, t in (((5,), (5,)), ((3, 1, 7), (4, 7)), ((0, 3), (3,)), ((), (2,)))
    ]
    pairs += [
        (numbers(40, 33).T, numbers(33, 40)),
        (numbers(6, 9)[::-1, ::2], numbers(5)),
        (numbers(9, 30_001),) * 2,
    ]
    kernel, definition = getattr(backend, f"complex_{name}"), getattr(reference, f"complex_{name}")
    for x, y in pairs:
        if name in ("scale", "shrink", "join"):
            y = y.real
        if name == "join":
            x = x.imag
        z = kernel(x, y)
        expected = definition(*[a.astype(np.result_type(a, np.float64)) for a in (x, y)])
        assert z.dtype == np.complex64
        assert z.shape == expected.shape
        np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
        out = np.zeros((*z.shape[:-1], 2 * z.shape[-1]), np.complex64)[..., ::2]
        assert kernel(x, y, out) is out
        np.testing.assert_allclose(out, z, rtol=1e-6, atol=1e-6)
        if name != "join" and x.shape == z.shape:  # in place
            own = x.copy()
            kernel(own, y, own)
            np.testing.assert_allclose(own, z, rtol=1e-6, atol=1e-6)
    with pytest.raises(TypeError, match=f"complex_{name}: y"):
        kernel(x, np.ones(2, np.float64))


@pytest.mark.parametrize("level", backends())
def test_quotients_of_complex_numbers_at_the_ends(level):
    kernel = load(level).complex_divide
    big, tiny, inf = np.float32(1e30), np.float32(1e-30), np.float32(np.inf)
    x = np.array([1 + 1j, big + big * 1j, tiny, 1 + 2j, 0, 1], np.complex64)
    y = np.array([0, big * 1j, tiny + tiny * 1j, complex(inf, 0), 0, complex(0, -inf)], np.complex64)
    z = kernel(x, y)
    np.testing.assert_allclose(z[[1, 2, 3, 5]], [1 - 1j, 0.5 - 0.5j, 0, 0], rtol=1e-6)
    assert z[0] == complex(inf, inf)
    assert np.isnan(z[4])


@pytest.mark.parametrize("level", backends())
def test_conjugates_and_rows_of_complex_numbers(level):
    backend, rng = load(level), np.random.default_rng(0)
    for shape in ((3, 4), (2, 5, 1), (1, 1), (0, 3), (2, 33, 65)):
        x = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
        for z in (x, x.swapaxes(-1, -2), x[..., ::-1, :]):
            np.testing.assert_array_equal(backend.complex_conjugate(z), z.conj())
            for conjugate in (False, True):
                rows = backend.complex_rows(z, conjugate)
                np.testing.assert_array_equal(rows, reference.complex_rows(z, conjugate))
                a = np.ones((2, z.shape[-2]), np.complex64) * (1 + 2j)
                product = np.matmul(a.view(np.float32), rows).view(np.complex64)
                np.testing.assert_allclose(product, a @ (z.conj() if conjugate else z), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        backend.complex_rows(x[0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", backends())
def test_the_sign_of_half_precision_is_a_bit(level, dtype):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16
    backend = load(level)
    x = np.array([1.5, -2, 0, -0.0, np.inf, -np.inf, np.nan, 1e-7] * 9, np.float32).astype(dtype)
    for a in (x, x[::2], x.reshape(8, 9).T):
        for name in ("neg", "abs"):
            y = getattr(backend, f"{name}_forward")(a)
            expected = getattr(np, {"neg": "negative", "abs": "absolute"}[name])(a.astype(np.float32))
            np.testing.assert_array_equal(y.astype(np.float32), expected)
            assert (np.signbit(y.astype(np.float32)) == np.signbit(expected))[~np.isnan(expected)].all()
            out = np.zeros_like(a)
            assert getattr(backend, f"{name}_forward")(a, out) is out
            np.testing.assert_array_equal(
                out.view(np.uint16), np.ascontiguousarray(y).view(np.uint16).reshape(a.shape)
            )

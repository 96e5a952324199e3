"""Elementwise operations: kernels against NumPy's definition on every level, operations against torch,
gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdl
from fastdl import kernels
from fastdl.kernels import reference
from fastdl.ops import elementwise as E
from fastdl.tensor import Tensor
from parity import THREADS, assert_close, backends, check_gradient, load

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
    x = np.concatenate([np.arange(-300, 300) * (np.pi / 2), np.logspace(-10, 30, 400), [799999.5, 800000.5]])
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
            ("div_backward", (grad, y, np.asarray(x / y, dtype))),
            ("maximum_backward", (grad, np.asarray(np.rint(x)), np.asarray(np.rint(y)))),
            ("minimum_backward", (grad, np.asarray(np.rint(x)), np.asarray(np.rint(y)))),
            ("clamp_forward", (x, -1.0, 0.5)),
            ("clamp_backward", (numbers(x_shape, dtype, 4), x, -1.0, 0.5)),
            ("addcmul_forward", (x, y, grad, 0.3)),
            ("addcdiv_forward", (grad, x, y, 0.3)),
            ("lerp_forward", (x, y, grad)),
        ]
        calls += [("pow_scalar_forward", (np.asarray(np.abs(x)), e)) for e in (0, 0.5, 1, 2, 3, -1, -2, 2.5)]
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
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
            short = {"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt"}
            got = getattr(kernel, short.get(name, "ge") + "_forward")(a, b)
            np.testing.assert_array_equal(got, getattr(np, name)(a, b))
    with pytest.raises(TypeError, match=r"div: (x|input) must be"):
        kernel.div_forward(x, x)
    with pytest.raises(TypeError, match="y must be an array or a number"):
        kernel.add_forward(x, 2**64)


def test_powers_of_negative_numbers():
    x = np.array([-2.0, -1.5, -1.0, -0.5, 3.0, 8.0] * 8, np.float32)
    for y in (0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 5.0, 7.0, 10.0, 2.5, -0.5, 1e9, 16777217.0, -16777216.0):
        exponents = np.full_like(x, y)
        with np.errstate(all="ignore"):
            want = np.power(x.astype(np.float64), exponents.astype(np.float64)).astype(np.float32)
        for level in backends():
            assert_close(load(level).pow_forward(x, exponents), want)


def test_other_byte_order_is_refused_by_kernels_and_computed_by_no_one_silently():
    x = np.arange(3, dtype=">f4")
    with pytest.raises(TypeError, match="native byte order"):
        kernels.cpu.add_forward(x, x)


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


@pytest.mark.parametrize("level", backends())
def test_threads_and_repetition_do_not_change_bits(level):
    kernel = kernels.load(level)
    before = kernel.num_threads()
    x, y = numbers((300, 1000), np.float32), numbers((1000,), np.float32, 1)
    results = []
    try:
        for threads in (*THREADS, *THREADS):
            kernel.set_num_threads(threads)
            results.append([kernel.mul_forward(x, y), kernel.sin_forward(x), kernel.exp_forward(x.T)])
    finally:
        kernel.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


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
    a, b = Tensor(x), Tensor(y)
    a.requires_grad = b.requires_grad = True
    z = E.mul(a, b)
    z.backward(Tensor(np.ones(z.shape, np.float32)))
    for tensor, other in ((a, y), (b, x)):
        full = np.broadcast_to(other, z.shape)
        lead = full.ndim - tensor.ndim
        axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(tensor.shape) if n == 1)
        assert_close(
            tensor.grad, full.sum(axes, dtype=np.float64).reshape(tensor.shape).astype(np.float32), full.size
        )


# ------------------------------------------------------------------------------------------------- operations


def compare_with_torch(torch, name, ours, theirs, arrays, differentiable=True):
    """Result, dtype, shape and gradients of ours(*tensors) and theirs(*tensors), or that both refuse."""
    mine, peers = [Tensor(a.copy()) for a in arrays], [torch.from_numpy(a.copy()) for a in arrays]
    for a, b in zip(mine, peers, strict=True):
        if a.dtype.kind == "f" and differentiable:
            a.requires_grad = b.requires_grad = True
    try:
        want = theirs(*peers)
    except (RuntimeError, TypeError, NotImplementedError):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            ours(*mine)
        return
    got = ours(*mine)
    expected = want.detach().numpy()
    label = f"{name} {[(a.dtype.name, a.shape) for a in arrays]}"
    assert got.dtype == expected.dtype, label
    assert got.shape == expected.shape, label
    np.testing.assert_allclose(got._data, expected, rtol=3e-6, atol=1e-6, err_msg=label)
    if not want.requires_grad:
        return
    grad = numbers(got.shape, expected.dtype, 9)
    got.backward(Tensor(grad))
    want.backward(torch.from_numpy(grad))
    for a, b in zip(mine, peers, strict=True):
        if b.grad is not None:
            assert a.grad.dtype == b.grad.numpy().dtype, label
            # Where float32 meets float64, torch sums in float32 what is summed in double here.
            assert_close(a.grad.numpy().astype(np.float32), b.grad.numpy(), reduction=grad.size)


def sample(shape, dtype, seed):
    x = numbers(shape, np.float64, seed)
    if dtype == "bool":
        return np.asarray(x > 0)
    if np.dtype(dtype).kind != "f":
        x = np.where(np.abs(x) < 1, 1, np.abs(x) if dtype == "uint8" else x)
    return np.asarray(x, dtype=dtype)


DTYPES = ["float32", "float64", "int64", "int32", "uint8", "bool"]
PAIRS = [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 4), ()), ((2, 1), (1, 3)), ((), ())]


@pytest.mark.parametrize(
    "name",
    "add sub mul div remainder fmod maximum minimum eq lt ge logical_and logical_xor bitwise_and "
    "bitwise_or".split(),
)
def test_binary_operations_as_torch(name):
    torch = pytest.importorskip("torch")
    for (x, y), a, b in itertools.product(PAIRS, DTYPES, DTYPES):
        # torch cannot differentiate maximum of float and bool (it negates the bool); nor can its fmod take
        # bools.
        both_float = a.startswith("f") and b.startswith("f")
        differentiable = both_float or name not in ("maximum", "minimum")
        arrays = [sample(x, a, 1), sample(y, b, 2)]
        compare_with_torch(torch, name, getattr(E, name), getattr(torch, name), arrays, differentiable)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "remainder", "fmod", "pow", "eq", "gt"])
def test_numbers_as_torch(name):
    torch = pytest.importorskip("torch")
    for dtype, number, shape in itertools.product(DTYPES, [2, -3, 2.5, 0.5, True], [(3, 4), ()]):
        if dtype == "uint8" and name in ("eq", "gt") and number == -3:
            continue  # torch wraps the number to 253; here it is compared as it is
        if (number is True or dtype == "bool") and name in ("pow", "remainder", "fmod"):
            continue
        x = sample(shape, dtype, 1)
        compare_with_torch(
            torch, name, lambda t: getattr(E, name)(t, number), lambda t: getattr(torch, name)(t, number), [x]
        )
    for dtype, number in itertools.product(DTYPES, [2, 2.5]):
        x = sample((3, 4), dtype, 1)
        compare_with_torch(torch, "rsub", lambda t: E.sub(number, t), lambda t: number - t, [x])
        compare_with_torch(torch, "rdiv", lambda t: E.div(number, t), lambda t: number / t, [x])
        if dtype.startswith("f"):
            compare_with_torch(torch, "rpow", lambda t: E.pow(number, t), lambda t: number**t, [x])


@pytest.mark.parametrize("name", UNARY)
def test_unary_operations_as_torch(name):
    torch = pytest.importorskip("torch")
    for dtype, shape in itertools.product(["float32", "float64", "int64", "uint8"], [(3, 17), (), (0, 2)]):
        x = sample(shape, dtype, 1)
        if dtype.startswith("f"):
            x = np.asarray(domain(name, x))
        compare_with_torch(torch, name, getattr(E, name), getattr(torch, name), [x])


def test_three_operands_as_torch():
    torch = pytest.importorskip("torch")
    x, y, z = numbers((3, 4), np.float32), numbers((4,), np.float32, 1), numbers((3, 1), np.float32, 2)
    z = np.where(np.abs(z) < 0.5, 1, z).astype(np.float32)
    for name in ("addcmul", "addcdiv"):
        compare_with_torch(
            torch,
            name,
            lambda *t, n=name: getattr(E, n)(*t, value=0.5),
            lambda *t, n=name: getattr(torch, n)(*t, value=0.5),
            [x, y, z],
        )
    compare_with_torch(
        torch, "lerp", E.lerp, torch.lerp, [x, numbers((3, 4), np.float32, 3), numbers((3, 4), np.float32, 4)]
    )
    compare_with_torch(
        torch, "lerp", lambda a, b: E.lerp(a, b, 0.3), lambda a, b: torch.lerp(a, b, 0.3), [x, x[::-1].copy()]
    )


def test_where_and_clamp_as_torch():
    torch = pytest.importorskip("torch")
    condition = sample((3, 4), "bool", 3)
    for (x, y), a, b in itertools.product(PAIRS[:3], DTYPES, DTYPES):
        compare_with_torch(
            torch, "where", E.where, torch.where, [condition, sample(x, a, 1), sample(y, b, 2)]
        )
    for dtype in DTYPES[:5]:
        x = sample((3, 4), dtype, 1)
        compare_with_torch(
            torch,
            "where",
            lambda c, t: E.where(c, t, 0.0),
            lambda c, t: torch.where(c, t, 0.0),
            [condition, x],
        )
        for low, high in [(-1, 1), (0.5, None), (None, 2), (3, 1)]:
            compare_with_torch(
                torch,
                "clamp",
                lambda t, a=low, b=high: E.clamp(t, a, b),
                lambda t, a=low, b=high: torch.clamp(t, a, b),
                [x],
            )
    x, low, high = (
        numbers((3, 7), np.float32),
        numbers((7,), np.float32, 1) - 2,
        numbers((3, 1), np.float32, 2) + 2,
    )
    compare_with_torch(torch, "clamp", E.clamp, torch.clamp, [x, low, high])


def test_rounding_modes_as_torch():
    torch = pytest.importorskip("torch")
    for mode, a, b in itertools.product(["floor", "trunc"], DTYPES[:5], DTYPES[:5]):
        arrays = [sample((40,), a, 1), sample((40,), b, 2)]
        compare_with_torch(
            torch,
            mode,
            lambda *t, m=mode: E.div(*t, rounding_mode=m),
            lambda *t, m=mode: torch.div(*t, rounding_mode=m),
            arrays,
        )


@pytest.mark.parametrize("name", UNARY)
def test_unary_gradients(name):
    if name in (
        "sign",
        "floor",
        "ceil",
        "round",
        "trunc",
    ):  # flat: numeric and analytic are both 0 away from jumps
        check_gradient(getattr(E, name), numbers((5,), np.float64) + 0.01)
    else:
        check_gradient(getattr(E, name), domain(name, numbers((3, 5), np.float64)))


@pytest.mark.parametrize(
    "name", ["add", "sub", "mul", "div", "pow", "maximum", "minimum", "atan2", "hypot", "fmod", "remainder"]
)
@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 3, 4), (3, 1)), ((3, 1), (1, 4)), ((), (5,))]
)
def test_binary_gradients(name, shapes):
    x, y = numbers(shapes[0], np.float64), numbers(shapes[1], np.float64, 1)
    x = np.abs(x) + 0.5
    y = np.where(np.abs(y) < 0.5, 1.0, y)
    check_gradient(getattr(E, name), x, np.asarray(y))
    check_gradient(lambda t: getattr(E, name)(t, 1.7), x)
    if name not in ("maximum", "minimum"):
        check_gradient(lambda t: getattr(E, name)(1.7, t), x)


def test_ternary_gradients():
    x, y, z = numbers((3, 4), np.float64), numbers((4,), np.float64, 1), numbers((3, 1), np.float64, 2) + 9
    check_gradient(lambda *t: E.addcmul(*t, value=0.7), x, y, z)
    check_gradient(lambda *t: E.addcdiv(*t, value=0.7), x, y, z)
    check_gradient(E.lerp, x, y, z)
    condition = Tensor(x > 0)
    check_gradient(lambda a, b: E.where(condition, a, b), x, y)
    check_gradient(lambda a: E.where(condition, a, 2.0), x)
    check_gradient(lambda b: E.where(condition, 2.0, b), y)
    check_gradient(lambda t: E.clamp(t, -1.0, 1.0), x)


def test_reference_backend_gives_the_same():
    x, y = numbers((4, 5), np.float32), np.abs(numbers((5,), np.float32, 1)) + 1
    results = []
    for backend in ("cpu", "reference"):
        with fastdl.use_backend(backend):
            a, b = Tensor(x), Tensor(y)
            a.requires_grad = b.requires_grad = True
            z = E.div(E.exp(E.mul(a, 0.1)), E.add(b, a))
            z.backward(Tensor(np.ones(z.shape, np.float32)))
            results.append((z.detach().numpy(), a.grad.numpy(), b.grad.numpy()))
    for mine, plain in zip(*results, strict=True):
        assert_close(mine, plain, reduction=4)


def test_one_tensor_on_both_sides():
    x = Tensor(np.array([1.0, -2.0, 3.0]))
    x.requires_grad = True
    E.mul(x, x).backward(Tensor(np.ones(3)))
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, -4.0, 6.0])
    y = Tensor(np.array([1.0, -2.0]))
    y.requires_grad = True
    E.sub(y, y).backward(Tensor(np.ones(2)))
    np.testing.assert_array_equal(y.grad.numpy(), [0.0, 0.0])


def test_only_what_is_needed_is_kept():
    """x * 2 keeps nothing, so changing x afterwards is allowed; x * y keeps the other factor."""
    x, y = Tensor(np.ones(3)), Tensor(np.full(3, 2.0))
    x.requires_grad = True
    z = E.mul(x, 2.0)
    x._bump_version()
    z.backward(Tensor(np.ones(3)))
    np.testing.assert_array_equal(x.grad.numpy(), [2.0] * 3)
    z = E.mul(x, y)
    y._data[0] = 5
    y._bump_version()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward(Tensor(np.ones(3)))


# --------------------------------------------------------------------------------------------------- messages


def test_messages():
    x = Tensor(np.ones((3, 4), np.float32))
    with pytest.raises(
        ValueError, match=r"add: shapes \(3, 4\) and \(3,\) do not broadcast: axis -1 has 4 and 3"
    ):
        E.add(x, Tensor(np.ones(3, np.float32)))
    with pytest.raises(
        ValueError, match=r"mul: shapes \(3, 4\) and \(2, 1\) do not broadcast: axis -2 has 3 and 2"
    ):
        E.mul(x, Tensor(np.ones((2, 1), np.int64)))
    with pytest.raises(TypeError, match="add: other must be a Tensor or a number, got list"):
        E.add(x, [1, 2])
    with pytest.raises(TypeError, match="mul: input must be a Tensor, got int"):
        E.mul(1, 2.0)
    with pytest.raises(ValueError, match="rounding_mode must be None, 'floor' or 'trunc', got 'up'"):
        E.div(x, 2, rounding_mode="up")
    with pytest.raises(ValueError, match="clamp: at least one of min and max"):
        E.clamp(x)
    with pytest.raises(TypeError, match="where: condition must be a Tensor, got bool"):
        E.where(True, x, x)
    with pytest.raises(RuntimeError, match="where: condition must be a bool tensor, got float32"):
        E.where(x, x, x)
    with pytest.raises(RuntimeError, match="sub: bool tensors cannot be subtracted"):
        E.sub(Tensor(np.ones(2, bool)), Tensor(np.ones(2, bool)))
    with pytest.raises(RuntimeError, match="floor_divide: division by zero"):
        E.floor_divide(Tensor(np.array([1, 2])), 0)
    with pytest.raises(RuntimeError, match="pow: integers to negative integer powers"):
        E.pow(Tensor(np.array([1, 2])), -1)
    with pytest.raises(RuntimeError, match="for integer tensors alpha must be an integer"):
        E.add(Tensor(np.array([1])), Tensor(np.array([1])), alpha=0.5)
    with pytest.raises(RuntimeError, match="bitwise_and: defined for integer and bool tensors, got float32"):
        E.bitwise_and(x, x)
    with pytest.raises(TypeError, match="exp: input must be a Tensor, got float"):
        E.exp(1.0)
    with pytest.raises(RuntimeError, match="add: the result has dtype float32 and cannot be stored in place"):
        E.add(Tensor(np.array([1])), 0.5, out=Tensor(np.array([1])))
    with pytest.raises(ValueError, match=r"add: the result has shape \(3, 4\), but out has shape \(4,\)"):
        E.add(x, 1.0, out=Tensor(np.ones(4, np.float32)))


def test_out():
    x, out = Tensor(np.arange(3.0)), Tensor(np.zeros(3))
    version = out._version_cell()[0]
    assert E.add(x, 1.0, out=out) is out
    np.testing.assert_array_equal(out.numpy(), [1.0, 2.0, 3.0])
    assert out._version_cell()[0] == version + 1
    E.exp(x, out=out)
    assert_close(out, np.exp(np.arange(3.0)))
    x.requires_grad = True
    with pytest.raises(RuntimeError, match="out=: cannot be differentiated"):
        E.add(x, 1.0, out=out)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, out: E.clamp(x, -0.5, 0.5, out=out),
        lambda x, y, out: E.clamp(x, y, out=out),
        lambda x, y, out: E.addcmul(x, y, y, value=2, out=out),
        lambda x, y, out: E.addcdiv(x, y, y, value=2, out=out),
        lambda x, y, out: E.lerp(x, y, 0.25, out=out),
        lambda x, y, out: E.lerp(x, y, y, out=out),
        lambda x, y, out: E.round(x, decimals=1, out=out),
        lambda x, y, out: E.round(x * 100, decimals=-1, out=out),
    ],
)
def test_out_of_three_operands(function):
    rng = np.random.default_rng(3)
    x, y = (Tensor(rng.standard_normal((3, 4))) for _ in range(2))
    want = function(x, y, None).numpy()
    for out in (Tensor(np.zeros((3, 4))), fastdl.empty(0, dtype=fastdl.float64)):
        version = out._version_cell()[0]
        assert function(x, y, out) is out
        np.testing.assert_array_equal(out.numpy(), want)
        assert out._version_cell()[0] > version
    with pytest.raises(ValueError, match="but out has shape"):
        function(x, y, Tensor(np.zeros(5)))
    assert function(x, y, x) is x  # the result over an operand
    np.testing.assert_array_equal(x.numpy(), want)
    with pytest.raises(RuntimeError, match="out=: cannot be differentiated"):
        function(x.clone().requires_grad_(), y, Tensor(np.zeros((3, 4))))


def test_in_place_division_reads_before_it_writes():
    x = np.array([7, -7, 8, -8, 0, -1])
    y = np.array([2, 2, -3, 3, 5, -1])
    for mode in ("trunc", "floor", None):
        got = Tensor(x.copy() if mode else x.astype(np.float64))
        want = E.div(got, Tensor(y), rounding_mode=mode).numpy()
        got.div_(Tensor(y), rounding_mode=mode)
        np.testing.assert_array_equal(got.numpy(), want)
    z = Tensor(np.array([1.26, -2.34]))
    np.testing.assert_allclose(z.round_(decimals=1).numpy(), [1.3, -2.3], rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["fmax", "fmin", "logaddexp", "logaddexp2", "heaviside", "gcd", "lcm", "nextafter", "isclose"]
)
def test_two_tensors_are_asked_for(name):
    x = Tensor(np.array([1, 2]) if name in ("gcd", "lcm") else np.ones(2))
    function = getattr(fastdl, name)
    function(x, x)
    with pytest.raises(TypeError, match="must be a Tensor, got int"):
        function(x, 2)
    for call in (lambda: fastdl.clamp(2, 3), lambda: fastdl.copysign(2, 3), lambda: fastdl.xlogy(2, 3)):
        with pytest.raises(TypeError, match="input must be a Tensor, got int"):
            call()
    with pytest.raises(TypeError, match="gelu: input must be a Tensor, got list"):
        fastdl.nn.functional.gelu([1.0])
    for tolerance in ({"rtol": -1.0}, {"atol": -1.0}):
        with pytest.raises(RuntimeError, match="must not be negative"):
            fastdl.isclose(Tensor(np.ones(2)), Tensor(np.ones(2)), **tolerance)

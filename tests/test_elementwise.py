"""Elementwise operations: kernels against NumPy's definition on every level, operations against torch,
gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import fastdl
from fastdl.ops import elementwise as E
from parity import assert_close, check_gradient
from test_elementwise_kernels import UNARY, domain, numbers

# ------------------------------------------------------------------------------------------------- operations


def compare_with_torch(torch, name, ours, theirs, arrays, differentiable=True):
    """Result, dtype, shape and gradients of ours(*tensors) and theirs(*tensors), or that both refuse."""
    mine, peers = [fastdl.from_numpy(a.copy()) for a in arrays], [torch.from_numpy(a.copy()) for a in arrays]
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
    got.backward(fastdl.from_numpy(grad))
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


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_of_any_size_as_torch(name, dtype):
    """Many are computed by the kernels in float32, few by NumPy: rounded once either way."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for shape, other in (((3, 4), (3, 4)), ((60, 70), (60, 70)), ((60, 70), (70,)), ((60, 1), (70,))):
        x = (rng.standard_normal(shape) * 100).astype(np.float32)
        y = (rng.standard_normal(other) * 100).astype(np.float32)
        x.flat[0], y.flat[-1] = np.nan, np.inf

        def call(lib, x=x, y=y):
            a, b = (lib.from_numpy(v).to(getattr(lib, dtype)) for v in (x, y))
            results = [getattr(lib, name)(a, b), getattr(lib, name)(b, a)]
            if name not in ("maximum", "minimum"):
                results += [getattr(lib, name)(a, 3), getattr(lib, name)(a, 0.5)]
            assert all(r.dtype is getattr(lib, dtype) for r in results)
            return [r.float().numpy() for r in results]

        for ours, theirs in zip(call(fastdl), call(torch), strict=True):
            np.testing.assert_array_equal(ours, theirs)


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


def test_where_refuses_numbers_that_do_not_fit():
    condition = fastdl.tensor([True, False])
    for x, y in ((1.5, 1e300), (1e300, 1.5), (fastdl.ones(2), 1e300), (1e300, fastdl.ones(2))):
        with pytest.raises(RuntimeError, match="without overflow"):
            fastdl.where(condition, x, y)
    assert fastdl.where(condition, 1.5, float("inf")).tolist() == [1.5, float("inf")]


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
    for x, y in [(1.0, 0.0), (1, 0), (0.0, -math.inf), (1, 0.5), (True, False), (2, True), (1.0, False)]:
        compare_with_torch(
            torch,
            "where",
            lambda c, x=x, y=y: E.where(c, x, y),
            lambda c, x=x, y=y: torch.where(c, x, y),
            [condition],
        )
    for dtype in DTYPES[:5]:
        x = sample((3, 4), dtype, 1)
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
    condition = fastdl.from_numpy(x > 0)
    check_gradient(lambda a, b: E.where(condition, a, b), x, y)
    check_gradient(lambda a: E.where(condition, a, 2.0), x)
    check_gradient(lambda b: E.where(condition, 2.0, b), y)
    check_gradient(lambda t: E.clamp(t, -1.0, 1.0), x)


def test_reference_backend_gives_the_same():
    x, y = numbers((4, 5), np.float32), np.abs(numbers((5,), np.float32, 1)) + 1
    results = []
    for backend in ("cpu", "reference"):
        with fastdl.use_backend(backend):
            a, b = fastdl.from_numpy(x), fastdl.from_numpy(y)
            a.requires_grad = b.requires_grad = True
            z = E.div(E.exp(E.mul(a, 0.1)), E.add(b, a))
            z.backward(fastdl.from_numpy(np.ones(z.shape, np.float32)))
            results.append((z.detach().numpy(), a.grad.numpy(), b.grad.numpy()))
    for mine, plain in zip(*results, strict=True):
        assert_close(mine, plain, reduction=4)


def test_one_tensor_on_both_sides():
    x = fastdl.from_numpy(np.array([1.0, -2.0, 3.0]))
    x.requires_grad = True
    E.mul(x, x).backward(fastdl.from_numpy(np.ones(3)))
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, -4.0, 6.0])
    y = fastdl.from_numpy(np.array([1.0, -2.0]))
    y.requires_grad = True
    E.sub(y, y).backward(fastdl.from_numpy(np.ones(2)))
    np.testing.assert_array_equal(y.grad.numpy(), [0.0, 0.0])


def test_only_what_is_needed_is_kept():
    """x * 2 keeps nothing, so changing x afterwards is allowed; x * y keeps the other factor."""
    x, y = fastdl.from_numpy(np.ones(3)), fastdl.from_numpy(np.full(3, 2.0))
    x.requires_grad = True
    z = E.mul(x, 2.0)
    x._bump_version()
    z.backward(fastdl.from_numpy(np.ones(3)))
    np.testing.assert_array_equal(x.grad.numpy(), [2.0] * 3)
    z = E.mul(x, y)
    y._data[0] = 5
    y._bump_version()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward(fastdl.from_numpy(np.ones(3)))


# --------------------------------------------------------------------------------------------------- messages


def test_messages():
    x = fastdl.from_numpy(np.ones((3, 4), np.float32))
    with pytest.raises(
        ValueError, match=r"add: shapes \(3, 4\) and \(3,\) do not broadcast: axis -1 has 4 and 3"
    ):
        E.add(x, fastdl.from_numpy(np.ones(3, np.float32)))
    with pytest.raises(
        ValueError, match=r"mul: shapes \(3, 4\) and \(2, 1\) do not broadcast: axis -2 has 3 and 2"
    ):
        E.mul(x, fastdl.from_numpy(np.ones((2, 1), np.int64)))
    with pytest.raises(TypeError, match="add: other must be a Tensor or a number, got list"):
        E.add(x, [1, 2])
    with pytest.raises(TypeError, match="mul: input must be a Tensor, got list"):
        E.mul([1], 2.0)
    with pytest.raises(ValueError, match="rounding_mode must be None, 'floor' or 'trunc', got 'up'"):
        E.div(x, 2, rounding_mode="up")
    with pytest.raises(ValueError, match="clamp: at least one of min and max"):
        E.clamp(x)
    with pytest.raises(TypeError, match="where: condition must be a Tensor, got bool"):
        E.where(True, x, x)
    with pytest.raises(RuntimeError, match="where: condition must be a bool tensor, got float32"):
        E.where(x, x, x)
    with pytest.raises(RuntimeError, match="sub: bool tensors cannot be subtracted"):
        E.sub(fastdl.from_numpy(np.ones(2, bool)), fastdl.from_numpy(np.ones(2, bool)))
    with pytest.raises(RuntimeError, match="floor_divide: division by zero"):
        E.floor_divide(fastdl.from_numpy(np.array([1, 2])), 0)
    with pytest.raises(RuntimeError, match="pow: integers to negative integer powers"):
        E.pow(fastdl.from_numpy(np.array([1, 2])), -1)
    with pytest.raises(RuntimeError, match="for integer tensors alpha must be an integer"):
        E.add(fastdl.from_numpy(np.array([1])), fastdl.from_numpy(np.array([1])), alpha=0.5)
    with pytest.raises(RuntimeError, match="bitwise_and: defined for integer and bool tensors, got float32"):
        E.bitwise_and(x, x)
    with pytest.raises(TypeError, match="exp: input must be a Tensor, got float"):
        E.exp(1.0)
    with pytest.raises(RuntimeError, match="add: the result has dtype float32 and cannot be stored in place"):
        E.add(fastdl.from_numpy(np.array([1])), 0.5, out=fastdl.from_numpy(np.array([1])))
    with pytest.raises(ValueError, match=r"add: the result has shape \(3, 4\), but out has shape \(4,\)"):
        E.add(x, 1.0, out=fastdl.from_numpy(np.ones(4, np.float32)))


def test_out():
    x, out = fastdl.from_numpy(np.arange(3.0)), fastdl.from_numpy(np.zeros(3))
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
    x, y = (fastdl.from_numpy(rng.standard_normal((3, 4))) for _ in range(2))
    want = function(x, y, None).numpy()
    for out in (fastdl.from_numpy(np.zeros((3, 4))), fastdl.empty(0, dtype=fastdl.float64)):
        version = out._version_cell()[0]
        assert function(x, y, out) is out
        np.testing.assert_array_equal(out.numpy(), want)
        assert out._version_cell()[0] > version
    with pytest.raises(ValueError, match="but out has shape"):
        function(x, y, fastdl.from_numpy(np.zeros(5)))
    assert function(x, y, x) is x  # the result over an operand
    np.testing.assert_array_equal(x.numpy(), want)
    with pytest.raises(RuntimeError, match="out=: cannot be differentiated"):
        function(x.clone().requires_grad_(), y, fastdl.from_numpy(np.zeros((3, 4))))


def test_in_place_division_reads_before_it_writes():
    x = np.array([7, -7, 8, -8, 0, -1])
    y = np.array([2, 2, -3, 3, 5, -1])
    for mode in ("trunc", "floor", None):
        got = fastdl.from_numpy(x.copy() if mode else x.astype(np.float64))
        want = E.div(got, fastdl.from_numpy(y), rounding_mode=mode).numpy()
        got.div_(fastdl.from_numpy(y), rounding_mode=mode)
        np.testing.assert_array_equal(got.numpy(), want)
    z = fastdl.from_numpy(np.array([1.26, -2.34]))
    np.testing.assert_allclose(z.round_(decimals=1).numpy(), [1.3, -2.3], rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["fmax", "fmin", "logaddexp", "logaddexp2", "heaviside", "gcd", "lcm", "nextafter", "isclose"]
)
def test_two_tensors_are_asked_for(name):
    x = fastdl.from_numpy(np.array([1, 2]) if name in ("gcd", "lcm") else np.ones(2))
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
            fastdl.isclose(fastdl.from_numpy(np.ones(2)), fastdl.from_numpy(np.ones(2)), **tolerance)


def test_equal_of_large_tensors_looks_at_all():
    x = np.arange(60_000, dtype=np.float32).reshape(1, 300, 200)
    for place in (0, 2047, 2048, 30_000, 59_999):
        other = x.copy()
        other.reshape(-1)[place] += 1
        assert not fastdl.equal(fastdl.from_numpy(x), fastdl.from_numpy(other))
    assert fastdl.equal(fastdl.from_numpy(x), fastdl.from_numpy(x.copy()))
    assert not fastdl.equal(fastdl.full((9000,), float("nan")), fastdl.full((9000,), float("nan")))


def test_isclose_of_infinities_and_nan():
    torch = pytest.importorskip("torch")
    values = [0.0, -0.0, 1.0, 1.00001, 1e-9, -1.0, float("inf"), -float("inf"), float("nan")]
    x, y = [np.array(a, np.float32) for a in zip(*[(a, b) for a in values for b in values], strict=True)]
    for equal_nan in (False, True):
        ours = fastdl.isclose(fastdl.from_numpy(x), fastdl.from_numpy(y), equal_nan=equal_nan)
        theirs = torch.isclose(torch.from_numpy(x), torch.from_numpy(y), equal_nan=equal_nan)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_conversion_of_rows_that_lie_apart():
    x = np.arange(3 * 100 * 80, dtype=np.float32).reshape(3, 100, 80)
    for view in (x[:, ::2], np.broadcast_to(x[:1], x.shape), x[:, :, 3:70], x.transpose(0, 2, 1)):
        for dtype in (np.float16, np.float64, np.int64):
            ours = fastdl.from_numpy(x).as_strided(
                view.shape, [s // 4 for s in view.strides], (view.ctypes.data - x.ctypes.data) // 4
            )
            np.testing.assert_array_equal(
                ours.to(getattr(fastdl, np.dtype(dtype).name)).numpy(), view.astype(dtype)
            )


def test_addition_with_alpha_in_half_precision_rounds_once():
    x = np.linspace(-3, 3, 100, dtype=np.float16)
    ours = fastdl.from_numpy(x)
    exact = x.astype(np.float64) + float(np.float16(0.3)) * x[::-1].astype(np.float64)
    np.testing.assert_array_equal(fastdl.add(ours, ours.flip(0), alpha=0.3).numpy(), exact.astype(np.float16))
    ours.add_(ours.flip(0), alpha=0.3)
    np.testing.assert_array_equal(ours.numpy(), exact.astype(np.float16))

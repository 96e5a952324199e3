"""Activation functions: kernels against their definitions on every level, the rest against torch."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import kernels, nn
from fastdl.kernels import reference
from parity import DTYPES, assert_close, backends, check_gradient, load, thread_counts

# Kernel parameters to try: the defaults and something else.
PARAMETERS = {
    "relu": [()],
    "leaky_relu": [(0.01,), (-0.5,)],
    "sigmoid": [()],
    "tanh": [()],
    "gelu": [()],
    "gelu_tanh": [()],
    "silu": [()],
    "mish": [()],
    "elu": [(1.0, 1.0, 1.0), (0.7, 1.3, 0.5), (-0.5, 1.0, 1.0)],
    "softplus": [(1.0, 20.0), (2.0, 1.0)],
    "hardtanh": [(-1.0, 1.0), (0.0, 6.0)],
    "hardsigmoid": [()],
    "hardswish": [()],
    "hardshrink": [(0.5,), (0.0,)],
    "softshrink": [(0.5,), (0.0,)],
    "tanhshrink": [()],
    "softsign": [()],
    "logsigmoid": [()],
    "threshold": [(0.1, 20.0), (-1.0, 0.0)],
}
READS_OUTPUT = ("relu", "sigmoid", "tanh")
CASES = [(name, p) for name, all_p in PARAMETERS.items() for p in all_p]
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1000)


def points(n: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Normal numbers, with kinks and large values among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * rng.choice([0.1, 1, 5, 30], n)
    kinks = rng.choice([0.0, -0.0, 1, -1, 3, -3, 6, 0.5, -0.5, 100, -100, 1e4, -1e4], n)
    return np.where(rng.random(n) < 0.2, kinks, x).astype(dtype)


def check(module, name, parameters, x, grad_y):
    wide = x.astype(np.float64)
    y = getattr(module, f"{name}_forward")(x, *parameters)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    # Parameters reach a float32 kernel as float32: so do the definition's.
    exact = [float(x.dtype.type(p)) for p in parameters]
    want = getattr(reference, f"{name}_forward")(wide, *exact)
    np.testing.assert_allclose(y, want, rtol=16 * np.finfo(x.dtype).eps, atol=16 * np.finfo(x.dtype).eps)
    saved = y if name in READS_OUTPUT else x
    grad_x = getattr(module, f"{name}_backward")(grad_y, saved, *parameters)
    assert grad_x.dtype == x.dtype
    assert grad_x.shape == x.shape
    want = getattr(reference, f"{name}_backward")(grad_y.astype(np.float64), saved.astype(np.float64), *exact)
    # 1 - y^2, 1 + x (1 - s) and their like cancel: the error is a few eps of the terms, not of the result.
    terms = np.abs(grad_y.astype(np.float64)) * np.maximum(1, np.abs(saved.astype(np.float64)))
    assert np.all(np.abs(grad_x - want) <= 16 * np.finfo(x.dtype).eps * terms)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_parity(name, parameters, dtype, level):
    module = load(level)
    for n in LENGTHS:
        check(module, name, parameters, points(n, dtype), points(n, dtype, 1))
    x, g = points(24 * 10, dtype).reshape(24, 10), points(24 * 10, dtype, 1).reshape(24, 10)
    check(module, name, parameters, x.T, g.T)
    check(module, name, parameters, x[::2, ::-3], g[::2, ::-3])
    check(module, name, parameters, x[0, 0:1].reshape(()), g[0, 0:1].reshape(()))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", [*DTYPES, np.float16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("name", PARAMETERS)
def test_results_into_given_memory(name, dtype, level):
    forward, parameters = getattr(load(level), f"{name}_forward"), PARAMETERS[name][-1]
    for n in (0, 1, 7, 64, 129, 1000):
        x = points(n, dtype)
        want = forward(x, *parameters)
        out = np.full_like(x, 7)
        assert forward(x, *parameters, out=out) is out
        np.testing.assert_array_equal(out, want)
        assert forward(x, *parameters, x) is x  # what is read is written over
        np.testing.assert_array_equal(x, want)
    x, out = points(240, dtype).reshape(24, 10), np.empty((10, 24), dtype)
    forward(x.T, *parameters, out)
    np.testing.assert_array_equal(out, forward(np.ascontiguousarray(x.T), *parameters))


@pytest.mark.parametrize("level", backends())
def test_memory_of_results_is_checked(level):
    forward = kernels.load(level).silu_forward
    x = points(100, np.float32)
    want = forward(x[:-1])
    np.testing.assert_array_equal(forward(x[:-1], x[1:]), want)  # it overlaps: x is copied before
    rows, locked = np.zeros((4, 6), np.float32), np.zeros(6, np.float32)
    locked.flags.writeable = False
    for x, out in (
        (rows, rows[:3]),
        (rows[:, 0], rows[:, 1]),
        (locked, locked),
        (rows, np.zeros((4, 6))),
        (rows, np.zeros((4, 6), ">f4")),
    ):
        with pytest.raises(ValueError, match=r"silu_forward: out must be writable, in C order, of shape \("):
            forward(x, out=out)
    with pytest.raises(TypeError):
        forward(rows, out=3)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", ["relu", "gelu", "mish", "softplus"])
def test_threads_and_streaming_stores(name, level):
    """Many threads, and results so large that they bypass the caches: the same bits as in small pieces."""
    module = kernels.load(level)
    parameters = PARAMETERS[name][0]
    x = np.resize(points(100_003, np.float32), 4_400_001)
    grad_y = x[::-1].copy()
    forward, backward = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    y, grad_x = forward(x, *parameters), backward(grad_y, x, *parameters)
    for start in range(0, x.size, 1_000_000):
        part = slice(start, start + 1_000_000)
        np.testing.assert_array_equal(forward(x[part], *parameters), y[part])
        np.testing.assert_array_equal(backward(grad_y[part], x[part], *parameters), grad_x[part])
    for _ in thread_counts(module):
        np.testing.assert_array_equal(forward(x, *parameters), y)
        np.testing.assert_array_equal(backward(grad_y, x, *parameters), grad_x)
    forward(x, *parameters, x)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETERS)
def test_nan_stays_nan(name, dtype, level):
    x = np.full(19, np.nan, dtype)
    assert np.isnan(getattr(load(level), f"{name}_forward")(x, *PARAMETERS[name][0])).all()


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", PARAMETERS)
def test_kernel_errors(name, level):
    module = kernels.load(level)
    parameters = PARAMETERS[name][0]
    with pytest.raises(TypeError, match="float32 or float64"):
        getattr(module, f"{name}_forward")(np.zeros(3, np.int64), *parameters)
    with pytest.raises(TypeError, match="byte order"):
        getattr(module, f"{name}_forward")(np.zeros(3, ">f4"), *parameters)
    with pytest.raises(TypeError, match="grad_y must be float32"):
        getattr(module, f"{name}_backward")(np.zeros(3), np.zeros(3, np.float32), *parameters)
    with pytest.raises(ValueError, match="differ in size"):
        getattr(module, f"{name}_backward")(np.zeros(3), np.zeros(4), *parameters)


PRELU_SHAPES = [
    (5,),
    (3, 1),
    (7, 33),
    (2, 3, 5),
    (4, 16, 9),
    (2, 5, 3, 7),
    (1, 2, 20_001),
    (300, 40),
    (0, 3, 2),
    (2, 3, 0),
]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PRELU_SHAPES)
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(shape, shared, dtype, level):
    module = load(level)
    channels = 1 if shared or len(shape) < 2 else shape[1]
    x, g = (points(int(np.prod(shape)), dtype, seed).reshape(shape).clip(-50, 50) for seed in (0, 1))
    weight = np.random.default_rng(2).standard_normal(channels).astype(dtype)
    wide = [a.astype(np.float64) for a in (g, x, weight)]
    assert_close(module.prelu_forward(x, weight), reference.prelu_forward(*wide[1:]))
    grad_x, grad_weight = module.prelu_backward(g, x, weight)
    want_x, want_weight = reference.prelu_backward(*wide)
    assert_close(grad_x, want_x)
    assert_close(grad_weight, want_weight, reduction=max(1, x.size // channels))
    only_x, none = module.prelu_backward(g, x, weight, need_x=True, need_weight=False)
    np.testing.assert_array_equal(only_x, grad_x)
    assert none is None
    none, only_weight = module.prelu_backward(g, x, weight, need_x=False, need_weight=True)
    np.testing.assert_array_equal(only_weight, grad_weight)
    assert none is None
    for _ in thread_counts(module):
        np.testing.assert_array_equal(module.prelu_backward(g, x, weight)[1], grad_weight)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "dim"), [((2,), 0), ((3, 34), 1), ((4, 3), 0), ((2, 6, 5), 1), ((5, 2, 8200), 1), ((0, 4), 1)]
)
def test_glu(shape, dim, dtype, level):
    module = load(level)
    x = points(int(np.prod(shape)), dtype).reshape(shape)
    y, want = module.glu_forward(x, dim), reference.glu_forward(x.astype(np.float64), dim)
    assert_close(y, want)
    g = points(y.size, dtype, 1).reshape(y.shape).clip(-50, 50)
    assert_close(
        module.glu_backward(g, x, dim),
        reference.glu_backward(g.astype(np.float64), x.astype(np.float64), dim),
    )


@pytest.mark.parametrize("level", backends(cuda=True))
def test_glu_of_views(level):
    """Transposed, reversed and sliced ones: the same as of copies."""
    module = load(level)
    whole = points(24 * 70, np.float32).reshape(24, 70)
    for x in (whole.T, whole[::-2, 3:63], whole[:, ::5].T, whole.reshape(4, 6, 70).transpose(1, 2, 0)):
        for dim in range(x.ndim):
            if x.shape[dim] % 2 != 0:
                continue
            y = module.glu_forward(x, dim)
            np.testing.assert_array_equal(y, module.glu_forward(np.array(x, order="C"), dim))
            g = np.array(y.clip(-5, 5)[::-1])[::-1]
            np.testing.assert_array_equal(
                module.glu_backward(g, x, dim),
                module.glu_backward(np.array(g, order="C"), np.array(x, order="C"), dim),
            )


@pytest.mark.parametrize("level", backends())
def test_channel_kernel_errors(level):
    module = kernels.load(level)
    with pytest.raises(ValueError, match="weight has 3 elements, x has 4 channels"):
        module.prelu_forward(np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(ValueError, match="even size"):
        module.glu_forward(np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match="dim out of range"):
        module.glu_forward(np.zeros((2, 4)), 2)
    with pytest.raises(ValueError, match="half of x"):
        module.glu_backward(np.zeros((2, 3)), np.zeros((2, 4)), 1)


# Functions and layers ---------------------------------------------------------------------------------

FUNCTIONS = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("rrelu", {}),
    ("rrelu", {"lower": 0.1, "upper": 0.9}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("elu", {}),
    ("elu", {"alpha": 0.4}),
    ("celu", {}),
    ("celu", {"alpha": 0.4}),
    ("selu", {}),
    ("softplus", {}),
    ("softplus", {"beta": 3.0, "threshold": 2.0}),
    ("hardtanh", {}),
    ("hardtanh", {"min_val": -0.3, "max_val": 2.5}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("hardshrink", {}),
    ("hardshrink", {"lambd": 1.5}),
    ("softshrink", {}),
    ("softshrink", {"lambd": 1.5}),
    ("tanhshrink", {}),
    ("softsign", {}),
    ("logsigmoid", {}),
    ("threshold", {"threshold": 0.2, "value": 7.0}),
    ("glu", {"dim": 0}),
]
INPLACE = ["relu", "relu6", "leaky_relu", "rrelu", "silu", "mish", "elu", "celu", "selu"]
INPLACE += ["hardtanh", "hardsigmoid", "hardswish", "threshold"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), FUNCTIONS)
def test_against_torch(name, options, dtype):
    """Values and gradients, kinks and saturated values included."""
    torch = pytest.importorskip("torch")
    x = points(400, dtype).reshape(20, 20)
    theirs = torch.from_numpy(x.copy()).requires_grad_()
    ours = fastdl.tensor(x, requires_grad=True)
    want = getattr(torch.nn.functional, name)(theirs, **options)
    got = getattr(F, name)(ours, **options)
    assert got.dtype == x.dtype
    want_array = want.detach().numpy()
    # torch rounds 1/6 and 1/alpha to float32 in these two, for float64 as well.
    eps = np.finfo(np.float32 if name in ("hardsigmoid", "celu") else dtype).eps
    np.testing.assert_allclose(got.detach().numpy(), want_array, rtol=16 * eps, atol=16 * eps)
    g = np.random.default_rng(5).standard_normal(want_array.shape).astype(dtype)
    want.backward(torch.from_numpy(g))
    got.backward(fastdl.tensor(g))
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=64 * eps, atol=256 * eps)


@pytest.mark.parametrize(("name", "options"), FUNCTIONS)
def test_infinities_and_nan_against_torch(name, options):
    torch = pytest.importorskip("torch")
    x = np.tile(np.array([np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0, -0.0, 1e-30], np.float32), 4)
    want = getattr(torch.nn.functional, name)(torch.from_numpy(x), **options).numpy()
    got = getattr(F, name)(fastdl.tensor(x), **options).numpy()
    if options == {} and name == "gelu":
        want[x == np.inf] = np.inf  # NaN in torch's float32 (not in its float64)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "options"), FUNCTIONS)
def test_gradient(name, options):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, 7)) * 2
    for kink in (
        0.2,
        0.3,
        0.5,
        1.0,
        1.5,
        2.5,
        3.0,
    ):  # not within a difference quotient of where f has a corner
        x[np.abs(np.abs(x) - kink) < 1e-3] += 0.01
    check_gradient(lambda t: getattr(F, name)(t, **options), x)


def test_prelu_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for shape, count in (
        ((4, 3, 5), 3),
        ((4, 3, 5), 1),
        ((6,), 1),
        ((8, 10), 10),
        ((), 1),
        ((2, 3, 4, 5), 3),
    ):
        x, g = rng.standard_normal((2, *shape)).astype(np.float32)
        w = rng.standard_normal(count).astype(np.float32)
        tensors = [torch.from_numpy(np.array(a)).requires_grad_() for a in (x, w)]
        torch.nn.functional.prelu(*tensors).backward(torch.from_numpy(np.array(g)))
        ours = [fastdl.tensor(a, requires_grad=True) for a in (x, w)]
        y = F.prelu(*ours)
        y.backward(fastdl.tensor(g))
        for a, b in zip(ours, tensors, strict=True):
            assert_close(a.grad, b.grad.numpy(), reduction=x.size)
    check_gradient(F.prelu, rng.standard_normal((3, 4, 2)), rng.standard_normal(4))
    check_gradient(F.prelu, rng.standard_normal((3, 4)), rng.standard_normal(1))


@pytest.mark.parametrize("name", INPLACE)
def test_inplace(name):
    """The result stands in the input, gradients are the same, and who kept the input is told."""
    options = {"threshold": 0.5, "value": 3.0} if name == "threshold" else {}
    x = points(50, np.float64)
    function = getattr(F, name)
    a = fastdl.tensor(x, requires_grad=True)
    function(F.leaky_relu(a, 0.5), **options).backward(fastdl.ones(50, dtype=fastdl.float64))
    b = fastdl.tensor(x, requires_grad=True)
    middle = F.leaky_relu(b, 0.5)
    result = function(middle, inplace=True, **options)
    assert result is middle
    np.testing.assert_array_equal(
        middle.detach().numpy(), function(F.leaky_relu(a, 0.5), **options).detach().numpy()
    )
    result.backward(fastdl.ones(50, dtype=fastdl.float64))
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())

    plain = fastdl.tensor(x)
    array = plain.numpy()
    function(plain, inplace=True, **options)
    assert plain.numpy() is array or np.shares_memory(plain.numpy(), array)
    np.testing.assert_array_equal(array, function(fastdl.tensor(x), **options).numpy())

    kept = F.sigmoid(fastdl.tensor(x, requires_grad=True))
    other = F.silu(kept)
    function(kept, inplace=True, **options)
    with pytest.raises(RuntimeError, match="changed in place"):
        other.backward(fastdl.ones(50, dtype=fastdl.float64))
    with pytest.raises(RuntimeError, match="leaf"):
        function(fastdl.tensor(x, requires_grad=True), inplace=True, **options)


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.bfloat16], ids=str)
@pytest.mark.parametrize("way", ["whole", "part", "transposed"])
@pytest.mark.parametrize("name", [*INPLACE, "sigmoid", "tanh"])
def test_gradients_of_changes_in_place(name, way, dtype):
    """Views of every kind, twice differentiated, and changed once more: as by the same function out of place."""
    options = {"threshold": 0.5, "value": 3.0} if name == "threshold" else {}
    options = {"min_val": -0.5, "max_val": 0.7} if name == "hardtanh" else options

    def function(t, inplace, **options):
        if name in INPLACE:
            return getattr(F, name)(t, inplace=inplace, **options)
        return getattr(t, name + "_" * inplace)()

    view = {"whole": lambda t: t, "part": lambda t: t[:, 1:3], "transposed": lambda t: t.transpose(1, 2)}[way]
    x = fastdl.tensor(points(60, np.float32).reshape(3, 4, 5)).to(dtype)
    weight = fastdl.linspace(-1, 1, 60).reshape(3, 4, 5).to(dtype)
    grads = []
    for inplace in (True, False):
        leaf = x.clone().requires_grad_()
        whole = leaf * 1.5
        result = function(view(whole), inplace=inplace, **options)
        if not inplace:
            copied = whole.clone()
            view(copied)[...] = result
            whole = copied
        if name not in ("relu", "leaky_relu", "sigmoid", "tanh"):  # these keep their result
            whole.mul_(2.0)
        (first,) = fastdl.autograd.grad((whole * weight).sum(), leaf, create_graph=True)
        (second,) = fastdl.autograd.grad(first.sum(), leaf, allow_unused=True, materialize_grads=True)
        grads.append([g.detach().to(fastdl.float32).numpy() for g in (whole, first, second)])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("call", [F.relu_, F.leaky_relu_, fastdl.Tensor.sigmoid_, fastdl.Tensor.tanh_])
def test_these_keep_only_their_result(call):
    x = fastdl.tensor(points(999, np.float32), requires_grad=True)
    middle = x + 0.0
    memory = middle._data
    call(middle)
    assert middle._data is memory
    (kept,) = [
        a for a in (getattr(middle._node, "x", None), getattr(middle._node, "y", None)) if a is not None
    ]
    assert kept is memory  # no copy of either
    middle.sum().backward()
    other = x.detach().requires_grad_()
    getattr(F, call.__name__.rstrip("_"))(other).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), other.grad.numpy())

    torch = pytest.importorskip("torch")
    for lib in (fastdl, torch):  # the kept result is the tensor itself: changes are noticed
        leaf = lib.ones(3, requires_grad=True)
        middle = leaf * 2
        getattr(lib.nn.functional if call is F.leaky_relu_ else lib, call.__name__)(middle)
        middle += 1
        with pytest.raises(RuntimeError, match=r"modified by an inplace|changed in place"):
            middle.sum().backward()


def test_clamps_in_place_may_be_changed_again():
    torch = pytest.importorskip("torch")
    results = []
    for lib in (fastdl, torch):
        leaf = lib.linspace(-1, 2, 12).reshape(4, 3).requires_grad_()
        whole = leaf * 2
        lib.nn.functional.hardtanh_(whole[1:], -0.3, 2.5)
        lib.nn.functional.relu6(whole, inplace=True)
        whole.mul_(leaf.detach()).add_(1)
        whole.sum().backward()
        results.append((whole.tolist(), leaf.grad.tolist()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.leaky_relu_(x, slope=1), r"leaky_relu_\(\) got an unexpected keyword argument 'slope'"),
        (lambda x: F.hardtanh_(x, 0, 1, 2), r"hardtanh_\(\) takes from 1 to 3 positional arguments but 4"),
        (lambda x: F.selu_(x, 1), r"selu_\(\) takes 1 positional argument but 2"),
        (lambda x: F.threshold_(x, 1), r"threshold_\(\) missing 1 required positional argument: 'value'"),
        (lambda x: x.sigmoid_(3), r"sigmoid_\(\) takes 1 positional argument but 2"),
    ],
)
def test_errors_of_arguments_in_place_name_the_function(call, message):
    for needs_grad in (False, True):
        with pytest.raises(TypeError, match=message):
            call(fastdl.ones(3, requires_grad=needs_grad) * 2)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("name", ["leaky_relu", "tanh", "hardshrink"])
def test_dense_arrays_of_other_orders_stay_as_they_lie(name, level):
    module = load(level)
    parameters = PARAMETERS[name][0]
    f, b = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    x = points(2 * 3 * 5 * 7, np.float32).reshape(2, 3, 5, 7)
    grads = points(x.size, np.float32, 1).reshape(x.shape)
    orders = [(0, 1, 2, 3), (3, 1, 2, 0), (0, 2, 3, 1), (2, 0, 3, 1)]
    for order in orders:
        lying = x.transpose(order)
        y = f(lying, *parameters)
        assert y.strides == lying.strides
        np.testing.assert_array_equal(y, f(x, *parameters).transpose(order))
        saved, saved_c = (y, f(x, *parameters)) if name in READS_OUTPUT else (lying, x)
        want = b(np.ascontiguousarray(grads), saved_c, *parameters).transpose(order)
        for other in orders:  # grad_y in an order of its own
            back = np.argsort(other)
            g = np.ascontiguousarray(grads.transpose(order).transpose(other)).transpose(back)
            got = b(g, saved, *parameters)
            assert got.strides == saved.strides
            np.testing.assert_array_equal(got, want)
    spread = np.broadcast_to(x[:1], x.shape)
    np.testing.assert_array_equal(f(spread, *parameters), f(np.ascontiguousarray(spread), *parameters))
    np.testing.assert_array_equal(f(x[:, ::2, ::-1], *parameters), f(x[:, ::2, ::-1].copy(), *parameters))


def test_rrelu_in_training():
    x = fastdl.tensor(np.full(20_000, -1.0), requires_grad=True)
    fastdl.manual_seed(3)
    y = F.rrelu(x, 0.2, 0.6, training=True)
    y.backward(fastdl.ones(20_000, dtype=fastdl.float64))
    slopes = -y.detach().numpy()
    np.testing.assert_array_equal(slopes, x.grad.numpy())
    assert 0.2 <= slopes.min() < 0.201 and 0.599 < slopes.max() < 0.6  # noqa: PT018
    assert abs(slopes.mean() - 0.4) < 0.004
    fastdl.manual_seed(3)
    again = fastdl.tensor(np.full(20_000, -1.0))
    F.rrelu(again, 0.2, 0.6, training=True, inplace=True)
    np.testing.assert_array_equal(again.numpy(), y.detach().numpy())
    fastdl.manual_seed(3)
    with fastdl.use_backend("reference"):
        reference_y = F.rrelu(x, 0.2, 0.6, training=True)
    np.testing.assert_allclose(reference_y.detach().numpy(), y.detach().numpy(), rtol=1e-15)


LAYERS = [
    ("ReLU", {}), ("ReLU", {"inplace": True}), ("ReLU6", {}), ("LeakyReLU", {"negative_slope": 0.2}),
    ("RReLU", {}),
    ("Sigmoid", {}), ("Tanh", {}), ("GELU", {}), ("GELU", {"approximate": "tanh"}), ("SiLU", {}), ("Mish",
    {}),
    ("ELU", {"alpha": 0.5}), ("CELU", {"alpha": 0.5}), ("SELU", {"inplace": True}), ("Softplus", {"beta": 2}),
    ("Hardtanh", {"min_val": -2}), ("Hardsigmoid", {}), ("Hardswish", {}), ("Hardshrink", {"lambd": 0.7}),
    ("Softshrink", {"lambd": 0.7}), ("Tanhshrink", {}), ("Softsign", {}), ("LogSigmoid", {}),
    ("Threshold", {"threshold": 0.1, "value": 20}), ("PReLU", {}), ("PReLU", {"num_parameters": 6}), ("GLU",
    {"dim": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers_against_torch(name, options):
    torch = pytest.importorskip("torch")
    x = points(24, np.float32).reshape(4, 6)
    theirs, ours = getattr(torch.nn, name)(**options).eval(), getattr(nn, name)(**options).eval()
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    want = theirs(torch.from_numpy(x.copy())).detach().numpy()
    np.testing.assert_allclose(ours(fastdl.tensor(x)).detach().numpy(), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "gelu", "mish"])
def test_far_tails(name, dtype, level):
    """Saturated where x is huge: x itself on the right, zero on the left, however large the factor x is."""
    x = np.array([1e3, 1e30, np.finfo(dtype).max], dtype)
    module, eps, ones = load(level), np.finfo(dtype).eps, np.ones_like(x)
    forward, backward = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    np.testing.assert_allclose(forward(x), x, rtol=2 * eps)
    np.testing.assert_array_equal(forward(-x), 0)
    np.testing.assert_allclose(backward(ones, x), 1, rtol=2 * eps)
    np.testing.assert_array_equal(backward(ones, -x), 0)


def test_integers():
    x = fastdl.tensor([-2, 0, 3])
    assert F.relu(x).numpy().tolist() == [0, 0, 3]
    assert F.relu(x).dtype == fastdl.int64
    assert fastdl.sigmoid(x).dtype == fastdl.float32
    assert fastdl.tanh(x).dtype == fastdl.float32
    with pytest.raises(TypeError, match=r"gelu: input must be float32 or float64 .* got int64"):
        F.gelu(x)


def test_messages():
    x = fastdl.ones(2, 3)
    for error, text, call in [
        (ValueError, "gelu: approximate must be 'none' or 'tanh', got 'erf'", lambda: F.gelu(x, "erf")),
        (ValueError, "celu: alpha must not be 0", lambda: F.celu(x, 0.0)),
        (ValueError, "hardtanh: min_val must not exceed max_val, got min_val=2", lambda: F.hardtanh(x, 2, 1)),
        (ValueError, "Hardtanh: max_val must exceed min_val", lambda: nn.Hardtanh(1, 1)),
        (ValueError, "softshrink: lambd must not be negative, got -1", lambda: F.softshrink(x, -1)),
        (
            ValueError,
            r"prelu: weight .* 3 for an input of shape \(2, 3\), got 2",
            lambda: F.prelu(x, fastdl.ones(2)),
        ),
        (ValueError, "prelu: weight must be a number or a vector", lambda: F.prelu(x, fastdl.ones(3, 1))),
        (ValueError, "rrelu: lower must not exceed upper", lambda: F.rrelu(x, 0.5, 0.2)),
        (ValueError, r"glu: .* must be even .* \(2, 3\), dim=1", lambda: F.glu(x, 1)),
        (ValueError, "glu: input must have at least one dimension", lambda: F.glu(fastdl.tensor(1.0))),
        (IndexError, "glu: dim must be in", lambda: F.glu(x, 2)),
    ]:
        with pytest.raises(error, match=text):
            call()

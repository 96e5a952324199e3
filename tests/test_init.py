"""nn.init: distributions, structure, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import init


def empty(*shape, dtype=np.float32):
    return fastdl.from_numpy(np.full(shape, np.nan, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_and_normal_moments(dtype):
    x = init.uniform_(empty(400, 500, dtype=dtype), -2.0, 6.0).numpy()
    assert x.dtype == dtype
    assert x.min() >= -2
    assert x.max() <= 6
    # Standard error of the mean of 200,000 numbers of U(-2, 6): 8 / sqrt(12 * 200000) = 0.005; 5 of them.
    assert abs(x.mean(dtype=np.float64) - 2) < 0.026
    assert abs(x.std(dtype=np.float64) - 8 / math.sqrt(12)) < 0.02
    x = init.normal_(empty(400, 500, dtype=dtype), 3.0, 2.0).numpy()
    assert abs(x.mean(dtype=np.float64) - 3) < 5 * 2 / math.sqrt(x.size)
    assert abs(x.std(dtype=np.float64) - 2) < 5 * 2 / math.sqrt(2 * x.size)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0.0, 1.0, -2.0, 2.0),
        (1.0, 0.5, 0.9, 1.1),  # a narrow interval
        (0.0, 1.0, 1.5, 40.0),  # a tail
        (0.0, 1.0, -40.0, -1.5),
        (0.0, 1.0, -0.5, 9.0),
    ],
)
def test_trunc_normal_moments(mean, std, a, b):
    n = 100_000
    x = init.trunc_normal_(empty(n, dtype=np.float64), mean, std, a, b).numpy()
    assert x.min() >= a
    assert x.max() <= b
    grid = np.linspace(a, min(b, mean + 12 * std), 200_001)
    if a < mean - 12 * std:
        grid = np.linspace(mean - 12 * std, b, 200_001)
    density = np.exp(-(((grid - mean) / std) ** 2) / 2)
    density /= density.sum()
    expected = (grid * density).sum()
    deviation = math.sqrt(((grid - expected) ** 2 * density).sum())
    assert abs(x.mean() - expected) < 5 * deviation / math.sqrt(n)
    assert abs(x.std() - deviation) < 0.02 * deviation


def test_trunc_normal_far_tail_ends_and_warns():
    with pytest.warns(UserWarning, match="more than 2 std"):
        x = init.trunc_normal_(empty(1000), 0.0, 1.0, 30.0, 1000.0).numpy()
    assert x.min() >= 30
    assert x.max() < 31
    for wrong in ({"std": 0.0}, {"a": 2.0, "b": 1.0}):
        with pytest.raises(ValueError, match="needs std > 0 and a < b"):
            init.trunc_normal_(empty(3), **wrong)


def test_fans_and_bounds():
    w = empty(64, 32, 3, 3)
    fan_in, fan_out = 32 * 9, 64 * 9
    for fill, bound in (
        (lambda: init.xavier_uniform_(w, 2.0), 2 * math.sqrt(6 / (fan_in + fan_out))),
        (lambda: init.kaiming_uniform_(w, a=math.sqrt(5)), 1 / math.sqrt(fan_in)),
        (
            lambda: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"),
            math.sqrt(2) * math.sqrt(3 / fan_out),
        ),
    ):
        assert fill() is w
        largest = np.abs(w.numpy()).max()
        assert 0.99 * bound < largest <= bound * (1 + 1e-6)
    for fill, std in (
        (lambda: init.xavier_normal_(w), math.sqrt(2 / (fan_in + fan_out))),
        (lambda: init.kaiming_normal_(w, nonlinearity="tanh"), 5 / 3 / math.sqrt(fan_in)),
    ):
        fill()
        assert abs(w.numpy().std() / std - 1) < 0.03


def test_gains_equal_torchs():
    torch = pytest.importorskip("torch")
    names = ["linear", "conv1d", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
    for name in names:
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 3, 2, 2), (6, 6)])
def test_orthogonal(shape):
    w = init.orthogonal_(empty(*shape, dtype=np.float64), gain=3.0).numpy().reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 9 * np.eye(min(w.shape)), atol=1e-12)


def test_fixed_values():
    np.testing.assert_array_equal(init.eye_(empty(2, 3)).numpy(), np.eye(2, 3))
    np.testing.assert_array_equal(init.constant_(empty(2, 3), 4.5).numpy(), 4.5)
    np.testing.assert_array_equal(init.zeros_(init.ones_(empty(2))).numpy(), 0)


@pytest.mark.parametrize("shape", [(4, 2, 3), (6, 3, 3, 5), (4, 6, 3, 3, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_equals_torchs(shape, groups):
    torch = pytest.importorskip("torch")
    want = torch.nn.init.dirac_(torch.empty(*shape), groups).numpy()
    np.testing.assert_array_equal(init.dirac_(empty(*shape), groups).numpy(), want)


def test_sparse():
    w = init.sparse_(empty(50, 30), 0.31, std=2.0).numpy()
    np.testing.assert_array_equal((w == 0).sum(axis=0), math.ceil(0.31 * 50))
    assert len({tuple(column) for column in (w == 0).T}) > 20  # not the same rows everywhere


def test_strided_parameters_are_filled_in_place():
    base = np.zeros((6, 8), np.float32)
    p = nn.Parameter(base[::2, ::-2])
    init.uniform_(p, 1.0, 2.0)
    assert (base[::2, 1::2] >= 1).all()
    assert (base[1::2] == 0).all()
    assert (base[:, ::2] == 0).all()
    assert p.requires_grad
    assert p.grad is None


def test_empty_tensors():
    assert init.uniform_(empty(0, 3)).shape == (0, 3)
    assert init.trunc_normal_(empty(0)).shape == (0,)
    assert init.orthogonal_(empty(0, 3)).shape == (0, 3)
    assert init.xavier_normal_(empty(0, 0)).shape == (0, 0)
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        init.kaiming_normal_(empty(0, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: init.uniform_(fastdl.from_numpy(np.zeros(2, int))), TypeError, "floating point"),
        (lambda: init.uniform_(empty(2), 2, 1), RuntimeError, "from=2 > to=1"),
        (lambda: init.normal_(empty(2), 0, -1), RuntimeError, "std >= 0"),
        (lambda: init.xavier_normal_(empty(2)), ValueError, "fewer than 2 dimensions"),
        (lambda: init.kaiming_normal_(empty(2, 2), mode="fan"), ValueError, "Mode fan not supported"),
        (
            lambda: init.kaiming_normal_(empty(2, 2), nonlinearity="x"),
            ValueError,
            "Unsupported nonlinearity x",
        ),
        (lambda: init.calculate_gain("leaky_relu", True), ValueError, "not a valid number"),
        (lambda: init.eye_(empty(2)), ValueError, r"2 dimensions are supported, got shape \(2,\)"),
        (lambda: init.dirac_(empty(2, 2)), ValueError, "3, 4, or 5 dimensions"),
        (lambda: init.dirac_(empty(3, 2, 2), 2), ValueError, "divisible by groups"),
        (lambda: init.orthogonal_(empty(2)), ValueError, "2 or more dimensions"),
        (lambda: init.sparse_(empty(2), 0.1), ValueError, "2 dimensions"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["constant", "kaiming_uniform", "xavier_normal", "eye"])
def test_the_older_names_warn(name):
    arguments = (2.0,) if name == "constant" else ()
    fastdl.manual_seed(0)
    expected = getattr(init, f"{name}_")(fastdl.empty(3, 4), *arguments)
    fastdl.manual_seed(0)
    with pytest.warns(
        FutureWarning, match=f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`"
    ):
        filled = getattr(init, name)(fastdl.empty(3, 4), *arguments)
    assert filled.tolist() == expected.tolist()
    for missing in ("ones", "zeros", "trunc_normal", "nothing"):
        assert not hasattr(init, missing)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "orthogonal_"])
def test_tensors_without_values_are_checked_like_others(name):
    x = fastdl.empty(4, 4, device="meta")
    assert getattr(init, name)(x) is x
    with pytest.raises(TypeError, match=f"{name}: tensor must be floating point, got dtype int64"):
        getattr(init, name)(fastdl.empty(4, 4, dtype=fastdl.int64, device="meta"))


def test_constants_are_what_the_dtype_holds():
    assert init.constant_(fastdl.zeros(2, dtype=fastdl.uint8), -1).tolist() == [255, 255]
    with pytest.raises(RuntimeError, match="300 does not fit into dtype uint8"):
        init.constant_(fastdl.zeros(2, dtype=fastdl.uint8), 300)
    leaf = fastdl.zeros(2, requires_grad=True)
    assert init.constant_(leaf, 3) is leaf
    assert leaf.requires_grad
    assert leaf.tolist() == [3, 3]

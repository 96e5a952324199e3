"""Tensors themselves: conversion, printing, protocols, exchange with other libraries."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastdl

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")

# ----------------------------------------------------------------------------------------------------- conversions


@needs_torch
@pytest.mark.parametrize(
    "convert",
    [
        lambda x, lib: x.to(lib.float64),
        lambda x, lib: x.to("cpu"),
        lambda x, lib: x.to("cpu", lib.int64),
        lambda x, lib: x.to(lib.device("cpu"), dtype=lib.int16),
        lambda x, lib: x.to(lib.zeros(1, dtype=lib.bool)),
        lambda x, lib: x.to(dtype=lib.float16),
        lambda x, lib: x.float(),
        lambda x, lib: x.double(),
        lambda x, lib: x.half(),
        lambda x, lib: x.long(),
        lambda x, lib: x.int(),
        lambda x, lib: x.short(),
        lambda x, lib: x.bool(),
        lambda x, lib: x.type(lib.int32),
        lambda x, lib: x.type_as(lib.zeros(1, dtype=lib.float64)),
        lambda x, lib: x.cpu(),
    ],
)
def test_convert(convert):
    values = [[-1.7, 0.0], [2.5, 100.0]]
    got, want = convert(fastdl.tensor(values), fastdl), convert(torch.tensor(values), torch)
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_to_returns_the_same_or_a_copy():
    x = fastdl.ones(2)
    assert x.to(fastdl.float32) is x
    assert x.float() is x
    assert x.to(fastdl.float32, copy=True) is not x
    with pytest.raises(TypeError, match="unexpected argument 'typo'"):
        x.to(typo=1)


def test_python_values():
    assert fastdl.tensor(2.5).item() == 2.5
    assert isinstance(fastdl.tensor([[3]]).item(), int)
    assert isinstance(fastdl.tensor(True).item(), bool)
    assert fastdl.tensor([[1, 2]]).tolist() == [[1, 2]]
    assert int(fastdl.tensor(2.7)) == 2
    assert float(fastdl.tensor([3])) == 3.0
    assert [10, 20, 30][fastdl.tensor(1)] == 20
    assert list(range(3))[fastdl.tensor([2])] == 2
    assert bool(fastdl.tensor([[0.0]])) is False
    assert f"{fastdl.tensor(3.14159):.2f}" == "3.14"
    assert len(fastdl.zeros(4, 2)) == 4
    assert [t.tolist() for t in fastdl.tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    assert 2 in fastdl.tensor([1, 2])
    assert 5 not in fastdl.tensor([1, 2])
    x = fastdl.tensor([1.0])
    assert {x: 1}[x] == 1
    assert (x == None) is False  # noqa: E711
    for mistake, error, match in (
        (lambda: bool(fastdl.ones(2)), RuntimeError, "ambiguous"),
        (lambda: fastdl.ones(2).item(), RuntimeError, r"shape \(2,\)"),
        (lambda: len(fastdl.tensor(1)), TypeError, "no length"),
        (lambda: iter(fastdl.tensor(1)), TypeError, "cannot be iterated"),
        (lambda: [1][fastdl.tensor(0.0)], TypeError, "only an integer tensor"),
        (lambda: fastdl.ones(2, 3).size(2), IndexError, "size: dim 2"),
        (lambda: fastdl.ones(1) + "a", TypeError, "unsupported operand"),
    ):
        with pytest.raises(error, match=match):
            mistake()


def test_properties():
    x = fastdl.zeros(2, 3, dtype=fastdl.float64)[:, 1:]
    assert (x.shape, x.size(), x.size(-1), x.ndim, x.dim(), x.numel()) == ((2, 2), (2, 2), 2, 2, 2, 4)
    assert (x.stride(), x.stride(0), x.storage_offset(), x.is_contiguous()) == ((3, 1), 3, 1, False)
    for part in (x, x.detach(), x.data[1:].detach()):
        assert part.untyped_storage().data_ptr() + 8 * part.storage_offset() == part.data_ptr()
    assert x.data[1:].detach().storage_offset() == 4
    assert (x.element_size(), x.itemsize, x.nbytes) == (8, 8, 32)
    assert x.device == fastdl.device("cpu")
    assert str(x.device) == "cpu"
    assert not x.is_cuda
    assert x.is_floating_point()
    assert fastdl.is_tensor(x)
    assert fastdl.numel(x) == 4


def test_numpy_refuses_what_would_escape():
    x = fastdl.ones(2, requires_grad=True)
    for escape in (lambda: x.numpy(), lambda: np.asarray(x), lambda: x.__dlpack__()):
        with pytest.raises((RuntimeError, BufferError), match="detach"):
            escape()
    assert np.shares_memory(x.numpy(force=True), x.detach().numpy())


def test_requires_grad_rules():
    x = fastdl.ones(2)
    assert x.requires_grad_() is x
    assert x.is_leaf
    y = x * 2
    assert not y.is_leaf
    assert y.grad_fn is not None
    with pytest.raises(RuntimeError, match="only leaf tensors can be switched off"):
        y.requires_grad = False
    with pytest.raises(RuntimeError, match="only floating-point"):
        fastdl.arange(3).requires_grad_()
    z = y.detach()
    assert z.is_leaf
    assert not z.requires_grad
    assert y.detach_() is y
    assert y.is_leaf
    with pytest.raises(RuntimeError, match=r"must have the tensor's shape \(2,\)"):
        x.grad = fastdl.ones(3)
    with pytest.raises(TypeError, match="Tensor or None"):
        x.grad = 3
    x.grad = fastdl.zeros(2)
    del x.grad
    assert x.grad is None


# -------------------------------------------------------------------------------------------------------- printing


@needs_torch
@pytest.mark.parametrize(
    "make",
    [
        lambda lib: lib.tensor([1.0, 2.5, -3.25]),
        lambda lib: lib.tensor([1e-8, 1.0]),
        lambda lib: lib.tensor([1e9, 1.0]),
        lambda lib: lib.tensor([math.nan, math.inf, -math.inf, 1.0]),
        lambda lib: lib.tensor([math.nan, math.inf]),
        lambda lib: lib.tensor([0.0, -0.0]),
        lambda lib: lib.tensor([[1.5, 2], [3, 4]], requires_grad=True),
        lambda lib: lib.arange(24).reshape(2, 3, 4),
        lambda lib: lib.arange(24.0, dtype=lib.float64).reshape(2, 3, 4) / 7,
        lambda lib: lib.tensor([True, False]),
        lambda lib: lib.zeros(0),
        lambda lib: lib.zeros(0, 3),
        lambda lib: lib.zeros(0, dtype=lib.int64),
        lambda lib: lib.tensor(3.5),
        lambda lib: lib.tensor(-7),
        lambda lib: lib.tensor(7, dtype=lib.int8),
        lambda lib: lib.arange(2000),
        lambda lib: lib.arange(3000.0).reshape(3, 1000),
        lambda lib: lib.arange(27000.0).reshape(30, 30, 30),
        lambda lib: lib.arange(40.0) * 1.5,
        lambda lib: lib.arange(100),
        lambda lib: lib.tensor([123456.0, 0.5]),
        lambda lib: lib.tensor([100000.0, 200000.0]),
        lambda lib: lib.tensor([[-1e-5, 2e-5]]),
        lambda lib: lib.ones(30, dtype=lib.float16),
        lambda lib: (lib.arange(5.0)[None] * 1e6).requires_grad_(),  # one character too long for the line
        lambda lib: lib.zeros(2, 3, device="meta", dtype=lib.int8),
    ],
)
def test_prints_like_torch(make):
    assert repr(make(fastdl)) == repr(make(torch)).replace("torch.", "fastdl.")


def test_printoptions():
    x = fastdl.tensor([1.23456, 2.0])
    try:
        fastdl.set_printoptions(precision=2)
        assert repr(x) == "tensor([1.23, 2.00])"
        fastdl.set_printoptions(sci_mode=True, precision=1)
        assert repr(x) == "tensor([1.2e+00, 2.0e+00])"
        fastdl.set_printoptions(threshold=3, edgeitems=1)
        assert repr(fastdl.arange(9)) == "tensor([0,  ..., 8])"
    finally:
        fastdl.set_printoptions(profile="default")
    assert repr(x * 1.0) == "tensor([1.2346, 2.0000])"
    y = fastdl.tensor([1.0], requires_grad=True) * 2
    assert repr(y) == "tensor([2.], grad_fn=<MulBackward>)"
    with pytest.raises(ValueError, match="profile must be one of"):
        fastdl.set_printoptions(profile="long")


# -------------------------------------------------------------------------------------------- copies and exchange


def test_copy_and_pickle():
    x = fastdl.tensor([[1.0, 2.0]], requires_grad=True)
    (x * x).sum().backward()
    deep = copy.deepcopy(x)
    assert deep.tolist() == x.tolist()
    assert deep.grad.tolist() == x.grad.tolist()
    assert deep.requires_grad
    assert not np.shares_memory(deep.detach().numpy(), x.detach().numpy())
    shallow = copy.copy(x)
    assert np.shares_memory(shallow.detach().numpy(), x.detach().numpy())
    pair = copy.deepcopy([x, x])
    assert pair[0] is pair[1]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(x, protocol))
        assert back.tolist() == x.tolist()
        assert back.requires_grad
        assert back.dtype is fastdl.float32
    for view in (fastdl.arange(6.0).reshape(2, 3).t(), fastdl.tensor(3), fastdl.zeros(0, 2)):
        back = pickle.loads(pickle.dumps(view))
        assert (back.tolist(), back.shape) == (view.tolist(), view.shape)
    with pytest.raises(RuntimeError, match="only leaf tensors can be deep-copied"):
        copy.deepcopy(x * 2)
    computed = pickle.loads(pickle.dumps(x * 2))  # its values, without its history
    assert (computed.is_leaf, computed.tolist()) == (True, (x * 2).tolist())
    assert pickle.loads(pickle.dumps(fastdl.device("cuda:1"))) == fastdl.device("cuda", 1)


def test_numpy_interplay():
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    a = np.array([10.0, 20.0], np.float32)
    for result in (
        a + x,
        x + a,
        a * x,
        x - a,
        a / x,
        np.exp(x),
        np.add(a, x),
        a @ x,
        x @ fastdl.from_numpy(a),
    ):
        assert isinstance(result, fastdl.Tensor)
        assert result.requires_grad
    (a * x).sum().backward()
    assert x.grad.tolist() == [10, 20]
    assert isinstance(np.float32(2) * x, fastdl.Tensor)
    assert (a > fastdl.tensor([15.0, 15.0])).tolist() == [False, True]
    plain = fastdl.tensor([1.0, 2.0])
    assert np.asarray(plain).tolist() == [1, 2]
    assert np.asarray(plain) is plain.numpy() or np.shares_memory(np.asarray(plain), plain.numpy())
    assert not np.shares_memory(np.array(plain), plain.numpy())
    assert np.array(plain, dtype=np.int64).tolist() == [1, 2]
    with pytest.raises(ValueError, match="needs a copy"):
        np.array(plain, dtype=np.int64, copy=False)
    assert np.sum(np.asarray(plain)) == 3
    assert isinstance(np.logaddexp(plain, plain), fastdl.Tensor)  # no counterpart here: NumPy computes
    out = np.zeros(2, np.float32)
    np.add(plain, 1, out=out)
    assert out.tolist() == [2, 3]
    np.multiply(plain, 3, out=plain)
    assert plain.tolist() == [3, 6]


def test_dlpack_with_numpy():
    x = fastdl.arange(6.0).reshape(2, 3)[:, 1:]
    a = np.from_dlpack(x)
    assert np.shares_memory(a, x.numpy())
    assert a.strides == x.numpy().strides
    b = np.arange(4)
    y = fastdl.from_dlpack(b)
    y[0] = 9
    assert b[0] == 9
    assert x.__dlpack_device__() == (1, 0)


@needs_torch
def test_dlpack_with_torch():
    x = fastdl.arange(6.0).reshape(2, 3)
    t = torch.from_dlpack(x.t())
    t[0, 1] = 100
    assert x[1, 0].item() == 100
    source = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    y = fastdl.from_dlpack(source.t())
    assert y.stride() == (1, 2)
    assert y.dtype is fastdl.float64
    y[0, 0] = 50
    assert source[0, 0].item() == 50
    assert fastdl.tensor(source).tolist() == source.tolist()
    owner = fastdl.from_dlpack(torch.ones(3))  # the memory outlives torch's own reference
    assert (owner + 1).tolist() == [2, 2, 2]


# --------------------------------------------------------------------------------------------------------- random


def test_random_tensors():
    fastdl.manual_seed(3)
    first = [fastdl.rand(5), fastdl.randn(4, 4), fastdl.randint(0, 10, (7,)), fastdl.randperm(9)]
    fastdl.manual_seed(3)
    again = [fastdl.rand(5), fastdl.randn(4, 4), fastdl.randint(10, (7,)), fastdl.randperm(9)]
    for a, b in zip(first, again, strict=True):
        assert a.tolist() == b.tolist()
    assert sorted(first[3].tolist()) == list(range(9))
    n = 200_000
    # Bounds are six standard errors of the mean, at n samples.
    for make, mean, std in (
        (lambda: fastdl.rand(n), 0.5, 12**-0.5),
        (lambda: fastdl.randn(n), 0.0, 1.0),
        (lambda: fastdl.normal(3.0, 2.0, (n,)), 3.0, 2.0),
        (lambda: fastdl.normal(fastdl.full((n,), 3.0), fastdl.tensor(2.0)), 3.0, 2.0),
        (lambda: fastdl.zeros(n).uniform_(-1, 3), 1.0, 4 * 12**-0.5),
        (lambda: fastdl.zeros(n).normal_(1, 3), 1.0, 3.0),
        (lambda: fastdl.zeros(n).bernoulli_(0.3), 0.3, (0.3 * 0.7) ** 0.5),
        (lambda: fastdl.bernoulli(fastdl.full((n,), 0.3)), 0.3, (0.3 * 0.7) ** 0.5),
        (lambda: fastdl.zeros(n).exponential_(2.0), 0.5, 0.5),
        (lambda: fastdl.poisson(fastdl.full((n,), 4.0)), 4.0, 2.0),
        (lambda: fastdl.randint(0, 10, (n,)).float(), 4.5, (99 / 12) ** 0.5),
        (lambda: fastdl.zeros(n).random_(0, 10), 4.5, (99 / 12) ** 0.5),
    ):
        values = make().numpy().astype(np.float64)
        assert abs(values.mean() - mean) < 6 * std / n**0.5
        assert abs(values.std() - std) < 0.02 * std
    assert fastdl.rand(3, dtype=fastdl.float16).dtype == fastdl.float16
    assert fastdl.rand_like(fastdl.ones(2, 2, dtype=fastdl.float64)).dtype is fastdl.float64


def test_multinomial():
    weights = fastdl.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]])
    drawn = fastdl.multinomial(weights, 40_000, replacement=True)
    assert drawn.shape == (2, 40_000)
    shares = np.stack([np.bincount(row, minlength=3) for row in drawn.numpy()]) / 40_000
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75], [0.5, 0.5, 0]], atol=6 * 0.5 / 200)
    pairs = np.sort(np.stack([fastdl.multinomial(weights, 2).numpy() for _ in range(20)]), -1)
    assert (pairs == [[0, 2], [0, 1]]).all()
    # Without replacement: the first of two draws has the weights' distribution.
    first = fastdl.multinomial(fastdl.tensor([[1.0, 3.0]] * 10_000), 2)[:, 0].numpy()
    assert abs(first.mean() - 0.75) < 6 * 0.433 / 100
    # One draw, and more rows than one: no row takes what it does not weigh, whatever lies around it.
    one = fastdl.multinomial(weights.repeat(5000, 1), 1)
    assert one.shape == (10_000, 1)
    assert one.dtype == fastdl.int64
    shares = np.stack([np.bincount(row, minlength=3) for row in one.numpy().reshape(5000, 2).T]) / 5000
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75], [0.5, 0.5, 0]], atol=6 * 0.5 / 70)
    with pytest.raises(RuntimeError, match="row 1 has no weight"):
        fastdl.multinomial(fastdl.tensor([[1.0, 2.0], [0.0, 0.0]]), 1)
    for wrong in (float("nan"), float("inf"), -1.0):
        with pytest.raises(RuntimeError, match="finite and not negative"):
            fastdl.multinomial(fastdl.tensor([1.0, wrong]), 1)


# ---------------------------------------------------------------------------------------------------------- import


def test_import_starts_no_thread():
    code = """
import fastdl, threading
from fastdl.kernels import cpu
print(cpu.workers_started(), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


def test_show_config(capsys):
    fastdl.show_config()
    text = capsys.readouterr().out
    for part in (fastdl.__version__, "NumPy", "threads", "CUDA", "no: this build"):
        assert part in text

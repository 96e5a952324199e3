"""Methods that are functions, too: every in-place function of torch's that is a method here."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import unbound
from fastdl.absent import Absent


@pytest.mark.parametrize("name", unbound.__all__)
def test_function_is_the_method(name):
    function = getattr(fastdl, name)
    assert function.__name__ == name
    others = {"fill_": (1,), "index_put_": ((fastdl.tensor([0]),), fastdl.tensor(1.0))}.get(name, ())
    with pytest.raises(TypeError, match=f"{name}: input must be a Tensor, got int"):
        function(3, *others)


def test_results_are_stored_and_returned():
    x = fastdl.tensor([1.0, 4.0])
    assert fastdl.sqrt_(x) is x
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])
    assert fastdl.clamp_(x, max=1.5) is x
    np.testing.assert_array_equal(x.numpy(), [1.0, 1.5])
    fastdl.index_put_(x, (fastdl.tensor([0]),), fastdl.tensor(7.0))
    np.testing.assert_array_equal(x.numpy(), [7.0, 1.5])
    y = fastdl.ones(2, requires_grad=True)
    assert not fastdl.detach(y).requires_grad
    with pytest.raises(RuntimeError, match="leaf"):
        fastdl.exp_(y)


def test_none_of_torch_s_is_missing():
    torch = pytest.importorskip("torch")
    names = {n for n in dir(torch) if n.endswith("_") and not n.startswith("_")}
    missing = {
        n
        for n in names
        if not hasattr(fastdl, n) and not isinstance(vars(fastdl.Tensor).get(n, Absent("")), Absent)
    }
    assert missing == set()


def test_the_tensor_may_be_named():
    x = fastdl.tensor([0.0, 2.0])
    assert fastdl.clamp_(input=x, max=1) is x
    np.testing.assert_array_equal(x.numpy(), [0.0, 1.0])
    with pytest.raises(TypeError, match="'input'"):
        fastdl.exp_()
    assert fastdl.Tensor.exp_.__module__ != fastdl.exp_.__module__

"""The graph: recording, backward, release."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.nn import functional as F
from parity import check_gradient


def leaf(values):
    t = fastdl.Tensor(np.array(values, dtype=np.float32))
    t.requires_grad = True
    return t


def test_relu_forward_and_backward():
    x = leaf([-1.0, 2.0, 0.0])
    y = F.relu(x)
    y.backward(fastdl.Tensor(np.array([1.0, 10.0, 100.0], np.float32)))
    np.testing.assert_array_equal(y.detach().numpy(), [0, 2, 0])
    np.testing.assert_array_equal(x.grad.numpy(), [0, 10, 0])


def test_gradients_accumulate_over_calls():
    x = leaf([3.0])
    for _ in range(3):
        F.relu(x).backward()
    assert x.grad.numpy() == [3.0]


def test_backward_twice_teaches():
    x = leaf([3.0])
    y = F.relu(x)
    y.backward()
    with pytest.raises(RuntimeError, match="second time.*retain_graph=True"):
        y.backward()


def test_retain_graph():
    x = leaf([3.0])
    y = F.relu(x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.numpy() == [2.0]


def test_no_grad_records_nothing():
    x = leaf([3.0])
    with fastdl.no_grad():
        y = F.relu(x)
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        y.backward()


def test_graph_of_100000_nodes():
    x = leaf([3.0])
    y = x
    for _ in range(100_000):
        y = F.relu(y)
    y.backward()
    assert x.grad.numpy() == [1.0]


def test_relu_gradient_numerically():
    check_gradient(F.relu, np.random.default_rng(0).standard_normal((5, 7)))

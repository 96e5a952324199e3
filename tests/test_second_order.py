"""Second and higher derivatives: every operation's backward as operations, and what is built on it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastdl
from derivative_cases import CASES, RNG
from fastdl.autograd import grad, gradgradcheck
from fastdl.autograd.op import Op
from fastdl.nn import functional as F


@pytest.mark.parametrize("name", CASES)
def test_second_derivative(name: str) -> None:
    function, inputs = CASES[name]
    outputs = function(*inputs)
    outputs = [o for o in (outputs if isinstance(outputs, (tuple, list)) else [outputs]) if o.requires_grad]
    seeds = [fastdl.tensor(RNG.standard_normal(o.shape)) for o in outputs]
    arrays = grad(outputs, inputs, seeds, retain_graph=True, allow_unused=True)
    tensors = grad(outputs, inputs, seeds, create_graph=True, allow_unused=True)
    for of_arrays, of_tensors, x in zip(arrays, tensors, inputs, strict=True):
        assert (of_arrays is None) == (of_tensors is None)
        if of_arrays is not None:
            assert of_tensors.shape == x.shape
            assert of_tensors.dtype == x.dtype
            np.testing.assert_allclose(of_tensors.detach().numpy(), of_arrays.numpy(), 1e-9, 1e-11)
            for graph in (False, True) if len(inputs) > 1 else ():  # asked for alone: the others are left out
                (alone,) = grad(outputs, x, seeds, retain_graph=True, create_graph=graph)
                np.testing.assert_allclose(alone.detach().numpy(), of_arrays.numpy(), 1e-9, 1e-11)
    assert gradgradcheck(function, inputs)


THIRD = """sin|sqrt|F.tanh|F.softplus|F.gelu|F.silu|pow 3|pow of one shape|div of one shape|softmax|logsumexp dim 1|erf
    |cross_entropy mean|bce with logits mean|layer_norm|batch_norm training|matmul (3, 4) (4, 2)|linear tanh|conv2d
    |var dim 1|conv_transpose2d with options|max_pool2d|einsum ii,ij->j|attention|norm 2|x[list]|inverse|LSTMCell
    |views changed in place|interpolate bilinear|pad reflect|dropout|where|embedding|prod dim 1|cumprod"""


@pytest.mark.parametrize("name", [n.strip() for n in THIRD.split("|")])
def test_third_derivative(name: str) -> None:
    function, inputs = CASES[name]

    def slope(*inputs: Any) -> Any:
        """The derivative of the squares in one direction; all elements one by one would take long."""
        with fastdl.enable_grad():
            outputs = function(*inputs)
            outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
            total = sum([(o * o).sum() for o in outputs])
            slopes = grad(total, inputs, create_graph=True)
            waves = [fastdl.arange(g.numel(), dtype=g.dtype).cos().reshape(g.shape) for g in slopes]
            return sum([(g * w).sum() for g, w in zip(slopes, waves, strict=True)])

    assert gradgradcheck(slope, inputs)


def operations() -> Iterator[type[Op]]:
    for module in pkgutil.walk_packages(fastdl.__path__, "fastdl."):
        if not any(part in module.name for part in ("_cpu", "__main__", ".bench")):
            importlib.import_module(module.name)
    found = [Op]
    while found:
        for kind in found.pop().__subclasses__():
            found.append(kind)
            if kind.__module__.startswith("fastdl."):
                yield kind


# Bases, what has no gradient, what stands for a leaf, and what is refused: a recording on a GPU, samples of gamma.
NO_RULE = "MaximumZero Binary Saving Ternary Reduction Spread Unary MultiView View Elementwise".split()
NO_RULE += ["ComplexBinary", "ComplexFormula", "Replayed", "AccumulateGrad", "_Replayed", "_StandardGamma"]


def test_every_operation_has_a_rule_or_says_that_it_has_none() -> None:
    missing = [
        k.__name__
        for k in operations()
        if k.backward_graph is Op.backward_graph and k.__name__ not in NO_RULE
    ]
    assert missing == []


def test_an_operation_without_a_rule_is_refused_by_name() -> None:
    class Twice(Op):
        def forward(self, x: Any) -> Any:
            return x * 2

        def backward(self, grad: Any) -> Any:
            return grad * 2

    x = fastdl.ones(2, requires_grad=True)
    y = Twice.apply(x).sum()
    y.backward(retain_graph=True)
    with pytest.raises(NotImplementedError, match=r"Twice: has no second derivative \(create_graph=True\)"):
        grad(y, x, create_graph=True)
    frames = fastdl.zeros(4, 1, 3, requires_grad=True)
    loss = F.ctc_loss(frames.log_softmax(2), fastdl.tensor([[1, 2]]), (4,), (2,))
    with pytest.raises(NotImplementedError, match="ctc_loss"):
        grad(loss, frames, create_graph=True)

"""Modules copied through their ``__dict__`` and their registries, as packages of meta-learning do."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastdl
from fastdl import nn


def _clone(module):
    """The copy of a module whose parameters are tensors of the graph."""
    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = clone._parameters.copy()
    clone._buffers = clone._buffers.copy()
    clone._modules = clone._modules.copy()
    for name, parameter in module._parameters.items():
        if parameter is not None:
            clone._parameters[name] = parameter.clone()
    for name, child in module._modules.items():
        clone._modules[name] = _clone(child)
    return clone


def _step(module, gradients, rate):
    """Every parameter, in the order of ``parameters()``, made a step from its old value and stays in the graph."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = parameter - rate * next(gradients)
    for child in module._modules.values():
        _step(child, gradients, rate)


def _meta_gradients(torch):
    """Gradients of a loss after two steps in a clone, by the parameters before them."""
    nn, rng = torch.nn, np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    x, y = torch.from_numpy(rng.normal(size=(5, 2))), torch.from_numpy(rng.normal(size=(5, 1)))
    clone = _clone(model)
    for _ in range(2):
        loss = (clone(x) - y).square().mean()
        _step(clone, iter(torch.autograd.grad(loss, list(clone.parameters()), create_graph=True)), 0.1)
    (clone(x) - y).square().mean().backward()
    assert [type(p) for p in model.parameters()] == [nn.Parameter] * 5
    return [p.grad.numpy() for p in model.parameters()], list(clone.state_dict())


def test_clone_keeps_the_graph_as_torchs_does():
    torch = pytest.importorskip("torch")
    (ours, our_keys), (theirs, their_keys) = _meta_gradients(fastdl), _meta_gradients(torch)
    assert our_keys == their_keys
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_assigned_registries_replace_all_members():
    layer = nn.BatchNorm1d(2)
    layer._parameters = {"weight": nn.Parameter(fastdl.ones(2)), "extra": None}
    assert list(layer._parameters) == ["weight", "extra"]
    assert layer.extra is None
    assert not hasattr(layer, "bias")
    layer._parameters = layer._parameters
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    layer._buffers = {"running_var": fastdl.ones(2)}
    assert list(layer.state_dict()) == ["weight", "running_var"]
    layer._modules = {"child": nn.ReLU()}
    assert repr(layer.child) == "ReLU()"
    assert len(list(layer.modules())) == 2


def test_a_copy_of_dict_leaves_the_original_whole():
    layer = nn.Linear(2, 2)
    other = nn.Linear.__new__(nn.Linear)
    other.__dict__.update(layer.__dict__)
    other._parameters = {}
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not list(other.parameters())


def test_registration_in_a_shallow_copy_leaves_the_original_whole():
    layer = nn.Sequential(nn.Linear(2, 2))
    other = copy.copy(layer)
    assert other[0] is layer[0]
    other.append(nn.ReLU())
    other.register_buffer("seen", fastdl.zeros(1))
    other.scale = nn.Parameter(fastdl.ones(1))
    assert repr(layer) == repr(nn.Sequential(nn.Linear(2, 2)))
    assert list(layer.state_dict()) == ["0.weight", "0.bias"]
    assert list(other.state_dict()) == ["scale", "seen", "0.weight", "0.bias"]


def test_non_persistent_buffers_are_a_live_set():
    layer = nn.BatchNorm1d(2, affine=False)
    layer._non_persistent_buffers_set.add("running_mean")
    assert list(layer.state_dict()) == ["running_var", "num_batches_tracked"]
    assert layer._non_persistent_buffers_set | {"other"} == {"running_mean", "other"}
    assert len(layer._non_persistent_buffers_set) == 1
    layer._non_persistent_buffers_set.discard("running_mean")
    assert len(layer.state_dict()) == 3
    layer._non_persistent_buffers_set = {"running_var"}
    assert list(layer.state_dict()) == ["running_mean", "num_batches_tracked"]


def _subclasses(torch):
    """Subclasses whose ``__new__`` takes more than the base's."""

    class Tagged(torch.nn.Parameter):
        def __new__(cls, data=None, requires_grad=True, tag="default"):
            self = super().__new__(cls, data, requires_grad)
            self.tag = tag
            return self

    class Counted(torch.nn.Parameter):
        def __new__(cls, data, count):
            return super().__new__(cls, data)

        def __init__(self, data, count):
            super().__init__()
            self.count = count

    model = torch.nn.Module()
    model.weight = Tagged(torch.ones(2), tag="mine")
    model.seen = Counted(torch.ones(2), 3)
    again = copy.deepcopy(model)  # made by __new__ with `requires_grad` for `count`
    tags = [t.tag for t in (model.weight, again.weight)]
    return tags, model.seen.count, type(again.weight).__name__, [p.tolist() for p in again.parameters()]


def test_subclasses_of_parameters_take_arguments_in_new():
    torch = pytest.importorskip("torch")
    assert _subclasses(fastdl) == _subclasses(torch)
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        nn.Parameter(fastdl.ones(1), label="x")

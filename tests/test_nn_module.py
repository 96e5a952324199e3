"""Module: registration, walking, conversion, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F


def tensor(values, dtype=np.float32):
    return fastdl.from_numpy(np.array(values, dtype=dtype))


class Leaf(nn.Module):
    def __init__(self, size=3, bias=True):
        super().__init__()
        self.weight = nn.Parameter(tensor(np.arange(size)))
        if bias:
            self.bias = nn.Parameter(tensor([1.0]))
        else:
            self.register_parameter("bias", None)
        self.register_buffer("mean", tensor(np.zeros(size)))
        self.register_buffer("scratch", tensor([7.0]), persistent=False)
        self.size = size

    def forward(self, x):
        return F.relu(x)

    def extra_repr(self):
        return f"size={self.size}"


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Leaf()
        self.second = nn.Sequential(Leaf(2), Leaf(2, bias=False))
        self.gain = nn.Parameter(tensor(2.0))

    def forward(self, x):
        return self.second(self.first(x))


# Registration -------------------------------------------------------------------------------------


def test_order_and_names():
    net = Tree()
    assert [name for name, _ in net.named_parameters()] == [
        "gain",
        "first.weight",
        "first.bias",
        "second.0.weight",
        "second.0.bias",
        "second.1.weight",
    ]
    assert [name for name, _ in net.named_parameters("net", recurse=False)] == ["net.gain"]
    assert [name for name, _ in net.named_buffers()] == [
        f"{path}.{name}" for path in ("first", "second.0", "second.1") for name in ("mean", "scratch")
    ]
    assert [name for name, _ in net.named_modules()] == ["", "first", "second", "second.0", "second.1"]
    assert [name for name, _ in net.named_children()] == ["first", "second"]
    assert list(net.modules())[1] is net.first
    assert list(net.children()) == [net.first, net.second]


def test_shared_members_appear_once():
    net = nn.Module()
    net.a = Leaf()
    net.b = net.a
    net.c = nn.Module()
    net.c.weight = net.a.weight
    assert [name for name, _ in net.named_modules()] == ["", "a", "c"]
    assert [name for name, _ in net.named_modules(remove_duplicate=False)] == ["", "a", "b", "c"]
    assert [name for name, _ in net.named_parameters()] == ["a.weight", "a.bias"]
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert names == ["a.weight", "a.bias", "b.weight", "b.bias", "c.weight"]
    assert list(net.children()) == [net.a, net.c]


def test_reassignment_keeps_the_order_and_changes_kind():
    net = Leaf()
    net.weight = nn.Parameter(tensor([5.0]))
    assert [name for name, _ in net.named_parameters()] == ["weight", "bias"]
    net.weight = None
    assert net.weight is None
    assert [name for name, _ in net.named_parameters()] == ["bias"]
    net.mean = nn.Parameter(tensor([1.0]))  # a buffer becomes a parameter
    assert "mean" in dict(net.named_parameters())
    assert "mean" not in dict(net.named_buffers())
    net.plain = 3
    net.plain = Leaf()
    assert dict(net.named_children()) == {"plain": net.plain}
    del net.plain
    assert not hasattr(net, "plain")
    assert not list(net.children())


def test_buffer_class_registers():
    net = nn.Module()
    net.kept = nn.Buffer(tensor([1.0]))
    net.dropped = nn.Buffer(tensor([2.0]), persistent=False)
    assert [name for name, _ in net.named_buffers()] == ["kept", "dropped"]
    assert list(net.state_dict()) == ["kept"]


def test_registries_are_live():
    net = Leaf()
    assert dict(net._parameters) == {"weight": net.weight, "bias": net.bias}
    net._parameters["extra"] = nn.Parameter(tensor([1.0]))
    assert net.extra is net._parameters["extra"]
    del net._parameters["weight"]
    assert not hasattr(net, "weight")
    with pytest.raises(KeyError):
        net._parameters["mean"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", tensor([1.0]), "cannot assign 'fastdl.tensor.Tensor' as parameter 'weight'"),
        ("weight", 3, "cannot assign 'int' as parameter 'weight'"),
        ("child", 3, "cannot assign 'int' as child module 'child'"),
        ("mean", 3.0, "cannot assign 'float' as buffer 'mean'"),
    ],
)
def test_wrong_kinds_are_refused(name, value, message):
    net = Leaf()
    net.child = Leaf()
    with pytest.raises(TypeError, match=message):
        setattr(net, name, value)


def test_registration_errors():
    net = nn.Module()
    with pytest.raises(TypeError, match="should be a string"):
        net.register_parameter(3, None)
    for register, what in ((net.register_parameter, "parameter"), (net.register_buffer, "buffer")):
        with pytest.raises(KeyError, match=f"{what} name .*be empty string"):
            register("", None)
        with pytest.raises(KeyError, match=f"{what} name .*contain"):
            register("a.b", None)
        with pytest.raises(KeyError, match="'forward' already exists"):
            register("forward", None)
        with pytest.raises(TypeError, match=f"cannot assign 'int' object to {what} 'x'"):
            register("x", 1)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        net.add_module("x", 1)
    with pytest.raises(KeyError, match="'train' already exists"):
        net.add_module("train", nn.Identity())
    made = F.relu(nn.Parameter(tensor([1.0])))
    made.__class__ = nn.Parameter
    with pytest.raises(ValueError, match="parameters are leaves"):
        net.register_parameter("x", made)


def test_forgotten_super_init():
    class Forgetful(nn.Module):
        def __init__(self, value):
            self.thing = value

    for value, noun in ((nn.Identity(), "module"), (nn.Parameter(tensor([1.0])), "parameters")):
        with pytest.raises(AttributeError, match=rf"cannot assign {noun} before Module.__init__\(\) call"):
            Forgetful(value)


def test_missing_attribute_and_missing_forward():
    with pytest.raises(AttributeError, match="'Leaf' object has no attribute 'nothing'"):
        Leaf().nothing  # noqa: B018
    with pytest.raises(NotImplementedError, match="missing the required"):
        nn.Module()(1)


def test_getters():
    net = Tree()
    assert net.get_submodule("") is net
    assert net.get_submodule("second.0") is net.second[0]
    assert net.get_parameter("second.0.weight") is net.second[0].weight
    assert net.get_buffer("first.mean") is net.first.mean
    for get, target, message in (
        (net.get_submodule, "second.7", "Sequential has no attribute `7`"),
        (net.get_submodule, "first.weight", "`weight` is not an nn.Module"),
        (net.get_parameter, "first.mean", "`mean` is not an nn.Parameter"),
        (net.get_buffer, "first.weight", "`weight` is not a buffer"),
    ):
        with pytest.raises(AttributeError, match=message):
            get(target)
    net.set_submodule("second.0", nn.Identity())
    assert isinstance(net.second[0], nn.Identity)


# Everything below ---------------------------------------------------------------------------------


def test_train_eval_apply_requires_grad_zero_grad():
    net = Tree()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())
    with pytest.raises(ValueError, match="boolean"):
        net.train(1)
    order = []
    net.apply(lambda m: order.append(m))
    assert order == [net.first, net.second[0], net.second[1], net.second, net]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.gain.grad = tensor(3.0)
    net.zero_grad(set_to_none=False)
    assert net.gain.grad.numpy() == 0
    net.zero_grad()
    assert net.gain.grad is None


def test_conversion():
    net = Leaf()
    net.register_buffer("count", tensor([1], np.int64))
    net.weight.grad = tensor([1.0, 2.0, 3.0])
    kept = net.weight
    assert net.double() is net
    assert net.weight is kept
    assert {t.dtype for t in (net.weight, net.weight.grad, net.bias, net.mean)} == {np.dtype(np.float64)}
    assert net.count.dtype == np.int64
    assert net.float().weight.dtype == np.float32
    assert net.half().weight.dtype == np.float16
    assert net.to(np.float64).weight.dtype == np.float64
    assert net.to("cpu", dtype=np.float32).weight.dtype == np.float32
    assert net.to(tensor([1.0], np.float64)).weight.dtype == np.float64
    with pytest.raises(TypeError, match="floating-point and complex dtypes only"):
        net.to(np.int64)
    with pytest.raises(RuntimeError, match=r"device .cuda. is not available"):
        net.to("cuda")


def test_conversion_leaves_others_buffers_alone():
    shared = tensor([1.0, 2.0])
    net = nn.Module()
    net.register_buffer("first", shared)
    net.register_buffer("second", shared)
    assert net.float().first is shared
    net.double()
    assert shared.dtype == np.float32
    assert net.first.dtype == net.second.dtype == np.float64
    net._apply(lambda t: t + 1)
    assert net.first.tolist() == net.second.tolist() == [2, 3]


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_independent_and_keep_sharing(clone):
    net = Tree()
    net.tied = net.first.weight
    net.first.bias.requires_grad = False
    other = clone(net)
    assert repr(other) == repr(net)
    assert other.tied is other.first.weight
    assert other.first.weight is not net.first.weight
    assert isinstance(other.gain, nn.Parameter)
    assert not other.first.bias.requires_grad
    assert other.gain.requires_grad
    other.first.weight._data[...] = 77
    assert not (net.first.weight.detach().numpy() == 77).any()
    assert list(other.state_dict()) == list(net.state_dict())
    other.fresh = nn.Parameter(tensor([1.0]))
    assert "fresh" in dict(other.named_parameters())
    assert not hasattr(net, "fresh")


def test_parameter():
    p = nn.Parameter(tensor([1.0, 2.0]))
    assert p.requires_grad
    assert repr(p).startswith("Parameter containing:\n")
    data = np.ones(2, np.float32)
    assert np.shares_memory(nn.Parameter(data).detach().numpy(), data)
    assert not nn.Parameter(tensor([1.0]), requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="only floating-point and complex tensors"):
        nn.Parameter(tensor([1], np.int64))


def test_repr_is_torchs():
    torch = pytest.importorskip("torch")

    def build(nn):
        class Custom(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Flatten()])
                self.named = nn.ModuleDict(
                    {"a": nn.Identity(), "b": nn.Sequential(nn.Flatten(0), nn.Identity())}
                )
                self.empty = nn.Sequential()
                self.absent = None
                self.unflatten = nn.Unflatten(1, (2, -1))

            def extra_repr(self):
                return "one=1\ntwo=2"

        return Custom()

    assert repr(build(nn)) == repr(build(torch.nn))


class Wrapper(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(fastdl.ones(1))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def test_a_module_may_look_further_for_its_attributes():
    wrapper = Wrapper(nn.Linear(3, 2))
    assert wrapper.in_features == 3
    assert wrapper.weight is wrapper.base.weight
    assert list(wrapper.state_dict()) == ["scale", "base.weight", "base.bias"]
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'nothing'"):
        wrapper.nothing  # noqa: B018
    assert copy.deepcopy(wrapper).in_features == 3

"""Sequential, lists and dicts of modules and parameters."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn.modules import container
from parity import assert_close


class Add(nn.Module):
    def __init__(self, amount):
        super().__init__()
        self.amount = amount
        self.weight = nn.Parameter(np.full(1, amount, np.float32))

    def forward(self, x):
        return x + self.amount

    def extra_repr(self):
        return str(self.amount)


def amounts(modules):
    return [m.amount for m in modules]


def adds(*values):
    return [Add(v) for v in values]


# Sequential -------------------------------------------------------------------------------------------


def test_sequential_calls_in_order():
    net = nn.Sequential(*adds(1, 2), nn.Sequential(*adds(3)))
    assert net(10) == 16
    assert len(net) == 3
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "1.weight", "2.0.weight"]
    named = nn.Sequential(OrderedDict(a=Add(1), b=Add(2)))
    assert named(0) == 3
    assert list(named.state_dict()) == ["a.weight", "b.weight"]
    assert nn.Sequential()(7) == 7


def test_sequential_indexing():
    net = nn.Sequential(*adds(0, 1, 2, 3))
    assert net[-1].amount == 3
    assert isinstance(net[1:3], nn.Sequential)
    assert amounts(net[1:3]) == [1, 2]
    assert [n for n, _ in net[1:3].named_children()] == ["1", "2"]
    net[1] = Add(9)
    assert amounts(net) == [0, 9, 2, 3]
    del net[0]
    assert amounts(net) == [9, 2, 3]
    assert [n for n, _ in net.named_children()] == ["0", "1", "2"]
    del net[1:]
    assert amounts(net) == [9]
    named = nn.Sequential(OrderedDict(a=Add(1), b=Add(2), c=Add(3)))
    del named[0]
    assert [n for n, _ in named.named_children()] == ["0", "1"]
    for bad in (1, -2):
        with pytest.raises(IndexError, match=f"index {bad} is out of range"):
            net[bad]
    with pytest.raises(TypeError, match="integers or slices, got str"):
        net["0"]


def test_sequential_changes():
    net = nn.Sequential(*adds(1))
    assert net.append(Add(2)) is net
    net.insert(0, Add(0))
    net.insert(-1, Add(7))
    net.extend(adds(3, 4))
    assert amounts(net) == [0, 1, 7, 2, 3, 4]
    assert net.pop(2).amount == 7
    assert net.pop().amount == 4
    assert amounts(net) == [0, 1, 2, 3]
    assert [n for n, _ in net.named_children()] == ["0", "1", "2", "3"]
    both = net + nn.Sequential(*adds(8))
    assert amounts(both) == [0, 1, 2, 3, 8]
    assert both[0] is net[0]
    net += nn.Sequential(*adds(5))
    assert len(net) == 5
    assert amounts(nn.Sequential(*adds(1, 2)) * 2) == [1, 2, 1, 2]
    assert amounts(2 * nn.Sequential(*adds(1))) == [1, 1]
    twice = nn.Sequential(*adds(1))
    twice *= 3
    assert amounts(twice) == [1, 1, 1]
    with pytest.raises(IndexError):
        net.insert(9, Add(0))
    with pytest.raises(TypeError, match="module must be a Module, got int"):
        net.insert(0, 3)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        nn.Sequential(3)
    with pytest.raises(ValueError, match="only objects of Sequential class"):
        net + [Add(1)]  # noqa: RUF005
    with pytest.raises(ValueError, match="Non-positive"):
        net * 0


def test_linear_and_activation_run_as_one():
    calls = []
    original = container.linear

    def spy(*args):
        calls.append(args[3])
        return original(*args)

    def run(net, x):
        calls.clear()
        container.linear = spy
        try:
            return net(x)
        finally:
            container.linear = original

    x = fastdl.from_numpy(np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32))
    for activation in (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")):
        net = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3))
        y = run(net, x)
        assert len(calls) == 1
        separate = net[2](net[1](net[0](x)))
        assert_close(y.detach(), separate.detach(), 6)
        y.backward(fastdl.ones(5, 3))
        fused = [p.grad.numpy().copy() for p in net.parameters()]
        net.zero_grad()
        separate.backward(fastdl.ones(5, 3))
        for a, b in zip(fused, net.parameters(), strict=True):
            assert_close(a, b.grad, 6, scale=10)


def test_calls_of_their_own_are_not_passed_over(monkeypatch):
    class Counted(nn.Linear):
        def __call__(self, x):
            return super().__call__(x) + 100

    class Shifted(nn.ReLU):
        def __call__(self, x):
            return super().__call__(x) + 1000

    x = fastdl.tensor([[1.0, 2.0]])
    counted, plain = Counted(2, 2), nn.Linear(2, 2)
    assert (nn.Sequential(counted, nn.ReLU())(x) == counted(x).relu()).all()
    assert (nn.Sequential(plain, Shifted())(x) == plain(x).relu() + 1000).all()
    called, usual = [], nn.Module.__call__
    monkeypatch.setattr(
        nn.Module, "__call__", lambda self, *args: (called.append(type(self).__name__), usual(self, *args))[1]
    )
    nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))(x)
    assert called == ["Sequential", "Linear", "ReLU", "Linear"]


def test_hooks_and_subclasses_are_not_passed_over():
    class Mine(nn.Linear):
        def forward(self, x):
            return x

    x = fastdl.tensor([[-1.0, 2.0]])
    assert nn.Sequential(Mine(2, 2), nn.ReLU())(x).tolist() == [[0, 2]]
    for which in (0, 1):
        net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        seen = []
        handle = net[which].register_forward_hook(lambda m, args, out, seen=seen: seen.append(m))
        net(x)
        assert seen == [net[which]]
        handle.remove()
        net(x)
        assert len(seen) == 1
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net[0].forward = lambda x: x
    assert net(x).tolist() == [[0, 2]]


# ModuleList -------------------------------------------------------------------------------------------


def test_module_list():
    ml = nn.ModuleList(adds(0, 1))
    ml.append(Add(2)).extend(m for m in adds(3))
    ml += adds(4)
    ml.insert(0, Add(9))
    assert amounts(ml) == [9, 0, 1, 2, 3, 4]
    assert amounts(ml[1:3]) == [0, 1]
    assert isinstance(ml[1:3], nn.ModuleList)
    assert [n for n, _ in ml[1:3].named_children()] == ["0", "1"]
    assert amounts(ml + adds(7)) == [9, 0, 1, 2, 3, 4, 7]
    del ml[0]
    assert ml.pop(-1).amount == 4
    ml[0] = Add(5)
    assert amounts(ml) == [5, 1, 2, 3]
    assert [n for n, _ in ml.named_parameters()] == [f"{i}.weight" for i in range(4)]
    with pytest.raises(TypeError, match="should be called with an iterable, got int"):
        ml.extend(3)
    with pytest.raises(NotImplementedError, match=r"ModuleList.*forward"):
        ml(1)


# ModuleDict -------------------------------------------------------------------------------------------


def test_module_dict():
    md = nn.ModuleDict({"a": Add(1)})
    md["b"] = Add(2)
    md.update([("c", Add(3)), ["a", Add(4)]])
    md.update(nn.ModuleDict({"d": Add(5)}))
    assert list(md) == list(md.keys()) == ["a", "b", "c", "d"]
    assert amounts(md.values()) == [4, 2, 3, 5]
    assert dict(md.items())["b"] is md["b"]
    assert "a" in md
    assert len(md) == 4
    assert md.pop("b").amount == 2
    del md["c"]
    assert list(md.state_dict()) == ["a.weight", "d.weight"]
    with pytest.raises(KeyError):
        md["b"]
    with pytest.raises(KeyError, match="'keys' already exists"):
        md["keys"] = Add(1)
    with pytest.raises(TypeError, match="iterable of key/value pairs, but got int"):
        md.update(3)
    with pytest.raises(TypeError, match="#0 should be Iterable"):
        md.update([3])
    md.clear()
    assert len(md) == 0
    assert not list(md.parameters())


# Parameters -------------------------------------------------------------------------------------------


def test_parameter_list():
    pl = nn.ParameterList([fastdl.ones(2), nn.Parameter(fastdl.zeros(3))])
    pl.append(fastdl.zeros(1, dtype=fastdl.int64)).extend([7])
    assert all(isinstance(p, nn.Parameter) for p in pl[:3])
    assert pl[3] == 7
    assert pl[0].requires_grad
    assert not pl[2].requires_grad
    assert len(pl) == 4
    assert [n for n, _ in pl.named_parameters()] == ["0", "1", "2"]
    pl[0] = fastdl.full((2,), 3.0)
    assert pl[-4].tolist() == [3, 3]
    assert pl.pop().__class__ is int
    assert pl.pop(0).tolist() == [3, 3]
    assert [tuple(p.shape) for p in pl] == [(3,), (1,)]
    other = copy.deepcopy(pl)
    assert [tuple(p.shape) for p in other] == [(3,), (1,)]
    with pytest.raises(IndexError, match="index 2 is out of range"):
        pl[2]
    with pytest.raises(TypeError, match="iterable, but got Tensor"):
        pl.extend(fastdl.ones(2))
    with pytest.raises(RuntimeError, match="should not be called"):
        pl()


def test_parameter_dict():
    pd = nn.ParameterDict({"a": fastdl.ones(2)})
    pd["b"] = nn.Parameter(fastdl.zeros(3))
    pd.update({"c": fastdl.ones(1)})
    assert list(pd) == ["a", "b", "c"]
    unordered = {"z": fastdl.ones(1), "y": fastdl.ones(1)}
    assert list(nn.ParameterDict(unordered)) == ["y", "z"]
    assert list(nn.ParameterDict(OrderedDict(unordered))) == ["z", "y"]
    assert list(nn.ParameterDict(unordered.items()).copy()) == ["z", "y"]
    assert list(reversed(pd)) == ["c", "b", "a"]
    assert isinstance(pd["a"], nn.Parameter)
    assert [n for n, _ in pd.named_parameters()] == ["a", "b", "c"]
    assert pd.get("x", 3) == 3
    assert pd.setdefault("d", fastdl.ones(4)).shape == (4,)
    assert pd.pop("d").shape == (4,)
    assert pd.popitem()[0] == "c"
    merged = pd | nn.ParameterDict({"e": fastdl.ones(1)})
    assert list(merged) == ["a", "b", "e"]
    pd |= {"f": fastdl.ones(1)}
    assert list(pd.copy().keys()) == ["a", "b", "f"]
    assert list(pd.fromkeys(["x"], 1).items()) == [("x", 1)]
    del pd["a"]
    assert "a" not in pd
    assert not hasattr(pd, "a")
    with pytest.raises(KeyError):
        pd["a"]
    with pytest.raises(KeyError, match="already exists"):
        pd["update"] = fastdl.ones(1)
    with pytest.raises(TypeError, match="keys are strings, got int"):
        pd[1] = fastdl.ones(1)
    pd.clear()
    assert len(pd) == 0
    with pytest.raises(KeyError):
        pd.popitem()


def test_reprs_are_torchs():
    torch = pytest.importorskip("torch")

    def build(nn, ones):
        return [
            nn.ParameterList([ones(2, 3), ones(1)]),
            nn.ParameterDict({"a": ones(2)}),
            nn.ModuleList(),
            nn.ModuleList([nn.Linear(1, 2), nn.Linear(1, 2), nn.ReLU(), nn.Linear(1, 2)]),
            nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sequential(nn.ReLU())),
            nn.ModuleDict({"x": nn.ModuleList([nn.Sequential(nn.Tanh())] * 2)}),
        ]

    for ours, theirs in zip(build(nn, fastdl.ones), build(torch.nn, torch.ones), strict=True):
        assert repr(ours) == repr(theirs).replace("torch.float32", "float32").replace(
            "torch.FloatTensor", "fastdl.FloatTensor"
        )


def test_reshaping_layers():
    torch = pytest.importorskip("torch")
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for build in (
        lambda nn: nn.Flatten(),
        lambda nn: nn.Flatten(0, 1),
        lambda nn: nn.Flatten(-1),
        lambda nn: nn.Unflatten(1, (3, 1)),
        lambda nn: nn.Unflatten(-1, (2, -1)),
        lambda nn: nn.Identity(3, a=4),
    ):
        ours, theirs = build(nn), build(torch.nn)
        np.testing.assert_array_equal(ours(fastdl.tensor(x)).numpy(), theirs(torch.from_numpy(x)).numpy())
        assert repr(ours) == repr(theirs)
    leaf = fastdl.tensor(x, requires_grad=True)
    nn.Flatten()(leaf).backward(fastdl.tensor(x.reshape(2, 12)))
    np.testing.assert_array_equal(leaf.grad.numpy(), x)
    with pytest.raises(TypeError, match="but found element of type str at pos 1"):
        nn.Unflatten(1, (2, "x"))
    with pytest.raises(TypeError, match="must be a tuple of ints, but found type int"):
        nn.Unflatten(1, 2)
    with pytest.raises(TypeError, match="Unflatten: dim must be an int"):
        nn.Unflatten("x", (2,))


def test_what_a_module_holds_can_be_walked_backwards():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert list(reversed(net._modules)) == ["2", "1", "0"]
    assert [name for name, _ in reversed(net._modules.items())] == ["2", "1", "0"]
    assert dict(net[0]._parameters.items()) == {"weight": net[0].weight, "bias": net[0].bias}
    assert len(net._modules.items()) == 3


@pytest.mark.parametrize("kind", [nn.Linear, nn.ReLU])
def test_sequential_calls_what_stands_in_a_class_s_forward(kind, monkeypatch):
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: own(self, x) + 5)
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = fastdl.ones(1, 2)
    np.testing.assert_array_equal(net(x).detach().numpy(), net[1](net[0](x)).detach().numpy())
    assert (net(x) >= 3).all()

"""Module: hooks of one module and of all, on calls, gradients and registration."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from collections import OrderedDict

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F
from fastdl.utils import hooks
from test_nn_module import Leaf, Tree, tensor


def test_forward_hooks_order_replacement_and_removal():
    net = Leaf()
    calls = []
    net.register_forward_pre_hook(lambda m, args: calls.append("pre") or (args[0],))
    first = net.register_forward_pre_hook(lambda m, args: calls.append("pre first"), prepend=True)
    post = net.register_forward_hook(lambda m, args, out: calls.append("post") or tensor([42.0]))
    out = net(tensor([-1.0]))
    assert calls == ["pre first", "pre", "post"]
    assert out.numpy() == [42.0]
    first.remove()
    first.remove()
    with post:
        pass
    calls.clear()
    assert net(tensor([-1.0])).detach().numpy() == [0.0]
    assert calls == ["pre"]
    net._forward_pre_hooks.clear()
    net(tensor([-1.0]))
    assert calls == ["pre"]
    assert not net._hooked  # back on the fast way


def test_hooks_with_kwargs():
    class Scaled(nn.Module):
        def forward(self, x, negate=False):
            return tensor(-x.numpy()) if negate else x

    net = Scaled()
    seen = []
    net.register_forward_pre_hook(lambda m, args, kwargs: (args, {"negate": True}), with_kwargs=True)
    net.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert net(tensor([2.0])).detach().numpy() == [-2.0]
    assert seen == [{"negate": True}]
    net.register_forward_pre_hook(lambda m, args, kwargs: 1, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"\(new_args, new_kwargs\)"):
        net(tensor([2.0]))


def test_always_call():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("broken forward")

    net = Broken()
    seen = []
    net.register_forward_hook(lambda m, args, out: seen.append("skipped"))
    net.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(ValueError, match="broken forward"):
        net(1)
    assert seen == [None]


def test_full_backward_hook_sees_and_replaces():
    net = Leaf()
    seen = []

    def hook(module, grad_input, grad_output):
        seen.append((module, grad_input[0].numpy().copy(), grad_output[0].numpy().copy()))
        return (tensor(grad_input[0].numpy() * 10),)

    net.register_full_backward_hook(hook)
    net.register_full_backward_pre_hook(lambda m, grad_output: (tensor(grad_output[0].numpy() + 1),))
    x = tensor([-1.0, 2.0])
    x.requires_grad = True
    net(x).backward(tensor([3.0, 5.0]))
    ((module, grad_input, grad_output),) = seen
    assert module is net
    np.testing.assert_array_equal(grad_output, [4, 6])
    np.testing.assert_array_equal(grad_input, [0, 6])
    np.testing.assert_array_equal(x.grad.numpy(), [0, 60])


def test_full_backward_hook_without_input_gradient():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(tensor([1.0]))

        def forward(self, x):
            return F.relu(self.w), F.relu(self.w)

    net = Constant()
    seen = []
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, [g.numpy()[0] for g in go])))
    first, _ = net(3)
    first.backward(tensor([2.0]))
    assert seen == [((None,), [2.0, 0.0])]
    assert net.w.grad.numpy() == [2.0]


def test_modules_with_hooks_die_without_the_collector():
    gc.disable()
    try:
        net = Tree()
        net.register_forward_hook(lambda *a: None)
        ref = weakref.ref(net)
        net(tensor([1.0]))
        del net
        assert ref() is None
    finally:
        gc.enable()


def _global_hooks_story(lib):
    """What global hooks of ``lib`` saw: calls, gradients and members of a small model, and its numbers."""
    module = lib.nn.modules.module
    seen = []

    def note(kind, result=None):
        def hook(m, *rest):
            shapes = [
                tuple(r.shape) if hasattr(r, "shape") else r if isinstance(r, str) else None for r in rest
            ]
            seen.append((kind, type(m).__name__, shapes))
            return result(rest) if result else None

        return hook

    handles = [
        module.register_module_parameter_registration_hook(note("parameter")),
        module.register_module_buffer_registration_hook(note("buffer")),
        module.register_module_module_registration_hook(note("module")),
    ]
    model = lib.nn.Sequential(lib.nn.Linear(3, 2), lib.nn.BatchNorm1d(2), lib.nn.ReLU())
    model.add_module("last", lib.nn.Tanh())
    other = lib.nn.Module()
    other.extra = lib.nn.Identity()
    other.extra = None
    other.register_buffer("none", None)
    other.none = lib.ones(1)
    other.register_parameter("no", None)
    for handle in handles:
        handle.remove()
    model.double()
    model[0].weight.data.copy_(lib.arange(6.0).reshape(2, 3))
    model[0].bias.data.fill_(0.5)
    other.unseen = lib.nn.Identity()
    own = model[0].register_forward_hook(note("own forward"))
    handles = [
        module.register_module_forward_pre_hook(note("pre", lambda r: (r[0][0] * 2,))),
        module.register_module_forward_hook(note("forward", lambda r: r[1] + 1)),
        module.register_module_forward_hook(note("with kwargs"), with_kwargs=True),
        module.register_module_full_backward_pre_hook(note("backward pre", lambda r: (r[0][0] * 3,))),
        module.register_module_full_backward_hook(note("backward", lambda r: (r[0][0] * 2,))),
    ]
    x = lib.tensor(
        [[1.0, 2.0, 4.0], [0.5, -1.0, 2.0], [3.0, 0.25, 1.0]], dtype=lib.float64, requires_grad=True
    )
    y = model(x)
    for handle in handles:  # a call takes the backward hooks that were there when it began
        handle.remove()
    y.square().sum().backward()
    own.remove()
    again = model(x)
    return (
        seen,
        y.detach().numpy(),
        x.grad.numpy(),
        model[0].weight.grad.numpy(),
        again.detach().numpy(),
    )


def test_global_hooks_agree_with_torch():
    torch = pytest.importorskip("torch")
    ours, theirs = _global_hooks_story(fastdl), _global_hooks_story(torch)
    assert ours[0] == theirs[0]
    assert len(ours[0]) > 30
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_global_registration_hooks_replace_and_are_removed():
    from fastdl.nn.modules import module

    class Marked(nn.Parameter):
        pass

    with module.register_module_parameter_registration_hook(lambda m, name, p: Marked(p.detach())):
        layer = nn.Linear(2, 2)
    assert type(layer.weight) is Marked
    assert [type(p) for p in nn.Linear(2, 2).parameters()] == [nn.Parameter] * 2
    with module.register_module_module_registration_hook(lambda m, name, child: nn.Tanh()):
        model = nn.Sequential(nn.ReLU())
    assert isinstance(model[0], nn.Tanh)
    with module.register_module_buffer_registration_hook(lambda m, name, b: tensor([3.0])):
        model.register_buffer("three", None)
    assert model.three.item() == 3.0


def test_global_forward_hooks_leave_nothing_behind():
    """After the last one is gone, a call goes the fast way again; a fused ``Sequential`` shows its layers to hooks."""
    from fastdl.nn.modules import module

    seen = []
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tensor([[1.0, 2.0]])
    before = model(x).detach()
    own = model[1].register_forward_hook(lambda *_: None)
    handle = module.register_module_forward_hook(lambda m, args, y: seen.append(type(m).__name__))
    model(x)
    assert seen == ["Linear", "ReLU", "Sequential"]
    handle.remove()
    own.remove()
    for _ in range(2):
        np.testing.assert_array_equal(model(x).detach().numpy(), before.numpy())
    assert not nn.Module._hooked
    assert not any("_hooked" in m.__dict__ for m in model.modules())
    assert len(seen) == 3

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with (
        module.register_module_forward_hook(lambda m, args, y: seen.append(y), always_call=True),
        pytest.raises(RuntimeError, match="no"),
    ):
        Fails()(x)
    assert seen[3:] == [None]
    with pytest.raises(TypeError, match="register_module_forward_hook: hook must be a function, got int"):
        module.register_module_forward_hook(3)


def test_registries_hold_the_hooks_themselves():
    """Programs look for hooks of theirs: ``isinstance(hook, Mine)``."""
    net = nn.Linear(2, 2)

    def before(module, args, kwargs):
        return args, kwargs

    def after(module, args, output):
        return output * 2

    net.register_forward_pre_hook(before, with_kwargs=True)
    net.register_forward_hook(after, always_call=True)
    assert list(net._forward_pre_hooks.values()) == [before]
    assert list(net._forward_hooks.values()) == [after]
    again = copy.deepcopy(net)
    x = fastdl.ones(1, 2)
    np.testing.assert_array_equal(again(x).detach().numpy(), net(x).detach().numpy())
    np.testing.assert_array_equal(net(x).detach().numpy(), 2 * net.forward(x).detach().numpy())


def _doubled(module, args, kwargs):
    return tuple([arg * 2 for arg in args]), kwargs


def _plus_one(module, args, output):
    return output + 1


def test_hooks_of_a_stored_model_are_called_as_before():
    net = nn.Linear(2, 2)
    net.register_forward_pre_hook(_doubled, with_kwargs=True)
    # What a removed hook leaves behind is nobody else's.
    net.register_forward_hook(_doubled, with_kwargs=True, always_call=True).remove()
    kept = net.register_forward_hook(_plus_one)
    assert net._forward_hooks.with_kwargs == net._forward_hooks.always_call == set()
    again = pickle.loads(pickle.dumps(net))
    x = fastdl.ones(1, 2)
    np.testing.assert_array_equal(again(x).detach().numpy(), net(x).detach().numpy())
    # Another process numbers its hooks anew: one with the number of a hook that is there already.
    hooks._next_id, before = itertools.count(kept.id).__next__, hooks._next_id
    try:
        again.register_forward_hook(_plus_one)
    finally:
        hooks._next_id = before
    assert len(again._forward_hooks) == 2
    np.testing.assert_array_equal(again(x).detach().numpy(), net(x).detach().numpy() + 1)


def test_registries_can_be_replaced():
    """``module._forward_hooks = OrderedDict()`` rids a model of hooks whose handles nobody kept."""
    net = nn.Linear(2, 2)
    x = fastdl.ones(1, 2)
    plain = net(x).detach().numpy()
    for register in (net.register_forward_hook, net.register_forward_pre_hook):
        register(lambda *_: 1 / 0)
    net.register_full_backward_hook(lambda *_: 1 / 0)
    net.register_full_backward_pre_hook(lambda *_: 1 / 0)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(net, name, OrderedDict())
    y = net(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.detach().numpy(), plain)
    net._forward_hooks = OrderedDict({3: _plus_one})
    net.register_forward_hook(_plus_one)
    np.testing.assert_array_equal(net(x).detach().numpy(), (y + 1 + 1).detach().numpy())


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_backward_hooks_of_second_derivatives_are_pytorchs():
    """A second derivative that reaches a module's inputs, but not its outputs, calls no hook."""
    torch = pytest.importorskip("torch")

    def run(lib):
        calls = []
        net = lib.nn.Sequential(lib.nn.Tanh(), lib.nn.SiLU())
        for i, layer in enumerate(net):
            layer.register_full_backward_pre_hook(lambda m, grads, i=i: calls.append(("before", i)))
            layer.register_full_backward_hook(
                lambda m, to_x, to_y, i=i: calls.append((i, to_y[0].sum().item()))
            )
        x = lib.tensor([[0.5, -1.0, 2.0]], requires_grad=True)
        (slope,) = lib.autograd.grad(net(x).sum(), x, create_graph=True)
        calls.append("second")
        slope.square().sum().backward()
        return [(call[0], pytest.approx(call[1], rel=1e-4)) if call != "second" else call for call in calls]

    assert run(fastdl) == run(torch)

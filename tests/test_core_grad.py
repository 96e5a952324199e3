"""Gradients of chosen tensors: autograd.grad, backward(inputs=), gradient edges, derivatives of functions."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import fastdl
from fastdl.autograd.op import Op
from fastdl.nn import functional as F
from parity import leaf


def test_backward_inputs():
    x, w = leaf([2.0]), leaf([5.0])
    h = x * w
    (h * h).backward(inputs=[w])
    assert x.grad is None
    assert w.grad.tolist() == [40.0]
    h = x * w
    (h * h).sum().backward(inputs=[h], retain_graph=True)
    assert h.grad.tolist() == [20.0]
    with pytest.raises(RuntimeError, match="must not be empty"):
        (x * 2).sum().backward(inputs=[])


def test_grad_leaves_no_trace():
    x, w = leaf([2.0]), leaf([5.0])
    h = x * w
    gx, gh = fastdl.autograd.grad(h * h, (x, h))
    assert (gx.tolist(), gh.tolist()) == ([100.0], [20.0])
    assert x.grad is None
    assert w.grad is None


def test_grad_runs_only_what_it_needs():
    ran = []

    class Tell(Op):
        def forward(self, x, name):
            self.label = name
            return x * 1

        def backward(self, grad):
            ran.append(self.label)
            return grad * 1

    x = leaf([2.0])
    h = Tell.apply(x, name="below")
    y = Tell.apply(h, name="above") + Tell.apply(x, name="beside")
    (g,) = fastdl.autograd.grad(y, h, retain_graph=True)
    assert g.tolist() == [1.0]
    assert ran == ["above"]
    y.backward()
    assert sorted(ran) == ["above", "above", "below", "beside"]


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_that_nobody_asked_for_are_not_computed(create_graph, monkeypatch):
    """As in PyTorch's engine: layers on the way are not asked for their weights' gradients, hooks there are silent."""
    asked, called = [], []
    for layer in (fastdl.ops.linear.Linear, fastdl.ops.conv.Conv):
        for name in ("backward", "backward_graph"):
            compute = getattr(layer, name)

            def backward(self, grad, label=layer.__name__, compute=compute):
                result = compute(self, grad)
                asked.append((label, tuple(g is not None for g in result)))
                return result

            monkeypatch.setattr(layer, name, backward)
    fastdl.manual_seed(0)
    conv, last = fastdl.nn.Conv2d(2, 3, 3), fastdl.nn.Linear(27, 4)
    x = fastdl.randn(5, 2, 5, 5, requires_grad=True)
    h = conv(x)
    h.retain_grad()
    beside = h.flatten(1) * leaf([2.0])  # not on the way to what is asked for
    beside.register_hook(lambda g: called.append("beside"))
    last.weight.register_hook(lambda g: called.append("weight"))
    y = last(F.relu(h).flatten(1)).square().sum()
    everything = [x, conv.weight, conv.bias, last.weight, last.bias]
    whole = fastdl.autograd.grad(y, everything, retain_graph=True)
    assert called.pop() == "weight"
    total = y + beside.sum()

    def check(wanted, expected, root=y):
        asked.clear()
        found = fastdl.autograd.grad(root, [everything[i] for i in wanted], None, True, create_graph)
        assert asked == expected
        for i, g in zip(wanted, found, strict=True):
            np.testing.assert_allclose(g.detach().numpy(), whole[i].numpy(), 1e-5, 1e-6)

    only_x, all_three = (True, False, False), (True, True, True)
    check([0], [("Linear", only_x), ("Conv", only_x)])
    assert h.grad is not None
    check([1], [("Linear", only_x), ("Conv", (False, True, False))])
    check([2, 0], [("Linear", only_x), ("Conv", (True, False, True))])
    check([4], [("Linear", (False, False, True))])
    check([4], [("Linear", (False, False, True))], total)
    assert called == []
    check(
        [3, 4, 1, 2, 0], [("Linear", all_three), ("Conv", all_three)]
    )  # what was left out before is not forgotten
    asked.clear()
    y.backward(inputs=[x], retain_graph=True, create_graph=create_graph)
    assert asked == [("Linear", only_x), ("Conv", only_x)]
    assert conv.weight.grad is None
    np.testing.assert_allclose(x.grad.detach().numpy(), whole[0].numpy(), 1e-5, 1e-6)
    x.grad = None
    y.backward()
    for t, g in zip(everything, whole, strict=True):
        np.testing.assert_allclose(t.grad.numpy(), g.numpy(), 1e-5, 1e-6)


def test_an_error_in_a_partial_backward_leaves_the_node_whole():
    class Fails(Op):
        def forward(self, x, y):
            return x + y

        def backward(self, grad):
            if self.needs != (True, True):
                raise ArithmeticError
            return grad * 1, grad * 2

    x, y = leaf([1.0]), leaf([1.0])
    z = Fails.apply(x, y)
    with pytest.raises(ArithmeticError):
        fastdl.autograd.grad(z, x, retain_graph=True)
    assert [g.item() for g in fastdl.autograd.grad(z, (x, y))] == [1, 2]


def test_grad_of_unused():
    x, w = leaf([2.0]), leaf([5.0])
    with pytest.raises(RuntimeError, match=r"inputs\[1\] was not used"):
        fastdl.autograd.grad(x * 2, (x, w))
    assert fastdl.autograd.grad(x * 2, (x, w), allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match=r"inputs\[0\] does not require"):
        fastdl.autograd.grad(x * 2, fastdl.ones(1))


def test_gradcheck_accepts_and_refuses():
    x = leaf([[0.5, -1.5], [2.0, 0.25]], dtype=fastdl.float64)
    assert fastdl.autograd.gradcheck(lambda x: (x * x, x.exp()), x)

    class Wrong(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    with pytest.raises(
        fastdl.autograd.GradcheckError, match=r"output 0 with respect to input 0.*\n.*input\[1, 0\]"
    ):
        fastdl.autograd.gradcheck(Wrong.apply, x)
    assert not fastdl.autograd.gradcheck(Wrong.apply, x, raise_exception=False)
    with pytest.raises(ValueError, match="at least one input"):
        fastdl.autograd.gradcheck(Wrong.apply, fastdl.ones(1))
    with pytest.warns(UserWarning, match="float32"):
        fastdl.autograd.gradcheck(lambda x: x * 2, leaf([1.0]), eps=1e-2, atol=1e-2)


def test_jacobian_and_vjp_like_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3)), rng.standard_normal(3)

    def f(x, y):
        return (x * y).sum(1), x.exp() * 2, y * 0 + 1

    ours = fastdl.autograd.functional.jacobian(f, (fastdl.tensor(a), fastdl.tensor(b)))
    theirs = torch.autograd.functional.jacobian(f, (torch.tensor(a), torch.tensor(b)))
    for got, want in zip(ours, theirs, strict=True):
        for g, w in zip(got, want, strict=True):
            assert g.shape == tuple(w.shape)
            np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-13)
    v = rng.standard_normal(2)
    value, grads = fastdl.autograd.functional.vjp(
        lambda x, y: (x * y).sum(1), (fastdl.tensor(a), fastdl.tensor(b)), fastdl.tensor(v)
    )
    want_value, want = torch.autograd.functional.vjp(
        lambda x, y: (x * y).sum(1), (torch.tensor(a), torch.tensor(b)), torch.tensor(v)
    )
    np.testing.assert_allclose(value.numpy(), want_value.numpy())
    for g, w in zip(grads, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-13)


def test_gradient_edges_stand_for_tensors():
    results = []
    for lib in (fastdl, pytest.importorskip("torch")):
        graph = lib.autograd.graph
        x = lib.tensor([2.0, 3.0], requires_grad=True)
        y = x * x
        a, b = y.unbind()
        z = (a * b * y).sum()
        at_x, at_y, at_b = (graph.get_gradient_edge(t) for t in (x, y, b))
        assert isinstance(at_y, graph.GradientEdge)
        assert at_y.node is y.grad_fn
        assert (at_x.output_nr, at_y.output_nr) == (0, 0)
        grad = lib.autograd.grad
        found = [
            *grad(z, [at_x, at_y, b], retain_graph=True),
            *grad(z, at_b, retain_graph=True),
            *grad(at_y, x, lib.tensor([1.0, 10.0]), retain_graph=True),
            *grad([at_y, at_b], [at_x], [lib.tensor([1.0, 10.0]), lib.tensor(7.0)], retain_graph=True),
            *grad(grad(z, at_x, create_graph=True)[0].sum(), at_x, retain_graph=True),
            *grad(z, [graph.GradientEdge(y.grad_fn, 0), graph.GradientEdge(at_x.node, 0)], retain_graph=True),
        ]
        lib.autograd.backward(z, inputs=[at_x], retain_graph=True)
        lib.autograd.backward([at_y], [lib.ones(2)], retain_graph=True)
        found.append(x.grad)
        results.append([t.detach().numpy() for t in found])
        with pytest.raises(RuntimeError, match="require"):
            graph.get_gradient_edge(lib.ones(2))
        with pytest.raises(RuntimeError):
            grad(at_y, x)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b)
    with pytest.raises(TypeError, match="get_gradient_edge: tensor must be a Tensor, got int"):
        fastdl.autograd.graph.get_gradient_edge(3)


def test_a_gradient_edge_holds_no_values():
    x = fastdl.ones(1000, requires_grad=True)
    y = x + 1
    edge, values = fastdl.autograd.graph.get_gradient_edge(y), weakref.ref(y)
    total = y.sum()
    del y
    assert values() is None
    assert edge.ownership_token._data.strides == (0,)
    assert fastdl.autograd.grad(total, edge)[0].tolist() == [1.0] * 1000

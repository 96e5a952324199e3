"""``fastdl.func``: derivatives of functions, nested and of structures, beside torch's."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.autograd.op import Op
from fastdl.nn import functional as F

torch = pytest.importorskip("torch")
X = np.random.default_rng(0).standard_normal(4)
W = np.random.default_rng(1).standard_normal((3, 4))


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [n for v in value for n in _numbers(v)]
    assert not value.requires_grad
    return [value.detach().numpy()]


def _f(x):
    return (x.sin() * x * x).sum()


def _g(x, w):
    return (w @ x).tanh()


def _pulled(result):
    y, pull = result
    return y, pull(y)


CASES = {
    "grad": lambda F, t: F.grad(_f)(t(X)),
    "grad twice": lambda F, t: F.grad(lambda x: F.grad(_f)(x).square().sum())(t(X)),
    "grad three times": lambda F, t: F.grad(F.grad(F.grad(lambda x: x.sin() * x)))(t(X)[0]),
    "argnums": lambda F, t: F.grad(lambda x, w: _g(x, w).sum(), argnums=(0, 1))(t(X), t(W)),
    "argnums -1": lambda F, t: F.grad(lambda x, w: _g(x, w).sum(), argnums=-1)(t(X), t(W)),
    "unused": lambda F, t: F.grad(lambda x, w: x.sum(), argnums=1)(t(X), t(W)),
    "aux": lambda F, t: F.grad(lambda x: (_f(x), {"y": x * 2}), has_aux=True)(t(X)),
    "dictionary": lambda F, t: F.grad(lambda p, x: (p["w"] @ x + p["b"]).square().sum())(
        {"w": t(W), "b": t(X)[:3]}, t(X)
    ),
    "value": lambda F, t: F.grad_and_value(_f)(t(X)),
    "value aux": lambda F, t: F.grad_and_value(lambda x: (_f(x), x.exp()), has_aux=True)(t(X)),
    "vjp": lambda F, t: _pulled(F.vjp(_g, t(X), t(W))),
    "jvp": lambda F, t: F.jvp(_g, (t(X), t(W)), (t(X) * 2, t(W))),
    "jacrev": lambda F, t: F.jacrev(_g)(t(X), t(W)),
    "jacrev of both": lambda F, t: F.jacrev(_g, argnums=(0, 1))(t(X), t(W)),
    "jacfwd": lambda F, t: F.jacfwd(_g, argnums=1)(t(X), t(W)),
    "jacrev of several": lambda F, t: F.jacrev(lambda x: (x * 2, x.sum()))(t(X)),
    "hessian": lambda F, t: F.hessian(_f)(t(X)),
    "grad of jacobian": lambda F, t: F.grad(lambda x: F.jacrev(lambda z: z**3)(x).sum())(t(X)),
    "vmap of grad": lambda F, t: F.vmap(F.grad(_f))(t(W)),
    "vmap of dictionary": lambda F, t: F.vmap(lambda p, x: {"y": p["w"] * x}, in_dims=(0, None))(
        {"w": t(W)}, t(X)
    ),
    "cotangents that vary": lambda F, t: F.grad(lambda v: F.vjp(_g, t(X), t(W))[1](v)[0].square().sum())(
        t(X)[:3]
    ),
    "vjp seen from outside": lambda F, t: F.grad(lambda x: _pulled(F.vjp(lambda z: z.sin(), x))[1][0].sum())(
        t(X)
    ),
    "jacobian seen from outside": lambda F, t: F.jacrev(lambda w: F.jacrev(lambda x: (x * w).sin())(t(X)))(
        t(W[0])
    ),
    "per-sample gradients": lambda F, t: F.vmap(F.grad(lambda p, x: (p * x).sin().sum()), in_dims=(None, 0))(
        t(X), t(W)
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_same(name):
    import torch.func

    got = _numbers(CASES[name](fastdl.func, fastdl.tensor))
    expected = _numbers(CASES[name](torch.func, torch.tensor))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_an_outer_backward_sees_through():
    results = []
    for library in (fastdl, torch):
        w = library.tensor(X, requires_grad=True)
        slope = library.func.grad(lambda x, w=w: (x * w).sin().sum())(library.tensor(W[0]))
        assert slope.requires_grad
        slope.square().sum().backward()
        results.append(w.grad.numpy())
    np.testing.assert_allclose(*results, rtol=1e-10)


def test_first_derivatives_need_first_derivatives_only():
    """Where nobody differentiates the result again, backward computes on arrays."""

    class Doubled(Op):
        def forward(self, x):
            return x * 2

        def backward(self, grad):
            return grad * 2

    f, x = Doubled.apply, fastdl.ones(2)
    assert fastdl.func.grad(lambda x: f(x).sum())(x).tolist() == [2, 2]
    assert fastdl.func.jacrev(f)(x).tolist() == [[2, 0], [0, 2]]
    assert fastdl.func.vjp(f, x)[1](x)[0].tolist() == [2, 2]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        fastdl.func.hessian(lambda x: f(x).sum())(x)


def test_an_ensemble():
    models = [fastdl.nn.Linear(4, 2).double() for _ in range(3)]
    parameters, buffers = fastdl.func.stack_module_state(models)
    assert parameters["weight"].shape == (3, 2, 4)
    assert buffers == {}
    x = fastdl.rand(5, 4, dtype=fastdl.float64)
    together = fastdl.vmap(lambda p: fastdl.func.functional_call(models[0], p, (x,)))(parameters)
    for model, y in zip(models, together, strict=True):
        np.testing.assert_allclose(y.detach().numpy(), model(x).detach().numpy(), rtol=1e-6)


def test_messages():
    x = fastdl.ones(3)
    with pytest.raises(
        RuntimeError, match=r"grad: func must return a tensor of 0 dimensions, got shape \(3,\)"
    ):
        fastdl.func.grad(lambda x: x * 2)(x)
    with pytest.raises(ValueError, match="argnums 1 does not name one of 1"):
        fastdl.func.grad(_f, argnums=1)(x)
    with pytest.raises(TypeError, match="grad: argument 0 must be a Tensor, got numpy"):
        fastdl.func.grad(_f)(X)
    with pytest.raises(RuntimeError, match=r"must return \(output, aux\)"):
        fastdl.func.grad(_f, has_aux=True)(x)
    with pytest.raises(RuntimeError, match="expected at least one model"):
        fastdl.func.stack_module_state([])


def test_grad_takes_any_iterable_of_inputs():
    model = fastdl.nn.Linear(2, 1)
    loss = model(fastdl.ones(2)).sum()
    a = fastdl.autograd.grad(loss, model.parameters(), retain_graph=True)
    b = fastdl.autograd.grad(loss, dict(model.named_parameters()).values())
    assert [t.tolist() for t in a] == [t.tolist() for t in b] == [[[1.0, 1.0]], [1.0]]


@pytest.mark.parametrize("extent", [2, 5, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan(extent, reverse):
    from fastdl.higher_order import associative_scan

    a, b = [fastdl.rand(2, extent, 3, dtype=fastdl.float64, requires_grad=True) for _ in range(2)]
    step = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])  # noqa: E731
    states = associative_scan(step, (a, b), dim=1, reverse=reverse)[1]
    state, expected = fastdl.zeros(2, 3, dtype=fastdl.float64), []
    for i in range(extent)[:: -1 if reverse else 1]:
        state = a[:, i] * state + b[:, i]
        expected.append(state)
    wanted = fastdl.stack(expected[:: -1 if reverse else 1], 1)
    np.testing.assert_allclose(states.detach().numpy(), wanted.detach().numpy(), rtol=1e-12)
    for one, other in zip(
        fastdl.autograd.grad(states.square().sum(), (a, b)),
        fastdl.autograd.grad(wanted.square().sum(), (a, b)),
        strict=True,
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="combine_mode"):
        associative_scan(step, (a, b), 1, combine_mode="other")


class Tied(fastdl.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = fastdl.nn.Embedding(5, 3), fastdl.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index):
        return self.head(self.embed(index))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_functional_call_of_tied_weights(name):
    """One tensor in two places is replaced in both, as named_parameters() gives it once."""
    model, index = Tied(), fastdl.tensor([0, 3])
    weight = fastdl.randn(5, 3, requires_grad=True)
    call = fastdl.func.functional_call
    expected = F.linear(weight[index], weight)
    y = call(model, {name: weight}, index)
    assert fastdl.equal(y, expected)
    (together,) = fastdl.autograd.grad(y.sum(), [weight])
    (wanted,) = fastdl.autograd.grad(expected.sum(), [weight])
    np.testing.assert_allclose(together.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert model.head.weight is model.embed.weight
    assert fastdl.equal(call(model, {name: weight}, index, strict=True), expected)
    apart = call(model, {name: weight}, index, tie_weights=False)
    own = model.embed.weight
    assert fastdl.equal(
        apart, F.linear(weight[index], own) if name.startswith("embed") else F.linear(own[index], weight)
    )


def test_functional_call_refuses_two_values_for_one_tensor():
    model, index = Tied(), fastdl.tensor([0, 3])
    two = {"embed.weight": fastdl.ones(5, 3), "head.weight": fastdl.zeros(5, 3)}
    with pytest.raises(ValueError, match=r"\['embed.weight', 'head.weight'\].*tie_weights=False"):
        fastdl.func.functional_call(model, two, index)
    assert not fastdl.func.functional_call(model, two, index, tie_weights=False).any()
    same = dict.fromkeys(two, two["embed.weight"])
    assert (fastdl.func.functional_call(model, same, index) == 3).all()
    with pytest.raises(
        RuntimeError, match=r"missing \['embed.weight', 'head.weight'\], unexpected \['bias'\]"
    ):
        fastdl.func.functional_call(model, {"bias": two["head.weight"]}, index, strict=True)


@pytest.mark.parametrize("result", [1.5, None, (1.5,), {"a": 2}])
def test_derivatives_of_what_is_no_tensor_are_refused(result):
    for lib in (torch, fastdl):
        x = lib.ones(2)
        for derivative in (
            lambda lib, x: lib.func.vjp(lambda _: result, x),
            lambda lib, x: lib.func.jvp(lambda _: result, (x,), (x,)),
            lambda lib, x: lib.func.jacrev(lambda _: result)(x),
            lambda lib, x: lib.func.jacfwd(lambda _: result)(x),
        ):
            with pytest.raises(RuntimeError, match=r"output|tensors"):
                derivative(lib, x)

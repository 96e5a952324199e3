"""create_graph: what it promises beyond single operations, and the functions built on it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl._graph import NodeFields
from fastdl.autograd import Function, grad, gradcheck, gradgradcheck
from fastdl.autograd import functional as AF
from fastdl.autograd.function import once_differentiable
from fastdl.autograd.graph import Flat
from fastdl.autograd.op import Op
from fastdl.nn import functional as F

RNG = np.random.default_rng(3)


def real(*shape: int) -> fastdl.Tensor:
    return fastdl.tensor(RNG.uniform(0.5, 2.0, shape), requires_grad=True)


def run_both(program: Callable[[Any], Any], tolerance: float = 1e-9) -> None:
    """Run a program with fastdl and with torch, whose names are the same, in float64; compare what it returns."""
    ours, theirs = program(fastdl), program(pytest.importorskip("torch"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tolerance, tolerance)


# ------------------------------------------------------------------------------------------------------- semantics


def test_create_graph_keeps_the_graph_and_without_it_the_result_is_a_constant() -> None:
    x = fastdl.tensor([2.0], requires_grad=True)
    y = (x**3).sum()
    (first,) = grad(y, x, create_graph=True)
    (second,) = grad(first, x, create_graph=True)
    (third,) = grad(second, x)
    assert (first.item(), second.item(), third.item()) == (12.0, 12.0, 6.0)
    assert first.requires_grad
    assert not third.requires_grad
    y.backward()  # the graph was kept
    assert x.grad is not None
    assert x.grad.item() == 12.0
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


STEPS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "relu": lambda t, x, w: t.relu(x),
    "relu in place": lambda t, x, w: (x * 1).relu_(),
    "leaky_relu": lambda t, x, w: t.nn.functional.leaky_relu(x),
    "hardtanh": lambda t, x, w: t.nn.functional.hardtanh(x),
    "relu6": lambda t, x, w: t.nn.functional.relu6(x),
    "threshold": lambda t, x, w: t.nn.functional.threshold(x, 0.3, 1.0),
    "hardshrink": lambda t, x, w: t.nn.functional.hardshrink(x),
    "softshrink": lambda t, x, w: t.nn.functional.softshrink(x),
    "prelu": lambda t, x, w: t.nn.functional.prelu(x, w.detach()[0, 0, 0, :2]),
    "rrelu": lambda t, x, w: t.nn.functional.rrelu(x, training=True),
    "max_pool2d": lambda t, x, w: t.nn.functional.max_pool2d(x, 2),
    "avg_pool2d": lambda t, x, w: t.nn.functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda t, x, w: t.nn.functional.adaptive_avg_pool2d(x, 3),
    "adaptive_max_pool2d": lambda t, x, w: t.nn.functional.adaptive_max_pool2d(x, 3),
    "fractional_max_pool2d": lambda t, x, w: t.nn.functional.fractional_max_pool2d(x, 2, 2),
    "reflect": lambda t, x, w: t.nn.functional.pad(x, (1, 1, 1, 1), "reflect"),
    "replicate": lambda t, x, w: t.nn.functional.pad(x, (1, 1, 1, 1), "replicate"),
    "circular": lambda t, x, w: t.nn.functional.pad(x, (1, 1, 1, 1), "circular"),
    "area": lambda t, x, w: t.nn.functional.interpolate(x, 3, mode="area"),
    "nearest": lambda t, x, w: t.nn.functional.interpolate(x, 3),
    "grid_sample": lambda t, x, w: t.nn.functional.grid_sample(x, w[..., :2].reshape(1, 4, 2, 2), "nearest"),
    "nll_loss": lambda t, x, w: t.nn.functional.nll_loss(x, t.zeros(1, 4, 4, dtype=t.int64)),
    "vector_norm 1": lambda t, x, w: t.linalg.vector_norm(x, 1),
    "vector_norm inf": lambda t, x, w: t.linalg.vector_norm(x, float("inf")),
    "vector_norm": lambda t, x, w: t.linalg.vector_norm(x),
    "remainder": lambda t, x, w: t.remainder(x, w),
    "fmod": lambda t, x, w: t.fmod(x, w),
    "copysign": lambda t, x, w: t.copysign(x, w),
    "abs": lambda t, x, w: t.abs(x),
    "clamp": lambda t, x, w: t.clamp(x, -0.5, 0.5),
    "amax": lambda t, x, w: t.amax(x, -1),
    "max": lambda t, x, w: t.max(x, -1).values,
    "scatter_reduce": lambda t, x, w: x.scatter_reduce(
        3, t.arange(4).expand(1, 2, 4, 4), w, "prod", include_self=False
    ),
    "sum": lambda t, x, w: t.sum(x),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_derivatives_of_steps_are_zeros_where_they_are_in_pytorch(name: str, upstream: bool) -> None:
    """A gradient that changes in steps has a derivative of zeros, not None, and what it was made from sees them."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    values = [draw.normal(size=(1, 2, 4, 4)).astype(np.float32) for _ in range(2)]

    def derivatives(t: Any) -> list[Any]:
        a, b = [t.tensor(v, requires_grad=True) for v in values]
        x, w = a * 2, b * 3
        y = STEPS[name](t, x, w)
        seed = t.full(y.shape, 0.5, requires_grad=upstream)
        first = t.autograd.grad(y, (x, w), seed, create_graph=True, allow_unused=True)
        found = list(first)
        for f in first:
            if f is None or not f.requires_grad:
                found += [None] * 6
                continue
            found += t.autograd.grad(f.sum(), (x, w, a, b), retain_graph=True, allow_unused=True)
            f.sum().backward(retain_graph=True)
            found += [a.grad, b.grad]
            a.grad = b.grad = None
        return found

    for expected, got in zip(derivatives(torch), derivatives(fastdl), strict=True):
        assert (expected is None) == (got is None)
        if name not in ("rrelu", "fractional_max_pool2d") and isinstance(expected, torch.Tensor):
            np.testing.assert_allclose(got.detach().numpy(), expected.numpy(force=True), 1e-5, 1e-6)


def test_a_penalty_on_gradients_reaches_all_parameters_as_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 4)).astype(np.float32)
    weights = [draw.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5,), (1, 5), (1,))]

    def gradients(t: Any) -> list[Any]:
        net = t.nn.Sequential(t.nn.Linear(4, 5), t.nn.ReLU(), t.nn.Linear(5, 1))
        for p, w in zip(net.parameters(), weights, strict=True):
            p.data = t.tensor(w)
        points = t.tensor(x, requires_grad=True)
        (slope,) = t.autograd.grad(net(points).sum(), points, create_graph=True)
        (slope.norm() - 1).square().backward()
        return [points.grad, *(p.grad for p in net.parameters())]

    for expected, got in zip(gradients(torch), gradients(fastdl), strict=True):
        assert (expected is None) == (got is None)
        if got is not None:
            np.testing.assert_allclose(got.numpy(), expected.numpy(), 1e-5, 1e-6)


def test_derivatives_of_steps_have_derivatives_and_leave_nothing_behind() -> None:
    gc.collect()
    before = len(Flat.alive)
    x = fastdl.tensor([-1.0, 2.0], requires_grad=True)
    order = F.relu(x).sum()
    for _ in range(4):
        (order,) = grad(order.sum(), x, create_graph=True)
    assert order.tolist() == [0.0, 0.0]
    assert len(Flat.alive) > before
    del order
    gc.collect()
    assert len(Flat.alive) == before


def test_retain_graph_false_frees_the_graph_although_create_graph_is_asked_for() -> None:
    x = fastdl.tensor([2.0], requires_grad=True)
    y = x.exp().sum()
    grad(y, x, create_graph=True, retain_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        grad(y, x)


def test_backward_with_create_graph_accumulates_gradients_that_have_a_graph() -> None:
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    (x**2).sum().backward(create_graph=True)
    first = x.grad
    (x**3).sum().backward(create_graph=True)
    assert first is not None
    assert x.grad is not None
    assert x.grad is not first
    assert first.tolist() == [2.0, 4.0]
    assert x.grad.tolist() == [5.0, 16.0]
    (second,) = grad(x.grad.sum(), x)
    assert second.tolist() == [8.0, 14.0]
    layer = nn.Linear(2, 1)
    layer(x).square().sum().backward(create_graph=True, inputs=[layer.weight])
    assert layer.weight.grad is not None
    assert layer.weight.grad.requires_grad
    assert layer.bias.grad is None


def test_the_result_depends_on_grad_outputs() -> None:
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    v = fastdl.tensor([3.0, 4.0], requires_grad=True)
    (g,) = grad(x.square(), x, v, create_graph=True)
    of_v, of_x = grad(g.sum(), (v, x))
    assert g.tolist() == [6.0, 16.0]
    assert of_v.tolist() == [2.0, 4.0]
    assert of_x.tolist() == [6.0, 8.0]


def test_batched_gradients_can_be_differentiated() -> None:
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    (rows,) = grad(x**3, x, fastdl.eye(2), create_graph=True, is_grads_batched=True)
    assert rows.tolist() == [[3.0, 0.0], [0.0, 12.0]]
    assert grad(rows.sum(), x)[0].tolist() == [6.0, 12.0]


def test_unused_inputs_are_none_zeros_or_an_error() -> None:
    x, z = fastdl.ones(2, requires_grad=True), fastdl.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"inputs\[1\] was not used"):
        grad(x.exp().sum(), (x, z), create_graph=True)
    assert grad(x.exp().sum(), (x, z), create_graph=True, allow_unused=True)[1] is None
    assert grad(x.exp().sum(), (x, z), create_graph=True, materialize_grads=True)[1].tolist() == [0.0] * 3


def test_hooks_see_and_replace_tensors_of_the_graph() -> None:
    def program(lib: Any) -> Any:
        x = lib.tensor([3.0], requires_grad=True)
        y = x * x
        seen: list[bool] = []
        y.register_hook(lambda g: seen.append(g.requires_grad))
        y.register_hook(lambda g: g * x)
        x.register_hook(lambda g: g * 2)
        (g,) = lib.autograd.grad((y * y).sum(), x, create_graph=True)
        assert seen == [True]
        assert g.item() == 8 * 3**4  # 2 y, times x, times 2 x, times 2
        return g, *lib.autograd.grad(g, x)  # the hooks run again on the way back

    run_both(program)


def test_retain_grad_keeps_a_gradient_with_its_graph() -> None:
    x = fastdl.tensor([3.0], requires_grad=True)
    y = x * x
    y.retain_grad()
    (y * y).sum().backward(create_graph=True)
    assert y.grad is not None
    assert y.grad.item() == 18.0
    assert grad(y.grad, x)[0].item() == 12.0


def test_module_hooks_pass_the_graph_on() -> None:
    layer = nn.Linear(2, 2)
    seen: list[Any] = []
    layer.register_full_backward_hook(
        lambda m, gi, go: seen.append((gi[0].requires_grad, go[0].requires_grad))
    )
    x = fastdl.tensor([[1.0, 2.0]], requires_grad=True)
    (g,) = grad(layer(x).pow(3).sum(), x, create_graph=True)
    assert seen == [(True, True)]
    (expected,) = grad((x @ layer.weight.mT + layer.bias).pow(3).sum(), x, create_graph=True)
    ours, theirs = grad(g.sum(), layer.weight)[0], grad(expected.sum(), layer.weight)[0]
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5)


def test_changes_in_place_between_the_two_backwards_are_noticed() -> None:
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    w = fastdl.tensor([3.0, 4.0], requires_grad=True)
    (g,) = grad((x * w).square().sum(), x, create_graph=True)
    with fastdl.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        g.sum().backward()
    y = x * 2  # no leaf: its values come back from what the node kept
    (g,) = grad(y.cos().sum(), x, create_graph=True)
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        g.sum().backward()
    states = fastdl.zeros(1, 2, 3, requires_grad=True) * 1
    (g,) = grad(nn.GRU(2, 3)(fastdl.ones(4, 2, 2), states)[0].square().sum(), states, create_graph=True)
    states.detach().add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        g.sum().backward()


def test_a_leaf_with_new_data_keeps_the_values_of_then() -> None:
    x = fastdl.tensor([2.0], requires_grad=True)
    y = (x**3).sum()
    x.data = fastdl.tensor([100.0])
    (g,) = grad(y, x, create_graph=True)
    assert g.item() == 12.0
    assert grad(g, x)[0].item() == 12.0


def test_anomaly_mode_names_the_operation() -> None:
    x = fastdl.zeros(1, requires_grad=True)
    with fastdl.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match="DivBackward"):
        grad((x / x).sum(), x, create_graph=True)


def test_graphs_are_freed_by_reference_counting() -> None:
    gc.collect()
    gc.disable()
    try:
        x = fastdl.ones(3, requires_grad=True)
        net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Tanh())
        (g,) = grad(net(x.unsqueeze(0)).square().sum(), x, create_graph=True)
        node = weakref.ref(g._node)
        (second,) = grad(g.square().sum(), x)
        del g
        assert node() is None
        assert second.shape == x.shape
    finally:
        gc.enable()


def test_gradients_share_no_memory_with_the_graph() -> None:
    x = fastdl.ones(3, requires_grad=True)
    (x * 1).sum().backward(create_graph=True)
    assert x.grad is not None
    with fastdl.no_grad():
        x.grad.mul_(2)
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


class Watched(Op):
    """The identity; counts how often a walk comes by."""

    reads = 0

    def forward(self, x: Any) -> Any:
        return x.copy()

    def backward_graph(self, grad: Any) -> Any:
        return grad

    @property
    def edges(self) -> Any:  # type: ignore[override]
        Watched.reads += 1
        return NodeFields.edges.__get__(self)

    @edges.setter
    def edges(self, value: Any) -> None:
        NodeFields.edges.__set__(self, value)


def test_the_cost_of_fused_operations_does_not_grow_with_the_network() -> None:
    """Each asks for the gradients of its composed form: that walk must end at its own inputs."""
    x = fastdl.ones(1, 4, requires_grad=True)
    y = Watched.apply(x)
    for _ in range(100):
        y = F.layer_norm(y + 1, (4,))
    Watched.reads = 0
    grad(y.sum(), x, create_graph=True)
    assert 0 < Watched.reads < 10


class Cube(Function):
    """Saves input and output; its backward is made of operations."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = x**3
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, y = ctx.saved_tensors
        return grad * 3 * y / x


def test_a_users_function_is_differentiated_through_its_backward() -> None:
    x = real(4)
    assert gradcheck(Cube.apply, x)
    assert gradgradcheck(Cube.apply, x)
    (g,) = grad(Cube.apply(x).sum(), x, create_graph=True)
    (second,) = grad(g.sum(), x, create_graph=True)
    (third,) = grad(second.sum(), x)
    np.testing.assert_allclose(second.detach().numpy(), 6 * x.detach().numpy())
    np.testing.assert_allclose(third.numpy(), 6, rtol=1e-12)


def test_once_differentiable_refuses_the_second_derivative() -> None:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * 2 * ctx.saved_tensors[0]

    x = fastdl.tensor([3.0], requires_grad=True)
    Square.apply(x).backward()
    assert x.grad is not None
    assert x.grad.item() == 6.0
    (g,) = grad(Square.apply(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad(g, x)


def test_gradgradcheck_finds_a_wrong_second_derivative() -> None:
    class Wrong(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (x,) = ctx.saved_tensors
            return grad * 3 * x * x.detach()

    x = real(3)
    assert gradcheck(Wrong.apply, x)
    assert not gradgradcheck(Wrong.apply, x, raise_exception=False)
    with pytest.raises(fastdl.autograd.GradcheckError):
        gradgradcheck(Wrong.apply, x)
    with pytest.raises(ValueError, match="depends"):
        gradgradcheck(fastdl.sign, x)
    assert gradgradcheck(fastdl.exp, x, real(3), gen_non_contig_grad_outputs=True)


# ------------------------------------------------------------------------------------------ derivatives of functions


def test_products_and_matrices_agree() -> None:
    x, y = real(3), real(2)
    v, w = real(3).detach(), real(2).detach()

    def f(x: Any, y: Any) -> Any:
        return (x.sin().sum() * y.exp()).sum() + (x**3).sum() * y[0]

    hessian = AF.hessian(f, (x, y))
    for product in (AF.hvp, AF.vhp):
        value, (of_x, of_y) = product(f, (x, y), (v, w))
        assert value.item() == f(x, y).item()
        np.testing.assert_allclose(of_x.numpy(), (hessian[0][0] @ v + hessian[0][1] @ w).numpy(), 1e-10)
        np.testing.assert_allclose(of_y.numpy(), (hessian[1][0] @ v + hessian[1][1] @ w).numpy(), 1e-10)

    def g(x: Any) -> Any:
        return x.sin() * x.sum(), x.prod()

    blocks = AF.jacobian(g, x)
    _, along = AF.jvp(g, x, v)
    _, across = AF.vjp(g, x, (v, fastdl.ones((), dtype=x.dtype)))
    np.testing.assert_allclose(along[0].numpy(), (blocks[0] @ v).numpy(), 1e-10)
    np.testing.assert_allclose(along[1].numpy(), (blocks[1] @ v).numpy(), 1e-10)
    np.testing.assert_allclose(across.numpy(), (v @ blocks[0] + blocks[1]).numpy(), 1e-10)


def test_results_are_differentiable_on_request_only() -> None:
    x, v = real(3), real(3)

    def f(x: Any) -> Any:
        return (x**3).sum()

    for product in (AF.vjp, AF.hvp, AF.vhp, AF.jvp):
        given = None if product is AF.vjp else v
        value, result = product(f, x, given)
        assert not value.requires_grad
        assert not result.requires_grad
        value, result = product(f, x, given, create_graph=True)
        assert value.requires_grad
        assert grad(result.sum(), x)[0].shape == x.shape
    assert not AF.hessian(f, x).requires_grad
    third = grad(AF.hessian(f, x, create_graph=True).sum(), x)[0]
    np.testing.assert_allclose(third.numpy(), 6.0)
    second = grad(AF.jacobian(f, x, create_graph=True).sum(), x)[0]
    np.testing.assert_allclose(second.numpy(), 6 * x.detach().numpy())


def test_strict_refuses_what_does_not_depend_on_the_inputs() -> None:
    x = real(2)

    def constant(x: Any) -> Any:
        return fastdl.ones(1, dtype=x.dtype).sum()

    def linear(x: Any) -> Any:
        return x.sum()

    assert AF.vjp(constant, x)[1].tolist() == [0.0, 0.0]
    assert AF.jacobian(constant, x).tolist() == [0.0, 0.0]
    assert AF.jvp(constant, x, x.detach())[1].item() == 0.0
    assert AF.hessian(linear, x).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    for call in (
        lambda: AF.vjp(constant, x, strict=True),
        lambda: AF.jacobian(constant, x, strict=True),
        lambda: AF.jvp(constant, x, x.detach(), strict=True),
        lambda: AF.hessian(linear, x, strict=True),
        lambda: AF.hvp(linear, x, x.detach(), strict=True),
    ):
        with pytest.raises(RuntimeError, match="strict=True"):
            call()


def test_messages_of_derivatives_of_functions() -> None:
    x = real(2)
    with pytest.raises(RuntimeError, match="v can be left out only"):
        AF.jvp(lambda x: x, x)
    with pytest.raises(RuntimeError, match="v must have the shapes of the inputs"):
        AF.hvp(lambda x: x.sum(), x, fastdl.ones(3))
    with pytest.raises(RuntimeError, match="one tensor with a single element"):
        AF.hessian(lambda x: x, x)
    with pytest.raises(TypeError, match="what func returns must be a tensor"):
        AF.vjp(lambda x: 3, x)
    with pytest.raises(NotImplementedError, match="reverse-mode"):
        AF.jacobian(lambda x: x, x, strategy="forward-mode")

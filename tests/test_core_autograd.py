"""The graph: recording, backward, hooks, release of memory."""

from __future__ import annotations

import gc
import importlib
import threading
import weakref

import numpy as np
import pytest

import fastdl
from fastdl.autograd.op import Op
from fastdl.nn import functional as F
from parity import check_gradient


def leaf(values, **options):
    return fastdl.tensor(values, requires_grad=True, **options)


def test_relu_forward_and_backward():
    x = leaf([-1.0, 2.0, 0.0])
    y = F.relu(x)
    y.backward(fastdl.tensor([1.0, 10.0, 100.0]))
    assert y.tolist() == [0, 2, 0]
    assert x.grad.tolist() == [0, 10, 0]


def test_gradients_accumulate_over_calls():
    x = leaf([3.0])
    for _ in range(3):
        F.relu(x).backward()
    assert x.grad.tolist() == [3.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_gradients_meet_and_accumulate(dtype):
    """Beyond some ten thousand elements gradients are added by a kernel: the same sums, also of constants."""
    values = np.random.default_rng(0).standard_normal((41, 1000)).astype(dtype)
    x = fastdl.tensor(values, requires_grad=True)
    (x * x + x.sum() + x).sum().backward()
    once = 2 * values + (values.size + 1)
    np.testing.assert_allclose(x.grad.numpy(), once, rtol=8 * np.finfo(dtype).eps)
    (x * x + x.sum() + x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once, rtol=8 * np.finfo(dtype).eps)


def test_accumulation_changes_the_gradient_tensor_in_place():
    x = leaf([3.0])
    F.relu(x).backward()
    first = x.grad
    F.relu(x).backward()
    assert x.grad is first
    assert first.tolist() == [2.0]


def test_gradients_of_different_leaves_are_different_memory():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = fastdl.ones(2)
    (x + y).backward(seed)
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy())
    assert not np.shares_memory(x.grad.numpy(), seed.numpy())


def test_backward_twice_teaches():
    x = leaf([3.0])
    y = F.relu(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()


def test_retain_graph():
    x = leaf([3.0])
    y = F.relu(x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [2.0]


def test_no_grad_records_nothing():
    x = leaf([3.0])
    with fastdl.no_grad():
        y = F.relu(x)
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        y.backward()


def test_modes():
    x = leaf([3.0])
    with fastdl.no_grad():
        assert not fastdl.is_grad_enabled()
        with fastdl.enable_grad():
            assert (x * 2).requires_grad
        with fastdl.set_grad_enabled(True):
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad

    @fastdl.no_grad()
    def decorated():
        return x * 2

    assert not decorated().requires_grad
    seen = []
    with fastdl.no_grad():
        thread = threading.Thread(target=lambda: seen.append(fastdl.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]
    with pytest.raises(ZeroDivisionError), fastdl.no_grad():
        raise ZeroDivisionError
    assert fastdl.is_grad_enabled()


def test_modes_decorate_generators():
    """The mode holds while the generator runs, not while its user does; send, throw, close and return go through."""
    seen = []

    @fastdl.no_grad()
    def numbers(n):
        try:
            for i in range(n):
                seen.append((yield fastdl.is_grad_enabled(), i))
        except ZeroDivisionError:
            yield "caught"
        finally:
            seen.append(fastdl.is_grad_enabled())
        return "end"

    generator = numbers(3)
    assert next(generator) == (False, 0)
    assert fastdl.is_grad_enabled()
    assert generator.send("a") == (False, 1)
    assert fastdl.is_grad_enabled()
    assert generator.throw(ZeroDivisionError) == "caught"
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    assert seen == ["a", False]
    generator = numbers(2)
    next(generator)
    generator.close()
    assert seen == ["a", False, False]
    assert [i for _, i in numbers(3)] == [0, 1, 2]
    assert fastdl.is_grad_enabled()


def test_graph_of_100000_nodes():
    x = leaf([3.0])
    y = x
    for _ in range(100_000):
        y = F.relu(y)
    y.backward()
    assert x.grad.tolist() == [1.0]


def test_deep_graph_that_is_never_walked_can_be_dropped():
    y = leaf([3.0])
    for _ in range(300_000):
        y = y * 1.0
    del y


def test_deep_graph_of_views_can_be_dropped_and_walked():
    x = leaf([[3.0]])
    y = x
    for _ in range(50_000):
        y = y.t()
    y.sum().backward()
    assert x.grad.tolist() == [[1.0]]


def test_diamond():
    x = leaf([2.0])
    a = x * 3
    b = a * a + a
    (b * a + b).sum().backward()
    # y = 27 x^3 + 18 x^2 + 3 x
    assert x.grad.tolist() == [81 * 4 + 36 * 2 + 3]


def test_wide_reuse_sums_once_per_use():
    x = leaf([1.0, -2.0])
    y = x * 2
    total = y
    for k in range(50):
        total = total + k * y
    total.sum().backward()
    assert x.grad.tolist() == [2 * (1 + sum(range(50)))] * 2


def test_engine_never_changes_the_callers_gradient():
    x = leaf([1.0, 2.0])
    seed = fastdl.tensor([1.0, 1.0])
    y = x + x
    (y + y).backward(seed)
    assert seed.tolist() == [1, 1]
    assert x.grad.tolist() == [4, 4]


def test_seed_is_checked():
    x = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"only for a tensor of one element, got shape \(2,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"gradient has shape \(3,\), the tensor \(2,\)"):
        (x * 2).backward(fastdl.ones(3))


def test_backward_of_a_leaf():
    x = leaf([1.0])
    x.backward()
    assert x.grad.tolist() == [1.0]


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


def test_accumulation_keeps_one_set_of_gradients():
    """A second backward adds every layer's gradient when it comes: what is alive at once stays below two sets."""
    layers = [fastdl.nn.Linear(128, 128, bias=False) for _ in range(16)]

    def loss():
        y = fastdl.ones(1, 128)
        for layer in layers:
            y = layer(y)
        return y.sum()

    loss().backward()
    single = [layer.weight.grad.clone() for layer in layers]
    total = loss()
    fastdl.empty_cache()
    before = fastdl.memory_stats()["in_use"]
    fastdl.reset_peak_memory_stats()
    total.backward()
    assert fastdl.memory_stats()["in_use_peak"] - before < 4 * 128 * 128 * 4
    for layer, grad in zip(layers, single, strict=True):
        np.testing.assert_array_equal(layer.weight.grad.numpy(), 2 * grad.numpy())


def test_a_gradient_that_the_graph_refers_to_is_changed_at_the_end():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    (x * x.grad.data + x).sum().backward()  # the sum's part comes first
    assert x.grad.tolist() == [7, 7]
    (x * 2 + x).backward(x.grad)
    assert x.grad.tolist() == [28, 28]
    (x * x.grad[0].data + x).sum().backward()
    assert x.grad.tolist() == [57, 57]


def test_backward_of_several():
    x = leaf([2.0])
    fastdl.autograd.backward([x * 2, x * x], [None, fastdl.tensor([10.0])])
    assert x.grad.tolist() == [42.0]


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


# ----------------------------------------------------------------------------------------------------------- hooks


def test_hook_on_leaf_and_inner_tensor():
    x = leaf([1.0, 2.0])
    y = x * 3
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward()
    assert seen == [[1, 1]]
    assert x.grad.tolist() == [31, 31]


def test_hook_sees_the_sum_of_all_uses():
    x = leaf([1.0])
    y = x * 1
    seen = []
    y.register_hook(lambda g: seen.append(g.item()))
    (y * 2 + y * 3).backward()
    assert seen == [5.0]


def test_hook_handle():
    x = leaf([1.0])
    handle = x.register_hook(lambda g: g * 10)
    with x.register_hook(lambda g: g * 100):
        (x * 1).backward()
    handle.remove()
    handle.remove()
    (x * 1).backward()
    assert x.grad.tolist() == [1001.0]


def test_hook_mistakes():
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        fastdl.ones(1).register_hook(print)
    x = leaf([1.0, 2.0])
    with (
        x.register_hook(lambda g: fastdl.ones(5)),
        pytest.raises(RuntimeError, match=r"shape \(5,\), expected \(2,\)"),
    ):
        x.sum().backward()
    with (
        x.register_hook(lambda g: 3),
        pytest.raises(TypeError, match="must return a Tensor or None, got int"),
    ):
        x.sum().backward()


def test_hooks_may_not_change_the_gradient_of_others():
    x = leaf([1.0])
    y = x * 1

    def zero(grad):
        return grad * 0

    y.register_hook(zero)
    (y + x).backward()
    assert x.grad.tolist() == [1.0]


def test_a_retained_gradient_is_that_of_the_last_values():
    torch = pytest.importorskip("torch")
    for lib in (fastdl, torch):
        x = lib.ones(3, requires_grad=True)
        y = x.clone()
        y.retain_grad()
        y[0] = 5.0
        y[1:] *= 2.0
        y.sum().backward()
        assert y.grad.tolist() == [1.0, 1.0, 1.0]
        assert x.grad.tolist() == [0.0, 2.0, 2.0]
        z = x * 3
        z.retain_grad()
        z.mul_(4.0)
        z.sum().backward()
        assert z.grad.tolist() == [1.0, 1.0, 1.0]


def test_retain_grad():
    x = leaf([1.0, 2.0])
    y = x * 3
    y.retain_grad()
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    assert y.retains_grad
    y.sum().backward()
    assert y.grad.tolist() == [10, 10]
    z = x * 2
    with pytest.warns(UserWarning, match="retain_grad"):
        assert z.grad is None


def test_post_accumulate_hook():
    x = leaf([1.0])
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.item()))
    (x * 2).backward()
    (x * 2).backward()
    handle.remove()
    (x * 2).backward()
    assert seen == [2.0, 4.0]


# ---------------------------------------------------------------------------------------------------------- memory


def test_nothing_needs_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(np.ones((4, 4)))
        y = (x @ x).relu()[1:].reshape(-1)
        y.retain_grad()
        z = (y * y).sum()
        refs = [weakref.ref(t) for t in (y, z, y.grad_fn, z.grad_fn)]
        z.backward()
        del y, z
        assert [r() for r in refs] == [None] * 4
    finally:
        gc.enable()


def test_backward_frees_saved_values_as_it_passes():
    size = 1 << 20
    x = leaf(np.ones(size, np.float32))
    base = fastdl.memory_stats()["in_use"]
    y = x
    for _ in range(20):
        y = y.exp().log()  # keeps one array per round: exp its result, which is what log keeps, too
    held = fastdl.memory_stats()["in_use"] - base
    assert held >= 20 * 4 * size
    fastdl.reset_peak_memory_stats()
    loss = y.sum()
    del y
    loss.backward()
    peak = fastdl.memory_stats()["in_use_peak"] - base
    assert peak <= held + 6 * 4 * size
    assert fastdl.memory_stats()["in_use"] - base <= 3 * 4 * size  # x.grad and the loss


def test_values_die_during_backward_not_after():
    alive = []

    class Watch(Op):
        def forward(self, x):
            self.kept = np.array(x)
            watched.append(weakref.ref(self.kept))
            return x * 1

        def backward(self, grad):
            alive.append(sum(r() is not None for r in watched))
            return grad * 1

    watched = []
    y = leaf([1.0])
    for _ in range(5):
        y = Watch.apply(y)
    y.backward()
    assert alive == [5, 4, 3, 2, 1]


def test_relu_gradient_numerically():
    check_gradient(F.relu, np.random.default_rng(0).standard_normal((5, 7)))


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


# ------------------------------------------------------------------------------------------- hooks on the graph


def test_hooks_of_a_node_see_and_replace_gradients():
    x = leaf([1.0, 2.0])
    y = x * x
    seen = []
    before = y.grad_fn.register_prehook(lambda outputs: (outputs[0] * 10,))
    y.grad_fn.register_hook(lambda inputs, outputs: seen.append((inputs[0].tolist(), outputs[0].tolist())))
    after = y.grad_fn.register_hook(lambda inputs, outputs: tuple(g + 1 for g in inputs))
    y.sum().backward(retain_graph=True)
    assert seen == [([10.0, 20.0], [10.0, 10.0])]
    assert x.grad.tolist() == [22.0, 42.0]  # both operands of the product are x
    before.remove()
    after.remove()
    x.grad = None
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    assert len(seen) == 2


def test_hooks_of_a_node_stay_with_create_graph_and_may_keep_gradients():
    x, kept = leaf([3.0]), []
    y = (x**3).sum()
    y.grad_fn.register_hook(lambda inputs, outputs: kept.append(inputs[0]))
    (slope,) = fastdl.autograd.grad(y, x, create_graph=True)
    (second,) = fastdl.autograd.grad(slope, x)
    assert (slope.item(), second.item(), kept[0].item()) == (27.0, 18.0, 1.0)
    z = x + 1
    z.grad_fn.register_hook(lambda inputs, outputs: kept.append(outputs[0]))
    (z * 2 + z * 3).sum().backward()
    assert kept[-1].item() == 5.0


def test_a_hook_of_a_node_returns_as_many_gradients_as_there_are():
    y = leaf([1.0]).exp()
    y.grad_fn.register_hook(lambda inputs, outputs: (inputs[0], inputs[0]))
    with pytest.raises(RuntimeError, match="returned 2 gradients, the node has 1"):
        y.sum().backward()


def test_a_node_with_hooks_is_freed_without_the_garbage_collector():
    y = leaf([1.0]).exp()
    y.grad_fn.register_hook(lambda inputs, outputs: None)
    node = weakref.ref(y.grad_fn)
    gc.disable()
    try:
        del y
        assert node() is None
    finally:
        gc.enable()


def test_what_stands_for_a_leaf_has_hooks_and_equals_itself():
    x, seen = leaf([1.0, 2.0]), []
    y = x * 3
    end = y.grad_fn.next_functions[0][0]
    assert end.name() == "AccumulateGrad"
    assert end.variable is x
    assert isinstance(end, fastdl.autograd.graph.Node)
    assert end == (x + 1).grad_fn.next_functions[0][0]
    assert len({end, x.exp().grad_fn.next_functions[0][0]}) == 1
    handle = end.register_hook(
        lambda inputs, outputs: seen.append((inputs, outputs[0].tolist(), x.grad.tolist()))
    )
    end.register_prehook(lambda outputs: (outputs[0] * 2,))
    y.sum().backward()
    handle.remove()
    (x * 3).sum().backward()
    assert len(seen) == 1
    assert x.grad.tolist() == [12.0, 12.0]


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_hook_on_several_gradients(create_graph):
    a, b, seen = leaf([1.0]), leaf([2.0]), []
    handle = fastdl.autograd.graph.register_multi_grad_hook((a, b), lambda grads: seen.append(list(grads)))
    fastdl.autograd.grad((a * b).sum(), (a, b), create_graph=create_graph)
    assert [g.item() for g in seen[0]] == [2.0, 1.0]
    (a * 2).sum().backward(create_graph=create_graph)
    assert seen[1][0].item() == 2.0
    assert seen[1][1] is None
    fastdl.autograd.grad((a * b).sum(), a)
    assert seen[2][0].item() == 2.0
    assert seen[2][1] is None
    handle.remove()
    handle.remove()
    (a * b).sum().backward()
    assert len(seen) == 3


def test_a_hook_on_the_first_of_several_gradients():
    from fastdl.autograd.engine import watchers

    a, b, seen = leaf([1.0]), leaf([2.0]), []
    fastdl.autograd.graph.register_multi_grad_hook((a * 1, b), seen.append, mode="any")
    c = a * b
    fastdl.autograd.graph.register_multi_grad_hook((a, c), lambda grads: seen.append(len(grads)), mode="all")
    c.sum().backward()
    assert len(seen) == 2
    assert 2 in seen
    del a, b, c
    leaf([1.0]).sum().backward()  # what belongs to tensors that are gone goes with the next walk
    assert watchers == []
    with pytest.raises(ValueError, match="'all' or 'any'"):
        fastdl.autograd.graph.register_multi_grad_hook((), print, mode="some")


def test_saved_tensors_pass_through_hooks():
    x, packed, unpacked = leaf([1.0, 2.0]), [], []

    def pack(tensor):
        packed.append(tensor.tolist())
        return tensor.detach().numpy().copy()

    def unpack(array):
        unpacked.append(array.tolist())
        return fastdl.from_numpy(array)

    with fastdl.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = x.exp()
    y.mul_(0)  # what was packed does not change with it
    z = x.exp()
    (y.sum() + z.sum()).backward()
    assert packed == unpacked
    assert len(packed) == 1
    assert x.grad.tolist() == pytest.approx(np.exp([1.0, 2.0]))


def test_saved_tensors_pass_through_hooks_in_every_walk():
    x = leaf([2.0, 3.0])
    with fastdl.autograd.graph.save_on_cpu():
        y = (x * x * x).sum()
    y.backward(retain_graph=True)
    assert x.grad.tolist() == [12.0, 27.0]
    (slope,) = fastdl.autograd.grad(y, x, create_graph=True)
    assert fastdl.autograd.grad(slope.sum(), x)[0].tolist() == [12.0, 18.0]
    with fastdl.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: None):
        y = x.exp()
    with pytest.raises(TypeError, match="unpack_hook must return a Tensor, got NoneType"):
        y.sum().backward()
    assert Op.record.__name__ == "record"


def test_a_gradient_handed_on_belongs_to_one():
    """x + 1 gives an array that the engine made to its input, which may keep it; nobody else may see it change."""
    x, w = fastdl.ones(3, requires_grad=True), fastdl.ones(3, requires_grad=True)
    kept = []
    for _ in range(2):
        fastdl.relu(x + w).sum().backward()
        x.grad.mul_(2)
        np.testing.assert_array_equal(w.grad.numpy(), np.full(3, _ + 1))
    x.grad = None
    for step in (1, 2):
        inner = x + 1
        inner.register_hook(kept.append)
        outer = (inner - 2) * 3
        (outer + inner).sum().backward(retain_graph=True)
        np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 4 * step))
    np.testing.assert_array_equal([k.numpy() for k in kept], np.full((2, 3), 4))
    x.grad = None
    y = fastdl.relu((x + 1) - w)
    first = fastdl.autograd.grad(y.sum(), [x, w], retain_graph=True)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    np.testing.assert_array_equal(first[0].numpy(), np.ones(3))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 2))
    a = fastdl.zeros(3, requires_grad=True)
    double = (a + 1) + (a + 1)
    (double + double).exp().sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), np.full(3, 4 * np.exp(4)), rtol=1e-6)


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


def test_hooks_on_saved_tensors_are_the_thread_s():
    for lib in (fastdl, pytest.importorskip("torch")):
        graph = lib.autograd.graph
        x = lib.ones(2, requires_grad=True)
        packed, entered, leave = [], threading.Event(), threading.Event()

        def hooked(lib=lib, graph=graph, packed=packed, entered=entered, leave=leave):
            with graph.saved_tensors_hooks(lambda t: packed.append(1) or t, lambda t: t):
                entered.set()
                leave.wait(10)

        other = threading.Thread(target=hooked)
        other.start()
        entered.wait(10)
        y = x * x
        with graph.saved_tensors_hooks(lambda t: packed.append(2) or t, lambda t: t):
            leave.set()
            other.join()
            z = y * y
        z.sum().backward()
        x * x
        assert set(packed) == {2}
        assert x.grad.tolist() == [4.0, 4.0]


def test_hooks_on_saved_tensors_can_be_refused():
    for lib in (fastdl, pytest.importorskip("torch")):
        graph = lib.autograd.graph
        hooks = lambda graph=graph: graph.saved_tensors_hooks(lambda t: t, lambda t: t)  # noqa: E731
        with graph.disable_saved_tensors_hooks("none in here"):
            inner = graph.disable_saved_tensors_hooks("nor here")
            with inner, pytest.raises(RuntimeError, match="nor here"), hooks():
                pass
            with pytest.raises(RuntimeError, match="none in here"), hooks():
                pass
        with hooks(), pytest.raises(RuntimeError, match="come"), graph.disable_saved_tensors_hooks("come"):
            pass
        with hooks():
            pass


def test_increment_version():
    for lib in (fastdl, pytest.importorskip("torch")):
        x = lib.ones(2, requires_grad=True)
        y = x * x
        z = y * y
        lib.autograd.graph.increment_version(y)
        assert y._version == 1
        lib.autograd.graph.increment_version([y, y])
        assert y._version == 3
        with pytest.raises(RuntimeError, match="place"):
            z.sum().backward()
    with pytest.raises(TypeError, match="increment_version: tensor must be a Tensor"):
        fastdl.autograd.graph.increment_version([3])


def test_switches_take_bools():
    for lib in (fastdl, pytest.importorskip("torch")):
        for switch in (lib.set_grad_enabled, lib.autograd.set_multithreading_enabled):
            for wrong in ("train", 1, None):
                with pytest.raises(TypeError, match="bool"):
                    switch(wrong)
            with switch(False):
                pass
            switch(mode=True)
        assert lib.is_grad_enabled()
        path = importlib.import_module(f"{lib.__name__}.autograd.grad_mode")
        assert path.no_grad is lib.no_grad

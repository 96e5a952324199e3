"""Hooks of autograd: on tensors, on the graph's nodes, on what they save."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import fastdl
from fastdl.autograd.op import Op
from parity import leaf


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


def test_retained_gradients_are_pytorchs():
    torch = pytest.importorskip("torch")

    def run(lib):
        x = lib.tensor([1.0, 2.0], requires_grad=True)
        y = x * 2
        y.retain_grad()
        y.sum().backward()
        found = [y.retains_grad, x.retains_grad, y.grad.tolist()]
        y = x * 2
        y.retain_grad()
        lib.autograd.backward((y * 3).sum(), inputs=[y])  # once, not also by inputs=
        found += [y.retains_grad, y.grad.tolist()]
        y = x * 2
        lib.autograd.backward((y * 3).sum(), inputs=[y])
        found += [y.retains_grad, y.grad.tolist()]
        y = x * 2
        lib.autograd.backward((x * 3).sum(), inputs=[y])  # which it does not reach
        found += [y.retains_grad, y.grad]
        y = x * 2
        part = y[:1]
        part.retain_grad()
        y.mul_(3)
        (part * 5).sum().backward()
        return [*found, part.retains_grad, part.grad.tolist()]

    assert run(fastdl) == run(torch)


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


@pytest.mark.filterwarnings("ignore:Using backward")
def test_post_accumulate_hooks_run_where_inputs_are_named():
    torch = pytest.importorskip("torch")
    for lib in (torch, fastdl):
        x, w = lib.ones(2, requires_grad=True), lib.ones(2, requires_grad=True)
        seen = []
        for leaf_tensor in (x, w):
            leaf_tensor.register_post_accumulate_grad_hook(lambda t, seen=seen: seen.append(t.grad.tolist()))
        for create_graph in (False, True):
            lib.autograd.backward((x * w * 3).sum(), inputs=[x], create_graph=create_graph)
        assert seen == [[3, 3], [6, 6]]

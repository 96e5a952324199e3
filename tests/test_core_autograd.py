"""The graph: recording, backward, release of memory."""

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
from parity import check_gradient, leaf


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


PARTS = {
    "select": (lambda x, t: x.select(1, t), 4),
    "windows": (lambda x, t: x.unfold(2, 2, t + 1), 4),
    "strided": (lambda x, t: x.as_strided((3, 3), (1, 1), t), 4),
    "basic": (lambda x, t: x[:, t, None, ::2], 4),
    "all of it": (lambda x, t: x[None], 4),
    "diagonal": (lambda x, t: x.diagonal(t - 1, 1, 2), 4),
    "of a part": (lambda x, t: x[1:][:, t], 4),
    "embedding": (lambda x, t: F.embedding(fastdl.tensor([[t, 1], [2, t]]), x.reshape(12, -1), 2), 12),
    "index_select": (lambda x, t: x.index_select(2, fastdl.tensor([t, t])), 4),
    "index": (lambda x, t: x.reshape(12, -1)[fastdl.tensor([t, 0, t])], 12),
    "two indices": (lambda x, t: x[fastdl.tensor([0, 2]), fastdl.tensor([t, 3])], 4),
    "indices apart": (lambda x, t: x[fastdl.tensor([0, 2]), :, fastdl.tensor([t, 3])], 4),
}


@pytest.mark.parametrize("dtype", [fastdl.float32, fastdl.complex64, fastdl.bfloat16])
@pytest.mark.parametrize("case", PARTS)
def test_gradients_of_parts_meet(case, dtype):
    """Parts of a leaf and of a result, one after the other, beside a use of the whole: the same sums."""
    take, _ = PARTS[case]
    if dtype is not fastdl.float32 and case == "embedding":
        pytest.skip("embedding takes real numbers of the kernels' dtypes")
    numbers = np.random.default_rng(3).integers(-3, 4, (3, 4, 5)).astype(np.float32)
    factors = fastdl.tensor([2.0, 3.0, -1.0]).to(dtype)
    x = fastdl.tensor(numbers).to(dtype).requires_grad_()
    for whole in (x, x * 2, (x * 2).unbind(0)[1].expand(3, 4, 5).clone()):
        total = sum((take(whole, t) * factors[t]).sum() for t in range(3)) + (whole * whole).sum()
        (together,) = fastdl.autograd.grad(total, [x], fastdl.ones_like(total), retain_graph=True)
        expected = fastdl.zeros_like(x)
        for t in range(3):
            (part,) = fastdl.autograd.grad(
                (take(whole, t) * factors[t]).sum(), [x], fastdl.ones_like(total), True
            )
            expected += part
        expected += fastdl.autograd.grad((whole * whole).sum(), [x], fastdl.ones_like(total), True)[0]
        assert fastdl.equal(together, expected)
        x.grad = None
        total.backward(fastdl.ones_like(total), retain_graph=True)
        assert fastdl.equal(x.grad, expected)
        total.backward(fastdl.ones_like(total))
        assert fastdl.equal(x.grad, 2 * expected)


def test_gradients_of_many_parts_need_no_array_of_the_whole_each(monkeypatch):
    """A loop over time steps is linear in their number: one of the whole is made, not one for each step."""
    from fastdl.ops import parts

    made = []
    monkeypatch.setattr(parts, "zeros", lambda *given: made.append(given) or zeros(*given))
    zeros = importlib.import_module("fastdl.ops.arrays").zeros
    x = fastdl.ones(4, 30, 3, requires_grad=True)
    steps = fastdl.tanh(x)
    sum(((t + 1) * steps[:, t]).sum() for t in range(30)).backward()
    assert len(made) == 1
    np.testing.assert_allclose(x.grad[2, :, 1].numpy(), (1 - np.tanh(1) ** 2) * np.arange(1, 31), rtol=1e-5)


def test_gradients_that_somebody_kept_are_not_added_to():
    x = fastdl.ones(3, 4, requires_grad=True)
    y = x * 2
    kept = []
    rows = [y[0], y[1], y[2]]
    for row in rows:
        row.grad_fn.register_hook(lambda inputs, outputs: kept.append(inputs[0]))
    sum(rows).sum().backward()
    assert sorted(k.sum(1).tolist() for k in kept) == [[0, 0, 4], [0, 4, 0], [4, 0, 0]]
    assert x.grad.tolist() == [[2] * 4] * 3


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


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.repeat(1),
        lambda h: h.tile(1),
        lambda h: h.repeat_interleave(1, 0),
        lambda h: fastdl.zeros(3, dtype=h.dtype).copy_(h),
        lambda h: F.bilinear(*[fastdl.ones(*s, dtype=h.dtype) for s in ((1,), (1,), (3, 1, 1))], h),
    ],
    ids=["repeat", "tile", "repeat_interleave", "copy_", "complex bilinear"],
)
def test_what_hands_a_gradient_on_does_not_own_it(function, request):
    """The gradient is that of ``other``, too: what else reaches ``h`` must not be added to its array."""
    dtype = fastdl.complex64 if "complex" in request.node.name else fastdl.float32
    x, other, seed = [fastdl.ones(3, dtype=dtype, requires_grad=i < 2) for i in range(3)]
    h = x * 1
    later = h * 5
    fastdl.autograd.backward([function(h) + other, later], [seed, seed])
    assert other.grad.tolist() == seed.tolist() == [1] * 3
    assert x.grad.tolist() == [6] * 3


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


@pytest.mark.parametrize(
    ("name", "function"),
    {
        "add": lambda lib, x: x + x.detach(),
        "sub and mean": lambda lib, x: (1 - x).mean(),
        "pad, sum": lambda lib, x: lib.nn.functional.pad(x, (1, 1)).sum(0),
        "interpolate": lambda lib, x: lib.nn.functional.interpolate(x[None], scale_factor=2),
        "flip, roll, repeat": lambda lib, x: x.flip(0).roll(1, 0).repeat(2, 1),
        "cat, stack": lambda lib, x: lib.stack([lib.cat([x, x]), lib.cat([x, x])]),
        "tril, cumsum, floor": lambda lib, x: x.tril().cumsum(0) + x.floor(),
        "mul of two": lambda lib, x: x * x,
        "exp": lambda lib, x: x.exp(),
    }.items(),
)
def test_what_keeps_no_tensor_may_be_walked_through_again(name, function):
    """As in PyTorch, which refuses a second walk only where the first one has freed what it needs."""
    torch = pytest.importorskip("torch")

    def walks(lib):
        x = lib.ones(3, 4, requires_grad=True)
        y = function(lib, x)
        y.backward(lib.ones_like(y))
        try:
            y.backward(lib.ones_like(y))
        except RuntimeError:
            return 1
        return x.grad.tolist()

    assert walks(fastdl) == walks(torch)


@pytest.mark.parametrize("create_graph", [False, True])
def test_what_was_freed_is_needed_behind_it_only(create_graph):
    """The gradient of a value whose own node an earlier backward freed."""
    grad = fastdl.autograd.grad
    x = leaf([1.0, 2.0])
    y = x.exp()
    grad(y.sum(), x)
    (slope,) = grad((y * y).sum(), y, create_graph=create_graph)
    np.testing.assert_allclose(slope.tolist(), 2 * np.exp([1.0, 2.0]), rtol=1e-6)
    first, second = (leaf([1.0]) * 2).split(1)[0], leaf([2.0])
    assert grad(first * second, [first, second], create_graph=create_graph)[0].tolist() == [2.0]
    for wanted in ([x], [x, y]):
        with pytest.raises(RuntimeError, match="second time"):
            grad((y * y).sum(), wanted, create_graph=create_graph)


def test_what_grad_is_asked_for():
    x = leaf([1.0])
    with pytest.raises(RuntimeError, match="must not be empty"):
        fastdl.autograd.grad((x * x).sum(), [])
    with pytest.raises(ValueError, match="materialize_grads"):
        fastdl.autograd.grad((x * x).sum(), x, allow_unused=False, materialize_grads=True)
    with pytest.raises(TypeError, match=r"inputs\[1\] must be a Tensor, got str"):
        fastdl.autograd.grad((x * x).sum(), [x, "x"])

"""The C structs behind tensors and nodes (csrc/bindings/graph): odd use raises, leaks nothing, never crashes."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from contextlib import suppress

import numpy as np
import pytest

import fastdl
from fastdl import _graph
from fastdl.autograd import graph
from fastdl.autograd.mode import mode
from fastdl.autograd.op import Op
from fastdl.autograd.view import View

PROGRAM = """
import copy, pickle
import numpy as np
import fastdl
from fastdl import _graph
from fastdl.autograd.op import Op

DELETED = object()
JUNK = [DELETED, None, 5, -1, 2**70, "x", [], [1, 2], ["a"], [fastdl.ones(2)] * 8, (1,), {}, object(), np.ones(2)]
USES = [
    lambda t: t.view(-1), lambda t: t[0], lambda t: t[0:1, None], lambda t: t + t, lambda t: t.relu_(), repr,
    lambda t: (t * t).sum().backward(), lambda t: t.sum().backward(create_graph=True), lambda t: t[0].add_(1),
    lambda t: t.__setitem__(0, 1.0), lambda t: t.unbind(0), lambda t: t.split(1), copy.copy, copy.deepcopy,
    lambda t: pickle.loads(pickle.dumps(t)), lambda t: t.detach(), lambda t: t.expand(3, 2, 2), lambda t: t._version,
    lambda t: [t.view(-1) for _ in range(20)], lambda t: _graph.register_view(t, t), lambda t: _graph.share(t, (t, t)),
    _graph.plainly_writable, lambda t: t._node.record((t,), t._data), lambda t: t._node.keep_tensor(t),
    lambda t: copy.copy(t._node), lambda t: t._node.next_functions, lambda t: t._node.release(),
]
MAKERS = [
    lambda: fastdl.ones(2, 2),
    lambda: fastdl.ones(2, 2, requires_grad=True),
    lambda: fastdl.ones(2, 2, requires_grad=True) * 2,
    lambda: (fastdl.ones(4, requires_grad=True) * 2).view(2, 2),
    lambda: fastdl.Tensor.__new__(fastdl.Tensor),
]

def attempt(function, *args):
    try:
        function(*args)
    except SystemError:
        raise  # a call of Python's own interface gone wrong
    except Exception:
        pass

for make in MAKERS:
    for name in [*vars(_graph.TensorFields), *vars(_graph.NodeFields)]:
        for junk in JUNK:
            for use in USES:
                tensor = make()
                owner = tensor if name.startswith("_") else tensor._node
                if name.startswith("__") or owner is None:
                    continue
                if junk is DELETED:
                    attempt(delattr, owner, name)
                else:
                    attempt(setattr, owner, name, junk)
                attempt(use, tensor)
x = fastdl.ones(2)
bare = [type("Bare", (base,), {})() for base in (_graph.TensorFields, _graph.NodeFields)]
values = [*JUNK, x, (x,), Op, Op(), *bare, fastdl.Tensor.__new__(fastdl.Tensor)]
functions = [getattr(_graph, n) for n in ("wrap", "register_view", "share", "parts", "plainly_writable")]
functions += [Op.apply, Op.attach, Op().record, Op().keep_tensor, _graph.NodeFields.apply]
functions += [lambda a, *args: _graph.FunctionCall(a, "getitem", *args)(x, 0), lambda *args: _graph.FunctionCall(*args)]
functions += [lambda a, *args: _graph.FunctionCall(a).published(*args)(x, out=x)]
for function in functions:
    for a in values:
        attempt(function, a)
        for b in values:
            attempt(function, a, b)
            attempt(function, a, b, {})
print("done")
"""


def test_fields_hold_what_a_program_puts_there():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("done\n")


SECOND_INTERPRETER = """
import importlib.util, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
from fastdl import _graph
code = f'''
import importlib.util
spec = importlib.util.spec_from_file_location("_graph", {_graph.__file__!r})
try:
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
except ImportError as error:
    print("refused:", error, flush=True)
'''
interpreters.run_string(interpreters.create(), code)
import fastdl
print((fastdl.ones(2, requires_grad=True) * 2).sum().item())
"""


def test_a_second_interpreter_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", SECOND_INTERPRETER], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].startswith("refused:")
    assert done.stdout.endswith("4.0\n")


def test_an_index_that_changes_its_tensor():
    class Index:
        def __index__(self):
            x._data = np.zeros(0, np.float32)
            gc.collect()
            return 1

    for key in (lambda: slice(Index(), None), lambda: (slice(None, None, Index()), 0), lambda: (Index(), 2)):
        x = fastdl.ones(300, 200)
        with suppress(IndexError):  # the array that is there now
            assert x[key()].min() == 1


def test_steps_beyond_all_bounds():
    x = fastdl.arange(12.0).view(3, 4)
    for key in (slice(0, 3, 2**62), slice(1, 2, 2**63 - 1), (slice(None), slice(2, None, 2**62))):
        np.testing.assert_array_equal(x[key].numpy(), x.numpy()[key])
        np.testing.assert_array_equal(x[key].unsqueeze(-1).numpy(), x.numpy()[key][..., None])


def test_a_tensor_without_data_says_so():
    t = fastdl.Tensor.__new__(fastdl.Tensor)
    for use in (lambda: t + 1, lambda: t.view(1), lambda: t[0], lambda: t.shape, lambda: copy.copy(t)):
        with pytest.raises(AttributeError):
            use()
    with pytest.raises(AttributeError):
        View.attach(t, np.ones(1, np.float32), {})


CHANGES = {
    "_path": lambda: None,
    "_node": lambda: None,
    "_index": lambda: 0,
    "_counter": lambda: [5],
    "_base": lambda: None,
    "_views": lambda: None,
    "_data": lambda: np.zeros((2, 8), np.float32),
    "_requires_grad": lambda: False,
}


class Trap:
    """Garbage whose end runs ``function``."""

    def __init__(self, function):
        self.itself, self.function = self, function

    def __del__(self):
        self.function()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="collections wait for the end of a call")
@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize(
    "call",
    [
        lambda t: t[0],
        lambda t: t * t,
        lambda t: t.exp(),
        lambda t: t.unbind(0)[0],
        lambda t: [t.view(-1) for _ in range(20)][-1],
    ],
)
def test_a_collection_in_the_middle_of_a_call(call, field):
    def change():
        fired.append(t)
        setattr(t, field, CHANGES[field]())
        kept.append([[(i,) * 2, (i,) * 3, [i]] for i in range(50)])  # in place of what was let go

    kept: list[object] = []
    fired: list[fastdl.Tensor] = []
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # collections look at what is new only; for good, as in conftest.py
    try:
        for later in range(30):
            t = (fastdl.ones(4, 4, requires_grad=True) * 2).view(2, 8)
            gc.collect()  # empties the free lists
            gc.disable()
            Trap(change)
            gc.set_threshold(gc.get_count()[0] + later + 1, 10**6, 10**6)
            gc.enable()
            result = call(t)
            gc.set_threshold(*before)
            repr((result, result._path, result._base, result._counter, result._views))
            if result._node is not None:
                repr((result._node.edges, result._node.versions))
    finally:
        gc.set_threshold(*before)
    assert fired


def test_a_class_of_views_that_takes_the_tensor_apart():
    class Thief(View):
        def __init__(self):
            del x._data

    x = fastdl.ones(2, requires_grad=True)
    assert Thief.attach(x, np.ones(2, np.float32), {}).grad_fn.shape == (2,)


def test_the_types_of_the_fields_have_no_instances():
    for fields in (_graph.TensorFields, _graph.NodeFields):
        with pytest.raises(TypeError, match="derived classes"):
            fields()
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(fastdl.Tensor)  # as in PyTorch
    node = (fastdl.ones(1, requires_grad=True) * 2).grad_fn
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle 'Mul' object"):
            function(node)


def long_graphs():
    products = views = changed = fastdl.ones(1, requires_grad=True)
    chain = fastdl.ones(1)
    changed = changed * 1.0
    for _ in range(100_000):
        products, views = products * 1.0, views.view(1)
        after = fastdl.ones(1)
        after._grad, chain = chain, after
    for _ in range(10_000):
        changed[0:1].mul_(1.0)
    del products, views, changed, chain, after
    gc.collect()
    done.append(True)


done: list[bool] = []


def test_long_graphs_end_on_a_short_stack():
    # CPython 3.13 counts ten thousand nested ends, whatever the stack: 256 KB are too short for its own objects.
    before = threading.stack_size(256 * 1024 if sys.version_info < (3, 13) else 8 * 1024 * 1024)
    try:
        thread = threading.Thread(target=long_graphs)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done


def test_threads_make_tensors_of_their_own_and_of_shared_ones():
    shared = fastdl.ones(4, 4, requires_grad=True)
    base = fastdl.ones(4, 4)
    wrong = []

    def work(record):
        for _ in range(300):
            with fastdl.set_grad_enabled(record):
                y = (shared.view(16) * base[0, 0]).sum()
                base.t(), base[1:].unsqueeze(0)
                if y.requires_grad is not record or mode.enabled is not record:
                    wrong.append(y)
                if record:
                    fastdl.autograd.grad(y, shared)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert mode.enabled
    assert sum(view() is not None for view in base._views) == 0


class Slots(fastdl.Tensor):
    __slots__ = ("extra",)


class Odd(fastdl.Tensor):
    def __init__(self, data, *, scale):
        super().__init__(data)
        self.scale = scale


def test_classes_of_all_kinds():
    for t in (Slots([1.0, 2.0]), Odd([1.0, 2.0], scale=3)):
        for same in (copy.copy(t), copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
            assert type(same) is type(t)
            assert same.__dict__ == t.__dict__
            np.testing.assert_array_equal(same.numpy(), t.numpy())
        t.requires_grad_()
        (t.view(2) * t[0:2]).sum().backward()
        np.testing.assert_array_equal(t.grad.numpy(), [2.0, 4.0])

    class NoOp(View):
        def __new__(cls):
            return 5

        @staticmethod
        def of(x):
            return x

    with pytest.raises(TypeError, match="no Op"):
        NoOp.apply(fastdl.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match="lay-out"):
        type("Both", (fastdl.Tensor, dict), {})
    with pytest.raises(AttributeError):
        del mode.enabled


def test_cycles_are_found():
    class Noted(fastdl.Tensor):
        pass

    x = Noted([1.0])
    x.me = x.requires_grad_()
    y = x * 2
    y.me = y
    y.register_hook(lambda grad, t=y: None)
    v = y.view(1)
    v._data = np.ones(1, np.float32)
    y._node.owner = v
    gone = [weakref.ref(t) for t in (x, y, v, y._node)]
    del x, y, v
    gc.collect()
    assert [r() for r in gone] == [None] * 4


def test_a_released_node_keeps_nothing_but_its_hooks():
    class Holder:
        pass

    class Keep(Op):
        def forward(self, x):
            self.options = self.kept = held[0]
            return x * 2

        def backward(self, grad):
            return grad * 2

    held, hook = [Holder()], Holder()
    gone, hook_gone = weakref.ref(held[0]), weakref.ref(hook)
    x = fastdl.ones(2, requires_grad=True)
    y = Keep.apply(x)
    y.register_hook(lambda grad, holder=hook: grad * 3)
    held.clear()
    del hook
    y.sum().backward()
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    (grad,) = fastdl.autograd.grad(y.sum(), y)  # as PyTorch does
    assert grad.tolist() == [3, 3]
    del y
    gc.collect()
    assert hook_gone() is None


def test_what_is_beyond_a_released_node_is_not_needed_for_what_is_before_it():
    x, w, v = (fastdl.full((2, 2), float(i), requires_grad=True) for i in (1, 2, 3))
    h = x * w
    (h * h).sum().backward()
    loss = (h * v).sum()
    (grad,) = fastdl.autograd.grad(loss, v, retain_graph=True)
    assert grad.tolist() == [[2, 2]] * 2
    loss.backward(inputs=[v], retain_graph=True)
    assert v.grad.tolist() == [[2, 2]] * 2
    assert w.grad.tolist() == [[4, 4]] * 2
    assert fastdl.autograd.grad(
        loss, fastdl.ones(1, requires_grad=True), retain_graph=True, allow_unused=True
    ) == (None,)
    first = fastdl.autograd.grad(loss, [v, h], retain_graph=True, create_graph=True)
    assert [g.tolist() for g in first] == [[[2, 2]] * 2, [[3, 3]] * 2]
    for wanted in (w, [v, w]):
        with pytest.raises(RuntimeError, match="second time"):
            fastdl.autograd.grad(loss, wanted, retain_graph=True)
    both = (h * v + w).sum()  # one way leads past the freed node, the other through it
    with pytest.raises(RuntimeError, match="second time"):
        fastdl.autograd.grad(both, w)


def test_a_long_graph_is_freed_after_backward():
    x = fastdl.ones(1, requires_grad=True)
    y = x
    for _ in range(200_000):
        y = y * 1.0
    y.sum().backward()
    assert x.grad.tolist() == [1]
    del y
    gc.collect()


def raising(where):
    class Raises(Op):
        saves = (99,) if where == "saves" else ("a",) if where == "saved" else (0,)

        def __init__(self):
            if where == "init":
                raise ValueError

        def forward(self, x, *rest, **options):
            if where == "forward":
                raise ValueError
            return 5 if where == "output" else (x, 5) if where == "second output" else x * 1

        @property
        def saves_output(self):
            if where == "keep":
                raise ValueError
            return False

    return Raises


@pytest.mark.parametrize("where", ["init", "forward", "output", "second output", "saves", "saved", "keep"])
def test_errors_leak_nothing(where):
    op = raising(where)
    tensors = [fastdl.ones(2, requires_grad=True) for _ in range(20)]

    def calls():
        for _ in range(300):
            for inputs in (tensors[:1], tensors, [*tensors, 5]):
                with pytest.raises((ValueError, TypeError, AttributeError, IndexError)):
                    op.apply(*inputs, a=1, b=2)
        gc.collect()
        return sys.getallocatedblocks()

    before = calls()
    assert min(calls() - before for _ in range(3)) < 200


def test_whoever_asks_is_told_of_every_node():
    seen = []
    x = fastdl.ones(2, 2, requires_grad=True)
    _graph.set_recorded(seen.append)
    try:
        y = x * 2
        z = x.clone()
        z[0] = 1.0
        with fastdl.no_grad():
            x * 3
    finally:
        _graph.set_recorded(None)
    assert [type(node).__name__ for node in seen] == ["Mul", "Clone", "Put"]
    assert seen[0] is y.grad_fn
    x * 2
    assert len(seen) == 3


def test_hooks_on_what_is_kept_nest():
    def pack(name):
        return lambda t: log.append(name) or t

    x = fastdl.ones(2, requires_grad=True)
    log: list[str] = []
    with graph.saved_tensors_hooks(pack("outer"), lambda t: t):
        x.exp()
        with graph.saved_tensors_hooks(pack("inner"), lambda t: t):
            x.exp()
        y = x.exp()
        with pytest.raises(ZeroDivisionError), graph.saved_tensors_hooks(lambda t: 1 / 0, lambda t: t):
            x.exp()
    x.exp()
    assert log == ["outer", "inner", "outer"]
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp([1.0, 1.0]), rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [fastdl.flatten, fastdl.Tensor.view, fastdl.ops.views.permute, fastdl.cat, fastdl.nn.functional.glu],
)
def test_calls_in_front_of_functions_are_functions(function):
    assert isinstance(function, _graph.FunctionCall)
    module = fastdl.nn.Module()
    module.function = function
    for same in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same.function is function
    assert weakref.ref(function)() is function
    assert repr(function).startswith(f"<function {function.__qualname__} at ")
    with pytest.raises(AttributeError, match="__qualname__"):
        pickle.dumps(_graph.FunctionCall(len, "reshape", View))

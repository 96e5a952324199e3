"""``fx``: programs as graphs give what the programs give, in PyTorch's nodes."""

import copy
import importlib
import math
import operator
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest

import fastdl
from fastdl import nn

torch = pytest.importorskip("torch")


def programs(library):
    """Modules and functions, with inputs."""
    F = library.nn.functional

    class Net(library.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = library.nn.Conv2d(3, 4, 3, padding=1)
            self.norm = library.nn.BatchNorm2d(4)
            self.head = library.nn.Sequential(library.nn.Linear(4, 4), library.nn.ReLU())
            self.token = library.nn.Parameter(library.ones(1, 1, 4))
            self.act = F.gelu
            self.register_buffer("shift", library.ones(4))
            self.layers = library.nn.ModuleList([library.nn.Linear(4, 4)])

        def forward(self, x):
            x = F.relu(self.norm(self.conv(x)))
            n, _, height, width = x.shape
            x = x.reshape(n, -1, height * width).transpose(1, 2)
            x = library.cat([self.token.expand(n, -1, -1), x], dim=1)
            x = self.act(x) + self.shift
            for layer in self.layers:
                x = layer(x)
            x = 1 - library.add(x, 1) * 2
            x = x[:, 0] / math.sqrt(4.0)
            y = library.exp(-x).sum(-1, keepdim=True)
            return self.head(x), {"y": y, "n": n}

    def function(x, scale=2.0, *, power=2):
        return library.stack([x * scale, -(x**power)], 0).max(dim=-1).values

    return [Net().eval(), function]


INPUTS = [(2, 3, 5, 5), (3, 4)]


@pytest.mark.parametrize("which", [0, 1])
def test_graphs_are_torch_s(which):
    ours, theirs = programs(fastdl)[which], programs(torch)[which]
    x = np.random.RandomState(0).randn(*INPUTS[which]).astype("float32")
    traced, expected = fastdl.fx.symbolic_trace(ours), torch.fx.symbolic_trace(theirs)

    def shown(graph):
        return [(n.op, n.name, str(getattr(n.target, "__name__", n.target))) for n in graph.nodes]

    assert shown(traced.graph) == shown(expected.graph)
    inputs = fastdl.tensor(x)
    flat = fastdl.utils._pytree.tree_leaves
    for a, b, c in zip(
        flat(traced(inputs)), flat(ours(inputs)), flat(fastdl.fx.Interpreter(traced).run(inputs)), strict=True
    ):
        assert fastdl.equal(fastdl.as_tensor(a), fastdl.as_tensor(b))
        assert fastdl.equal(fastdl.as_tensor(a), fastdl.as_tensor(c))


def test_a_traced_module_has_the_state_and_the_gradients():
    module = programs(fastdl)[0]
    traced = fastdl.fx.symbolic_trace(module)
    assert list(traced.state_dict()) != []
    assert sorted(traced.state_dict()) == sorted(module.state_dict())
    traced(fastdl.randn(2, 3, 5, 5))[0].sum().backward()
    assert module.token.grad is not None
    other = copy.deepcopy(traced)
    other.conv.weight.data.zero_()
    assert module.conv.weight.abs().sum().item() > 0
    x = fastdl.randn(1, 3, 4, 4)
    assert fastdl.equal(copy.deepcopy(traced)(x)[0], module(x)[0])
    assert not traced.training


def test_functions_are_themselves_after_a_trace():
    before = {name: getattr(fastdl, name) for name in fastdl.__all__}
    methods = dict(vars(fastdl.Tensor))
    with pytest.raises(fastdl.fx.TraceError, match="control flow"):
        fastdl.fx.symbolic_trace(lambda x: 1 if fastdl.exp(x).sum() > 0 else 2)
    assert all(getattr(fastdl, name) is value for name, value in before.items())
    assert all(vars(fastdl.Tensor)[name] is value for name, value in methods.items())
    assert not fastdl.fx.is_fx_tracing()
    assert math.sqrt(4) == 2
    assert nn.Sequential(nn.Linear(2, 2), nn.ReLU())(fastdl.ones(1, 2)).shape == (1, 2)


def test_what_cannot_be_traced_says_so():
    def loops(x):
        return list(x)

    with pytest.raises(fastdl.fx.TraceError, match="cannot be iterated"):
        fastdl.fx.symbolic_trace(loops)
    with pytest.raises(RuntimeError, match="'len' is not supported"):
        fastdl.fx.symbolic_trace(lambda x: len(x))
    with pytest.raises(NotImplementedError, match="top level"):
        fastdl.fx.wrap("len")


def test_inputs_that_are_known():
    def program(x, double=True, *rest, **more):
        return x * 2 if double else x

    traced = fastdl.fx.symbolic_trace(program, concrete_args={"double": False})
    names = ["x", "double", "eq", "_assert", "_rest", "_more", "output"]
    assert [n.name for n in traced.graph.nodes] == names
    assert traced(fastdl.ones(1), False).item() == 1
    with pytest.raises(AssertionError, match="specialized"):
        traced(fastdl.ones(1))  # where double is True
    nothing = fastdl.fx.symbolic_trace(lambda x, mask=None: x if mask is None else x * mask, {"mask": None})
    assert nothing.graph.eliminate_dead_code() is False
    assert nothing(fastdl.ones(1)).item() == nothing(fastdl.ones(1), None).item() == 1
    with pytest.raises(AssertionError, match="value None"):
        nothing(fastdl.ones(1), fastdl.ones(1))


def test_leaves_and_wrapped_functions(tmp_path, monkeypatch):
    (tmp_path / "leaf_program.py").write_text(
        "import fastdl\n\n"
        "@fastdl.fx.wrap\ndef unknown(x):\n    return x + 1 if x.sum() > 0 else x\n\n"
        "fastdl.fx.wrap('len')\n\n"
        "def program(x):\n    return unknown(x) * len(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("leaf_program")
    traced = fastdl.fx.symbolic_trace(module.program)
    assert [n.name for n in traced.graph.nodes] == ["x", "unknown", "len_1", "mul", "output"]
    assert traced(fastdl.ones(3)).tolist() == [6.0] * 3
    assert module.unknown(fastdl.ones(1)).item() == 2

    class Leaves(fastdl.fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return module_qualified_name == "0.1"

    graph = Leaves().trace(nn.Sequential(nn.Sequential(nn.Sequential(), nn.Sequential(nn.ReLU()))))
    assert [n.target for n in graph.nodes] == ["input", "0.1", "output"]


def test_graphs_can_be_changed():
    traced = fastdl.fx.symbolic_trace(lambda x: fastdl.exp(x) * 2)
    graph = traced.graph
    (node,) = graph.find_nodes(op="call_function", target=fastdl.exp)
    assert list(node.users) == [node.next]
    assert (node.prev.op, node.all_input_nodes) == ("placeholder", [node.prev])
    with graph.inserting_after(node):
        new = graph.call_method("neg", (node,))
    node.replace_all_uses_with(new, lambda user: user is not new)
    with graph.inserting_before(graph.output_node()):
        unused = graph.call_function(operator.add, (new, 1))
    graph.lint()
    with pytest.raises(RuntimeError, match="users"):
        graph.erase_node(node)
    assert graph.eliminate_dead_code()
    assert unused not in graph.nodes
    traced.recompile()
    assert traced(fastdl.zeros(1)).item() == -2
    new.update_arg(0, node.prev)
    assert not node.users
    graph.erase_node(node)
    traced.recompile()
    assert traced(fastdl.ones(1)).item() == -2
    assert "neg = x.neg()" in traced.code
    assert "%mul" in str(graph)
    graph.nodes[-1].args = (graph.nodes[0],)
    new.replace_input_with(graph.nodes[0], graph.nodes[-2])
    with pytest.raises(RuntimeError, match="before it has been defined"):
        graph.lint()


def test_graphs_made_by_hand():
    graph = fastdl.fx.Graph()
    x = graph.placeholder("x")
    weight = graph.get_attr("weight")
    made = graph.call_module("layer", (x,))
    part = graph.call_function(operator.getitem, (made, (slice(0, 1), ...)))
    graph.output({"part": part, "sum": graph.call_function(fastdl.add, (made, weight), {"alpha": math.inf})})
    traced = fastdl.fx.GraphModule({"weight": nn.Parameter(fastdl.ones(2)), "layer": nn.ReLU()}, graph)
    result = traced(fastdl.tensor([[-1.0, 2.0], [3.0, -4.0]]))
    assert result["part"].tolist() == [[0.0, 2.0]]
    assert result["sum"].isinf().all()
    traced.add_submodule("block.0", nn.Tanh())
    assert [name for name, _ in traced.named_modules()] == ["", "layer", "block", "block.0"]
    traced.delete_all_unused_submodules()
    assert [name for name, _ in traced.named_modules()] == ["", "layer"]
    copied = fastdl.fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    assert [n.name for n in copied.nodes] == [n.name for n in graph.nodes]
    with pytest.raises(ValueError, match="must be a function"):
        graph.call_function("abs", (x,))
    with pytest.raises(ValueError, match="op must be one of"):
        graph.create_node("call", "abs")


class Residual(nn.Module):
    """At the top of a module, where pickle finds it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.act = fastdl.nn.functional.gelu
        self.scale = fastdl.full((3,), 2.0)
        self.register_buffer("shift", fastdl.ones(3), persistent=False)

    def forward(self, x, scale=None, *rest, power=2):
        x = self.act(fastdl.relu(self.layer(x)) + x) * self.scale + self.shift
        return x[..., 1:] ** power if scale is None else -x.shape[0] * x


def test_code_and_graph_read_like_torch_s():
    def written(library):
        class Net(library.nn.Module):
            def __init__(self):
                super().__init__()
                self.Conv2d_1a = library.nn.Linear(3, 3)
                self.scale = library.ones(3)

            def forward(self, x, input=1, *rest, power=2.0, **more):
                y = library.exp(self.Conv2d_1a(x)) + self.scale
                y = y + input
                y = (-y[..., 1:]) ** power - 2 // library.relu(x).T
                y, _ = library.max(y, dim=-1)
                return {
                    "y": self.Conv2d_1a(y.clamp(-math.inf, 1.5)),
                    "shape": (y.shape, x.to(library.float64)),
                }

        traced = library.fx.symbolic_trace(Net())
        return traced.code, str(traced.graph), sorted(traced.state_dict())

    for ours, theirs in zip(written(fastdl), written(torch), strict=True):
        assert str(ours).replace("fastdl", "torch") == str(theirs)


def test_inputs_are_passed_by_their_names():
    traced = fastdl.fx.symbolic_trace(nn.Sequential(nn.ReLU()))  # whose input has a name of Python's
    assert traced(input=fastdl.ones(1)).item() == 1
    graph = fastdl.fx.Graph()
    inputs = [graph.placeholder("x"), graph.placeholder("x")]
    graph.output(graph.call_function(operator.sub, tuple(inputs)))
    assert fastdl.fx.GraphModule(nn.Module(), graph)(3, 1) == 2


def test_where_new_nodes_go():
    graph = fastdl.fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(fastdl.exp, (x,))
    graph.inserting_before(y)  # without a block: from now on
    graph.call_function(fastdl.sin, (x,))
    with graph.inserting_after(y):
        graph.call_function(fastdl.cos, (y,))
    graph.call_function(fastdl.tan, (x,))
    assert [n.name for n in graph.nodes] == ["x", "sin", "tan", "exp", "cos"]


def test_code_means_what_the_graph_says():
    graph = fastdl.fx.Graph()
    x = graph.placeholder("x")
    power = graph.call_function(operator.pow, (-2, x))
    graph.output(
        (power, graph.call_function(operator.pow, (-2.0, 2)), graph.call_function(getattr, (x, "T")))
    )
    assert fastdl.fx.GraphModule(nn.Module(), graph)(fastdl.tensor(2))[:2] == (4, 4)


def test_a_graph_module_travels():
    traced = fastdl.fx.symbolic_trace(Residual().eval(), {"scale": None})
    x = fastdl.randn(2, 3)
    for other in (pickle.loads(pickle.dumps(traced)), copy.deepcopy(traced), copy.copy(traced)):
        assert type(other).__name__ == "Residual"
        assert not other.training
        assert other.code == traced.code
        assert fastdl.equal(other(x), traced(x))
        with other.graph.inserting_before(other.graph.output_node()):
            other.graph.call_function(operator.neg, (other.graph.nodes[0],))
        other.recompile()
        assert other.code != traced.code
    assert sorted(traced.state_dict()) == ["layer.bias", "layer.weight", "scale"]
    deep = fastdl.fx.symbolic_trace(nn.Sequential(*[nn.ReLU() for _ in range(2000)]))
    assert len(pickle.loads(pickle.dumps(deep.graph)).nodes) == 2002  # no recursion from node to node


def test_a_graph_module_is_traced_again(tmp_path, monkeypatch):
    (tmp_path / "leaf_again.py").write_text(
        "import fastdl\n\n@fastdl.fx.wrap\ndef leaf(x):\n    return x\n\n"
        "def program(x):\n    return leaf(fastdl.exp(x))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    program = importlib.import_module("leaf_again").program
    for root in (program, Residual()):
        once = fastdl.fx.symbolic_trace(root, None if root is program else {"scale": None})
        again = fastdl.fx.symbolic_trace(once)
        assert sorted(str(n) for n in again.graph.nodes) == sorted(str(n) for n in once.graph.nodes)


def test_values_are_freed_when_nothing_needs_them():
    alive = []

    def watch(x):
        alive.append(sum(ref() is not None for ref in refs))
        refs.append(weakref.ref(x))
        return x + 1

    for run in (lambda module, x: module(x), lambda module, x: fastdl.fx.Interpreter(module).run(x)):
        graph = fastdl.fx.Graph()
        node = graph.placeholder("x")
        for _ in range(4):
            node = graph.call_function(watch, (node,))
        graph.output(node)
        module = fastdl.fx.GraphModule(nn.Module(), graph)
        refs = []
        run(module, fastdl.ones(1))
        assert max(alive) <= 1


def test_other_threads_compute_while_one_traces():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    inside, done = threading.Event(), threading.Event()
    results = []

    def other():
        inside.wait(10)
        results.append((type(model(fastdl.ones(1, 2))), fastdl.fx.is_fx_tracing()))
        done.set()

    def program(x):
        inside.set()
        assert done.wait(10)
        assert fastdl.fx.is_fx_tracing()
        return model[0](x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return program(x)

    thread = threading.Thread(target=other)
    thread.start()
    graph = fastdl.fx.symbolic_trace(Net()).graph
    thread.join()
    assert results == [(fastdl.Tensor, False)]
    assert [n.op for n in graph.nodes] == ["placeholder", "call_module", "output"]


def test_threads_trace_one_after_the_other():
    before = fastdl.exp, fastdl.Tensor.exp, nn.Module.__call__
    wrong = []

    def trace():
        for _ in range(5):
            graph = fastdl.fx.symbolic_trace(lambda x: fastdl.exp(x).sum()).graph
            if [n.target for n in graph.nodes] != ["x", before[0], "sum", "output"]:
                wrong.append(graph)

    threads = [threading.Thread(target=trace) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (fastdl.exp, fastdl.Tensor.exp, nn.Module.__call__) == before


def test_a_trace_within_a_trace(tmp_path, monkeypatch):
    (tmp_path / "imported_while_tracing.py").write_text("from fastdl import exp\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leaf_late.py").write_text("late = None\n")
    importlib.import_module("leaf_late")
    exp = fastdl.exp
    inner = []

    def program(x):
        importlib.import_module("imported_while_tracing")
        importlib.import_module("leaf_late").late = fastdl.exp
        inner.append(fastdl.fx.symbolic_trace(lambda y: fastdl.exp(y)).graph)
        return fastdl.exp(x)

    graph = fastdl.fx.symbolic_trace(program).graph
    assert [n.target for n in graph.nodes] == ["x", exp, "output"]
    assert [n.target for n in inner[0].nodes] == ["y", exp, "output"]
    assert sys.modules["imported_while_tracing"].exp is exp
    assert sys.modules["leaf_late"].late is exp
    assert fastdl.exp is exp


def test_nodes_are_moved_and_modules_taken_out():
    traced = fastdl.fx.symbolic_trace(lambda x: fastdl.exp(x) + fastdl.sin(x))
    nodes = traced.graph.nodes
    nodes[1].prepend(nodes[2])
    assert [n.name for n in traced.graph.nodes] == ["x", "sin", "exp", "add", "output"]
    nodes[1].append(nodes[2])
    assert [n.name for n in traced.graph.nodes] == ["x", "exp", "sin", "add", "output"]
    traced = fastdl.fx.symbolic_trace(Residual(), {"scale": None})
    assert traced.add_submodule("layer.inner", nn.ReLU())
    assert not traced.add_submodule("scale.inner", nn.ReLU())
    assert traced.delete_submodule("layer.inner")
    assert not traced.delete_submodule("layer.inner")
    assert not traced.delete_submodule("nothing.inner")
    with pytest.raises(RuntimeError, match="positional argument for parameter x"):
        fastdl.fx.Interpreter(traced).run()
    with pytest.raises(AttributeError, match="x is not known while tracing"):
        fastdl.fx.symbolic_trace(lambda x: nn.Linear.forward(nn.Linear(2, 2), x))
    with pytest.raises(RuntimeError, match="Unsupported type"):
        fastdl.fx.wrap(3)
